"""Independent float64 references for the library: brute force, closed forms and convex programs.

Nothing here imports the library or JAX. Equation numbers are those of ``mathematics.md``. Person ``M`` (the
last one) is the AI; ``-1`` marks a missing annotation and an unknown truth.
"""

import itertools
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import cvxpy as cp
import numpy as np
from scipy.optimize import minimize
from scipy.special import digamma, gammaln, logsumexp, softmax, xlogy
from threadpoolctl import threadpool_limits

__all__ = [
    "PROBLEM_KINDS",
    "brute_force",
    "enumerate_cluster_l2d",
    "enumerate_prob_l2d",
    "generic_elbo",
    "generic_mean_field",
    "label_channel",
    "lda_elbo",
    "lda_log_evidence",
    "lda_mean_field",
    "mean_field_elbo",
    "mean_field_fixed_point",
    "mean_kl",
    "prob_l2d_closed_form",
    "project_cvxpy",
    "project_joint_cvxpy",
    "project_lbfgs",
    "project_newton",
    "project_reference",
    "random_problem",
]

Array = np.ndarray
LogJoint = Callable[[dict[str, int]], float]

PROBLEM_KINDS = ("equality", "one_sided_upper", "one_sided_lower", "slack", "mixed", "zeros_and_ones")


def _log(value: Array | float) -> Array:
    """Logarithm with ln 0 = -inf, silently."""
    with np.errstate(divide="ignore"):
        return np.log(np.asarray(value, np.float64))


