"""Shared parts of guides that are derived from a program."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

import jax.numpy as jnp
import numpyro
from jax import Array
from numpyro.distributions import Distribution
from numpyro.handlers import mask, scale, substitute
from numpyro.handlers import trace as plain_trace

from pl2d_ppl.distributions.finite import over_support
from pl2d_ppl.engine.elimination import Conditional
from pl2d_ppl.engine.enumeration import is_latent
from pl2d_ppl.engine.factors import LatentSite
from pl2d_ppl.engine.named import Named
from pl2d_ppl.engine.program import Program, read_program

__all__ = ["context_of", "logits_at", "no_guide", "over_values", "prepare"]


def no_guide(*args, **kwargs) -> None:
    """Guide of a program without latent sites, such as a surrogate loss; the guide has no sites either."""


def prepare(model: Callable, args: tuple, kwargs: dict, continuous: Callable | None) -> Program:
    """Draw the continuous sites from their guide, and evaluate the model's networks once."""
    values = {}
    if continuous is not None:
        with plain_trace() as tr:
            continuous(*args, **kwargs)
        values = {n: s["value"] for n, s in tr.items() if is_latent(s)}
    return read_program(model, args, kwargs, values)


@contextmanager
def context_of(program: Program, site: LatentSite) -> Iterator[None]:
    """Enter the plates of a site, with the indices that the model drew, its mask, and its weight."""
    sampled = 1.0
    with ExitStack() as stack:
        for name in site.plates:
            if name not in program.plates:
                continue
            plate = program.plates[name]
            with substitute(data={name: plate.indices}):
                context = numpyro.plate(name, plate.size, subsample_size=plate.subsample_size, dim=plate.dim)
            stack.enter_context(context)
            sampled *= plate.size / plate.subsample_size
        if site.mask is not None:
            stack.enter_context(mask(mask=site.mask))
        if not (isinstance(site.scale.data, float | int) and site.scale.data == sampled):
            stack.enter_context(scale(scale=site.weight / sampled))
        yield


def logits_at(
    conditional: Conditional, site: LatentSite, latents: Mapping[str, LatentSite], drawn: Mapping[str, Array]
) -> Array:
    """Look up a conditional at the values of its parents, elementwise over plates.

    Parameters
    ----------
    conditional : Conditional
        The conditional of ``site``.
    site : LatentSite
        The site.
    latents : mapping of str to LatentSite
        The parents.
    drawn : mapping of str to Array
        Their values, enumerated or drawn, which broadcast against their batch shapes.

    Returns
    -------
    Array
        Log-probabilities, shape (broadcast batch shape, values of the site).
    """

    def index(name: str) -> Array:
        if name in conditional.branches:
            return at(conditional.branches[name], ()).astype(int)
        if name in drawn:
            return latents[name].position_of(drawn[name])
        position = next(s.positions[name] for s in (site, *latents.values()) if name in s.positions)
        return jnp.arange(sizes[name]).reshape([-1] + [1] * (-position - 1))

    def at(named: Named, own: tuple[str, ...]) -> Array:
        indices = [index(d) for d in named.dims if d not in own]
        return jnp.asarray(named.data)[tuple(indices)]

    sizes = conditional.log_prob.sizes | {d: n for m in conditional.branches.values() for d, n in m.sizes.items()}
    return at(conditional.log_prob, (site.name,))


def over_values(logits: Array, site: LatentSite) -> Distribution:
    """Return the distribution of a guide over the values of a site."""
    # The plates do this too, without copies, but a batch dimension may be in no plate.
    shape = jnp.broadcast_shapes(logits.shape[:-1], site.nameless_shape)
    values = None if site.support is None else site.support.reshape(site.size, -1)
    if values is not None and values.shape[1] > 1:
        raise ValueError(
            f"Expected the same values for all elements of site {site.name!r} in a guide, found a support of shape "
            f"{site.support.shape}. Sample a site that counts from 0, and add the smallest value."
        )
    return over_support(jnp.broadcast_to(logits, (*shape, site.size)), None if values is None else values[:, 0])
