"""I-projection onto workload bounds (section 1, A.7-A.10): convex programs and a certified Newton method."""

import warnings

import cvxpy as cp
import numpy as np
from scipy.optimize import minimize
from scipy.special import logsumexp, softmax, xlogy
from threadpoolctl import threadpool_limits

Array = np.ndarray


def mean_kl(q_tilde: Array, q: Array) -> float:
    """Mean over rows of KL(q_tilde_i || q_i), in nats."""
    q_tilde = np.asarray(q_tilde, np.float64)
    return float(np.mean(np.sum(xlogy(q_tilde, q_tilde) - xlogy(q_tilde, q), axis=1)))


def _check_bounds(q: Array, lower: Array, upper: Array) -> tuple[Array, Array, Array]:
    """Validate a projection problem and drop rounding of the bounds outside [0, 1]."""
    q = np.asarray(q, np.float64)
    lower = np.broadcast_to(np.asarray(lower, np.float64), q.shape[1:])
    upper = np.broadcast_to(np.asarray(upper, np.float64), q.shape[1:])
    if q.ndim != 2 or not np.all(q > 0):
        raise ValueError("q must be a matrix of positive entries: floor it first")
    tol = 1e-9
    boxed = np.all(lower >= -tol) and np.all(upper <= 1 + tol) and np.all(lower <= upper + tol)
    if not (boxed and lower.sum() <= 1 + tol and upper.sum() >= 1 - tol):
        raise ValueError(f"bounds must satisfy 0 <= lower <= upper <= 1 and sum-feasibility, got {lower}, {upper}")
    q = q / q.sum(axis=1, keepdims=True)
    return q, np.clip(lower, 0, 1), np.clip(upper, 0, 1)


def _tighten(lower: Array, upper: Array) -> tuple[Array, Array]:
    """Bounds that each mean must meet given the other bounds and the sum of one.

    Rounding of 1e-13 is snapped, so a person who must get nothing has an upper bound of exactly 0 and a fixed
    mean has equal bounds.
    """
    tight_upper = np.minimum(upper, 1 - (lower.sum() - lower))
    tight_lower = np.maximum(lower, 1 - (upper.sum() - upper))
    tight_upper = np.where(tight_upper < 1e-13, 0.0, tight_upper)
    tight_lower = np.where(tight_lower < 1e-13, 0.0, tight_lower)
    fixed = tight_upper - tight_lower < 1e-13
    middle = (tight_lower + tight_upper) / 2
    if fixed.all():  # the given bounds sum to one up to rounding only
        middle = middle / middle.sum()
    return np.where(fixed, middle, tight_lower), np.where(fixed, middle, tight_upper)


def _dual_value(nu: Array, log_q: Array, lower: Array, upper: Array) -> float:
    """Lower bound on the mean KL: minus the objective of the dual in section 1."""
    cost = np.maximum(nu, 0) @ upper - np.maximum(-nu, 0) @ lower
    return float(-cost - np.mean(logsumexp(log_q - nu, axis=1)))


def project_cvxpy(q: Array, lower: Array, upper: Array) -> tuple[Array, float]:
    """I-projection by the primal convex program (exponential cone, CLARABEL); for N K up to a few thousand.

    Minimises mean_i KL(q_tilde_i || q_i) over rows on the simplex with
    ``lower <= mean_i q_tilde_i <= upper``.

    Parameters
    ----------
    q : array of float, shape (N, K)
        Positive rows.
    lower, upper : array of float, shape (K,)
        Bounds on the column means.

    Returns
    -------
    q_tilde : array of float, shape (N, K)
    kl : float
        Mean KL at the optimum, in nats.

    Raises
    ------
    ValueError
        If the bounds are infeasible or q has zeros.
    RuntimeError
        If the solver does not report an optimum.
    """
    q, lower, upper = _check_bounds(q, lower, upper)
    # Bounds that leave the cone no interior (a person forced to zero) would stall an interior-point solver.
    lower, upper = _tighten(lower, upper)
    keep, fixed = upper > 0, lower == upper
    n, people = q.shape
    x = cp.Variable((n, int(keep.sum())))
    means = cp.sum(x, axis=0) / n
    constraints: list = [cp.sum(x, axis=1) == 1]
    equal = fixed[keep]
    if equal.any():
        # The rows' sums already fix one of the means when all are fixed: with it the system is singular.
        index = np.flatnonzero(equal)[: -1 if equal.all() else None]
        if index.size:
            constraints.append(means[index] == upper[keep][index])
    if not equal.all():
        index = np.flatnonzero(~equal)
        constraints += [means[index] <= upper[keep][index], means[index] >= lower[keep][index]]
    objective = cp.sum(-cp.entr(x) - cp.multiply(x, np.log(q[:, keep]))) / n
    problem = cp.Problem(cp.Minimize(objective), constraints)
    for tol in (1e-10, 1e-8):  # the tight one is sometimes beyond the solver
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Solution may be inaccurate")
            problem.solve(solver=cp.CLARABEL, tol_gap_abs=tol, tol_gap_rel=tol, tol_feas=tol)
        if problem.status == cp.OPTIMAL:
            break
    if problem.status != cp.OPTIMAL or x.value is None:
        raise RuntimeError(f"CLARABEL stopped with status {problem.status}")
    q_tilde = np.zeros((n, people))
    q_tilde[:, keep] = np.clip(x.value, 0, None)
    q_tilde /= q_tilde.sum(axis=1, keepdims=True)
    return q_tilde, mean_kl(q_tilde, q)


