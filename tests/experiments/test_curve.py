"""Curves and their reports: decisions judged by hand, methods on tiny data, seeds, and real data."""

import errno
import json
import logging
import os
import subprocess
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import jax
import numpy as np
import pytest

from pl2d_ppl import Annotated
from pl2d_ppl.data import read_npz
from pl2d_ppl.deferral.decisions import evaluate_decisions, expert_accuracy
from pl2d_ppl.experiments.curve import coverage_curve
from pl2d_ppl.experiments.methods import coverage_bounds
from pl2d_ppl.experiments.plots import plot_curve
from pl2d_ppl.experiments.reports import add_seed, known_mean, read_report, select_seeds, write_json
from pl2d_ppl.experiments.seeds import prepare_split, run_seeds
from pl2d_ppl.experiments.tables import curve_table
from pl2d_ppl.inference.schedule import Schedule

KEY = jax.random.key(0)
TINY = {"schedule": Schedule(steps=6, batch_size=16), "hidden": (8,)}
NAMES = {"classes": ("a", "b", "c"), "annotators": ("p", "q")}


def toy(seed=0, num_items=48, missing=0.3):
    """Blobs; the first expert is right, the second guesses."""
    rng = np.random.default_rng(seed)
    y = np.arange(num_items) % 3
    x = 3 * np.eye(3)[y] + rng.standard_normal((num_items, 3))
    said = np.stack([y, rng.integers(0, 3, num_items)], 1)
    said[rng.random(said.shape) < missing] = -1
    return Annotated(x, y, said, **NAMES)


def by_hand(decision, ai, data):
    """Coverage, accuracy, judged share and workload, item by item."""
    shares, right, judged = [0] * (data.num_experts + 1), 0, 0
    for who, ai_says, annotations, y in zip(decision, ai, data.annotations, data.y, strict=True):
        shares[who] += 1
        says = ai_says if who == data.num_experts else annotations[who]
        if says >= 0 and y >= 0:
            judged += 1
            right += says == y
    n = data.num_items
    accuracy = right / judged if judged else None
    return {"coverage": shares[-1] / n, "accuracy": accuracy, "judged": judged / n, "workload": [s / n for s in shares]}


def test_decisions_are_judged_as_by_hand():
    rng = np.random.default_rng(0)
    data = toy(1, 60)
    y = np.where(rng.random(60) < 0.2, -1, data.y)
    data = Annotated(data.x, y, data.annotations, **NAMES)
    for _ in range(20):
        decision, ai = rng.integers(0, 3, 60), rng.integers(0, 3, 60)
        found, expected = evaluate_decisions(decision, ai, data), by_hand(decision, ai, data)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, err_msg=name)


def test_a_small_example():
    data = Annotated(np.zeros((4, 1)), [0, 1, 2, -1], [[0, 1], [0, -1], [-1, 2], [1, 1]], **NAMES)
    found = evaluate_decisions(np.array([0, 1, 2, 2]), np.array([2, 2, 2, 2]), data)
    # The first is decided rightly by p; q has not said anything of the second; the AI is right on the third.
    assert found == {"coverage": 0.5, "accuracy": 1.0, "judged": 0.5, "workload": [0.25, 0.25, 0.5]}
    assert expert_accuracy(data) == [0.5, 0.5]


def test_nobody_to_judge():
    data = Annotated(np.zeros((2, 1)), [0, 1], [[-1, 0], [-1, 1]], **NAMES, subset=True)
    found = evaluate_decisions(np.array([0, 0]), np.array([0, 1]), data)
    assert np.isnan(found["accuracy"])
    assert found["judged"] == 0.0
    assert expert_accuracy(data) == [None, 1.0]


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
    ("method", "guide"),
    [
        pytest.param("naive", "exact", marks=pytest.mark.slow),
        pytest.param("prob-l2d", "exact", marks=pytest.mark.slow),
        pytest.param("prob-l2d", "mean-field", marks=pytest.mark.slow),
    ],
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


@pytest.mark.slow
def test_one_coverage_is_joined_to_the_extremes():
    train, test = toy(0), toy(1, missing=0.0)
    row = coverage_curve(KEY, train, test, [0.5], method="naive", **TINY)
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
        KEY, train, test, [0.0, 1.0], method="naive", hidden=(8,), schedule=Schedule(steps=300, batch_size=16)
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
        coverage_curve(KEY, toy(0), test, [0.0, 1.0], method="naive", **TINY)


