"""Shared parts of guides that are derived from a program."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpyro
from jax import Array
from numpyro.distributions import Distribution
from numpyro.handlers import scale, substitute
from numpyro.handlers import trace as plain_trace

from pl2d_ppl.distributions.finite import over_support
from pl2d_ppl.engine.alike import check_alike
from pl2d_ppl.engine.elimination import Conditional
from pl2d_ppl.engine.enumeration import is_latent
from pl2d_ppl.engine.factors import LatentSite
from pl2d_ppl.engine.named import Named
from pl2d_ppl.engine.program import Program, read_program
from pl2d_ppl.engine.program_key import ProgramKey

__all__ = ["DerivedGuide", "context_of", "enumerated", "logits_at", "no_guide", "over_values", "prepare"]


class DerivedGuide:
    """A guide that is derived from a program; it pickles, and equals another one of equal programs and options.

    Parameters
    ----------
    run : callable
        Takes the guide's options by name, then ``args`` and ``kwargs``, the arguments of the program.
    model : callable
        The program.
    continuous : callable, optional
        A guide of the program's continuous sites.
    **options
        Everything else.
    """

    def __init__(self, run: Callable, model: Callable, continuous: Callable | None, **options: Any):
        self.run, self.model, self.continuous, self.options = run, model, continuous, options
        self._key = ProgramKey(partial(run, model, continuous, **options))

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        """Run the guide."""
        self.run(self.model, prepare(self.model, args, kwargs, self.continuous), args, kwargs, **self.options)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DerivedGuide) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def __repr__(self) -> str:
        return f"{self.run.__module__.rpartition('.')[2]}({getattr(self.model, '__name__', self.model)!s})"


def no_guide(*args, **kwargs) -> None:
    """Guide of a program without latent sites, such as a surrogate loss; the guide has no sites either."""


def prepare(model: Callable, args: tuple, kwargs: dict, continuous: Callable | None) -> Program:
    """Draw the continuous sites from their guide, and evaluate the model's networks once."""
    check_alike(model, args, kwargs)
    values = {}
    if continuous is not None:
        with plain_trace() as tr:
            continuous(*args, **kwargs)
        values = {n: s["value"] for n, s in tr.items() if is_latent(s)}
    return read_program(model, args, kwargs, values)


@contextmanager
def context_of(program: Program, site: LatentSite) -> Iterator[None]:
    """Enter the plates of a site, with the indices that the model drew, and its weight."""
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


def enumerated(site: LatentSite) -> dict:
    """Return the ``infer`` of a guide's site; elements that the model masks do not count in a workload."""
    return {"enumerate": "parallel", "derived": True} | ({} if site.mask is None else {"counted": site.mask})


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
