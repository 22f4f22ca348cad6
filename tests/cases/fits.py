"""Programs and data that train in no time, and what compares two fits."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
from numpyro.contrib.module import nnx_module
from numpyro.handlers import mask
from programs import mlp_model

from pl2d_ppl import MLP, Annotated, fit
from pl2d_ppl.guides.exact import exact
from pl2d_ppl.networks import instantiate

KEY = jax.random.key(0)
HALF = np.array([0.0, 0.0, 0.5]), np.array([1.0, 1.0, 0.5])


def separable(seed=0, num_items=36):
    """Three blobs; an expert who is right half of the time, and one who is never; a third of it missing."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(num_items) % 3)
    x = 3 * np.eye(3)[y] + 0.3 * rng.standard_normal((num_items, 3))
    said = np.stack([np.where(rng.random(num_items) < 0.5, y, (y + 1) % 3), (y + 1) % 3], 1)
    said[rng.random((num_items, 2)) < 1 / 3] = -1
    return {"x": x.astype(np.float32), "annotations": said.astype(np.int32), "y": y.astype(np.int32)}


DATA = separable()
MODEL = mlp_model(3, 2, 3)
GUIDE = exact(MODEL, ["z"])
OPTIMIZER = optax.chain(optax.scale(0.5), optax.sgd(0.4))


quiet = partial(fit, progress=False)


fit_l2d = partial(quiet, KEY, MODEL, data=DATA, optimizer=OPTIMIZER, batch_size=12)


def toy(x, y=None, who=None, *, gating, classifier):
    gate_logits = numpyro.deterministic("gate_logits", nnx_module("gating", instantiate(gating))(x))
    ai_logits = numpyro.deterministic("ai_logits", nnx_module("classifier", instantiate(classifier))(x))
    if y is None:
        return
    with numpyro.plate("item", len(x)):
        with mask(mask=y >= 0):
            numpyro.sample("y", dist.Categorical(logits=ai_logits), obs=jnp.maximum(y, 0))
        numpyro.sample("who", dist.Categorical(logits=gate_logits), obs=who)


def nothing(*args, **kwargs):
    """A guide of no sites."""


def toy_model(num_inputs=3, classifier=None, gating=None):
    linear = partial(MLP, num_inputs, (), 3)
    return partial(toy, gating=gating or linear, classifier=classifier or linear)


def toy_data(seed=0, num_items=36):
    data = separable(seed, num_items)
    return {"x": data["x"], "y": data["y"], "who": (data["x"][:, 0] > 1).astype(np.int32)}


TOY_DATA, TOY = toy_data(), toy_model()


def raw(tree):
    """A tree whose random keys are arrays of integers."""
    is_key = lambda a: isinstance(a, jax.Array) and jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key)  # noqa: E731
    return jax.tree.map(lambda a: np.asarray(jax.random.key_data(a) if is_key(a) else a), tree)


def assert_same(one, other):
    """Assert that two fits are equal bit for bit."""
    for name in ("state", "best_state", "best_loss", "stale", "history"):
        a, b = raw(getattr(one, name)), raw(getattr(other, name))
        assert jax.tree.structure(a) == jax.tree.structure(b)
        jax.tree.map(np.testing.assert_array_equal, a, b)
    assert one.epoch == other.epoch


def linear(params, name, x):
    """Forward pass of an MLP without hidden layers."""
    weights = params[f"{name}$params"]["readout"]
    return np.asarray(x, np.float64) @ np.asarray(weights["kernel"]) + np.asarray(weights["bias"])


def annotated_toy(data, **names):
    return Annotated(**data, **({"classes": tuple("abc"), "annotators": ("p", "q")} | names))
