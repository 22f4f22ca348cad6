"""Predictions of networks whose weights have a posterior: means over draws, or a key is asked for."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from cases.fits import GUIDE, KEY, TOY_DATA, fit_l2d, quiet
from numpyro.infer.autoguide import AutoDelta
from scipy.special import softmax

from pl2d_ppl.guides.normal import normal

X = TOY_DATA["x"]


def gated(x, who=None, *, num_items=36):
    """A gate with a prior on its weights, and an AI without; a number that no output depends on."""
    weights = numpyro.sample("weights", dist.Normal(0.0, 2.0).expand([3, 3]).to_event(2))
    offset = numpyro.sample("offset", dist.Normal(0.0, 1.0))
    numpyro.deterministic("offsets", offset + jnp.zeros(3))  # not an item's
    gate_logits = numpyro.deterministic("gate_logits", x @ weights)
    numpyro.deterministic("ai_logits", x @ numpyro.param("classifier", jnp.eye(3)))
    if who is not None:
        with numpyro.plate("item", num_items, subsample_size=len(x), dim=-1):
            numpyro.sample("who", dist.Categorical(logits=gate_logits), obs=who)


DATA = {"x": X, "who": TOY_DATA["who"]}


@pytest.fixture(scope="module")
def gate():
    """A fit that is stopped early: its gate has learned something, and is still unsure."""
    return quiet(KEY, gated, normal(gated, init_scale=1.5), DATA, optax.sgd(0.1), epochs=10, batch_size=36)


def by_hand(params, num_draws=20_000):
    """Mean of the softmax of the gate over draws of its weights, in NumPy."""
    rng = np.random.default_rng(0)
    loc, scale = (np.asarray(params[f"weights_{name}"], float) for name in ("loc", "scale"))
    weights = loc + scale * rng.standard_normal((num_draws, *loc.shape))
    return softmax(np.einsum("nd,sdk->snk", X, weights), -1).mean(0)


def test_predictions_are_means_over_draws(gate):
    prediction = gate.predict(X, rng_key=KEY, num_samples=3000)
    np.testing.assert_allclose(prediction.gate, by_hand(gate.params), atol=0.03)
    np.testing.assert_allclose(prediction.ai, softmax(X @ np.asarray(gate.params["classifier"]), -1), rtol=1e-4)
    at_the_mean = softmax(X @ np.asarray(gate.params["weights_loc"]), -1)
    assert np.abs(by_hand(gate.params) - at_the_mean).max() > 0.1  # else the test would not notice one draw


def test_a_hundred_draws_unless_told_otherwise(gate):
    gate_logits = gate.outputs(X, rng_key=KEY)["gate_logits"]
    assert gate_logits.shape == (100, 36, 3)
    assert gate_logits.std(0).min() > 0
    np.testing.assert_allclose(gate.predict(X, rng_key=KEY).gate, softmax(gate_logits, -1).mean(0), rtol=1e-4)
    assert gate.outputs(X, rng_key=KEY, num_samples=2)["gate_logits"].shape == (2, 36, 3)


@pytest.mark.parametrize("ask", ["predict", "outputs"])
def test_without_a_key_one_is_asked_for(gate, ask):
    with pytest.raises(ValueError, match=r"an rng_key, since gate_logits depend on latent sites .*100 draws"):
        getattr(gate, ask)(X)
    with pytest.raises(ValueError, match="typed key"):
        getattr(gate, ask)(X, rng_key=jax.random.PRNGKey(0))


def test_runs_of_a_batch_average_each_over_its_own_posterior():
    keys = jax.random.split(KEY, 2)
    both = quiet(keys, gated, normal(gated, init_scale=1.5), DATA, optax.sgd(0.1), epochs=2, batch_size=12)
    found = both.predict(X, rng_key=KEY, num_samples=1000).gate
    for r in range(2):
        np.testing.assert_allclose(found[r], by_hand(both.run(r).params), atol=0.06)
    with pytest.raises(ValueError, match="rng_key"):
        both.run(1).predict(X)


def test_point_estimates_and_programs_without_draws_need_no_key():
    point = quiet(KEY, gated, AutoDelta(gated), DATA, optax.sgd(0.01), epochs=1, batch_size=36)
    expected = softmax(X @ np.asarray(point.params["weights_auto_loc"]), -1)
    np.testing.assert_allclose(point.predict(X).gate, expected, rtol=1e-4)
    plain = fit_l2d(guide=GUIDE, epochs=1)
    assert plain.outputs(X)["gate_logits"].shape == (1, 36, 3)
    thrice = plain.outputs(X, num_samples=3)["gate_logits"]
    np.testing.assert_array_equal(thrice, np.repeat(plain.outputs(X)["gate_logits"], 3, 0))
