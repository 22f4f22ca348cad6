"""NumPyro's own tools on fitted programs: they need the parameters, and no seed."""

import jax
import numpy as np
import pytest
from cases.fits import DATA, GUIDE, KEY, MODEL, fit_l2d, linear
from numpyro.handlers import seed, substitute, trace
from numpyro.infer import Predictive, log_likelihood
from scipy.special import log_softmax

from pl2d_ppl.guides.exact import exact

FEW = {name: a[:6] for name, a in DATA.items()}


@pytest.fixture(scope="module")
def fitted():
    return fit_l2d(guide=GUIDE, epochs=1)


@pytest.fixture(scope="module")
def draws(fitted):
    found = Predictive(exact(MODEL), params=fitted.params, num_samples=4)(KEY, **FEW)
    return {name: found[name] for name in ("z", "t")}


def test_log_likelihood_of_a_fit(fitted, draws):
    found = log_likelihood(substitute(MODEL, data=fitted.params), draws, **FEW)
    expected = log_softmax(linear(fitted.params, "classifier", FEW["x"]), -1)[np.arange(6), FEW["y"]]
    np.testing.assert_allclose(found["y_ai"][..., 0], np.tile(expected, (4, 1)), rtol=1e-4)
    seeded = log_likelihood(seed(substitute(MODEL, data=fitted.params), 3), draws, **FEW)
    jax.tree.map(np.testing.assert_array_equal, found, seeded)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Explicitly requested dtype:UserWarning")  # in NumPyro's enumeration
def test_discrete_sites_drawn_by_numpyro(fitted):
    found = Predictive(MODEL, params=fitted.params, num_samples=3, infer_discrete=True)(KEY, **FEW)
    assert found["z"].shape == (3, 6, 1)
    assert found["t"].shape == (3, 6, 3)


def test_a_parameter_that_is_missing_is_missed(fitted, draws):
    less = {name: value for name, value in fitted.params.items() if name != "gating$params"}
    with pytest.raises(ValueError, match=r"for all its networks, found neither for 'gating'.*gating\$params"):
        log_likelihood(substitute(MODEL, data=less), draws, **FEW)
    with pytest.raises(ValueError, match="found neither for 'gating'"):
        trace(MODEL).get_trace(**FEW)
