"""The command ``pl2d``: from a file to a report, a fit and predictions; and what it says when something is wrong."""

import gc
import json
import re

import numpy as np
import pytest
from scipy.special import softmax
from typer.testing import CliRunner

from pl2d_ppl import Annotated, standardise
from pl2d_ppl.cli.app import app
from pl2d_ppl.cli.curve import Method
from pl2d_ppl.cli.predict import load_saved
from pl2d_ppl.data import read_npz, write_npz
from pl2d_ppl.experiments.methods import METHODS, NEED_MEMBERSHIP

# Who annotated only some items of the test part cannot be judged on the others, which curves tell.
pytestmark = pytest.mark.filterwarnings("default:.*of the decisions can be judged")

COMMANDS = {
    "demo": ["--quick"],
    "curve": ["--coverages", "--method"],
    "fit": ["--lower"],
    "predict": ["--out"],
    "onboard": ["--context", "--methods", "--own-items", "--replaced", "--ai-steps"],
}
TINY = ["--steps", "4", "--batch-size", "16", "--coverages", "0,1", "--method", "naive"]


def pl2d(*args):
    return CliRunner().invoke(app, [str(a) for a in args])


def plain(text):
    """Text without colours and frames, its words separated by one blank."""
    return re.sub(r"[\s│╭╮╰╯─]+", " ", re.sub(r"\x1b\[[0-9;]*m", "", text))


