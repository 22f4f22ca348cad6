"""Memberships of maximum likelihood, against convex programs."""

from functools import partial

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from cases.people import UNEVEN, likelihood_of, observe, problem, simulate

from pl2d_ppl.models.membership import membership
from pl2d_ppl.people.place import log_likelihood, maximise_membership
from pl2d_ppl.people.simplex import LogRatio, ascend, em_step

pytestmark = pytest.mark.exhaustive  # a compilation for nearly every test: `make check` is to take three minutes


def objective(given, omega):
    """Log-likelihood an annotation."""
    return np.log(given @ omega).mean()


@pytest.mark.parametrize("size", [1, 2, 5])
def test_log_ratios_are_coordinates_of_the_simplex(float64, size):
    transform, x = LogRatio(), jnp.asarray(np.random.default_rng(size).standard_normal(size - 1))
    omega = transform(x)
    np.testing.assert_allclose(omega.sum(), 1)
    np.testing.assert_allclose(transform.inv(omega), x, atol=1e-12)
    _, volume = jnp.linalg.slogdet(jax.jacobian(lambda x: transform(x)[:-1])(x))
    np.testing.assert_allclose(transform.log_abs_det_jacobian(x, omega), volume, atol=1e-12)


HARD_CASES = np.concatenate([np.eye(5)[:4], np.random.default_rng(0).dirichlet(np.full(5, 0.3), 8)])


def by_cvxpy(given):
    """The convex program, by an interior-point method."""
    omega = cp.Variable(given.shape[1])
    log_likelihood = cp.sum(cp.log(given @ omega)) / len(given)
    problem = cp.Problem(cp.Maximize(log_likelihood), [omega >= 0, cp.sum(omega) == 1])
    problem.solve(solver=cp.CLARABEL)
    return np.maximum(omega.value, 0) / np.maximum(omega.value, 0).sum()


def test_em_reaches_the_optimum_of_the_convex_program(precision):
    """Within 1e-6 an annotation in float64, 3e-6 in float32, in which gradients are known to some 1e-7."""
    h, said = simulate(2, 100, HARD_CASES, 4, missing=0.3)
    h[:, 4] = h[:, 3]  # two clusters that are alike: a maximum that is not unique
    said[10:, 5] = said[1:, 6] = -1  # few annotations; one
    placed = maximise_membership(membership, h, said)
    assert placed.probs.dtype == precision.name
    assert (placed.gap <= 1e-6).all()
    np.testing.assert_allclose(placed.probs.sum(0), 1, rtol=precision.rtol)
    on_boundary = 0
    for m in range(12):
        given = likelihood_of(h, said[:, m])
        best = by_cvxpy(given)
        lack = objective(given, best) - objective(given, placed.probs[:, m].astype(float))
        assert -1e-7 < lack < (1e-6 if precision.name == "float64" else 3e-6)
        on_boundary += (best < 1e-6).any()
    assert on_boundary >= 6


def test_gap_bounds_what_is_missing(float64):
    h, said = simulate(3, 100, HARD_CASES[4:], 4)
    with pytest.warns(UserWarning, match=r"may rise by up to .* for 'person_"):
        placed = maximise_membership(membership, h, said, max_steps=2)
    for m in range(8):
        given = likelihood_of(h, said[:, m])
        lack = objective(given, by_cvxpy(given)) - objective(given, placed.probs[:, m])
        assert lack <= placed.gap[m] + 1e-9


def test_maximum_is_certified_on_many_problems(float64):
    rng = np.random.default_rng(4)
    given = rng.dirichlet(np.full(7, 0.1), (300, 60)) + 1e-9
    given[::3, :, 0] = 0.5 * (given[::3, :, 1] + given[::3, :, 2])
    start = jnp.full(7, 1 / 7)
    solve = jax.jit(jax.vmap(lambda given: ascend(lambda omega: jnp.log(given @ omega).mean(), start, 1e-10, 100)))
    omega, gap = solve(given)
    assert (np.asarray(gap) <= 1e-10).all()
    np.testing.assert_allclose(omega.sum(1), 1)


def test_em_step_is_the_mean_responsibility(float64):
    """Section 3 of the mathematics: pi_k <- mean_j pi_k h_k / sum pi h."""
    h, said = simulate(5, 40, [[0.2, 0.3, 0.5]], 4, missing=0.3)
    given = likelihood_of(h, said[:, 0])
    data = (jnp.asarray(h, float), jnp.asarray(said[:, 0]))
    omega = np.array([0.6, 0.3, 0.1])
    for _ in range(5):
        by_hand = np.zeros(3)
        for row in given:
            by_hand += omega * row / (omega @ row) / len(given)
        slope = jax.grad(lambda w: log_likelihood(membership, data, w) / len(given))(jnp.asarray(omega))
        np.testing.assert_allclose(em_step(jnp.asarray(omega), slope), by_hand, rtol=1e-12)
        assert objective(given, by_hand) > objective(given, omega)
        omega = by_hand


def test_likelihood_may_be_edited():
    """A person who says anything at random once in five times; the prior plays no part."""

    def careless(cluster_probs, annotations):
        omega = numpyro.sample("membership", dist.Dirichlet(jnp.full(3, 9.0)))
        observe(omega, 0.8 * cluster_probs + 0.2 / 4, annotations)

    h, said = simulate(6, 80, [[0.0, 0.3, 0.7]], 4)
    placed = maximise_membership(careless, h, said)
    given = 0.8 * likelihood_of(h, said[:, 0]) + 0.05
    assert abs(objective(given, by_cvxpy(given)) - objective(given, placed.probs[:, 0])) < 3e-6


def test_the_maximum_of_a_person_without_annotations_is_the_mean_of_the_prior():
    h, said = problem()
    said[:, 1] = -1
    with pytest.warns(UserWarning, match="none of 'b': their membership is the mean of its Dirichlet prior"):
        placed = maximise_membership(partial(membership, concentration=UNEVEN), h, said, people="ab")
    np.testing.assert_allclose(placed.probs[:, 1], [1 / 8, 2 / 8, 5 / 8], rtol=1e-6)
    assert placed.num_annotations.tolist() == [10, 0]

    def undirected(cluster_probs, annotations):
        z = numpyro.sample("z", dist.Normal(jnp.arange(3.0), 1.0).to_event(1))
        observe(numpyro.deterministic("membership", jax.nn.softmax(z)), cluster_probs, annotations)

    with pytest.warns(UserWarning, match="equal memberships"):
        placed = maximise_membership(undirected, h, said)
    np.testing.assert_allclose(placed.probs[:, 1], 1 / 3, rtol=1e-6)
