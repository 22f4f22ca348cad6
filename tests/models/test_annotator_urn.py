"""Annotator urn: against sums over people, votes and truths; what it tells people apart by."""

import itertools
import math
from collections import defaultdict
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import optax
import pytest
from numpyro.handlers import block, seed, trace
from numpyro.infer import SVI, TraceEnum_ELBO, init_to_mean, init_to_value
from numpyro.infer.autoguide import AutoDelta
from oracles.lda import lda_log_evidence
from programs import Table, table
from scipy.special import expit, softmax
from scipy.stats import chisquare, multinomial, norm

from pl2d_ppl import MLP, EnumELBO, fit, load, log_evidence, marginals, to_datatree
from pl2d_ppl.distributions.staff_votes import StaffVotes, right_votes
from pl2d_ppl.guides.exact import exact
from pl2d_ppl.models.annotator_urn import annotator_urn, cluster_probs

KEY = jax.random.key(0)
FORMS = ("votes", "counts")
LOG_ZERO = -1e29  # what counts as impossible
SLOW = pytest.mark.exhaustive


# --- By brute force ---------------------------------------------------------------------------------------


def pattern_probs(people):
    """q(r, L) by its definition: the first r voters are right and L - r wrong, voters being any L people in any order.

    people: probability of being right, one a person.
    """
    num_people = len(people)
    q = np.zeros((num_people + 1, num_people + 1))
    for total in range(num_people + 1):
        voters = np.array(list(itertools.permutations(range(num_people), total)), int)
        for r in range(total + 1):
            skill = np.asarray(people)[voters]
            q[r, total] = np.mean(skill[:, :r].prod(1) * (1 - skill[:, r:]).prod(1))
    return q


def pattern_probs_of_many(people):
    """The same in polynomial time, from the coefficients of prod_m (1 + t (s_m a + 1 - s_m)) in t and a."""
    num_people = len(people)
    coefficients = np.zeros((num_people + 1, num_people + 1))  # a, t
    coefficients[0, 0] = 1.0
    for s in people:
        new = coefficients.copy()
        new[1:, 1:] += s * coefficients[:-1, :-1]
        new[:, 1:] += (1 - s) * coefficients[:, :-1]
        coefficients = new
    upto = range(num_people + 1)
    ways = [[math.comb(num_people, t) * math.comb(t, r) or 1 for t in upto] for r in upto]
    return coefficients / np.array(ways, float)


def vote_probs(skill, errors, truth):
    """Probability of every vote of somebody, shape (C,), given probabilities of errors, shape (C,)."""
    probs = (1 - skill) * np.where(np.arange(len(errors)) == truth, 0.0, errors)
    probs[truth] = skill
    return probs


def count_probs(votes_of, num_votes):
    """Probabilities of counts, given those of everybody's vote, shape (M, C): voters are any so many people."""
    num_people, num_categories = votes_of.shape
    sets = list(itertools.combinations(range(num_people), num_votes))
    probs = defaultdict(float)
    for voters in sets:
        for said in itertools.product(range(num_categories), repeat=num_votes):
            counts = tuple(np.bincount(np.array(said, int), minlength=num_categories))
            probs[counts] += math.prod(votes_of[m, c] for m, c in zip(voters, said, strict=True)) / len(sets)
    return dict(probs)


def staff(skills, sizes):
    """Probability of being right, one a person."""
    return np.repeat(np.asarray(skills, float), sizes, axis=0)


PATTERNS = jax.jit(right_votes, static_argnums=2)


def log_right_of(skills, sizes):
    skills = np.asarray(skills)
    return PATTERNS(table(np.log(skills)), table(np.log1p(-skills)), sizes)


# --- Patterns of right and wrong --------------------------------------------------------------------------

STAFFS = [
    ((0.9,), (1,)),
    ((0.95, 0.4), (3, 2)),
    ((0.99, 0.8, 0.05), (1, 2, 2)),
    ((0.8, 0.5, 0.3), (2, 0, 1)),
]


