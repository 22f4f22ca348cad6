"""Elimination of discrete variables from a product of factors, and expectations of factors."""

from collections.abc import Collection, Mapping, Sequence
from math import prod
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.special import logsumexp
from numpyro.distributions import CategoricalLogits

from pl2d_ppl.engine._numpyro import unwrap
from pl2d_ppl.engine.factors import Factor, LatentSite
from pl2d_ppl.engine.named import Named, OneHot, aligned, named_einsum, scaled, summed

__all__ = [
    "LOG_ZERO",
    "Conditional",
    "Elimination",
    "choice_of",
    "eliminate",
    "expectation",
    "expected_mask",
    "total",
    "with_parents",
]

LOG_ZERO = -1e30  # a finite ln 0: its product with a probability of zero is zero, not NaN as for -inf
IMPOSSIBLE = -1e20  # below it, a sum of log-probabilities contains a ln 0
LARGEST_TABLE = 10**8  # elements; exact sums beyond are a mistake


class Conditional(NamedTuple):
    """The distribution of an eliminated site given the sites that were left.

    Attributes
    ----------
    log_prob : Named
        ln p(site | parents), over plates, parents, branches and the site.
    branches : dict of str to Named
        Masks over plates and parents: which of its two values a branch has. A branch stands for the sites of its
        mask, where nothing else about them matters.
    """

    log_prob: Named
    branches: dict[str, Named]


class Elimination(NamedTuple):
    """The factors that remain, and a conditional for every eliminated site, in the order of elimination."""

    factors: list[Factor]
    conditionals: dict[str, Conditional]


def expectation(factor: Factor, q: Mapping[str, Named], keep: Sequence[str] = ()) -> Array:
    """Expected log-probability of a site, summed over its plates and weighted by its scale.

    Parameters
    ----------
    factor : Factor
        The site.
    q : mapping of str to Named
        Probabilities q(site | its parents in q) of every enumerated site that the factor touches, and of their
        parents.
    keep : sequence of str
        Plates that are not summed over.

    Returns
    -------
    Array
        A scalar, or one axis for every plate that is kept and that the factor has; multilinear in the arrays of ``q``.
        Minus infinity where something has happened whose probability is zero.
    """
    log_prob = factor.log_prob._replace(data=jnp.maximum(factor.log_prob.data, LOG_ZERO))
    operands = [log_prob, factor.scale] if factor.scale.dims else [log_prob]
    probs = {name: q[name] for name in with_parents(factor.variables, q)}
    if factor.mask is not None:
        operands.append(expected_mask(factor.mask, probs, log_prob))
    operands += probs.values()
    kept = [d for d in keep if d in factor.plates]
    present = {d for o in operands for d in o.dims}
    repeats = prod(size for plate, size in factor.plates.items() if plate not in present and plate not in kept)
    value = named_einsum(operands, [d for d in kept if d in present])
    value = aligned(Named(tuple(d for d in kept if d in present), value), kept)
    value = value * (repeats if factor.scale.dims else repeats * factor.scale.data)
    # Added, so that the gradient at other items passes.
    value = value + jax.lax.stop_gradient(jnp.where(value < IMPOSSIBLE, -jnp.inf, 0.0))
    return jnp.broadcast_to(value, [factor.plates[d] for d in kept])


def choice_of(site: LatentSite, mask: Named | None, operands: Sequence[Named]) -> OneHot | None:
    """Return a mask if it is the choice of a site, which nothing else depends on."""
    if not isinstance(mask, OneHot) or mask.dims[0] != site.name or mask.dims[1] in site.dims:
        return None
    alone = not any(site.name in o.dims for o in operands) and any(mask.dims[1] in o.dims for o in operands)
    return mask if alone else None


def expected_mask(mask: Named, probs: dict[str, Named], log_prob: Named) -> Named:
    """Mask as an operand; of a choice that nothing else depends on, its expectation, whose site leaves ``probs``."""
    if isinstance(mask, OneHot):
        site, plate = mask.dims
        others = [q for name, q in probs.items() if name != site]
        if site in probs and plate not in probs[site].dims and not any(site in q.dims for q in others):
            return mask.renamed(probs.pop(site))
    return mask._replace(data=mask.data.astype(log_prob.data.dtype))


def with_parents(names: Collection[str], q: Mapping[str, Named]) -> list[str]:
    """Sites of q that have some names, their parents in q, and theirs."""
    found, queue = [], list(names)
    while queue:
        name = queue.pop()
        if name not in found:
            found.append(name)
            queue += [d for d in q[name].dims if d in q]
    return sorted(found)


def total(factors: Sequence[Factor]) -> Array:
    """Sum all factors over their plates; no factor may still contain a discrete variable."""
    return sum((expectation(f, {}) for f in factors), start=jnp.zeros(()))


