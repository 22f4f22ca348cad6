"""Arrays whose axes have names: plates and enumerated sites."""

from collections.abc import Collection, Sequence
from math import prod
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

__all__ = ["Named", "OneHot", "aligned", "named_einsum", "scaled", "summed"]

MANY = 5  # operands from which the exhaustive search for the best order of an einsum takes too long


class Named(NamedTuple):
    """An array whose axes have names; an axis is missing where the value does not vary along it."""

    dims: tuple[str, ...]
    data: Any

    @property
    def sizes(self) -> dict[str, int]:
        """Length of every axis."""
        return dict(zip(self.dims, jnp.shape(self.data), strict=True))


class OneHot(Named):
    """A mask over a discrete site and a plate of equal sizes, ``dims``: whether their indices are equal."""

    def renamed(self, named: Named) -> Named:
        """Give the axis of the site the name of the plate: the expectation of the mask under probabilities."""
        site, plate = self.dims
        return named._replace(dims=tuple(plate if d == site else d for d in named.dims))

    def on_site(self, named: Named) -> Named:
        """Give the axis of the plate the name of the site: the sum over the plate, where the mask is."""
        site, plate = self.dims
        return named._replace(dims=tuple(site if d == plate else d for d in named.dims))


def aligned(named: Named, dims: Sequence[str]) -> Array:
    """Transpose and pad with axes of size one, so that the array broadcasts against ``dims``."""
    data = jnp.asarray(named.data)
    order = [named.dims.index(d) for d in dims if d in named.dims]
    shape = [data.shape[named.dims.index(d)] if d in named.dims else 1 for d in dims]
    return data.transpose(order).reshape(shape)


def named_einsum(operands: Sequence[Named], keep: Sequence[str] = ()) -> Array:
    """Multiply named arrays and sum over every dimension that is not kept, the cheapest sum first."""
    left = list(operands)
    while summed_out := {d for o in left for d in o.dims} - set(keep):
        groups = [[o for o in left if d in o.dims] for d in sorted(summed_out)]
        group = min(groups, key=lambda g: prod(_sizes(g).values()))
        others = [o for o in left if not any(o is member for member in group)]
        needed = set(keep).union(*(o.dims for o in others))
        left = [*others, _contracted(group, needed)]
    data = [aligned(o, keep) for o in left]
    product = prod(data[1:], start=data[0])
    sizes = _sizes(left)
    return jnp.broadcast_to(product, [sizes[d] for d in keep])


def _contracted(operands: Sequence[Named], needed: Collection[str]) -> Named:
    """Multiply arrays and sum over the dimensions that nobody needs."""
    largest = max(operands, key=lambda o: len(o.dims))
    sizes = _sizes([largest, *operands])
    dims = tuple(d for d in sizes if d in needed)
    if len(largest.dims) == len(sizes):  # a sum that fuses with all around it, in the order of memory; else a product
        data = [aligned(o, tuple(sizes)) for o in operands]
        over = tuple(i for i, d in enumerate(sizes) if d not in needed)
        return Named(dims, prod(data[1:], start=data[0]).sum(over))
    letters = {d: i for i, d in enumerate(sizes)}
    interleaved = [a for o in operands for a in (o.data, [letters[d] for d in o.dims])]
    order = "optimal" if len(operands) <= MANY else "greedy"
    return Named(dims, jnp.einsum(*interleaved, [letters[d] for d in dims], optimize=order))


def _sizes(operands: Sequence[Named]) -> dict[str, int]:
    return {d: n for o in operands for d, n in o.sizes.items()}


def scaled(named: Named, scale: Named) -> Named:
    """Multiply by a scale whose dimensions may be others."""
    dims = (*named.dims, *(d for d in scale.dims if d not in named.dims))
    return Named(dims, aligned(named, dims) * aligned(scale, dims))


def summed(named: Named, over: Sequence[str]) -> Named:
    """Sum over those of some dimensions that the array has."""
    axes = [named.dims.index(d) for d in over if d in named.dims]
    return Named(tuple(d for d in named.dims if d not in over), named.data.sum(axes)) if axes else named
