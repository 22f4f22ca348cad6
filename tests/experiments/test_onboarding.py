"""Onboarding: who annotates, is replaced and decides, against direct computation; and the command around it."""

import itertools
import json
import re
import warnings
from functools import cache
from typing import NamedTuple

import jax
import numpy as np
import pytest
from flax import nnx
from scipy.special import softmax
from typer.testing import CliRunner

from pl2d_ppl import MLP, Annotated, Membership
from pl2d_ppl.cli.app import app
from pl2d_ppl.deferral.deferral import Deferral
from pl2d_ppl.experiments.curve import evaluate_curve
from pl2d_ppl.experiments.methods import METHODS
from pl2d_ppl.experiments.onboarding.firm import Firm, replaced_people, reserved_items, set_up_firm
from pl2d_ppl.experiments.onboarding.methods import onboard_methods
from pl2d_ppl.experiments.onboarding.options import OnboardingOptions
from pl2d_ppl.experiments.onboarding.seeds import draw_report, people_labels
from pl2d_ppl.experiments.onboarding.workplace import annotated_items, open_workplace
from pl2d_ppl.experiments.plots import plot_onboarding
from pl2d_ppl.inference.schedule import Schedule
from pl2d_ppl.networks import Frozen

KEY = jax.random.key(0)
SLOW = pytest.mark.slow
ITEMS, TRAINING, CATEGORIES, STAFF = 80, 30, 3, 6
TEST = ITEMS // 4


def some_options(**changes):
    return OnboardingOptions(
        **{"methods": ("two-stage",), "schedule": Schedule(steps=4), "gate_hidden": (8,), **changes}
    )


@cache
def network(num_inputs=2):
    return Frozen.of(MLP(num_inputs, (4,), CATEGORIES, rngs=nnx.Rngs(0)))


def make_firm(people=STAFF, replaced=0.0, num_rates=3, num_items=ITEMS):
    """Items whose first feature is their number; people who answer at random; no clusters."""
    rng = np.random.default_rng(0)
    groups = np.sort(np.arange(people) % num_rates)
    groups = np.concatenate([groups, groups[replaced_people(groups, replaced)]])
    x = np.column_stack([np.arange(num_items), rng.standard_normal(num_items)]).astype(np.float32)
    said = rng.integers(0, CATEGORIES, (num_items, len(groups))).astype(np.int32)
    y = (np.arange(num_items) % CATEGORIES).astype(np.int32)
    return Firm(x, y, groups, said, CATEGORIES, TRAINING, network(), None)


# --- Who is replaced, and who annotates what ----------------------------------------------------------------


def test_who_is_replaced_is_spread_evenly_over_groups():
    for sizes in itertools.product((1, 2, 3, 5), repeat=3):
        groups = np.repeat(np.arange(3), sizes)
        for share in (0.0, 0.2, 1 / 3, 0.5, 0.8, 1.0):
            chosen = replaced_people(groups, share)
            assert len(set(chosen.tolist())) == len(chosen) == round(share * len(groups))
            assert sorted(chosen) == chosen.tolist()
            counts = np.bincount(groups[chosen], minlength=3)
            for few, many in itertools.permutations(range(3), 2):  # a group of which all are chosen has no more
                assert counts[many] - counts[few] <= 1 or counts[few] == sizes[few], (sizes, share)


@pytest.mark.parametrize("own", [False, True])
def test_everybody_annotates_as_many_items(own):
    chosen = annotated_items(KEY, 40, 5, 7, own)
    assert chosen.shape == (40, 5)
    np.testing.assert_array_equal(chosen.sum(0), 7)
    alike = [np.array_equal(chosen[:, 0], chosen[:, m]) for m in range(1, 5)]
    assert not any(alike) if own else all(alike)
    more = annotated_items(KEY, 40, 5, 12, own)
    assert (more | ~chosen).all()  # more context items add to fewer
    assert annotated_items(KEY, 40, 5, 40, own).all()


@pytest.mark.parametrize("own", [False, True])
def test_every_item_is_as_likely_to_be_annotated(own):
    keys = jax.random.split(jax.random.key(1), 60)
    shares = np.mean([annotated_items(key, 10, 2, 3, own) for key in keys], 0)
    np.testing.assert_allclose(shares, 0.3, atol=4 * np.sqrt(0.3 * 0.7 / 60))


# --- Firm and workplace -------------------------------------------------------------------------------------