def eliminate(
    factors: Sequence[Factor], variables: Mapping[str, LatentSite], order: Sequence[str] | None = None
) -> Elimination:
    """Sum discrete variables out of a product of factors, in log space.

    Variable elimination in plated factor graphs (Obermeyer et al. 2019): the variable in the most plates goes first. A
    lazy mask over variables outside its factor becomes a binary variable b with ``log p(rest | b) = b * log_prob``,
    which is set to the mask once the variables that occur only in ``log_prob`` have been summed out.

    Weights of sites follow the ELBO, in which the weight c of a latent site also weighs its entropy: its sum is
    c ln sum exp(sum_f c_f ln p_f / c).

    Parameters
    ----------
    factors : sequence of Factor
        The program's factors.
    variables : mapping of str to LatentSite
        Variables to sum out, in program order.
    order : sequence of str, optional
        Which of the variables in equally many plates goes first. By default the one that leaves the smallest table;
        where weights differ, the last of the program.

    Returns
    -------
    Elimination
        Factors over the variables that remain, and the conditionals of the others.

    Raises
    ------
    ValueError
        If eliminating a variable would need a product over a plate that holds a remaining variable, or a table that is
        too large.
    """
    if order is None and len({_weight(f.scale) for f in factors}) > 1:
        order = list(variables)[::-1]
    state = _State(factors, variables)
    left = list(variables)
    while left:
        name = state.next(left, order)
        left.remove(name)
        state.sum_out(variables[name])
    for branch in list(state.masks):
        state.resolve(branch)
    return Elimination(state.factors, state.conditionals)


def _weight(scale: Named) -> object:
    """Return a weight that equals another one only where both are known to be equal."""
    return float(scale.data) if isinstance(scale.data, float | int) else id(scale.data)


class _State:
    """The factors in the middle of an elimination."""

    def __init__(self, factors: Sequence[Factor], variables: Mapping[str, LatentSite]):
        self.masks: dict[str, Named] = {}
        self.conditionals: dict[str, Conditional] = {}
        self.homes = {f.name: _long_plates(f) for f in factors}  # of every variable, kept or not
        self.factors: list[Factor] = []
        self.branched: set[str] = set()  # observed sites, and zero where their branch is off
        for factor in factors:
            if factor.mask is not None and set(factor.variables) & set(variables):
                branch = f"{factor.name}__branch"
                self.masks[branch], self.homes[branch] = factor.mask, self.homes[factor.name]
                factor = _branched(factor, branch)
                self.branched.add(factor.name)
            self.factors.append(factor)
        self._variables = variables

    def next(self, left: Sequence[str], order: Sequence[str] | None) -> str:
        """Choose a variable: among those in the most plates, the first in the order, or the cheapest."""
        depth = max(self._variables[n].depth for n in left)
        deepest = [n for n in left if self._variables[n].depth == depth]
        return min(deepest, key=order.index if order is not None else self._cost)

    def _cost(self, name: str) -> int:
        """Elements of the table that the sum over a variable runs over."""
        touching = [f for f in self.factors if name in f.log_prob.dims]
        sizes = {d: s for f in touching for d, s in f.log_prob.sizes.items()}
        for mask in self.masks.values():
            if name in mask.dims:
                sizes |= mask.sizes
        return prod(sizes.values())

    def sum_out(self, site: LatentSite) -> None:
        """Replace the factors that contain a variable by their sum over it."""
        for branch in [b for b, mask in self.masks.items() if site.name in mask.dims]:
            self.resolve(branch)
        touching = self._touching(site.name)
        for branch in [b for b in self.masks if any(b in f.log_prob.dims for f in touching)]:
            if self.homes[branch] - set(site.long_plates):
                self.resolve(branch)
        touching = self._touching(site.name)
        others = [f for f in self.factors if site.name not in f.log_prob.dims]
        if not touching:  # a site of one value, about which nothing depends
            return
        local = [self._local(f, site) for f in touching]
        sizes = {d: s for named in local for d, s in named.sizes.items()}
        if prod(sizes.values()) > LARGEST_TABLE:
            raise ValueError(
                f"Expected sites that depend on few others, found {site.name!r}, whose exact sum is over "
                f"{prod(sizes.values()):.2g} combinations with {sorted(set(sizes) - set(site.plates))}. Use the "
                "mean-field guide for some of them."
            )
        branches = {b: m for b, m in self.masks.items() if b in sizes}
        off = self._prior_alone(touching, site, list(branches))
        log_prob, reduced = _summed_out(local, site.name) if off is None else _summed_on(local, site.name, off)
        self.conditionals[site.name] = Conditional(log_prob, branches)
        self.factors = [*others, Factor(site.name, reduced, None, site.scale, site.plates)]

    def _prior_alone(self, touching: list[Factor], site: LatentSite, branches: list[str]) -> str | None:
        """Return the branch without which nothing but the site's own normalised prior is left, if there is one."""
        own = [f for f in touching if f.name == site.name and not set(branches) & set(f.log_prob.dims)]
        normalised = isinstance(unwrap(site.fn)[0], CategoricalLogits)  # probabilities may not sum to one
        if len(branches) != 1 or len(own) != 1 or len(touching) == 1 or not normalised:
            return None
        masked = all(f.name in self.branched and branches[0] in f.log_prob.dims for f in touching if f is not own[0])
        return branches[0] if masked and _weight(own[0].scale) == _weight(site.scale) else None

    def resolve(self, branch: str) -> None:
        """Set a branch to its mask."""
        mask = self.masks.pop(branch)
        parts = (_chosen(f, branch, mask) if branch in f.log_prob.dims else [f] for f in self.factors)
        self.factors = [factor for part in parts for factor in part]

    def _touching(self, name: str) -> list[Factor]:
        return [f for f in self.factors if name in f.log_prob.dims]

    def _local(self, factor: Factor, site: LatentSite) -> Named:
        """Log-probability of a factor in units of the site's weight, summed over plates inside those of the site."""
        inner = [p for p in factor.plates if p not in site.plates]
        lp = factor.log_prob
        stranded = [d for d in lp.dims if d != site.name and self.homes.get(d, frozenset()).intersection(inner)]
        if stranded:
            raise ValueError(
                f"Expected variables in plate {inner[0]!r} to be summed out before {site.name!r}, which lies outside "
                f"it, but {stranded[0]!r} depends on other plates too, or is kept. Let the guide keep {site.name!r} "
                f"too, leave {stranded[0]!r} out of it, or use the mean-field guide for both."
            )
        if _weight(factor.scale) != _weight(site.scale):
            lp = scaled(scaled(lp, factor.scale), site.scale._replace(data=1.0 / site.scale.data))
        repeats = prod(factor.plates[p] for p in inner if p not in lp.dims)
        lp = summed(lp, inner)
        return lp._replace(data=repeats * lp.data) if repeats > 1 else lp


