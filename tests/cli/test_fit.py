"""``pl2d fit``: from a file to a folder, and what it says when something is wrong."""

import json
import re

import pytest
from cases.command import pl2d, refused


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


BAD_FILES = {
    "missing.npz": "found none. Check the name and the folder",
    "truncated.npz": "readable",
    "empty.npz": "readable",
    "text.npz": "readable",
    "keyless.npz": "the keys x, and y or votes or counts, in",
    "nan.npz": "NaN",
    "unannotated.npz": "annotation",
}


@pytest.mark.parametrize(("command", "name"), [*(("fit", name) for name in BAD_FILES), ("curve", "nan.npz")])
def test_bad_files_are_refused_and_nothing_is_left(folder, tmp_path, command, name):
    out = tmp_path / "new" / "out"
    refused(pl2d(command, folder / name, "--out", out), BAD_FILES[name], name if name != "unannotated.npz" else "")
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


@pytest.mark.parametrize("command", ["curve", "fit", "demo", "onboard"])
def test_an_unwritable_folder_is_refused_before_training(data, tmp_path, no_training, command):
    (tmp_path / "file").write_text("kept")
    args = [data] if command in ("curve", "fit") else []
    for out in (tmp_path / "file" / "out", tmp_path / "file"):
        refused(pl2d(command, *args, "--out", out), "Expected")
    assert (tmp_path / "file").read_text() == "kept"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_fit_does_not_replace_a_folder_of_other_things(data, tmp_path, no_training):
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "thesis.txt").write_text("years of work")
    refused(pl2d("fit", data, "--out", tmp_path / "results"), "Expected")
    assert (tmp_path / "results" / "thesis.txt").exists()
