"""Log evidence of a discrete program, and exact posterior marginals as its gradients."""

from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
from jax import Array

from pl2d_ppl.engine.elimination import eliminate, total
from pl2d_ppl.engine.factors import LatentSite
from pl2d_ppl.engine.program import FrozenProgram, freeze, trace_factors
from pl2d_ppl.engine.tilt import tilt

__all__ = ["conditional", "log_evidence", "marginals"]


def log_evidence(model: Callable, *, params: Mapping | None = None, max_plate_nesting: int = 2) -> Callable:
    """Make the log evidence of a program: every discrete latent site is summed out.

    Parameters
    ----------
    model : callable
        A NumPyro program; a :class:`~pl2d_ppl.engine.tilt.tilt` may be around it. Its latent sites must be
        discrete.
    params : mapping, optional
        Values of parameters, mutable state, and of latent sites that are conditioned on.
    max_plate_nesting : int
        Number of batch dimensions that plates may use.

    Returns
    -------
    callable
        Takes the model's arguments, returns a scalar that is differentiable in ``params``.
    """

    def evidence(*args, **kwargs) -> Array:
        return program_evidence(_standalone(model, params, args, kwargs, max_plate_nesting))

    return evidence


def marginals(
    model: Callable,
    sites: Sequence[str] | None = None,
    *,
    params: Mapping | None = None,
    max_plate_nesting: int = 2,
) -> Callable:
    """Exact posterior marginals of discrete sites: the gradient of the log evidence with respect to a tilt.

    Parameters
    ----------
    model : callable
        A NumPyro program whose latent sites are discrete.
    sites : sequence of str, optional
        Names of the sites; by default all.
    params : mapping, optional
        Values of parameters, mutable state, and of latent sites that are conditioned on.
    max_plate_nesting : int
        Number of batch dimensions that plates may use.

    Returns
    -------
    callable
        Takes the model's arguments, returns a dict from site to an array of shape (batch shape, number of
        values) that sums to one over its last axis.

    Raises
    ------
    ValueError
        If a site is not a discrete latent site of the program.
    """

    def posterior(*args, **kwargs) -> dict[str, Array]:
        program = _standalone(model, params, args, kwargs, max_plate_nesting)
        return program_marginals(program, sites)

    return posterior


def _standalone(
    model: Callable, params: Mapping | None, args: tuple, kwargs: dict, max_plate_nesting: int
) -> FrozenProgram:
    from numpyro.handlers import seed, substitute

    # The key is not used for inference: it only builds networks, whose weights `params` then replaces.
    seeded = seed(substitute(model, data=dict(params or {})), jax.random.key(0))
    return freeze(seeded, args, kwargs, params, max_plate_nesting, detach=False)


def program_evidence(
    program: FrozenProgram, values: Mapping[str, Array] | None = None, wrap: Callable | None = None
) -> Array:
    """Log evidence of a frozen program, given values of some of its latent sites."""
    graph = trace_factors(program, values, wrap=wrap)
    return total(eliminate(graph.factors, require_discrete(graph.latents)))


def program_marginals(
    program: FrozenProgram, sites: Sequence[str] | None = None, values: Mapping[str, Array] | None = None
) -> dict[str, Array]:
    """Exact marginals of a frozen program, given values of some of its latent sites."""
    latents = require_discrete(trace_factors(program, values).latents)
    sites = list(latents) if sites is None else list(sites)
    require_sites(sites, latents)

    def evidence(weights: dict[str, Array]) -> Array:
        def wrap(model: Callable) -> Callable:
            for name, weight in weights.items():
                model = tilt(model, name, weight)
            return model

        return program_evidence(program, values, wrap)

    zeros = {name: jnp.zeros((*latents[name].shape, latents[name].size)) for name in sites}
    gradient = jax.grad(evidence)(zeros)
    return {name: _uniform_where_masked(gradient[name] / latents[name].scale) for name in sites}


def _uniform_where_masked(marginal: Array) -> Array:
    """Make marginals uniform for masked elements, whose tilt is masked too."""
    said = marginal.sum(-1, keepdims=True) > 0.5  # one, or zero where masked
    return jnp.where(said, marginal, 1.0 / marginal.shape[-1])


def conditional(program: FrozenProgram, site: str, parents: Mapping[str, LatentSite]) -> Array:
    """Exact posterior of a site given every combination of values of its parents.

    Parameters
    ----------
    program : FrozenProgram
        The program.
    site : str
        A discrete latent site.
    parents : mapping of str to LatentSite
        Discrete latent sites whose plates are among those of ``site``.

    Returns
    -------
    Array
        Shape (values of each parent ..., batch shape of the site ..., values of the site).

    Raises
    ------
    ValueError
        If a parent lies in a plate that does not contain the site.
    """
    child = trace_factors(program).latents[site]
    for parent in parents.values():
        if not set(parent.plates) <= set(child.plates):
            raise ValueError(
                f"Expected parents in plates of their child, outermost sites first, found {parent.name!r} in plates "
                f"{list(parent.plates)} before {site!r} in {list(child.plates)}. List {site!r} first."
            )

    def given(*values: Array) -> Array:
        filled = {p.name: jnp.full(p.shape, v) for p, v in zip(parents.values(), values, strict=True)}
        return program_marginals(program, [site], filled)[site]

    function = given
    for i in reversed(range(len(parents))):
        function = jax.vmap(function, in_axes=[0 if j == i else None for j in range(len(parents))])
    return function(*(jnp.arange(p.size) for p in parents.values()))


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
