"""Mean-field coordinate ascent, derived from a program.

The expected log joint of a program under a factorised q is multilinear in the factors of q. Its gradient with
respect to one of them is therefore that factor's coordinate update,

    q_s  <-  softmax( d E_q[ln p] / d q_s ),

and for a Dirichlet site, which enters through its mean parameter m = E[ln u],

    rho  <-  1 + d E_q[ln p] / d m.

Nothing is derived by hand: an edited program gives its own updates. For the programs of the two papers, the updates are
those of section 1 of docs/mathematics.md (paper A) and equations B.13 and B.16.
"""

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.nn import log_softmax

from pl2d_ppl.engine.conjugacy import check_conjugate
from pl2d_ppl.engine.dirichlet import concentration_of, log_mean
from pl2d_ppl.engine.elimination import LOG_ZERO, choice_of, eliminate, expectation, expected_mask
from pl2d_ppl.engine.factors import Factor, LatentSite
from pl2d_ppl.engine.marginals import require_sites
from pl2d_ppl.engine.named import Named, aligned, named_einsum, summed
from pl2d_ppl.engine.program import Program

__all__ = ["MeanField", "coordinate_ascent"]

TIE = 1e-6  # probabilities of values that differ by less are equal
SPREAD = 0.5  # standard deviation of the logits that break a tie
LEAST_LOG = -100.0  # extrapolation tells no smaller probabilities from zero
LONGEST = 30.0  # of the step lengths of an extrapolation
NOISE = 100.0  # differences of so many rounding errors are none
ROUNDING = 8.0  # an ELBO has not fallen if it differs by so many rounding errors


class MeanField(NamedTuple):
    """A factorised posterior.

    Attributes
    ----------
    log_probs : dict of str to Array
        ln q of every discrete site, shape (batch shape, values).
    concentrations : dict of str to Array
        rho of every Dirichlet site, shape (batch shape, components).
    latents : dict of str to LatentSite
        The sites, in program order.
    num_sweeps : Array
        Number of sweeps.
    change : Array
        Largest change of a probability, or of E[ln u], in the last sweep.
    """

    log_probs: dict[str, Array]
    concentrations: dict[str, Array]
    latents: dict[str, LatentSite]
    num_sweeps: Array
    change: Array


def coordinate_ascent(
    program: Program,
    sites: Sequence[str] | None = None,
    *,
    rng_key: Array | None = None,
    start: Mapping[str, Any] | None = None,
    fixed: Sequence[str] = (),
    tolerance: float = 1e-4,
    max_sweeps: int = 50,
) -> MeanField:
    """Maximise the ELBO over a factorised posterior of discrete and Dirichlet sites.

    A sweep updates the discrete sites one after the other, the last of the program first, so that observations of the
    leaves take effect from the first update on; then the Dirichlet sites.

    Where all values of a site are alike, as at symmetric priors, coordinate ascent would stay on a saddle for ever: if
    the first sweep leaves a site uniform, its start is drawn at random.

    Parameters
    ----------
    program : Program
        Program from :func:`~pl2d_ppl.engine.program.read_program`; its networks are not evaluated again.
    sites : sequence of str, optional
        Sites of q; by default all latent sites. Discrete sites left out are summed out exactly.
    rng_key : Array, optional
        Key that breaks ties.
    start : mapping of str to Array, optional
        Where q starts: probabilities of a discrete site, or concentrations of a Dirichlet site, which broadcast to
        its batch shape and size. By default at the prior, averaged over the priors of the parents.
    fixed : sequence of str
        Dirichlet sites that stay at their start.
    tolerance : float
        Sweeps end when no probability and no E[ln u] changed by more than this in the last sweep.
    max_sweeps : int
        At most this many sweeps.

    Returns
    -------
    MeanField
        The posterior, detached from gradients.

    Raises
    ------
    ValueError
        If a name in ``sites`` is not a latent site, ``max_sweeps`` is not positive, or the expected log joint is not
        linear in E[ln u] of a Dirichlet site.
    """
    if max_sweeps < 1:
        raise ValueError(f"Expected at least one sweep, found max_sweeps={max_sweeps}.")
    require_sites(list(program.latents) if sites is None else sites, program.latents)
    require_sites(list(start or ()), program.latents)
    ascent = Ascent(program, sites, fixed)
    path = ascent.path(ascent.start(start or {}), rng_key, set(start or ()))

    def running(path: Path) -> Array:
        return (path.state.num_sweeps < max_sweeps) & (path.state.change > tolerance)

    state = jax.lax.while_loop(running, lambda path: ascent.advance(path, max_sweeps), path).state
    log_probs = {n: ascent.sites[n].by_position(a) for n, a in state.log_probs.items()}
    return MeanField(log_probs, state.concentrations, ascent.sites, state.num_sweeps, state.change)


