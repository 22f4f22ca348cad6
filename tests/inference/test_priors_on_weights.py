"""Networks with priors on their weights."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from cases.fits import KEY, TOY_DATA, quiet
from numpyro.contrib.module import random_nnx_module
from numpyro.handlers import block, mask
from numpyro.infer.autoguide import AutoNormal
from programs import ENUMERATE
from scipy.special import softmax

from pl2d_ppl import MLP
from pl2d_ppl.guides.exact import exact
from pl2d_ppl.networks import instantiate


def bayesian(x, y=None, *, num_items=36):
    """Who decides is latent: an AI with a prior on its weights, or a guess."""
    network = random_nnx_module(
        "classifier", instantiate(partial(MLP, 3, (), 3)), prior=dist.Normal(0.0, 2.0), scope_divider="."
    )
    ai_logits = numpyro.deterministic("ai_logits", network(x))
    gate_logits = numpyro.deterministic("gate_logits", jnp.zeros((len(x), 2)))
    with numpyro.plate("item", num_items if y is not None else len(x), subsample_size=len(x), dim=-2):
        z = numpyro.sample("z", dist.Categorical(logits=gate_logits[:, None]), infer=dict(ENUMERATE))
        if y is not None:
            logits = jnp.stack([jnp.zeros_like(ai_logits), ai_logits], 1)
            with numpyro.plate("decider", 2, dim=-1), mask(mask=z == jnp.arange(2)):
                numpyro.sample("y", dist.Categorical(logits=logits), obs=y[:, None])


def bayesian_guide():
    return exact(bayesian, ["z"], continuous=AutoNormal(block(bayesian, hide=["z"]), init_scale=0.1))


@pytest.mark.slow
@pytest.mark.parametrize("batched", [False, True])
def test_priors_on_weights(batched):
    key = jax.random.split(KEY, 2) if batched else KEY
    data = {n: TOY_DATA[n] for n in ("x", "y")}
    result = quiet(key, bayesian, bayesian_guide(), data, optax.adam(0.1), epochs=30, batch_size=12)
    assert np.all(result.history["loss"][-1] < result.history["loss"][0])
    runs = (2,) if batched else ()
    one = result.predict(TOY_DATA["x"], rng_key=jax.random.key(1))
    many = result.predict(TOY_DATA["x"], rng_key=jax.random.key(1), num_samples=16)
    outputs = result.outputs(TOY_DATA["x"], rng_key=jax.random.key(1), num_samples=16)["ai_logits"]
    assert one.ai.shape == many.ai.shape == (*runs, 36, 3)
    assert outputs.shape == (*runs, 16, 36, 3)
    assert outputs.std(-3).min() > 0  # draws differ
    np.testing.assert_allclose(many.ai, softmax(outputs.astype(float), -1).mean(-3), rtol=1e-5)
    assert np.mean(many.ai.argmax(-1) == TOY_DATA["y"]) > 0.9
    location = result.params["classifier.readout.kernel_auto_loc"]
    assert location.shape == (*runs, 3, 3)


@pytest.mark.slow
def test_a_guide_of_weights_serves_a_second_fit_and_predictions_in_chunks():
    data, guide = {n: TOY_DATA[n] for n in ("x", "y")}, bayesian_guide()
    first, second = (
        quiet(jax.random.key(k), bayesian, guide, data, optax.sgd(0.01), epochs=1, batch_size=12) for k in (0, 1)
    )
    for result in (first, second):
        whole, chunked = (
            result.predict(TOY_DATA["x"], rng_key=KEY, num_samples=2, batch_size=b).ai for b in (4096, 18)
        )
        np.testing.assert_allclose(chunked, whole, rtol=1e-5)
