"""Deferral to clusters in a fit: runs with arguments, and trees."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases.cluster_l2d import (
    AI,
    BATCH,
    CATEGORIES,
    CLUSTERS,
    GUIDE,
    HARD,
    KEY,
    MODEL,
    OMEGA,
    OPTIMIZER,
    OTHER_AI,
    PEOPLE,
    Case,
    blobs,
    by_enumeration,
    program,
    random_membership,
    run,
)
from cases.compilations import programs
from flax import nnx
from programs import tree_allclose
from scipy.special import softmax

from pl2d_ppl import MLP, FitResult, to_datatree
from pl2d_ppl.distributions.empirical import membership_draws
from pl2d_ppl.engine.per_run import PerRun
from pl2d_ppl.guides.exact import exact
from pl2d_ppl.inference.compiled import compile_fit
from pl2d_ppl.networks import Frozen

KEYS = jax.random.split(KEY, 2)


@cache
def fitted():
    return run(KEY, MODEL, GUIDE, BATCH, arguments={"membership": OMEGA, "classifier": AI})


def ai_probs(classifier):
    return softmax(np.asarray(classifier(jnp.asarray(BATCH["x"]))), -1)


@pytest.mark.slow
def test_a_frozen_classifier_stays_as_it_is():
    result = fitted()
    assert list(result.params) == ["gating$params"]
    prediction = result.predict(BATCH["x"])
    assert prediction.gate.shape == (24, CLUSTERS + 1)
    np.testing.assert_allclose(prediction.gate.sum(1), 1.0, rtol=1e-5)
    np.testing.assert_array_equal(prediction.decision, prediction.gate.argmax(1))
    np.testing.assert_allclose(prediction.ai, ai_probs(AI), rtol=1e-5, atol=1e-6)
    assert np.all(np.diff(result.history["loss"]) < -1e-3)


@pytest.mark.slow
def test_another_membership_and_another_classifier_are_not_another_compilation(compiled):
    result = fitted()
    compiled.clear()
    other = run(KEY, MODEL, GUIDE, BATCH, arguments={"membership": HARD, "classifier": OTHER_AI})
    assert not programs(compiled)
    np.testing.assert_allclose(other.predict(BATCH["x"]).ai, ai_probs(OTHER_AI), rtol=1e-5, atol=1e-6)
    assert np.all(np.abs(other.history["loss"] - result.history["loss"]) > 1e-3)


@pytest.mark.slow
def test_runs_with_their_own_membership_and_classifier_equal_single_runs():
    memberships, ais = (OMEGA, HARD), (AI, OTHER_AI)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *ais)
    own = {"membership": PerRun(np.stack(memberships)), "classifier": PerRun(stacked)}
    batch = run(KEYS, MODEL, GUIDE, BATCH, arguments=own)
    for i in range(2):
        single = run(KEYS[i], MODEL, GUIDE, BATCH, arguments={"membership": memberships[i], "classifier": ais[i]})
        one = batch.run(i)
        np.testing.assert_allclose(single.history["loss"], batch.history["loss"][:, i], rtol=1e-4)
        tree_allclose(one.params, single.params, rtol=1e-3, atol=1e-4)
        assert one.compiled is single.compiled
        np.testing.assert_allclose(one.predict(BATCH["x"]).ai, ai_probs(ais[i]), rtol=1e-4, atol=1e-5)
    assert np.abs(np.diff(batch.history["loss"], axis=1)).min() > 1e-3  # the runs differ


def unfitted(model, guide, data, given):
    """A fit of no epochs, which compiles little."""
    arrays = {name: jnp.asarray(a) for name, a in data.items()}
    compiled, leaves = compile_fit(model, guide, OPTIMIZER, False, len(arrays["x"]), None, given)
    compiled.probe(leaves, KEY, arrays)
    return FitResult.start(compiled, leaves, compiled.init(leaves, KEY, arrays), arrays)


def case_of(tree, data, membership, beliefs):
    gate = np.log(np.maximum(tree["network_outputs"]["gate_probs"].values, 1e-30))
    return Case(gate, beliefs, membership, data["annotations"], data["y"])


@pytest.mark.slow
@pytest.mark.parametrize("order", [("w", "v"), ("w",)])
def test_tree_has_the_marginals_of_enumeration(order):
    modelled = order == ("w",)  # where v and t are left to the tree, and else v is the guide's
    data = {name: a[:9] for name, a in blobs(modelled=modelled).items()}
    experts = nnx.LinearGeneral(CATEGORIES, (PEOPLE, CATEGORIES), rngs=nnx.Rngs(3))
    networks = {"gating": partial(MLP, CATEGORIES, (), CLUSTERS + 1)}
    model = program(networks | ({"experts": Frozen.of(experts)} if modelled else {}))
    result = unfitted(model, exact(model, order), data, {"membership": OMEGA, "classifier": AI})
    tree = to_datatree(jax.random.key(1), result, data, num_samples=1000)
    beliefs = np.concatenate([experts(data["x"]), AI(jnp.asarray(data["x"]))[:, None]], 1)
    expected = by_enumeration(case_of(tree, data, OMEGA, beliefs), modelled)
    found = tree["marginals"]
    np.testing.assert_allclose(found["v_probs"], expected["v"], rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(found["w_probs"], expected["w"], rtol=1e-3, atol=1e-5)
    assert found["w_probs"].dims == ("item", "expert")
    assert ("t_probs" in found) == modelled
    if modelled:
        np.testing.assert_allclose(found["t_probs"], expected["t"], rtol=1e-3, atol=1e-5)
    # Draws: jointly, within six standard errors.
    v, w = (tree["posterior"][site].values[0] for site in ("v", "w"))
    share = np.einsum("siv,siw->ivw", np.eye(CLUSTERS + 1)[v], np.eye(PEOPLE + 1)[w]) / len(v)
    error = 6 * np.sqrt(expected["vw"] * (1 - expected["vw"]) / len(v)) + 1e-4
    assert np.all(np.abs(share - expected["vw"]) < error)


@pytest.mark.slow
def test_tree_of_draws_of_the_membership():
    """Marginals are means over the draws that were drawn; ln p of every item is of every draw."""
    data = {name: a[:9] for name, a in BATCH.items()}
    draws = np.stack([random_membership(np.random.default_rng(number)) for number in range(3)])
    guide = exact(MODEL, ["w", "v"], continuous=membership_draws)
    result = unfitted(MODEL, guide, data, {"membership": draws, "classifier": AI})
    tree = to_datatree(jax.random.key(1), result, data, num_samples=8)
    chosen = tree["posterior"]["membership"].values[0]
    beliefs = np.zeros((9, PEOPLE + 1, CATEGORIES))
    beliefs[:, -1] = AI(jnp.asarray(data["x"]))
    expected = [by_enumeration(case_of(tree, data, membership, beliefs), False) for membership in chosen]
    assert len(np.unique(chosen, axis=0)) == 3
    for site in ("v", "w"):
        mean = np.mean([e[site] for e in expected], 0)
        np.testing.assert_allclose(tree["marginals"][f"{site}_probs"], mean, rtol=1e-3, atol=1e-5)
    evidence = tree["log_likelihood"]["log_evidence"].values[0]
    np.testing.assert_allclose(evidence, [e["log_evidence"] for e in expected], rtol=1e-3, atol=1e-5)