class State(NamedTuple):
    """Factors of q in the middle of the ascent; those of discrete sites have one axis a plate, and their values."""

    log_probs: dict[str, Array]
    probs: dict[str, Array]
    concentrations: dict[str, Array]
    num_sweeps: Array
    change: Array

    @classmethod
    def of(cls, log_probs: dict[str, Array], concentrations: dict[str, Array]) -> "State":
        """Return the state before the first sweep."""
        probs = {n: jnp.exp(a) for n, a in log_probs.items()}
        return cls(log_probs, probs, concentrations, jnp.zeros((), int), jnp.full((), jnp.inf))


class Path(NamedTuple):
    """Where coordinate ascent is, and where the next sweep starts.

    Attributes
    ----------
    state : State
        After the last sweep. Its bound never falls.
    before, point : dict of str to Array
        The followers (see :class:`Ascent`) from which the last sweep started, and from which the next one will.
    bound : Array
        The ELBO at ``state``, one number for every unit.
    trial : Array
        Whether the next sweep starts from an extrapolation.
    """

    state: State
    before: dict[str, Array]
    point: dict[str, Array]
    bound: Array
    trial: Array


class Split(NamedTuple):
    """Factors for the sweeps: what only one site decides is added up once.

    Attributes
    ----------
    own : dict of str to Array
        The logits of every site from the factors of no other site.
    joint : list of Factor
        The other factors.
    """

    own: dict[str, Array]
    joint: list[Factor]


