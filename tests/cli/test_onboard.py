"""``pl2d onboard``: a report over seeds, and what it says when something is wrong."""

import json
import re
import shutil
import warnings
from functools import partial

import jax
import numpy as np
import pytest
from cases.command import pl2d, plain, read, refused

from pl2d_ppl.data import read_npz
from pl2d_ppl.experiments.onboarding.firm import reserved_items, set_up_firm
from pl2d_ppl.experiments.onboarding.options import OnboardingOptions
from pl2d_ppl.experiments.onboarding.workplace import open_workplace
from pl2d_ppl.inference.schedule import Schedule

ITEMS = 80
MOST = ITEMS - 2 * (ITEMS // 4) - ITEMS // 8  # context items: the others are for training, for the test and for offsets
OPTIONS = {"people": 3, "rates": (0.1, 0.4), "replaced": 0.5, "ai_steps": 2, "coverages": (0.0, 1.0)}
TINY = ["--methods", "two-stage", "--context", "8,4", "--coverages", "0,1", "--people", 3, "--rates", ".1,.4"]
TINY += ["--replaced", 0.5, "--steps", 2, "--ai-steps", 2]
onboard = partial(pl2d, "onboard")


def interrupt():
    raise KeyboardInterrupt


def file_of(path, **changes):
    """A small file of items with truth."""
    data = {"x": np.random.default_rng(0).standard_normal((ITEMS, 2)), "y": np.arange(ITEMS) % 5, **changes}
    np.savez(path, **data)
    return path


@pytest.fixture(scope="module")
def items(tmp_path_factory):
    return file_of(tmp_path_factory.mktemp("items") / "data.npz")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, items):
    """Output and folder of two seeds."""
    out = tmp_path_factory.mktemp("finished")
    result = onboard(items, *TINY, "--seeds", 2, "--out", out)
    assert result.exit_code == 0, result.output
    return result.stdout, out


@pytest.fixture
def kept(finished, tmp_path):
    """A copy of the folder."""
    return shutil.copytree(finished[1], tmp_path / "kept")


@pytest.mark.slow
def test_the_command_writes_a_report_and_a_picture(finished):
    _, out = finished
    assert sorted(p.name for p in out.iterdir()) == ["curve.png", "report.json"]  # there are no memberships to draw
    assert (out / "curve.png").read_bytes().startswith(b"\x89PNG")
    report = read(out)
    assert set(report) == {
        *("settings", "seeds", "people", "error_rates", "alone", "results", "memberships", "published", "versions")
    }
    settings = report["settings"]
    assert (report["seeds"], settings["contexts"], settings["data"]) == ([0, 1], [4, 8], "data.npz")
    assert len(settings["sha256"]) == 64
    assert set(settings["options"]) == set(OnboardingOptions.__dataclass_fields__)
    assert settings["options"]["ai_steps"] == 2
    for number in ("4", "8"):
        row = report["results"][number]["two-stage"]
        for name in ("coverage", "accuracy", "judged"):
            assert np.shape(row[name]) == np.shape(row[f"{name}_offset"]) == (2, 2)
        assert np.shape(row["workload_offset"]) == (2, 2, 4)  # the AI and the staff, of whom two have left
        np.testing.assert_array_equal(np.array(row["workload_offset"])[..., [0, 2]], 0)
        for name in ("area", "area_offset", "ai_accuracy"):
            assert np.shape(row[name]) == (2,)
        np.testing.assert_allclose(row["ai_accuracy"], report["alone"]["ai"])
    published = report["published"]["cifar100"]
    assert published["100"]["cluster-hard"] == 76.17
    assert published["200"]["l2d-pop"] == 70.59
    assert {len(row) for row in published.values()} == {6}
    assert report["versions"].keys() >= {"python", "jax", "numpyro"}