def _ratio(numerator: Array, denominator: Array | float) -> Array:
    """Quotient with 0 / 0 = nan, silently: a posterior given an impossible event."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(numerator / denominator)


# --- Probabilistic L2D (section 1) ----------------------------------------------------------------


def label_channel(n_classes: int, eps: float) -> Array:
    """Label channel ``A[c, y] = (1 - eps) 1[c = y] + eps / C``, shape (C, C)."""
    channel = np.empty((n_classes, n_classes))
    for c, y in itertools.product(range(n_classes), repeat=2):
        channel[c, y] = (1 - eps) * (c == y) + eps / n_classes
    return channel


def enumerate_prob_l2d(
    gate: Array,
    beliefs: Array,
    annotations: Array,
    y: int,
    eps: float = 1e-3,
    ai_probs: Array | None = None,
) -> dict[str, float | Array]:
    """Posterior of one item by summing over every ``(z, t_1, ..., t_{M+1})``.

    Parameters
    ----------
    gate : array of float, shape (M + 1,)
        Probabilities of who decides.
    beliefs : array of float, shape (M + 1, C)
        What each person would say.
    annotations : array of int, shape (M + 1,)
        What each person said; -1 is missing.
    y : int
        The truth; -1 is unknown.
    eps : float
        Noise of the label channel.
    ai_probs : array of float, shape (C,), optional
        When given and the truth is known, the evidence is multiplied by ``ai_probs[y]``.

    Returns
    -------
    dict
        ``log_evidence`` of (annotations, y), float;
        ``z``, shape (M + 1,), p(z = k | annotations, y);
        ``t``, shape (M + 1, C), p(t_j = c | annotations, y);
        ``zt``, shape (M + 1, M + 1, C), ``zt[j, k, c]`` = p(t_j = c | z = k, annotations, y), which is
        defined for ``gate[k] = 0`` too. Entries given an event of probability zero are nan.
    """
    gate, beliefs = np.asarray(gate, np.float64), np.asarray(beliefs, np.float64)
    people, n_classes = beliefs.shape
    channel = label_channel(n_classes, eps)
    given_z = np.zeros((people, people, n_classes))  # p(t_j = c, annotations, y | z = k)
    evidence_given_z = np.zeros(people)
    for assignment in itertools.product(range(people), *([range(n_classes)] * people)):
        z, t = assignment[0], assignment[1:]
        weight = 1.0
        for m in range(people):
            weight *= beliefs[m, t[m]] * (annotations[m] in (-1, t[m]))
        if y != -1:
            weight *= channel[t[z], y]
            if ai_probs is not None:
                weight *= ai_probs[y]
        evidence_given_z[z] += weight
        for m in range(people):
            given_z[m, z, t[m]] += weight
    evidence = float(np.sum(gate * evidence_given_z))
    return {
        "log_evidence": float(_log(evidence)),
        "z": _ratio(gate * evidence_given_z, evidence),
        "t": _ratio(np.einsum("k,jkc->jc", gate, given_z), evidence),
        "zt": _ratio(given_z, evidence_given_z[None, :, None]),
    }


def prob_l2d_closed_form(
    gate: Array,
    beliefs: Array,
    annotations: Array,
    y: int,
    eps: float = 1e-3,
    ai_probs: Array | None = None,
) -> dict[str, float | Array]:
    """Posterior of one item by the closed form of section 1, in O(M C) apart from ``zt``.

    Parameters and returns are those of `enumerate_prob_l2d`; it works for any number of people and classes.
    """
    gate, beliefs = np.asarray(gate, np.float64), np.asarray(beliefs, np.float64)
    annotations = np.asarray(annotations)
    people, n_classes = beliefs.shape
    observed = annotations >= 0
    likelihood = np.ones(n_classes) if y == -1 else label_channel(n_classes, eps)[:, y]
    clamped = np.where(observed[:, None], np.eye(n_classes)[annotations], beliefs)  # p(t_j | t_obs)
    s = clamped @ likelihood
    r = _ratio(gate * s, gate @ s)
    decider = _ratio(clamped * likelihood, s[:, None])  # p(t_j | z = j, ...)
    t = np.where(gate[:, None] > 0, r[:, None] * decider, 0.0) + (1 - r[:, None]) * clamped
    zt = np.repeat(clamped[:, None, :], people, axis=1)
    zt[np.arange(people), np.arange(people)] = decider
    log_evidence = _log(beliefs[observed, annotations[observed]]).sum() + _log(gate @ s)
    if ai_probs is not None and y != -1:
        log_evidence = log_evidence + _log(ai_probs[y])
    return {"log_evidence": float(log_evidence), "z": r, "t": t, "zt": zt}


def mean_field_elbo(
    rho: Array, phi: Array, gate: Array, beliefs: Array, annotations: Array, y: int, eps: float = 1e-3
) -> float:
    """Evidence lower bound of one item, E_q[ln p(z, t_missing, t_obs, y)] - E_q[ln q], by enumeration.

    Parameters
    ----------
    rho : array of float, shape (M + 1,)
        q(z).
    phi : array of float, shape (M + 1, C)
        q(t_m); rows of people who annotated are ignored (they are clamped).
    gate, beliefs, annotations, y, eps
        As in `enumerate_prob_l2d`. The AI's own term ln ai_probs[y] is a constant and left out.

    Returns
    -------
    float
        The bound on ``enumerate_prob_l2d(...)["log_evidence"]``; -inf where q has mass that p lacks.
    """
    people, n_classes = np.shape(beliefs)
    log_channel = _log(label_channel(n_classes, eps))
    log_gate, log_beliefs = _log(gate), _log(beliefs)
    supports = [range(n_classes) if a == -1 else (int(a),) for a in annotations]
    elbo = 0.0
    for assignment in itertools.product(range(people), *supports):
        z, t = assignment[0], assignment[1:]
        q, log_q = rho[z], _log(rho[z])
        log_p = log_gate[z]
        for m in range(people):
            log_p = log_p + log_beliefs[m, t[m]]
            if annotations[m] == -1:
                q, log_q = q * phi[m, t[m]], log_q + _log(phi[m, t[m]])
        if y != -1:
            log_p = log_p + log_channel[t[z], y]
        if q > 0:
            elbo += float(q * (log_p - log_q))
    return elbo


def mean_field_fixed_point(
    gate: Array,
    beliefs: Array,
    annotations: Array,
    y: int,
    eps: float = 1e-3,
    sweeps: int = 50,
    order: Sequence[str] = ("t", "z"),
    init: tuple[Array, Array] | None = None,
    track_elbo: bool = True,
) -> tuple[Array, Array, list[float]]:
    """Coordinate ascent for one item with the updates of section 1.

    ``rho_m ∝ g_m exp(E_{q(t_m)} ln A[t_m, y])`` and ``phi_j(c) ∝ f_j(c) exp(rho_j ln A[c, y])``.

    Parameters
    ----------
    gate, beliefs, annotations, y, eps
        As in `enumerate_prob_l2d`; eps > 0.
    sweeps : int
        Passes over `order`.
    order : sequence of {"t", "z"}
        The updates of one sweep.
    init : tuple of arrays (rho, phi), optional
        Start; by default (gate, beliefs). Rows of people who annotated are clamped.
    track_elbo : bool
        Whether to enumerate the bound after each sweep (C to the power of the missing: small problems only).

    Returns
    -------
    rho : array of float, shape (M + 1,)
    phi : array of float, shape (M + 1, C)
        One-hot where annotated.
    elbos : list of float
        After each sweep, `sweeps` of them; empty when not tracked.
    """
    gate, beliefs = np.asarray(gate, np.float64), np.asarray(beliefs, np.float64)
    annotations = np.asarray(annotations)
    n_classes = beliefs.shape[1]
    log_gate, log_beliefs = _log(gate), _log(beliefs)
    log_likelihood = np.zeros(n_classes) if y == -1 else _log(label_channel(n_classes, eps)[:, y])
    observed = annotations[:, None] >= 0
    one_hot = np.eye(n_classes)[annotations]
    rho, phi = (gate, beliefs) if init is None else (np.asarray(a, np.float64) for a in init)
    phi = np.where(observed, one_hot, phi)
    elbos = []
    for _ in range(sweeps):
        for block in order:
            if block == "z":
                rho = softmax(log_gate + phi @ log_likelihood)
            elif block == "t":
                phi = softmax(log_beliefs + rho[:, None] * log_likelihood, axis=1)
                phi = np.where(observed, one_hot, phi)
            else:
                raise ValueError(f"order must name blocks 't' and 'z', got {block!r}")
        if track_elbo:
            elbos.append(mean_field_elbo(rho, phi, gate, beliefs, annotations, y, eps))
    return rho, phi, elbos


# --- Any small discrete program -------------------------------------------------------------------


def _log_joint_table(sites: Mapping[str, int], log_joint: LogJoint) -> Array:
    """Evaluate `log_joint` at every assignment; axes in the order of `sites`."""
    table = np.empty(tuple(sites.values()))
    for index in itertools.product(*map(range, table.shape)):
        table[index] = log_joint(dict(zip(sites, index, strict=True)))
    return table


def brute_force(sites: Mapping[str, int], log_joint: LogJoint) -> tuple[float, dict[str, Array], Array]:
    """Exact posterior of a program with discrete latent sites.

    Parameters
    ----------
    sites : mapping of str to int
        Latent sites and the sizes of their supports.
    log_joint : callable
        From ``{site: value}`` to ln p(latents, data), with the data closed over; -inf is allowed.

    Returns
    -------
    log_evidence : float
    marginals : dict of str to array of float
        p(site | data), shape (support,).
    joint : array of float
        p(latents | data), normalised, axes in the order of `sites`.

    Raises
    ------
    ValueError
        If the data have probability zero.
    """
    table = _log_joint_table(sites, log_joint)
    log_evidence = float(logsumexp(table))
    if not np.isfinite(log_evidence):
        raise ValueError(f"the log evidence must be finite, got {log_evidence}")
    joint = np.exp(table - log_evidence)
    marginals = {}
    for axis, name in enumerate(sites):
        marginals[name] = joint.sum(axis=tuple(a for a in range(joint.ndim) if a != axis))
    return log_evidence, marginals, joint


def _product(factors: Sequence[Array]) -> Array:
    """Outer product of the factors, one axis each."""
    table = np.ones(())
    for factor in factors:
        table = table[..., None] * factor
    return table


def _expectation(weights: Array, values: Array) -> Array:
    """Elementwise ``weights * values`` with 0 * -inf = 0."""
    return np.multiply(weights, values, out=np.zeros(values.shape), where=np.broadcast_to(weights > 0, values.shape))


def generic_elbo(sites: Mapping[str, int], log_joint: LogJoint, q: Mapping[str, Array]) -> float:
    """Evidence lower bound of a fully factorised q, summed over the full joint table.

    Parameters
    ----------
    sites, log_joint
        As in `brute_force`.
    q : mapping of str to array of float, shape (support,)
    """
    weights = _product([np.asarray(q[name], np.float64) for name in sites])
    table = _log_joint_table(sites, log_joint)
    return float(_expectation(weights, table).sum() - xlogy(weights, weights).sum())


def generic_mean_field(
    sites: Mapping[str, int],
    log_joint: LogJoint,
    init: Mapping[str, Array],
    order: Sequence[str],
    sweeps: int,
) -> dict[str, Array]:
    """Coordinate ascent ``ln q_s <- E_{q without s}[ln p] + const`` by expectation over the full joint table.

    Parameters
    ----------
    sites, log_joint
        As in `brute_force`.
    init : mapping of str to array of float, shape (support,)
        Start, one distribution a site.
    order : sequence of str
        Sites updated in one sweep, in turn; a site left out stays at its start.
    sweeps : int

    Returns
    -------
    dict of str to array of float, shape (support,)

    Raises
    ------
    ValueError
        If an update would have no mass anywhere.
    """
    names = list(sites)
    table = _log_joint_table(sites, log_joint)
    q = {name: np.array(init[name], np.float64) for name in names}
    for _ in range(sweeps):
        for name in order:
            axis = names.index(name)
            weights = _product([np.ones(1) if other == name else q[other] for other in names])
            others = tuple(a for a in range(table.ndim) if a != axis)
            log_q = _expectation(weights, table).sum(axis=others)
            if np.all(np.isneginf(log_q)):
                raise ValueError(f"the update of {name!r} has no mass: every value meets p = 0")
            q[name] = softmax(log_q)
    return q


# --- Workload projection (section 1, A.7-A.10) ----------------------------------------------------


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


_GRID = 2**20  # bounds are multiples of 1 / _GRID: exact in float32, and sums are exact in any order


def _random_target(rng: np.random.Generator, people: int) -> Array:
    """Positive integers that sum to `_GRID`."""
    weights = rng.dirichlet(np.full(people, rng.choice([0.3, 1.0, 10.0])))
    units = 1 + np.floor(weights * (_GRID - people)).astype(np.int64)
    units[np.argmax(units)] += _GRID - units.sum()
    return units


def _random_bounds(rng: np.random.Generator, kind: str, mean: Array) -> tuple[Array, Array]:
    """Integer bounds, in units of 1 / `_GRID`, around a target that sums to one."""
    people = mean.size
    target = _random_target(rng, people)
    below = np.floor(target * rng.uniform(0, 1, people)).astype(np.int64)
    above = target + np.floor((_GRID - target) * rng.uniform(0, 1, people) ** 3).astype(np.int64)
    nothing, everything = np.zeros(people, np.int64), np.full(people, _GRID)
    if kind == "equality":
        return target, target
    if kind == "one_sided_upper":
        return nothing, np.where(rng.random(people) < 0.7, above, everything)
    if kind == "one_sided_lower":
        return np.where(rng.random(people) < 0.7, below, nothing), everything
    if kind == "slack":
        width = rng.uniform(1e-3, 0.2, people)
        lower = np.floor(_GRID * np.clip(mean - width, 0, 1)).astype(np.int64)
        return lower, np.ceil(_GRID * np.clip(mean + width, 0, 1)).astype(np.int64)
    if kind == "mixed":
        lower_kind, upper_kind = rng.integers(3, size=people), rng.integers(3, size=people)
        lower = np.choose(lower_kind, [nothing, below, target])
        return lower, np.choose(upper_kind, [everything, above, target])
    if kind == "zeros_and_ones":
        chosen = rng.integers(people)
        if rng.random() < 0.3:
            return np.where(np.arange(people) == chosen, _GRID, 0), everything
        banned = rng.random(people) < 0.4
        banned[(chosen + 1) % people], banned[chosen] = True, False
        target = np.where(banned, 0, target)
        target[chosen] += _GRID - target.sum()
        upper = np.where(rng.random(people) < 0.5, np.maximum(above, target), everything)
        return np.where(rng.random(people) < 0.3, target, 0), np.where(banned, 0, upper)
    raise ValueError(f"kind must be one of {PROBLEM_KINDS}, got {kind!r}")


def random_problem(
    seed: int,
    kind: str,
    *,
    n: int | None = None,
    people: int | None = None,
    scale: float | None = None,
    floor: float = 1e-12,
) -> tuple[Array, Array, Array]:
    """Random workload projection with sum-feasible bounds.

    Parameters
    ----------
    seed : int
    kind : str
        One of `PROBLEM_KINDS`. In "slack" the bounds hold already and the KL is zero; in "zeros_and_ones"
        some upper bounds are 0 (and those people's lower bounds too), or one lower bound is 1.
    n, people : int, optional
        Items and people, the AI included; by default log-uniform on 1..4096 and 2..101.
    scale : float, optional
        Sharpness of q = softmax(scale * normal); by default one of 0.1, 1, 5, 20.
    floor : float
        Least entry of q, before it is normalised again.

    Returns
    -------
    log_q : array of float, shape (n, people)
        Normalised.
    lower, upper : array of float, shape (people,)
        Multiples of 2^-20, so exact in float32 as well, where sum(lower) <= 1 <= sum(upper) still holds.
    """
    rng = np.random.default_rng([seed, PROBLEM_KINDS.index(kind)])
    sizes = np.exp(rng.uniform(np.log([1, 2]), np.log([4097, 102])))
    drawn_scale = rng.choice([0.1, 1.0, 5.0, 20.0])
    n = int(sizes[0]) if n is None else n
    people = int(sizes[1]) if people is None else people
    scale = float(drawn_scale) if scale is None else scale
    # People differ on average as well, or the means of many items would all be 1 / people.
    logits = scale * (rng.standard_normal((n, people)) + rng.choice([0.0, 0.5]) * rng.standard_normal(people))
    q = np.maximum(softmax(logits, axis=1), floor)
    q /= q.sum(axis=1, keepdims=True)
    lower, upper = _random_bounds(rng, kind, q.mean(axis=0))
    return np.log(q), lower / _GRID, upper / _GRID


# --- Annotator LDA (section 2) --------------------------------------------------------------------


def lda_mean_field(log_h: Array, alpha: Array, sweeps: int, rho_init: Array | None = None) -> tuple[Array, Array]:
    """Mean field of one item in the annotator LDA (B.13, B.16): zeta first, then rho, each sweep.

    Parameters
    ----------
    log_h : array of float, shape (L, K)
        ln h_k(vote_l | x); leave padded votes out.
    alpha : array of float, shape (K,)
    sweeps : int
        At least 1.
    rho_init : array of float, shape (K,), optional
        By default alpha + L / K.

    Returns
    -------
    zeta : array of float, shape (L, K)
    rho : array of float, shape (K,)
        ``alpha + zeta.sum(0)`` for the zeta returned.
    """
    if sweeps < 1:
        raise ValueError(f"sweeps must be at least 1, got {sweeps}")
    log_h, alpha = np.asarray(log_h, np.float64), np.asarray(alpha, np.float64)
    votes, clusters = log_h.shape
    rho = alpha + votes / clusters if rho_init is None else np.asarray(rho_init, np.float64)
    zeta = np.empty_like(log_h)
    for _ in range(sweeps):
        zeta = softmax(log_h + digamma(rho) - digamma(rho.sum()), axis=1)
        rho = alpha + zeta.sum(axis=0)
    return zeta, rho


def lda_elbo(log_h: Array, alpha: Array, zeta: Array, rho: Array) -> float:
    """Evidence lower bound of one item of the annotator LDA for any zeta (L, K) and rho (K,)."""
    log_h, alpha = np.asarray(log_h, np.float64), np.asarray(alpha, np.float64)
    mean_log_u = digamma(rho) - digamma(np.sum(rho))

    def log_normaliser(a: Array) -> float:
        return float(np.sum(gammaln(a)) - gammaln(np.sum(a)))

    log_p = np.sum(zeta * (log_h + mean_log_u)) + (alpha - 1) @ mean_log_u - log_normaliser(alpha)
    entropy = -np.sum(xlogy(zeta, zeta)) - ((rho - 1) @ mean_log_u - log_normaliser(rho))
    return float(log_p + entropy)


def lda_log_evidence(log_h: Array, alpha: Array) -> float:
    """Exact ln p(votes | x) of one item: all K^L assignments, u integrated out (Dirichlet-multinomial)."""
    log_h, alpha = np.asarray(log_h, np.float64), np.asarray(alpha, np.float64)
    votes, clusters = log_h.shape
    terms = []
    for z in itertools.product(range(clusters), repeat=votes):
        counts = np.bincount(np.array(z, int), minlength=clusters)
        prior = np.sum(gammaln(alpha + counts) - gammaln(alpha)) + gammaln(alpha.sum()) - gammaln(alpha.sum() + votes)
        terms.append(prior + sum(log_h[vote, cluster] for vote, cluster in enumerate(z)))
    return float(logsumexp(terms))


# --- L2D to clusters (section 4) ------------------------------------------------------------------


def enumerate_cluster_l2d(
    gate: Any,
    beliefs: Any,
    membership: Any,
    annotations: Any,
    y: int,
    eps: float = 1e-3,
    modelled: bool = True,
) -> dict[str, Any]:
    """Posterior of one item by summing over every ``(v, w, t_1, ..., t_{M+1})``.

    Parameters
    ----------
    gate : array of float, shape (K + 1,)
        Probabilities of the clusters, and of the AI.
    beliefs : array of float, shape (M + 1, C)
        What each person would say, and the AI. The people's rows are not used unless `modelled`.
    membership : array of float, shape (K, M)
        Omega.
    annotations : array of int, shape (M,)
        What each person said; -1 is missing.
    y : int
        The truth; -1 is unknown.
    eps : float
        Noise of the label channel.
    modelled : bool
        Whether missing annotations are latent. If not, who decides is one of those who annotated the item, of a
        cluster that has such a one: rows of Omega+ are normalised over them, and the gate over these clusters.

    Returns
    -------
    dict
        ``log_evidence`` of (annotations if modelled, y, the AI's own term y_ai); and given these ``vw``,
        shape (K + 1, M + 1), ``v``, ``w``, and ``t``, shape (M + 1, C), nan where t is no part of the program.
    """
    gate, beliefs, said = np.asarray(gate, np.float64), np.asarray(beliefs, np.float64), np.asarray(annotations)
    num_clusters, people = np.shape(membership)
    n_classes = beliefs.shape[1]
    staff = np.zeros((num_clusters + 1, people + 1))
    staff[:num_clusters, :people] = membership
    staff[num_clusters, people] = 1.0
    if not modelled:
        staff = staff * np.append(said >= 0, True)
        gate = gate * (staff.sum(axis=1) > 0)
        gate = gate / gate.sum()
    shares = np.nan_to_num(_ratio(staff, staff.sum(axis=1, keepdims=True)))
    channel = label_channel(n_classes, eps)
    supports: list = [(int(a),) if a != -1 else range(n_classes) if modelled else (None,) for a in said]
    supports.append(range(n_classes))
    weighted = []
    for t in itertools.product(*supports):
        heard = [m for m in range(people + 1) if m == people or (modelled and t[m] is not None)]
        weighted.append((t, float(np.prod([beliefs[m, t[m]] for m in heard]))))
    vw, t_probs = np.zeros(staff.shape), np.zeros(beliefs.shape)
    for v, w in itertools.product(range(num_clusters + 1), range(people + 1)):
        if gate[v] * shares[v, w] == 0:
            continue
        for t, weight in weighted:
            p = gate[v] * shares[v, w] * weight * (channel[t[w], y] * beliefs[people, y] if y != -1 else 1.0)
            vw[v, w] += p
            for m in range(people + 1):
                if t[m] is not None:
                    t_probs[m, t[m]] += p
    unsaid = [support == (None,) for support in supports]
    t_probs[unsaid] = np.nan
    evidence = vw.sum()
    return {
        "log_evidence": float(_log(evidence)),
        "vw": vw / evidence,
        "v": vw.sum(axis=1) / evidence,
        "w": vw.sum(axis=0) / evidence,
        "t": t_probs / evidence,
    }


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