class Ascent:
    """The start of coordinate ascent, and one sweep of it.

    Every second sweep starts from an extrapolation of the two before it (SQUAREM, Varadhan and Roland 2008). The site
    that a sweep updates first does not depend on its old factor, so that only the others, its followers, are
    extrapolated. Where all sites and factors share plates, the elements of these, such as items, do not depend on each
    other: every such unit has a step length of its own, and goes back if its ELBO fell.

    Parameters
    ----------
    program : Program
        The program.
    sites : sequence of str, optional
        Sites of q.
    fixed : sequence of str
        Dirichlet sites that no sweep updates.
    """

    def __init__(self, program: Program, sites: Sequence[str] | None, fixed: Sequence[str] = ()):
        self.program = program
        latents = program.latents
        self.sites = {n: s for n, s in latents.items() if sites is None or n in sites}
        self.discrete = {n: s for n, s in self.sites.items() if s.kind == "discrete"}
        self.dirichlets = {n: s for n, s in self.sites.items() if s.kind == "dirichlet"}
        self._fixed = fixed
        self._left = {n: s for n, s in latents.items() if n not in self.sites and s.kind == "discrete"}
        self.factors = eliminate(program.factors, self._left).factors
        self.followers = [] if self.dirichlets else list(self.discrete)[:-1]
        self._split = None if self.dirichlets else self.split(self.factors)
        self.units = self._shared_plates()
        if self.dirichlets:
            means = {n: log_mean(concentration_of(s.fn)) for n, s in self.dirichlets.items()}
            check_conjugate(program.again, means)

    def _shared_plates(self) -> tuple[str, ...]:
        """Plates of more than one element that all discrete sites, and all factors of several of them, are in."""
        if not self._split or not self.discrete:
            return ()
        around = [s.plates for s in self.discrete.values()] + [f.plates for f in self._split.joint]
        return tuple(p for p, n in around[0].items() if n > 1 and all(p in plates for plates in around))

    def factors_at(self, log_means: Mapping[str, Array]) -> list[Factor]:
        """Return the factors at E[ln u] of the Dirichlet sites."""
        if not log_means:
            return self.factors
        return eliminate(self.program.again(log_means), self._left).factors

    def expected(self, factors: Sequence[Factor], log_probs: Mapping[str, Array]) -> Array:
        """Expected log-probability of factors."""
        q = {n: Named(self.sites[n].dims, jnp.exp(a)) for n, a in log_probs.items()}
        return sum((expectation(f, q) for f in factors), start=jnp.zeros(()))

    def split(self, factors: Sequence[Factor]) -> Split:
        """Add up the factors of a single site each."""
        own = {n: self._message(n, [f for f in factors if f.variables == (n,)], {}) for n in self.discrete}
        return Split(own, [f for f in factors if len(f.variables) > 1])

    def _message(self, name: str, factors: Sequence[Factor], probs: Mapping[str, Array]) -> Array:
        """Gradient of the expected log-probability of factors with respect to q of a site, over its weight."""
        site = self.sites[name]
        q = {n: Named(self.sites[n].dims, a) for n, a in probs.items() if n != name}
        messages = [_message(f, site, q) for f in factors if name in f.variables]
        shape = (*site.plates.values(), site.size)
        return jnp.broadcast_to(sum(messages, start=jnp.zeros(())), shape)

    def start(self, given: Mapping[str, Any]) -> State:
        """Start every site at its prior, averaged over the priors of its parents."""
        log_probs: dict[str, Array] = {}
        concentrations: dict[str, Array] = {}
        for name, site in self.sites.items():
            shape = (*site.shape, site.size)
            if name in given:
                value = _check_start(site, given[name], shape)
                if site.kind == "discrete":
                    log_probs[name] = site.by_plates(jnp.log(value / value.sum(-1, keepdims=True)))
                else:
                    concentrations[name] = value
                continue
            own = [f for f in self.factors if f.name == name]
            if site.kind == "discrete":
                probs = {n: jnp.exp(a) for n, a in log_probs.items()}
                log_probs[name] = log_softmax(self._message(name, own, probs), -1)
            else:
                concentrations[name] = jnp.broadcast_to(_mean_prior(site, log_probs, self.sites), shape)
        return State.of(log_probs, concentrations)

    def path(self, state: State, rng_key: Array | None, given: set[str]) -> Path:
        """Begin: draw the start of discrete sites at random that the first sweep would leave uniform."""
        state = self._led(state, given) if given & set(self.discrete) else state
        before = {n: state.log_probs[n] for n in self.followers}
        free = [n for n in self.discrete if n not in given and self.sites[n].size > 1]
        if free and len(self.sites) > 1:  # the first update of a single site is its optimum
            swept = self.sweep(state)
            ties = {n: _is_uniform(state.log_probs[n]) & _is_uniform(swept.log_probs[n]) for n in free}
            tied = jnp.any(jnp.stack(list(ties.values())))
            drawn = self._led(self._drawn(state, ties, rng_key), given)
            state = jax.lax.cond(tied, lambda: drawn, lambda: swept)
        point = {n: state.log_probs[n] for n in self.followers}
        shape = [self.discrete[self.followers[0]].plates[p] for p in self.units] if self.followers else []
        return Path(state, before, point, jnp.full(shape, -jnp.inf), jnp.array(False))

    def _drawn(self, state: State, ties: Mapping[str, Array], rng_key: Array | None) -> State:
        keys = jax.random.split(jax.random.key(0) if rng_key is None else rng_key, len(ties))
        log_probs = dict(state.log_probs)
        for (name, tied), key in zip(ties.items(), keys, strict=True):
            noise = SPREAD * jax.random.normal(key, log_probs[name].shape)
            log_probs[name] = jnp.where(tied, log_softmax(noise, -1), log_probs[name])
        return State.of(log_probs, state.concentrations)

    def advance(self, path: Path, max_sweeps: int) -> Path:
        """Sweep once; go back where an extrapolation lowered the ELBO; extrapolate after every second sweep."""
        if not self.followers:
            return path._replace(state=self.sweep(path.state))
        state, bound = self._swept(_moved(path.state, path.point))
        slack = ROUNDING * jnp.finfo(bound.dtype).eps * (1.0 + jnp.abs(path.bound))
        kept = ~path.trial | ~(bound < path.bound - slack)
        new = {n: state.log_probs[n] for n in self.followers}
        old = {n: path.state.log_probs[n] for n in self.followers}
        new, before = self._where(kept, new, old), self._where(kept, path.point, path.before)
        # Another sweep must follow where a unit went back: its first site has not gone back yet.
        change = jnp.where(jnp.all(kept), state.change, jnp.inf)
        state = _moved(state, new)._replace(change=change)
        trial = ~path.trial & (state.num_sweeps > 1) & (state.num_sweeps + 2 <= max_sweeps)
        further = self._extrapolated(path.before, old, new)
        point = {n: jnp.where(trial, further[n], new[n]) for n in self.followers}
        return Path(state, before, point, jnp.where(kept, bound, path.bound), trial)

    def _per_unit(self, array: Array, name: str) -> Array:
        """Sum over everything but the units."""
        dims = self.sites[name].dims
        kept = summed(Named(dims, array), [d for d in dims if d not in self.units])
        return aligned(kept, self.units)

    def _over(self, unit: Array, name: str) -> Array:
        """Let an array over units broadcast against the factor of a site."""
        return aligned(Named(self.units, unit), self.sites[name].dims)

    def _where(self, kept: Array, new: Mapping[str, Array], old: Mapping[str, Array]) -> dict[str, Array]:
        return {n: jnp.where(self._over(kept, n), new[n], old[n]) for n in self.followers}

    def _extrapolated(
        self, first: Mapping[str, Array], second: Mapping[str, Array], third: Mapping[str, Array]
    ) -> dict[str, Array]:
        """Squared extrapolation of three successive factors of the followers, in log space."""
        steps, bends = {}, {}
        for name in self.followers:
            one, two, three = (jnp.maximum(x[name], LEAST_LOG) for x in (first, second, third))
            steps[name], bends[name] = two - one, (three - two) - (two - one)
        step, bend = (
            sum((self._per_unit(jnp.square(x[n]), n) for n in self.followers), start=jnp.zeros(()))
            for x in (steps, bends)
        )
        noise = (NOISE * jnp.finfo(step.dtype).eps) ** 2  # below it, a step is rounding errors
        length = jnp.sqrt(step / jnp.maximum(bend, noise))
        length = jnp.where(bend > noise, jnp.clip(length, 1.0, LONGEST), 1.0)
        further = {}
        for name in self.followers:
            a = self._over(length, name)
            start = jnp.maximum(first[name], LEAST_LOG)
            further[name] = log_softmax(start + 2.0 * a * steps[name] + a * a * bends[name], -1)
        return further

    def sweep(self, state: State) -> State:
        """Update every site once."""
        if not self.dirichlets:
            return self._swept(state)[0]
        log_means = {n: log_mean(a) for n, a in state.concentrations.items()}
        factors, pullback = _linearised(self.factors_at, log_means)
        new = self._discrete(state, self.split(factors))[0]
        updated = self._updated(factors, pullback, new.log_probs)
        changes = [jnp.max(jnp.abs(log_mean(a) - log_means[n])) for n, a in updated.items()]
        change = jnp.max(jnp.stack([new.change, *changes]))
        return new._replace(concentrations={**state.concentrations, **updated}, change=change)

    def _led(self, state: State, given: set[str]) -> State:
        """Update the Dirichlet sites that have no start: the first sweep would forget that of the discrete sites."""
        if not self.dirichlets:
            return state
        log_means = {n: log_mean(a) for n, a in state.concentrations.items()}
        updated = self._updated(*_linearised(self.factors_at, log_means), state.log_probs)
        kept = {n: a for n, a in updated.items() if n not in given}
        return state._replace(concentrations={**state.concentrations, **kept})

    def _discrete(self, state: State, split: Split) -> tuple[State, dict[str, Array]]:
        """Update every discrete site once; also return the logarithms of their normalisers."""
        log_probs, probs, normalisers, changes = dict(state.log_probs), dict(state.probs), {}, [jnp.zeros(())]
        for name in reversed(self.discrete):
            logits = split.own[name] + self._message(name, split.joint, probs)
            log_probs[name], new, normalisers[name] = _normalised(logits)
            changes.append(jnp.max(jnp.abs(new - probs[name])))
            probs[name] = new
        change = jnp.max(jnp.stack(changes))
        return State(log_probs, probs, state.concentrations, state.num_sweeps + 1, change), normalisers

    def _swept(self, state: State) -> tuple[State, Array]:
        """Sweep; return the ELBO of every unit after it, too.

        After the update of the first site the ELBO is its normaliser, and what does not touch it, at the old factors of
        the followers. Then every update adds the divergence of the old factor from the new one.
        """
        assert self._split is not None
        new, normalisers = self._discrete(state, self._split)
        q = {n: Named(self.sites[n].dims, state.probs[n]) for n in self.followers}
        apart = [f for f in self._split.joint if set(f.variables) <= set(q)]
        terms = [expectation(f, q, self.units) for f in apart]
        for name, site in self.discrete.items():
            gain = normalisers[name]
            if name in q:
                gain = (state.probs[name] * (self._split.own[name] - new.log_probs[name])).sum(-1, keepdims=True)
            terms.append(self._per_unit(gain * aligned(site.scale, site.dims), name))
        return new, sum(terms, start=jnp.zeros(()))

    def _updated(self, factors: Sequence[Factor], pullback: Any, log_probs: Mapping[str, Array]) -> dict[str, Array]:
        """Concentrations from the gradient of the expected log joint in E[ln u], in which it is linear."""
        updated = [n for n in self.dirichlets if n not in self._fixed]
        if not updated:
            return {}

        def value(data: list[Array]) -> Array:
            return self.expected([_with_data(f, a) for f, a in zip(factors, data, strict=True)], log_probs)

        (slopes,) = pullback(jax.grad(value)([f.log_prob.data for f in factors]))
        return {n: 1.0 + slopes[n] / jnp.expand_dims(self.sites[n].weight, -1) for n in updated}


