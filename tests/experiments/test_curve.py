"""Curves of methods on tiny and on real data."""

import json

import numpy as np
import pytest
from cases.curves import KEY, NAMES, TINY, real, toy

from pl2d_ppl import Annotated
from pl2d_ppl.data import read_npz
from pl2d_ppl.experiments.curve import coverage_curve
from pl2d_ppl.experiments.methods import coverage_bounds
from pl2d_ppl.experiments.seeds import prepare_split
from pl2d_ppl.inference.schedule import Schedule


def test_bounds_of_a_coverage():
    lower, upper = coverage_bounds(0.3, 2)
    np.testing.assert_array_equal([lower, upper], [[0, 0, 0.3], [1, 1, 0.3]])
    for wrong in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="between 0 and 1"):
            coverage_bounds(wrong, 2)


LISTS = ("coverage", "accuracy", "judged", "workload")


SCALARS = ("area", "area_offset", "ai_accuracy", "expert_accuracy", "seconds")


def check_row(row, coverages, test):
    assert set(row) == {*LISTS, *(f"{n}_offset" for n in LISTS), *SCALARS}
    for name in ("coverage", "accuracy", "judged"):
        for suffix in ("", "_offset"):
            values = np.array(row[name + suffix], float)
            assert values.shape == (len(coverages),)
            assert np.all((values >= 0) & (values <= 1))
    for suffix in ("", "_offset"):
        work = np.array(row["workload" + suffix])
        assert work.shape == (len(coverages), test.num_experts + 1)
        np.testing.assert_allclose(work.sum(1), 1)
        np.testing.assert_allclose(work[:, -1], row["coverage" + suffix])
    assert 0 <= row["area"] <= 100
    assert 0 <= row["area_offset"] <= 100
    assert row["seconds"] > 0
    assert len(row["expert_accuracy"]) == test.num_experts
    assert 0 <= row["ai_accuracy"] <= 1
    json.dumps(row)


@pytest.mark.parametrize(
    ("method", "guide"), [("two-stage", "exact"), pytest.param("prob-l2d", "mean-field", marks=pytest.mark.slow)]
)
def test_a_curve_on_tiny_data(method, guide):
    train, test, coverages, points = toy(0), toy(1, 60, missing=0.0), (0.0, 0.5, 1.0), []
    row = coverage_curve(
        KEY, train, test, coverages, method=method, guide=guide, **TINY, on_point=lambda: points.append(1)
    )
    check_row(row, coverages, test)
    assert len(points) == 3
    # The offsets were fitted on other items: shares of 60 new ones differ by chance, but not at the ends.
    np.testing.assert_allclose(row["coverage_offset"], coverages, atol=0.25)
    assert row["coverage_offset"][0] < 0.1
    assert row["coverage_offset"][-1] > 0.9
    assert row["expert_accuracy"][0] == 1.0


def test_one_coverage_is_joined_to_the_extremes():
    train, test = toy(0), toy(1, missing=0.0)
    row = coverage_curve(KEY, train, test, [0.5], method="two-stage", **TINY)
    (c,), (a,), ai = row["coverage"], row["accuracy"], row["ai_accuracy"]
    assert row["area"] == pytest.approx(100 * (c * (1.0 + a) / 2 + (1 - c) * (a + ai) / 2))


@pytest.mark.slow
def test_a_silent_decider_does_not_lose_the_curve():
    """At coverage 0 the expert p must be asked, who is silent in the test part: that point cannot be judged."""
    train, test = toy(0, missing=0.0), toy(1, missing=0.0)
    said = train.annotations.copy()
    said[:, 1] = (train.y + 1) % 3  # q is always wrong, so that p is asked
    train = train.replace_annotations(said)
    test = Annotated(test.x, test.y, np.stack([np.full(48, -1), test.y], 1), **NAMES, subset=True)
    row = coverage_curve(
        KEY, train, test, [0.0, 1.0], method="two-stage", hidden=(8,), schedule=Schedule(steps=300, batch_size=16)
    )
    assert row["judged_offset"][0] == 0.0
    assert np.isnan(row["accuracy_offset"][0])
    assert row["accuracy_offset"][1] > 0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "other"}, "prob-l2d, naive"),
        ({"guide": "other"}, "exact or mean-field"),
        ({"coverages": [0.5, 1.5]}, "between 0 and 1"),
        ({"coverages": []}, "coverage"),
        ({"test": "silent"}, "test part with annotations"),
    ],
)
def test_bad_options_are_refused(options, message):
    test = toy(1)
    if options.get("test") == "silent":
        test = Annotated(test.x, test.y, np.full((48, 2), -1), **NAMES, subset=True)
    options = {"coverages": [0.5], **options, "test": test}
    with pytest.raises(ValueError, match=message):
        coverage_curve(KEY, toy(0), **TINY, **options)


def test_an_unknown_test_expert_or_truth_does_not_end_in_a_crash():
    """No annotated item of the test part has a known truth."""
    test = toy(1, missing=0.0)
    y = np.where(np.arange(48) < 24, test.y, -1)
    said = np.where(np.arange(48)[:, None] < 24, -1, test.annotations)
    test = Annotated(test.x, y, said, **NAMES, subset=True)
    with pytest.raises(ValueError, match=r"Expected.*(annot|truth)"):
        coverage_curve(KEY, toy(0), test, [0.0, 1.0], method="two-stage", **TINY)


@pytest.mark.exhaustive
@pytest.mark.slow
@pytest.mark.parametrize("name", ["cue_conflict", "nih_airspace_opacity"])
def test_a_curve_on_real_data(data_dir, name):
    path = real(data_dir, name)
    if name == "nih_airspace_opacity":
        with pytest.warns(UserWarning, match="Expected annotations by everybody"):
            data, none = read_npz(path)
    else:
        data, none = read_npz(path)
    assert none is None
    train, test = prepare_split(KEY, data, None, seed=0)
    assert not set(train.group) & set(test.group)
    row = coverage_curve(KEY, train, test, [0.0, 1.0], hidden=(8,), schedule=Schedule(steps=20))
    check_row(row, [0.0, 1.0], test)
    assert row["judged_offset"][1] == pytest.approx(np.mean(test.y >= 0))