@pytest.mark.parametrize(("skills", "sizes"), STAFFS)
def test_patterns_equal_their_definition(precision, skills, sizes):
    found = log_right_of(skills, sizes)
    expected = pattern_probs(staff(skills, sizes))
    assert found.dtype == precision.name
    possible = np.arange(len(expected))[:, None] <= np.arange(len(expected))
    np.testing.assert_allclose(np.exp(found)[possible], expected[possible], rtol=precision.rtol)
    assert np.all(found[~possible] < LOG_ZERO)
    np.testing.assert_allclose(pattern_probs_of_many(staff(skills, sizes)), expected, rtol=1e-12)
    # Some pattern comes up: there are binomially many with r right.
    ways = [[math.comb(t, r) for t in range(len(expected))] for r in range(len(expected))]
    np.testing.assert_allclose((ways * np.exp(found)).sum(0), 1.0, rtol=10 * precision.rtol)


def test_patterns_of_a_batch(float64):
    skills = np.random.default_rng(0).uniform(0.05, 0.99, (2, 3, 4))  # clusters, then anything
    found = log_right_of(skills, (2, 1))
    assert found.shape == (3, 4, 4, 4)
    for i, j in itertools.product(range(3), range(4)):
        possible = np.triu_indices(4)
        np.testing.assert_allclose(
            np.exp(found[i, j])[possible], pattern_probs(staff(skills[:, i, j], (2, 1)))[possible], rtol=1e-9
        )


def test_patterns_of_a_hundred_people():
    skills, sizes = np.linspace(0.3, 0.999, 10).astype(np.float32), (10,) * 10
    found = np.asarray(log_right_of(skills, sizes))
    possible = np.triu_indices(101)
    expected = np.log(pattern_probs_of_many(staff(skills, sizes))[possible])
    assert found.dtype == np.float32
    assert expected.min() < -100  # beyond float32's probabilities
    np.testing.assert_allclose(found[possible], expected, rtol=1e-5, atol=1e-4)


@partial(jax.jit, static_argnames="sizes")
def weighed_patterns(logits, weights, sizes):
    """A function of all patterns that are possible, and its gradient."""

    def weighed(logits):
        patterns = right_votes(jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits), sizes)
        return jnp.sum(jnp.where(weights != 0, weights * patterns, 0.0))

    return jax.value_and_grad(weighed)(logits)


def test_gradient_of_patterns(float64):
    rng = np.random.default_rng(1)
    logits, step = rng.standard_normal((2, 2, 3))
    weights = np.triu(rng.standard_normal((6, 6)))
    function = partial(weighed_patterns, weights=weights, sizes=(3, 2))
    slope = (function(logits + 1e-6 * step)[0] - function(logits - 1e-6 * step)[0]) / 2e-6
    np.testing.assert_allclose(jnp.vdot(function(logits)[1], step), slope, rtol=1e-7)


def test_gradient_of_patterns_of_many_and_of_sure_people():
    weights = np.triu(np.ones((101, 101), np.float32))
    for scale in (1.0, 30.0):  # up to probabilities of being wrong of exp(-90)
        logits = scale * np.linspace(-1, 3, 10, dtype=np.float32)
        _, gradient = weighed_patterns(logits, weights, (10,) * 10)
        assert np.isfinite(gradient).all()
        assert gradient.any()


@SLOW
def test_somebody_who_is_never_wrong(float64):
    """Of somebody certain the logarithm is that of zero, which the gradient has to survive."""

    def function(log_skill):
        return right_votes(log_skill, jnp.array([-jnp.inf, np.log(0.4)]), (2, 1))

    log_skill = jnp.log(jnp.array([1.0, 0.6]))
    possible = np.triu_indices(4)
    np.testing.assert_allclose(
        np.exp(function(log_skill))[possible], pattern_probs([1.0, 1.0, 0.6])[possible], rtol=1e-9, atol=1e-30
    )
    assert np.isfinite(jax.jacobian(lambda s: jnp.maximum(function(s), -1e30))(log_skill)).all()


