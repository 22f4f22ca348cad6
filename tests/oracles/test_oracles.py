"""The oracles agree with one another."""

import numpy as np
import pytest

from oracles import (
    PROBLEM_KINDS,
    brute_force,
    enumerate_prob_l2d,
    generic_elbo,
    generic_mean_field,
    label_channel,
    lda_elbo,
    lda_log_evidence,
    lda_mean_field,
    mean_field_elbo,
    mean_field_fixed_point,
    mean_kl,
    prob_l2d_closed_form,
    project_cvxpy,
    project_lbfgs,
    project_newton,
    project_reference,
    random_problem,
)


def random_item(seed, people=4, n_classes=3):
    """Gate, beliefs, annotations, truth and eps of one item; every third truth is unknown."""
    rng = np.random.default_rng(seed)
    gate = rng.dirichlet(np.ones(people))
    beliefs = rng.dirichlet(np.full(n_classes, 0.5), size=people)
    annotations = rng.integers(-1, n_classes, size=people)
    annotations[-1] = -1
    y = -1 if seed % 3 == 2 else int(rng.integers(n_classes))
    return gate, beliefs, annotations, y, float(rng.choice([1e-3, 0.3]))


def latent_program(gate, beliefs, annotations, y, eps):
    """Write the same program for the generic oracles: the missing t and z are the latent sites."""
    missing = np.flatnonzero(annotations == -1)
    people, n_classes = beliefs.shape
    channel = label_channel(n_classes, eps)
    sites = {"z": people} | {f"t{m}": n_classes for m in missing}

    def log_joint(values):
        t = [values.get(f"t{m}", annotations[m]) for m in range(people)]
        log_p = np.log(gate[values["z"]]) + sum(np.log(beliefs[m, t[m]]) for m in range(people))
        return log_p + (np.log(channel[t[values["z"]], y]) if y != -1 else 0.0)

    return sites, log_joint, missing


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("with_ai", [False, True])
def test_enumeration_equals_closed_form(seed, with_ai):
    item = random_item(seed)
    ai_probs = item[1][-1] if with_ai else None
    literal = enumerate_prob_l2d(*item, ai_probs)
    closed = prob_l2d_closed_form(*item, ai_probs)
    for name in ("log_evidence", "z", "t", "zt"):
        np.testing.assert_allclose(literal[name], closed[name], rtol=1e-10, atol=1e-14, err_msg=name)
    mixed = np.einsum("k,jkc->jc", literal["z"], literal["zt"])
    np.testing.assert_allclose(mixed, literal["t"], atol=1e-13)


def test_enumeration_with_closed_gate_and_one_person():
    gate, beliefs, annotations, _, eps = random_item(1)
    gate = np.array([0.0, 1.0, 0.0, 0.0])
    literal = enumerate_prob_l2d(gate, beliefs, annotations, 0, eps)
    closed = prob_l2d_closed_form(gate, beliefs, annotations, 0, eps)
    np.testing.assert_allclose(literal["zt"], closed["zt"], atol=1e-13)
    np.testing.assert_allclose(literal["t"], closed["t"], atol=1e-13)
    alone = enumerate_prob_l2d(np.ones(1), beliefs[-1:], np.array([-1]), 2, eps)
    expected = np.log(beliefs[-1] @ label_channel(3, eps)[:, 2])
    np.testing.assert_allclose(alone["log_evidence"], expected)


def test_enumeration_by_hand():
    # The expert said 1 and is right; the AI says 1 with probability .4; the channel is exact.
    out = enumerate_prob_l2d(np.array([0.5, 0.5]), np.array([[0.2, 0.8], [0.6, 0.4]]), np.array([1, -1]), 1, 0.0)
    np.testing.assert_allclose(out["log_evidence"], np.log(0.8 * (0.5 + 0.5 * 0.4)))
    np.testing.assert_allclose(out["z"], [1 / 1.4, 0.4 / 1.4])
    np.testing.assert_allclose(out["t"], [[0, 1], [0.6 / 1.4, (0.4 + 0.4) / 1.4]])


@pytest.mark.parametrize("seed", range(9))
def test_generic_brute_force_equals_enumeration(seed):
    item = random_item(seed)
    sites, log_joint, missing = latent_program(*item)
    log_evidence, marginals, joint = brute_force(sites, log_joint)
    expected = enumerate_prob_l2d(*item)
    np.testing.assert_allclose(log_evidence, expected["log_evidence"], rtol=1e-12)
    np.testing.assert_allclose(marginals["z"], expected["z"], atol=1e-13)
    for m in missing:
        np.testing.assert_allclose(marginals[f"t{m}"], expected["t"][m], atol=1e-13)
    assert joint.shape == tuple(sites.values())
    np.testing.assert_allclose(joint.sum(), 1)


