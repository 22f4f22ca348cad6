"""Every notebook runs, as its reader would run it, in its quick mode."""

import os
from pathlib import Path

import jupytext
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.py"))
# The first is of the slow part, the others of the exhaustive one: they take minutes.
MARKS = [pytest.mark.slow, *[pytest.mark.exhaustive] * (len(NOTEBOOKS) - 1)]


def test_there_are_notebooks():
    assert NOTEBOOKS


# The event loop of the kernel client is zmq's and tornado's, which warn about each other.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::RuntimeWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize(
    "path", [pytest.param(path, marks=mark, id=path.stem) for path, mark in zip(NOTEBOOKS, MARKS, strict=True)]
)
def test_notebook_runs(path, monkeypatch, tmp_path):
    monkeypatch.setenv("PL2D_QUICK", "1")
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # as in conftest
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(path.parent.parent), os.environ.get("PYTHONPATH", "")]))
    NotebookClient(jupytext.read(path), timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