# --- Reports ---

SETTINGS = {"data": "toy", "method": "naive"}


def prepare(calls, key, seed):
    calls.append(seed)
    return prepare_split(key, toy(0, 60), None, seed=seed)


def fake_curve(key, train, test, coverages, **options):
    """In the place of training: a row at once, that tells the key and the items apart."""
    value = float(jax.random.uniform(key)) / 2 + train.num_items / 1000
    points, shares = [value] * len(coverages), [[1 / 3] * 3] * len(coverages)
    row = {"coverage": points, "accuracy": points, "judged": points, "workload": shares}
    both = {f"{name}{suffix}": column for name, column in row.items() for suffix in ("", "_offset")}
    alone = {"ai_accuracy": value, "expert_accuracy": [1.0, 0.5], "seconds": 1.0}
    for _ in coverages:
        options["on_point"]()
    return {**both, **alone, "area": 50.0, "area_offset": 50.0}


@pytest.fixture
def quick_curves(monkeypatch):
    """No training."""
    monkeypatch.setattr("pl2d_ppl.experiments.seeds.coverage_curve", fake_curve)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Two seeds, the first one trained."""
    calls, path = [], tmp_path_factory.mktemp("report") / "report.json"
    run = partial(run_seeds, partial(prepare, calls), method="naive", **TINY, path=path)
    run([0], [0.0, 1.0], SETTINGS)
    assert read_report(path)["seeds"] == [0]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("pl2d_ppl.experiments.seeds.coverage_curve", fake_curve)
        report = run(range(2), [0.0, 1.0], SETTINGS)
    assert calls == [0, 1]
    assert [p.name for p in path.parent.iterdir()] == ["report.json"]
    assert read_report(path) == json.loads(json.dumps(report))
    return report


def test_a_report_has_a_row_a_seed(report):
    assert report["method"] == "naive"
    assert report["coverages"] == [0.0, 1.0]
    assert report["seeds"] == [0, 1]
    for name in ("coverage", "accuracy", "coverage_offset", "accuracy_offset", "judged", "judged_offset"):
        assert np.shape(report[name]) == (2, 2), name
    for name in ("workload", "workload_offset"):
        assert np.shape(report[name]) == (2, 2, 3)
    for name in ("area", "area_offset", "ai_accuracy", "seconds"):
        assert np.shape(report[name]) == (2,), name
    assert np.shape(report["expert_accuracy"]) == (2, 2)
    assert report["versions"].keys() >= {"python", "pl2d_ppl", "jax", "numpyro"}
    assert report["annotators"] == ["p", "q"]


def test_finished_seeds_are_not_run_again(report, tmp_path, quick_curves):
    path = tmp_path / "report.json"
    write_json(path, report)
    known, calls, points = read_report(path), [], []
    run = partial(run_seeds, partial(prepare, calls), method="naive", **TINY, path=path)
    again = run(range(2), [0.0, 1.0], SETTINGS, on_point=lambda: points.append(1))
    assert calls == []
    assert len(points) == 4  # the progress bar counts them
    assert {**again, "versions": None} == {**known, "versions": None}
    more = run([1, 2], [0.0, 1.0], SETTINGS)
    assert calls == [2]
    assert more["seeds"] == [0, 1, 2]
    assert more["accuracy"][:2] == known["accuracy"]


def test_a_report_need_not_be_kept(quick_curves):
    report = run_seeds(partial(prepare, []), [3, 1], [0.0, 1.0], SETTINGS, method="naive")
    assert report["seeds"] == [3, 1]
    assert np.shape(report["accuracy"]) == (2, 2)
    assert "versions" in report


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"settings": {**SETTINGS, "steps": 7}}, "others: steps none there, 7 here. Choose another --out, or delete"),
        ({"settings": {**SETTINGS, "data": "b"}}, 'others: data "toy" there, "b" here. Choose'),
        ({"coverages": [0.0, 0.5]}, r"others: coverages \[0.0, 1.0\] there, \[0.0, 0.5\] here. Choose"),
    ],
)
def test_a_report_of_other_settings_is_not_lost(report, tmp_path, change, message, quick_curves):
    calls, path = [], tmp_path / "report.json"
    write_json(path, report)
    before = path.read_bytes()
    options = {"settings": SETTINGS, "coverages": [0.0, 1.0], **change}
    with pytest.raises(ValueError, match=message):
        run_seeds(partial(prepare, calls), [0], path=path, method="naive", **TINY, **options)
    assert calls == []
    assert path.read_bytes() == before


def test_settings_that_are_not_told_are_as_good_as_none(report, tmp_path, quick_curves):
    path = tmp_path / "report.json"
    write_json(path, report)
    settings = {**SETTINGS, "window": None}
    assert run_seeds(partial(prepare, []), [0], [0.0, 1.0], settings, path=path)["seeds"] == [0, 1]


def test_seeds_that_others_finish_meanwhile_are_kept(tmp_path, quick_curves):
    """While the seed 0 is prepared, other runs finish 1 and, of other settings, try to."""
    path, calls = tmp_path / "report.json", []
    others = partial(run_seeds, partial(prepare, calls), path=path, coverages=[0.0, 1.0])

    def slow(key, seed):
        if seed == 0:
            others(seeds=[1], settings=SETTINGS)
        return prepare(calls, key, seed)

    report = run_seeds(slow, range(3), [0.0, 1.0], SETTINGS, path=path)
    assert calls == [1, 0, 2]  # what has been finished is not run again
    assert report["seeds"] == read_report(path)["seeds"] == [1, 0, 2]
    alone = run_seeds(partial(prepare, []), range(3), [0.0, 1.0], SETTINGS)
    assert select_seeds(report, range(3)) == alone


def test_a_report_of_other_settings_that_came_meanwhile_is_not_lost(tmp_path, quick_curves):
    path = tmp_path / "report.json"

    def slow(key, seed):
        run_seeds(partial(prepare, []), [5], [0.0, 1.0], {**SETTINGS, "steps": 7}, path=path)
        return prepare([], key, seed)

    with pytest.raises(ValueError, match="steps 7 there, 8 here"):
        run_seeds(slow, [0], [0.0, 1.0], {**SETTINGS, "steps": 8}, path=path)
    assert read_report(path)["seeds"] == [5]


def test_nobody_writes_while_another_does(tmp_path, monkeypatch):
    """Between reading and writing there is time for all the others."""
    path, empty = tmp_path / "new" / "report.json", {**SETTINGS, "seeds": []}

    def slow(path):
        found = read_report(path)
        time.sleep(0.01)
        return found

    monkeypatch.setattr("pl2d_ppl.experiments.reports.read_report", slow)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda seed: add_seed(path, empty, SETTINGS, seed, {"rows": {"area": seed}}), range(24)))
    report = read_report(path)
    assert sorted(report["seeds"]) == list(range(24))
    assert report["rows"]["area"] == report["seeds"]
    assert [p.name for p in path.parent.iterdir()] == ["report.json"]


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_nobody_writes_while_another_does_without_locks(tmp_path, monkeypatch, number):
    def flock(*args):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(pytest.importorskip("fcntl"), "flock", flock)
    test_nobody_writes_while_another_does(tmp_path, monkeypatch)


ADD_SEEDS = """
import sys
from pathlib import Path
from pl2d_ppl.experiments.reports import add_seed

