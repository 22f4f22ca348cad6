"""``pl2d onboard``: a report over seeds, and what it says when something is wrong."""

import itertools
import json
import re
import warnings
from typing import NamedTuple

import numpy as np
import pytest
from cases.onboarding import CATEGORIES, ITEMS, KEY, LISTS, SLOW, STAFF, TEST, fake_row, make_firm, plain, some_options
from typer.testing import CliRunner

from pl2d_ppl import Membership
from pl2d_ppl.cli.app import app
from pl2d_ppl.experiments.onboarding.firm import set_up_firm
from pl2d_ppl.experiments.onboarding.options import OnboardingOptions
from pl2d_ppl.experiments.onboarding.seeds import draw_report, people_labels
from pl2d_ppl.experiments.onboarding.workplace import open_workplace


def pl2d(*args):
    return CliRunner().invoke(app, ["onboard", *map(str, args)])


def read(folder):
    return json.loads((folder / "report.json").read_text())


TINY = ["--methods", "two-stage,cluster-hard", "--context", "20,10", "--coverages", "0,1", "--seeds", "2"]


class Fake(NamedTuple):
    """What the command asked for."""

    firms: list
    fits: list


@pytest.fixture
def fake(monkeypatch):
    """Nothing is simulated, trained or drawn; a workplace has as many context items as were asked for."""
    seen = Fake([], [])

    def set_up(key, x, y, num_categories, settings, *, reserved):
        seen.firms.append({"items": len(x), "truth": y, "categories": num_categories, "reserved": reserved})
        return make_firm(settings.people, settings.replaced, len(settings.rates))

    def place_with_members(key, firm, settings, number):
        place = open_workplace(key, firm, settings, number)
        people, clusters = place.test.annotators, tuple("ABC"[: settings.clusters])
        draws = np.random.default_rng(0).dirichlet(np.ones(len(clusters)), (len(people), 2, 50))
        soft, counts = draws.mean((1, 2)).T, np.full(len(people), number)
        return place._replace(members=Membership(soft, counts, people, clusters, "nuts", draws=draws))

    def run(key, place, settings, *, on_method):
        number = place.staff.num_items
        for method in settings.methods:
            seen.fits.append((number, method))
            on_method()
        return {method: fake_row(key, method, number, settings.coverages) for method in settings.methods}

    fakes = {"set_up_firm": set_up, "open_workplace": place_with_members, "onboard_methods": run}
    for name, function in fakes.items():
        monkeypatch.setattr(f"pl2d_ppl.experiments.onboarding.seeds.{name}", function)
    monkeypatch.setattr("pl2d_ppl.cli.onboard.draw_report", lambda out, report: [])
    return seen