def numbers(data):
    """Which items of a firm a part has."""
    return data.x[:, 0].astype(int)


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("replaced", [0.0, 0.5, 1.0])
def test_known_people_annotate_items_that_are_for_nothing_else(own, replaced):
    firm = make_firm(replaced=replaced)
    place = open_workplace(KEY, firm, some_options(own_items=own, replaced=replaced), 9)
    columns = [(place.staff, slice(0, STAFF))]
    if replaced:
        columns.append((place.newcomers, slice(STAFF, None)))
    else:
        assert place.newcomers is None
    for part, people in columns:
        items, given = numbers(part), part.annotations >= 0
        assert TRAINING <= items.min() <= items.max() < ITEMS - TEST
        assert len(set(items)) == len(items)
        np.testing.assert_array_equal(given.sum(0), 9)
        assert given.any(1).all()
        assert own or given.all()
        np.testing.assert_array_equal(part.annotations[given], firm.annotations[items, people][given])
        np.testing.assert_array_equal(part.y, firm.y[items])
        assert items.max() < ITEMS - TEST - len(place.unlabelled)
    np.testing.assert_array_equal(place.unlabelled[:, 0], range(ITEMS - TEST - ITEMS // 8, ITEMS - TEST))
    np.testing.assert_array_equal(numbers(place.test), range(ITEMS - TEST, ITEMS))
    np.testing.assert_array_equal(place.test.annotations, firm.annotations[-TEST:])
    np.testing.assert_array_equal(place.test.y, firm.y[-TEST:])


@pytest.mark.parametrize(("replaced", "gone"), [(0.0, []), (1 / 3, [0, 2]), (0.5, [0, 2, 4]), (1.0, range(STAFF))])
def test_newcomers_are_present_and_leavers_absent(replaced, gone):
    firm = make_firm(replaced=replaced)  # groups 0 0 1 1 2 2, and those of the newcomers
    place = open_workplace(KEY, firm, some_options(replaced=replaced), 5)
    names = [f"person {m}" for m in range(STAFF + len(gone))]
    assert place.staff.annotators == tuple(names[:STAFF])
    assert (place.newcomers.annotators if gone else ()) == tuple(names[STAFF:])
    assert place.test.annotators == tuple(names)
    assert place.present == tuple(name for m, name in enumerate(names) if m not in gone)
    present = [names.index(name) for name in place.present]
    np.testing.assert_array_equal(np.sort(firm.groups[present]), np.sort(firm.groups[:STAFF]))  # as many of each


def test_more_context_items_than_there_are_left_are_refused():
    with pytest.raises(ValueError, match="at most 20 context items, which are left, found 31"):
        open_workplace(KEY, make_firm(), some_options(), 31)


@pytest.mark.parametrize("replaced", [0.0, 0.5])
def test_a_gate_that_sees_confidence_leaves_the_ai_as_it_is(replaced):
    firm = make_firm(replaced=replaced)
    x = np.random.default_rng(1).standard_normal((ITEMS, 2)).astype(np.float32)
    firm = firm._replace(x=x)
    settings = some_options(gate_input="features+confidence", replaced=replaced)
    place, plain = (open_workplace(KEY, firm, o, 20) for o in (settings, some_options(replaced=replaced)))
    logits = np.asarray(firm.classifier(x), float)
    odds = softmax(logits, -1).max(-1)
    odds = np.log(odds / (1 - odds))
    known = odds[:TRAINING]
    expected = dict(zip(map(tuple, x), (odds - known.mean()) / known.std(), strict=True))
    for part, without in [(place.staff, plain.staff), (place.test, plain.test), (place.newcomers, plain.newcomers)]:
        if part is None:
            assert not replaced
            continue
        assert part.x.shape[1] == 3
        np.testing.assert_array_equal(part.x[:, :2], without.x)
        np.testing.assert_allclose(part.x[:, 2], [expected[tuple(row)] for row in without.x], atol=1e-4)
        np.testing.assert_array_equal(place.classifier(part.x), firm.classifier(without.x))
        np.testing.assert_array_equal(part.annotations, without.annotations)
    assert plain.classifier is firm.classifier


class Trained(NamedTuple):
    """Items that the AI, and the clusters, were trained on."""

    ai: list
    clusters: list


@pytest.fixture
def trained(monkeypatch):
    """Nothing is trained."""
    seen = Trained([], [])

    def classifier(key, x, y, num_categories, **settings):
        seen.ai.append((x, y))
        return network(x.shape[1])

    def clusters(key, x, counts, num_clusters, **settings):
        seen.clusters.append((x, counts))
        return [None]

    monkeypatch.setattr("pl2d_ppl.experiments.onboarding.firm.train_classifier", classifier)
    monkeypatch.setattr("pl2d_ppl.experiments.onboarding.firm.fit_clusters", clusters)
    return seen


def test_nobody_decides_on_items_that_anything_was_trained_on(trained):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((120, 4)) * 5 + 3, rng.integers(0, CATEGORIES, 120)
    settings = some_options(methods=("two-stage", "cluster-soft"), replaced=0.5)
    firm = set_up_firm(KEY, x, y, CATEGORIES, settings, reserved=20)
    assert firm.num_training == 120 - 30 - 15 - 20
    place = open_workplace(KEY, firm, settings, 20)
    ((ai_x, ai_y),), ((cluster_x, counts),) = trained
    parts = [set(map(tuple, part)) for part in (ai_x, place.staff.x, place.unlabelled, place.test.x)]
    assert list(map(len, parts)) == [55, 20, 15, 30]
    assert not any(a & b for a, b in itertools.combinations(parts, 2))
    np.testing.assert_array_equal(cluster_x, ai_x)
    np.testing.assert_allclose(ai_x.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(ai_x.std(0), 1, atol=1e-5)
    # All are items of the data, with their truth.
    place_in_data = np.empty(120, int)
    place_in_data[firm.x[:, 1].argsort()] = x[:, 1].argsort()
    correlation = [np.corrcoef(firm.x[:, d], x[place_in_data, d])[0, 1] for d in range(4)]
    np.testing.assert_allclose(correlation, 1)
    np.testing.assert_array_equal(firm.y, y[place_in_data])
    np.testing.assert_array_equal(ai_y, firm.y[:55])
    # The votes are those of the staff, of whom some will leave, and not of newcomers.
    votes = (firm.annotations[:55, :STAFF, None] == np.arange(CATEGORIES)).sum(1)
    np.testing.assert_array_equal(counts, votes)


def test_newcomers_are_of_the_groups_of_those_who_leave(trained):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((4000, 2)), rng.integers(0, CATEGORIES, 4000)
    settings = some_options(people=4, rates=(0.2, 0.6), replaced=0.5)
    firm = set_up_firm(KEY, x, y, CATEGORIES, settings, reserved=20)
    assert firm.groups.tolist() == [0, 0, 1, 1, 0, 1]
    errors = (firm.annotations != firm.y[:, None]).mean(0)
    np.testing.assert_allclose(errors, np.array([0.2, 0.6])[firm.groups], atol=0.04)
    alone = set_up_firm(KEY, x, y, CATEGORIES, some_options(people=4, rates=(0.2, 0.6)), reserved=20)
    np.testing.assert_array_equal(alone.annotations, firm.annotations[:, :4])


def test_too_few_items_are_told():
    x, y = np.zeros((100, 2)), np.arange(100) % CATEGORIES
    with pytest.raises(ValueError, match="51 to annotate, 12 without labels and 25 to test, found 12"):
        set_up_firm(KEY, x, y, CATEGORIES, some_options(), reserved=51)


# --- Evaluation with a staff --------------------------------------------------------------------------------


class Given:
    """A method whose gate over a, b, c and the AI, and the AI's probabilities, are what it sees."""

    steered = False

    def defer(self, x):
        x = np.asarray(x, float)
        return [Deferral.of(x[:, :4], x[:, 4:], people=("a", "b", "c"))]

    def join(self, rng_key, data, membership):
        return self


def given_items(seed, num_items=40):
    """Items of which each knows its gate, annotated by those whom the method knows and by z, whom it does not."""
    rng = np.random.default_rng(seed)
    x = np.column_stack([rng.dirichlet(np.ones(4), num_items), rng.dirichlet(np.ones(3), num_items)])
    said, y = rng.integers(0, 3, (num_items, 4)), rng.integers(0, 3, num_items)
    said[rng.random(said.shape) < 0.2], y[:3] = -1, -1
    return Annotated(x, y, said, classes=("0", "1", "2"), annotators=("z", "c", "a", "b"))


def judged(decision, data):
    """Accuracy of decisions by names, AI for the AI, item by item."""
    found = []
    for who, x, said, y in zip(decision, data.x, data.annotations, data.y, strict=True):
        label = x[4:].argmax() if who == "AI" else said[data.annotators.index(who)]
        if label >= 0 and y >= 0:
            found.append(label == y)
    return np.mean(found)


def test_plain_decisions_are_among_those_present():
    data = given_items(0)
    for staff in (("c", "z", "a"), None):
        row = evaluate_curve(Given(), data.x, data, (0.0, 0.5), staff=staff)
        columns = [i for i, name in enumerate("abc") if staff is None or name in staff] + [3]
        names = np.array(["a", "b", "c", "AI"])[columns]
        decision = names[data.x[:, columns].argmax(1)]
        shares = [np.mean(decision == name) for name in ("a", "b", "c", "AI")]
        for i in range(2):  # one fit, whatever the target
            np.testing.assert_allclose(row["workload"][i], shares)
            assert row["coverage"][i] == pytest.approx(shares[-1])
            assert row["accuracy"][i] == pytest.approx(judged(decision, data))
        assert row["ai_accuracy"] == pytest.approx(judged(["AI"] * 40, data))
        best = max(judged([name] * 40, data) for name in (staff or data.annotators))
        heights = [best, row["accuracy"][0], row["ai_accuracy"]]
        assert row["area"] == pytest.approx(100 * np.trapezoid(heights, [0, shares[-1], 1]))


def test_offsets_meet_the_coverage_with_whom_there_is():
    """Of one person and the AI, the AI decides the items on which it is favoured most."""
    data, other = given_items(0), given_items(1)
    margins, others = (np.log(d.x[:, 3].astype(float) / d.x[:, 2]) for d in (data, other))
    coverages = (0.0, 0.25, 0.5, 0.9, 1.0)
    row, apart = (evaluate_curve(Given(), x, data, coverages, staff=("z", "c"), rng_key=KEY) for x in (data.x, other.x))
    for i, coverage in enumerate(coverages):
        most = round(40 * coverage)
        decision = np.full(40, "c ")
        decision[margins.argsort()[40 - most :]] = "AI"
        decision = np.char.strip(decision)
        assert row["coverage_offset"][i] == pytest.approx(coverage)
        assert row["accuracy_offset"][i] == pytest.approx(judged(decision, data))
        assert row["accuracy_drawn"][i] == pytest.approx(row["accuracy_offset"][i])
        # Offsets of other items lie between the margins of two of them.
        bounds = np.concatenate([[np.inf], np.sort(others)[::-1], [-np.inf]])[[most, most + 1]]
        least, largest = (margins > bounds[0]).mean(), (margins > bounds[1]).mean()
        assert least <= apart["coverage_offset"][i] <= largest


def test_a_staff_of_nobody_known_leaves_all_to_the_ai():
    data = given_items(0)
    row = evaluate_curve(Given(), data.x, data, (0.0, 0.5, 1.0), staff=("z",), rng_key=KEY)
    right = judged(["AI"] * 40, data)
    for suffix in ("", "_offset"):
        assert row[f"coverage{suffix}"] == [1.0, 1.0, 1.0]
        np.testing.assert_allclose(row[f"accuracy{suffix}"], right)
        np.testing.assert_allclose(row[f"workload{suffix}"], [[0, 0, 0, 1]] * 3)
        assert row[f"area{suffix}"] == pytest.approx(100 * right)
    np.testing.assert_allclose(row["accuracy_drawn"], right)


@SLOW
def test_clusters_take_newcomers_and_gates_over_persons_do_not():
    firm = make_firm(replaced=0.5)
    members = np.eye(3)[firm.groups].T
    settings = some_options(methods=("two-stage", "cluster-soft", "l2d-pop"), coverages=(0.0, 1.0), replaced=0.5)
    place = open_workplace(KEY, firm, settings, 20)
    place = place._replace(staff_membership=members[:, :STAFF], newcomer_membership=members[:, STAFF:])
    done = []
    rows = onboard_methods(KEY, place, settings, on_method=lambda: done.append(1))
    assert list(rows) == list(settings.methods)
    assert len(done) == 3
    workloads = {name: np.array(row["workload_offset"]) for name, row in rows.items()}
    assert {name: w.shape for name, w in workloads.items()} == {
        "two-stage": (2, STAFF + 1),
        "cluster-soft": (2, STAFF + 4),
        "l2d-pop": (2, STAFF + 4),
    }
    for name, workload in workloads.items():
        np.testing.assert_allclose(workload.sum(1), 1, err_msg=name)
        np.testing.assert_array_equal(workload[:, [0, 2, 4]], 0, err_msg=name)  # those who left
    soft = workloads["cluster-soft"][0]
    np.testing.assert_allclose(soft[[1, 3, 5]], soft[[6, 7, 8]])  # one who stayed and one newcomer in each cluster


# --- The command --------------------------------------------------------------------------------------------


def pl2d(*args):
    return CliRunner().invoke(app, ["onboard", *map(str, args)])


def plain(text):
    """Text without colours and frames, its words separated by one blank."""
    return re.sub(r"[\s│╭╮╰╯─]+", " ", re.sub(r"\x1b\[[0-9;]*m", "", text))


def read(folder):
    return json.loads((folder / "report.json").read_text())


TINY = ["--methods", "two-stage,cluster-hard", "--context", "20,10", "--coverages", "0,1", "--seeds", "2"]
LISTS = ("coverage", "accuracy", "judged", "workload")


def fake_row(key, method, number, coverages):
    """In the place of an evaluation: numbers that tell seed, method and context items apart."""
    value = 0.5 + 0.3 * float(jax.random.uniform(key)) + 0.05 * METHODS.index(method) / 10 + number / 1000
    columns = {name: [value] * len(coverages) for name in LISTS}
    columns["coverage"] = list(coverages)
    both = {f"{name}{suffix}": column for name, column in columns.items() for suffix in ("", "_offset")}
    alone = {"ai_accuracy": 0.5, "expert_accuracy": [0.5] * STAFF, "accuracy_drawn": columns["accuracy"]}
    return {**both, **alone, "area": 100 * value - 1, "area_offset": 100 * value}


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


def test_own_items_are_half_of_all_at_most():
    settings = some_options(own_items=True, people=100)
    assert reserved_items(60_000, 1000, settings) == 30_000
    assert reserved_items(60_000, 100, settings) == 10_000


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


# --- The picture --------------------------------------------------------------------------------------------


def make_report(methods=METHODS, contexts=("10", "20"), seeds=2):
    rows = [
        [fake_row(jax.random.key(s), m, int(c), (0.0, 0.5, 1.0)) for s in range(seeds)]
        for c in contexts
        for m in methods
    ]
    columns = [{name: [row[name] for row in over_seeds] for name in over_seeds[0]} for over_seeds in rows]
    n = len(methods)
    results = {c: dict(zip(methods, columns[i * n : (i + 1) * n], strict=True)) for i, c in enumerate(contexts)}
    return {"results": results, "alone": {"ai": [0.8, 0.9][:seeds], "best_person": [0.7, 0.9][:seeds]}}


def test_the_picture_has_a_panel_for_every_number_of_context_items():
    report = make_report()
    figure = plot_onboarding(report)
    assert [ax.get_title() for ax in figure.axes] == ["10 context items", "20 context items"]
    figure.draw_without_rendering()
    (legend,) = figure.legends
    labels = [text.get_text() for text in legend.get_texts()]
    for label, method in zip(labels, METHODS, strict=False):
        areas = ", ".join(f"{np.mean(report['results'][c][method]['area_offset']):.1f}" for c in ("10", "20"))
        assert label == f"{method} ({areas})"
    assert labels[len(METHODS) :] == ["AI alone", "best person alone"]
    assert legend.get_window_extent().x0 >= figure.axes[-1].get_window_extent().x1  # beside, not on, the curves
    for ax in figure.axes:
        means = [line for line in ax.lines if line.get_marker() not in ("None", None)]
        assert len(means) == len(METHODS)
        assert len({(line.get_color(), line.get_marker()) for line in means}) == len(METHODS)
        assert len({line.get_color() for line in means}) == len(METHODS)
        assert len({line.get_marker() for line in means}) == len(METHODS)
        assert len(ax.lines) == 3 * len(METHODS) + 2
        np.testing.assert_allclose([line.get_ydata()[0] for line in ax.lines[-2:]], [0.85, 0.8])
    drawn = figure.axes[1].lines[2].get_xydata()  # of the first method, after its two seeds
    row = report["results"]["20"][METHODS[0]]
    np.testing.assert_allclose(drawn, np.stack([np.mean(row[k], 0) for k in ("coverage_offset", "accuracy_offset")], 1))


def test_gaps_of_a_report_that_was_read_are_left_out_of_the_picture():
    report = make_report(("naive",), ("10",))
    report["results"]["10"]["naive"]["accuracy_offset"][0][1] = None
    alone = report["results"]["10"]["naive"]["accuracy_offset"][1][1]
    report["results"]["10"]["naive"]["area_offset"][0] = None
    figure = plot_onboarding(report)
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert figure.axes[0].lines[2].get_ydata()[1] == alone  # the mean is over the other seed
    assert labels[0] == f"naive ({report['results']['10']['naive']['area_offset'][1]:.1f})"


# --- The whole of it ----------------------------------------------------------------------------------------


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
