"""I-projection onto workload bounds, against a certified float64 solver."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.projection import mean_kl, project_reference
from oracles.workload_problems import PROBLEM_KINDS, random_problem
from scipy.special import log_softmax

from pl2d_ppl.checks.bounds import check_bounds
from pl2d_ppl.engine.projection import log_floor, project, shift

SIZES = (48, 512, 4096)  # rows are padded to these with weights of zero, so that little is compiled
PEOPLE = (2, 5, 12, 101)


@jax.jit
def solve(log_q, lower, upper, weights):
    return project(log_floor(log_q), lower, upper, weights=weights)


def solve_padded(log_q, lower, upper):
    """Project rows padded with nonsense that has no weight."""
    size = next(s for s in SIZES if s >= len(log_q))
    nonsense = np.full((size - len(log_q), log_q.shape[1]), -np.log(log_q.shape[1]))
    weights = np.arange(size) < len(log_q)
    float_type = jnp.result_type(float)
    return solve(*(jnp.asarray(a, float_type) for a in (np.concatenate([log_q, nonsense]), lower, upper, weights)))


def assert_solves(log_q, lower, upper, found):
    """Bounds met, and as close to q as the reference, both measured in float64."""
    q_tilde = np.exp(log_softmax(log_q - np.float64(found.multipliers), axis=1))
    mean = q_tilde.mean(0)
    assert np.max(np.maximum(lower - mean, mean - upper)) <= 1e-4
    assert found.violation <= 1e-4
    np.testing.assert_allclose(found.mean, mean, atol=1e-4)
    assert abs(mean_kl(q_tilde, np.exp(log_q)) - project_reference(np.exp(log_q), lower, upper)[1]) <= 1e-4


def draw(seed, sizes, people):
    rng = np.random.default_rng([seed, 99])
    n = int(np.exp(rng.uniform(0, np.log(sizes[-1] + 1))))
    return random_problem(seed, PROBLEM_KINDS[seed % len(PROBLEM_KINDS)], n=n, people=int(rng.choice(people)))


@pytest.mark.parametrize("kind", PROBLEM_KINDS)
def test_small_problems_are_solved(kind):
    for seed in range(15):
        problem = random_problem(seed, kind, n=1 + 3 * seed, people=5)
        assert_solves(*problem, solve_padded(*problem))


@pytest.mark.parametrize("kind", PROBLEM_KINDS)
def test_more_people_than_items(kind):
    for seed in range(10):
        problem = random_problem(seed, kind, n=12, people=40)
        found = solve(*(jnp.asarray(a, jnp.float32) for a in (*problem, np.ones(12))))
        assert_solves(*problem, found)
        assert found.num_steps < 100


@pytest.mark.slow
@pytest.mark.parametrize("block", range(10))
def test_a_thousand_problems_are_solved(block):
    failures = []
    for seed in range(100 * block, 100 * (block + 1)):
        # Every twentieth is large: the reference takes up to a second there.
        problem = draw(seed, *((SIZES, PEOPLE) if seed % 20 == 0 else (SIZES[:2], PEOPLE[:3])))
        try:
            assert_solves(*problem, solve_padded(*problem))
        except AssertionError as error:
            failures.append((seed, PROBLEM_KINDS[seed % len(PROBLEM_KINDS)], problem[0].shape, str(error)[:200]))
    assert not failures


@pytest.mark.parametrize("kind", PROBLEM_KINDS)
def test_multipliers_meet_the_optimality_conditions(float64, kind):
    for seed in range(5):
        log_q, lower, upper = random_problem(seed, kind, n=40, people=5, scale=1.0)
        found = solve_padded(log_q, lower, upper)
        nu, mean = np.asarray(found.multipliers), np.asarray(found.mean)
        assert found.residual <= 1e-5
        # Where bounds are implied by the others (somebody must take all) the multipliers of those are free.
        low = np.maximum(lower, 1 - (upper.sum() - upper))
        high = np.minimum(upper, 1 - (lower.sum() - lower))
        up, down = nu > 1e-4, nu < -1e-4
        np.testing.assert_allclose(mean[up & (high > 0)], high[up & (high > 0)], atol=1e-4)
        np.testing.assert_allclose(mean[down], low[down], atol=1e-4)


def test_multipliers_have_the_sign_of_the_bound_that_binds(float64):
    log_q = np.log(np.tile([0.7, 0.2, 0.1], (8, 1)))
    held_down = solve_padded(log_q, np.zeros(3), np.array([0.5, 1.0, 1.0])).multipliers
    assert held_down[0] > 0.1
    np.testing.assert_allclose(held_down[1:], 0.0, atol=1e-4)
    lifted = solve_padded(log_q, np.array([0.0, 0.0, 0.4]), np.ones(3)).multipliers
    assert lifted[2] < -0.1
    np.testing.assert_allclose(lifted[:2], 0.0, atol=1e-4)


def test_equal_rows_are_projected_in_closed_form(float64):
    log_q = np.log(np.tile([0.7, 0.2, 0.1], (8, 1)))
    target = np.array([0.3, 0.3, 0.4])
    found = solve_padded(log_q, target, target)
    np.testing.assert_allclose(found.mean, target, atol=1e-5)
    expected = np.log([0.7, 0.2, 0.1]) - np.log(target)
    np.testing.assert_allclose(found.multipliers, expected - expected.mean(), atol=1e-4)


@pytest.mark.slow
def test_weights_are_repetitions(float64):
    log_q, lower, upper = random_problem(3, "mixed", n=12, people=5)
    weights = np.random.default_rng(0).integers(0, 4, 12)
    weighted = project(jnp.asarray(log_q), jnp.asarray(lower), jnp.asarray(upper), weights=jnp.asarray(weights) * 1.0)
    repeated = project(jnp.asarray(np.repeat(log_q, weights, axis=0)), jnp.asarray(lower), jnp.asarray(upper))
    np.testing.assert_allclose(weighted.multipliers, repeated.multipliers, atol=1e-6)
    np.testing.assert_allclose(weighted.mean, repeated.mean, atol=1e-6)


def test_bounds_may_be_traced_and_batched():
    log_q, *_ = random_problem(4, "slack", n=40, people=3, scale=1.0)
    log_q = jnp.asarray(log_q, jnp.float32)
    shares = jnp.array([0.05, 0.2, 0.5, 0.9])
    lower = jnp.stack([jnp.zeros(4), jnp.zeros(4), shares], axis=1)
    upper = jnp.stack([jnp.ones(4), jnp.ones(4), shares], axis=1)
    traced = []

    @jax.jit
    def compiled(lower, upper):
        traced.append(lower)
        return project(log_q, *check_bounds(lower, upper))

    single = [compiled(low, up) for low, up in zip(lower, upper, strict=True)]
    assert len(traced) == 1
    batched = jax.jit(jax.vmap(partial(project, log_q)))(lower, upper)
    for i, one in enumerate(single):
        np.testing.assert_allclose(one.mean[2], shares[i], atol=1e-5)
        np.testing.assert_allclose(batched.mean[i], one.mean, atol=2e-5)
        np.testing.assert_allclose(batched.multipliers[i], one.multipliers, atol=1e-3)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    logits=st.lists(st.lists(st.floats(-20, 20), min_size=4, max_size=4), min_size=1, max_size=48),
    slack=st.floats(1e-3, 1.0),
)
def test_slack_bounds_leave_q_unchanged(logits, slack):
    log_q = log_softmax(np.array(logits), axis=1)
    mean = np.exp(log_q).mean(0)
    lower, upper = np.clip(mean - slack, 0, 1), np.clip(mean + slack, 0, 1)
    found = solve_padded(log_q, lower, upper)
    np.testing.assert_allclose(found.multipliers, 0.0, atol=1e-6)
    np.testing.assert_allclose(found.mean, mean, atol=1e-5)


def test_a_value_that_cannot_occur_stays_so():
    log_q = log_floor(jnp.array([[0.0, -jnp.inf, -1.0], [0.0, -1e30, -2.0]]))
    assert np.all(np.isneginf(log_q[:, 1]))
    found = project(log_q, jnp.array([0.0, 0.0, 0.5]), jnp.array([1.0, 1.0, 0.5]))
    np.testing.assert_allclose(found.mean, [0.5, 0.0, 0.5], atol=1e-5)
    missed = project(log_q, jnp.array([0.0, 0.3, 0.0]), jnp.ones(3))
    np.testing.assert_allclose(missed.violation, 0.3, atol=1e-5)
    assert np.all(np.isfinite(missed.multipliers))


def test_floor_makes_every_bound_feasible():
    log_q = log_floor(jnp.array([[0.0, -400.0, -500.0], [0.0, -300.0, -1e5]]))
    assert np.all(np.isfinite(log_q))
    found = project(log_q, jnp.array([0.0, 0.3, 0.3]), jnp.array([0.4, 1.0, 1.0]))
    assert found.violation <= 1e-4
    np.testing.assert_allclose(jnp.exp(shift(log_q, found.multipliers)).sum(1), 1.0, rtol=1e-5)


@pytest.mark.parametrize(
    ("lower", "upper", "message"),
    [
        ([0.0, 0.5, 0.0], [1.0, 0.4, 1.0], r"lower <= upper .* lower 0.5 above upper 0.4 at position 1"),
        ([0.5, 0.5, 0.5], [1.0, 1.0, 1.0], "lower bounds that sum to at most 1, found 1.5"),
        ([0.0, 0.0, 0.0], [0.1, 0.1, 0.1], "upper bounds that sum to at least 1, found 0.3"),
        ([0.0, 0.0, -0.1], [1.0, 1.0, 1.0], "lower bounds between 0 and 1"),
        ([0.0, 0.0, 0.0], [1.0, 1.0, 20.0], "upper bounds between 0 and 1"),
        ([0.0, 0.0, np.nan], [1.0, 1.0, 1.0], "lower bounds between 0 and 1"),
        ([0.0, 0.0], [1.0, 1.0, 1.0], r"same length.* found shapes \(2,\) and \(3,\)"),
        (0.0, 1.0, "one a person and one for the AI"),
        ([[0.0, 0.0], [0.9, 0.9]], [[1.0, 1.0], [1.0, 1.0]], "lower bounds that sum to at most 1"),
    ],
)
def test_infeasible_bounds_are_refused(lower, upper, message):
    with pytest.raises(ValueError, match=message):
        check_bounds(lower, upper)


def test_decimal_fractions_that_sum_to_one_are_feasible():
    lower, upper = check_bounds([0.1] * 10, [0.1] * 10)
    assert lower.shape == upper.shape == (10,)
    check_bounds([1 / 3] * 3, [1 / 3] * 3)
