"""Log evidence of a discrete program, and exact posterior marginals as its gradients."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from numpyro.handlers import seed, substitute

from pl2d_ppl.engine.alike import check_alike
from pl2d_ppl.engine.elimination import eliminate, expectation, total
from pl2d_ppl.engine.factors import Factor, LatentSite
from pl2d_ppl.engine.named import Named, aligned
from pl2d_ppl.engine.program import Program, read_program

__all__ = ["log_evidence", "marginals"]


def log_evidence(model: Callable, *, params: Mapping | None = None) -> Callable:
    """Make the log evidence of a program: every discrete latent site is summed out.

    Parameters
    ----------
    model : callable
        A NumPyro program; a :class:`~pl2d_ppl.engine.tilt.tilt` may be around it. Its latent sites must be
        discrete.
    params : mapping, optional
        Values of parameters, mutable state, and of latent sites that are conditioned on.

    Returns
    -------
    callable
        Takes the model's arguments, returns a scalar that is differentiable in ``params``. It is minus infinity if the
        data are impossible under the program. Under weights (:func:`numpyro.handlers.scale`, subsampled plates) it is
        the largest ELBO, in which the weight of a latent site also weighs its entropy.
    """

    def evidence(*args: Any, **kwargs: Any) -> Array:
        return program_evidence(_standalone(model, params, args, kwargs))

    return evidence


def marginals(model: Callable, sites: Sequence[str] | None = None, *, params: Mapping | None = None) -> Callable:
    """Exact posterior marginals of discrete sites: the gradient of the log evidence with respect to a tilt.

    Parameters
    ----------
    model : callable
        A NumPyro program whose latent sites are discrete.
    sites : sequence of str, optional
        Names of the sites; by default all.
    params : mapping, optional
        Values of parameters, mutable state, and of latent sites that are conditioned on.

    Returns
    -------
    callable
        Takes the model's arguments, returns a dict from site to an array of shape (batch shape, number of
        values) that sums to one over its last axis. Values are in the order of the site's support. Where the data have
        probability zero under the program, it is NaN.

    Raises
    ------
    ValueError
        If a site is not a discrete latent site of the program.
    """

    def posterior(*args: Any, **kwargs: Any) -> dict[str, Array]:
        return program_marginals(_standalone(model, params, args, kwargs), sites)

    return posterior


def _standalone(model: Callable, params: Mapping | None, args: tuple, kwargs: dict) -> Program:
    check_alike(model, args, kwargs, params)
    # The key is not used for inference: it only builds networks, whose weights `params` then replaces.
    seeded = seed(substitute(model, data=dict(params or {})), jax.random.key(0))
    return read_program(seeded, args, kwargs, params, detach=False)


def program_evidence(program: Program) -> Array:
    """Log evidence of a program."""
    return total(eliminate(program.factors, require_discrete(program.latents)).factors)


def program_marginals(program: Program, sites: Sequence[str] | None = None) -> dict[str, Array]:
    """Exact marginals of a program's discrete sites, shape (batch shape, values)."""
    latents = require_discrete(program.latents)
    sites = list(latents) if sites is None else list(sites)
    require_sites(sites, latents)

    def evidence(weights: dict[str, Array]) -> tuple[Array, list[Factor]]:
        tilts = [_tilt(latents[name], weight) for name, weight in weights.items()]
        left = eliminate([*program.factors, *tilts], latents).factors
        return total(left), left

    zeros = {name: jnp.zeros((*latents[name].shape, latents[name].size)) for name in sites}
    gradient, left = jax.grad(evidence, has_aux=True)(zeros)
    return {
        name: _possible(left, latents[name]) * gradient[name] / jnp.expand_dims(latents[name].weight, -1)
        for name in sites
    }


def _possible(left: Sequence[Factor], site: LatentSite) -> Array:
    """One where the data are possible, NaN elsewhere; shape (batch shape, 1)."""
    possible = jnp.ones([1] * len(site.plates))
    for factor in left:
        kept = [p for p in site.plates if p in factor.plates]
        value = Named(tuple(kept), expectation(factor, {}, kept))
        possible = possible * jnp.where(aligned(value, tuple(site.plates)) == -jnp.inf, jnp.nan, 1.0)
    sizes = dict(zip(site.positions.values(), possible.shape, strict=True))
    return possible.reshape([sizes.get(d, 1) for d in range(-len(site.shape), 0)] + [1])


def _tilt(site: LatentSite, weight: Array) -> Factor:
    """Factor that adds a weight to every value of a site."""
    dims = tuple(d for d, size in zip(site.dims, (*site.plates.values(), site.size), strict=True) if size > 1)
    sizes = site.plates | {site.name: site.size}
    return Factor(
        f"{site.name}_tilt",
        Named(dims, weight.reshape([sizes[d] for d in dims])),
        None,
        site.scale,
        site.plates,
    )


def require_discrete(latents: Mapping[str, LatentSite]) -> Mapping[str, LatentSite]:
    """Refuse Dirichlet sites, over which there is no exact sum."""
    continuous = [name for name, site in latents.items() if site.kind != "discrete"]
    if continuous:
        raise ValueError(
            f"Expected discrete latent sites for an exact sum, found Dirichlet sites {continuous}. "
            "Use the mean-field guide, or condition on values of them."
        )
    return latents


def require_sites(sites: Sequence[str], latents: Mapping[str, LatentSite]) -> None:
    """Refuse names that are not latent sites of the program."""
    unknown = [name for name in sites if name not in latents]
    if unknown:
        raise ValueError(
            f"Expected names of latent sites of the program, {sorted(latents)}, found {unknown}. Mind the spelling."
        )
