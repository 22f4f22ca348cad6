"""Fixtures that tests of this folder share."""

import json

import pytest
from cases.command import TINY, broken, pl2d, toy

from pl2d_ppl.data import write_npz


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with data."""
    folder = tmp_path_factory.mktemp("cli")
    write_npz(folder / "data.npz", toy())
    return folder


@pytest.fixture
def data(folder):
    return folder / "data.npz"


@pytest.fixture(scope="module")
def curve(folder):
    """Output of a curve, its folder and its report."""
    result = pl2d("curve", folder / "data.npz", *TINY, "--out", folder / "curve")
    assert result.exit_code == 0, result.output
    return result.output, folder / "curve", json.loads((folder / "curve" / "report.json").read_text())


@pytest.fixture(scope="module")
def fitted(folder):
    """Output and folder of a fit."""
    options = ["--epochs", "2", "--batch-size", "16", "--lower", "0,0,.5", "--upper", "1,1,.5"]
    result = pl2d("fit", folder / "data.npz", "--out", folder / "fit", *options)
    assert result.exit_code == 0, result.output
    return result.output, folder / "fit"


@pytest.fixture(scope="module", autouse=True)
def _broken(folder):
    broken(folder)
