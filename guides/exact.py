"""Exact guide: the posterior of discrete sites, from the gradient of the log evidence."""

from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax.lax import stop_gradient

from pl2d_ppl.engine.elimination import LOG_ZERO
from pl2d_ppl.engine.guide_tools import at_values, plates_of, prepare
from pl2d_ppl.engine.marginals import conditional, require_sites
from pl2d_ppl.engine.program import trace_factors

__all__ = ["exact"]


def exact(
    model: Callable,
    sites: Sequence[str] | None = None,
    *,
    continuous: Callable | None = None,
    max_plate_nesting: int = 2,
) -> Callable:
    """Build the guide q(s_1) q(s_2 | s_1) ..., each factor the exact posterior of the program.

    Parameters
    ----------
    model : callable
        The program.
    sites : sequence of str, optional
        Sites of the guide, outermost plates first; by default all discrete latent sites. A site left out is summed out
        of the model exactly, which gives the same evidence at less cost: ``exact(prob_l2d, ["z"])`` costs O(M (M + C))
        per item, and O(M^2 C) with ``"t"``.
    continuous : callable, optional
        A guide of the other latent sites, such as ``normal(model)`` for priors on network weights; it runs first.
    max_plate_nesting : int
        Number of batch dimensions that plates may use.

    Returns
    -------
    callable
        A guide that takes the model's arguments. With it the ELBO is the log evidence.
    """

    def guide(*args, **kwargs) -> None:
        program = prepare(model, args, kwargs, continuous, max_plate_nesting)
        latents = trace_factors(program).latents
        require_sites(list(latents) if sites is None else sites, latents)
        drawn: dict = {}
        outermost_first = sorted(latents, key=lambda name: len(latents[name].plates))
        for name in outermost_first if sites is None else sites:
            site = latents[name]
            parents = {n: latents[n] for n in drawn}
            table = stop_gradient(conditional(program, name, parents))
            logits = jnp.maximum(jnp.log(jnp.maximum(table, 0.0)), LOG_ZERO)
            with plates_of(program, site):
                factor = dist.Categorical(logits=at_values(logits, drawn.values(), site))
                drawn[name] = numpyro.sample(name, factor, infer={"enumerate": "parallel"})

    guide.continuous = continuous  # type: ignore[attr-defined]
    return guide