@pytest.mark.parametrize("sizes", [(2,), (2, 1, 1), (1.5, 1.5), ()])
def test_sizes_that_do_not_fit(sizes):
    with pytest.raises(ValueError, match="sizes"):
        log_right_of((0.9, 0.6), sizes)


# --- Votes of a staff -------------------------------------------------------------------------------------

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


@pytest.mark.parametrize(("truth", "total"), [(0, 4), *(pytest.param(*c, marks=SLOW) for c in [(2, 3), (1, 1)])])
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


@SLOW
def test_draws_of_a_batch():
    total = jnp.array([[0, 1, 4], [2, 3, 4]])
    truth = jnp.array([0, 1, 2])
    draws = votes_of_staff(truth, total).sample(KEY, (50,))
    assert draws.shape == (50, 2, 3, 3)
    np.testing.assert_array_equal(draws.sum(-1), np.broadcast_to(total, (50, 2, 3)))
    assert (draws >= 0).all()
    sure = votes_of_staff(truth, total, (1 - 1e-7,) * 3).sample(KEY, (50,))
    np.testing.assert_array_equal(np.asarray(sure)[..., np.arange(3), np.arange(3)], draws.sum(-1))


@SLOW
def test_draws_are_counts():
    votes = votes_of_staff(0, 3)
    draws = votes.sample(KEY, (5,))
    assert jnp.issubdtype(draws.dtype, jnp.integer)
    assert np.isfinite(votes.log_prob(draws)).all()


@pytest.mark.slow
def test_other_numbers_of_votes_are_impossible():
    assert votes_of_staff(0, 3).log_prob(jnp.array([1, 0, 0])) < LOG_ZERO


@SLOW
def test_a_batch_of_skills_alone():
    right = log_right_of(np.array([[0.9, 0.8], [0.6, 0.5]]), (1, 1))
    votes = StaffVotes(jnp.array(0), right, jnp.log(jnp.array([1e-30, 0.5, 0.5])), jnp.array(2))
    assert votes.log_prob(jnp.array([1, 1, 0])).shape == votes.batch_shape == (2,)


@SLOW
def test_a_category_that_nobody_says():
    log_errors = jnp.array([-jnp.inf, 0.0, -jnp.inf])
    votes = StaffVotes(jnp.array(0), log_right_of((0.9,), (2,)), log_errors, jnp.array(2))
    np.testing.assert_allclose(np.exp(votes.log_prob(jnp.array([[1, 1, 0], [1, 0, 1]]))), [0.18, 0.0], rtol=1e-5)


@SLOW
def test_votes_pass_through_jit():
    votes, counts = votes_of_staff(0, 3), jnp.array([1, 1, 1])
    np.testing.assert_allclose(jax.jit(lambda d: d.log_prob(counts))(votes), votes.log_prob(counts), rtol=1e-5)


# --- The program ------------------------------------------------------------------------------------------

NUM_CATEGORIES = 3


def problem(num_items=6, sizes=(2, 1), seed=0):
    """Parameters, given as logits, and votes of at most everybody: with gaps, and an item without."""
    rng = np.random.default_rng(seed)
    votes = rng.integers(0, NUM_CATEGORIES, (num_items, sum(sizes)))
    votes[1, 0] = votes[4, 1:] = votes[2] = -1
    return {
        "logits": rng.standard_normal((num_items, NUM_CATEGORIES)),
        "skill_mean": 1.0 + rng.standard_normal((len(sizes), 1)),
        "skill": 1.0 + rng.standard_normal((len(sizes), NUM_CATEGORIES)),
        "errors": rng.standard_normal((NUM_CATEGORIES, NUM_CATEGORIES)),
        "votes": votes,
        "sizes": sizes,
    }


