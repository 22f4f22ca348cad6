"""The AI that is trained first, and networks that are frozen."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from numpyro.handlers import seed
from numpyro.infer.util import log_density
from scipy.special import log_softmax

from pl2d_ppl import MLP, ConvNet, Frozen, fit, train_classifier
from pl2d_ppl.ai import trained_network
from pl2d_ppl.guiding import no_guide
from pl2d_ppl.models.classification import classification

KEY = jax.random.key(0)


def blobs(num_items=300):
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, num_items)
    x = rng.normal(size=(num_items, 2)) + 6 * np.array([[0, 0], [0, 1], [1, 0]])[y]
    return x.astype(np.float32), y


@pytest.mark.slow
def test_a_classifier_learns_what_can_be_told_apart():
    x, y = blobs()
    half = np.where(np.arange(300) < 200, y, -1)
    train = partial(train_classifier, KEY, x[:250], num_categories=3, hidden=(16,), steps=300, learning_rate=0.01)
    first, again = train(y=half[:250]), train(y=half[:250])
    assert np.mean(first(jnp.asarray(x[250:])).argmax(-1) == y[250:]) > 0.95
    np.testing.assert_array_equal(first(jnp.asarray(x)), again(jnp.asarray(x)))


def test_truth_is_scored_where_it_is_known():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(6, 4)).astype(np.float32), np.array([0, 1, -1, 2, -1, 0])
    network = Frozen.of(MLP(4, (5,), 3, rngs=nnx.Rngs(0)))
    logits = log_softmax(np.asarray(network(jnp.asarray(x)), float), -1)
    known = np.flatnonzero(y >= 0)
    for num_items, weight in ((None, 1.0), (12, 2.0)):
        model = partial(classification, classifier=network, num_items=num_items)
        found = log_density(seed(model, KEY), (), {"x": jnp.asarray(x), "y": jnp.asarray(y)}, {})[0]
        np.testing.assert_allclose(found, weight * logits[known, y[known]].sum(), rtol=1e-5)


def test_no_gradient_reaches_a_frozen_network_and_its_module_goes_on():
    network = Frozen.of(MLP(4, (5,), 3, rngs=nnx.Rngs(0)))
    x = jnp.ones((2, 4))
    gradient = jax.grad(lambda frozen: frozen(x).sum())(network)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradient))
    of_input = jax.grad(lambda x: network(x).sum())(x)
    assert np.any(of_input)
    of_module = nnx.grad(lambda module: module(x).sum())(network.module)
    assert any(np.any(leaf) for leaf in jax.tree.leaves(of_module))


@pytest.mark.slow
def test_statistics_of_batches_are_kept():
    """BatchNorm of a network that is taken out of a fit normalises as the fit does at prediction."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(2.0, 3.0, (24, 8, 8, 3)).astype(np.float32), rng.integers(0, 3, 24)
    network = partial(ConvNet, 3, (4,), 3)
    model = partial(classification, classifier=network)
    result = fit(KEY, model, no_guide, {"x": x, "y": y}, optax.adam(0.01), epochs=5, batch_size=12, progress=False)
    frozen = trained_network(result, "classifier", network)
    np.testing.assert_allclose(frozen(jnp.asarray(x)), result.outputs(x)["ai_logits"][0], atol=1e-5)
    fresh = Frozen.of(network(rngs=nnx.Rngs(0)))
    assert np.abs(fresh(jnp.asarray(x)) - frozen(jnp.asarray(x))).max() > 0.01


def test_a_network_that_was_not_trained_is_not_found():
    x, y = blobs(20)
    model = partial(classification, classifier=partial(MLP, 2, (), 3))
    result = fit(KEY, model, no_guide, {"x": x, "y": y}, optax.adam(0.01), epochs=1, batch_size=20, progress=False)
    with pytest.raises(ValueError, match=r"trained network 'gating' in the fit, found \['classifier'\]"):
        trained_network(result, "gating", partial(MLP, 2, (), 3))
    keys = jax.random.split(KEY, 2)
    runs = fit(keys, model, no_guide, {"x": x, "y": y}, optax.adam(0.01), epochs=1, batch_size=20, progress=False)
    with pytest.raises(ValueError, match=r"single run, found a batch of runs"):
        trained_network(runs, "classifier", partial(MLP, 2, (), 3))
