"""Fixtures that tests of this folder share."""

import sys

import numpy as np
import pytest


@pytest.fixture(autouse=True)
def _without_tensorflow():
    before = "tensorflow" in sys.modules
    yield
    assert before or "tensorflow" not in sys.modules


@pytest.fixture
def rng():
    return np.random.default_rng(0)