def counts_of(votes, num_categories=NUM_CATEGORIES):
    return np.stack([(votes == c).sum(1) for c in range(num_categories)], 1)


def given(form, votes):
    return {form: jnp.asarray(votes if form == "votes" else counts_of(votes))}


def latent(p):
    return {name: table(p[name]) for name in ("skill_mean", "skill", "errors")}


def error_probs(errors):
    return softmax(np.where(np.eye(len(errors), dtype=bool), -np.inf, errors), -1)


def joint_by_item(p):
    """p(counts, y) of every item, by sums over people and votes, shape (N, C)."""
    errors, joint = error_probs(p["errors"]), softmax(p["logits"], -1)
    for y in range(NUM_CATEGORIES):
        votes_of = np.array([vote_probs(s, errors[y], y) for s in staff(expit(p["skill"][:, y]), p["sizes"])])
        by_total = [count_probs(votes_of, total) for total in range(sum(p["sizes"]) + 1)]
        for i, counts in enumerate(counts_of(p["votes"]).tolist()):
            joint[i, y] *= by_total[sum(counts)][tuple(counts)]
    return joint


def log_prior(p):
    typical = np.linspace(2.5, 0.5, len(p["sizes"]))[:, None]
    return (
        norm(typical, 1.0).logpdf(p["skill_mean"]).sum()
        + norm(p["skill_mean"], 0.3).logpdf(p["skill"]).sum()
        + norm(0.0, 1.0).logpdf(p["errors"]).sum()
    )


def urn_of_table(logits, sizes, num_items=None):
    return partial(annotator_urn, truth=Table(logits), sizes=sizes, num_items=num_items)


@partial(jax.jit, static_argnames=("sizes", "num_items"))
def evidence_and_marginals(logits, params, data, sizes, num_items=None):
    model, x = urn_of_table(logits, sizes, num_items), logits
    return log_evidence(model, params=params)(x, **data), marginals(model, params=params)(x, **data)["y"]


@pytest.mark.parametrize("form", ["votes", pytest.param("counts", marks=SLOW)])
def test_evidence_and_marginals_equal_sums_over_people(precision, form):
    p = problem()
    evidence, y = evidence_and_marginals(table(p["logits"]), latent(p), given(form, p["votes"]), p["sizes"])
    joint = joint_by_item(p)
    np.testing.assert_allclose(evidence, np.log(joint.sum(-1)).sum() + log_prior(p), rtol=precision.rtol)
    expected = joint / joint.sum(-1, keepdims=True)
    np.testing.assert_allclose(y[:, 0], expected, rtol=10 * precision.rtol, atol=1e-12)
    np.testing.assert_allclose(y[2, 0], softmax(p["logits"][2]), rtol=precision.rtol)  # the item without votes


@SLOW
@pytest.mark.parametrize("sizes", [(1,), (4,), (1, 1, 2), (3, 3)])
def test_evidence_of_other_staffs(float64, sizes):
    p = problem(sizes=sizes, seed=1)
    evidence, _ = evidence_and_marginals(table(p["logits"]), latent(p), given("votes", p["votes"]), sizes)
    expected = np.log(joint_by_item(p).sum(-1)).sum() + log_prior(p)
    np.testing.assert_allclose(evidence, expected, rtol=1e-9)


@SLOW
def test_order_and_padding_of_votes_do_not_matter(float64):
    p = problem()
    wider = np.pad(p["votes"][:, ::-1], ((0, 0), (2, 4)), constant_values=-1)  # more columns than people
    for votes in (p["votes"], wider):
        evidence, _ = evidence_and_marginals(table(p["logits"]), latent(p), given("votes", votes), p["sizes"])
        np.testing.assert_allclose(evidence, np.log(joint_by_item(p).sum(-1)).sum() + log_prior(p), rtol=1e-9)


