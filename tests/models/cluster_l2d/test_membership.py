"""Draws of the membership, and the models that special memberships lead to."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases.cluster_l2d import (
    CATEGORIES,
    ITEMS,
    KEY,
    PEOPLE,
    TINY,
    arguments,
    by_enumeration,
    posterior,
    program,
    random_case,
    random_membership,
)
from numpyro.handlers import seed
from oracles.prob_l2d import label_channel
from programs import Table, table, table_model
from scipy.special import log_softmax, softmax
from scipy.stats import chisquare

from pl2d_ppl import EnumELBO, log_evidence, marginals
from pl2d_ppl.distributions.empirical import membership_draws
from pl2d_ppl.guides.exact import exact

NUM_DRAWS, NUM_KEYS = 3, 2000


@jax.jit
def by_draw(keys, gate, networks, draws, data):
    """ELBO of one step, and its gradient in the gate, with every key."""
    rest = {name: network for name, network in networks.items() if name != "gating"}
    model = program({"gating": Table(jnp.zeros_like(gate)), **rest})
    guide = exact(model, ["w", "v"], continuous=membership_draws)

    def elbo(key, gate):
        params = {"gating$params": {"logits": gate}}
        return -EnumELBO().loss(key, params, model, guide, **data, membership=draws)

    return jax.vmap(jax.value_and_grad(elbo, argnums=1), (0, None))(keys, gate)


@pytest.mark.slow
def test_every_step_has_one_of_the_draws(float64):
    case = random_case(30)
    draws = np.stack([random_membership(np.random.default_rng(s)) for s in range(NUM_DRAWS)])
    networks, _, data = arguments(case, True)
    keys = jax.random.split(KEY, NUM_KEYS)
    elbos, gradients = (np.asarray(a) for a in by_draw(keys, table(case.gate), networks, table(draws), data))
    expected = [by_enumeration(case._replace(membership=draw), True) for draw in draws]
    evidences = np.array([e["log_evidence"].sum() for e in expected])
    gate = softmax(np.float64(case.gate), -1)
    of_draws = np.array([e["v"] - gate for e in expected])
    assert np.abs(np.subtract.outer(evidences, evidences))[np.triu_indices(3, 1)].min() > 1e-4
    chosen = np.abs(elbos[:, None] - evidences).argmin(1)
    np.testing.assert_allclose(elbos, evidences[chosen], rtol=1e-9)
    np.testing.assert_allclose(gradients, of_draws[chosen], rtol=1e-7, atol=TINY)
    assert chisquare(np.bincount(chosen, minlength=NUM_DRAWS)).pvalue > 1e-3
    error = 5 * evidences.std() / np.sqrt(NUM_KEYS)
    np.testing.assert_allclose(elbos.mean(), evidences.mean(), rtol=0, atol=error)
    error = 5 * of_draws.std(0).max() / np.sqrt(NUM_KEYS)
    np.testing.assert_allclose(gradients.mean(0), of_draws.mean(0), rtol=0, atol=error)


def test_draws_need_their_guide():
    case = random_case(32)
    model = program(case.networks(True), membership=np.stack([case.membership] * 2))
    with pytest.raises(ValueError, match=r"'membership' ~ Empirical without a value.*(\n.*)*continuous="):
        jax.eval_shape(lambda data: seed(exact(model, ["w"]), KEY)(**data), case.data)


@pytest.mark.slow
def test_a_cluster_for_everybody_is_probabilistic_l2d(float64):
    """With everybody a cluster, v is the z of prob_l2d."""
    case = random_case(40, sizes=(ITEMS, 3, 3, CATEGORIES), complete=True)
    case = case._replace(membership=np.eye(3))
    missing = case._replace(annotations=np.where(np.arange(3) == np.arange(ITEMS)[:, None] % 3, -1, case.annotations))
    model = table_model(*(table(a) for a in (case.gate, case.beliefs)))
    found = jax.jit(lambda data: (log_evidence(model)(**data), marginals(model)(**data)))
    for latent in (case, missing):
        evidence, expected = found(latent.data)
        own, given = posterior(*arguments(latent, True))
        np.testing.assert_allclose(own, evidence, rtol=1e-9)
        np.testing.assert_allclose(given["v"], expected["z"], rtol=1e-9, atol=TINY)
        np.testing.assert_allclose(given["w"], expected["z"], rtol=1e-9, atol=TINY)
        np.testing.assert_allclose(given["t"], expected["t"], rtol=1e-9, atol=TINY)
    evidence, expected = found(case.data)
    log_beliefs = log_softmax(np.float64(case.beliefs[:, :-1]), -1)
    of_annotations = np.take_along_axis(log_beliefs, case.annotations[..., None], -1).sum()
    own, given = posterior(*arguments(case, False))
    np.testing.assert_allclose(own, evidence - of_annotations, rtol=1e-9)
    np.testing.assert_allclose(given["v"], expected["z"], rtol=1e-9, atol=TINY)


@pytest.mark.slow
@pytest.mark.parametrize("complete", [True, False])
def test_one_cluster_defers_to_a_uniformly_drawn_person(float64, complete):
    """With one cluster of all, the truth is read off the AI or off anybody, as in LECODU."""
    case = random_case(41, sizes=(ITEMS, 1, PEOPLE, CATEGORIES), complete=complete, modelled=False)
    case = case._replace(membership=np.ones((1, PEOPLE)))
    gate, ai = softmax(np.float64(case.gate), -1), softmax(np.float64(case.beliefs[:, -1]), -1)
    expected = 0.0
    for i in np.flatnonzero(case.y >= 0):
        said = case.annotations[i][case.annotations[i] >= 0]
        right = label_channel(CATEGORIES, 1e-3)[:, case.y[i]]
        expected += np.log(gate[i] @ [right[said].mean(), ai[i] @ right]) + np.log(ai[i, case.y[i]])
    np.testing.assert_allclose(posterior(*arguments(case, False))[0], expected, rtol=1e-9)
