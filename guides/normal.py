"""Normal guide of continuous sites: mean field on the real line, to which each support is mapped."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax import Array
from numpyro.distributions import biject_to, constraints
from numpyro.handlers import block, seed, trace
from numpyro.primitives import Messenger

from pl2d_ppl.distributions.empirical import Empirical

__all__ = ["normal"]


def normal(model: Callable, *, init_scale: float = 0.05) -> Callable:
    """Build the guide q = prod_s q_s, where each continuous latent site is a normal mapped to its support.

    It is the ``continuous`` part of :func:`~pl2d_ppl.guides.exact.exact` and
    :func:`~pl2d_ppl.guides.mean_field.mean_field`. Unlike NumPyro's ``AutoNormal``, it keeps nothing from its first
    call: shapes follow the current arguments, and it starts at the means of the priors, so that earlier fits in a
    process do not change a fit. For a site that is :class:`~pl2d_ppl.distributions.empirical.Empirical`, the guide
    draws from the given draws, unchanged.

    Parameters
    ----------
    model : callable
        The program. Supports of its continuous latent sites must not depend on other sites.
    init_scale : float
        Initial standard deviation of every normal.

    Returns
    -------
    callable
        A guide that takes the model's arguments, with parameters ``{site}_loc`` and ``{site}_scale``, of the shape
        of the site on the real line.

    Raises
    ------
    ValueError
        When called, if a site lies in a subsampled plate: its parameters would belong to other items at every step.
    """

    def guide(*args: Any, **kwargs: Any) -> None:
        with block(), trace() as tr:
            _AtMeans(seed(model, jax.random.key(0)))(*args, **kwargs)
        sizes = {name: site["args"] for name, site in tr.items() if site["type"] == "plate"}
        for name, site in tr.items():
            if not _is_latent(site):
                continue
            if isinstance(site["fn"], Empirical):  # a given posterior stays unchanged
                numpyro.sample(name, site["fn"])
                continue
            transform = biject_to(site["fn"].support)
            start = jnp.nan_to_num(transform.inv(site["value"]), posinf=0.0, neginf=0.0)
            loc = numpyro.param(f"{name}_loc", start)
            positive = constraints.softplus_positive
            scale = numpyro.param(f"{name}_scale", jnp.full_like(start, init_scale), constraint=positive)
            factor = dist.Normal(loc, scale).to_event(transform.domain.event_dim)
            with ExitStack() as stack:
                for frame in site["cond_indep_stack"]:
                    size, subsample_size = sizes[frame.name]
                    _check_whole(name, frame.name, size, subsample_size)
                    stack.enter_context(numpyro.plate(frame.name, size, dim=frame.dim))
                numpyro.sample(name, dist.TransformedDistribution(factor, transform))

    return guide


class _AtMeans(Messenger):
    """Set continuous latent sites to the means of their priors, or to the origin of their support."""

    def process_message(self, msg: dict) -> None:
        if _is_latent(msg) and msg["value"] is None:
            msg["value"] = _mean(msg["fn"])


def _is_latent(site: dict) -> bool:
    """Whether a site is latent and continuous."""
    return site["type"] == "sample" and not site["is_observed"] and not site["fn"].support.is_discrete


def _mean(fn: dist.Distribution) -> Array:
    transform = biject_to(fn.support)
    origin = transform(jnp.zeros(transform.inverse_shape(fn.shape())))
    try:
        mean = jnp.broadcast_to(fn.mean, fn.shape())
    except NotImplementedError:
        return origin
    return jnp.where(jnp.isfinite(mean), mean, origin)


def _check_whole(name: str, plate: str, size: int, subsample_size: int | None) -> None:
    if subsample_size not in (None, size):
        raise ValueError(
            f"Expected continuous latent sites that all items share, found {name!r} in plate {plate!r}, of which "
            f"{subsample_size} of {size} are drawn a step. Give such a site a guide of its own, from a network."
        )
