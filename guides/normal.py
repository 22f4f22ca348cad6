"""Normal guide of continuous sites: mean field on the real line, to which each support is mapped."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax import Array
from numpyro.distributions import biject_to, constraints
from numpyro.handlers import block, seed, substitute, trace
from numpyro.primitives import Messenger

from pl2d_ppl.distributions.empirical import Empirical
from pl2d_ppl.engine.items import Items, items, items_here
from pl2d_ppl.engine.program_key import ProgramKey

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

    Notes
    -----
    A site of single items, in a subsampled plate, has parameters for all of them, which follow the indices of the
    plate: in :func:`~pl2d_ppl.inference.fit.fit` these are the rows of the data. Sites of new items, which were not
    learned, are drawn from their priors.
    """
    return _Normal(model, init_scale)


class _Normal:
    """The guide; it pickles, and equals another one of an equal model."""

    def __init__(self, model: Callable, init_scale: float):
        self.model, self.init_scale = model, init_scale
        self._key = ProgramKey(partial(_Normal, model, init_scale))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Normal) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        """Run the guide."""
        which = items_here()
        with block(), trace() as tr, items(which=which):
            _AtMeans(seed(self.model, jax.random.key(0)))(*args, **kwargs)
        plates = {name: _indexed(site, which) for name, site in tr.items() if site["type"] == "plate"}
        drawn: dict[str, Array] = {}
        for name, site in tr.items():
            if not _is_latent(site):
                continue
            of_items = which is not None and any(f.name == which.plate for f in site["cond_indep_stack"])
            if isinstance(site["fn"], Empirical):  # a given posterior stays unchanged
                drawn[name] = numpyro.sample(name, site["fn"])
            elif of_items and which is not None and which.rows is None:
                drawn[name] = self._of_new_items(name, drawn, args, kwargs)
            else:
                drawn[name] = self._sample(site, plates, which)

    def _sample(self, site: dict, plates: Mapping[str, dict], which: Items | None) -> Array:
        """Draw a site from its normal, whose parameters have the shape of the site for the whole data set."""
        name, transform = site["name"], biject_to(site["fn"].support)
        whole = {f.dim: _whole(plates[f.name], which) for f in site["cond_indep_stack"]}
        start = _over_whole(jnp.nan_to_num(transform.inv(site["value"]), posinf=0.0, neginf=0.0), transform, whole)
        loc = numpyro.param(f"{name}_loc", start)
        positive = constraints.softplus_positive
        scale = numpyro.param(f"{name}_scale", jnp.full_like(start, self.init_scale), constraint=positive)
        indices = {f.dim: plates[f.name]["value"] for f in site["cond_indep_stack"]}
        own = [_of_part(array, transform, indices) for array in (loc, scale)]
        factor = dist.Normal(*own).to_event(transform.domain.event_dim)
        with ExitStack() as stack:
            for frame in site["cond_indep_stack"]:
                with substitute(data={frame.name: plates[frame.name]["value"]}):
                    plate = numpyro.plate(frame.name, whole[frame.dim], subsample_size=frame.size, dim=frame.dim)
                stack.enter_context(plate)
            return numpyro.sample(name, dist.TransformedDistribution(factor, transform))

    def _of_new_items(self, name: str, drawn: Mapping[str, Array], args: tuple, kwargs: dict) -> Array:
        """Draw a site of items that were not learned from its prior, given the sites before it."""
        with block(), trace() as tr, items(which=items_here()):
            _AtMeans(substitute(seed(self.model, jax.random.key(0)), data=dict(drawn)))(*args, **kwargs)
        with ExitStack() as stack:
            for frame in tr[name]["cond_indep_stack"]:
                stack.enter_context(numpyro.plate(frame.name, frame.size, dim=frame.dim))
            return numpyro.sample(name, tr[name]["fn"])


def _indexed(plate: dict, which: Items | None) -> dict:
    """Draw the indices of a plate anew that draws its own: those of the trace are always the same."""
    size, part = plate["args"]
    if part in (None, size) or (which is not None and which.plate == plate["name"] and which.rows is not None):
        return plate
    with numpyro.plate(plate["name"], size, subsample_size=part) as indices:
        return {**plate, "value": indices}


def _whole(plate: dict, which: Items | None) -> int:
    """Size of a plate of the whole data set."""
    size = plate["args"][0]
    return which.size if which is not None and which.is_part(plate["name"], size) else size


def _over_whole(start: Array, transform: Any, whole: Mapping[int, int]) -> Array:
    """Repeat a start over all elements of the plates of the whole data set."""
    event = transform.domain.event_dim
    shape = list(start.shape)
    for dim, size in whole.items():
        if shape[dim - event] != size:
            start, shape[dim - event] = jnp.take(start, jnp.zeros(1, int), dim - event), size
            start = jnp.broadcast_to(start, shape)
    return start


def _of_part(array: Array, transform: Any, indices: Mapping[int, Array]) -> Array:
    """Take the elements of the plates that the program sees."""
    for dim, index in indices.items():
        axis = dim - transform.domain.event_dim
        if array.shape[axis] != 1:
            array = jnp.take(array, index, axis)
    return array


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
