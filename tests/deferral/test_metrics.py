"""Final labels, areas and calibration."""

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given
from hypothesis import strategies as st

from pl2d_ppl.deferral.metrics import (
    area_under_curve,
    expected_calibration_error,
    final_labels,
)

SHARE = st.floats(0, 1)


def test_final_labels_by_hand():
    annotations = [[0, 1], [-1, 1], [2, 2], [0, 0]]
    final = final_labels([0, 0, 2, 1], annotations, [9, 9, 3, 9])
    assert final.tolist() == [0, -1, 3, 0]


def test_final_labels_without_experts():
    assert final_labels([0, 0], np.zeros((2, 0)), np.array([1, 2], np.uint8)).tolist() == [1, 2]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: final_labels([], np.zeros((0, 2), int), []), "at least one item"),
        (lambda: final_labels([0.5], [[1, 2]], [0]), "integer decisions .* in decision, found float64"),
        (lambda: final_labels([-1], [[1, 2]], [0]), "found -1"),
        (
            lambda: final_labels([0], [[1, 2]], [[0.1, 0.9]]),
            r"ai_labels of shape \(N,\), .* found \(1, 2\). Take the argmax",
        ),
        (lambda: final_labels([0], [1, 2], [0]), r"annotations of shape \(1, M\), .* found \(2,\)"),
        (lambda: final_labels([0], [[1.0]], [0]), "integer labels in annotations, found float64"),
        (lambda: final_labels([0, 1], [[1]], [0]), r"decision of shape \(1,\), as ai_labels, found \(2,\)"),
        (lambda: final_labels([2], [[1]], [0]), r"decisions \(the AI is 1\) in 0..1 in decision, found 2"),
    ],
)
def test_bad_decisions(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# Area


def test_area_by_hand():
    # Flat .8 to coverage .2, straight to .6 at .7, flat to 1.
    assert area_under_curve([0.7, 0.2], [0.6, 0.8]) == pytest.approx(100 * (0.16 + 0.35 + 0.18))
    # One point: .9 at 0, .8 at .5, .4 at 1.
    assert area_under_curve([0.5], [0.8], 0.9, 0.4) == pytest.approx(100 * (0.425 + 0.3))
    # Several points have no use for the extremes.
    assert area_under_curve([0.7, 0.2], [0.6, 0.8], 0.9, 0.4) == area_under_curve([0.7, 0.2], [0.6, 0.8])
    # Points at one coverage, of a method that was steered in vain, count with their mean.
    assert area_under_curve([0.5, 0.5], [0.6, 0.8]) == pytest.approx(70)


@given(st.lists(st.tuples(SHARE, SHARE), min_size=2, max_size=8, unique_by=lambda point: point[0]))
def test_area_agrees_with_scikit_learn(points):
    points.sort()
    x, heights = map(list, zip(*points, strict=True))
    expected = sklearn.metrics.auc([0, *x, 1], [heights[0], *heights, heights[-1]])
    assert area_under_curve(x, heights) == pytest.approx(100 * expected)


@given(st.lists(st.tuples(st.sampled_from([0, 0.2, 0.5, 1]), SHARE), min_size=2, max_size=8), st.randoms())
def test_area_ignores_order_and_lies_between_the_extremes(points, random):
    area = area_under_curve(*zip(*points, strict=True))
    heights = [height for _, height in points]
    assert 100 * min(heights) - 1e-9 <= area <= 100 * max(heights) + 1e-9
    random.shuffle(points)
    assert area_under_curve(*zip(*points, strict=True)) == pytest.approx(area)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], []), "coverage as a non-empty vector"),
        (([0.1, 0.2], [0.5]), r"accuracy of shape \(2,\), as coverage"),
        (([0.1, 1.2], [0.5, 0.5]), r"coverage in \[0, 1\], found 1.2"),
        (
            ([0.1, 0.2], [50, 60]),
            r"accuracy in \[0, 1\], found 50.0. Pass shares, not percentages",
        ),
        (([0.1, np.nan], [0.5, 0.6]), "found nan"),
        (([0.1], [0.5]), "both extremes beside a single point"),
        (([0.1], [0.5], 0.8), "both extremes beside a single point, .* ai_accuracy None"),
        (([0.1], [0.5], 0.8, 80), r"ai_accuracy in \[0, 1\], found 80"),
    ],
)
def test_bad_area(arguments, message):
    with pytest.raises(ValueError, match=message):
        area_under_curve(*arguments)


# Calibration


def brute_force_calibration(confidence, correct, num_bins):
    """Bin by bin, as the definition says."""
    total = 0.0
    for b in range(num_bins):
        inside = [
            (p, c)
            for p, c in zip(confidence, correct, strict=True)
            if b / num_bins < p <= (b + 1) / num_bins or (b == 0 and p == 0)
        ]
        if inside:
            p, c = np.mean(inside, axis=0)
            total += len(inside) / len(confidence) * abs(c - p)
    return total


def test_calibration_by_hand():
    # Bins (0, .5] and (.5, 1]: |.5 - .3| on two items, |.5 - .85| on two.
    assert expected_calibration_error([0.2, 0.4, 0.8, 0.9], [0, 1, 1, 0], 2) == pytest.approx(0.275)
    assert expected_calibration_error([1.0, 0.0], [True, False]) == 0


@given(
    st.lists(st.tuples(st.integers(0, 64), st.booleans()), min_size=1, max_size=20),
    st.sampled_from([1, 4, 8, 15]),
)
def test_calibration_agrees_with_the_definition(rows, num_bins):
    confidence = [sixty_fourths / 64 for sixty_fourths, _ in rows]  # on the bins' edges too, exactly
    correct = [right for _, right in rows]
    expected = brute_force_calibration(confidence, correct, num_bins)
    assert expected_calibration_error(confidence, correct, num_bins) == pytest.approx(expected)


def test_calibration_forgives_rounding_of_float32():
    assert expected_calibration_error(np.float32([1.0000001]), [1]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], []), "confidence as a non-empty vector"),
        (([0.5, 1.5], [0, 1]), r"confidence in \[0, 1\], found 1.5"),
        (([0.5], [0, 1]), r"correct as booleans of shape \(1,\)"),
        (([0.5, 0.5], [0, 2]), "correct as booleans of shape"),
        (([0.5], [1], 0), "num_bins of at least 1, found 0"),
    ],
)
def test_bad_calibration(arguments, message):
    with pytest.raises(ValueError, match=message):
        expected_calibration_error(*arguments)
