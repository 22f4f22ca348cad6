"""Statistics of people, and what replicates say of them, against scikit-learn, SciPy and by hand."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm, percentileofscore
from sklearn.calibration import calibration_curve
from sklearn.metrics import accuracy_score, recall_score

from pl2d_ppl.inference.criticism import (
    accuracy_by_class,
    agreement,
    compare,
    decider_shares,
    reliability,
)
from pl2d_ppl.plots import plot_compared, plot_reliability


def crowd(seed, num_items=40, num_people=4, num_categories=3, missing=0.4):
    rng = np.random.default_rng(seed)
    y = rng.integers(-1, num_categories, num_items)
    said = np.where(rng.random((num_items, num_people)) < 0.6, y[:, None], rng.integers(0, num_categories, 4))
    said[rng.random(said.shape) < missing] = -1
    return said, y


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000))
def test_agreement_is_accuracy_on_common_items(seed):
    said, _ = crowd(seed)
    found = agreement(said)
    for m, n in np.ndindex(found.shape):
        both = (said[:, m] >= 0) & (said[:, n] >= 0)
        assert found[m, n] == pytest.approx(accuracy_score(said[both, m], said[both, n]))


def test_people_without_common_items_have_no_agreement():
    np.testing.assert_array_equal(agreement(np.array([[1, -1], [-1, 0]])), [[1, np.nan], [np.nan, 1]])


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000))
def test_accuracy_by_class_is_recall(seed):
    said, y = crowd(seed, num_items=200)
    found = accuracy_by_class(said, y, 3)
    for m in range(4):
        there = (said[:, m] >= 0) & (y >= 0)
        recall = recall_score(y[there], said[there, m], labels=range(3), average=None)
        np.testing.assert_allclose(found[m], recall)
    assert np.isnan(accuracy_by_class(said, y, 4)[:, 3]).all()


def test_shares_of_deciders():
    np.testing.assert_allclose(decider_shares([0, 2, 2, -1], 4), [0.25, 0, 0.5, 0])
    with pytest.raises(ValueError, match="below num_deciders=2, found 2"):
        decider_shares([0, 2], 2)


@pytest.mark.parametrize("num_bins", [1, 7, 10])
def test_reliability_is_that_of_scikit_learn_with_wilson_intervals(num_bins):
    rng = np.random.default_rng(0)
    probs = np.append(rng.beta(2, 1, 500), [0.0, 1.0])
    happened = rng.random(502) < probs
    found = reliability(probs, happened, num_bins=num_bins, level=0.9)
    share, predicted = calibration_curve(happened, probs, n_bins=num_bins)
    np.testing.assert_allclose(found.predicted, predicted)
    np.testing.assert_allclose(found.happened, share)
    z, n = norm.ppf(0.95), found.number
    center = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    np.testing.assert_allclose(found.lower, center - half, atol=1e-12)
    np.testing.assert_allclose(found.upper, center + half, atol=1e-12)
    assert n.sum() == 502


def test_a_model_of_independent_people_is_surprised_by_copies():
    rng = np.random.default_rng(0)
    said = rng.integers(0, 3, (60, 3))
    said[:, 1] = said[:, 0]  # a copy of the first person
    missing = rng.random(said.shape) < 0.2
    replicated = np.where(missing, -1, rng.integers(0, 3, (400, 60, 3)))
    said = np.where(missing, -1, said)
    found = compare(agreement, said, replicated)
    assert found.surprising[0, 1]
    assert found.p_value[0, 1] == 0
    statistics = np.array([agreement(r)[0, 2] for r in replicated])
    own = agreement(said)[0, 2]
    assert found.p_value[0, 2] == pytest.approx(1 - percentileofscore(statistics, own, kind="mean") / 100)
    np.testing.assert_allclose([found.lower[0, 2], found.upper[0, 2]], np.quantile(statistics, [0.05, 0.95]))


def test_p_values_of_the_true_model_are_uniform():
    rng = np.random.default_rng(1)
    draws = rng.integers(0, 4, (300, 100))
    share = partial(decider_shares, num_deciders=4)
    p = np.array([compare(share, draws[i], np.delete(draws, i, 0)).p_value[0] for i in range(100)])
    assert abs((p < 0.2).mean() - 0.2) < 0.16  # four standard errors
    assert abs(p.mean() - 0.5) < 0.12


def test_bad_input():
    said, y = crowd(0)
    with pytest.raises(ValueError, match=r"\(S, 40, 4\), found \(40, 4\)"):
        compare(agreement, said, said)
    with pytest.raises(ValueError, match="missing='mark'"):
        compare(agreement, said, np.abs(said)[None])
    with pytest.raises(ValueError, match="level between 0 and 1"):
        compare(agreement, said, said[None], level=90)
    with pytest.raises(ValueError, match="integer"):
        agreement(said / 2)
    with pytest.raises(ValueError, match=r"y.*40"):
        accuracy_by_class(said, y[:3])
    with pytest.raises(ValueError, match="as many events"):
        reliability([0.5], [True, False])
    with pytest.raises(ValueError, match="not logits"):
        reliability([1.5], [True])
    with pytest.raises(ValueError, match="num_bins"):
        reliability([0.5], [True], num_bins=0)


def test_pictures_show_each_pair_once_and_every_curve(tmp_path):
    said, y = crowd(0, missing=0.2)
    rng = np.random.default_rng(0)
    replicated = np.where(said < 0, -1, rng.integers(0, 3, (50, *said.shape)))
    names = ["ann", "bob", "cid", "dee"]
    axes = plot_compared(compare(agreement, said, replicated), names, names, label="agreement")
    assert [t.get_text() for t in axes.get_yticklabels()][:2] == ["ann · bob", "ann · cid"]
    assert len(axes.get_yticklabels()) == 6
    axes.figure.savefig(tmp_path / "agreement.png")
    right = compare(accuracy_by_class, said, replicated, y, 3)
    assert len(plot_compared(right, names, ["x", "y", "z"], label="right").get_yticklabels()) == 12
    shares = compare(partial(decider_shares, num_deciders=3), y, np.where(y < 0, -1, rng.integers(0, 3, (50, 40))))
    assert len(plot_compared(shares, ["a", "b", "AI"], label="share").get_yticklabels()) == 3
    probs = rng.random(300)
    curves = {"AI": reliability(probs, rng.random(300) < probs), "gate": reliability(probs, rng.random(300) < probs**2)}
    axes = plot_reliability(curves)
    assert [t.get_text() for t in axes.get_legend().get_texts()] == ["AI (300)", "gate (300)"]
    axes.figure.savefig(tmp_path / "reliability.png")
    assert all((tmp_path / f"{n}.png").stat().st_size > 1000 for n in ("agreement", "reliability"))