@SLOW
def test_the_command_writes_a_report_and_pictures(tmp_path, fake, monkeypatch):
    monkeypatch.setattr("pl2d_ppl.cli.onboard.draw_report", draw_report)
    result = pl2d(*TINY, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert sorted(p.name for p in tmp_path.iterdir()) == ["curve.png", "membership.png", "report.json"]
    for name in ("curve.png", "membership.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    report = read(tmp_path)
    assert set(report) == {
        *("settings", "seeds", "people", "error_rates", "alone", "results", "memberships", "published", "versions")
    }
    assert (report["seeds"], report["settings"]["contexts"], report["settings"]["data"]) == ([0, 1], [10, 20], "digits")
    assert len(report["settings"]["sha256"]) == 64
    assert set(report["settings"]["options"]) == set(OnboardingOptions.__dataclass_fields__)
    assert fake.fits == [(n, m) for _ in range(2) for n in (10, 20) for m in ("two-stage", "cluster-hard")]
    for (number, method), key in itertools.product(
        itertools.product(("10", "20"), ("two-stage", "cluster-hard")),
        (*(f"{n}{s}" for n in LISTS for s in ("", "_offset")), "area", "area_offset", "accuracy_drawn", "ai_accuracy"),
    ):
        assert len(report["results"][number][method][key]) == 2
    assert np.shape(report["memberships"]["20"]["soft"]) == (2, 3, STAFF)
    assert np.shape(report["memberships"]["20"]["interval"]) == (2, 3, STAFF, 2)
    published = report["published"]["cifar100"]
    assert published["100"]["cluster-hard"] == 76.17
    assert published["200"]["l2d-pop"] == 70.59
    assert {len(row) for row in published.values()} == {6}
    assert report["versions"].keys() >= {"python", "jax", "numpyro"}


def test_the_report_tells_who_is_how_good(tmp_path, fake):
    assert pl2d(*TINY, "--replaced", "0.5", "--out", tmp_path).exit_code == 0
    report, firm = read(tmp_path), make_firm(replaced=0.5)
    people = report["people"]
    assert people["names"] == [f"person {m}" for m in range(9)]
    assert people["present"] == [f"person {m}" for m in (1, 3, 5, 6, 7, 8)]
    assert people["groups"] == firm.groups.tolist() == [0, 0, 1, 1, 2, 2, 0, 1, 2]
    assert people["rates"] == [0.05, 0.05, 0.2, 0.2, 0.35, 0.35, 0.05, 0.2, 0.35]
    np.testing.assert_allclose(report["error_rates"], [(firm.annotations != firm.y[:, None]).mean(0)] * 2)
    right = (firm.annotations == firm.y[:, None])[-TEST:].mean(0)
    np.testing.assert_allclose(report["alone"]["best_person"], [right[[1, 3, 5, 6, 7, 8]].max()] * 2)
    said = np.asarray(firm.classifier(firm.x[-TEST:])).argmax(1)
    np.testing.assert_allclose(report["alone"]["ai"], [(said == firm.y[-TEST:]).mean()] * 2)


def test_the_table_has_means_and_spreads_over_seeds(tmp_path, fake):
    output = pl2d(*TINY, "--out", tmp_path).output
    report = read(tmp_path)
    lines = {line.split("  ")[0]: line for line in output.splitlines()}
    assert "10 context items" in output
    assert "over 2 seeds" in output
    for method in ("two-stage", "cluster-hard"):
        cells = re.findall(r"([\d.]+) ± ([\d.]+) \(([\d.]+) ± ([\d.]+)\)", lines[method])
        for number, cell in zip(("10", "20"), cells, strict=True):
            areas = [report["results"][number][method][name] for name in ("area_offset", "area")]
            assert areas[0][0] != areas[0][1]
            expected = [f"{v:.2f}" for a in areas for v in (np.mean(a), np.std(a))]
            assert list(cell) == expected
    for line, key in (("AI alone", "ai"), ("best person", "best_person")):
        assert f"{100 * np.mean(report['alone'][key]):.2f} ± " in lines[line]


def test_finished_seeds_are_not_run_again(tmp_path, fake):
    first = pl2d(*TINY, "--out", tmp_path)
    before = read(tmp_path)
    fake.fits.clear()
    again = pl2d(*TINY, "--out", tmp_path)
    assert fake.fits == []
    assert again.exit_code == 0
    assert again.stdout == first.stdout
    assert {**read(tmp_path), "versions": 0} == {**before, "versions": 0}
    assert pl2d(*TINY, "--seeds", 3, "--out", tmp_path).exit_code == 0
    assert len(fake.fits) == 4
    more = read(tmp_path)
    assert more["seeds"] == [0, 1, 2]
    assert more["results"]["10"]["two-stage"]["area"][:2] == before["results"]["10"]["two-stage"]["area"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (["--steps", "7"], "options.schedule.steps 400 there, 7 here"),
        (["--context", "10"], "contexts [10, 20] there, [10] here"),
        (["--own-items"], "options.own_items false there, true here"),
        (["--rates", ".1,.4"], "options.rates [0.05, 0.2, 0.35] there, [0.1, 0.4] here"),
        (["--ai-steps", "7"], "options.ai_steps 2000 there, 7 here"),
    ],
)
def test_a_report_of_other_settings_is_not_lost(tmp_path, fake, change, told):
    assert pl2d(*TINY, "--out", tmp_path).exit_code == 0
    before = (tmp_path / "report.json").read_bytes()
    fake.firms.clear()
    result = pl2d(*TINY, *change, "--out", tmp_path)
    refused(result, f"found one of others: {told}. Choose another --out, or delete the folder.")
    assert fake.firms == []
    assert (tmp_path / "report.json").read_bytes() == before


def test_a_report_of_another_command_is_not_lost(tmp_path, fake):
    curve = {"data": "data.npz", "sha256": "0", "coverages": [0.0], "seeds": [0], "area": [50.0]}
    (tmp_path / "report.json").write_text(json.dumps(curve))
    refused(pl2d(*TINY, "--out", tmp_path), "found one of others", "contexts none there, [10, 20] here")
    assert read(tmp_path) == curve


def test_seeds_that_another_command_finishes_meanwhile_are_kept(tmp_path, fake, monkeypatch):
    """The seed 1 is started and finished while the seed 0 is trained."""
    from pl2d_ppl.experiments.onboarding import seeds as onboard_command

    run = onboard_command.onboard_methods

    def slow(*args, **rest):
        monkeypatch.setattr("pl2d_ppl.experiments.onboarding.seeds.onboard_methods", run)
        others.append(pl2d(*TINY, "--seed", 1, "--seeds", 1, "--out", tmp_path))
        return run(*args, **rest)

    others = []
    monkeypatch.setattr("pl2d_ppl.experiments.onboarding.seeds.onboard_methods", slow)
    for result in (pl2d(*TINY, "--seeds", 1, "--out", tmp_path), *others):
        assert result.exit_code == 0, result.output
    report = read(tmp_path)
    assert report["seeds"] == [1, 0]
    assert np.shape(report["results"]["20"]["two-stage"]["area"]) == (2,)
    fake.fits.clear()
    both = pl2d(*TINY, "--out", tmp_path)
    assert fake.fits == []
    apart = pl2d(*TINY, "--out", tmp_path / "apart")
    assert both.stdout.split("Written")[0] == apart.stdout.split("Written")[0]


def test_the_table_is_of_the_seeds_asked_for(tmp_path, fake):
    first = pl2d(*TINY, "--seeds", 1, "--out", tmp_path).stdout
    assert "the files hold" not in first
    assert "over 2 seeds\n" in pl2d(*TINY, "--out", tmp_path).stdout
    again = pl2d(*TINY, "--seeds", 1, "--out", tmp_path).stdout
    assert "over 1 seed\n" in again
    assert again == f"{first}The table is of the seeds asked for; the files hold seeds 0, 1.\n"
    assert read(tmp_path)["seeds"] == [0, 1]


@pytest.mark.parametrize("content", ["not json", "[1]", '{"seeds": [0, 1]}'])
def test_a_report_that_cannot_be_read_is_replaced(tmp_path, fake, content):
    (tmp_path / "report.json").write_text(content)
    assert pl2d(*TINY, "--out", tmp_path).exit_code == 0
    assert len(fake.firms) == 2
    assert read(tmp_path)["seeds"] == [0, 1]


def test_an_interrupted_command_keeps_its_finished_seeds(tmp_path, fake, monkeypatch):
    from pl2d_ppl.experiments.onboarding import seeds as onboard_command

    run = onboard_command.onboard_methods

    def interrupted(key, place, settings, **rest):
        if len(fake.fits) == 6:  # the first context of the second seed is done
            raise KeyboardInterrupt
        return run(key, place, settings, **rest)

    monkeypatch.setattr("pl2d_ppl.experiments.onboarding.seeds.onboard_methods", interrupted)
    result = pl2d(*TINY, "--out", tmp_path)
    assert result.exit_code == 130
    assert "interrupted" in result.output
    assert read(tmp_path)["seeds"] == [0]
    assert np.shape(read(tmp_path)["results"]["10"]["two-stage"]["area"]) == (1,)
    fake.fits.clear()
    monkeypatch.setattr("pl2d_ppl.experiments.onboarding.seeds.onboard_methods", run)
    assert pl2d(*TINY, "--out", tmp_path).exit_code == 0
    assert len(fake.fits) == 4
    assert read(tmp_path)["seeds"] == [0, 1]


def file_of(path, **changes):
    """A small file of items with truth."""
    data = {"x": np.random.default_rng(0).standard_normal((ITEMS, 2)), "y": np.arange(ITEMS) % 5, **changes}
    np.savez(path, **data)
    return path


def test_a_report_of_a_file_of_the_same_name_with_other_items_is_neither_taken_nor_lost(tmp_path, fake):
    results = []
    for name, value in (("one", 0.0), ("two", 1.0)):
        (tmp_path / name).mkdir()
        path = file_of(tmp_path / name / "data.npz", x=np.full((ITEMS, 2), value))
        results.append(pl2d(path, *TINY, "--out", tmp_path / "out"))
    assert results[0].exit_code == 0, results[0].output
    refused(results[1], "found one of others: sha256")
    assert len(fake.firms) == 2
    assert fake.firms[0]["categories"] == 5
    assert read(tmp_path / "out")["settings"]["data"] == "data.npz"


def test_what_is_left_aside_of_a_file_is_told_once(tmp_path, fake):
    y = np.where(np.arange(ITEMS) < 7, -1, np.arange(ITEMS) % 5)
    annotations = np.full((ITEMS, 2), 3)
    annotations[:, 1] = -1  # of whom reading tells, which is no news here
    path = file_of(tmp_path / "data.npz", y=y, annotations=annotations, group=np.arange(ITEMS))
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        result = pl2d(path, *TINY, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert result.stderr.count("pl2d:") == 1
    told = plain(result.stderr)
    assert "left aside: annotations of 2 people; groups, since items are split at random; 7 items" in told
    for firm in fake.firms:
        assert firm["items"] == ITEMS - 7
        assert (firm["truth"] >= 0).all()


@pytest.mark.parametrize(
    ("extra", "reserved"), [([], 20), (["--own-items"], 120), (["--own-items", "--replaced", ".5"], 180)]
)
def test_items_are_reserved_for_all_who_annotate(tmp_path, fake, extra, reserved):
    assert pl2d(*TINY, *extra, "--out", tmp_path).exit_code == 0
    assert [firm["reserved"] for firm in fake.firms] == [reserved] * 2


def test_own_items_are_shared_where_there_are_too_few(tmp_path, fake, trained):
    """A quarter of the items is for training, as much for the test, and an eighth to fit offsets."""
    path = file_of(tmp_path / "data.npz")
    assert pl2d(path, *TINY, "--own-items", "--out", tmp_path / "out").exit_code == 0
    assert fake.firms[0]["reserved"] == ITEMS - ITEMS // 4 - ITEMS // 4 - ITEMS // 8
    x, y = np.random.default_rng(0).standard_normal((ITEMS, 2)), np.arange(ITEMS) % CATEGORIES
    firm = set_up_firm(KEY, x, y, CATEGORIES, some_options(), reserved=fake.firms[0]["reserved"])
    assert firm.num_training == ITEMS // 4


def test_more_context_items_than_there_can_be_are_refused_before_anything(tmp_path, fake):
    path = file_of(tmp_path / "data.npz")
    most = ITEMS - ITEMS // 4 - ITEMS // 4 - ITEMS // 8
    told = (
        f"Expected at most {most} context items, found 5000: of {ITEMS} items, 20 are for testing, 10 to fit offsets, "
        "and at least 20"
    )
    refused(pl2d(path, *TINY, "--context", "10,5000", "--out", tmp_path / "out"), told)
    refused(pl2d(path, *TINY, "--context", most + 1, "--out", tmp_path / "out"), f"found {most + 1}")
    assert fake.firms == []
    assert not (tmp_path / "out").exists()


def test_steps_of_the_ai_can_be_chosen(tmp_path, fake):
    assert pl2d(*TINY, "--ai-steps", 30, "--out", tmp_path).exit_code == 0
    assert read(tmp_path)["settings"]["options"]["ai_steps"] == 30


def test_the_picture_of_memberships_tells_who_is_new_and_who_is_gone(tmp_path, fake):
    assert pl2d(*TINY, "--replaced", "0.5", "--out", tmp_path).exit_code == 0
    report = read(tmp_path)
    rates = [f"errs {100 * rate:.0f} %" for rate in report["error_rates"][0]]
    labels = [label.split("\n") for label in people_labels(report)]
    assert [label[0] for label in labels] == report["people"]["names"]
    assert [label[-1] for label in labels] == rates
    moved = [label[1] if len(label) == 3 else "" for label in labels]
    assert moved == ["(gone)", "", "(gone)", "", "(gone)", "", "(new)", "(new)", "(new)"]


def test_no_membership_is_drawn_where_there_is_none(tmp_path, fake, monkeypatch):
    monkeypatch.setattr("pl2d_ppl.experiments.onboarding.seeds.open_workplace", open_workplace)
    monkeypatch.setattr("pl2d_ppl.cli.onboard.draw_report", draw_report)
    result = pl2d(*TINY, "--methods", "two-stage", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert sorted(p.name for p in tmp_path.iterdir()) == ["curve.png", "report.json"]
    assert read(tmp_path)["memberships"] == {}


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


def refused(result, *words):
    """Assert that the command ended with one message, and no traceback."""
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit)
    for word in words:
        assert word in plain(result.output), result.output


@pytest.mark.parametrize(("extra", "message"), BAD)
def test_bad_options_are_refused_and_nothing_is_left(tmp_path, monkeypatch, extra, message):
    monkeypatch.setattr(
        "pl2d_ppl.experiments.onboarding.firm.train_classifier", lambda *a, **k: pytest.fail("trained in vain")
    )
    refused(pl2d("--out", tmp_path / "new" / "out", *extra), message)
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
def test_bad_files_are_refused_and_nothing_is_left(tmp_path, fake, changes, message):
    path = file_of(tmp_path / "data.npz", **changes)
    refused(pl2d(path, "--gate", "features+confidence", "--out", tmp_path / "new" / "out"), message)
    assert [p.name for p in tmp_path.iterdir()] == ["data.npz"]
    assert fake.firms == []


def test_a_file_without_truth_and_one_that_is_not_there_are_refused(tmp_path, fake):
    np.savez(tmp_path / "data.npz", x=np.zeros((ITEMS, 2)))
    refused(pl2d(tmp_path / "data.npz", "--out", tmp_path / "out"), "Add truth or votes")
    refused(pl2d(tmp_path / "other.npz", "--out", tmp_path / "out"), "a file at", "other.npz, found none")
    assert [p.name for p in tmp_path.iterdir()] == ["data.npz"]


def test_an_unwritable_folder_is_refused_before_training(tmp_path, fake):
    (tmp_path / "file").write_text("kept")
    for out in (tmp_path / "file" / "out", tmp_path / "file"):
        refused(pl2d("--out", out), "Expected")
    assert fake.firms == []
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.exhaustive
@SLOW
def test_onboarding_on_digits(tmp_path, monkeypatch):
    steps = ["--steps", "20", "--cluster-steps", "20", "--context", "20", "--seeds", "1"]
    arguments = [*steps, "--methods", "two-stage,cluster-hard", "--out", tmp_path]
    result = pl2d(*arguments)
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
    monkeypatch.setattr("pl2d_ppl.experiments.onboarding.seeds.set_up_firm", lambda *a, **k: pytest.fail("run again"))
    assert pl2d(*arguments).stdout == result.stdout
