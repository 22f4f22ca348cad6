"""Supports that do not begin at 0: guides, tilt, workload and draws speak of values, arrays are in their order."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
from engine.running import bound, double, draws, frequencies, probs, traced
from oracles.projection import project_reference
from programs import ENUMERATE
from scipy import stats

from pl2d_ppl import fit, to_datatree
from pl2d_ppl.engine.marginals import log_evidence, marginals
from pl2d_ppl.engine.tilt import tilt
from pl2d_ppl.engine.workload import workload
from pl2d_ppl.guides.exact import exact
from pl2d_ppl.guides.mean_field import mean_field

VALUES = np.arange(1, 6)
SEEN = np.array([0, 2, 7])


def counted(seen):
    """A count, of which the rate is 1 to 5."""
    with numpyro.plate("item", len(seen)):
        k = numpyro.sample("k", dist.DiscreteUniform(1, 5), infer=dict(ENUMERATE))
        numpyro.sample("seen", dist.Poisson(1.0 * k), obs=seen)


def posterior():
    joint = stats.poisson.pmf(SEEN[:, None], VALUES) / 5
    return np.log(joint.sum(1)).sum(), joint / joint.sum(1, keepdims=True)


def change_point(y):
    """A rate of 1, from a time in 1 .. 4 on of 3; a second latent counts from 2 and depends on the first."""
    t = numpyro.sample("t", dist.DiscreteUniform(1, 4), infer=dict(ENUMERATE))
    j = numpyro.sample("j", dist.DiscreteUniform(2, 3), infer=dict(ENUMERATE))
    with numpyro.plate("time", 4) as time:
        numpyro.sample("y", dist.Poisson(jnp.where(time < t, 1.0, 1.0 * j)), obs=y)


def joint_of_change_point(y):
    table = np.array(
        [
            stats.poisson.pmf(y, np.where(np.arange(4) < t, 1.0, j)).prod() / 8
            for t, j in itertools.product(range(1, 5), (2, 3))
        ]
    )
    return np.log(table.sum()), table.reshape(4, 2) / table.sum()


def test_evidence_marginals_and_bounds(float64):
    evidence, expected = posterior()
    np.testing.assert_allclose(log_evidence(counted)(SEEN), evidence, rtol=1e-9)
    np.testing.assert_allclose(marginals(counted)(SEEN)["k"], expected, rtol=1e-9)
    for guide in (exact(counted), mean_field(counted)):
        np.testing.assert_allclose(bound(counted, guide, SEEN), evidence, rtol=1e-9)
        np.testing.assert_allclose(probs(traced(guide, SEEN), "k"), expected, rtol=1e-9)


def test_a_tilt_is_by_value(float64):
    weight = double([0.0, 1.0, -2.0, 0.5, 3.0])
    _, expected = posterior()
    gain = np.log(expected @ np.exp(weight)).sum()
    np.testing.assert_allclose(log_evidence(tilt(counted, "k", weight))(SEEN), posterior()[0] + gain, rtol=1e-9)


def test_a_workload_bounds_values(float64):
    lower, upper = np.array([0.0, 0.1, 0.0, 0.0, 0.0]), np.array([1.0, 1.0, 0.05, 1.0, 0.1])
    tr = traced(workload(exact(counted), "k", lower, upper, tolerance=1e-9), SEEN)
    expected = project_reference(posterior()[1], lower, upper)[0]
    np.testing.assert_allclose(probs(tr, "k"), expected, atol=1e-5)
    assert set(np.unique(tr["k"]["value"])) <= set(VALUES)


def test_draws_are_values_of_the_joint_posterior(float64):
    y = np.array([0, 2, 4, 3])
    evidence, joint = joint_of_change_point(y)
    np.testing.assert_allclose(bound(change_point, exact(change_point), y), evidence, rtol=1e-9)
    found = draws(exact(change_point), 20_000, y)
    pairs = np.asarray(found["t"]) * 10 + np.asarray(found["j"])
    np.testing.assert_allclose(
        frequencies(pairs, [11 + 10 * t + j for t in range(4) for j in (1, 2)]), joint.ravel(), atol=0.015
    )


def test_a_data_tree_holds_values():
    result = fit(
        jax.random.key(0),
        counted,
        exact(counted),
        {"seen": SEEN},
        optax.sgd(0.1),
        epochs=1,
        batch_size=3,
        progress=False,
    )
    tree = to_datatree(jax.random.key(1), result, {"seen": SEEN}, num_samples=4000)
    np.testing.assert_allclose(frequencies(tree["posterior"]["k"].values[0], VALUES), posterior()[1], atol=0.04)
    np.testing.assert_allclose(tree["marginals"]["k_probs"].values, posterior()[1], atol=1e-5)
