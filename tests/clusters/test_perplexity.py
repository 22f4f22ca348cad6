"""Perplexity and the choice of the number of clusters, on examples by hand."""

import numpy as np
import pytest

from pl2d_ppl.clusters.perplexity import (
    choose_num_clusters,
    marginal_perplexity,
    perplexity,
    relative_perplexity_change,
)


def test_perplexity_of_a_guess_is_the_number_of_categories():
    num_votes = np.array([3, 1, 0, 6])
    assert perplexity(-num_votes * np.log(7), num_votes) == pytest.approx(7)
    assert perplexity([0.0, 0.0], [2, 3]) == 1
    assert perplexity([1e-12, 0.0], [2, 3]) == pytest.approx(1)  # rounding
    assert perplexity([-np.inf, -1.0], [1, 1]) == np.inf
    assert perplexity([-1e6], [1]) == np.inf


def test_perplexity_weighs_votes_not_items():
    assert perplexity([np.log(0.5), 4 * np.log(0.25)], [1, 4]) == pytest.approx(2 ** (9 / 5))
    float32 = np.full(100_000, np.float32(-np.log(3)))  # added up in float64
    assert perplexity(float32, np.ones(len(float32), int)) == pytest.approx(3, rel=1e-6)


def test_marginal_perplexity_by_hand():
    # (5 + 1) / (7 + 3), (2 + 1) / (7 + 3) and (0 + 1) / (7 + 3)
    expected = np.exp(-(np.log(0.6) + 2 * np.log(0.3) + np.log(0.1)) / 4)
    assert marginal_perplexity([[3, 0, 0], [2, 2, 0]], [[1, 0, 1], [0, 2, 0]]) == pytest.approx(expected)
    assert marginal_perplexity(np.zeros((1, 5), int), [[1, 2, 0, 0, 0]]) == pytest.approx(5)


def test_marginal_perplexity_is_that_of_the_marginal():
    train, test = np.random.default_rng(0).integers(0, 9, (2, 20, 4))
    p = (train.sum(0) + 1) / (train.sum() + 4)
    assert marginal_perplexity(train, test) == pytest.approx(perplexity(test @ np.log(p), test.sum(1)))


def test_relative_changes_by_hand():
    np.testing.assert_allclose(relative_perplexity_change([1, 2, 4, 8], [9.0, 5.0, 4.0, 6.0]), [4, 0.5, 0.5])


@pytest.mark.parametrize(
    ("num_clusters", "perplexities", "chosen"),
    [
        ([1, 2], [3.0, 3.0], 2),
        ([1, 2, 3, 4, 5], [2.9, 2.8, 2.1, 2.05, 2.0], 3),  # the elbow
        ([2, 3, 4, 5], [2.0, 1.9, 1.9, 1.6], 5),
        ([1, 2, 3, 4], [4.0, 3.0, 2.0, 1.0], 2),  # all alike: the fewest
        ([1, 2, 3, 4], [1.4, 1.3, 1.2, 1.1], 2),  # alike but for rounding
        ([1, 2, 6], [5.0, 4.5, 3.0], 2),  # a fall of 1.5 is shared by four clusters
        ([1, 2, 3], [2.0, 1.9, 2.5], 3),  # a rise counts as much as a fall
        (np.array([1, 2, 3], np.uint8), [2.0, 1.5, 1.4], 2),
    ],
)
def test_choice(num_clusters, perplexities, chosen):
    found = choose_num_clusters(num_clusters, perplexities)
    assert found == chosen
    assert type(found) is int


def test_seeds_are_averaged_before_changes_are_taken():
    seeds = [[4.0, 3.0, 2.0], [2.0, 3.0, 1.0]]  # mean 3, 3, 1.5: the first change cancels
    np.testing.assert_allclose(relative_perplexity_change([1, 2, 3], seeds), [0, 1.5])
    assert choose_num_clusters([1, 2, 3], seeds) == 3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: perplexity(-1.0, 1), r"log_prob as a non-empty vector, .* found shape \(\)"),
        (lambda: perplexity([], []), r"found shape \(0,\)"),
        (lambda: perplexity([-1.0, -1.0], [1]), r"num_votes as integers of shape \(2,\)"),
        (lambda: perplexity([-1.0, -1.0], 2), r"num_votes .* found dtype int64 and shape \(\)"),
        (lambda: perplexity([-1.0], [1.0]), "found dtype float64"),
        (lambda: perplexity([-1.0, -1.0], [-1, 2]), "a minimum of -1"),
        (lambda: perplexity([0.0], [0]), "a sum of 0"),
        (lambda: perplexity([1.0], [1]), "sum is at most 0, found 1.0"),
        (lambda: perplexity([np.nan], [1]), "found nan"),
        (lambda: marginal_perplexity([1, 2], [[1, 2]]), r"train_counts as integers .* shape \(2,\)"),
        (lambda: marginal_perplexity([[1, 2]], [[0.5, 0.5]]), "test_counts as integers .* dtype float64"),
        (lambda: marginal_perplexity([[1, -1]], [[1, 2]]), "train_counts as integers from 0 up"),
        (lambda: marginal_perplexity(np.zeros((2, 0), int), [[1]]), r"shape \(2, 0\)"),
        (lambda: marginal_perplexity([[1, 2]], [[1, 2, 3]]), "found 2 in train_counts and 3 in test_counts"),
        (lambda: marginal_perplexity([[1, 2]], [[0, 0]]), "one vote at least in test_counts"),
        (lambda: choose_num_clusters([2], [2.0]), "at least two integers"),
        (lambda: choose_num_clusters([[1, 2]], [[2.0, 1.5]]), r"shape \(1, 2\)"),
        (lambda: choose_num_clusters([1.0, 2.0], [2.0, 1.5]), "dtype float64"),
        (lambda: choose_num_clusters([0, 1], [2.0, 1.5]), r"from 1 up, strictly increasing, found \[0, 1\]"),
        (lambda: choose_num_clusters([1, 1], [2.0, 1.5]), "strictly increasing"),
        (lambda: relative_perplexity_change([3, 2], [2.0, 1.5]), "strictly increasing"),
        (lambda: relative_perplexity_change(np.array([3, 2], np.uint8), [2.0, 1.5]), "strictly increasing"),
        (lambda: relative_perplexity_change([1, 2], [2.0, 1.5, 1.2]), r"of shape \(2,\) or \(seeds, 2\)"),
        (lambda: relative_perplexity_change([1, 2], np.ones((0, 2))), r"found \(0, 2\)"),
        (lambda: relative_perplexity_change([1, 2], np.ones((1, 1, 2))), r"found \(1, 1, 2\)"),
        (lambda: relative_perplexity_change([1, 2], 2.0), r"found \(\)"),
        (lambda: relative_perplexity_change([1, 2], [2.0, np.nan]), "at least 1, found nan"),
        (lambda: relative_perplexity_change([1, 2], [np.inf, 2.0]), "found inf"),
        (lambda: relative_perplexity_change([1, 2], [0.9, 0.7]), "found 0.9.*not their logarithms"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