def test_cluster_probs_sum_to_one_and_are_those_of_a_vote(precision):
    p = problem()
    truth_probs = softmax(p["logits"], -1)
    probs = cluster_probs(table(truth_probs), table(p["skill"]), table(p["errors"]))
    assert probs.shape == (6, 2, NUM_CATEGORIES)
    np.testing.assert_allclose(probs.sum(-1), 1.0, rtol=precision.rtol)
    errors = error_probs(p["errors"])
    for k in range(2):
        votes_of = np.array([vote_probs(expit(p["skill"][k, y]), errors[y], y) for y in range(NUM_CATEGORIES)])
        np.testing.assert_allclose(probs[:, k], truth_probs @ votes_of, rtol=precision.rtol)


@SLOW
def test_cluster_logits_are_the_evidence_of_one_vote_of_somebody_of_the_cluster(float64):
    p = problem()
    for c, k in itertools.product(range(NUM_CATEGORIES), range(2)):
        alone = latent(p) | {"skill_mean": table(p["skill_mean"][[k]]), "skill": table(p["skill"][[k]])}
        one = {"votes": jnp.full((6, 1), c)}
        with_vote, _ = evidence_and_marginals(table(p["logits"]), alone, one, (1,))
        without, _ = evidence_and_marginals(table(p["logits"]), alone, {"votes": jnp.full((6, 1), -1)}, (1,))
        probs = cluster_probs(table(softmax(p["logits"], -1)), table(p["skill"]), table(p["errors"]))
        np.testing.assert_allclose(with_vote - without, np.log(probs[:, k, c]).sum(), rtol=1e-9)


def exact_guide(model, init=init_to_mean):
    return exact(model, continuous=AutoDelta(block(model, hide=["y"]), init_loc_fn=init))


@SLOW
def test_elbo_of_the_exact_guide_is_the_evidence(float64):
    """That of all 60 items, of which six are at hand, and the priors once."""
    p = problem()
    model = urn_of_table(table(p["logits"]), p["sizes"], 60)
    guide, x, data = exact_guide(model), jnp.zeros((6, 1)), given("counts", p["votes"])
    seed(guide.continuous, KEY)(x, **data)
    params = {f"{name}_auto_loc": value for name, value in latent(p).items()}
    elbo = jax.jit(jax.value_and_grad(lambda params: -EnumELBO().loss(KEY, params, model, guide, x, **data)))
    found, gradient = elbo(params)
    np.testing.assert_allclose(found, 10 * np.log(joint_by_item(p).sum(-1)).sum() + log_prior(p), rtol=1e-9)

    step = {name: np.random.default_rng(4).standard_normal(a.shape) for name, a in params.items()}
    ends = [elbo({name: a + e * step[name] for name, a in params.items()})[0] for e in (1e-5, -1e-5)]
    slope = sum(jnp.vdot(gradient[name], step[name]) for name in params)
    np.testing.assert_allclose(slope, (ends[0] - ends[1]) / 2e-5, rtol=1e-6)


@SLOW
def test_program_draws_what_it_says():
    """Under NumPyro's own handlers: truth, people and given numbers of votes."""
    p = problem()
    model = urn_of_table(np.float32(p["logits"]), p["sizes"])
    tr = trace(seed(model, KEY)).get_trace(jnp.zeros((6, 1)), counts=jnp.asarray(counts_of(p["votes"])))
    assert tr["y"]["value"].shape == (6, 1)
    assert tr["counts"]["fn"].batch_shape == (6, 1)
    np.testing.assert_allclose(np.exp(tr["cluster_logits"]["value"]).sum(-1), 1.0, rtol=1e-5)
    np.testing.assert_array_equal(tr["truth_logits"]["value"], np.float32(p["logits"]))
    assert np.isfinite(numpyro.infer.util.log_density(seed(model, KEY), (jnp.zeros((6, 1)),), {}, {})[0])


# --- Fits -------------------------------------------------------------------------------------------------


