"""Counts of options and offsets that reach them, against enumeration and linear assignment."""

import itertools

import numpy as np
import pytest
from cases.deferral import SEEDS, random_bounds
from hypothesis import given, settings
from scipy.optimize import linear_sum_assignment
from scipy.special import log_softmax

from pl2d_ppl.deferral.assignment import exact_offsets, nearest_counts


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(SEEDS)
def test_counts_are_the_best_there_are_with_the_fewest_moves(seed):
    """All counts are tried; flows through a bipartite graph are feasible where no set of nodes is short (Hoffman)."""
    rng = np.random.default_rng(seed)
    support = rng.random((3, 4)) < 0.6
    support[np.arange(3), rng.integers(0, 4, 3)] = True
    lower, upper = random_bounds(rng, support.any(0))
    upper = np.where(support.any(0), upper, 0.0)
    counts = rng.multinomial(9, np.ones(3) / 3)
    options, people = (
        [list(c) for r in range(1, n + 1) for c in itertools.combinations(range(n), r)] for n in support.shape
    )

    def excess(counts):
        """In items, that everybody is given beyond the bounds."""
        need = [0.0]
        for some in options:
            reached = support[some].any(0)
            need.append((counts[some].sum() - 9 * upper[reached].sum()) / reached.sum())
        for some in people:
            need.append((9 * lower[some].sum() - counts[support[:, some].any(1)].sum()) / len(some))
        return max(need)

    tries = [np.array([i, j, 9 - i - j]) for i in range(10) for j in range(10 - i)]
    found, share = nearest_counts(counts, support, lower, upper)
    assert found.sum() == 9
    assert found.min() >= 0
    np.testing.assert_allclose(share * 9, excess(found), atol=1e-6)
    moves = lambda to: np.abs(to - counts).sum()  # noqa: E731
    best = min(30.0 * excess(to) + moves(to) for to in tries)
    assert 30.0 * excess(found) + moves(found) <= best + 1e-6
    assert share * 9 < 1.0
    np.testing.assert_allclose(
        nearest_counts(counts, support, lower, upper, may_move=False)[1] * 9, excess(counts), atol=1e-6
    )


def check_best_assignment(log_gate, offsets, counts):
    """Offsets choose every option as often as told, and so that the sum of ln gate is the largest."""
    found = exact_offsets(log_gate, offsets, counts)
    decision = (log_gate + found).argmax(1)
    np.testing.assert_array_equal(np.bincount(decision, minlength=len(counts)), counts)
    places = np.repeat(np.arange(len(counts)), counts)
    rows, columns = linear_sum_assignment(-log_gate[:, places])
    best = log_gate[rows, places[columns]].sum()
    np.testing.assert_allclose(log_gate[np.arange(len(log_gate)), decision].sum(), best)


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(SEEDS)
def test_exact_offsets_are_the_prices_of_the_best_assignment(seed):
    rng = np.random.default_rng(seed)
    num_options = rng.integers(2, 6)
    log_gate = log_softmax(rng.choice([1.0, 10.0]) * rng.standard_normal((60, num_options)), 1)
    counts = rng.multinomial(60, rng.dirichlet(np.ones(num_options)))
    check_best_assignment(log_gate, rng.standard_normal(num_options), counts)


@pytest.mark.parametrize("seed", range(10))
def test_items_move_through_options_that_tie(seed):
    """Whoever has moved an item ties with who has taken it, so that most later moves pass at a cost of zero."""
    rng = np.random.default_rng(seed)
    log_gate = log_softmax(rng.standard_normal((40, 6)), 1)
    counts = rng.multinomial(40, np.ones(6) / 6)
    check_best_assignment(log_gate, np.where(np.arange(6) == 0, 20.0, 0.0), counts)  # all go over from the first


def test_exact_offsets_lie_amid_those_that_do():
    """Of two options, half-way between the last item of one and the first of the other."""
    log_gate = np.array([[0.0, -4.0], [0.0, -2.0], [0.0, 1.0], [0.0, 2.0]])
    for share, middle in ((1, -1.5), (2, 0.5), (3, 3.0)):
        offsets = exact_offsets(log_gate, np.zeros(2), np.array([4 - share, share]))
        np.testing.assert_allclose(offsets[1] - offsets[0], middle)