path, seeds = Path(sys.argv[1]), range(int(sys.argv[2]), int(sys.argv[2]) + 100)
settings = {"data": "toy"}
for seed in seeds:
    add_seed(path, {**settings, "seeds": []}, settings, seed, {"area": seed})
"""


@pytest.mark.slow
def test_two_processes_that_add_seeds_lose_none(tmp_path):
    path = tmp_path / "report.json"
    runs = [subprocess.Popen([sys.executable, "-c", ADD_SEEDS, path, str(start)]) for start in (0, 100)]
    assert [run.wait() for run in runs] == [0, 0]
    report = read_report(path)
    assert sorted(report["seeds"]) == list(range(200))
    assert report["area"] == report["seeds"]
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]


def test_a_report_in_a_folder_that_cannot_be_written_to_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"Expected a folder that can be written to at .*file, found: "):
        add_seed(tmp_path / "file" / "report.json", {"seeds": []}, {}, 0, {})


@pytest.mark.parametrize(
    "content",
    ["", "{", "[1]", "7", '{"seeds": [0]}', '{"settings": 7, "seeds": [0]}', '{"data": "toy", "method": "naive"}'],
)
def test_a_file_that_is_no_report_is_as_good_as_none(tmp_path, quick_curves, content):
    (tmp_path / "report.json").write_text(content)
    run_seeds(partial(prepare, []), [0], [0.0, 1.0], SETTINGS, path=tmp_path / "report.json", method="naive")
    again = read_report(tmp_path / "report.json")
    assert again["seeds"] == [0]
    assert again["area"] == [50.0]


def test_json_holds_no_nan(tmp_path):
    write_json(tmp_path / "a.json", {"a": [np.float32(1), float("nan")], "b": np.arange(2), "c": (np.int64(3), None)})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": [1.0, None], "b": [0, 1], "c": [3, None]}


def test_a_report_with_gaps_can_be_plotted_after_it_was_read(report, tmp_path):
    """A point that could not be judged is NaN, and null on disk; the mean is over the others."""
    gap = {
        **report,
        "coverage_offset": [[0.0, 0.5], [0.0, 0.5]],
        "accuracy_offset": [[float("nan"), 0.5], [float("nan"), float("nan")]],
        "area_offset": [float("nan"), 50.0],
    }
    write_json(tmp_path / "report.json", gap)
    axes = plot_curve({"naive": read_report(tmp_path / "report.json")})
    assert axes.get_legend().get_texts()[0].get_text() == "naive (area 50.0)"
    np.testing.assert_array_equal(axes.lines[2].get_xydata(), [[0.0, np.nan], [0.5, 0.5]])


def test_a_mean_is_over_what_is_known():
    values = [[1.0, None, 4.0], [3.0, None, float("nan")]]
    np.testing.assert_array_equal(known_mean(values), [2.0, np.nan, 4.0])
    assert known_mean([1.0, None, 2.0]) == 1.5


# --- The table ---


@pytest.fixture
def judged():
    """Two seeds, of which everything is judged."""
    table = {name: [[0.0, 1.0]] * 2 for name in ("coverage", "coverage_offset")}
    table |= {name: [[0.5, 0.75], [0.7, 0.85]] for name in ("accuracy", "accuracy_offset")}
    table |= {name: [[1.0, 1.0]] * 2 for name in ("judged", "judged_offset")}
    alone = {"ai_accuracy": [0.75, 0.85], "expert_accuracy": [[0.5, None], [0.75, None]]}
    return {
        "coverages": [0.0, 1.0],
        "seeds": [0, 4],
        "area": [60.0, 70.0],
        "area_offset": [62.0, 70.0],
        **table,
        **alone,
    }


def test_a_table_has_means_over_seeds(judged):
    head, coverage, accuracy, alone = curve_table({"naive": judged}).splitlines()
    assert head.split(maxsplit=2) == ["0.00", "1.00", "area (plain argmax), mean ± spread over 2 seeds"]
    assert coverage.split() == ["naive", "coverage", "0.000", "1.000"]
    assert accuracy.split(maxsplit=4) == ["naive", "accuracy", "0.600", "0.800", "66.00 ± 4.00 (65.00 ± 5.00)"]
    assert alone == "alone: AI 0.800; experts 0.625, no annotation"


def test_what_cannot_be_judged_is_shown_and_told_once_a_method(judged):
    unjudged = {**judged, "judged": [[0.9, 1.0], [0.4, 1.0]], "judged_offset": [[0.8, 1.0], [0.6, 0.95]]}
    reports = {"naive": unjudged, "two-stage": judged, "lecodu": {**judged, "judged": [[1.0, 0.999], [1.0, 1.0]]}}
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        lines = curve_table(reports).splitlines()
    assert [str(w.message).split(" of the decisions")[0] for w in told] == [
        "naive: as few as 0.400",
        "lecodu: as few as 0.999",
    ]
    assert all(w.category is UserWarning for w in told)
    assert [line.split() for line in lines if " judged " in line] == [
        ["naive", "judged", "0.400", "0.950", "least:", "0.400"],
        ["lecodu", "judged", "1.000", "0.999", "least:", "0.999"],
    ]


def test_a_seed_without_a_value_is_told_and_left_out_of_the_means(judged):
    gaps = {
        "accuracy_offset": [[None, 0.75], [0.7, 0.85]],
        "area": [None, 70.0],
        "area_offset": [float("nan"), 70.0],
    }
    found = curve_table({"naive": {**judged, **gaps}})
    assert "0.700   0.800   70.00 ± 0.00 (70.00 ± 0.00)" in found
    missing = (
        "naive: missing, as nothing could be judged: accuracy at 0.00 of seed 0; area of seed 0; plain area of seed 0"
    )
    assert missing in found.splitlines()
    nothing = curve_table({"naive": {**judged, "accuracy_offset": [[None, 0.75], [None, 0.85]]}})
    assert "accuracy       nan   0.800" in nothing
    assert "accuracy at 0.00 of seeds 0, 4" in nothing


def test_some_seeds_of_a_report(judged):
    nested = {**judged, "settings": {"contexts": [10, 20]}, "results": {"10": {"naive": {"area": [1.0, 2.0]}}}}
    found = select_seeds(nested, [4])
    assert found["seeds"] == [4]
    assert found["area_offset"] == [70.0]
    assert found["results"] == {"10": {"naive": {"area": [2.0]}}}
    assert (found["coverages"], found["settings"]) == ([0.0, 1.0], {"contexts": [10, 20]})
    assert select_seeds(nested, [4, 0])["ai_accuracy"] == [0.85, 0.75]


# --- The picture ---


def test_a_plot_shows_curves_and_references(report):
    axes = plot_curve({"naive": report})
    labels = [t.get_text() for t in axes.get_legend().get_texts()]
    assert labels[0] == f"naive (area {np.mean(report['area_offset']):.1f})"
    assert labels[1:] == ["AI alone", "best expert alone"]


# --- Splits ---


def test_a_test_part_without_annotations_gives_way_to_training_items(caplog):
    train, test = toy(0), toy(1)
    test = Annotated(test.x, test.y, np.full((48, 2), -1), **NAMES, subset=True)
    with caplog.at_level(logging.WARNING, "pl2d_ppl"):
        kept, held_out = prepare_split(KEY, train, test, seed=0, test_share=0.25)
    assert "test part has no annotations" in caplog.text
    assert (kept.num_items, held_out.num_items) == (36, 12)
    assert (held_out.annotations >= 0).any()
    np.testing.assert_allclose(kept.x.mean(0), 0, atol=1e-5)


def test_annotations_are_dropped_from_the_training_part_only():
    train, test = toy(0, missing=0.0), toy(1, missing=0.0)
    kept, same = prepare_split(KEY, train, test, seed=0, missing=0.5)
    assert 0.35 < (kept.annotations < 0).mean() < 0.65
    np.testing.assert_array_equal(same.annotations, test.annotations)


def test_experts_are_simulated_where_there_are_none(caplog):
    data = toy(0)
    alone = Annotated(
        data.x, data.y, np.empty((48, 0), int), classes=NAMES["classes"], annotators=(), coarse=data.y % 2
    )
    kept, held_out = prepare_split(KEY, alone, None, seed=0, num_simulated=2)
    assert kept.num_experts == held_out.num_experts == 2
    assert "simulated" in caplog.text
    with pytest.raises(ValueError, match="coarse"):
        prepare_split(
            KEY,
            Annotated(data.x, data.y, np.empty((48, 0), int), classes=NAMES["classes"], annotators=()),
            None,
            seed=0,
        )


# --- Real data ---


def real(data_dir, name):
    path = data_dir / f"{name}.npz"
    if not path.exists():
        pytest.skip(f"no {path}")
    return path


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


def test_labelme_falls_back_to_held_out_training_items(data_dir, caplog):
    train, test = read_npz(real(data_dir, "labelme"))
    assert (test.annotations < 0).all()
    kept, held_out = prepare_split(KEY, train, test, seed=0)
    assert kept.num_items + held_out.num_items == train.num_items == 1000
    assert "held-out part of the training items" in caplog.text