def _moved(state: State, log_probs: Mapping[str, Array]) -> State:
    """Move some factors elsewhere."""
    probs = {n: jnp.exp(a) for n, a in log_probs.items()}
    return state._replace(log_probs={**state.log_probs, **log_probs}, probs={**state.probs, **probs})


def _normalised(logits: Array) -> tuple[Array, Array, Array]:
    """Return log-probabilities, probabilities, with one exponential for both, and the logarithm of the normaliser."""
    top = logits.max(-1, keepdims=True)
    terms = jnp.exp(logits - top)
    total = terms.sum(-1, keepdims=True)
    normaliser = top + jnp.log(total)
    return logits - normaliser, terms / total, normaliser


def _message(factor: Factor, site: LatentSite, q: Mapping[str, Named]) -> Array:
    """Expected log-probability of a factor for every value of a site, in units of the site's weight."""
    log_prob = factor.log_prob._replace(data=jnp.maximum(factor.log_prob.data, LOG_ZERO))
    operands = [log_prob, factor.scale] if factor.scale.dims else [log_prob]
    probs = {n: q[n] for n in factor.variables if n != site.name}
    plates = dict(factor.plates)
    if (choice := choice_of(site, factor.mask, [*operands, *probs.values()])) is not None:
        plates.pop(choice.dims[1])  # the site's axis takes its place
        operands = [choice.on_site(o) for o in (*operands, *probs.values())]
    elif factor.mask is not None:
        operands += [expected_mask(factor.mask, probs, log_prob), *probs.values()]
    else:
        operands += probs.values()
    present = {d for o in operands for d in o.dims}
    keep = [d for d in site.dims if d in present]
    repeats = prod(n for p, n in plates.items() if p not in present and p not in site.plates)
    message = aligned(Named(tuple(keep), named_einsum(operands, keep)), site.dims)
    weight = 1.0 if factor.scale.dims else factor.scale.data
    if _equal(factor.scale.data, site.scale.data) and repeats == 1:
        return message if not factor.scale.dims else message / aligned(site.scale, site.dims)
    return message * (repeats * weight) / aligned(site.scale, site.dims)