def toy(seed=0, num_items=48, constant=0.1):
    """Blobs; the first expert is right, the second guesses; one feature is constant."""
    rng = np.random.default_rng(seed)
    y = np.arange(num_items) % 3
    x = np.column_stack([3 * np.eye(3)[y] + rng.standard_normal((num_items, 3)), np.full(num_items, constant)])
    said = np.stack([y, rng.integers(0, 3, num_items)], 1)
    said[rng.random(said.shape) < 0.3] = -1
    return Annotated(x, y, said, classes=("cat", "dog", "owl"), annotators=("Ada", "Bob"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with data."""
    folder = tmp_path_factory.mktemp("cli")
    write_npz(folder / "data.npz", toy())
    return folder


@pytest.fixture
def data(folder):
    return folder / "data.npz"


def test_help_lists_the_commands():
    result = pl2d("--help")
    assert result.exit_code == 0
    for command in COMMANDS:
        assert re.search(rf"\b{command}\b", plain(result.output))


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_each_command_is_readable(command):
    result = pl2d(command, "--help")
    text = plain(result.output)
    assert result.exit_code == 0
    assert f"{command} [OPTIONS]" in text
    for option in ("--help", "--out", *COMMANDS[command]):
        assert option in text
    assert "Annotated[" not in text
    assert "<class" not in text
    # Every option says what it is.
    for line in result.output.splitlines():
        if match := re.search(r"--(?!help)[a-z-]+\s+([A-Z]+|\[.*?\])?\s*(.*)", plain(line)):
            assert len(match.group(2).split()) >= 2 or command == "demo", line


def test_without_arguments_there_is_help():
    assert "Usage" in plain(pl2d().output)


def refused(result, *words):
    """Assert that a command ended with one message, and no traceback."""
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    for word in words:
        assert word in plain(result.output), result.output


# --- curve ---


@pytest.fixture(scope="module")
def curve(folder):
    """Output of a curve, its folder and its report."""
    result = pl2d("curve", folder / "data.npz", *TINY, "--out", folder / "curve")
    assert result.exit_code == 0, result.output
    return result.output, folder / "curve", json.loads((folder / "curve" / "report.json").read_text())


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
    assert plain(output).count(f"pl2d: naive: as few as {least:.3f} of the decisions can be judged") == 1


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


# --- fit and predict ---


@pytest.fixture(scope="module")
def fitted(folder):
    """Output and folder of a fit."""
    options = ["--epochs", "2", "--batch-size", "16", "--lower", "0,0,.5", "--upper", "1,1,.5"]
    result = pl2d("fit", folder / "data.npz", "--out", folder / "fit", *options)
    assert result.exit_code == 0, result.output
    return result.output, folder / "fit"


def test_fit_tells_the_shares_and_saves(fitted):
    output, path = fitted
    shares = {n: float(v) for n, v in re.findall(r"^\s+(Ada|Bob|AI)\s+([\d.]+)$", output, re.M)}
    assert set(shares) == {"Ada", "Bob", "AI"}
    assert sum(shares.values()) == pytest.approx(1, abs=0.002)
    assert shares["AI"] == pytest.approx(0.5, abs=2 / 48)
    settings = json.loads((path / "settings.json").read_text())
    assert settings["annotators"] == ["Ada", "Bob"]
    assert settings["classes"] == ["cat", "dog", "owl"]
    assert len(settings["policy"]["offsets"]) == 3


@pytest.fixture(scope="module")
def predicted(folder, fitted):
    """Output and arrays of predictions of the training items."""
    result = pl2d("predict", fitted[1], folder / "data.npz", "--out", folder / "predictions.npz")
    assert result.exit_code == 0, result.output
    with np.load(folder / "predictions.npz", allow_pickle=False) as arrays:
        return result.output, dict(arrays)


def forward(params, name, x):
    """An MLP, in double precision."""
    weights = params[f"{name}$params"]
    for index in sorted(weights["hidden"]):
        layer = weights["hidden"][index]
        x = np.maximum(x @ np.asarray(layer["kernel"], float) + np.asarray(layer["bias"]), 0)
    return x @ np.asarray(weights["readout"]["kernel"], float) + np.asarray(weights["readout"]["bias"])


def test_predictions_are_those_of_the_saved_networks(fitted, predicted, data):
    _, arrays = predicted
    settings = json.loads((fitted[1] / "settings.json").read_text())
    (scaled,) = standardise(read_npz(data)[0])
    result = load_saved(fitted[1] / "fit", settings, scaled.x)
    assert {n: a.shape for n, a in arrays.items()} == {
        "decision": (48,),
        "gate": (48, 3),
        "ai": (48, 3),
        "belief": (48, 3, 3),
        "deciders": (3,),
        "classes": (3,),
    }
    gate = softmax(forward(result.params, "gating", scaled.x), -1)
    np.testing.assert_allclose(arrays["gate"], gate, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(
        arrays["ai"], softmax(forward(result.params, "classifier", scaled.x), -1), rtol=1e-3, atol=1e-5
    )
    np.testing.assert_allclose(arrays["belief"].sum(-1), 1, rtol=1e-5)
    np.testing.assert_allclose(arrays["belief"][:, 2], arrays["ai"], rtol=1e-5)
    expected = (np.log(arrays["gate"]) + settings["policy"]["offsets"]).argmax(-1)
    np.testing.assert_array_equal(arrays["decision"], expected)
    assert arrays["decision"].dtype == np.int32
    assert list(arrays["deciders"]) == ["Ada", "Bob", "AI"]
    assert list(arrays["classes"]) == ["cat", "dog", "owl"]


def test_predictions_of_the_training_items_have_the_shares_of_the_fit(fitted, predicted):
    share = lambda text, name: float(re.search(rf"\b{name}\s+([\d.]+)", text).group(1))  # noqa: E731
    for name in ("Ada", "Bob", "AI"):
        assert share(predicted[0], name) == pytest.approx(share(fitted[0], name), abs=1e-3)


@pytest.mark.slow
def test_new_values_of_a_constant_feature_do_not_explode(fitted, predicted, folder):
    """A feature that was constant in training is centred only, in the fit and so in predictions."""
    x = toy().x.copy()
    x[:, 3] += 1e-3
    np.savez(folder / "shifted.npz", x=x)
    assert pl2d("predict", fitted[1], folder / "shifted.npz", "--out", folder / "shifted_out.npz").exit_code == 0
    with np.load(folder / "shifted_out.npz") as arrays:
        np.testing.assert_allclose(arrays["gate"], predicted[1]["gate"], atol=0.01)


@pytest.mark.slow
def test_predictions_need_no_labels_and_one_item_is_enough(fitted, predicted, folder):
    np.savez(folder / "one.npz", x=toy().x[:1])
    result = pl2d("predict", fitted[1], folder / "one.npz", "--out", folder / "new" / "one_out.npz")
    assert result.exit_code == 0, result.output
    with np.load(folder / "new" / "one_out.npz") as arrays:
        np.testing.assert_allclose(arrays["gate"], predicted[1]["gate"][:1], rtol=1e-4)


# --- demo ---


@pytest.mark.slow
def test_demo_quick(tmp_path):
    result = pl2d("demo", "--quick", "--out", tmp_path / "demo")
    assert result.exit_code == 0, result.output
    assert sorted(p.name for p in (tmp_path / "demo").iterdir()) == ["curve.png", "posterior.nc", "report.json"]
    report = json.loads((tmp_path / "demo" / "report.json").read_text())
    assert set(report) == {"naive", "prob-l2d"}
    for row in report.values():
        assert row["coverages"] == [0.0, 0.5, 1.0]
        assert 50 < row["area_offset"][0] <= 100
        np.testing.assert_allclose(row["coverage_offset"][0], [0, 0.5, 1], atol=0.1)
    assert "prob-l2d" in result.output


# --- What is refused ---


def broken(folder):
    """Files that are no data."""
    content = (folder / "data.npz").read_bytes()
    (folder / "truncated.npz").write_bytes(content[: len(content) // 2])
    (folder / "empty.npz").write_bytes(b"")
    (folder / "text.npz").write_text("no archive")
    np.savez(folder / "keyless.npz", a=np.zeros(3))
    data = toy()
    np.savez(folder / "nan.npz", x=np.where(np.arange(48)[:, None] == 3, np.nan, data.x), y=data.y)
    np.savez(folder / "unannotated.npz", x=data.x, y=data.y)
    np.savez(folder / "narrow.npz", x=data.x[:, :2], y=data.y, annotations=data.annotations)


@pytest.fixture(scope="module", autouse=True)
def _broken(folder):
    broken(folder)


BAD_FILES = {
    "missing.npz": "found none. Check the name and the folder",
    "truncated.npz": "readable",
    "empty.npz": "readable",
    "text.npz": "readable",
    "keyless.npz": "the keys x, and y or votes or counts, in",
    "nan.npz": "NaN",
    "unannotated.npz": "annotation",
}


@pytest.mark.parametrize("command", ["curve", "fit"])
@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files_are_refused_and_nothing_is_left(folder, tmp_path, command, name):
    out = tmp_path / "new" / "out"
    refused(pl2d(command, folder / name, "--out", out), BAD_FILES[name], name if name != "unannotated.npz" else "")
    assert list(tmp_path.iterdir()) == []


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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--lower", "0,0"], "3 bounds, for Ada, Bob, AI, found 2"),
        (["--lower", ".6,.6,0"], "at most 1"),
        (["--upper", ".1,.1,.1"], "at least 1"),
        (["--lower", "0,0,.6", "--upper", "1,1,.5"], "lower <= upper"),
        (["--lower", "a,b,c"], "'a,b,c'"),
        (["--epochs", "0"], "--epochs"),
        (["--guide", "other"], "other"),
        (["--batch-size", "0"], "--batch-size"),
    ],
)
def test_bad_options_of_fit_are_refused_and_nothing_is_left(data, tmp_path, options, message):
    refused(pl2d("fit", data, "--out", tmp_path / "new" / "out", *options), message)
    assert list(tmp_path.iterdir()) == []


def test_fit_needs_a_folder(data):
    refused(pl2d("fit", data), "--out")


@pytest.mark.parametrize("command", ["curve", "fit", "demo"])
def test_an_unwritable_folder_is_refused_before_training(data, tmp_path, monkeypatch, command):
    def never(*args, **options):
        raise AssertionError("trained in vain")

    for place in ("experiments.methods.fit", "cli.fit.fit_program", "cli.demo.fit"):
        monkeypatch.setattr(f"pl2d_ppl.{place}", never)
    (tmp_path / "file").write_text("kept")
    args = [] if command == "demo" else [data]
    for out in (tmp_path / "file" / "out", tmp_path / "file"):
        refused(pl2d(command, *args, "--out", out), "Expected")
    assert (tmp_path / "file").read_text() == "kept"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_fit_does_not_replace_a_folder_of_other_things(data, tmp_path, monkeypatch):
    monkeypatch.setattr("pl2d_ppl.cli.fit.fit_program", lambda *args, **options: pytest.fail("trained in vain"))
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "thesis.txt").write_text("years of work")
    refused(pl2d("fit", data, "--out", tmp_path / "results"), "Expected")
    assert (tmp_path / "results" / "thesis.txt").exists()


def test_predict_refuses_what_is_no_fit(data, tmp_path):
    refused(pl2d("predict", tmp_path / "none", data, "--out", tmp_path / "out.npz"), "pl2d fit")
    for content in ("{", "[1]", "{}"):
        (tmp_path / "fit").mkdir(exist_ok=True)
        (tmp_path / "fit" / "settings.json").write_text(content)
        refused(pl2d("predict", tmp_path / "fit", data, "--out", tmp_path / "out.npz"), "pl2d fit")
    assert [p.name for p in tmp_path.iterdir()] == ["fit"]


@pytest.mark.parametrize("name", ["missing", "truncated", "empty", "text", "keyless", "nan", "narrow"])
def test_predict_refuses_bad_inputs(fitted, folder, tmp_path, name):
    refused(
        pl2d("predict", fitted[1], folder / f"{name}.npz", "--out", tmp_path / "out.npz"), f"{name}.npz", "Expected"
    )
    assert list(tmp_path.iterdir()) == []
    gc.collect()  # a file that was left open shows here, and not in a later test


def test_predict_refuses_an_unwritable_place(fitted, data, tmp_path):
    (tmp_path / "file").write_text("kept")
    refused(pl2d("predict", fitted[1], data, "--out", tmp_path / "file" / "out.npz"), "Expected a folder")
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "thesis.txt").write_text("years of work")
    refused(pl2d("predict", fitted[1], data, "--out", tmp_path / "results"), "Expected")
    assert (tmp_path / "results" / "thesis.txt").exists()
