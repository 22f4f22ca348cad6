"""A modeller's edit: against sums over every assignment."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from cases.cluster_l2d import CATEGORIES, CLUSTERS, ITEMS, PEOPLE, TINY, arguments, by_enumeration, random_case, says
from numpyro.handlers import mask
from numpyro.ops.indexing import Vindex
from oracles.discrete import brute_force
from oracles.prob_l2d import label_channel
from programs import ENUMERATE, table
from scipy.special import log_softmax

from pl2d_ppl import marginals
from pl2d_ppl.guides.exact import exact


def edited_cluster_l2d(x, annotations, y, *, membership, gating, classifier, experts, channel, taste):
    """`cluster_l2d` as a modeller would edit it: everybody's errors differ, and some pairs of (v, w) are preferred."""
    gate_logits = numpyro.deterministic("gate_logits", gating(x))
    belief_logits = numpyro.deterministic("belief_logits", jnp.concatenate([experts(x), classifier(x)[:, None]], 1))
    num_items, num_deciders, _ = belief_logits.shape
    num_clusters = len(membership)
    said = jnp.pad(annotations, ((0, 0), (0, 1)), constant_values=-1)
    staff = jnp.zeros((num_clusters + 1, num_deciders)).at[:-1, :-1].set(membership).at[-1, -1].set(1.0)
    with numpyro.plate("item", num_items, dim=-2):
        v = numpyro.sample("v", dist.Categorical(logits=gate_logits[:, None]), infer=dict(ENUMERATE))
        shares = Vindex(staff / staff.sum(1, keepdims=True))[v]
        w = numpyro.sample("w", dist.Categorical(shares), infer=dict(ENUMERATE))
        numpyro.factor("taste", Vindex(taste)[v, w])
        with numpyro.plate("expert", num_deciders, dim=-1):
            t = numpyro.sample("t", dist.Categorical(logits=belief_logits), infer=dict(ENUMERATE))
            with mask(mask=said >= 0):
                numpyro.sample("annotation", dist.Delta(t), obs=jnp.maximum(said, 0))
            with mask(mask=(y >= 0)[:, None] & (w == jnp.arange(num_deciders))):
                decided = dist.Categorical(Vindex(channel)[jnp.arange(num_deciders), t])
                numpyro.sample("y", decided, obs=jnp.maximum(y, 0)[:, None])


@jax.jit
def edited_posterior(networks, membership, data, channel, taste):
    model = partial(edited_cluster_l2d, **networks, membership=membership, channel=channel, taste=taste)
    found = says(model, exact(model, ["w", "v"]), ("w", "v"), data)
    return *found, marginals(model, ["t"])(**data)["t"]


@pytest.mark.slow
@pytest.mark.parametrize("edit", ["channel", "factor"])
def test_an_edited_model_has_its_own_posterior(float64, edit):
    case = random_case(50)
    rng = np.random.default_rng(1)
    channel = np.broadcast_to(label_channel(CATEGORIES, 1e-3), (PEOPLE + 1, CATEGORIES, CATEGORIES))
    taste = np.zeros((CLUSTERS + 1, PEOPLE + 1))
    if edit == "channel":
        channel = rng.dirichlet(np.ones(CATEGORIES), (PEOPLE + 1, CATEGORIES))
    if edit == "factor":
        taste = rng.standard_normal(taste.shape)
    gate, beliefs = log_softmax(np.float64(case.gate), -1), log_softmax(np.float64(case.beliefs), -1)
    omega = np.float64(case.membership)
    shares = np.zeros(taste.shape)
    shares[:-1, :-1], shares[-1, -1] = omega / omega.sum(1, keepdims=True), 1.0
    sites = {"v": CLUSTERS + 1, "w": PEOPLE + 1} | {f"t{m}": CATEGORIES for m in range(PEOPLE + 1)}
    evidence, joints, says = 0.0, [], []
    for i in range(ITEMS):

        def log_joint(values, i=i):
            v, w = values["v"], values["w"]
            t = [values[f"t{m}"] for m in range(PEOPLE + 1)]
            said = case.annotations[i]
            if shares[v, w] == 0 or any(a not in (-1, c) for a, c in zip(said, t[:-1], strict=True)):
                return -np.inf
            lp = gate[i, v] + np.log(shares[v, w]) + taste[v, w] + sum(beliefs[i, m, c] for m, c in enumerate(t))
            return lp + (np.log(channel[w, t[w], case.y[i]]) if case.y[i] >= 0 else 0.0)

        log_p, of_sites, joint = brute_force(sites, log_joint)
        evidence += log_p
        joints.append(joint.sum(tuple(range(2, joint.ndim))))
        says.append([of_sites[f"t{m}"] for m in range(PEOPLE + 1)])
    elbo, w, joint, t = edited_posterior(*arguments(case, True), table(channel), table(taste))
    np.testing.assert_allclose(elbo, evidence, rtol=1e-9)
    np.testing.assert_allclose(joint, joints, rtol=1e-9, atol=TINY)
    np.testing.assert_allclose(w, np.sum(joints, 1), rtol=1e-9, atol=TINY)
    np.testing.assert_allclose(t, says, rtol=1e-9, atol=TINY)
    unedited = by_enumeration(case, True)["vw"]
    assert np.abs(unedited - joint).max() > 0.05
