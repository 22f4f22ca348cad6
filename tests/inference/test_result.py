"""What a fit gives: predictions against a forward pass in NumPy, and offsets that keep to bounds."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpyro.contrib.module import nnx_module
from numpyro.handlers import mask
from scipy.special import softmax

from pl2d_ppl import MLP, argmax_offsets, fit, instantiate

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


def test_predictions_of_a_batch_are_those_of_its_runs(batched):
    prediction = batched.predict(X)
    assert [a.shape for a in prediction] == [(3, 40, 3), (3, 40, 5), (3, 40)]
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


def test_offsets_shift_the_decision(single, batched):
    gate = single.predict(X).gate
    shift = np.array([0.3, -0.2, 0.0])
    expected = (np.log(gate) + shift).argmax(-1)
    np.testing.assert_array_equal(single.predict(X, offsets=shift).decision, expected)
    shifts = np.array([[0.3, -0.2, 0.0], [0, 0, 9.0], [9.0, 0, 0]])
    decision = batched.predict(X, offsets=shifts).decision
    gates = batched.predict(X).gate
    np.testing.assert_array_equal(decision, (np.log(gates) + shifts[:, None]).argmax(-1))
    assert np.all(decision[1] == 2)


def test_offsets_of_a_fit_bring_its_shares_within_bounds(single, batched):
    lower, upper = [0.2, 0.0, 0.45], [0.4, 1.0, 0.5]
    offsets = single.offsets(X, lower, upper)
    assert offsets.shape == (3,)
    np.testing.assert_array_equal(offsets, argmax_offsets(single.predict(X).gate, lower, upper))
    check_shares(single.predict(X, offsets=offsets).decision, lower, upper)
    lowers, uppers = [lower, [0.0, 0.5, 0.0], [0.0] * 3], [upper, [1.0] * 3, [0.3, 1.0, 0.3]]
    offsets = batched.offsets(X, lowers, uppers)
    assert offsets.shape == (3, 3)
    decision = batched.predict(X, offsets=offsets).decision
    for r in range(3):
        check_shares(decision[r], lowers[r], uppers[r])
        np.testing.assert_allclose(offsets[r], batched.run(r).offsets(X, lowers[r], uppers[r]), atol=1e-3)
    shared = batched.offsets(X, lower, upper)
    for r in range(3):
        check_shares(batched.predict(X, offsets=shared).decision[r], lower, upper)


def check_shares(decision, lower, upper, items=1.5):
    """Shares within bounds, but for a few items: shares of N items are multiples of 1/N."""
    share = np.bincount(decision, minlength=len(lower)) / len(decision)
    slack = items / len(decision)
    assert np.all(share >= np.asarray(lower) - slack), (share, lower)
    assert np.all(share <= np.asarray(upper) + slack), (share, upper)


NUM_ITEMS = 400


@st.composite
def gates(draw):
    """Random gates of three people, from timid to sure, and feasible bounds."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scale = draw(st.sampled_from([0.3, 1.0, 3.0, 8.0]))
    logits = scale * rng.standard_normal((NUM_ITEMS, 3)) + rng.standard_normal(3)
    target = rng.dirichlet(np.ones(3))
    loose = rng.random((2, 3)) * draw(st.sampled_from([0.0, 0.1, 0.6]))
    return softmax(logits, -1).astype(np.float32), np.maximum(target - loose[0], 0), np.minimum(target + loose[1], 1)


@settings(max_examples=60, deadline=None)
@given(gates())
def test_argmax_shares_meet_bounds_on_random_gates(problem):
    """Smoothing at a temperature of 0.02 costs a few items in four hundred."""
    gate, lower, upper = problem
    offsets = argmax_offsets(gate, lower, upper)
    check_shares((np.log(gate) + offsets).argmax(-1), lower, upper, items=6)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.02, 0.98))
def test_offsets_of_two_people_choose_the_items_of_highest_odds(seed, share):
    """Brute force: the AI decides the items with the highest odds, as many as its share says."""
    logit = np.random.default_rng(seed).standard_normal(NUM_ITEMS)
    gate = np.stack([1 / (1 + np.exp(logit)), 1 / (1 + np.exp(-logit))], -1)
    offsets = argmax_offsets(gate.astype(np.float32), [0, share], [1, share])
    decision = (np.log(gate) + offsets).argmax(-1)
    count = int(decision.sum())
    assert abs(count - share * NUM_ITEMS) <= 5
    assert set(np.flatnonzero(decision)) == set(np.argsort(-logit)[:count])


@pytest.mark.parametrize(("lower", "upper"), [([0, 0, 1], [1, 1, 1]), ([0, 0, 0], [1, 1, 0]), ([0, 1, 0], [0, 1, 0])])
def test_offsets_meet_hard_bounds_exactly(lower, upper):
    gate = np.random.default_rng(0).dirichlet(np.ones(3), NUM_ITEMS).astype(np.float32)
    check_shares((np.log(gate) + argmax_offsets(gate, lower, upper)).argmax(-1), lower, upper, items=0)


def test_offsets_that_are_not_needed_are_zero():
    gate = np.random.default_rng(0).dirichlet(np.ones(3), NUM_ITEMS)
    np.testing.assert_allclose(argmax_offsets(gate, np.zeros(3), np.ones(3)), 0.0, atol=1e-6)


def test_offsets_of_a_gate_that_is_all_but_sure():
    """Probabilities that underflow, and exact zeros, still give decisions that meet the bounds."""
    rng = np.random.default_rng(0)
    gate = softmax(40 * rng.standard_normal((NUM_ITEMS, 3)), -1).astype(np.float32)
    assert (gate == 0).any()
    offsets = argmax_offsets(gate, [0, 0, 0.5], [1, 1, 0.6])
    assert np.isfinite(offsets).all()
    with np.errstate(divide="ignore"):
        check_shares((np.log(gate) + offsets).argmax(-1), [0, 0, 0.5], [1, 1, 0.6], items=6)


@pytest.mark.parametrize(
    ("lower", "upper", "message"),
    [
        ([0, 0], [1, 1], "Expected 3 bounds.*found 2"),
        ([0, 0.6, 0], [1, 0.5, 1], "lower <= upper"),
        ([0.6, 0.6, 0], [1, 1, 1], "at most 1"),
        ([0, 0, 0], [0.1, 0.2, 0.3], "at least 1"),
    ],
)
def test_bad_bounds_are_refused(single, lower, upper, message):
    with pytest.raises(ValueError, match=message):
        single.offsets(X, lower, upper)


@pytest.mark.parametrize(
    "x",
    [X[:, :1], X.reshape(40, 4), X[0], X[:0], np.where(np.arange(40)[:, None, None] == 3, np.nan, X)],
    ids=["narrow", "flat", "one item", "none", "NaN"],
)
def test_wrong_inputs_are_refused(single, x):
    with pytest.raises(ValueError, match=r"Expected x of shape \(N, 2, 2\)|Expected finite values in x"):
        single.predict(x)


def test_offsets_of_another_length_are_refused_with_a_word(single, batched):
    with pytest.raises(ValueError, match="Expected offsets"):
        single.predict(X, offsets=[0.0, 1.0])
    with pytest.raises(ValueError, match="Expected offsets"):
        batched.predict(X, offsets=np.zeros((2, 3)))


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


def test_params_serve_the_model_of_the_fit(single):
    assert single.model is MODEL
    single.guide(**DATA)  # callable as it was
    assert set(single.params) == {"gating$params", "classifier$params"}
