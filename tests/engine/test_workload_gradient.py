"""The gradient of a workload around a guide with parameters: multipliers are held, all else is differentiated."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from engine.running import KEY, bound, double, traced
from programs import ENUMERATE
from scipy.special import log_softmax, xlogy

from pl2d_ppl.engine.elbo import EnumELBO
from pl2d_ppl.engine.workload import workload

RNG = np.random.default_rng(0)
X, WEIGHTS, STEP = RNG.normal(size=(7, 2)), RNG.normal(size=(2, 3)), RNG.normal(size=(2, 3))
JOINT = RNG.normal(size=(7, 3))
LOWER, UPPER = [0.0, 0.1, 0.5], [0.2, 1.0, 0.5]


def program(x):
    """A latent a row, and one more that z's bounds do not concern."""
    with numpyro.plate("item", 7, dim=-2):
        z = numpyro.sample("z", dist.Categorical(logits=double(JOINT)[:, None]), infer=dict(ENUMERATE))
        v = numpyro.sample("v", dist.Bernoulli(0.3), infer=dict(ENUMERATE))
        numpyro.factor("f", jnp.where(v == 1, 0.5 * z, -0.2))


def amortised(x):
    w = numpyro.param("w", double(WEIGHTS))
    with numpyro.plate("item", 7, dim=-2):
        numpyro.sample("z", dist.Categorical(logits=(x @ w)[:, None]), infer=dict(ENUMERATE))
        numpyro.sample("v", dist.Bernoulli(logits=(x @ w)[:, :1]), infer=dict(ENUMERATE))


def elbo(w, of_z, of_v):
    """By hand, at these multipliers."""
    q = np.exp(log_softmax(X @ w - of_z, 1))
    on = np.exp(log_softmax(np.stack([0 * X[:, 0], (X @ w)[:, 0]], 1) - of_v, 1))
    entropy = -xlogy(q, q).sum() - xlogy(on, on).sum()
    prior = (q * log_softmax(JOINT, 1)).sum() + (on @ np.log([0.7, 0.3])).sum()
    return prior + (on[:, 1] * (q @ (0.5 * np.arange(3))) - 0.2 * on[:, 0]).sum() + entropy


def check(guide, multipliers):
    params = {"w": double(WEIGHTS)}
    tr = traced(guide, double(X), params=params)
    nu = [np.float64(tr[name]["value"]) if name else np.zeros(2) for name in multipliers]
    np.testing.assert_allclose(bound(program, guide, double(X), params=params), elbo(WEIGHTS, *nu), rtol=1e-6)
    slope = (elbo(WEIGHTS + 1e-5 * STEP, *nu) - elbo(WEIGHTS - 1e-5 * STEP, *nu)) / 2e-5
    gradient = jax.jit(jax.grad(lambda w: -EnumELBO().loss(KEY, {"w": w}, program, guide, double(X))))(double(WEIGHTS))
    np.testing.assert_allclose(jnp.vdot(gradient, STEP), slope, rtol=1e-6)
    assert all(np.abs(each).max() > 0.1 for each, name in zip(nu, multipliers, strict=True) if name)


def test_finite_differences(float64):
    check(workload(amortised, "z", LOWER, UPPER, tolerance=1e-9), ["z_multipliers", None])


def test_finite_differences_of_nested_workloads(float64):
    inner = workload(amortised, "z", LOWER, UPPER, tolerance=1e-9)
    check(workload(inner, "v", [0.8, 0.0], [1.0, 0.2], tolerance=1e-9), ["z_multipliers", "v_multipliers"])
