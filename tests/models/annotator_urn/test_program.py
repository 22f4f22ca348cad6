"""The annotator urn: evidence and marginals against sums over people, votes and truths."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import pytest
from cases.annotator_urn import (
    KEY,
    NUM_CATEGORIES,
    counts_of,
    error_probs,
    exact_guide,
    joint_by_item,
    latent,
    log_prior,
    problem,
    urn_of_table,
    vote_probs,
)
from numpyro.handlers import seed, trace
from programs import table
from scipy.special import expit, softmax

from pl2d_ppl import EnumELBO, log_evidence, marginals
from pl2d_ppl.models.annotator_urn import cluster_probs


def given(form, votes):
    return {form: jnp.asarray(votes if form == "votes" else counts_of(votes))}


@partial(jax.jit, static_argnames=("sizes", "num_items"))
def evidence_and_marginals(logits, params, data, sizes, num_items=None):
    model, x = urn_of_table(logits, sizes, num_items), logits
    return log_evidence(model, params=params)(x, **data), marginals(model, params=params)(x, **data)["y"]


@pytest.mark.parametrize("form", ["votes", pytest.param("counts", marks=pytest.mark.exhaustive)])
def test_evidence_and_marginals_equal_sums_over_people(precision, form):
    p = problem()
    evidence, y = evidence_and_marginals(table(p["logits"]), latent(p), given(form, p["votes"]), p["sizes"])
    joint = joint_by_item(p)
    np.testing.assert_allclose(evidence, np.log(joint.sum(-1)).sum() + log_prior(p), rtol=precision.rtol)
    expected = joint / joint.sum(-1, keepdims=True)
    np.testing.assert_allclose(y[:, 0], expected, rtol=10 * precision.rtol, atol=1e-12)
    np.testing.assert_allclose(y[2, 0], softmax(p["logits"][2]), rtol=precision.rtol)  # the item without votes


@pytest.mark.exhaustive
@pytest.mark.parametrize("sizes", [(1,), (4,), (1, 1, 2), (3, 3)])
def test_evidence_of_other_staffs(float64, sizes):
    p = problem(sizes=sizes, seed=1)
    evidence, _ = evidence_and_marginals(table(p["logits"]), latent(p), given("votes", p["votes"]), sizes)
    expected = np.log(joint_by_item(p).sum(-1)).sum() + log_prior(p)
    np.testing.assert_allclose(evidence, expected, rtol=1e-9)


@pytest.mark.exhaustive
def test_order_and_padding_of_votes_do_not_matter(float64):
    p = problem()
    wider = np.pad(p["votes"][:, ::-1], ((0, 0), (2, 4)), constant_values=-1)  # more columns than people
    for votes in (p["votes"], wider):
        evidence, _ = evidence_and_marginals(table(p["logits"]), latent(p), given("votes", votes), p["sizes"])
        np.testing.assert_allclose(evidence, np.log(joint_by_item(p).sum(-1)).sum() + log_prior(p), rtol=1e-9)


def test_cluster_probs_sum_to_one_and_are_those_of_a_vote(precision):
    p = problem()
    truth_probs = softmax(p["logits"], -1)
    probs = cluster_probs(table(truth_probs), table(p["skill"]), table(p["errors"]))
    assert probs.shape == (6, 2, NUM_CATEGORIES)
    np.testing.assert_allclose(probs.sum(-1), 1.0, rtol=precision.rtol)
    errors = error_probs(p["errors"])
    for k in range(2):
        votes_of = np.array([vote_probs(expit(p["skill"][k, y]), errors[y], y) for y in range(NUM_CATEGORIES)])
        np.testing.assert_allclose(probs[:, k], truth_probs @ votes_of, rtol=precision.rtol)


@pytest.mark.exhaustive
def test_elbo_of_the_exact_guide_is_the_evidence(float64):
    """That of all 60 items, of which six are at hand, and the priors once."""
    p = problem()
    model = urn_of_table(table(p["logits"]), p["sizes"], 60)
    guide, x, data = exact_guide(model), jnp.zeros((6, 1)), given("counts", p["votes"])
    seed(guide.continuous, KEY)(x, **data)
    params = {f"{name}_auto_loc": value for name, value in latent(p).items()}
    elbo = jax.jit(jax.value_and_grad(lambda params: -EnumELBO().loss(KEY, params, model, guide, x, **data)))
    found, gradient = elbo(params)
    np.testing.assert_allclose(found, 10 * np.log(joint_by_item(p).sum(-1)).sum() + log_prior(p), rtol=1e-9)

    step = {name: np.random.default_rng(4).standard_normal(a.shape) for name, a in params.items()}
    ends = [elbo({name: a + e * step[name] for name, a in params.items()})[0] for e in (1e-5, -1e-5)]
    slope = sum(jnp.vdot(gradient[name], step[name]) for name in params)
    np.testing.assert_allclose(slope, (ends[0] - ends[1]) / 2e-5, rtol=1e-6)


@pytest.mark.exhaustive
def test_program_draws_what_it_says():
    """Under NumPyro's own handlers: truth, people and given numbers of votes."""
    p = problem()
    model = urn_of_table(np.float32(p["logits"]), p["sizes"])
    tr = trace(seed(model, KEY)).get_trace(jnp.zeros((6, 1)), counts=jnp.asarray(counts_of(p["votes"])))
    assert tr["y"]["value"].shape == (6, 1)
    assert tr["counts"]["fn"].batch_shape == (6, 1)
    np.testing.assert_allclose(np.exp(tr["cluster_logits"]["value"]).sum(-1), 1.0, rtol=1e-5)
    np.testing.assert_array_equal(tr["truth_logits"]["value"], np.float32(p["logits"]))
    assert np.isfinite(numpyro.infer.util.log_density(seed(model, KEY), (jnp.zeros((6, 1)),), {}, {})[0])
