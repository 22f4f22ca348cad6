"""Small programs, networks and data for the tests of the engine."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from flax import nnx
from numpyro.contrib.module import nnx_module
from numpyro.handlers import mask
from oracles.prob_l2d import label_channel as truth_channel
from scipy.special import log_softmax, softmax

from pl2d_ppl.distributions.answers import label_channel
from pl2d_ppl.models.prob_l2d import prob_l2d
from pl2d_ppl.networks import MLP

ENUMERATE = {"enumerate": "parallel"}


def table(values):
    """Constants in the precision that is on (a bare NumPy constant keeps that of its first use under jit)."""
    return jnp.asarray(values, jnp.result_type(float))


class Table(nnx.Module):
    """Network that ignores its input: its output is its parameter."""

    def __init__(self, logits):
        self.logits = nnx.Param(jnp.asarray(logits))

    def __call__(self, x):
        return self.logits[...]


class Problem(NamedTuple):
    """Data and logits of N items: gate (N, M + 1), beliefs (N, M + 1, C) with the AI last."""

    gate: np.ndarray
    beliefs: np.ndarray
    annotations: np.ndarray
    y: np.ndarray

    @property
    def gate_probs(self):
        return np.exp(log_softmax(np.asarray(self.gate, np.float64), -1))

    @property
    def belief_probs(self):
        return np.exp(log_softmax(np.asarray(self.beliefs, np.float64), -1))

    @property
    def said(self):
        return np.pad(self.annotations, ((0, 0), (0, 1)), constant_values=-1)

    @property
    def x(self):
        return np.zeros((len(self.y), 1), np.float32)

    def arrays(self):
        """Gate, beliefs, x, annotations and y as JAX arrays of the precision that is on."""
        floats = (jnp.asarray(a, jnp.result_type(float)) for a in (self.gate, self.beliefs, self.x))
        return *floats, jnp.asarray(self.annotations), jnp.asarray(self.y)


def random_l2d(seed, num_items=8, num_experts=2, num_categories=3):
    """Items of every kind: all annotated, all missing, some missing; known and unknown truth."""
    rng = np.random.default_rng(seed)
    gate = 1.5 * rng.standard_normal((num_items, num_experts + 1))
    beliefs = 1.5 * rng.standard_normal((num_items, num_experts + 1, num_categories))
    annotations = rng.integers(-1, num_categories, (num_items, num_experts))
    y = rng.integers(0, num_categories, num_items)
    annotations[0:3:2] = -1
    annotations[1:4:2] = rng.integers(0, num_categories, annotations[1:4:2].shape)
    y[2:5] = -1
    # Logits that float32 holds exactly: the oracle and the program then have the same problem.
    return Problem(gate.astype(np.float32), beliefs.astype(np.float32), annotations, y)


def table_model(gate, beliefs, program=prob_l2d, **options):
    """A program with given logits in the place of networks."""
    return partial(
        program,
        gating=Table(gate),
        experts=Table(beliefs[:, :-1]),
        classifier=Table(beliefs[:, -1]),
        **options,
    )


def mlp_model(num_inputs, num_experts, num_categories, hidden=(), **options):
    """A program with networks that are drawn from its key."""
    return partial(
        prob_l2d,
        gating=partial(MLP, num_inputs, hidden, num_experts + 1),
        experts=partial(MLP, num_inputs, hidden, (num_experts, num_categories)),
        classifier=partial(MLP, num_inputs, hidden, num_categories),
        **options,
    )


def random_batch(seed, num_items=12, num_inputs=3, num_experts=2, num_categories=3):
    """Inputs, annotations and truth for `mlp_model`."""
    rng = np.random.default_rng(seed)
    problem = random_l2d(seed, num_items, num_experts, num_categories)
    x = rng.standard_normal((num_items, num_inputs)).astype(np.float32)
    return {"x": jnp.asarray(x), "annotations": jnp.asarray(problem.annotations), "y": jnp.asarray(problem.y)}


def tree_allclose(actual, expected, **tolerances):
    """Assert that two trees of arrays are close."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for (path, a), e in zip(jax.tree.leaves_with_path(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, e, err_msg=jax.tree_util.keystr(path), **tolerances)


def given_params(gate, beliefs):
    """Parameters of a `table_model`, under their names in the program."""
    return {
        "gating$params": {"logits": gate},
        "experts$params": {"logits": beliefs[:, :-1]},
        "classifier$params": {"logits": beliefs[:, -1]},
    }


