"""Convex programs and Newton's method agree with one another on workload bounds."""

import numpy as np
import pytest

from oracles.projection import mean_kl, project_cvxpy, project_lbfgs, project_newton, project_reference
from oracles.workload_problems import PROBLEM_KINDS, random_problem


def assert_feasible(q_tilde, lower, upper, tol):
    means = q_tilde.mean(axis=0)
    assert np.all(q_tilde >= 0)
    np.testing.assert_allclose(q_tilde.sum(axis=1), 1, atol=1e-9)
    assert np.all(means >= lower - tol)
    assert np.all(means <= upper + tol)


@pytest.mark.parametrize("kind", PROBLEM_KINDS)
@pytest.mark.parametrize(
    ("n", "people", "scale"), [(1, 4, 1.0), (7, 3, 20.0), (40, 6, 5.0), (60, 12, 0.1), (30, 2, 20.0)]
)
def test_primal_and_dual_projection_agree(kind, n, people, scale):
    log_q, lower, upper = random_problem(n + people, kind, n=n, people=people, scale=scale)
    q = np.exp(log_q)
    primal, primal_kl = project_cvxpy(q, lower, upper)
    dual, dual_kl = project_reference(q, lower, upper)
    assert_feasible(primal, lower, upper, 1e-7)
    assert_feasible(dual, lower, upper, 1e-9)
    np.testing.assert_allclose(dual_kl, primal_kl, atol=1e-6)
    # Strong convexity: the minimisers are as close as the square root of the gap between the values.
    np.testing.assert_allclose(dual, primal, atol=5e-3)


@pytest.mark.parametrize("kind", PROBLEM_KINDS)
def test_lbfgs_on_the_dual_agrees(kind):
    log_q, lower, upper = random_problem(3, kind, n=50, people=5, scale=1.0)
    q_tilde, value = project_lbfgs(np.exp(log_q), lower, upper)
    expected, kl = project_reference(np.exp(log_q), lower, upper)
    np.testing.assert_allclose(value, kl, atol=1e-6)
    np.testing.assert_allclose(q_tilde, expected, atol=1e-4)


@pytest.mark.parametrize("kind", PROBLEM_KINDS)
def test_projection_meets_the_optimality_conditions(kind):
    log_q, lower, upper = random_problem(11, kind, n=300, people=8, scale=5.0)
    q_tilde, _, nu = project_newton(np.exp(log_q), lower, upper)
    keep = np.isfinite(nu)
    tilted = np.exp(log_q[:, keep] - nu[keep])
    np.testing.assert_allclose(q_tilde[:, keep], tilted / tilted.sum(axis=1, keepdims=True), atol=1e-12)
    if kind not in ("equality", "zeros_and_ones"):  # there the multipliers are known up to a shift
        means = q_tilde.mean(axis=0)
        np.testing.assert_allclose(means[nu > 1e-3], upper[nu > 1e-3], atol=1e-5)
        np.testing.assert_allclose(means[nu < -1e-3], lower[nu < -1e-3], atol=1e-5)
    if kind == "slack":
        np.testing.assert_allclose(q_tilde, np.exp(log_q), atol=1e-4)


def test_projection_closed_cases():
    q = np.array([[0.2, 0.3, 0.5], [0.6, 0.3, 0.1]])
    nobody, kl = project_reference(q, [0, 0, 0], [1, 0, 1])
    np.testing.assert_allclose(nobody[:, 1], 0)
    np.testing.assert_allclose(nobody[:, 0], q[:, 0] / (1 - q[:, 1]), atol=1e-6)
    np.testing.assert_allclose(kl, -np.log(0.7), atol=1e-6)
    only, kl = project_reference(q, [0, 0, 1], [1, 1, 1])
    np.testing.assert_allclose(only, [[0, 0, 1], [0, 0, 1]])
    np.testing.assert_allclose(kl, -np.log([0.5, 0.1]).mean(), atol=1e-12)
    single, kl = project_reference(q[:1], [0.1, 0.7, 0.2], [0.1, 0.7, 0.2])
    np.testing.assert_allclose(single, [[0.1, 0.7, 0.2]], atol=1e-9)
    np.testing.assert_allclose(kl, mean_kl(np.array([[0.1, 0.7, 0.2]]), q[:1]), atol=1e-9)
    for lower, upper in [
        ([0.5, 0.5, 0.5], [1, 1, 1]),
        ([0, 0, 0], [0.3, 0.3, 0.3]),
        ([0.5, 0, 0], [0.4, 1, 1]),
    ]:
        with pytest.raises(ValueError, match="bounds must"):
            project_reference(q, lower, upper)
    with pytest.raises(ValueError, match="floor"):
        project_reference(np.array([[0.0, 1.0]]), [0, 0], [1, 1])


@pytest.mark.parametrize("kind", PROBLEM_KINDS)
def test_random_problems_are_feasible_and_solved(kind):
    sharpest = 1.0
    for seed in range(12):
        log_q, lower, upper = random_problem(seed, kind)
        n, people = log_q.shape
        assert 1 <= n <= 4096
        assert 2 <= people <= 101
        assert log_q.dtype == np.float64
        for dtype in (np.float32, np.float64):
            low, up = lower.astype(dtype), upper.astype(dtype)
            assert low.sum() <= 1 <= up.sum()
            assert np.all((low >= 0) & (low <= up) & (up <= 1))
        sharpest = min(sharpest, np.exp(log_q).min())
        q_tilde, kl = project_reference(np.exp(log_q), lower, upper)
        assert_feasible(q_tilde, lower, upper, 1e-9)
        assert kl >= -1e-12
        if kind == "slack":
            np.testing.assert_allclose(kl, 0, atol=1e-6)
    assert sharpest < 1e-11


@pytest.mark.parametrize("scale", [0.1, 20.0])
def test_projection_at_full_size(scale):
    log_q, lower, upper = random_problem(0, "mixed", n=4096, people=101, scale=scale)
    q_tilde, _ = project_reference(np.exp(log_q), lower, upper)
    assert_feasible(q_tilde, lower, upper, 1e-9)
