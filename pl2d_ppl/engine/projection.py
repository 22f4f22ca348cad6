r"""I-projection of categorical posteriors onto bounds on their mean, which limit how often people are asked.

Given rows :math:`q_i`, find the rows closest to them in :math:`\frac1N\sum_i KL(\tilde q_i \| q_i)` whose mean lies
within bounds. The solution is :math:`\tilde q_{ik} \propto q_{ik} e^{-\nu_k}` for the multipliers that minimise
the convex dual (paper A, equations A.7 to A.10)

.. math:: D(\nu) = \sum_k \left[\max(\nu_k, 0)\, u_k - \max(-\nu_k, 0)\, l_k\right]
                   + \frac1N \sum_i \ln \sum_k q_{ik} e^{-\nu_k}.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.special import logsumexp

from pl2d_ppl.checks.bounds import SLACK

__all__ = ["Projection", "project"]

LOG_FLOOR = -60.0  # ln of the least probability, other than zero: multipliers below it would need float64
LOG_NEVER = -1e20  # below it, a probability is zero by the structure of the program
LARGEST_STEP = 20.0
RIDGE = 1e-7  # on the curvature of the dual, which is flat in one direction
GAP = 5.0  # the divergence may be off by this many tolerances, the bounds by one


class Projection(NamedTuple):
    """Solution of a projection.

    Attributes
    ----------
    multipliers : Array, shape (K,)
        nu: positive where an upper bound lowers the mean, negative where a lower bound raises it.
    mean : Array, shape (K,)
        Mean of the projected rows.
    violation : Array
        Largest distance of the mean from its bounds.
    residual : Array
        The larger of the violation and a fifth of the duality gap, by which the divergence may exceed the least.
    num_steps : Array
        Number of steps taken.
    """

    multipliers: Array
    mean: Array
    violation: Array
    residual: Array
    num_steps: Array


def log_floor(log_q: Array, floor: float = LOG_FLOOR) -> Array:
    """Normalise rows of log-probabilities, and floor those that are not zero by the structure of the program."""
    log_q = jax.nn.log_softmax(jnp.maximum(log_q, LOG_NEVER), -1)
    possible = log_q > 0.5 * LOG_NEVER
    return jax.nn.log_softmax(jnp.where(possible, jnp.maximum(log_q, floor), -jnp.inf), -1)


def shift(log_q: Array, multipliers: Array) -> Array:
    """Apply multipliers to rows of log-probabilities: ln q - nu, normalised."""
    return jax.nn.log_softmax(log_q - multipliers, -1)


def project(
    log_q: Array,
    lower: Array,
    upper: Array,
    *,
    weights: Array | None = None,
    start: Array | None = None,
    tolerance: float = 1e-5,
    max_steps: int = 100,
) -> Projection:
    """Find the multipliers that bring the mean of rows within bounds.

    Every step tries a Newton step on the coordinates whose bound is active (a semismooth Newton method on the
    optimality conditions), at several lengths, and one sweep of alternating scaling, which minimises a majoriser of the
    dual and therefore never raises it. The candidate with the lowest dual wins. Newton steps converge quadratically
    near the solution; alternating scaling converges from any start. Near the solution duals differ by less than their
    rounding errors: among such candidates the one with the lowest residual wins.

    Parameters
    ----------
    log_q : Array, shape (N, K)
        Log-probabilities of the rows, normalised; see ``log_floor``.
    lower, upper : Array, shape (K,)
        Feasible bounds on the mean; see ``pl2d_ppl.checks.bounds``. They may be traced.
    weights : Array, shape (N,), optional
        Weights of the rows in the mean; equal by default.
    start : Array, shape (K,), optional
        Multipliers to start from; zero by default.
    tolerance : float
        Largest residual at which to stop.
    max_steps : int
        At most this many steps.

    Returns
    -------
    Projection
        Multipliers, and the remaining violation of the bounds.
    """
    dtype = log_q.dtype
    weights = jnp.ones(log_q.shape[0], dtype) if weights is None else weights
    weights = weights / jnp.maximum(weights.sum(), jnp.finfo(dtype).tiny)
    dual = _Dual(log_q, *_tightened(lower.astype(dtype), upper.astype(dtype)), weights)

    def running(state: tuple) -> Array:
        nu, mean, step = state
        return (step < max_steps) & (dual.residual(nu, mean) > tolerance)

    def improve(state: tuple) -> tuple:
        nu, mean, step = state
        candidates = dual.candidates(nu, mean)
        values, means = jax.vmap(dual.value_and_mean)(candidates)
        best = _choose(values, jax.vmap(dual.residual)(candidates, means))
        return candidates[best], means[best], step + 1

    start = jnp.zeros(log_q.shape[1], dtype) if start is None else start
    first = start, dual.value_and_mean(start)[1], jnp.zeros((), int)
    nu, mean, num_steps = jax.lax.while_loop(running, improve, first)
    nu = dual.centred(nu)
    return Projection(nu, mean, dual.violation(mean), dual.residual(nu, mean), num_steps)


def _tightened(lower: Array, upper: Array) -> tuple[Array, Array]:
    """Tighten bounds by those that the others imply: if one must take all, the others can take nothing."""
    upper = jnp.minimum(upper, jnp.clip(1.0 - (lower.sum() - lower), 0.0, 1.0))
    lower = jnp.maximum(lower, jnp.clip(1.0 - (upper.sum() - upper), 0.0, 1.0))
    return lower, jnp.maximum(lower, upper)


class _Dual(NamedTuple):
    """The dual problem of one projection."""

    log_q: Array
    lower: Array
    upper: Array
    weights: Array

    def value_and_mean(self, nu: Array) -> tuple[Array, Array]:
        shifted = self.log_q - nu
        top = shifted.max(1)
        terms = jnp.exp(shifted - top[:, None])
        total = terms.sum(1)
        bounds = jnp.maximum(nu, 0) @ self.upper - jnp.maximum(-nu, 0) @ self.lower
        return bounds + self.weights @ (top + jnp.log(total)), (self.weights / total) @ terms

    def violation(self, mean: Array) -> Array:
        return jnp.max(jnp.maximum(jnp.maximum(self.lower - mean, mean - self.upper), 0.0))

    def residual(self, nu: Array, mean: Array) -> Array:
        gap = jnp.abs(nu) * jnp.abs(jnp.where(nu > 0, self.upper, self.lower) - mean)
        return jnp.maximum(self.violation(mean), gap.sum() / GAP)

    def candidates(self, nu: Array, mean: Array) -> Array:
        """Candidate steps, one per row: Newton at several lengths, and alternating scaling."""
        newton = self._newton(nu, mean)
        steps = [nu + length * newton for length in (1.0, 0.5, 0.2, 0.05)]
        return jnp.stack([*steps, self._scaling(nu)])

    def _scaling(self, nu: Array) -> Array:
        normaliser = logsumexp(self.log_q - nu, axis=1, keepdims=True)
        log_mean = logsumexp(self.log_q - normaliser, axis=0, b=self.weights[:, None])
        tiny = jnp.finfo(nu.dtype).tiny
        log_lower, log_upper = (jnp.log(jnp.maximum(b, tiny)) for b in (self.lower, self.upper))
        target = -jnp.clip(0.0, log_lower - log_mean, log_upper - log_mean)
        target = jnp.where(jnp.isfinite(log_mean), target, nu)  # of a value that never occurs
        return jnp.clip(target, nu - LARGEST_STEP, nu + LARGEST_STEP)

    def _newton(self, nu: Array, mean: Array) -> Array:
        """Newton step towards ``mean = clip(mean + nu, lower, upper)``: zero multipliers inside, bounds met outside."""
        rows = jnp.exp(shift(self.log_q, nu)) * jnp.sqrt(self.weights)[:, None]
        reach = mean + nu
        active = (reach > self.upper) | (reach < self.lower)
        bound = jnp.where(reach > self.upper, self.upper, self.lower)
        # Rows of inactive coordinates state d = -nu. The ridge fixes the direction in which the dual is flat.
        diagonal = jnp.where(active, mean + RIDGE, 1.0)
        right = jnp.where(active, mean - bound, -nu)
        step = _solve(diagonal, active.astype(nu.dtype), rows, right)
        step = jnp.where(jnp.all(jnp.isfinite(step)), step, 0.0)
        return jnp.clip(step, -LARGEST_STEP, LARGEST_STEP)

    def centred(self, nu: Array) -> Array:
        """Choose among equivalent multipliers: if all are determined only up to a constant, fix the constant.

        If every mean must meet its lower bound, shifting all multipliers down changes nothing, and likewise at the
        upper bounds; prices are then relative to the person who costs nothing.
        """
        all_lower = jnp.abs(self.lower.sum() - 1.0) < SLACK
        all_upper = jnp.abs(self.upper.sum() - 1.0) < SLACK
        fixed = jnp.where(all_lower, jnp.max(nu), jnp.where(all_upper, jnp.min(nu), 0.0))
        return nu - jnp.where(all_lower & all_upper, jnp.mean(nu), fixed)


def _choose(values: Array, residuals: Array) -> Array:
    """Index of the lowest dual; among duals equal up to rounding, index of the lowest residual."""
    rounding = 16 * jnp.finfo(values.dtype).eps * (1 + jnp.abs(values.min()))
    return jnp.argmin(jnp.where(values <= values.min() + rounding, residuals, jnp.inf))


def _solve(diagonal: Array, active: Array, rows: Array, right: Array) -> Array:
    """Solve (diag(diagonal) - diag(active) rows' rows) step = right, in the smaller of the two dimensions of rows."""
    num_rows, size = rows.shape
    if size <= num_rows:
        return jnp.linalg.solve(jnp.diag(diagonal) - active[:, None] * (rows.T @ rows), right)
    # With more people than items the matrix is a diagonal plus a product of low rank (Woodbury's identity).
    scaled = rows * (active / diagonal)
    inner = jnp.eye(num_rows, dtype=rows.dtype) - scaled @ rows.T
    first = right / diagonal
    return first + scaled.T @ jnp.linalg.solve(inner, rows @ first)
