"""Shared parts of guides that are derived from a program."""

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager

import jax.numpy as jnp
import numpyro
from jax import Array
from numpyro.handlers import substitute
from numpyro.handlers import trace as plain_trace

from pl2d_ppl.engine.factors import LatentSite
from pl2d_ppl.engine.program import FrozenProgram, freeze

__all__ = ["at_values", "no_guide", "plates_of", "prepare"]


def no_guide(*args, **kwargs) -> None:
    """Guide of a program without latent sites, such as a surrogate loss; the guide has no sites either."""


def prepare(
    model: Callable, args: tuple, kwargs: dict, continuous: Callable | None, max_plate_nesting: int
) -> FrozenProgram:
    """Draw the continuous sites from their guide, and evaluate the model's networks once."""
    values = {}
    if continuous is not None:
        with plain_trace() as tr:
            continuous(*args, **kwargs)
        values = {n: s["value"] for n, s in tr.items() if s["type"] == "sample" and not s["is_observed"]}
    return freeze(model, args, kwargs, values, max_plate_nesting)


@contextmanager
def plates_of(program: FrozenProgram, site: LatentSite) -> Iterator[None]:
    """Enter the plates of a site, with the indices that the model drew."""
    with ExitStack() as stack:
        for name in site.plates:
            plate = program.plates[name]
            with substitute(data={name: plate.indices}):
                context = numpyro.plate(name, plate.size, subsample_size=plate.subsample_size, dim=plate.dim)
            stack.enter_context(context)
        yield


def at_values(table: Array, values: Collection[Array], site: LatentSite) -> Array:
    """Look up a table of conditionals at the values of the parents, elementwise over the site's plates.

    Parameters
    ----------
    table : Array, shape (values of each parent ..., batch shape of the site ..., values of the site)
        The conditionals.
    values : collection of Array
        A value of each parent, enumerated or drawn, which broadcasts against the batch shape.
    site : LatentSite
        The site.

    Returns
    -------
    Array
        Shape (broadcast batch shape, values of the site).
    """
    grid = jnp.meshgrid(*(jnp.arange(n) for n in site.shape), indexing="ij", sparse=True)
    return table[(*values, *grid)]
