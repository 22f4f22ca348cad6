"""Fixtures that tests of this folder share."""

import logging

import pytest
from cases.fits import GUIDE, HALF, fit_l2d

from pl2d_ppl import workload


@pytest.fixture
def compiled():
    """Names of the functions that are compiled meanwhile."""
    names = []
    handler = logging.Handler()
    handler.emit = lambda record: names.append(record.getMessage().split(" with ")[0])
    logger = logging.getLogger("jax._src.interpreters.pxla")
    level, logger.level = logger.level, logging.DEBUG
    logger.addHandler(handler)
    yield names
    logger.removeHandler(handler)
    logger.setLevel(level)


@pytest.fixture(scope="module")
def half():
    """A fit at coverage one half."""
    return fit_l2d(guide=workload(GUIDE, "z", *HALF), epochs=30)
