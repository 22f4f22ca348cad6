"""Weights by handlers.scale: the largest ELBO, in which the weight of a latent also weighs its entropy."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from engine.running import bound, double, probs, traced
from numpyro.handlers import scale
from oracles.brute_force import BruteForce
from programs import ENUMERATE
from scipy import stats
from scipy.special import logsumexp, softmax

from pl2d_ppl import fit
from pl2d_ppl.engine.marginals import log_evidence, marginals
from pl2d_ppl.guides.exact import exact
from pl2d_ppl.guides.mean_field import mean_field

X = np.array([0.1, 2.0, 1.4, 3.3])
PRIOR = np.array([0.6, 0.4])
LIKELIHOOD = stats.norm.logpdf(X[:, None], [0.0, 3.0])
ITEMS = np.array([1.0, 3.0, 1.0, 0.7])
GUIDES = (exact, mean_field)


def mixture(x, weight=1.0, of_latent=1.0, of_data=1.0):
    """Two components; weights of everything, of the latent, of the data."""
    with numpyro.plate("item", len(x)), scale(scale=weight):
        with scale(scale=of_latent):
            s = numpyro.sample("s", dist.Categorical(double(PRIOR)), infer=dict(ENUMERATE))
        with scale(scale=of_data):
            numpyro.sample("x", dist.Normal(3.0 * s, 1.0), obs=x)


def expected(latent, data):
    """c ln sum exp((c ln p(s) + d ln p(x | s)) / c), and its distribution."""
    latent, data = np.broadcast_to(latent, 4)[:, None], np.broadcast_to(data, 4)[:, None]
    logits = np.log(PRIOR) + data * LIKELIHOOD / latent
    return (latent[:, 0] * logsumexp(logits, 1)).sum(), softmax(logits, 1)


@pytest.mark.parametrize("guide", GUIDES)
@pytest.mark.parametrize(
    ("weights", "latent", "data"),
    [
        ({"weight": 0.25}, 0.25, 0.25),
        ({"weight": ITEMS}, ITEMS, ITEMS),
        ({"of_latent": 0.3}, 0.3, 1.0),
        ({"of_data": 2.5}, 1.0, 2.5),
        ({"weight": ITEMS, "of_latent": 0.5}, ITEMS / 2, ITEMS),
    ],
    ids=["model", "items", "latent", "data", "items and latent"],
)
def test_closed_form(float64, guide, weights, latent, data):
    """Numbers as Python's, by an array, and by both."""
    value, q = expected(latent, data)
    program = partial(mixture, **{name: double(w) if name == "weight" else w for name, w in weights.items()})
    np.testing.assert_allclose(log_evidence(program)(X), value, rtol=1e-9)
    np.testing.assert_allclose(marginals(program)(X)["s"], q, rtol=1e-8)
    np.testing.assert_allclose(bound(program, guide(program), X), value, rtol=1e-9)
    np.testing.assert_allclose(probs(traced(guide(program), X), "s"), q, rtol=1e-8)


@pytest.mark.parametrize("guide", GUIDES)
def test_traced_weights_and_their_gradient(float64, guide):
    def of(weight):
        return bound(mixture, guide(mixture), X, of_data=weight)

    value, _ = expected(1.0, 0.7)
    np.testing.assert_allclose(of(jnp.array(0.7)), value, rtol=1e-9)
    slope = (expected(1.0, 0.7 + 1e-5)[0] - expected(1.0, 0.7 - 1e-5)[0]) / 2e-5
    np.testing.assert_allclose(jax.grad(of)(0.7), slope, rtol=1e-7)


def test_a_weight_of_zero_takes_an_item_out(float64):
    """NumPyro refuses a weight of zero that is no traced value."""
    weight = jnp.array([1.0, 0.0, 1.0, 1.0])
    alone = logsumexp(np.log(PRIOR) + LIKELIHOOD, 1)
    evidence = jax.jit(lambda weight: log_evidence(mixture)(X, weight=weight))(weight)
    np.testing.assert_allclose(evidence, alone[[0, 2, 3]].sum(), rtol=1e-9)
    for guide in GUIDES:
        np.testing.assert_allclose(bound(mixture, guide(mixture), X, weight=weight), alone[[0, 2, 3]].sum(), rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("guide", GUIDES)
def test_annealing_by_an_argument_of_fit(guide):
    """One compilation serves all weights; the loss is the closed form at each."""
    for weight in (0.1, 1.0):
        result = fit(
            jax.random.key(0),
            mixture,
            guide(mixture),
            {"x": X.astype(np.float32)},
            optax.sgd(0.1),
            epochs=1,
            batch_size=4,
            arguments={"of_data": jnp.float32(weight)},
            progress=False,
        )
        np.testing.assert_allclose(-4 * result.history["loss"][0], expected(1.0, weight)[0], rtol=1e-5)


def test_a_weight_of_a_parent_of_another_weight(float64):
    """Sums nest in the order of the program: the child first."""
    table, outer, inner = np.array([[0.2, 0.8], [0.7, 0.3]]), 2.0, 0.5

    def program():
        with scale(scale=outer):
            a = numpyro.sample("a", dist.Categorical(double(PRIOR)), infer=dict(ENUMERATE))
        with scale(scale=inner):
            b = numpyro.sample("b", dist.Categorical(double(table)[a]), infer=dict(ENUMERATE))
        numpyro.sample("o", dist.Normal(a + 2.0 * b, 1.0), obs=1.0)

    seen = stats.norm.logpdf(1.0, np.arange(2)[:, None] + 2 * np.arange(2))
    of_b = inner * logsumexp(np.log(table) + seen / inner, 1)
    value = outer * logsumexp(np.log(PRIOR) + of_b / outer)
    np.testing.assert_allclose(log_evidence(program)(), value, rtol=1e-9)
    np.testing.assert_allclose(bound(program, exact(program)), value, rtol=1e-9)


@pytest.mark.parametrize("size", [1, 2])
def test_a_plate_of_one_element_lies_as_deep_as_a_longer_one(float64, size):
    """Weights differ, so that the order of the guide matters: sites outside the plate come first."""

    def model():
        with numpyro.plate("item", size), scale(scale=4.0):
            s = numpyro.sample("s", dist.Categorical(double(PRIOR)))
        with scale(scale=0.5):
            shared = numpyro.sample("shared", dist.Categorical(double(PRIOR[::-1])))
        with numpyro.plate("item", size):
            numpyro.sample("x", dist.Normal(3.0 * s - shared, 1.0), obs=X[:size])

    oracle = BruteForce(model)
    np.testing.assert_allclose(log_evidence(model)(), oracle.evidence, rtol=1e-9)
    np.testing.assert_allclose(bound(model, exact(model)), oracle.evidence, rtol=1e-9)
    for name, expected in marginals(model)().items():
        np.testing.assert_allclose(expected, oracle.marginal(name), rtol=1e-9)