def simulated(num_items, skills, num_categories=4, keep=1.0, seed=0):
    """Anonymous votes of two people of each skill with flat errors; the truth shows in x."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, num_categories, num_items)
    x = 4 * np.eye(num_categories)[y] + 0.7 * rng.standard_normal((num_items, num_categories))
    right = rng.random((num_items, 2 * len(skills))) < np.repeat(skills, 2)
    wrong = (y[:, None] + rng.integers(1, num_categories, right.shape)) % num_categories
    votes = np.where(rng.random(right.shape) < keep, np.where(right, y[:, None], wrong), -1)
    votes = rng.permuted(votes, axis=1)  # nobody's column
    return {"x": x.astype(np.float32), "counts": counts_of(votes, num_categories).astype(np.int32)}


@SLOW
def test_skills_are_recovered_from_anonymous_votes(thorough_compilation):
    """From a start at which clusters hardly differ, so that not the prior but the votes tell them apart."""
    num_items, skills = 20_000, (0.95, 0.8, 0.6)
    model = partial(annotator_urn, truth=partial(MLP, 4, (), 4), sizes=(2, 2, 2), num_items=num_items)
    level = jnp.array([[1.6], [1.5], [1.4]])
    flat = {"skill_mean": level, "skill": jnp.tile(level, 4), "errors": jnp.zeros((4, 4))}
    optimizer = optax.adam(optax.cosine_decay_schedule(0.1, 20 * 300))
    guide, data = exact_guide(model, init_to_value(values=flat)), simulated(num_items, skills)
    result = fit(KEY, model, guide, data, optimizer, epochs=300, batch_size=1000, progress=False)
    found = expit(result.params["skill_auto_loc"])
    np.testing.assert_allclose(found.mean(1), skills, atol=0.03)
    np.testing.assert_allclose(found, np.tile(np.array(skills)[:, None], 4), atol=0.08)  # by category
    np.testing.assert_allclose(expit(result.params["skill_mean_auto_loc"][:, 0]), skills, atol=0.03)
    errors = error_probs(result.params["errors_auto_loc"])
    np.testing.assert_allclose(errors, (1 - np.eye(4)) / 3, atol=0.05)


OPTIMIZER = optax.adam(0.05)
SMALL = partial(annotator_urn, truth=partial(MLP, 4, (), 4), sizes=(2, 2))
GUIDE = exact_guide(SMALL)
run = partial(fit, model=SMALL, guide=GUIDE, optimizer=OPTIMIZER, epochs=2, batch_size=20, progress=False)


def small_data():
    return simulated(50, (0.9, 0.6), keep=0.8)


@cache
def small():
    return run(KEY, data=small_data())


@SLOW
def test_fit_outputs_tree_and_checkpoint(tmp_path):
    data, result = small_data(), small()
    assert np.diff(result.history["loss"]) < 0
    outputs = result.outputs(data["x"])
    np.testing.assert_allclose(np.exp(outputs["cluster_logits"]).sum(-1), 1.0, rtol=1e-5)
    assert outputs["cluster_logits"].shape == (1, 50, 2, 4)
    params = result.params
    truth_probs = softmax(outputs["truth_logits"][0], -1)
    probs = cluster_probs(truth_probs, params["skill_auto_loc"], params["errors_auto_loc"])
    np.testing.assert_allclose(np.exp(outputs["cluster_logits"][0]), probs, rtol=1e-4)

    tree = to_datatree(KEY, result, data, num_samples=1000)
    y, y_probs = tree["posterior"]["y"], tree["marginals"]["y_probs"]
    assert y.dims == ("chain", "draw", "item")
    draws = np.stack([(y == c).mean(("chain", "draw")) for c in range(4)], -1)
    np.testing.assert_allclose(draws, y_probs, atol=0.07)
    given_params = {name: params[f"{name}_auto_loc"] for name in ("skill_mean", "skill", "errors")}
    model, x = urn_of_table(outputs["truth_logits"][0], (2, 2)), jnp.asarray(data["x"])
    expected = marginals(model, params=given_params)(x, counts=jnp.asarray(data["counts"]))["y"][:, 0]
    np.testing.assert_allclose(y_probs, expected, atol=1e-4)

    result.save(tmp_path / "fit")
    found = load(tmp_path / "fit", SMALL, GUIDE, OPTIMIZER)
    np.testing.assert_array_equal(found.outputs(data["x"])["cluster_logits"], outputs["cluster_logits"])


@SLOW
@pytest.mark.parametrize("guide_of", [exact_guide, lambda model: AutoDelta(block(model, hide=["y"]))])
def test_plain_numpyro(guide_of):
    """With our guide, and with one that leaves the truth to NumPyro's sum."""
    p = problem()
    model, votes = urn_of_table(np.float32(p["logits"]), p["sizes"]), jnp.asarray(p["votes"])
    svi = SVI(model, guide_of(model), optax.adam(1e-2), TraceEnum_ELBO())
    result = svi.run(KEY, 5, jnp.zeros((6, 1)), votes=votes, progress_bar=False)
    assert np.all(np.diff(result.losses) < 0)
    learnt = p | {name: np.float64(result.params[f"{name}_auto_loc"]) for name in latent(p)}
    learnt["logits"] = np.float64(result.params["truth$params"]["logits"])
    evidence = np.log(joint_by_item(learnt).sum(-1)).sum() + log_prior(learnt)
    np.testing.assert_allclose(svi.evaluate(result.state, jnp.zeros((6, 1)), votes=votes), -evidence, rtol=1e-4)


