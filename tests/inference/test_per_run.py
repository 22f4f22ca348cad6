"""Bounds that differ between the runs of a batch, on one site or several, and guides that are pytrees."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from numpyro.handlers import block, seed
from programs import ENUMERATE

from pl2d_ppl import PerRun, fit, workload

KEY = jax.random.key(0)
KEYS = jax.random.split(KEY, 2)
RNG = np.random.default_rng(0)
DATA = {"x": RNG.standard_normal((12, 2)).astype(np.float32)}


def two_sites(x):
    with numpyro.plate("item", len(x), dim=-1):
        for name in ("z", "t"):
            numpyro.sample(name, dist.Categorical(logits=x), infer=dict(ENUMERATE))


run = partial(fit, model=two_sites, data=DATA, optimizer=optax.sgd(0.1), epochs=1, batch_size=12, progress=False)


def fixed(share):
    """Bounds that fix the share of the second value."""
    return np.stack([0 * np.asarray(share), share], -1), np.stack([1 + 0 * np.asarray(share), share], -1)


def nested(inner, outer):
    return workload(workload(two_sites, "z", *inner), "t", *outer)


def test_inner_bounds_are_leaves_as_outer_ones_are():
    shares = ((0.2, 0.5), (0.7, 0.5), (0.7, 0.1))
    fits = [run(KEY, guide=nested(fixed(z), fixed(t))) for z, t in shares]
    assert len({id(result.compiled) for result in fits}) == 1
    for result, (z, t) in zip(fits, shares, strict=True):
        np.testing.assert_allclose(result.history["z_mean"][-1], [1 - z, z], atol=1e-4)
        np.testing.assert_allclose(result.history["t_mean"][-1], [1 - t, t], atol=1e-4)


def test_each_run_has_its_own_bounds_on_each_site():
    z, t = np.array([0.2, 0.6]), np.array([0.9, 0.3])
    both = run(KEYS, guide=nested(map(PerRun, fixed(z)), map(PerRun, fixed(t))))
    shared = run(KEYS, guide=nested(map(PerRun, fixed(z)), fixed(0.4)))
    for r in range(2):
        for result, expected in ((both, t[r]), (shared, 0.4)):
            np.testing.assert_allclose(result.history["z_mean"][-1, r, 1], z[r], atol=1e-4)
            np.testing.assert_allclose(result.history["t_mean"][-1, r, 1], expected, atol=1e-4)
        own = both.run(r).guide
        np.testing.assert_allclose(own.fn.upper, fixed(z)[1][r], rtol=1e-6)
        np.testing.assert_allclose(own.upper, fixed(t)[1][r], rtol=1e-6)
    np.testing.assert_allclose(both.guide.fn.upper.value, fixed(z)[1], rtol=1e-6)


def test_one_bound_may_differ_and_the_other_be_shared():
    upper = PerRun([[1.0, 0.2], [1.0, 0.1]])
    result = run(KEYS, guide=workload(two_sites, "z", [0, 0], upper))
    np.testing.assert_allclose(result.history["z_mean"][-1, :, 1], [0.2, 0.1], atol=1e-4)


def test_bounds_of_runs_outside_of_a_batch_are_refused():
    own = [PerRun(b) for b in fixed(np.array([0.2, 0.6]))]
    with pytest.raises(ValueError, match="the bounds of one run on site 'z', found those of several"):
        seed(workload(two_sites, "z", *own), 0)(**DATA)
    with pytest.raises(ValueError, match="outside of other handlers, with a key for each run"):
        run(KEYS, guide=block(workload(two_sites, "z", *own), hide=["x"]))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Tilted:
    """A guide of a user that is a pytree of one matrix."""

    matrix: jax.Array

    def __call__(self, x):
        with numpyro.plate("item", len(x), dim=-1):
            for name in ("z", "t"):
                numpyro.sample(name, dist.Categorical(logits=x @ self.matrix), infer=dict(ENUMERATE))


MATRICES = jnp.array([[[1.0, 0.5], [0.0, 2.0]], [[0.0, 1.0], [1.0, 0.0]]])


def bound_by_hand(matrix):
    """KL divergence of the guide from the model, per item."""
    log_q, log_p = (jax.nn.log_softmax(logits, -1) for logits in (DATA["x"] @ matrix, DATA["x"]))
    return 2 * np.mean(np.sum(np.exp(log_q) * (log_q - log_p), -1))


def test_a_matrix_in_a_guide_is_no_axis_of_runs():
    expected = [bound_by_hand(m) for m in np.asarray(MATRICES)]
    single = [run(KEY, guide=Tilted(m)) for m in MATRICES]
    np.testing.assert_allclose([s.history["loss"][-1] for s in single], expected, rtol=1e-5)
    assert single[0].compiled is single[1].compiled
    np.testing.assert_allclose(run(KEYS, guide=Tilted(MATRICES[0])).history["loss"][-1], [expected[0]] * 2, rtol=1e-5)
    own = run(KEYS, guide=Tilted(PerRun(MATRICES)))
    np.testing.assert_allclose(own.history["loss"][-1], expected, rtol=1e-5)
    bounded = run(KEY, guide=workload(Tilted(MATRICES[1]), "z", *fixed(0.3)))
    np.testing.assert_allclose(bounded.history["z_mean"][-1, 1], 0.3, atol=1e-4)
