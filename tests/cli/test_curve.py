"""``pl2d curve``: from a file to a report, and what it says when something is wrong."""

import json

import numpy as np
import pytest
from cases.command import TINY, pl2d, plain, refused, toy

from pl2d_ppl.cli.curve import Method
from pl2d_ppl.data import write_npz
from pl2d_ppl.experiments.methods import METHODS, NEED_MEMBERSHIP

# Who annotated only some items of the test part cannot be judged on the others, which curves tell.
pytestmark = pytest.mark.filterwarnings("default:.*of the decisions can be judged")


def test_curve_writes_a_report_and_a_plot(curve):
    output, out, report = curve
    assert sorted(p.name for p in out.iterdir()) == ["curve.png", "report.json"]
    assert (out / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert (report["method"], report["coverages"], report["seeds"]) == ("naive", [0.0, 1.0], [0])
    for name in ("coverage", "accuracy", "coverage_offset", "accuracy_offset"):
        assert np.shape(report[name]) == (1, 2)
    for name in ("area", "area_offset", "ai_accuracy", "seconds"):
        assert np.shape(report[name]) == (1,)
    assert np.shape(report["expert_accuracy"]) == (1, 2)
    assert np.shape(report["workload"]) == (1, 2, 3)
    assert report["annotators"] == ["Ada", "Bob"]
    assert "versions" in report
    assert f"{report['accuracy_offset'][0][1]:.3f}" in output
    assert "report.json" in output
    least = np.min([report["judged"], report["judged_offset"]])
    assert 0 < least < 1
    assert f"least: {least:.3f}" in output
    assert plain(output).count(f"pl2d: naive: as few as {least:.3f} of the decisions, those") == 1


def test_a_finished_curve_is_not_run_again(curve, data, monkeypatch):
    _, out, report = curve

    def never(*args, **options):
        raise AssertionError("run again")

    monkeypatch.setattr("pl2d_ppl.experiments.seeds.coverage_curve", never)
    result = pl2d("curve", data, *TINY, "--out", out)
    assert result.exit_code == 0, result.output
    again = json.loads((out / "report.json").read_text())
    assert {**again, "versions": 0} == {**report, "versions": 0}


def fake_curve(value):
    """In the place of training: a row at once."""

    def row(key, train, test, coverages, **options):
        points = [value] * len(coverages)
        shares = [[1 / 3] * 3] * len(coverages)
        names = {"coverage": points, "accuracy": points, "judged": [1.0] * len(coverages), "workload": shares}
        rows = {f"{n}{s}": v for n, v in names.items() for s in ("", "_offset")}
        return {
            **rows,
            "area": 50.0,
            "area_offset": 50.0,
            "ai_accuracy": value,
            "expert_accuracy": [0.5, 0.5],
            "seconds": 1.0,
        }

    return row


def test_a_report_of_another_file_of_the_same_name_is_neither_taken_nor_lost(tmp_path, monkeypatch):
    """Results must never be those of other data."""
    for name, value in (("one", 0.25), ("two", 0.75)):
        (tmp_path / name).mkdir()
        write_npz(tmp_path / name / "data.npz", toy(seed=len(name), num_items=48 if name == "one" else 60))
        monkeypatch.setattr("pl2d_ppl.experiments.seeds.coverage_curve", fake_curve(value))
        result = pl2d("curve", tmp_path / name / "data.npz", *TINY, "--out", tmp_path / "out")
        if name == "one":
            assert result.exit_code == 0, result.output
        else:
            refused(result, "found one of others: sha256", "Choose another --out, or delete the folder")
        assert json.loads((tmp_path / "out" / "report.json").read_text())["accuracy"] == [[0.25, 0.25]]


def test_a_curve_of_other_settings_is_refused_before_any_work(tmp_path, data, monkeypatch):
    monkeypatch.setattr("pl2d_ppl.experiments.seeds.coverage_curve", fake_curve(0.25))
    assert pl2d("curve", data, *TINY, "--out", tmp_path).exit_code == 0
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    monkeypatch.setattr("pl2d_ppl.experiments.seeds.coverage_curve", lambda *a, **k: pytest.fail("run again"))
    refused(
        pl2d("curve", data, *TINY, "--steps", 7, "--missing", ".5", "--out", tmp_path), "missing 0.0 there, 0.5 here"
    )
    refused(pl2d("curve", data, *TINY, "--steps", 7, "--out", tmp_path), "found one of others: steps 4 there, 7 here.")
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_the_table_of_a_curve_is_of_the_seeds_asked_for(tmp_path, data, monkeypatch):
    for seed, value in ((0, 0.25), (1, 0.75)):
        monkeypatch.setattr("pl2d_ppl.experiments.seeds.coverage_curve", fake_curve(value))
        result = pl2d("curve", data, *TINY, "--seed", seed, "--out", tmp_path)
        assert "over 1 seed\n" in result.output
        assert f"accuracy  {value:8.3f}" in result.output
        assert ("the files hold seeds 0, 1." in plain(result.output)) == (seed == 1)
    assert json.loads((tmp_path / "report.json").read_text())["seeds"] == [0, 1]
    result = pl2d("curve", data, *TINY, "--seeds", 2, "--out", tmp_path)
    assert "over 2 seeds\n" in result.output
    assert "the files hold" not in result.output


def test_more_seeds_keep_the_first(tmp_path, data, monkeypatch):
    for seeds, value in ((1, 0.25), (2, 0.75)):
        monkeypatch.setattr("pl2d_ppl.experiments.seeds.coverage_curve", fake_curve(value))
        assert pl2d("curve", data, *TINY, "--seeds", seeds, "--out", tmp_path).exit_code == 0
    assert json.loads((tmp_path / "report.json").read_text())["accuracy"] == [[0.25, 0.25], [0.75, 0.75]]


def test_an_interrupted_curve_keeps_its_finished_seeds(tmp_path, data, monkeypatch):
    calls = []

    def interrupted(*args, **options):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return fake_curve(0.5)(*args, **options)

    monkeypatch.setattr("pl2d_ppl.experiments.seeds.coverage_curve", interrupted)
    result = pl2d("curve", data, *TINY, "--seeds", 3, "--out", tmp_path)
    assert result.exit_code == 130
    assert "interrupted; seeds that were finished are kept" in plain(result.output)
    assert json.loads((tmp_path / "report.json").read_text())["seeds"] == [0]
    result = pl2d("curve", data, *TINY, "--seeds", 3, "--out", tmp_path)
    assert result.exit_code == 0
    assert len(calls) == 4
    assert json.loads((tmp_path / "report.json").read_text())["seeds"] == [0, 1, 2]


@pytest.mark.parametrize("content", ["not json", "[1]", "{}"])
def test_a_report_that_cannot_be_read_is_replaced(tmp_path, data, monkeypatch, content):
    monkeypatch.setattr("pl2d_ppl.experiments.seeds.coverage_curve", fake_curve(0.5))
    (tmp_path / "report.json").write_text(content)
    result = pl2d("curve", data, *TINY, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "report.json").read_text())["seeds"] == [0]


