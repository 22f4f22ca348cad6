"""The spread of people: fits against NUTS and quadrature."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases.pooled_l2d import KEY, Values, guide_of
from flax import nnx
from numpyro.handlers import condition
from numpyro.infer import MCMC, NUTS
from scipy.special import expit, softmax
from scipy.stats import norm

from pl2d_ppl import fit
from pl2d_ppl.models.pooled_l2d import pooled_l2d
from pl2d_ppl.networks import Frozen
from pl2d_ppl.people.pooled import PooledPeople


class Columns(nnx.Module):
    """Some columns of the inputs."""

    def __init__(self, start, stop):
        self.start, self.stop = start, stop

    def __call__(self, x):
        return x[:, self.start : self.stop]


SMALL_AI, PHI = Frozen.of(Columns(0, 2)), Frozen.of(Columns(2, 3))
FIXED = {"slope_scale": jnp.array(0.5), "ai_slope_scale": jnp.array(0.5)}


def fixed(spread, **data):
    """The program with given scales, of two people in one cluster, and a feature."""
    networks = {"classifier": SMALL_AI, "features": PHI, "membership": jnp.ones((1, 2))}
    condition(partial(pooled_l2d, **networks), {**FIXED, "spread": spread})(**data)


@cache
def small():
    """Forty items; somebody good, and somebody bad."""
    rng = np.random.default_rng(0)
    phi, y = rng.standard_normal((40, 1)), rng.integers(0, 2, 40)
    is_right = rng.random((40, 2)) < expit(np.array([2.0, -0.5]) + phi * [1.0, -0.5])
    ai = np.eye(2)[y] + rng.standard_normal((40, 2))
    annotations = np.where(is_right, y[:, None], 1 - y[:, None])
    return {"x": np.append(ai, phi, 1).astype(np.float32), "annotations": annotations, "y": y}


@cache
def sampler():
    return MCMC(NUTS(fixed), num_warmup=200, num_samples=400, progress_bar=False, jit_model_args=True)


def by_nuts(spread):
    """Posterior means of everybody's P(right), (N, M+1), by NumPyro alone."""
    data = {name: jnp.asarray(a) for name, a in small().items()}
    sampler().run(KEY, jnp.asarray(spread), **data)
    samples = {name: np.asarray(a, float) for name, a in sampler().get_samples().items()}
    samples |= {name: np.full(400, value) for name, value in FIXED.items()} | {"spread": np.tile(spread, (400, 1))}
    x = np.float64(small()["x"])
    draws = [Values.of({n: a[s] for n, a in samples.items()}, np.ones((1, 2))) for s in range(400)]
    return np.mean([values.p_right(softmax(x[:, :2], 1), x[:, 2:]) for values in draws], 0)


FIXED_GUIDE = guide_of(fixed)
FIXED_OPTIMIZER = optax.adam(optax.cosine_decay_schedule(0.05, 800))


def by_svi(spread):
    given = {"spread": np.float32(spread), "membership": np.ones((1, 2))}
    options = {"epochs": 800, "batch_size": 40, "arguments": given, "progress": False}
    result = fit(KEY, fixed, FIXED_GUIDE, small(), FIXED_OPTIMIZER, **options)
    return PooledPeople.of(jax.random.key(1), result, num_samples=200)


def alone(phi, is_right, center, sd):
    """Posterior mean of P(right) on every item of a person by themselves, by quadrature over both log-odds."""
    a, b = np.meshgrid(np.linspace(-12, 12, 161), np.linspace(-12, 12, 161), indexing="ij")
    log_p = norm(center[0], sd[0]).logpdf(a) + norm(center[1], sd[1]).logpdf(b)
    for one, right in zip(phi, is_right, strict=True):
        log_p -= np.log1p(np.exp(-(a + b * one) * (1 if right else -1)))
    weights = softmax(log_p)
    return np.array([np.sum(weights * expit(a + b * one)) for one in phi])


@pytest.mark.exhaustive
@pytest.mark.slow
def test_with_a_large_spread_people_are_by_themselves():
    data = small()
    is_right = data["annotations"] == data["y"][:, None]
    sd = np.sqrt([1 + 1 + 4**2, 0.5**2 + 0.5**2 + 4**2])  # of everybody's mean, of the cluster's, and of the person
    expected = np.stack([alone(data["x"][:, 2], right, (1.0, 0.0), sd) for right in is_right.T], 1)
    np.testing.assert_allclose(by_nuts([4.0, 4.0])[:, :2], expected, atol=0.03)


@pytest.mark.slow
def test_a_fit_agrees_with_nuts():
    found = by_svi([0.7, 0.3]).values("right_probs", small()["x"]).mean(0)
    np.testing.assert_allclose(found, by_nuts([0.7, 0.3]), atol=0.05)


@pytest.mark.slow
def test_a_fit_without_spread_is_of_one_person():
    """Who is right as often as both together."""
    data = small()
    found = by_svi([1e-6, 1e-6]).values("right_probs", data["x"]).mean(0)
    np.testing.assert_allclose(found[:, 0], found[:, 1], atol=1e-4)
    shares = (data["annotations"] == data["y"][:, None]).mean(0)
    assert shares[0] - shares[1] > 0.3
    np.testing.assert_allclose(found[:, 0].mean(), shares.mean(), atol=0.05)
