"""The exact evidence of the annotator LDA against brute force, quadrature and Monte Carlo."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles.lda import lda_log_evidence
from scipy.special import gammaln, log_softmax, logsumexp, roots_jacobi

from pl2d_ppl.clusters.lda_evidence import evidence_states, lda_evidence

ALPHA = {1: [0.7], 2: [0.3, 4.0], 3: [0.05, 2.0, 50.0], 4: [1.0, 0.2, 7.0, 3.0]}


def problem(num_items, num_votes, num_clusters, num_categories=3, seed=0):
    rng = np.random.default_rng(seed)
    log_h = log_softmax(1.5 * rng.standard_normal((num_items, num_clusters, num_categories)), -1)
    return rng.integers(0, num_categories, (num_items, num_votes)), log_h


def by_quadrature(votes, log_h, alpha, order=30):
    """Evidence by Gauss-Jacobi quadrature over the breaks of u as a stick: exact for K = 3 and up to 2 * order - 1."""
    (x, wx), (y, wy) = (roots_jacobi(order, after - 1, a - 1) for a, after in ((alpha[0], sum(alpha[1:])), alpha[1:]))
    x, y = (1 + x[:, None]) / 2, (1 + y) / 2
    u = np.stack(np.broadcast_arrays(x, (1 - x) * y, (1 - x) * (1 - y)))
    log_weights = np.log(wx / wx.sum())[:, None] + np.log(wy / wy.sum())
    log_p = sum(np.log(np.einsum("kxy,k->xy", u, h)) for h in np.exp(log_h[:, votes]).T)
    return logsumexp(log_p + log_weights)


@pytest.mark.parametrize("num_clusters", [1, 2, 3, 4])
def test_equals_the_sum_over_all_assignments(precision, num_clusters):
    votes, log_h = problem(4, 5, num_clusters)
    votes[1, [0, 3]] = -1
    votes[2, 1:] = -1
    evidence = lda_evidence(votes, log_h, np.array(ALPHA[num_clusters]))
    assert evidence.dtype == precision.name
    for i, row in enumerate(votes):
        expected = lda_log_evidence(log_h[i][:, row[row >= 0]].T, ALPHA[num_clusters])
        np.testing.assert_allclose(evidence[i], expected, rtol=precision.rtol / 10)


@pytest.mark.parametrize("alpha", [(0.05, 0.05, 0.05), (0.3, 2.0, 1.0), (50.0, 50.0, 50.0), (0.1, 3.0, 100.0)])
def test_of_51_votes_in_3_clusters(precision, alpha):
    votes, log_h = problem(3, 51, 3, num_categories=10)
    log_h[2] = log_softmax(6 * log_h[2], -1)  # networks that are sure of themselves
    expected = [by_quadrature(*item, alpha) for item in zip(votes, log_h, strict=True)]
    np.testing.assert_allclose(lda_evidence(votes, log_h, np.array(alpha)), expected, rtol=precision.rtol / 20)


def test_agrees_with_monte_carlo_over_proportions():
    votes, log_h = problem(1, 6, 3)
    u = np.random.default_rng(1).dirichlet([0.5, 1.0, 2.0], 100_000)
    p = np.prod(u @ np.exp(log_h[0][:, votes[0]]), 1)
    evidence = np.exp(lda_evidence(votes, log_h, jnp.array([0.5, 1.0, 2.0])))
    assert abs(p.mean() - evidence[0]) < 4 * p.std() / np.sqrt(len(p))


def test_probabilities_of_all_votes_sum_to_one(float64):
    votes = np.array(list(itertools.product(range(3), repeat=4)))
    log_h = np.tile(problem(1, 1, 3)[1], (len(votes), 1, 1))
    np.testing.assert_allclose(np.exp(lda_evidence(votes, log_h, 0.4)).sum(), 1, rtol=1e-12)


def test_one_cluster_is_a_product(float64):
    votes, log_h = problem(2, 51, 1)
    expected = np.take_along_axis(log_h[:, 0], votes, 1).sum(1)
    np.testing.assert_allclose(lda_evidence(votes, log_h, 3.0), expected, rtol=1e-12)


def test_equal_clusters_are_one(float64):
    votes, log_h = problem(2, 6, 1)
    evidence = lda_evidence(votes, np.repeat(log_h, 3, 1), jnp.array([0.1, 2.0, 30.0]))
    np.testing.assert_allclose(evidence, lda_evidence(votes, log_h, 1.0), rtol=1e-12)


def test_clusters_that_tell_their_votes_leave_the_dirichlet_multinomial(float64):
    counts, alpha = np.array([20, 1, 30]), np.array([0.5, 2.0, 4.0])
    votes = np.repeat(np.arange(3), counts)[None]
    log_h = np.where(np.eye(3) > 0, 0.0, -np.inf)[None]
    rising = gammaln(alpha + counts) - gammaln(alpha)
    expected = rising.sum() + gammaln(alpha.sum()) - gammaln(alpha.sum() + 51)
    np.testing.assert_allclose(lda_evidence(votes, log_h, alpha), [expected], rtol=1e-12)


def test_large_concentration_leaves_the_mean_of_the_clusters():
    votes, log_h = problem(2, 51, 3)
    expected = np.log(np.take_along_axis(np.exp(log_h).mean(1), votes, 1)).sum(1)
    np.testing.assert_allclose(lda_evidence(votes, log_h, 1e7), expected, rtol=1e-5)


def test_order_of_votes_and_padding_change_nothing(float64):
    votes, log_h = problem(3, 6, 3)
    rng = np.random.default_rng(2)
    shuffled = rng.permuted(np.pad(votes, ((0, 0), (0, 4)), constant_values=-1), axis=1)
    alpha = np.array(ALPHA[3])
    evidence = lda_evidence(votes, log_h, alpha)
    np.testing.assert_allclose(lda_evidence(shuffled, log_h, alpha), evidence, rtol=1e-12)
    turned = lda_evidence(votes, log_h[:, [2, 0, 1]], alpha[[2, 0, 1]])
    np.testing.assert_allclose(turned, evidence, rtol=1e-12)


def test_no_votes_and_no_items():
    votes, log_h = problem(3, 4, 2)
    np.testing.assert_array_equal(lda_evidence(np.full_like(votes, -1), log_h, 2.0), 0)
    np.testing.assert_array_equal(lda_evidence(votes[:, :0], log_h, 2.0), 0)
    assert lda_evidence(votes[:0], log_h[:0], 2.0).shape == (0,)


def test_chunks_are_the_same_as_items(float64):
    """Of so many votes, nine items are a chunk, and the last chunk is not full."""
    votes, log_h = problem(19, 55, 3)
    expected = [by_quadrature(row, log_h[i], [5.0] * 3) for i, row in enumerate(votes)]
    np.testing.assert_allclose(lda_evidence(votes, log_h, 5.0), expected, rtol=1e-5)


def test_impossible_votes_have_finite_gradients():
    votes = np.array([[0, 1, 1], [0, 1, 2], [0, 0, -1]])
    with np.errstate(divide="ignore"):
        log_h = np.log(np.tile(np.float32([[1, 0, 0], [0.5, 0.5, 0]]), (3, 1, 1)))

    @partial(jax.value_and_grad, has_aux=True)
    def total(log_h):
        evidence = lda_evidence(votes, log_h, 1.0)
        return jnp.exp(evidence).sum(), evidence

    (value, evidence), slope = jax.jit(total)(log_h)
    np.testing.assert_array_equal(np.isneginf(evidence), [False, True, False])
    np.testing.assert_array_equal(lda_evidence(votes, log_h, 1.0), evidence)
    assert 0 < value < 1
    assert np.isfinite(slope).all()


@pytest.mark.slow
def test_gradients_are_those_of_finite_differences(float64):
    votes, log_h = problem(2, 4, 3)
    votes[1, 2:] = -1
    rng = np.random.default_rng(1)
    point = log_h, np.log(ALPHA[3])
    direction = rng.standard_normal(log_h.shape), rng.standard_normal(3)

    @jax.jit
    def evidence(logits, log_alpha):
        return lda_evidence(votes, jax.nn.log_softmax(logits, -1), jnp.exp(log_alpha))

    above, below = (evidence(*(x + sign * 1e-5 * d for x, d in zip(point, direction, strict=True))) for sign in (1, -1))
    slopes = jax.jacrev(evidence, (0, 1))(*point)
    reverse = sum(
        np.einsum("ikc,nikc->n" if s.ndim > 2 else "k,nk->n", d, s) for d, s in zip(direction, slopes, strict=True)
    )
    np.testing.assert_allclose(reverse, (above - below) / 2e-5, rtol=1e-7)
    np.testing.assert_allclose(jax.jvp(evidence, point, direction)[1], reverse, rtol=1e-9)


def test_gradients_are_posterior_probabilities_of_clusters(precision):
    """Also in float32 for many votes: an item's gradients in ln h sum to its number of votes."""
    votes, log_h = problem(3, 51, 3)
    votes[1, 20:] = -1
    slope = jax.jit(jax.grad(lambda a: lda_evidence(votes, a, 0.5).sum()))(jnp.asarray(log_h))
    np.testing.assert_allclose(slope.sum((1, 2)), [51, 20, 51], rtol=precision.rtol)
    counts = np.stack([(votes == c).sum(1) for c in range(3)], 1)
    np.testing.assert_allclose(slope.sum(1), counts, rtol=precision.rtol, atol=1e-5)
    assert slope.min() > -1e-5