def _smoothed_cost(nu: Array, lower: Array, upper: Array, mu: float) -> tuple[Array, Array, Array]:
    """Support function of the box [lower, upper], smoothed by a log barrier inside it.

    ``phi(nu) = max_m nu m + mu ln(upper - m) + mu ln(m - lower)``; returns phi, its maximiser m (the
    derivative) and the second derivative, each of shape (K,). Where the bounds are equal, phi = nu * bound.
    """
    half = (upper - lower) / 2
    root = np.hypot(mu, nu * half)
    offset = nu * half**2 / (mu + root)
    near = half * (mu + mu**2 / (root + np.abs(nu) * half)) / (mu + root)  # distance to the nearer bound
    far = half + np.abs(offset)
    free = half > 0
    near, far = np.where(free, near, 1.0), np.where(free, far, 1.0)
    mean = (lower + upper) / 2 + offset
    value = nu * mean + np.where(free, mu * np.log(near * far), 0.0)
    curvature = np.where(free, 1 / (mu / near**2 + mu / far**2), 0.0)
    return value, mean, curvature


def _smoothed_dual(nu: Array, log_q: Array, lower: Array, upper: Array, mu: float) -> tuple[float, Array, Array, Array]:
    """Objective, gradient, diagonal curvature of the bounds, and q_tilde of the smoothed dual."""
    cost, mean, curvature = _smoothed_cost(nu, lower, upper, mu)
    logits = log_q - nu
    top = logits.max(axis=1, keepdims=True)
    q_tilde = np.exp(logits - top)
    total = q_tilde.sum(axis=1, keepdims=True)
    q_tilde /= total
    objective = float(cost.sum() + np.mean(np.log(total) + top))
    return objective, mean - q_tilde.mean(axis=0), curvature, q_tilde


def _newton(
    nu: Array, log_q: Array, lower: Array, upper: Array, mu: float, tol: float, max_steps: int = 500
) -> tuple[Array, Array]:
    """Minimise the smoothed dual by damped Newton steps until the gradient's largest entry is below `tol`."""
    n = len(log_q)
    objective, gradient, curvature, q_tilde = _smoothed_dual(nu, log_q, lower, upper, mu)
    damping = 1e-3
    for _ in range(max_steps):
        size = np.abs(gradient).max()
        if size < tol or damping > 1e12:
            break
        hessian = np.diag(q_tilde.mean(axis=0) + curvature) - q_tilde.T @ q_tilde / n
        scale = np.diag(hessian) + 1e-15
        step = -np.linalg.solve(hessian + np.diag(damping * scale), gradient)
        # Beyond a few nats the quadratic model of a log-sum-exp is worthless.
        step *= min(1.0, 5.0 / np.abs(step).max())
        candidate = _smoothed_dual(nu + step, log_q, lower, upper, mu)
        # At the end the objective is flat to rounding: there the gradient decides.
        noise = 1e-14 * (1 + abs(objective))
        if candidate[0] < objective - 1e-4 * abs(gradient @ step) - noise or (
            candidate[0] <= objective + noise and np.abs(candidate[1]).max() < size
        ):
            nu = nu + step
            objective, gradient, curvature, q_tilde = candidate
            damping = max(damping / 10, 1e-14)
        else:
            damping *= 10
    return nu, q_tilde


def project_newton(q: Array, lower: Array, upper: Array) -> tuple[Array, float, Array]:
    """I-projection by a path-following Newton method on the dual of section 1, with a certificate.

    A log barrier keeps the means inside their box; at each barrier weight the smoothed dual is minimised, so
    ``q_tilde`` meets the bounds to the solver's tolerance, and the dual value bounds the optimum from below.

    Parameters
    ----------
    q : array of float, shape (N, K)
    lower, upper : array of float, shape (K,)

    Returns
    -------
    q_tilde : array of float, shape (N, K)
    kl : float
        Mean KL in nats, right to 1e-6 (checked).
    nu : array of float, shape (K,)
        Signed multipliers; inf for a person forced to zero.

    Raises
    ------
    ValueError
        If the bounds are infeasible or q has zeros.
    RuntimeError
        If the duality gap or the violation is not small.
    """
    q, lower, upper = _check_bounds(q, lower, upper)
    low, up = _tighten(lower, upper)
    keep = up > 0
    low, up, log_q = low[keep], up[keep], np.log(q[:, keep])
    nu, inner = np.zeros(int(keep.sum())), np.zeros(log_q.shape)
    with threadpool_limits(1):  # these matrices are small: threads that wait on a busy core cost tenfold
        for power in range(2, 11):  # tenfold: the fewest Newton steps in all of the factors tried
            mu = 10.0**-power
            nu, inner = _newton(nu, log_q, low, up, mu, tol=max(1e-2 * mu, 1e-11))
    q_tilde = np.zeros(q.shape)
    q_tilde[:, keep] = inner
    multipliers = np.full(q.shape[1], np.inf)
    multipliers[keep] = nu
    kl, means = mean_kl(q_tilde, q), inner.mean(axis=0)
    violation = float(np.max(np.maximum(low - means, means - up)))
    gap = kl - _dual_value(nu, log_q, low, up)
    if violation > 1e-9 or abs(gap) > 1e-6:
        raise RuntimeError(f"the projection is not certified: violation {violation:.1e}, duality gap {gap:.1e}")
    return q_tilde, kl, multipliers