def test_curve_takes_the_methods_that_need_no_membership():
    assert [method.value for method in Method] == [m for m in METHODS if m not in (*NEED_MEMBERSHIP, "pooled")]


@pytest.mark.slow
@pytest.mark.parametrize(
    "method",
    [
        "one-stage",
        "one-vs-all",
        "two-stage",
        "lecodu",
        "l2d-pop",
    ],
)
def test_curve_of_other_methods(tmp_path, data, method):
    result = pl2d("curve", data, *TINY, "--method", method, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["method"] == method
    for suffix in ("", "_offset"):
        assert np.shape(report["workload" + suffix]) == (1, 2, 3)
        np.testing.assert_allclose(np.sum(report["workload" + suffix], -1), 1)
        assert 0 <= report["area" + suffix][0] <= 100
    # What cannot be steered decides alike, whatever the target, unless by offsets.
    first, last = report["coverage"][0]
    assert (method == "lecodu") or first == last
    np.testing.assert_allclose(report["coverage_offset"], [[0, 1]], atol=0.15)
    assert method in result.output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--method", "other"], "other"),
        (["--method", "cluster-soft"], "cluster-soft"),
        (["--guide", "other"], "other"),
        (["--coverages", "0,x"], "'0,x'"),
        (["--coverages", "0,1.5"], "between 0 and 1"),
        (["--coverages", ","], "coverage"),
        (["--missing", "2"], "--missing"),
        (["--test-group-share", "1"], "strictly between 0 and 1"),
        (["--seed", "-1"], "seed"),
        (["--steps", "0"], "--steps"),
        (["--seeds", "0"], "--seeds"),
    ],
)
def test_bad_options_of_curve_are_refused_and_nothing_is_left(data, tmp_path, options, message):
    refused(pl2d("curve", data, "--out", tmp_path / "new" / "out", "--steps", 2, *options), message)
    assert list(tmp_path.iterdir()) == []