def test_can_be_vectorised_over_runs():
    votes, log_h = problem(2, 3, 2)
    alphas = jnp.array([0.5, 5.0])
    together = jax.vmap(lambda a: lda_evidence(votes, log_h, a))(alphas)
    np.testing.assert_allclose(together, [lda_evidence(votes, log_h, a) for a in alphas], rtol=1e-6)


def test_number_of_states():
    assert evidence_states(51, 3) == 1378
    assert evidence_states(51, 4) == 24804
    assert evidence_states(6, 1) == evidence_states(0, 5) == 1
    assert evidence_states(4, 3) == sum(sum(n) == 4 for n in itertools.product(range(5), repeat=3))


VOTES, LOG_H = problem(2, 3, 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: evidence_states(-1, 2), "at least 0 votes and 1 cluster, found num_votes=-1"),
        (lambda: evidence_states(3, 0), "num_clusters=0"),
        (lambda: lda_evidence(VOTES, LOG_H, 2.0, max_states=3), "max_states=3 states, found 4 for 3 votes in 2 cl"),
        (lambda: lda_evidence(np.zeros((1, 51), int), np.zeros((1, 4, 1)), 2.0), "found 24804 .* Raise max_states"),
        (lambda: lda_evidence(VOTES, LOG_H[0], 2.0), r"\(N, K, C\)"),
        (lambda: lda_evidence(VOTES[0], LOG_H, 2.0), r"votes of shape \(2, L\)"),
        (lambda: lda_evidence(VOTES[:1], LOG_H, 2.0), r"votes of shape \(2, L\), .* found \(1, 3\)"),
        (lambda: lda_evidence(VOTES * 1.0, LOG_H, 2.0), "integer labels in votes, found float32"),
        (lambda: lda_evidence(VOTES, np.zeros((2, 2, 1), int), 2.0), "log-probabilities as floats"),
        (lambda: lda_evidence(VOTES + 3, LOG_H, 2.0), r"labels in -1\.\.2, .* in votes, found 4 at item 0, column 0"),
        (lambda: lda_evidence(VOTES - 3, LOG_H, 2.0), "-1 where missing, in votes, found -2 at item 0, column 0"),
        (lambda: lda_evidence(VOTES, LOG_H + 1, 2.0), "sum to one .* Pass log_softmax"),
        (lambda: lda_evidence(VOTES, np.exp(LOG_H), 2.0), "Pass log_softmax"),
        (lambda: lda_evidence(VOTES, LOG_H * np.nan, 2.0), r"found \[nan, nan, nan\] with sum nan at N = 0, K = 0"),
        (lambda: lda_evidence(VOTES, LOG_H, 0.0), "positive concentration"),
        (lambda: lda_evidence(VOTES, LOG_H, [1.0, 2.0, 3.0]), r"found shape \(3,\)"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