def project_lbfgs(q: Array, lower: Array, upper: Array) -> tuple[Array, float]:
    """I-projection by L-BFGS-B on the dual, nu = a - b, a, b >= 0: a plain third route.

    Returns q_tilde, shape (N, K), and the dual value, a lower bound on the mean KL. Slow and loose for
    sharp q: for small, flat problems.
    """
    q, lower, upper = _check_bounds(q, lower, upper)
    low, up = _tighten(lower, upper)
    keep = up > 0
    low, up, log_q = low[keep], up[keep], np.log(q[:, keep])
    people = low.size

    def objective(ab: Array) -> tuple[float, Array]:
        a, b = ab[:people], ab[people:]
        means = softmax(log_q - (a - b), axis=1).mean(axis=0)
        value = a @ up - b @ low + np.mean(logsumexp(log_q - (a - b), axis=1))
        return float(value), np.concatenate([up - means, means - low])

    options = {"maxiter": 20_000, "maxfun": 40_000, "ftol": 1e-16, "gtol": 1e-11, "maxcor": 30}
    fit = minimize(
        objective,
        np.zeros(2 * people),
        jac=True,
        method="L-BFGS-B",
        bounds=[(0, None)] * (2 * people),
        options=options,
    )
    nu = fit.x[:people] - fit.x[people:]
    q_tilde = np.zeros(q.shape)
    q_tilde[:, keep] = softmax(log_q - nu, axis=1)
    return q_tilde, _dual_value(nu, log_q, low, up)


def project_reference(q: Array, lower: Array, upper: Array) -> tuple[Array, float]:
    """I-projection of q on the workload bounds: the reference to test against.

    The certified `project_newton`, which takes .5 to 1 s at 4096 x 101; the tests hold it against the primal
    program `project_cvxpy`.

    Parameters
    ----------
    q : array of float, shape (N, K)
        Positive rows (floor them first); normalised here.
    lower, upper : array of float, shape (K,)

    Returns
    -------
    q_tilde : array of float, shape (N, K)
    kl : float
        Mean KL in nats, right to 1e-6.

    Raises
    ------
    ValueError, RuntimeError
        As `project_newton`.
    """
    q_tilde, kl, _ = project_newton(q, lower, upper)
    return q_tilde, kl


def project_joint_cvxpy(joint: Array, axis: int, lower: Array, upper: Array) -> Array:
    """I-projection of joints q_i(a, b) on bounds of the mean of one marginal: the joint itself is the variable.

    Minimises mean_i KL(q_tilde_i || q_i) over tables with the support of q_i.

    Parameters
    ----------
    joint : array of float, shape (N, A, B)
        Tables that sum to one.
    axis : int
        1 bounds the marginal of a, 2 that of b.
    lower, upper : array of float
        Bounds on the mean over i of that marginal.

    Returns
    -------
    array of float, shape (N, A, B)

    Raises
    ------
    RuntimeError
        If the solver does not report an optimum.
    """
    cells = np.argwhere(joint > 1e-15)
    q = joint[tuple(cells.T)]
    items = (np.arange(len(joint))[:, None] == cells[:, 0]).astype(float)
    values = (np.arange(joint.shape[axis])[:, None] == cells[:, axis]) / len(joint)
    x = cp.Variable(len(cells))
    constraints: list = [items @ x == 1]
    for row, low, high in zip(values, lower, upper, strict=True):
        constraints += [row @ x == low] if low == high else [row @ x >= low, row @ x <= high]
    problem = cp.Problem(cp.Minimize(cp.sum(-cp.entr(x) - cp.multiply(x, np.log(q))) / len(joint)), constraints)
    for tol in (1e-10, 1e-9, 1e-8):  # the tight ones are sometimes beyond the solver
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Solution may be inaccurate")
            problem.solve(solver=cp.CLARABEL, tol_gap_abs=tol, tol_gap_rel=tol, tol_feas=tol)
        if problem.status == cp.OPTIMAL:
            break
    if problem.status != cp.OPTIMAL or x.value is None:
        raise RuntimeError(f"CLARABEL stopped with status {problem.status}")
    q_tilde = np.zeros(joint.shape)
    q_tilde[tuple(cells.T)] = x.value
    return q_tilde
