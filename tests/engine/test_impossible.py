"""Data that are impossible, and values that are: minus infinity, or the remaining values."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from engine.running import bound, double, probs, traced
from oracles.projection import project_reference
from programs import ENUMERATE
from scipy import stats
from scipy.special import xlogy

from pl2d_ppl import fit
from pl2d_ppl.engine.marginals import log_evidence, marginals
from pl2d_ppl.engine.workload import workload
from pl2d_ppl.guides.exact import exact
from pl2d_ppl.guides.mean_field import mean_field
from pl2d_ppl.inference.fit import NonFiniteLossError

PRIOR = np.array([0.5, 0.0, 0.5])
X = np.array([0.1, 2.0, 1.4, 3.3])
LIKELIHOOD = stats.norm.pdf(X[:, None], [0.0, 3.0, 5.0])


def contradictory(obs):
    """An item of the third category cannot be."""
    with numpyro.plate("item", len(obs)):
        s = numpyro.sample("s", dist.Categorical(probs=double([0.5, 0.5, 0.0])), infer=dict(ENUMERATE))
        numpyro.sample("o", dist.Categorical(probs=jnp.eye(3)[s]), obs=obs)


def absent(x):
    """The second value does not occur, though the data are closest to it."""
    with numpyro.plate("item", 4):
        s = numpyro.sample("s", dist.Categorical(probs=double(PRIOR)), infer=dict(ENUMERATE))
        numpyro.sample("x", dist.Normal(double([0.0, 3.0, 5.0])[s], 1.0), obs=x)


def test_impossible_data(float64):
    obs = np.array([0, 2])
    assert log_evidence(contradictory)(obs) == -np.inf
    found = marginals(contradictory)(obs)["s"]
    assert np.isnan(found[1]).all()  # a distribution would be made up
    np.testing.assert_allclose(log_evidence(contradictory)(obs[:1]), np.log(0.5), rtol=1e-9)
    np.testing.assert_allclose(marginals(contradictory)(obs[:1])["s"], [[1.0, 0.0, 0.0]], atol=1e-12)


def test_a_possible_item_beside_an_impossible_one(float64):
    found = marginals(contradictory)(np.array([0, 2]))["s"]
    np.testing.assert_allclose(found[0], [1.0, 0.0, 0.0], atol=1e-12)


@pytest.mark.parametrize("guide", [exact, mean_field])
def test_a_fit_to_impossible_data_ends_with_an_error(guide):
    data = {"obs": np.array([0, 2], np.int32)}
    with pytest.raises(NonFiniteLossError, match=r"at site .*s"):
        fit(
            jax.random.key(0),
            contradictory,
            guide(contradictory),
            data,
            optax.sgd(0.1),
            epochs=1,
            batch_size=2,
            progress=False,
        )


@pytest.mark.parametrize("guide", [exact, mean_field])
def test_a_value_that_does_not_occur(float64, guide):
    joint = PRIOR * LIKELIHOOD
    np.testing.assert_allclose(bound(absent, guide(absent), X), np.log(joint.sum(1)).sum(), rtol=1e-9)
    found = probs(traced(guide(absent), X), "s")
    np.testing.assert_allclose(found, joint / joint.sum(1, keepdims=True), atol=1e-12)


@pytest.mark.parametrize("guide", [exact, mean_field])
def test_a_workload_on_the_values_that_occur(float64, guide):
    """As if there were two values only."""
    joint = (PRIOR * LIKELIHOOD)[:, [0, 2]]
    q = project_reference(joint / joint.sum(1, keepdims=True), np.array([0.0, 0.5]), np.array([1.0, 0.5]))[0]
    bounded = workload(guide(absent), "s", [0, 0, 0.5], [1, 1, 0.5], tolerance=1e-9)
    found = np.asarray(probs(traced(bounded, X), "s"))
    np.testing.assert_allclose(found[:, [0, 2]], q, atol=1e-5)
    assert np.all(found[:, 1] == 0)
    value = (q * np.log(joint)).sum() - xlogy(q, q).sum()
    np.testing.assert_allclose(bound(absent, bounded, X), value, rtol=1e-6)


def test_the_gradient_passes_a_structural_zero(float64):
    """Of a prior that is zero for one value."""

    def value(means):
        def program(x):
            with numpyro.plate("item", 4):
                s = numpyro.sample("s", dist.Categorical(probs=double(PRIOR)), infer=dict(ENUMERATE))
                numpyro.sample("x", dist.Normal(means[s], 1.0), obs=x)

        return bound(program, exact(program), X)

    means = double([0.0, 3.0, 5.0])
    q = PRIOR * LIKELIHOOD / (PRIOR * LIKELIHOOD).sum(1, keepdims=True)
    expected = (q * (X[:, None] - means)).sum(0)
    np.testing.assert_allclose(jax.grad(value)(means), expected, rtol=1e-9, atol=1e-12)