# --- prob_l2d, edited: a prior added (g, of all items) and a dependency (d, the difficulty of an item) -----------

POPULATION = np.array([0.3, 0.7])
DIFFICULTY = np.array([[0.8, 0.2], [0.4, 0.6]])  # p(d | g)
GATE_SHIFT = np.array([[0.0, 0.5], [-1.0, 1.5]])  # what (g, d) adds to the AI's logit
SHARPNESS = np.array([1.0, 0.25])  # what d does to beliefs
EDIT_SITES = {"g": 2, "d0": 2, "d1": 2, "z0": 2, "z1": 2, "t00": 2, "t01": 2, "t10": 2, "t11": 2}


def edited_l2d(x, annotations, y, *, gating, experts, classifier):
    """`prob_l2d` as a modeller would edit it."""
    gate_logits = numpyro.deterministic("gate_logits", nnx_module("gating", gating)(x))
    ai_logits = numpyro.deterministic("ai_logits", nnx_module("classifier", classifier)(x))
    expert_logits = nnx_module("experts", experts)(x)
    beliefs = numpyro.deterministic("belief_logits", jnp.concatenate([expert_logits, ai_logits[:, None]], 1))
    num_items, num_deciders, num_categories = beliefs.shape
    said = jnp.pad(annotations, ((0, 0), (0, 1)), constant_values=-1)
    g = numpyro.sample("g", dist.Categorical(table(POPULATION)), infer=dict(ENUMERATE))
    with numpyro.plate("item", num_items, dim=-2):
        d = numpyro.sample("d", dist.Categorical(table(DIFFICULTY)[g]), infer=dict(ENUMERATE))
        shift = table(GATE_SHIFT)[g, d][..., None] * (jnp.arange(num_deciders) == num_deciders - 1)
        z = numpyro.sample("z", dist.Categorical(logits=gate_logits[:, None] + shift), infer=dict(ENUMERATE))
        with numpyro.plate("expert", num_deciders, dim=-1):
            logits = beliefs * table(SHARPNESS)[d][..., None]
            t = numpyro.sample("t", dist.Categorical(logits=logits), infer=dict(ENUMERATE))
            with mask(mask=said >= 0):
                recorded = dist.Categorical(logits=label_channel(num_categories, 1e-30)[t])
                numpyro.sample("annotation", recorded, obs=jnp.maximum(said, 0))
            with mask(mask=(y >= 0)[:, None] & (z == jnp.arange(num_deciders))):
                decided = dist.Categorical(logits=label_channel(num_categories, 1e-3)[t])
                numpyro.sample("y", decided, obs=jnp.maximum(y, 0)[:, None])


def edited_log_joint(problem):
    """Log joint of `edited_l2d` for two items, two people and two categories, from its equations."""
    channel, exact = truth_channel(2, 1e-3), truth_channel(2, 1e-30)

    def log_joint(values):
        g = values["g"]
        log_p = np.log(POPULATION[g])
        for i in range(2):
            d, z = values[f"d{i}"], values[f"z{i}"]
            log_p += np.log(DIFFICULTY[g, d])
            log_p += log_softmax(problem.gate[i] + GATE_SHIFT[g, d] * np.array([0.0, 1.0]))[z]
            for m in range(2):
                t = values[f"t{i}{m}"]
                log_p += log_softmax(SHARPNESS[d] * problem.beliefs[i, m].astype(float))[t]
                if problem.said[i, m] >= 0:
                    log_p += np.log(exact[t, problem.said[i, m]])
            log_p += np.log(channel[values[f"t{i}{z}"], problem.y[i]])
        return log_p

    return log_joint


def edited_start(problem):
    """Every site at its prior, in mean field given its parents at theirs."""
    q = {"g": POPULATION}
    d = softmax(POPULATION @ np.log(DIFFICULTY))
    for i in range(2):
        shifts = GATE_SHIFT[..., None] * np.array([0.0, 1.0])
        log_gate = log_softmax(problem.gate[i] + shifts, -1)
        q[f"d{i}"] = d
        q[f"z{i}"] = softmax(np.einsum("g,d,gdz->z", POPULATION, d, log_gate))
        for m in range(2):
            log_belief = log_softmax(SHARPNESS[:, None] * problem.beliefs[i, m].astype(float), -1)
            q[f"t{i}{m}"] = softmax(d @ log_belief)
    return q
