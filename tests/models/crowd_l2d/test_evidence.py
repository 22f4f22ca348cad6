"""Evidence and posterior of the truth: against the sum over it, written by hand."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from programs import Table
from scipy.special import log_softmax, logsumexp, softmax

from pl2d_ppl import log_evidence, marginals
from pl2d_ppl.data.listed import list_annotations
from pl2d_ppl.models.crowd_l2d import crowd_l2d

ITEMS, PEOPLE, CATEGORIES = 6, 4, 3
SHARED = {
    "ability": np.array(1.5),
    "scale": np.array([0.5, 1.0]),
    "spread": np.array([0.3, 0.8]),
}
rng = np.random.default_rng(0)
LOGITS = rng.standard_normal((ITEMS, CATEGORIES)).astype(np.float32)
OMEGA = np.array([[1.0, 0.5, 0.0, 0.25], [0.0, 0.5, 1.0, 0.75]])
UNITS = {
    "cluster_mean_decentered": rng.standard_normal((2, CATEGORIES, CATEGORIES)),
    "person_decentered": rng.standard_normal((PEOPLE, CATEGORIES, CATEGORIES)),
}
SAID = rng.integers(-1, CATEGORIES, (ITEMS, PEOPLE))
SAID[0] = -1
SAID[1] = np.maximum(SAID[1], 0)
GOLD = np.array([-1, 2, -1, 0, -1, -1])


def people():
    """Everybody's matrix of log-probabilities: around the mean of their clusters, in units of their spread."""
    own = np.eye(CATEGORIES, dtype=int)
    means = 1.5 * own + np.array([0.5, 1.0])[own] * UNITS["cluster_mean_decentered"]
    return log_softmax(
        np.einsum("km,kab->mab", OMEGA, means) + np.array([0.3, 0.8])[own] * UNITS["person_decentered"], -1
    )


def by_hand(said, gold=None):
    """Logarithm of the joint of truth and annotations, for every truth, (N, C)."""
    joint = log_softmax(np.float64(LOGITS), -1)
    for i, m in np.argwhere(said >= 0):
        joint[i] += people()[m][:, said[i, m]]
    if gold is not None:
        joint[(gold >= 0)[:, None] & (np.arange(CATEGORIES) != gold[:, None])] = -np.inf
    return joint


def program(**data):
    model = partial(crowd_l2d, membership=OMEGA, classifier=Table(jnp.asarray(LOGITS, float)))
    given = {"x": jnp.zeros((ITEMS, 1)), **{n: jnp.asarray(a) for n, a in data.items()}}
    params = {name: jnp.asarray(a) for name, a in (SHARED | UNITS).items()}
    prior = log_evidence(model, params=params)(given["x"], jnp.full((ITEMS, PEOPLE), -1))
    evidence = log_evidence(model, params=params)(**given)
    probs = jax.jit(marginals(model, params=params))(**given)
    return evidence - prior, probs  # without the densities of what is given


@pytest.mark.parametrize("gold", [None, GOLD], ids=["no truth", "gold"])
@pytest.mark.parametrize("listed", [False, True])
def test_evidence_and_truth_are_those_of_the_sum_by_hand(float64, gold, listed):
    said = list_annotations(SAID) if listed else {"annotations": SAID}
    evidence, probs = program(**said, **({} if gold is None else {"y": gold}))
    expected = by_hand(SAID, gold)
    np.testing.assert_allclose(evidence, logsumexp(expected, 1).sum(), rtol=1e-9)
    np.testing.assert_allclose(probs["y"][:, 0], softmax(expected, 1), rtol=1e-9, atol=1e-12)


def test_who_decides_follows_the_chance_to_be_right(float64):
    """z knows of the input alone, and nothing depends on it."""
    right = np.exp(np.diagonal(people(), axis1=1, axis2=2))
    ai = softmax(np.float64(LOGITS), -1)
    chances = np.append(ai @ right.T, ai.max(1, keepdims=True), 1)
    probs = program(annotations=SAID)[1]["z"][:, 0]
    np.testing.assert_allclose(probs, softmax(20 * chances, -1), rtol=1e-9)


def test_lists_hold_the_annotations():
    listed = list_annotations(SAID)
    found = np.full_like(SAID, -1)
    rows = np.arange(ITEMS)[:, None] + 0 * listed["people"]
    given = listed["annotations"] >= 0
    found[rows[given], listed["people"][given]] = listed["annotations"][given]
    np.testing.assert_array_equal(found, SAID)
    assert given.sum() == (SAID >= 0).sum()
    assert listed["people"].shape == (ITEMS, PEOPLE)
    nothing = list_annotations(np.full((2, 3), -1))
    np.testing.assert_array_equal(nothing["annotations"], [[-1], [-1]])
    with pytest.raises(ValueError, match=r"shape \(N, M\), integers, found float64 of shape \(3,\)"):
        list_annotations(np.zeros(3))
