"""Measures of a partition of people."""

import math
from itertools import combinations, permutations

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import pdist

from pl2d_ppl.clusters.agreement import cosine_dissimilarity, partition_scores, within_group_spread


def one_hot(clusters, num_clusters=None):
    return np.eye(num_clusters or max(clusters) + 1)[list(clusters)].T


@st.composite
def memberships(draw):
    shape = draw(st.integers(1, 4)), draw(st.integers(2, 7))
    weights = draw(st.lists(st.integers(0, 9), min_size=math.prod(shape), max_size=math.prod(shape)))
    weights = np.reshape(weights, shape) + np.eye(*shape) + 1e-3
    return weights / weights.sum(0)


def rand_index(a, b):
    pairs = list(combinations(range(len(a)), 2))
    return sum((a[i] == a[j]) == (b[i] == b[j]) for i, j in pairs) / len(pairs)


def entropy(labels):
    shares = np.array([list(labels).count(value) for value in set(labels)]) / len(labels)
    return -(shares * np.log(shares)).sum()


def mutual_information(a, b):
    return entropy(a) + entropy(b) - entropy(list(zip(a, b, strict=True)))


def adjusted(index, best, a, b):
    """An index, corrected by its mean over all orders of the people."""
    chance = np.mean([index(a, order) for order in permutations(b)])
    return (index(a, b) - chance) / (best - chance)


# Agreement


@pytest.mark.parametrize(
    ("groups", "clusters", "ari"),
    [
        ([0, 0, 1, 1], [1, 1, 0, 0], 1.0),
        ([0, 0, 1, 1], [0, 1, 0, 1], -0.5),
        # Of 15 pairs, 6 together in truth, 6 in the partition, 2 in both: (2 - 2.4) / (6 - 2.4) = -1/9.
        ([0, 0, 0, 1, 1, 1], [0, 0, 1, 0, 1, 1], -1 / 9),
        # 3 together in truth, 7 in the partition, 3 in both: (3 - 1.4) / (5 - 1.4) = 4/9.
        ([0, 0, 1, 1, 2, 2], [0, 0, 1, 1, 1, 1], 4 / 9),
    ],
)
def test_scores_by_hand(groups, clusters, ari):
    scores = partition_scores(groups, one_hot(clusters))
    assert scores["ari"] == pytest.approx(ari)
    mean_entropy = (entropy(groups) + entropy(clusters)) / 2
    assert scores["ami"] == pytest.approx(adjusted(mutual_information, mean_entropy, groups, clusters))


@pytest.mark.parametrize(
    ("groups", "clusters"), [([0, 0, 1, 1, 1], [0, 0, 0, 1, 1]), ([2, 0, 1, 1, 0], [0, 0, 1, 2, 1])]
)
def test_scores_are_indices_corrected_by_their_mean_over_all_orders(groups, clusters):
    scores = partition_scores(groups, one_hot(clusters))
    assert scores["ari"] == pytest.approx(adjusted(rand_index, 1, groups, clusters))
    mean_entropy = (entropy(groups) + entropy(clusters)) / 2
    assert scores["ami"] == pytest.approx(adjusted(mutual_information, mean_entropy, groups, clusters))


@given(memberships(), st.randoms(use_true_random=False))
def test_scores_agree_with_scikit_learn_and_ignore_numbering(membership, random):
    groups = np.array([random.randrange(3) for _ in membership.T])
    clusters = membership.argmax(0)
    scores = partition_scores(groups, membership)
    assert scores["ari"] == pytest.approx(sklearn.metrics.adjusted_rand_score(groups, clusters))
    assert scores["ami"] == pytest.approx(sklearn.metrics.adjusted_mutual_info_score(groups, clusters))
    assert partition_scores(7 - 2 * groups, one_hot(clusters, len(membership))[::-1]) == pytest.approx(scores)


def test_soft_memberships_count_by_their_largest():
    soft = [[0.9, 0.5, 0.2, 0.4], [0.1, 0.5, 0.8, 0.6]]
    assert partition_scores([0, 0, 1, 1], soft) == {"ari": 1.0, "ami": 1.0}


