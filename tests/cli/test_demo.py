"""``pl2d demo``."""

import json

import numpy as np
import pytest
from cases.command import pl2d


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
