"""Fits are pickled with their programs by reference, or it is said how else to keep them."""

import copy
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from cases.fits import GUIDE, assert_same, fit_l2d
from numpyro.distributions import constraints
from programs import ENUMERATE

from pl2d_ppl import PerRun, fit, workload

KEY = jax.random.key(0)
X = np.random.default_rng(0).standard_normal((12, 2)).astype(np.float32)


def model(x):
    scale = numpyro.param("scale", 1.0, constraint=constraints.positive)
    gate_logits = numpyro.deterministic("gate_logits", scale * x)
    numpyro.deterministic("ai_logits", x)
    with numpyro.plate("item", len(x), dim=-1):
        numpyro.sample("z", dist.Categorical(logits=gate_logits), infer=dict(ENUMERATE))


def guide(x):
    with numpyro.plate("item", len(x), dim=-1):
        numpyro.sample("z", dist.Categorical(logits=2.0 * x), infer=dict(ENUMERATE))


def no_state(params):
    return ()


def descend(gradients, state, params=None):
    return jax.tree.map(lambda g: -0.1 * g, gradients), state


OPTIMIZER = optax.GradientTransformation(no_state, descend)
BOUNDED = {
    "single": (KEY, workload(guide, "z", [0, 0], [1, 0.4])),
    "batched": (jax.random.split(KEY, 2), workload(guide, "z", [0, 0], PerRun([[1, 0.4], [1, 0.3]]))),
}


def run(case, epochs, **options):
    key, bounded = BOUNDED[case]
    return fit(key, model, bounded, {"x": X}, OPTIMIZER, epochs=epochs, batch_size=6, progress=False, **options)


@pytest.mark.parametrize("case", BOUNDED)
def test_a_pickled_fit_predicts_and_goes_on(case):
    result = run(case, 2)
    again = pickle.loads(pickle.dumps(result))
    assert_same(again, result)
    np.testing.assert_array_equal(again.params["scale"], result.params["scale"])
    assert np.all(np.abs(again.params["scale"] - 1.0) > 1e-4)  # trained, and constrained
    jax.tree.map(np.testing.assert_array_equal, again.predict(X), result.predict(X))
    assert_same(run(case, 4, resume=again), run(case, 4))


def test_what_does_not_pickle_says_to_save():
    with pytest.raises(pickle.PicklingError, match=r"that pickle, found .*Use result.save\(path\), and load"):
        pickle.dumps(fit_l2d(guide=GUIDE, epochs=1))


def test_a_copy_is_the_same_fit():
    result = fit_l2d(guide=GUIDE, epochs=1)
    for other in (copy.copy(result), copy.deepcopy(result), result.replace(epoch=1)):
        assert_same(other, result)
        assert other.compiled is result.compiled
        assert jnp.isfinite(other.predict(np.zeros((2, 3), np.float32)).gate).all()