@pytest.mark.slow
def test_the_report_tells_who_is_how_good(finished, items):
    report, (data, _) = read(finished[1]), read_npz(items)
    assert report["people"] == {
        "names": [f"person {m}" for m in range(5)],
        "present": ["person 1", "person 3", "person 4"],
        "groups": [0, 0, 1, 0, 1],
        "rates": [0.1, 0.1, 0.4, 0.1, 0.4],
    }
    options = OnboardingOptions(**OPTIONS, methods=("two-stage",), schedule=Schedule(steps=2))
    firm_key, place_key, _ = jax.random.split(jax.random.key(0), 3)
    firm = set_up_firm(firm_key, data.x, data.y, 5, options, reserved=reserved_items(ITEMS, 8, options))
    test = open_workplace(place_key, firm, options, 8).test
    np.testing.assert_allclose(report["error_rates"][0], (firm.annotations != firm.y[:, None]).mean(0))
    right = (test.annotations == test.y[:, None]).mean(0)
    np.testing.assert_allclose(report["alone"]["best_person"][0], right[[1, 3, 4]].max())
    np.testing.assert_allclose(report["alone"]["ai"][0], np.mean(firm.classifier(test.x).argmax(1) == test.y))


@pytest.mark.slow
def test_the_table_has_means_and_spreads_over_seeds(finished):
    output, out = finished
    report = read(out)
    lines = {line.split("  ")[0]: line for line in output.splitlines()}
    assert "4 context items" in output
    assert "over 2 seeds" in output
    cells = re.findall(r"([\d.]+) ± ([\d.]+) \(([\d.]+) ± ([\d.]+)\)", lines["two-stage"])
    for number, cell in zip(("4", "8"), cells, strict=True):
        areas = [report["results"][number]["two-stage"][name] for name in ("area_offset", "area")]
        assert areas[0][0] != areas[0][1]
        assert list(cell) == [f"{v:.2f}" for a in areas for v in (np.mean(a), np.std(a))]
    for line, key in (("AI alone", "ai"), ("best person", "best_person")):
        assert f"{100 * np.mean(report['alone'][key]):.2f} ± " in lines[line]


@pytest.mark.slow
def test_finished_seeds_are_not_run_again(finished, items, kept, no_training):
    again = onboard(items, *TINY, "--seeds", 2, "--out", kept)
    assert again.exit_code == 0
    assert again.stdout == finished[0].replace(str(finished[1]), str(kept))
    assert {**read(kept), "versions": 0} == {**read(finished[1]), "versions": 0}


@pytest.mark.slow
def test_the_table_is_of_the_seeds_asked_for_and_more_seeds_keep_the_first(finished, items, kept):
    third = onboard(items, *TINY, "--seed", 2, "--seeds", 1, "--out", kept)
    assert "over 1 seed\n" in third.stdout
    assert third.stdout.endswith("The table is of the seeds asked for; the files hold seeds 0, 1, 2.\n")
    before, report = read(finished[1]), read(kept)
    assert report["seeds"] == [0, 1, 2]
    for number in ("4", "8"):
        areas = (rows["results"][number]["two-stage"]["area"] for rows in (report, before))
        assert next(areas)[:2] == next(areas)
    everything = onboard(items, *TINY, "--seeds", 3, "--out", kept).stdout
    assert "over 3 seeds\n" in everything
    assert "the files hold" not in everything


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "told"),
    [
        (["--steps", "7"], "options.schedule.steps 2 there, 7 here"),
        (["--context", "4"], "contexts [4, 8] there, [4] here"),
        (["--own-items"], "options.own_items false there, true here"),
        (["--rates", ".1,.3"], "options.rates [0.1, 0.4] there, [0.1, 0.3] here"),
    ],
)
def test_a_report_of_other_settings_is_not_lost(items, kept, no_training, change, told):
    before = (kept / "report.json").read_bytes()
    result = onboard(items, *TINY, *change, "--out", kept)
    refused(result, f"found one of others: {told}. Choose another --out, or delete the folder.")
    assert (kept / "report.json").read_bytes() == before


@pytest.mark.slow
def test_a_report_of_other_items_in_a_file_of_the_same_name_is_not_lost(tmp_path, kept, no_training):
    before = (kept / "report.json").read_bytes()
    other = file_of(tmp_path / "data.npz", x=np.ones((ITEMS, 2)))
    refused(onboard(other, *TINY, "--out", kept), "found one of others: sha256")
    assert (kept / "report.json").read_bytes() == before


