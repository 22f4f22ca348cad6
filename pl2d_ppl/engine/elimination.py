"""Sums and products of named factors: expectations, and elimination of discrete variables."""

from collections.abc import Collection, Mapping, Sequence
from math import prod

import jax.numpy as jnp
from jax import Array
from jax.scipy.special import logsumexp

from pl2d_ppl.engine.factors import Factor, LatentSite, Named

__all__ = ["eliminate", "expectation", "total"]

LOG_ZERO = -1e30  # a finite ln 0: its product with a probability of zero is zero, not NaN as for -inf


def named_einsum(operands: Sequence[Named], keep: Sequence[str] = ()) -> Array:
    """Multiply named arrays and sum over every dimension that is not kept."""
    letters = {d: i for i, d in enumerate(dict.fromkeys(d for o in operands for d in o.dims))}
    interleaved = [a for o in operands for a in (o.data, [letters[d] for d in o.dims])]
    return jnp.einsum(*interleaved, [letters[d] for d in keep], optimize="optimal")


def expectation(factor: Factor, q: Mapping[str, Named]) -> Array:
    """Expected log-probability of a site, summed over its plates and weighted by its scale.

    Parameters
    ----------
    factor : Factor
        The site.
    q : mapping of str to Named
        Probabilities q(site | its parents in q) of every enumerated site that the factor touches, and of their
        parents.

    Returns
    -------
    Array
        A scalar; multilinear in the arrays of ``q``.
    """
    log_prob = factor.log_prob._replace(data=jnp.maximum(factor.log_prob.data, LOG_ZERO))
    operands = [log_prob]
    if factor.mask is not None:
        operands.append(factor.mask._replace(data=factor.mask.data.astype(log_prob.data.dtype)))
    operands += [q[name] for name in with_parents(factor.variables, q)]
    return factor.scale * _repeats(factor, operands) * named_einsum(operands)


def with_parents(names: Collection[str], q: Mapping[str, Named]) -> list[str]:
    """Sites of q that have some names, their parents in q, and theirs."""
    found, queue = [], list(names)
    while queue:
        name = queue.pop()
        if name not in found:
            found.append(name)
            queue += [d for d in q[name].dims if d in q]
    return sorted(found)


def _repeats(factor: Factor, operands: Sequence[Named]) -> int:
    """Multiplicity of a term whose arrays do not vary along some plates of the site."""
    present = {d for o in operands for d in o.dims}
    return prod(size for plate, size in factor.plates.items() if plate not in present)


def total(factors: Sequence[Factor]) -> Array:
    """Sum all factors over their plates; no factor may still contain a discrete variable."""
    return sum((expectation(f, {}) for f in factors), start=jnp.zeros(()))


def eliminate(factors: Sequence[Factor], variables: Mapping[str, LatentSite]) -> list[Factor]:
    """Sum discrete variables out of a product of factors, in log space.

    Variable elimination in plated factor graphs (Obermeyer et al. 2019): the variable in the most plates goes first;
    ties go to the one that leaves the smallest table. A lazy mask over variables outside its factor becomes a binary
    variable b with ``log p(rest | b) = b * log_prob``, which is set to the mask once the variables that occur only in
    ``log_prob`` have been summed out.

    Parameters
    ----------
    factors : sequence of Factor
        The program's factors.
    variables : mapping of str to LatentSite
        Variables to sum out.

    Returns
    -------
    list of Factor
        Factors over the variables that remain.

    Raises
    ------
    ValueError
        If sites that share a variable have different scales, or if eliminating a variable would need a product over a
        plate that holds a remaining variable.
    """
    remaining: list[Factor] = []
    masks: dict[str, Named] = {}
    plates = {name: tuple(site.plates) for name, site in variables.items()}
    homes = {factor.name: frozenset(factor.plates) for factor in factors}  # of every variable, kept or not
    for factor in factors:
        if factor.mask is not None and set(factor.variables) & set(variables):
            branch = f"{factor.name}__branch"
            plates[branch], masks[branch] = tuple(factor.plates), factor.mask
            factor = _branched(factor, branch)
        remaining.append(factor)
    while plates:
        depth = max(len(p) for p in plates.values())
        deepest = (n for n, p in plates.items() if len(p) == depth)
        name = min(deepest, key=lambda n: _table_size(n, remaining, masks.get(n)))
        touching = [f for f in remaining if name in f.log_prob.dims]
        remaining = [f for f in remaining if name not in f.log_prob.dims]
        if touching:
            remaining.append(_sum_out(name, touching, plates[name], homes, masks.get(name)))
        del plates[name]
    return remaining


