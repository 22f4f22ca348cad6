"""E-steps of ``prob_l2d`` written by hand: what the library's derived guides are measured against.

Formulas are those of docs/mathematics.md, for any label channel A, with a truth for every item and M experts; the AI
comes last and is never observed. Each function takes the networks' outputs and a batch, and returns log-probabilities.
"""

from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.nn import log_softmax
from jax.scipy.special import logsumexp

from pl2d_ppl.distributions.answers import ABSENT, label_channel
from pl2d_ppl.engine.projection import log_floor, project, shift

__all__ = ["exact", "exact_with_t", "mean_field", "num_sweeps", "released"]

NOISE = 1e-3  # the model's default
RELEASED_SWEEPS = 10

Values = Mapping[str, Array]


class Terms(NamedTuple):
    """Logarithms that every E-step starts from: gate (N, K), beliefs (N, K, C), and ln A[c, y] (N, 1, C)."""

    gate: Array
    belief: Array
    truth: Array


def _terms(outputs: Values, batch: Values) -> Terms:
    num_categories = outputs["belief_logits"].shape[-1]
    said = jnp.pad(batch["annotations"], ((0, 0), (0, 1)), constant_values=-1)
    copied = jnp.where(said[..., None] == jnp.arange(num_categories), 0.0, ABSENT)
    belief = jnp.where(said[..., None] >= 0, copied, log_softmax(outputs["belief_logits"], -1))
    truth = label_channel(num_categories, NOISE)[:, batch["y"]].T[:, None]
    return Terms(log_softmax(outputs["gate_logits"], -1), belief, truth)


def _bounded(log_q: Array, bounds: tuple[Array, Array]) -> Array:
    """Project onto the bounds of the workload, as the library does."""
    log_q = log_floor(log_q)
    return shift(log_q, project(log_q, *bounds).multipliers)


def exact(outputs: Values, batch: Values, bounds: tuple[Array, Array]) -> Array:
    """Posterior of z in closed form: r_m proportional to g_m s_m."""
    gate, belief, truth = _terms(outputs, batch)
    return _bounded(log_softmax(gate + logsumexp(belief + truth, -1), -1), bounds)


def exact_with_t(outputs: Values, batch: Values, bounds: tuple[Array, Array]) -> tuple[Array, Array, Array]:
    """Posterior of z; of a person's t if they decide; and of t if they do not."""
    gate, belief, truth = _terms(outputs, batch)
    joint = belief + truth
    log_s = logsumexp(joint, -1)
    return _bounded(log_softmax(gate + log_s, -1), bounds), joint - log_s[..., None], belief


def _sweep(terms: Terms, log_rho: Array) -> tuple[Array, Array]:
    """Update every q(t), then q(z)."""
    phi = log_softmax(terms.belief + jnp.exp(log_rho)[..., None] * terms.truth, -1)
    return log_softmax(terms.gate + jnp.sum(jnp.exp(phi) * terms.truth, -1), -1), phi


def num_sweeps(outputs: Values, batch: Values, *, tolerance: float = 1e-4, max_sweeps: int = 50) -> int:
    """Number of sweeps until no probability changes by more than the tolerance: the stopping rule of the library."""
    terms = _terms(outputs, batch)
    old, sweep = (terms.gate, terms.belief), jax.jit(_sweep)
    for count in range(1, max_sweeps + 1):
        new = sweep(terms, old[0])
        if max(jnp.max(jnp.abs(jnp.exp(a) - jnp.exp(b))) for a, b in zip(new, old, strict=True)) <= tolerance:
            return count
        old = new
    return max_sweeps


def mean_field(outputs: Values, batch: Values, bounds: tuple[Array, Array], *, sweeps: int) -> tuple[Array, Array]:
    """Mean field, q(z) and q(t), by a fixed number of sweeps."""
    terms = _terms(outputs, batch)
    start = terms.gate, terms.belief
    log_rho, phi = jax.lax.fori_loop(0, sweeps, lambda _, q: _sweep(terms, q[0]), start)
    return _bounded(log_rho, bounds), phi


def _released_sweep(terms: Terms, log_rho: Array, phi: Array) -> tuple[Array, Array]:
    others = jnp.exp(phi.sum(1, keepdims=True) - phi)
    phi = log_softmax(terms.belief + jnp.exp(log_rho)[..., None] * others * terms.truth, -1)
    return log_softmax(terms.gate + jnp.sum(jnp.exp(phi) * terms.truth, -1), -1), phi


def released(outputs: Values, batch: Values, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
    """Ten sweeps of the update that paper A prints as A.17, with the projection of this library.

    The exponent of q(t_j) has the product of the other people's probabilities of the same category, which is no
    coordinate update of the ELBO: this is here for its cost only.
    """
    terms = _terms(outputs, batch)
    update = partial(_released_sweep, terms)
    log_rho, phi = jax.lax.fori_loop(0, RELEASED_SWEEPS, lambda _, q: update(*q), (terms.gate, terms.belief))
    return _bounded(log_rho, bounds), phi
