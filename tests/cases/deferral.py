"""Random gates, memberships and bounds, and a small decision problem."""

import warnings

import jax
import numpy as np
from hypothesis import strategies as st
from scipy.special import softmax

from pl2d_ppl.deferral.deferral import Deferral

KEY = jax.random.key(0)
PEOPLE = ("ann", "bob", "cid")
OMEGA = np.array([[0.9, 0.5, 0.0], [0.1, 0.5, 1.0]])
SEEDS = st.integers(0, 2**32 - 1)


def random_gate(rng, num_items, num_options):
    """From timid to sure, with options that are preferred on average."""
    scale = rng.choice([0.3, 1.0, 3.0, 8.0])
    logits = scale * rng.standard_normal((num_items, num_options)) + rng.standard_normal(num_options)
    return softmax(logits, 1).astype(np.float32)


def random_omega(rng, num_clusters, num_people):
    """One-hot, soft, or soft with zeros; no cluster is empty where there are people enough."""
    kind = rng.integers(3)
    if kind == 0:
        return np.eye(num_clusters)[rng.permutation(np.arange(num_people) % num_clusters)].T
    omega = rng.dirichlet(np.full(num_clusters, rng.choice([0.2, 1.0, 5.0])), num_people).T
    if kind == 2:
        omega = np.where(omega < min(0.1, 0.9 / num_clusters), 0.0, omega)
    return omega / omega.sum(0)


def random_bounds(rng, is_able):
    """Feasible bounds, tight to slack, of which those who are absent have lower ones of zero."""
    target = np.zeros(len(is_able))
    target[is_able] = rng.dirichlet(np.full(is_able.sum(), rng.choice([0.3, 1.0, 10.0])))
    loose = rng.random((2, len(is_able))) * rng.choice([0.0, 0.1, 0.6])
    return np.maximum(target - loose[0], 0.0), np.minimum(target + loose[1], 1.0)


def random_deferral(rng, num_items, num_options, num_people, num_categories=4):
    """Some of the people absent, in half of the cases."""
    ai = rng.dirichlet(np.ones(num_categories), num_items)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Expected somebody behind every option")
        omega = random_omega(rng, num_options - 1, num_people)
        everybody = Deferral.of(random_gate(rng, num_items, num_options), ai, membership=omega)
        present = rng.random(num_people) < rng.choice([0.7, 1.0])
        present[rng.integers(num_people)] = True
        return everybody.present(present)


def small(num_items=6, **kwargs):
    rng = np.random.default_rng(0)
    gate, ai = rng.dirichlet(np.ones(3), num_items), rng.dirichlet(np.ones(4), num_items)
    return Deferral.of(gate, ai, **{"membership": OMEGA, "people": PEOPLE} | kwargs)
