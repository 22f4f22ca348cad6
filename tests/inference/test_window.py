"""Bounds that are met over a window of items."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from cases.fits import KEY, quiet
from oracles.projection import project_reference
from programs import ENUMERATE
from scipy.special import log_softmax

from pl2d_ppl import workload


def given_posterior(x):
    """A model whose site z is uniform."""
    with numpyro.plate("item", len(x), dim=-2):
        numpyro.sample("z", dist.Categorical(logits=jnp.zeros((len(x), 1, 3))), infer=dict(ENUMERATE))
    numpyro.param("unused", jnp.zeros(()))


def given_guide(x):
    """A guide whose ln q(z) is x."""
    with numpyro.plate("item", len(x), dim=-2):
        numpyro.sample("z", dist.Categorical(logits=x[:, None]), infer=dict(ENUMERATE))


def windowed(log_q, lower, upper, window, epochs=4):
    guide = workload(given_guide, "z", lower, upper, window=window, tolerance=1e-6)
    return quiet(KEY, given_posterior, guide, {"x": log_q}, optax.sgd(0.0), epochs=epochs, batch_size=12)


@pytest.mark.slow
def test_a_window_meets_the_bounds_of_all_data_rather_than_of_every_batch():
    """A fixed posterior, so that a projection of all of it, by the oracle, is what a small batch should come near."""
    rng = np.random.default_rng(0)
    log_q = log_softmax(2 * rng.standard_normal((240, 3)) + [0.0, 0.0, 0.3], -1).astype(np.float32)
    mean = np.exp(log_q).mean(0)
    upper = np.array([1.0, 1.0, mean[2] + 0.01])  # holds for all data, yet half of the batches are beyond it
    by_batch, by_window = (windowed(log_q, np.zeros(3), upper, w) for w in (None, 240))
    reached = [r.history["z_mean"][1:].mean(0) for r in (by_batch, by_window)]
    errors = [np.abs(m - mean).max() for m in reached]
    assert errors[1] < 0.01 < errors[0]

    lower = np.array([0.5, 0.0, 0.0])
    q_tilde, _ = project_reference(np.exp(log_q.astype(float)), lower, np.ones(3))
    by_batch, by_window = (windowed(log_q, lower, np.ones(3), w) for w in (None, 240))
    expected = np.log(np.exp(log_q[0]) / q_tilde[0])
    nu = [r.history["z_multipliers"][-1] for r in (by_batch, by_window)]
    gaps = [np.abs((n - n[2]) - (expected - expected[2])).max() for n in nu]
    assert gaps[1] < 0.05
    assert gaps[1] < gaps[0]
    np.testing.assert_allclose(by_window.history["z_mean"][1:].mean(0)[0], 0.5, atol=0.01)


def test_the_window_holds_the_last_items_across_batches_and_epochs():
    log_q = log_softmax(np.random.default_rng(1).standard_normal((30, 3)), -1).astype(np.float32)
    result = windowed(log_q, np.zeros(3), np.ones(3), 30, epochs=2)
    state = result.params["z_window"]
    np.testing.assert_array_equal(state["filled"], 1.0)
    # Two epochs of two steps of twelve: the newest batch comes first.
    orders = [np.asarray(jax.random.permutation(jax.random.fold_in(KEY, e), 30))[:24].reshape(2, 12) for e in range(2)]
    rows = np.concatenate([orders[1][1], orders[1][0], orders[0][1]])[:30]
    np.testing.assert_allclose(state["log_q"], log_q[rows], atol=1e-5)
