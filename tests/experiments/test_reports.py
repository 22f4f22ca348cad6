"""Reports: kept on disk, locked, and summed up."""

import errno
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from cases.curves import SETTINGS

from pl2d_ppl.experiments.reports import add_seed, known_mean, read_report, select_seeds, write_json


def test_nobody_writes_while_another_does(tmp_path, monkeypatch):
    """Between reading and writing there is time for all the others."""
    path, empty = tmp_path / "new" / "report.json", {**SETTINGS, "seeds": []}

    def slow(text, loads=json.loads):
        time.sleep(0.01)
        return loads(text)

    monkeypatch.setattr(json, "loads", slow)
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


def test_json_holds_no_nan(tmp_path):
    write_json(tmp_path / "a.json", {"a": [np.float32(1), float("nan")], "b": np.arange(2), "c": (np.int64(3), None)})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": [1.0, None], "b": [0, 1], "c": [3, None]}


def test_a_mean_is_over_what_is_known():
    values = [[1.0, None, 4.0], [3.0, None, float("nan")]]
    np.testing.assert_array_equal(known_mean(values), [2.0, np.nan, 4.0])
    assert known_mean([1.0, None, 2.0]) == 1.5


def test_some_seeds_of_a_report(judged):
    nested = {**judged, "settings": {"contexts": [10, 20]}, "results": {"10": {"naive": {"area": [1.0, 2.0]}}}}
    found = select_seeds(nested, [4])
    assert found["seeds"] == [4]
    assert found["area_offset"] == [70.0]
    assert found["results"] == {"10": {"naive": {"area": [2.0]}}}
    assert (found["coverages"], found["settings"]) == ([0.0, 1.0], {"contexts": [10, 20]})
    assert select_seeds(nested, [4, 0])["ai_accuracy"] == [0.85, 0.75]
