"""Patterns of right and wrong votes: against their definition, and in polynomial time."""

import itertools
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases.annotator_urn import LOG_ZERO, log_right_of, staff

from pl2d_ppl.distributions.staff_votes import right_votes


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


@pytest.mark.exhaustive
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
