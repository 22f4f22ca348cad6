"""Curves over seeds: what is prepared, run, kept and drawn."""

import logging
from functools import partial

import numpy as np
import pytest
from cases.curves import KEY, NAMES, QUICK, SETTINGS, prepare, real, toy

from pl2d_ppl import Annotated
from pl2d_ppl.data import read_npz
from pl2d_ppl.experiments.plots import plot_curve
from pl2d_ppl.experiments.reports import read_report, select_seeds, write_json
from pl2d_ppl.experiments.seeds import prepare_split, run_seeds


def test_a_report_has_a_row_a_seed(report):
    assert report["method"] == "two-stage"
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


def test_finished_seeds_are_not_run_again(report, tmp_path):
    path = tmp_path / "report.json"
    write_json(path, report)
    known, calls, points = read_report(path), [], []
    run = partial(run_seeds, partial(prepare, calls), **QUICK, path=path)
    again = run(range(2), [0.0, 1.0], SETTINGS, on_point=lambda: points.append(1))
    assert calls == []
    assert len(points) == 4  # the progress bar counts them
    assert {**again, "versions": None} == {**known, "versions": None}
    more = run([1, 2], [0.0, 1.0], SETTINGS)
    assert calls == [2]
    assert more["seeds"] == [0, 1, 2]
    assert more["accuracy"][:2] == known["accuracy"]


def test_a_report_need_not_be_kept():
    report = run_seeds(partial(prepare, []), [3, 1], [0.0, 1.0], SETTINGS, **QUICK)
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
def test_a_report_of_other_settings_is_not_lost(report, tmp_path, change, message):
    calls, path = [], tmp_path / "report.json"
    write_json(path, report)
    before = path.read_bytes()
    options = {"settings": SETTINGS, "coverages": [0.0, 1.0], **change}
    with pytest.raises(ValueError, match=message):
        run_seeds(partial(prepare, calls), [0], path=path, **QUICK, **options)
    assert calls == []
    assert path.read_bytes() == before


def test_settings_that_are_not_told_are_as_good_as_none(report, tmp_path):
    path = tmp_path / "report.json"
    write_json(path, report)
    settings = {**SETTINGS, "window": None}
    assert run_seeds(partial(prepare, []), [0], [0.0, 1.0], settings, path=path)["seeds"] == [0, 1]


def test_seeds_that_others_finish_meanwhile_are_kept(tmp_path):
    """While the seed 0 is prepared, other runs finish 1 and, of other settings, try to."""
    path, calls = tmp_path / "report.json", []
    others = partial(run_seeds, partial(prepare, calls), path=path, coverages=[0.0, 1.0], **QUICK)

    def slow(key, seed):
        if seed == 0:
            others(seeds=[1], settings=SETTINGS)
        return prepare(calls, key, seed)

    report = run_seeds(slow, range(3), [0.0, 1.0], SETTINGS, path=path, **QUICK)
    assert calls == [1, 0, 2]  # what has been finished is not run again
    assert report["seeds"] == read_report(path)["seeds"] == [1, 0, 2]
    alone = run_seeds(partial(prepare, []), range(3), [0.0, 1.0], SETTINGS, **QUICK)
    assert {**select_seeds(report, range(3)), "seconds": 0} == {**alone, "seconds": 0}


def test_a_report_of_other_settings_that_came_meanwhile_is_not_lost(tmp_path):
    path = tmp_path / "report.json"

    def slow(key, seed):
        run_seeds(partial(prepare, []), [5], [0.0, 1.0], {**SETTINGS, "steps": 7}, path=path, **QUICK)
        return prepare([], key, seed)

    with pytest.raises(ValueError, match="steps 7 there, 8 here"):
        run_seeds(slow, [0], [0.0, 1.0], {**SETTINGS, "steps": 8}, path=path, **QUICK)
    assert read_report(path)["seeds"] == [5]


@pytest.mark.parametrize(
    "content",
    ["", "{", "[1]", '{"seeds": [0]}', '{"settings": 7, "seeds": [0]}', '{"data": "toy", "method": "two-stage"}'],
)
def test_a_file_that_is_no_report_is_as_good_as_none(tmp_path, content):
    (tmp_path / "report.json").write_text(content)
    run_seeds(partial(prepare, []), [0], [0.0, 1.0], SETTINGS, path=tmp_path / "report.json", **QUICK)
    again = read_report(tmp_path / "report.json")
    assert again["seeds"] == [0]
    assert len(again["area"]) == 1


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


def test_a_plot_shows_curves_and_references(report):
    axes = plot_curve({"naive": report})
    labels = [t.get_text() for t in axes.get_legend().get_texts()]
    assert labels[0] == f"naive (area {np.mean(report['area_offset']):.1f})"
    assert labels[1:] == ["AI alone", "best expert alone"]


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


@pytest.mark.slow
def test_labelme_falls_back_to_held_out_training_items(data_dir, caplog):
    train, test = read_npz(real(data_dir, "labelme"))
    assert (test.annotations < 0).all()
    kept, held_out = prepare_split(KEY, train, test, seed=0)
    assert kept.num_items + held_out.num_items == train.num_items == 1000
    assert "held-out part of the training items" in caplog.text
