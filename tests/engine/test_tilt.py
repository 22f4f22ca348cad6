"""Tilts of a model: their gradients are marginals."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.handlers import seed
from numpyro.infer import Predictive
from programs import random_l2d, table_model

from pl2d_ppl.engine.marginals import log_evidence, marginals
from pl2d_ppl.engine.tilt import tilt


@pytest.fixture(scope="module")
def problem():
    return random_l2d(7, 12)


@pytest.fixture(scope="module")
def model(problem):
    return table_model(problem.gate, problem.beliefs)


@pytest.fixture(scope="module")
def data(problem):
    return problem.arrays()[2:]


def test_gradient_of_a_tilt_is_the_marginal(model, data):
    weights = {"z": jnp.zeros((12, 1, 3)), "t": jnp.zeros((12, 3, 3))}

    def evidence(weights):
        return log_evidence(tilt(tilt(model, "z", weights["z"]), "t", weights["t"]))(*data)

    gradient = jax.jit(jax.grad(evidence))(weights)
    expected = jax.jit(marginals(model))(*data)
    for site in weights:
        np.testing.assert_allclose(gradient[site], expected[site], rtol=1e-5, atol=1e-7)


def test_a_shared_weight_sums_over_the_plate(model, data):
    def evidence(weight):
        return log_evidence(tilt(model, "z", weight))(*data)

    gradient = jax.jit(jax.grad(evidence))(jnp.zeros(3))
    expected = jax.jit(marginals(model, ["z"]))(*data)["z"]
    np.testing.assert_allclose(gradient, expected.sum((0, 1)), rtol=1e-5)


@pytest.mark.parametrize(
    ("tilted", "message"),
    [
        (lambda m: tilt(m, "zz", jnp.zeros(3)), r"site 'zz', found none .*\['z', 't'\].*spelling"),
        (lambda m: tilt(m, "annotation", jnp.zeros(3)), "'annotation', found none .*not observed"),
        (lambda m: tilt(tilt(m, "z", jnp.zeros(3)), "z", jnp.zeros(3)), "one tilt of site 'z', found two"),
        (lambda m: tilt(m, "z", jnp.zeros(4)), r"broadcasts to \(12, 1, 3\) at site 'z', found \(4,\)"),
        (lambda m: tilt(m, "z", jnp.zeros((5, 1, 3))), r"found \(5, 1, 3\)"),
        (lambda m: tilt(m, "z", 0.0), r"found \(\)"),
    ],
)
def test_a_tilt_that_does_not_fit_is_refused(model, data, tilted, message):
    with pytest.raises(ValueError, match=message):
        log_evidence(tilted(model))(*data)


def test_a_tilt_of_a_continuous_site_is_refused():
    with pytest.raises(ValueError, match="finite support at site 'w', found Normal"):
        seed(tilt(lambda: numpyro.sample("w", dist.Normal()), "w", jnp.zeros(3)), jax.random.key(0))()


def test_a_tilt_changes_no_draw_and_shows_as_an_empty_array(model, problem):
    def draws(program):
        return Predictive(program, num_samples=5)(jax.random.key(0), jnp.asarray(problem.x))

    plain, tilted = draws(model), draws(tilt(model, "z", jnp.array([0.0, 50.0, 0.0])))
    assert tilted.pop("z_tilt").size == 0
    assert set(tilted) == set(plain)
    for site in plain:
        np.testing.assert_array_equal(tilted[site], plain[site], err_msg=site)
