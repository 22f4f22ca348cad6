"""Fixtures that tests of this folder share."""

import pytest
from cases.fits import GUIDE, HALF, fit_l2d

from pl2d_ppl import workload


@pytest.fixture(scope="module")
def half():
    """A fit at coverage one half."""
    return fit_l2d(guide=workload(GUIDE, "z", *HALF), epochs=30)