def test_a_report_of_another_command_is_not_lost(items, tmp_path, no_training):
    curve = {"data": "data.npz", "sha256": "0", "coverages": [0.0], "seeds": [0], "area": [50.0]}
    (tmp_path / "report.json").write_text(json.dumps(curve))
    refused(onboard(items, *TINY, "--out", tmp_path), "found one of others", "contexts none there, [4, 8] here")
    assert read(tmp_path) == curve


@pytest.mark.slow
def test_seeds_that_another_command_finishes_meanwhile_are_kept(finished, items, tmp_path, at_fit):
    """The seed 1 is started and finished while the seed 0 is trained."""
    others = []
    at_fit(1, lambda: others.append(onboard(items, *TINY, "--seed", 1, "--seeds", 1, "--out", tmp_path)))
    for result in (onboard(items, *TINY, "--seeds", 1, "--out", tmp_path), *others):
        assert result.exit_code == 0, result.output
    report = read(tmp_path)
    assert report["seeds"] == [1, 0]
    assert report["error_rates"] == read(finished[1])["error_rates"][::-1]
    both = onboard(items, *TINY, "--seeds", 2, "--out", tmp_path)
    assert both.stdout.split("Written")[0] == finished[0].split("Written")[0]


@pytest.mark.slow
def test_an_interrupted_command_keeps_its_finished_seeds(items, tmp_path, at_fit):
    at_fit(3, interrupt)  # the first context of the second seed is done
    result = onboard(items, *TINY, "--seeds", 2, "--out", tmp_path)
    assert result.exit_code == 130
    assert "interrupted" in result.output
    assert read(tmp_path)["seeds"] == [0]
    assert np.shape(read(tmp_path)["results"]["4"]["two-stage"]["area"]) == (1,)
    assert onboard(items, *TINY, "--seeds", 2, "--out", tmp_path).exit_code == 0
    assert read(tmp_path)["seeds"] == [0, 1]


@pytest.mark.slow
def test_what_is_left_aside_of_a_file_is_told_once_and_a_broken_report_is_replaced(tmp_path):
    y = np.where(np.arange(ITEMS + 7) < 7, -1, np.arange(ITEMS + 7) % 5)
    annotations = np.full((ITEMS + 7, 2), 3)
    annotations[:, 1] = -1  # of whom reading tells, which is no news here
    x = np.random.default_rng(0).standard_normal((ITEMS + 7, 2))
    path = file_of(tmp_path / "data.npz", x=x, y=y, annotations=annotations, group=np.arange(ITEMS + 7))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "report.json").write_text('{"seeds": [0, 1]}')
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        result = onboard(path, *TINY, "--seeds", 1, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert result.stderr.count("left aside") == 1
    told = plain(result.stderr)
    assert "left aside: annotations of 2 people; groups, since items are split at random; 7 items" in told
    assert read(tmp_path / "out")["seeds"] == [0]


def test_more_context_items_than_there_can_be_are_refused_before_anything(items, tmp_path, no_training):
    told = (
        f"Expected at most {MOST} context items, found 5000: of {ITEMS} items, 20 are for testing, 10 to fit offsets, "
        "and at least 20"
    )
    refused(onboard(items, *TINY, "--context", "10,5000", "--out", tmp_path / "out"), told)
    refused(onboard(items, *TINY, "--context", MOST + 1, "--out", tmp_path / "out"), f"found {MOST + 1}")
    assert not (tmp_path / "out").exists()


BAD = [
    (["--methods", "two-stage,other"], "found ['other']"),
    (["--methods", ","], "found none"),
    (["--context", "0,10"], "from 1 up, found [0, 10]"),
    (["--context", ""], "context items from 1 up, found none"),
    (["--context", "1.5"], "whole numbers"),
    (
        ["--context", "900"],
        "at most 675 context items, found 900: of 1797 items, 449 are for testing, 224 to fit offsets, and at least",
    ),
    (["--rates", ".1,1.2"], "error rates between 0 and 1"),
    (["--rates", "-.1"], "error rates between 0 and 1"),
    (["--rates", "nan"], "error rates between 0 and 1"),
    (["--rates", ","], "error rates"),
    (["--people", "2"], "2 people and 3 rates"),
    (["--people", "3", "--clusters", "4"], "between 1 and 3 clusters"),
    (["--clusters", "0"], "--clusters"),
    (["--vote-model", "lda", "--alpha", "0"], "positive concentration"),
    (["--vote-model", "other"], "other"),
    (["--replaced", "1.1"], "between 0 and 1, found 1.1"),
    (["--replaced", "nan"], "between 0 and 1"),
    (["--gate", "other"], "other"),
    (["--coverages", "0,1.5"], "between 0 and 1"),
    (["--coverages", ","], "at least one coverage"),
    (["--seeds", "0"], "--seeds"),
    (["--steps", "0"], "--steps"),
    (["--cluster-steps", "0"], "--cluster-steps"),
    (["--ai-steps", "0"], "--ai-steps"),
]


@pytest.mark.parametrize(("extra", "message"), BAD)
def test_bad_options_are_refused_and_nothing_is_left(tmp_path, no_training, extra, message):
    refused(onboard("--out", tmp_path / "new" / "out", *extra), message)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y": np.full(ITEMS, -1)}, "at least one item"),
        ({"y": np.arange(ITEMS - 1) % 3}, "shape"),
        ({"y": np.zeros(ITEMS)}, "integer"),
        ({"x": np.full((ITEMS, 2), np.nan)}, "NaN"),
        ({"x": np.zeros((ITEMS, 4, 4, 1))}, "found images"),
    ],
)
def test_bad_files_are_refused_and_nothing_is_left(tmp_path, no_training, changes, message):
    path = file_of(tmp_path / "data.npz", **changes)
    refused(onboard(path, "--gate", "features+confidence", "--out", tmp_path / "new" / "out"), message)
    assert [p.name for p in tmp_path.iterdir()] == ["data.npz"]


