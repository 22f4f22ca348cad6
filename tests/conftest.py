"""Fixtures that all tests share."""

import logging
import os
from pathlib import Path
from typing import NamedTuple

import jax
import pytest


class Precision(NamedTuple):
    """Name of the floating-point type that is on, and the relative error that exact arithmetic allows in it."""

    name: str
    rtol: float


# Half of the time of a test goes into optimisations of XLA's that tiny programs do not need.
jax.config.update("jax_disable_most_optimizations", True)

LONG = {line for line in (Path(__file__).parent / "long.txt").read_text().splitlines() if not line.startswith("#")}

MOST_MAPS = 30_000  # of memory; the system allows a process some 65,000, and XLA's compiler crashes beyond


@pytest.hookimpl(tryfirst=True)  # before tests are chosen by their marks
def pytest_collection_modifyitems(items):
    """Mark the tests that take long, one by one: other parameters of the same test may be quick."""
    for item in items:
        if item.nodeid in LONG:
            item.add_marker(pytest.mark.exhaustive)


@pytest.fixture(autouse=True, scope="module")
def _forget_compiled_programs():
    """Let go of what has been compiled, between files, before there is too much of it."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and len(maps.read_text().splitlines()) > MOST_MAPS:
        jax.clear_caches()


@pytest.fixture
def thorough_compilation():
    """Compile with all optimisations: for thousands of steps it pays."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


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


@pytest.fixture
def compiled():
    """Names of the functions that are compiled meanwhile."""
    names = []

    class Record(logging.Handler):
        def emit(self, record):
            message = record.getMessage()
            if message.startswith("Compiling "):
                names.append(message.split()[1])

    handler, logger = Record(), logging.getLogger("jax")
    level = logger.level  # which a command of another test may have raised
    logger.setLevel(logging.WARNING)
    logger.addHandler(handler)
    with jax.log_compiles():
        yield names
    logger.removeHandler(handler)
    logger.setLevel(level)
