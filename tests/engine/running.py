"""What the engine finds of a program: its bound, its guide's distributions, draws."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from numpyro.handlers import seed, trace

from pl2d_ppl.engine.elbo import EnumELBO

KEY = jax.random.key(3)


def nothing(*args, **kwargs):
    """A guide that leaves all to enumeration."""


def bound(model, guide, *args, params=None, key=KEY, **kwargs):
    """ELBO of a guide."""
    return -jax.jit(lambda p, a, k: EnumELBO().loss(key, p, model, guide, *a, **k))(params or {}, args, kwargs)


def traced(guide, *args, key=KEY, params=None, **kwargs):
    """Sites of a guide that draws."""
    with trace() as tr, numpyro.validation_enabled(False):
        numpyro.handlers.substitute(seed(guide, key), data=params or {})(*args, **kwargs)
    return tr


def probs(tr, name):
    """Probabilities of a discrete site of a trace."""
    fn = tr[name]["fn"]
    while not hasattr(fn, "logits"):
        fn = fn.base_dist
    return jax.nn.softmax(fn.logits)


def draws(guide, count, *args):
    """Values of the sites of a guide, drawn many times."""

    def one(key):
        return {name: site["value"] for name, site in traced(guide, *args, key=key).items() if site["type"] == "sample"}

    return jax.jit(jax.vmap(one))(jax.random.split(KEY, count))


def frequencies(values, support):
    """Share of each value of a support, shape (batch shape, values)."""
    return np.mean(np.asarray(values)[..., None] == np.asarray(support), axis=0)


def double(values):
    """An array of floats in the precision that is on."""
    return jnp.asarray(values, float)