# --- Bad input --------------------------------------------------------------------------------------------

COUNTS = small_data()["counts"]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"votes": np.full((50, 3), -1)}, r"some votes in data\['votes'\]"),
        ({"votes": np.zeros((50, 3))}, r"integer labels in data\['votes'\]"),
        pytest.param(
            {"votes": np.full((50, 3), 4)},
            r"labels in -1..3, .* in data\['votes'\], found 4 at item 0, .* widen the networks",
            marks=SLOW,  # known only when the guide has been traced
        ),
        pytest.param({"votes": np.zeros(50, int)}, r"votes of shape \(20, L\)", marks=SLOW),
        ({"votes": np.zeros((50, 3), int), "counts": COUNTS}, "votes or counts, found both"),
        ({"counts": COUNTS - 1}, "a count of -1"),
        ({"counts": COUNTS[:, :3]}, r"counts of shape \(20, 4\), one column a category.*found \(20, 3\)"),
        ({"counts": COUNTS.astype(float)}, r"integer counts in data\['counts'\]"),
    ],
)
def test_bad_votes(labels, message):
    with pytest.raises(ValueError, match=message):
        run(KEY, data={"x": small_data()["x"], **labels})


@SLOW
def test_more_votes_than_people_are_refused():
    counts = COUNTS.copy()
    counts[3] = [5, 0, 0, 0]  # of four people
    model = partial(annotator_urn, truth=Table(np.zeros((50, 4), np.float32)), sizes=(2, 2))
    with pytest.raises(ValueError, match="people"):
        seed(model, KEY)(jnp.zeros((50, 4)), counts=jnp.asarray(counts))


@SLOW
def test_truth_of_the_wrong_shape():
    model = partial(annotator_urn, truth=Table(np.zeros((20, 2, 4), np.float32)), sizes=(2, 2))
    try:
        run(KEY, model=model, guide=exact_guide(model), data=small_data())
    except ValueError as error:
        if "(N, C)" not in str(error):
            raise


@pytest.mark.parametrize("sizes", [(), (3, -1), 4, *(pytest.param(s, marks=SLOW) for s in [(0, 0), (2.5, 1.5)])])
def test_bad_sizes(sizes):
    model = partial(annotator_urn, truth=Table(np.zeros((50, 4), np.float32)), sizes=sizes)
    with pytest.raises(ValueError, match="sizes"):
        seed(model, KEY)(jnp.zeros((50, 4)), counts=jnp.asarray(COUNTS))
