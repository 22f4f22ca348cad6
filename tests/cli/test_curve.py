"""``pl2d curve``: from a file to a report, and what it says when something is wrong."""

import numpy as np
import pytest
from cases.command import TINY, ctrl_c, pl2d, plain, read, refused, toy

from pl2d_ppl.cli.curve import Method
from pl2d_ppl.data import write_npz
from pl2d_ppl.experiments.methods import METHODS, NEED_MEMBERSHIP

# Who annotated only some items of the test part cannot be judged on the others, which curves tell.
pytestmark = pytest.mark.filterwarnings("default:.*of the decisions can be judged")


@pytest.fixture(scope="module")
def curve(folder):
    """Output of a curve, its folder and its report."""
    result = pl2d("curve", folder / "data.npz", *TINY, "--out", folder / "curve")
    assert result.exit_code == 0, result.output
    return result.output, folder / "curve", read(folder / "curve")


def test_curve_writes_a_report_and_a_plot(curve):
    output, out, report = curve
    assert sorted(p.name for p in out.iterdir()) == ["curve.png", "report.json"]
    assert (out / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert (report["method"], report["coverages"], report["seeds"]) == ("two-stage", [0.0, 1.0], [0])
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
    assert plain(output).count(f"pl2d: two-stage: as few as {least:.3f} of the decisions can be judged, those") == 1


def test_a_finished_curve_is_not_run_again(curve, data, no_training):
    _, out, report = curve
    result = pl2d("curve", data, *TINY, "--out", out)
    assert result.exit_code == 0, result.output
    assert {**read(out), "versions": 0} == {**report, "versions": 0}


def test_a_report_of_another_file_of_the_same_name_is_neither_taken_nor_lost(curve, tmp_path, no_training):
    """Results must never be those of other data."""
    _, out, report = curve
    write_npz(tmp_path / "data.npz", toy(seed=1))
    result = pl2d("curve", tmp_path / "data.npz", *TINY, "--out", out)
    refused(result, "found one of others: sha256", "Choose another --out, or delete the folder")
    assert read(out) == report


def test_a_curve_of_other_settings_is_refused_before_any_work(curve, data, no_training):
    _, out, _ = curve
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    refused(pl2d("curve", data, *TINY, "--steps", 7, "--missing", ".5", "--out", out), "missing 0.0 there, 0.5 here")
    refused(pl2d("curve", data, *TINY, "--steps", 7, "--out", out), "found one of others: steps 4 there, 7 here.")
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before


def test_the_table_is_of_the_seeds_asked_for_and_more_seeds_keep_the_first(tmp_path, data):
    for seed in (0, 1):
        result = pl2d("curve", data, *TINY, "--seed", seed, "--out", tmp_path)
        assert "over 1 seed\n" in result.output
        assert f"{read(tmp_path)['area_offset'][seed]:.2f} ± 0.00" in result.output
        assert ("the files hold seeds 0, 1." in plain(result.output)) == (seed == 1)
    two = read(tmp_path)
    assert two["seeds"] == [0, 1]
    assert two["area_offset"][0] != two["area_offset"][1]
    result = pl2d("curve", data, *TINY, "--seeds", 3, "--out", tmp_path)
    assert "over 3 seeds\n" in result.output
    assert "the files hold" not in result.output
    three = read(tmp_path)
    assert three["seeds"] == [0, 1, 2]
    for name in ("accuracy", "seconds"):
        assert three[name][:2] == two[name]


def test_an_interrupted_curve_keeps_its_finished_seeds(tmp_path, data, at_fit):
    at_fit(3, ctrl_c)  # of two coverages a seed
    result = pl2d("curve", data, *TINY, "--seeds", 3, "--out", tmp_path)
    assert result.exit_code == 130
    assert "interrupted; seeds that were finished are kept" in plain(result.output)
    first = read(tmp_path)
    assert first["seeds"] == [0]
    assert pl2d("curve", data, *TINY, "--seeds", 2, "--out", tmp_path).exit_code == 0
    assert read(tmp_path)["seeds"] == [0, 1]
    assert read(tmp_path)["seconds"][:1] == first["seconds"]


def test_a_report_that_cannot_be_read_is_replaced(tmp_path, data):
    (tmp_path / "report.json").write_text("not json")
    assert pl2d("curve", data, *TINY, "--out", tmp_path).exit_code == 0
    assert read(tmp_path)["seeds"] == [0]


def test_curve_takes_the_methods_that_need_no_membership():
    assert [method.value for method in Method] == [m for m in METHODS if m not in (*NEED_MEMBERSHIP, "pooled")]


@pytest.mark.slow
@pytest.mark.parametrize(
    "method",
    ["one-stage", "one-vs-all", "lecodu", "l2d-pop"],
)
def test_curve_of_other_methods(tmp_path, data, method):
    result = pl2d("curve", data, *TINY, "--method", method, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    report = read(tmp_path)
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
