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
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from pl2d_ppl.engine.elimination import eliminate, expectation
from pl2d_ppl.engine.factors import Factor, LatentSite, Named, concentration_of, log_mean
from pl2d_ppl.engine.marginals import require_sites
from pl2d_ppl.engine.program import FactorGraph, FrozenProgram, trace_factors

__all__ = ["MeanField", "coordinate_ascent"]


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
    program: FrozenProgram,
    sites: Sequence[str] | None = None,
    *,
    tolerance: float = 1e-4,
    max_sweeps: int = 50,
) -> MeanField:
    """Maximise the ELBO over a factorised posterior of discrete and Dirichlet sites.

    A sweep updates the sites one after the other, the last of the program first: observations of the leaves then take
    effect from the first update on.

    Parameters
    ----------
    program : FrozenProgram
        Program from :func:`~pl2d_ppl.engine.program.freeze`; its networks are not evaluated again.
    sites : sequence of str, optional
        Sites of q; by default all latent sites. Discrete sites left out are summed out exactly.
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
        If a name in ``sites`` is not a latent site, or ``max_sweeps`` is not positive.
    """
    if max_sweeps < 1:
        raise ValueError(f"Expected at least one sweep, found max_sweeps={max_sweeps}.")
    graph = trace_factors(program)
    require_sites(list(graph.latents) if sites is None else sites, graph.latents)
    ascent = _Ascent(program, graph, sites)

    def running(state: _State) -> Array:
        return (state.num_sweeps < max_sweeps) & (state.change > tolerance)

    state = jax.lax.while_loop(running, ascent.sweep, ascent.start())
    return MeanField(state.log_probs, state.concentrations, ascent.sites, state.num_sweeps, state.change)


class _State(NamedTuple):
    log_probs: dict[str, Array]
    concentrations: dict[str, Array]
    num_sweeps: Array
    change: Array


class _Ascent:
    """The start of coordinate ascent, and one sweep of it."""

    def __init__(self, program: FrozenProgram, graph: FactorGraph, sites: Sequence[str] | None):
        self.program = program
        self.sites = {n: s for n, s in graph.latents.items() if sites is None or n in sites}
        self.summed_out = {n: s for n, s in graph.latents.items() if n not in self.sites}
        self.factors = eliminate(graph.factors, self.summed_out)

    def expected(self, factors: Sequence[Factor], probs: Mapping[str, Array]) -> Array:
        """Expected log-probability of some sites."""
        q = {n: Named(self.sites[n].dims, _by_plates(a, self.sites[n])) for n, a in probs.items()}
        return sum((expectation(f, q) for f in factors), start=jnp.zeros(()))

    def expected_log_joint(self, probs: Mapping[str, Array], log_means: Mapping[str, Array]) -> Array:
        """Compute E_q[ln p]; if q has a Dirichlet site, run the program again at its E[ln u]."""
        if not log_means:
            return self.expected(self.factors, probs)
        graph = trace_factors(self.program, log_means=log_means)
        return self.expected(eliminate(graph.factors, self.summed_out), probs)

    def start(self) -> _State:
        """Start every site at its prior, averaged over the priors of its parents."""
        log_probs: dict[str, Array] = {}
        concentrations: dict[str, Array] = {}
        for name, site in self.sites.items():
            if site.kind == "dirichlet":
                concentrations[name] = concentration_of(site.fn)
            else:
                parents = {n: jnp.exp(a) for n, a in log_probs.items()}
                own = [f for f in self.factors if f.name == name]
                anywhere = jnp.zeros((*site.shape, site.size))
                slope = jax.grad(lambda a, n=name, own=own, q=parents: self.expected(own, {**q, n: a}))(anywhere)
                log_probs[name] = jax.nn.log_softmax(slope / site.scale, -1)
        return _State(log_probs, concentrations, jnp.zeros((), int), jnp.full((), jnp.inf))

    def sweep(self, state: _State) -> _State:
        """Update every site once."""
        probs = {n: jnp.exp(a) for n, a in state.log_probs.items()}
        log_means = {n: log_mean(a) for n, a in state.concentrations.items()}
        log_probs, concentrations, changes = dict(state.log_probs), dict(state.concentrations), []
        for name in reversed(self.sites):
            site = self.sites[name]
            if site.kind == "discrete":
                slope = jax.grad(lambda a, n=name: self.expected_log_joint({**probs, n: a}, log_means))(probs[name])
                log_probs[name] = jax.nn.log_softmax(slope / site.scale, -1)
                new, old = jnp.exp(log_probs[name]), probs[name]
                probs[name] = new
            else:
                slope = jax.grad(lambda a, n=name: self.expected_log_joint(probs, {**log_means, n: a}))(log_means[name])
                concentrations[name] = 1.0 + slope / site.scale
                new, old = log_mean(concentrations[name]), log_means[name]
                log_means[name] = new
            changes.append(jnp.max(jnp.abs(new - old)))
        return _State(
            log_probs, concentrations, state.num_sweeps + 1, jnp.max(jnp.stack([jnp.zeros(()), *changes]))
        )  # of no site, nothing


def _by_plates(array: Array, site: LatentSite) -> Array:
    """Drop the batch dimensions that belong to no plate."""
    return array.reshape(*site.plates.values(), site.size)