def _summed_out(local: Sequence[Named], name: str) -> tuple[Named, Named]:
    """Return the conditional of a variable, and the sum over it."""
    dims = (*dict.fromkeys(d for named in local for d in named.dims if d != name), name)
    table = jnp.maximum(sum((aligned(named, dims) for named in local), start=jnp.zeros(())), LOG_ZERO)
    reduced = logsumexp(table, axis=-1)
    return Named(dims, table - reduced[..., None]), Named(dims[:-1], reduced)


def _summed_on(local: Sequence[Named], name: str, branch: str) -> tuple[Named, Named]:
    """Return the same where the sum is known to be one if a branch is off, which halves the work."""
    prior = next(named for named in local if branch not in named.dims)
    on = [_at(named, branch, 1) if branch in named.dims else named for named in local]
    given, reduced = _summed_out(on, name)
    off = jnp.broadcast_to(aligned(prior, given.dims), given.data.shape)
    both = Named((branch, *given.dims), jnp.stack([off, given.data]))
    return both, Named((branch, *reduced.dims), jnp.stack([jnp.zeros_like(reduced.data), reduced.data]))


def _at(named: Named, dim: str, index: int) -> Named:
    axis = named.dims.index(dim)
    return Named((*named.dims[:axis], *named.dims[axis + 1 :]), jnp.take(named.data, index, axis))


def _long_plates(factor: Factor) -> frozenset[str]:
    return frozenset(p for p, size in factor.plates.items() if size > 1)


def _branched(factor: Factor, branch: str) -> Factor:
    """Split a lazily masked factor at a binary variable that says whether the mask is on."""
    lp = factor.log_prob
    both = jnp.stack([jnp.zeros_like(lp.data), lp.data])
    return factor._replace(log_prob=Named((branch, *lp.dims), both), mask=None)


def _chosen(factor: Factor, branch: str, mask: Named) -> list[Factor]:
    """Take the value of a factor at the branch that the mask chooses."""
    lp = factor.log_prob
    if isinstance(mask, OneHot) and mask.dims[0] not in lp.dims and mask.dims[1] in lp.dims and not factor.scale.dims:
        return _at_choice(factor, branch, mask)
    sizes = {d: s for d, s in (lp.sizes | mask.sizes).items() if d != branch}
    off, on = aligned(lp, (branch, *sizes))
    dims = tuple(sizes)
    return [factor._replace(log_prob=Named(dims, jnp.where(aligned(mask, dims), on, off)))]


def _at_choice(factor: Factor, branch: str, mask: OneHot) -> list[Factor]:
    """Return a factor with the branch off everywhere, and what changes where it is on: at one element of the plate."""
    lp = factor.log_prob
    dims = tuple(d for d in lp.dims if d != branch)
    off, on = aligned(lp, (branch, *dims))
    plates = {p: n for p, n in factor.plates.items() if p != mask.dims[1]}
    change = factor._replace(log_prob=mask.on_site(Named(dims, on - off)), plates=plates)
    return [factor._replace(log_prob=Named(dims, off)), change]