@pytest.mark.parametrize("seed", range(9))
@pytest.mark.parametrize("order", [("t", "z"), ("z", "t")])
def test_mean_field_rises_below_the_evidence_and_equals_the_generic_one(seed, order):
    item = random_item(seed)
    gate, beliefs = item[:2]
    rho, phi, elbos = mean_field_fixed_point(*item, sweeps=6, order=order)
    start = mean_field_elbo(gate, beliefs, *item)
    assert len(elbos) == 6
    assert np.all(np.diff([start, *elbos]) >= -1e-12)
    assert elbos[-1] <= enumerate_prob_l2d(*item)["log_evidence"] + 1e-12

    sites, log_joint, missing = latent_program(*item)
    init = {"z": gate} | {f"t{m}": beliefs[m] for m in missing}
    names = [f"t{m}" for m in missing]
    generic_order = [*names, "z"] if order == ("t", "z") else ["z", *names]
    q = generic_mean_field(sites, log_joint, init, generic_order, 6)
    np.testing.assert_allclose(q["z"], rho, atol=1e-12)
    for m in missing:
        np.testing.assert_allclose(q[f"t{m}"], phi[m], atol=1e-12)
    np.testing.assert_allclose(generic_elbo(sites, log_joint, q), elbos[-1], atol=1e-12)


def test_mean_field_resumes_from_init():
    item = random_item(4)
    rho, phi, _ = mean_field_fixed_point(*item, sweeps=5)
    first = mean_field_fixed_point(*item, sweeps=2)
    again, phi_again, _ = mean_field_fixed_point(*item, sweeps=3, init=first[:2], track_elbo=False)
    np.testing.assert_array_equal(again, rho)
    np.testing.assert_array_equal(phi_again, phi)


def test_generic_mean_field_copes_with_impossible_values():
    def log_joint(values):
        return 0.0 if values["a"] == values["b"] or values["a"] == 0 else -np.inf

    init = {"a": np.array([1.0, 0.0]), "b": np.array([0.5, 0.5])}
    q = generic_mean_field({"a": 2, "b": 2}, log_joint, init, ["a", "b"], 3)
    np.testing.assert_allclose(q["a"], [1, 0])
    np.testing.assert_allclose(q["b"], [0.5, 0.5])
    with pytest.raises(ValueError, match="no mass"):
        generic_mean_field({"a": 2, "b": 2}, lambda values: -np.inf, init, ["a"], 1)
    with pytest.raises(ValueError, match="log evidence"):
        brute_force({"a": 2}, lambda values: -np.inf)


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


@pytest.mark.parametrize("seed", range(4))
def test_lda_mean_field_rises_below_the_evidence(seed):
    rng = np.random.default_rng(seed)
    log_h = np.log(rng.dirichlet(np.ones(3), size=5))
    alpha = rng.uniform(0.5, 5, size=3)
    rho_init = alpha + rng.uniform(0, 3, size=3)
    elbos = []
    for sweeps in range(1, 9):
        zeta, rho = lda_mean_field(log_h, alpha, sweeps, rho_init)
        np.testing.assert_allclose(zeta.sum(axis=1), 1)
        np.testing.assert_allclose(rho, alpha + zeta.sum(axis=0))
        elbos.append(lda_elbo(log_h, alpha, zeta, rho))
    assert np.all(np.diff(elbos) >= -1e-12)
    assert elbos[-1] <= lda_log_evidence(log_h, alpha)
    zeta, rho = lda_mean_field(log_h, alpha, 500)
    best = lda_elbo(log_h, alpha, zeta, rho)
    for _ in range(20):  # a fixed point is a local maximum
        other = zeta * np.exp(1e-3 * rng.standard_normal(zeta.shape))
        other /= other.sum(axis=1, keepdims=True)
        assert lda_elbo(log_h, alpha, other, rho * np.exp(1e-3 * rng.standard_normal(3))) <= best + 1e-12


def test_lda_bound_is_tight_for_one_cluster():
    log_h = np.log([[0.2], [0.7]])
    zeta, rho = lda_mean_field(log_h, np.array([50.0]), 1)
    np.testing.assert_allclose(lda_elbo(log_h, np.array([50.0]), zeta, rho), log_h.sum())
    np.testing.assert_allclose(lda_log_evidence(log_h, np.array([50.0])), log_h.sum())
