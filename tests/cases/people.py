"""What clusters and people of known memberships say."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.handlers import mask

from pl2d_ppl.people.membership import Membership


def simulate(seed, num_items, omega, num_categories, missing=0.0, sharpness=0.3):
    """What clusters say, exact in float32, and what people with memberships omega (M, K) say."""
    rng = np.random.default_rng(seed)
    omega = np.asarray(omega, float)
    num_people, num_clusters = omega.shape
    h = rng.dirichlet(np.full(num_categories, sharpness), (num_items, num_clusters))
    h = np.float32(0.999 * h + 0.001 / num_categories)
    probs = np.einsum("mk,nkc->nmc", omega, h.astype(float))
    uniform = rng.random((num_items, num_people, 1)) * probs.sum(-1, keepdims=True)
    said = (probs.cumsum(-1) > uniform).argmax(-1)
    return h, np.where(rng.random(said.shape) < missing, -1, said)


def likelihood_of(h, said):
    """Probability of one person's annotations under each cluster, (n, K)."""
    rows = np.flatnonzero(said >= 0)
    return h[rows, :, said[rows]].astype(float)


def observe(omega, cluster_probs, annotations):
    """The likelihood of `membership`, written as its docstring has it."""
    with numpyro.plate("item", len(cluster_probs), dim=-1), mask(mask=annotations >= 0):
        probs = jnp.einsum("k,nkc->nc", omega, cluster_probs)
        numpyro.sample("said", dist.Categorical(probs=probs), obs=jnp.maximum(annotations, 0))


UNEVEN = (1.0, 2.0, 5.0)


def problem():
    return simulate(40, 10, np.full((2, 3), 1 / 3), 4)


def changed(array, index, value):
    array = array.copy()
    array[index] = value
    return array


def drawn(people, seed=50, num_draws=40):
    draws = np.random.default_rng(seed).dirichlet(np.ones(3), (len(people), 2, num_draws))
    count = np.arange(len(people))
    return Membership(draws.mean((1, 2)).T, 10 + count, tuple(people), ("x", "y", "z"), "nuts", draws, count)
