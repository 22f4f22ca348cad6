"""Fixtures that all tests share."""

import os
from pathlib import Path
from typing import NamedTuple

import jax
import pytest


class Precision(NamedTuple):
    """Name of the floating-point type that is on, and the relative error that exact arithmetic allows in it."""

    name: str
    rtol: float


MOST_MAPS = 30_000  # of memory; the system allows a process some 65,000, and XLA's compiler crashes beyond


@pytest.fixture(autouse=True, scope="module")
def _forget_compiled_programs():
    """Let go of what has been compiled, between files, before there is too much of it."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and len(maps.read_text().splitlines()) > MOST_MAPS:
        jax.clear_caches()


PRECISIONS = {"float32": Precision("float32", 1e-4), "float64": Precision("float64", 1e-9)}


@pytest.fixture(params=PRECISIONS)
def precision(request):
    """Run the test in float32 and in float64."""
    with jax.enable_x64(request.param == "float64"):
        yield PRECISIONS[request.param]


@pytest.fixture
def float64():
    """Run the test in float64."""
    with jax.enable_x64(True):
        yield PRECISIONS["float64"]


@pytest.fixture(scope="session")
def data_dir():
    """Folder of the real data: environment variable PL2D_DATA, else ../shared/data; skips where absent."""
    folder = Path(os.environ.get("PL2D_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no data at {folder}")
    return folder
