"""A crowd of simulated people: the truth, their confusion, newcomers, and what is wrong with data."""

import warnings
from functools import cache

import jax
import numpy as np
import pytest
from scipy.special import log_softmax

from pl2d_ppl import Annotated
from pl2d_ppl.people.crowd import CROWD_SCHEDULE, fit_crowd

ITEMS, PEOPLE, CATEGORIES, EACH = 400, 12, 3, 3
KEY = jax.random.key(0)
CLASSES = ("cat", "dog", "owl")
NAMES = tuple(f"p{m}" for m in range(PEOPLE))
ONE = np.ones((1, 2))


def simulated(seed=0):
    """Features around the truth, and three annotations of each item by random people of known confusion."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, CATEGORIES, ITEMS)
    x = np.eye(CATEGORIES)[y] + 0.8 * rng.standard_normal((ITEMS, CATEGORIES))
    logits = rng.normal(2.0, 0.7, (PEOPLE, 1, 1)) * np.eye(CATEGORIES) + rng.normal(0, 0.4, (PEOPLE, *2 * [CATEGORIES]))
    confusion = np.exp(log_softmax(logits, -1))
    said = np.stack([[rng.choice(CATEGORIES, p=confusion[m, t]) for m in range(PEOPLE)] for t in y])
    kept = rng.random((ITEMS, PEOPLE)).argsort(1) < EACH
    return x, y, np.where(kept, said, -1), confusion


def data_of(x, said, y=None, people=NAMES):
    y = np.full(len(x), -1) if y is None else y
    return Annotated(x, y, said, classes=CLASSES, annotators=people, subset=True)


@cache
def fitted():
    x, _, said, _ = simulated()
    return fit_crowd(KEY, data_of(x, said))


def best_truth(x, said, confusion):
    """The most likely truth for whoever knows how the data were simulated."""
    joint = -((x[:, None] - np.eye(CATEGORIES)) ** 2).sum(-1) / (2 * 0.8**2)
    for i, m in np.argwhere(said >= 0):
        joint[i] += np.log(confusion[m, :, said[i, m]])
    return joint.argmax(1)


def votes(said):
    return (said[..., None] == np.arange(CATEGORIES)).sum(1)


@pytest.mark.slow
def test_the_truth_is_inferred_nearly_as_well_as_by_who_knows_the_people():
    x, y, said, confusion = simulated()
    best = np.mean(best_truth(x, said, confusion) == y)
    majority = np.mean(votes(said).argmax(1) == y)
    found = np.mean(fitted().truth == y)
    assert best > majority + 0.03  # there is something to learn
    assert found > majority + 0.5 * (best - majority)
    assert found > best - 0.03


@pytest.mark.slow
def test_people_are_known_and_intervals_cover():
    _, y, said, confusion = simulated()
    crowd = fitted()
    right = np.diagonal(confusion, axis1=1, axis2=2)
    skill = crowd.skill(0.9)
    counted = [[np.mean(said[(y == c) & (said[:, m] >= 0), m] == c) for c in range(CATEGORIES)] for m in range(PEOPLE)]
    # Without the truth, and with a prior, nearly as well as by counting with the truth.
    assert np.abs(skill[..., 0] - right).mean() < 1.2 * np.abs(counted - right).mean()
    covered = (skill[..., 1] <= right) & (right <= skill[..., 2])
    assert covered.mean() > 0.75
    # The average over categories: the mean of the draws, weighed by hand.
    share = crowd.truth_probs.mean(0)
    np.testing.assert_allclose(crowd.accuracy()[:, 0], skill[..., 0] @ share, rtol=1e-6)
    assert crowd.confusion.shape[1:] == (PEOPLE, CATEGORIES, CATEGORIES)
    np.testing.assert_allclose(crowd.confusion.sum(-1), 1, rtol=1e-5)


@pytest.mark.slow
def test_the_least_certain_items_are_wrong_more_often():
    y, crowd = simulated()[1], fitted()
    worst = crowd.doubtful(60)
    assert np.all(np.diff(crowd.truth_probs.max(1)[worst]) >= 0)
    assert np.mean(crowd.truth[worst] == y[worst]) < np.mean(crowd.truth == y) - 0.05


@pytest.mark.slow
def test_newcomers_join_without_truth():
    """A careful and a careless newcomer, of whom nobody knows the truth of any item."""
    x, y, _, _ = simulated(1)
    rng = np.random.default_rng(2)
    careless = np.where(rng.random(ITEMS) < 0.6, rng.integers(0, CATEGORIES, ITEMS), y)
    joined = fitted().people.join(KEY, {"x": x, "annotations": np.stack([y, careless], 1)}, ONE, people=["A", "B"])
    right = np.diagonal(joined.values("confusion", x[:1]), axis1=2, axis2=3).mean((0, 2))
    assert joined.people == (*NAMES, "A", "B")
    assert right[PEOPLE] > right[PEOPLE + 1] + 0.2
    np.testing.assert_allclose(right[PEOPLE + 1], np.mean(careless == y), atol=0.15)
    shares = joined.defer(x).bounded([0.0] * 15, [0.2] * 14 + [1.0]).shares
    assert shares[PEOPLE] > shares[PEOPLE + 1]


@pytest.mark.slow
def test_gold_is_kept_and_helps():
    x, y, said, _ = simulated()
    gold = np.where(np.arange(ITEMS) % 2 == 0, y, -1)
    crowd = fit_crowd(KEY, data_of(x, said, gold))
    np.testing.assert_array_equal(crowd.truth[::2], y[::2])
    assert np.mean(crowd.truth[1::2] == y[1::2]) > np.mean(fitted().truth[1::2] == y[1::2]) - 0.01


SHORT = CROWD_SCHEDULE.replace(steps=200)


@pytest.mark.slow
def test_who_contradicts_everybody_is_named():
    x, y, said, _ = simulated()
    liar = np.where(np.arange(ITEMS) % 2 == 0, (y + 1) % CATEGORIES, -1)
    with pytest.warns(UserWarning, match="found 'liar' surely below it"):
        fit_crowd(KEY, data_of(x, np.column_stack([said, liar]), people=(*NAMES, "liar")), schedule=SHORT)


@pytest.mark.slow
def test_a_category_that_nobody_names():
    x, _, said, _ = simulated()
    with pytest.warns(UserWarning, match="found none who says 'owl'"), warnings.catch_warnings():
        fit_crowd(KEY, data_of(x, np.minimum(said, 1)), schedule=SHORT.replace(steps=2))


def test_nobody_and_nothing_said():
    x = simulated()[0]
    with pytest.raises(ValueError, match=r"annotations of named people, found none.*pl2d clusters"):
        fit_crowd(KEY, data_of(x, np.full((ITEMS, PEOPLE), -1)))