def _equal(one: Any, other: Any) -> bool:
    return isinstance(one, float | int) and isinstance(other, float | int) and one == other


def _with_data(factor: Factor, data: Array) -> Factor:
    return factor._replace(log_prob=factor.log_prob._replace(data=data))


def _linearised(factors_at: Any, log_means: Mapping[str, Array]) -> tuple[list[Factor], Any]:
    """Return the factors at E[ln u], and the map from gradients of their arrays to gradients of E[ln u]."""
    if not log_means:
        return factors_at(log_means), None
    shapes: list[Factor] = []

    def data_at(means: Mapping[str, Array]) -> list[Array]:
        shapes[:] = factors_at(means)
        return [f.log_prob.data for f in shapes]

    data, pullback = jax.vjp(data_at, dict(log_means))
    return [_with_data(f, a) for f, a in zip(shapes, data, strict=True)], pullback


def _mean_prior(site: LatentSite, log_probs: Mapping[str, Array], sites: Mapping[str, LatentSite]) -> Array:
    """Concentration of the prior, averaged over the sites that decide it."""
    concentration = concentration_of(site.fn)
    outer = concentration.ndim - 1 - len(site.shape)
    return concentration.mean(tuple(range(outer))) if outer > 0 else concentration


def _is_uniform(log_probs: Array) -> Array:
    probs = jnp.exp(log_probs)
    return jnp.max(probs.max(-1) - probs.min(-1)) < TIE


def _check_start(site: LatentSite, value: Any, shape: tuple[int, ...]) -> Array:
    value = jnp.asarray(value, float)
    try:
        fits = jnp.broadcast_shapes(value.shape, shape) == shape
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(
            f"Expected a start of site {site.name!r} that broadcasts to {shape}, found shape {value.shape}. Its last "
            "axis runs over the values, or components, of the site."
        )
    return jnp.broadcast_to(value, shape)
