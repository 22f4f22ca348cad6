"""What a fit gives: predictions against a forward pass in NumPy, and offsets that keep to bounds."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from numpyro.contrib.module import nnx_module
from numpyro.handlers import mask
from scipy.special import softmax

from pl2d_ppl import MLP, Deferral, fit
from pl2d_ppl.networks import instantiate

KEY = jax.random.key(0)
NETWORKS = {"gating": partial(MLP, 4, (8,), 3), "classifier": partial(MLP, 4, (), 5)}


def program(x, y=None, who=None, *, gating, classifier):
    gate_logits = numpyro.deterministic("gate_logits", nnx_module("gating", instantiate(gating))(x))
    ai_logits = numpyro.deterministic("ai_logits", nnx_module("classifier", instantiate(classifier))(x))
    numpyro.deterministic("temperature", jnp.ones(()))  # not an item's
    if y is None:
        return
    with numpyro.plate("item", len(x)):
        with mask(mask=y >= 0):
            numpyro.sample("y", dist.Categorical(logits=ai_logits), obs=jnp.maximum(y, 0))
        numpyro.sample("who", dist.Categorical(logits=gate_logits), obs=who)


def nothing(*args, **kwargs):
    """A guide of no sites."""


MODEL = partial(program, **NETWORKS)
RNG = np.random.default_rng(0)
X = RNG.standard_normal((40, 2, 2)).astype(np.float32)  # inputs of two axes
DATA = {"x": X, "y": RNG.integers(-1, 5, 40), "who": RNG.integers(0, 3, 40)}
train = partial(fit, model=MODEL, guide=nothing, data=DATA, optimizer=optax.sgd(0.3), batch_size=10, progress=False)


@pytest.fixture(scope="module")
def single():
    return train(KEY, epochs=3)


@pytest.fixture(scope="module")
def batched():
    return train(jax.random.split(KEY, 3), epochs=3)


def forward(params, name, x):
    """The networks, in double precision."""
    weights = params[f"{name}$params"]
    h = np.asarray(x, float).reshape(len(x), -1)
    for index in sorted(weights.get("hidden", {})):
        layer = weights["hidden"][index]
        h = np.maximum(h @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"]), 0)
    return softmax(h @ np.asarray(weights["readout"]["kernel"]) + np.asarray(weights["readout"]["bias"]), -1)


@pytest.mark.parametrize("num_items", [1, 7, 40])
def test_predictions_are_those_of_the_networks(single, num_items):
    prediction = single.predict(X[:num_items])
    assert prediction.gate.shape == (num_items, 3)
    assert prediction.ai.shape == (num_items, 5)
    assert prediction.decision.shape == (num_items,)
    np.testing.assert_allclose(prediction.gate, forward(single.params, "gating", X[:num_items]), rtol=1e-4)
    np.testing.assert_allclose(prediction.ai, forward(single.params, "classifier", X[:num_items]), rtol=1e-4)
    np.testing.assert_array_equal(prediction.decision, prediction.gate.argmax(-1))


@pytest.mark.slow
def test_predictions_of_a_batch_are_those_of_its_runs(batched):
    prediction = batched.predict(X)
    assert [a.shape for a in (*prediction, prediction.decision)] == [(3, 40, 3), (3, 40, 5), (3, 40)]
    for r in range(3):
        run = batched.run(r)
        assert run.history["loss"].shape == (3,)
        single = run.predict(X)
        for ours, alone in zip(prediction, single, strict=True):
            np.testing.assert_allclose(ours[r], alone, rtol=1e-5)
        np.testing.assert_allclose(prediction.ai[r], forward(run.params, "classifier", X), rtol=1e-4)
    assert not np.allclose(prediction.ai[0], prediction.ai[1])


@pytest.mark.parametrize("size", [1, 9, 39, 40])
def test_predictions_in_chunks_equal_those_in_one(single, batched, size):
    if size == 1:
        whole, chunked = (single.predict(X[:3], batch_size=b) for b in (40, 1))
        for a, b in zip(whole, chunked, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5)
        return
    for result in (single, batched) if size == 9 else (single,):
        whole, chunked = (result.predict(X, batch_size=b) for b in (4096, size))
        for a, b in zip(whole, chunked, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5)


def test_outputs_are_the_sites_of_items(single, batched):
    outputs = single.outputs(X)
    assert {n: a.shape for n, a in outputs.items()} == {"gate_logits": (1, 40, 3), "ai_logits": (1, 40, 5)}
    assert batched.outputs(X)["ai_logits"].shape == (3, 1, 40, 5)


def test_a_prediction_leads_to_a_deferral(single, batched):
    lower, upper = [0.2, 0.0, 0.45], [0.4, 1.0, 0.5]
    for prediction in (single.predict(X), batched.run(1).predict(X)):
        day = Deferral.of(*prediction)
        np.testing.assert_array_equal(day.decision, prediction.decision)
        assert day.people == ("person_0", "person_1")
        assert repr(day).startswith("Deferral(items=40, people=2: person_0 ")
        shares = day.bounded(lower, upper).shares
        assert np.all((shares >= np.array(lower) - 1 / 40) & (shares <= np.array(upper) + 1 / 40))


@pytest.mark.parametrize(
    "x",
    [X[:, :1], X.reshape(40, 4), X[0], X[:0], np.where(np.arange(40)[:, None, None] == 3, np.nan, X)],
    ids=["narrow", "flat", "one item", "none", "NaN"],
)
def test_wrong_inputs_are_refused(single, x):
    with pytest.raises(ValueError, match=r"Expected x of shape \(N, 2, 2\)|Expected finite values in x"):
        single.predict(x)


@pytest.mark.parametrize("options", [{"num_samples": 0}, {"batch_size": 0}])
def test_predictions_of_no_samples_or_batches_are_refused(single, options):
    with pytest.raises(ValueError, match=next(iter(options))):
        single.predict(X, **options)


def test_a_run_of_no_batch_is_refused(single, batched):
    with pytest.raises(ValueError, match="single run"):
        single.run(0)
    with pytest.raises((ValueError, IndexError), match="3"):
        batched.run(3)


def test_a_program_without_the_sites_says_so():
    def bare(x, y=None):
        logits = nnx_module("classifier", instantiate(NETWORKS["classifier"]))(x)
        with numpyro.plate("item", len(x)):
            numpyro.sample("y", dist.Categorical(logits=logits), obs=y)

    def guide(x, y=None):
        pass

    data = {"x": X, "y": np.maximum(DATA["y"], 0)}
    result = fit(KEY, bare, guide, data, optax.sgd(0.1), epochs=1, batch_size=10, progress=False)
    with pytest.raises(ValueError, match="gate_logits"):
        result.predict(X)


def test_a_fit_shows_how_it_went_in_a_line(single, batched):
    assert repr(single).startswith(f"FitResult(status='completed', epoch={single.epoch}, loss=")
    assert f"runs={batched.best_loss.shape}" in repr(batched)
    assert all("\n" not in repr(fitted) for fitted in (single, batched))


def test_params_serve_the_model_of_the_fit(single):
    assert single.model is MODEL
    single.guide(**DATA)  # callable as it was
    assert set(single.params) == {"gating$params", "classifier$params"}
