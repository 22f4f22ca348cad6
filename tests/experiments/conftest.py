"""Fixtures that tests of this folder share."""

import json
from functools import partial

import pytest
from cases.curves import QUICK, SETTINGS, prepare

from pl2d_ppl.experiments.reports import read_report
from pl2d_ppl.experiments.seeds import run_seeds


@pytest.fixture(scope="session")
def report(tmp_path_factory):
    """Two seeds, one run after the other."""
    calls, path = [], tmp_path_factory.mktemp("report") / "report.json"
    run = partial(run_seeds, partial(prepare, calls), **QUICK, path=path)
    run([0], [0.0, 1.0], SETTINGS)
    assert read_report(path)["seeds"] == [0]
    report = run(range(2), [0.0, 1.0], SETTINGS)
    assert calls == [0, 1]
    assert [p.name for p in path.parent.iterdir()] == ["report.json"]
    assert read_report(path) == json.loads(json.dumps(report))
    return report


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
