"""Votes of a staff: against sums over people and votes."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases.annotator_urn import KEY, LOG_ZERO, count_probs, log_right_of, staff, vote_probs
from oracles.lda import lda_log_evidence
from programs import table
from scipy.stats import chisquare, multinomial

from pl2d_ppl.distributions.staff_votes import StaffVotes, right_votes

SKILLS, SIZES = (0.9, 0.55, 0.3), (2, 1, 1)
ERRORS = np.array([[0.0, 0.3, 0.7], [0.5, 0.0, 0.5], [0.8, 0.2, 0.0]])


def votes_of_staff(truth, total, skills=SKILLS, sizes=SIZES):
    log_errors = jnp.log(jnp.maximum(table(ERRORS), 1e-30))[truth]
    return StaffVotes(jnp.asarray(truth), log_right_of(skills, sizes), log_errors, jnp.asarray(total))


@jax.jit
def log_probs(truth, log_right, log_errors, counts):
    return StaffVotes(truth, log_right, log_errors, counts.sum(-1)).log_prob(counts)


def log_probs_of_staff(truth, counts, skills=SKILLS, sizes=SIZES):
    log_errors = np.log(np.maximum(ERRORS[truth], 1e-30))
    return np.asarray(log_probs(truth, log_right_of(skills, sizes), table(log_errors), jnp.asarray(counts)))


def all_counts(most, num_categories=3):
    """All counts of up to so many votes, and how many each are."""
    every = itertools.product(range(most + 1), repeat=num_categories)
    counts = np.array([counts for counts in every if sum(counts) <= most])
    return counts, counts.sum(-1)


@pytest.mark.parametrize("truth", range(3))
def test_votes_equal_a_sum_over_people(precision, truth):
    votes_of = np.array([vote_probs(s, ERRORS[truth], truth) for s in staff(SKILLS, SIZES)])
    expected = {counts: p for total in range(5) for counts, p in count_probs(votes_of, total).items()}
    counts, total = all_counts(4)
    assert len(counts) == len(expected)
    found = np.exp(log_probs_of_staff(truth, counts))
    np.testing.assert_allclose(found, [expected[tuple(c)] for c in counts.tolist()], rtol=precision.rtol)
    np.testing.assert_allclose(np.bincount(total, found), 1.0, rtol=precision.rtol)


def test_votes_of_many_items_at_once(float64):
    """Items along one axis, truths along another, as under enumeration."""
    truth, skills = np.arange(3)[:, None], np.array([[0.9, 0.8, 0.7], [0.4, 0.5, 0.6]])  # by cluster and truth
    counts = np.array([[2, 1, 0], [0, 0, 0], [1, 0, 1], [1, 1, 2]])
    right, log_errors = log_right_of(skills, (2, 2)), table(np.log(np.maximum(ERRORS, 1e-30)))
    votes = StaffVotes(jnp.asarray(truth), right[truth], log_errors[truth], jnp.asarray(counts.sum(-1)))
    assert votes.batch_shape == (3, 4)
    assert votes.event_shape == (3,)
    found = log_probs(truth, right[truth], log_errors[truth], jnp.asarray(counts))
    for y, i in itertools.product(range(3), range(4)):
        votes_of = np.array([vote_probs(s, ERRORS[y], y) for s in staff(skills[:, y], (2, 2))])
        expected = count_probs(votes_of, counts[i].sum())[tuple(counts[i].tolist())]
        np.testing.assert_allclose(np.exp(found[y, i]), expected, rtol=1e-9)


def rising(a, n):
    return math.prod(a + i for i in range(n))


def polya_evidence(h, alpha):
    """Probability of votes in their order from a Polya urn: as of LDA, but alpha may be negative. h: shape (L, K)."""
    num_votes, num_clusters = h.shape
    total = 0.0
    for z in itertools.product(range(num_clusters), repeat=num_votes):
        taken = np.bincount(np.array(z, int), minlength=num_clusters)
        urn = math.prod(rising(a, n) for a, n in zip(alpha, taken, strict=True)) / rising(sum(alpha), num_votes)
        total += urn * math.prod(h[i, k] for i, k in enumerate(z))
    return total


def test_the_urn_is_lda_with_negative_alpha(float64):
    rng = np.random.default_rng(2)
    h = rng.uniform(0.1, 1, (3, 3))
    np.testing.assert_allclose(np.log(polya_evidence(h, [2.0, 0.5, 1.0])), lda_log_evidence(np.log(h), [2.0, 0.5, 1.0]))
    by_cluster = np.array([vote_probs(s, ERRORS[1], 1) for s in SKILLS])  # K, C
    for said in [(), (1,), (1, 1), (0, 1, 2), (1, 1, 0, 1), (2, 0, 2, 1)]:
        counts = np.bincount(np.array(said, int), minlength=3)
        orders = math.factorial(len(said)) / math.prod(map(math.factorial, counts.tolist()))
        expected = orders * polya_evidence(by_cluster[:, list(said)].T.reshape(-1, 3), [-float(s) for s in SIZES])
        np.testing.assert_allclose(np.exp(log_probs_of_staff(1, counts)), expected, rtol=1e-9)


def test_people_who_are_alike_vote_independently(float64):
    counts, total = all_counts(4)
    found = np.exp(log_probs_of_staff(0, counts, (0.8, 0.8), (3, 1)))
    expected = [multinomial(n, vote_probs(0.8, ERRORS[0], 0)).pmf(c) for c, n in zip(counts, total, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_one_vote_tells_the_mean_skill_only_and_all_votes_tell_people_apart(float64):
    """Distance of a mixed staff from one of equals with its mean skill, that any number of data would show."""
    counts, total = all_counts(6)
    staffs = ((0.95, 0.8, 0.6), (2.35 / 3,) * 3)
    mixed, equal = (log_probs_of_staff(0, counts, skills, (2, 2, 2)) for skills in staffs)
    distance = np.bincount(total, np.exp(mixed) * (mixed - equal))
    np.testing.assert_allclose(distance[:2], 0.0, atol=1e-12)
    assert np.all(np.diff(distance[1:]) > 1e-5)
    assert distance[6] > 3e-3


def test_more_votes_than_people_are_impossible(precision):
    found = log_probs_of_staff(0, [[3, 1, 1], [5, 0, 0], [0, 5, 0], [0, 2, 3]])
    assert np.all(found < LOG_ZERO)
    assert np.isfinite(found).all()


def test_gradient_of_votes(float64):
    counts, truth = jnp.array([[2, 1, 1], [0, 1, 0], [0, 0, 4]]), jnp.array([0, 1, 1])

    def function(values):
        skill, errors = values[:3], values[3:]
        log_right = right_votes(jax.nn.log_sigmoid(skill), jax.nn.log_sigmoid(-skill), SIZES)
        log_errors = jax.nn.log_softmax(jnp.where(jnp.eye(3, dtype=bool), -1e30, errors))
        votes = StaffVotes(truth, log_right[truth], log_errors[truth], counts.sum(-1))
        return votes.log_prob(counts).sum()

    function = jax.jit(jax.value_and_grad(function))
    values, step = np.random.default_rng(3).standard_normal((2, 6, 3))
    slope = (function(values + 1e-6 * step)[0] - function(values - 1e-6 * step)[0]) / 2e-6
    np.testing.assert_allclose(jnp.vdot(function(values)[1], step), slope, rtol=1e-7)


@pytest.mark.parametrize(("truth", "total"), [(0, 4), pytest.param(2, 3, marks=pytest.mark.exhaustive)])
def test_draws_have_the_frequencies_of_log_prob(truth, total):
    votes = votes_of_staff(truth, total)
    draws = np.asarray(jax.jit(lambda key: votes.sample(key, (20_000,)))(jax.random.key(truth)))
    assert draws.shape == (20_000, 3)
    assert (draws.sum(-1) == total).all()
    counts = all_counts(total)[0]
    counts = counts[counts.sum(-1) == total]
    seen = (draws[:, None] == counts).all(-1).sum(0)
    expected = np.exp(np.float64(log_probs_of_staff(truth, counts)))
    assert chisquare(seen, 20_000 * expected / expected.sum()).pvalue > 1e-3


@pytest.mark.exhaustive
def test_draws_of_a_batch():
    total = jnp.array([[0, 1, 4], [2, 3, 4]])
    truth = jnp.array([0, 1, 2])
    draws = votes_of_staff(truth, total).sample(KEY, (50,))
    assert draws.shape == (50, 2, 3, 3)
    np.testing.assert_array_equal(draws.sum(-1), np.broadcast_to(total, (50, 2, 3)))
    assert (draws >= 0).all()
    sure = votes_of_staff(truth, total, (1 - 1e-7,) * 3).sample(KEY, (50,))
    np.testing.assert_array_equal(np.asarray(sure)[..., np.arange(3), np.arange(3)], draws.sum(-1))


@pytest.mark.slow
def test_other_numbers_of_votes_are_impossible():
    assert votes_of_staff(0, 3).log_prob(jnp.array([1, 0, 0])) < LOG_ZERO


@pytest.mark.exhaustive
def test_a_category_that_nobody_says():
    log_errors = jnp.array([-jnp.inf, 0.0, -jnp.inf])
    votes = StaffVotes(jnp.array(0), log_right_of((0.9,), (2,)), log_errors, jnp.array(2))
    np.testing.assert_allclose(np.exp(votes.log_prob(jnp.array([[1, 1, 0], [1, 0, 1]]))), [0.18, 0.0], rtol=1e-5)