def test_a_file_without_truth_and_one_that_is_not_there_are_refused(tmp_path, no_training):
    np.savez(tmp_path / "data.npz", x=np.zeros((ITEMS, 2)))
    refused(onboard(tmp_path / "data.npz", "--out", tmp_path / "out"), "Add truth or votes")
    refused(onboard(tmp_path / "other.npz", "--out", tmp_path / "out"), "a file at", "other.npz, found none")
    assert [p.name for p in tmp_path.iterdir()] == ["data.npz"]


@pytest.mark.exhaustive
@pytest.mark.slow
def test_onboarding_on_digits(tmp_path, request):
    steps = ["--steps", "20", "--cluster-steps", "20", "--context", "20", "--seeds", "1"]
    arguments = [*steps, "--methods", "two-stage,cluster-hard", "--out", tmp_path]
    result = onboard(*arguments)
    assert result.exit_code == 0, result.output
    assert sorted(p.name for p in tmp_path.iterdir()) == ["curve.png", "membership.png", "report.json"]
    report = read(tmp_path)
    nominal, realised = np.array(report["people"]["rates"]), np.array(report["error_rates"][0])
    assert (realised >= nominal - 0.03).all()
    assert (realised <= nominal + 0.09).all()  # the truncation moves 5 % to 10 %
    soft, interval = (np.array(report["memberships"]["20"][name][0]) for name in ("soft", "interval"))
    np.testing.assert_allclose(soft.sum(0), 1, atol=1e-5)
    assert ((interval[..., 0] <= soft + 1e-6) & (soft <= interval[..., 1] + 1e-6)).all()
    assert report["alone"]["ai"][0] > 0.6
    assert 0.85 < report["alone"]["best_person"][0] < 0.95
    for name in ("two-stage", "cluster-hard"):
        row = report["results"]["20"][name]
        assert np.shape(row["workload_offset"]) == (1, 6, 7)
        np.testing.assert_allclose(row["ai_accuracy"], report["alone"]["ai"])
        assert row["coverage_offset"][0][0] < 0.1
        assert row["coverage_offset"][0][-1] > 0.9
        assert 60 < row["area_offset"][0] < 100
    request.getfixturevalue("no_training")
    assert onboard(*arguments).stdout == result.stdout