def test_a_partition_of_nobody_agrees_no_better_than_by_chance():
    assert partition_scores([0, 0, 1, 1], np.full((3, 4), 1 / 3)) == {"ari": 0.0, "ami": 0.0}


def test_many_groups_give_no_warning():
    assert partition_scores(np.arange(30), np.eye(30))["ari"] == 1


# Dissimilarity and spread


def test_dissimilarity_by_hand():
    assert cosine_dissimilarity([[1, 0], [0, 1]]) == 1
    assert cosine_dissimilarity([[0.3, 0.3], [0.7, 0.7]]) == pytest.approx(0, abs=1e-15)
    # One of three pairs is at 0, two are at 1 - 1/sqrt(2).
    assert cosine_dissimilarity([[1, 1, 0.5], [0, 0, 0.5]]) == pytest.approx(2 / 3 * (1 - math.sqrt(0.5)))


@given(memberships())
def test_dissimilarity_agrees_with_scipy(membership):
    expected = pdist(membership.T, "cosine").mean()
    assert cosine_dissimilarity(membership) == pytest.approx(expected, abs=1e-12)


def test_spread_by_hand():
    membership = [[0.9, 0.7, 0.1, 0.6], [0.1, 0.3, 0.9, 0.4]]
    assert within_group_spread([5, 5, 3, 3], membership) == pytest.approx(0.5)
    assert within_group_spread([5, 5, 3, 4], membership) == pytest.approx(0.2)
    assert within_group_spread([0, 1, 2, 3], membership) == 0
    # Clusters are compared as they are: to swap them for one person is as far as can be.
    assert within_group_spread([0, 0], np.eye(2)) == 1


@given(memberships(), st.randoms(use_true_random=False))
def test_spread_agrees_with_its_definition(membership, random):
    groups = [random.randrange(2) for _ in membership.T]
    expected = 0.0
    for m, n in combinations(range(len(groups)), 2):
        if groups[m] == groups[n]:
            expected = max(expected, np.abs(membership[:, m] - membership[:, n]).max())
    assert within_group_spread(groups, membership) == pytest.approx(expected)


def test_rounding_of_float32_is_forgiven():
    membership = np.full((3, 2), 1 / 3, np.float32)
    assert cosine_dissimilarity(membership) == pytest.approx(0, abs=1e-7)


BAD_MEMBERSHIPS = [
    ([0.5, 0.5], r"membership of shape \(K, M\), not empty, found \(2,\)"),
    (np.zeros((2, 0)), r"found \(2, 0\)"),
    ([[1.5, 0], [-0.5, 1]], "and least -0.5 at M = 0. Pass probabilities"),
    ([[np.nan, 0], [1, 1]], r"found \[nan,  1.\] with sum nan at M = 0. Correct NaN"),
    ([[0.5, 0.5], [0.5, 0.6]], "with sum 1.1 at M = 1"),
    ([[0.2, 0.8], [0.6, 0.4], [1, 0]], r"Transpose them, as they sum to one over M"),
]


@pytest.mark.parametrize(("membership", "message"), BAD_MEMBERSHIPS)
def test_bad_memberships(membership, message):
    calls = [cosine_dissimilarity, lambda m: partition_scores([0, 1], m), lambda m: within_group_spread([0, 1], m)]
    for call in calls:
        with pytest.raises(ValueError, match=message):
            call(membership)


@pytest.mark.parametrize("measure", [partition_scores, within_group_spread])
@pytest.mark.parametrize("groups", [[0], [0, 1, 1], [[0, 1]], [0.0, 1.0], ["a", "b"]])
def test_bad_groups(measure, groups):
    with pytest.raises(ValueError, match=r"groups as integers of shape \(2,\)"):
        measure(groups, np.eye(2))


def test_one_person_is_dissimilar_to_nobody():
    with pytest.raises(ValueError, match="at least two people, found 1"):
        cosine_dissimilarity([[1.0]])