def _branched(factor: Factor, branch: str) -> Factor:
    """Split a lazily masked factor at a binary variable that says whether the mask is on."""
    lp = factor.log_prob
    both = jnp.stack([jnp.zeros_like(lp.data), lp.data])
    return factor._replace(log_prob=Named((branch, *lp.dims), both), mask=None)


def _sizes(factors: Sequence[Factor]) -> dict[str, int]:
    return {d: s for f in factors for d, s in zip(f.log_prob.dims, f.log_prob.data.shape, strict=True)}


def _table_size(name: str, factors: Sequence[Factor], mask: Named | None) -> int:
    sizes = _sizes([f for f in factors if name in f.log_prob.dims])
    if mask is not None:
        sizes |= dict(zip(mask.dims, mask.data.shape, strict=True))
    return prod(sizes.values())


def _sum_out(
    name: str,
    factors: Sequence[Factor],
    plates: tuple[str, ...],
    homes: Mapping[str, frozenset[str]],
    mask: Named | None,
) -> Factor:
    """Sum a variable out of the factors that contain it; for a branch, take the value that the mask gives."""
    scales = {float(f.scale) for f in factors}
    if len(scales) > 1:
        raise ValueError(
            f"Expected one scale for all sites that share the discrete variable {name!r}, found {sorted(scales)} "
            f"at {[f.name for f in factors]}. Put them into the same subsampled plate."
        )
    local = [_multiply_over_inner_plates(f, name, plates, homes) for f in factors]
    joint = {p: s for f in local for p, s in f.plates.items()}
    sizes = _sizes(local) | {p: s for p, s in joint.items() if s > 1}  # the sum is taken in every plate element
    if mask is not None:
        sizes |= dict(zip(mask.dims, mask.data.shape, strict=True))
    dims = tuple(d for d in sizes if d != name)
    table = sum((aligned(f.log_prob, (name, *dims)) for f in local), start=jnp.zeros(()))
    if mask is None:
        reduced = logsumexp(jnp.broadcast_to(table, [sizes[name], *(sizes[d] for d in dims)]), axis=0)
    else:
        reduced = jnp.where(aligned(mask, dims), table[1], table[0])
    return Factor(name, Named(dims, jnp.broadcast_to(reduced, [sizes[d] for d in dims])), None, factors[0].scale, joint)


def _multiply_over_inner_plates(
    factor: Factor, name: str, plates: tuple[str, ...], homes: Mapping[str, frozenset[str]]
) -> Factor:
    inner = [p for p in factor.plates if p not in plates]
    if not inner:
        return factor
    lp = factor.log_prob
    stranded = [d for d in lp.dims if homes.get(d, frozenset()).intersection(inner)]
    if stranded:
        raise ValueError(
            f"Expected variables in plate {inner[0]!r} to be summed out before {name!r}, which lies outside it, "
            f"but {stranded[0]!r} is kept. Let the guide keep {name!r} too, or leave {stranded[0]!r} out of it."
        )
    repeats = prod(factor.plates[p] for p in inner if p not in lp.dims)
    keep = tuple(d for d in lp.dims if d not in inner)
    summed = Named(keep, repeats * lp.data.sum([lp.dims.index(p) for p in inner if p in lp.dims]))
    return factor._replace(log_prob=summed, plates={p: s for p, s in factor.plates.items() if p in plates})


def aligned(named: Named, dims: Sequence[str]) -> Array:
    """Transpose and pad with axes of size one, so that the array broadcasts against ``dims``."""
    order = [named.dims.index(d) for d in dims if d in named.dims]
    shape = [named.data.shape[named.dims.index(d)] if d in named.dims else 1 for d in dims]
    return named.data.transpose(order).reshape(shape)
