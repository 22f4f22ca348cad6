"""Memberships as points of a simplex: coordinates for sampling, and maximisation of concave functions."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpyro.distributions import constraints
from numpyro.distributions.transforms import ParameterFreeTransform
from scipy.linalg import helmert

__all__ = ["LogRatio", "ascend", "em_step"]

PROXIMITY = 0.1  # ratio of slack to gap: keeps a Newton step bounded where clusters are alike
NEAREST = 0.99  # share of the way to the boundary that a Newton step may go


class LogRatio(ParameterFreeTransform):
    r"""Isometric log-ratio coordinates of a simplex: :math:`\omega = \mathrm{softmax}(x H)`, H the Helmert matrix.

    NumPyro samples on a simplex by stick breaking, whose last component cannot be smaller than the machine's precision.
    Under a Dirichlet of concentration .1, a tenth of the mass lies below the precision of float32, and means came out
    as (.44, .56) for (.5, .5). Here every component may be as small as the least number, no component is special, and
    coordinates are less correlated than with one cluster as the reference.

    References
    ----------
    Egozcue et al. (2003). Isometric logratio transformations for compositional data analysis. Mathematical Geology.
    """

    domain = constraints.real_vector
    codomain = constraints.simplex

    def __call__(self, x: Array) -> Array:
        """Map coordinates, shape (..., K-1), to weights, shape (..., K)."""
        return jnp.exp(self._log_weights(x))

    def _inverse(self, y: Array) -> Array:
        return jnp.log(y) @ _basis(y.shape[-1], y).T

    def log_abs_det_jacobian(self, x: Array, y: Array, intermediates: None = None) -> Array:
        """Logarithm of the volume of the map, sum_k ln omega_k + ln(K) / 2."""
        return self._log_weights(x).sum(-1) + 0.5 * np.log(x.shape[-1] + 1)

    def forward_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of weights for a shape of coordinates."""
        return (*shape[:-1], shape[-1] + 1)

    def inverse_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of coordinates for a shape of weights."""
        return (*shape[:-1], shape[-1] - 1)

    def _log_weights(self, x: Array) -> Array:
        return jax.nn.log_softmax(x @ _basis(x.shape[-1] + 1, x), -1)


def _basis(size: int, like: Array) -> Array:
    """Orthonormal rows, (size - 1, size), orthogonal to the vector of ones."""
    return jnp.asarray(helmert(size) if size > 1 else np.zeros((0, 1)), like.dtype)


class _Ascent(NamedTuple):
    omega: Array
    gap: Array
    best: Array
    least_gap: Array
    step: Array


def ascend(
    objective: Callable[[Array], Array], start: Array, tolerance: Array | float, max_steps: Array | int
) -> tuple[Array, Array]:
    r"""Maximise a concave function on the simplex, by EM and Newton steps.

    With :math:`g` the gradient at :math:`\omega`, one step of EM is

    .. math:: \omega_k \leftarrow \omega_k (1 + g_k - \omega^\top g).

    For a mean log-likelihood :math:`\frac1n \sum_j \ln \sum_k \omega_k h_{jk}`, for which :math:`\omega^\top g = 1`,
    it is the mean responsibility, :math:`\omega_k g_k`. EM never lowers the likelihood, but is sublinear where a
    component goes to zero. Every step therefore tries the Newton step as well that maximises

    .. math:: g^\top d + \tfrac12 d^\top \nabla g \, d - \tfrac12 \sum_k s_k d_k^2 / \omega_k, \qquad \sum_k d_k = 0,

    with the slack :math:`s_k = \max g - g_k` and a little more as the penalty that keeps :math:`\omega` positive, and
    takes the better of the two. The maximum lies at most :math:`\max g - \omega^\top g` above the value at
    :math:`\omega`.

    Parameters
    ----------
    objective : callable
        A concave function of (K,).
    start : Array, shape (K,)
        A point inside the simplex.
    tolerance : float
        Stop when the gap, max g - omega . g, is at most this.
    max_steps : int
        At most this many steps.

    Returns
    -------
    omega : Array, shape (K,)
        The point with the smallest gap.
    gap : Array
        Its gap.
    """
    slope = jax.grad(objective)

    def running(state: _Ascent) -> Array:
        return (state.step < max_steps) & (state.least_gap > tolerance)

    def step(state: _Ascent) -> _Ascent:
        omega, g = state.omega, slope(state.omega)
        tried = jnp.stack([em_step(omega, g), _newton_step(omega, g, jax.hessian(objective)(omega), state.gap)])
        tried = jnp.maximum(tried, jnp.finfo(omega.dtype).eps ** 2)
        tried = tried / tried.sum(-1, keepdims=True)
        values = jax.vmap(objective)(tried)
        return moved(state, tried[jnp.argmax(jnp.where(jnp.isnan(values), -jnp.inf, values))])

    def moved(state: _Ascent, omega: Array) -> _Ascent:
        g = slope(omega)
        gap = jnp.maximum(g.max() - omega @ g, 0.0)
        better = gap < state.least_gap  # it separates points whose values are equal up to rounding
        best, least = jnp.where(better, omega, state.best), jnp.where(better, gap, state.least_gap)
        return _Ascent(omega, gap, best, least, state.step + 1)

    unknown = jnp.full((), jnp.inf, start.dtype)
    first = moved(_Ascent(start, unknown, start, unknown, jnp.full((), -1)), start)
    last = jax.lax.while_loop(running, step, first)
    return last.best, last.least_gap


def em_step(omega: Array, slope: Array) -> Array:
    """Take one step of EM, of shape (K,), for the gradient of the mean log-likelihood at omega."""
    return omega * (1 + slope - omega @ slope)


def _newton_step(omega: Array, slope: Array, curvature: Array, gap: Array) -> Array:
    """Take a Newton step within the simplex, in coordinates d / sqrt(omega), where it is well scaled."""
    slack = slope.max() + PROXIMITY * gap - slope
    root = jnp.sqrt(omega)
    system = jnp.diag(slack) - root[:, None] * curvature * root
    # The slope is minus the slack, up to a constant that the constraint removes.
    solved = root[:, None] * jnp.linalg.solve(system, jnp.stack([-root * slack, root], -1))
    direction = solved[:, 0] - solved[:, 1] * (solved[:, 0].sum() / solved[:, 1].sum())
    return omega + direction * NEAREST / jnp.maximum(jnp.max(-direction / omega), NEAREST)
