"""Concentrations and bounds: against scikit-learn, sums over assignments and hand-written updates."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases.annotator_lda import FORMS, KEY, counts_of, given, infer, items, log_coefficients, random_votes
from oracles.lda import lda_elbo, lda_log_evidence, lda_mean_field
from programs import Table, table
from scipy.special import log_softmax
from sklearn.decomposition import LatentDirichletAllocation

from pl2d_ppl import EnumELBO
from pl2d_ppl.guides.mean_field import mean_field
from pl2d_ppl.models.annotator_lda import annotator_lda


def sklearn_concentrations(counts, h, alpha):
    """Document concentrations of scikit-learn at given topics h, shape (K, C), sweep by sweep to the end."""
    lda = LatentDirichletAllocation(len(h), max_iter=1, max_doc_update_iter=5000, mean_change_tol=1e-13, random_state=0)
    lda.fit(np.maximum(counts, 1))
    lda.doc_topic_prior_ = alpha  # the constructor takes 1 at most
    lda.exp_dirichlet_component_ = np.float64(h)  # where it would take exp(E[ln beta]) of its own topics
    return lda.transform(np.float64(counts), normalize=False)


@pytest.mark.parametrize("alpha", [2.5, 50.0])
@pytest.mark.parametrize("form", FORMS)
def test_concentrations_equal_scikit_learn_where_items_share_the_networks(form, alpha):
    logits, votes = random_votes(1)
    rho = infer(form, logits, votes, alpha, x=np.zeros(7), sweeps=500, tolerance=1e-6)[0]
    h = np.exp(log_softmax(np.float64(logits[0]), -1))
    assert rho.dtype == np.float32
    np.testing.assert_allclose(rho, sklearn_concentrations(counts_of(votes, 4), h, alpha), rtol=0, atol=1e-4)


@pytest.mark.parametrize("alpha", [2.5, 50.0])
@pytest.mark.parametrize("form", FORMS)
def test_concentrations_equal_scikit_learn_item_by_item(form, alpha):
    logits, votes = random_votes(2)
    rho = infer(form, logits, votes, alpha, sweeps=500, tolerance=1e-6)[0]
    h = np.exp(log_softmax(np.float64(logits), -1))
    for i, counts in enumerate(np.float64(counts_of(votes, 4))):
        if not counts.any():  # nothing to infer from; scikit-learn does not sweep
            np.testing.assert_allclose(rho[i], alpha, rtol=1e-6)
            continue
        np.testing.assert_allclose(rho[i], sklearn_concentrations(counts[None], h[i], alpha)[0], rtol=0, atol=1e-4)
    assert np.ptp(rho[3:], axis=0).min() > 0.01  # items differ


def test_counts_give_what_votes_give(precision):
    logits, votes = random_votes(3)
    alpha = np.array([2.0, 3.0, 5.0])
    options = {"sweeps": 2000, "tolerance": 0.0} if precision.name == "float64" else {"sweeps": 500, "tolerance": 1e-6}
    by_vote, by_count = (infer(form, logits, votes, alpha, **options) for form in FORMS)
    np.testing.assert_allclose(by_count[0], by_vote[0], rtol=precision.rtol)
    np.testing.assert_allclose(
        by_count[1], by_vote[1] + log_coefficients(counts_of(votes, 4)), rtol=precision.rtol, atol=precision.rtol
    )
    np.testing.assert_allclose(by_count[2], by_vote[2], rtol=precision.rtol, atol=precision.rtol)
    assert not by_vote[2][2].any()  # the item without votes
    assert np.all(np.abs(by_vote[2][[0, 1, 3]]).max((1, 2)) > 0.05)
    np.testing.assert_allclose(by_vote[2].sum(-1), 0.0, atol=1e-5)  # logits of one network may be shifted


def test_elbo_and_concentrations_equal_the_oracle(float64):
    logits, votes = random_votes(5)
    alpha = np.array([0.7, 3.0, 20.0])
    rho, elbo, _ = infer("votes", logits, votes, alpha)
    # From the prior, as the guide starts.
    expected = [lda_mean_field(log_h, alpha, 2000, rho_init=alpha) for log_h in items(logits, votes)]
    np.testing.assert_allclose(rho, [e[1] for e in expected], rtol=1e-9)
    bounds = [lda_elbo(log_h, alpha, *e) for log_h, e in zip(items(logits, votes), expected, strict=True)]
    np.testing.assert_allclose(elbo, sum(bounds), rtol=1e-9)


@pytest.mark.parametrize("alpha", [0.5, 2.0, 50.0, 1e4])
def test_evidence_exceeds_the_elbo(float64, alpha):
    logits, votes = random_votes(6)
    coefficients = log_coefficients(counts_of(votes, 4))
    evidence = sum(lda_log_evidence(log_h, np.full(3, alpha)) for log_h in items(logits, votes))
    elbo = infer("votes", logits, votes, alpha)[1]
    gap = evidence - elbo
    assert gap > 0
    assert (gap < 1e-3) == (alpha == 1e4)  # u and z are independent where u is known
    np.testing.assert_allclose(infer("counts", logits, votes, alpha)[1] - coefficients, elbo, rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(1, 1, 3, 2), (3, 2, 3, 1), (3, 3, 3, 3)])
def test_axes_of_size_one_and_of_equal_size(float64, shape):
    """Items, clusters, categories, votes: the engine drops axes of size one, and may mix up equal ones."""
    num_items, num_clusters, num_categories, num_votes = shape
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((num_items, num_clusters, num_categories))
    votes = rng.integers(0, num_categories, (num_items, num_votes))
    alpha = np.linspace(2, 3, num_clusters)
    q = [lda_mean_field(log_h, alpha, 500, rho_init=alpha) for log_h in items(logits, votes)]
    expected = sum(lda_elbo(log_h, alpha, *qi) for log_h, qi in zip(items(logits, votes), q, strict=True))
    for form in FORMS:
        coefficients = log_coefficients(counts_of(votes, num_categories)) if form == "counts" else 0.0
        rho, elbo, _ = infer(form, logits, votes, alpha)
        np.testing.assert_allclose(elbo - coefficients, expected, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(np.broadcast_to(rho, (num_items, num_clusters)), [qi[1] for qi in q], rtol=1e-9)


@partial(jax.jit, static_argnames="sweeps")
def bounds(logits, data, sweeps):
    """ELBO after a number of sweeps, in this order."""
    model = partial(annotator_lda, clusters=Table(logits), alpha=table([0.6, 3.0, 20.0]))
    guides = [mean_field(model, tolerance=0.0, max_sweeps=s) for s in sweeps]
    return jnp.stack([-EnumELBO().loss(KEY, {}, model, guide, logits, **data) for guide in guides])


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_elbo_never_falls_in_a_sweep(float64, form):
    sweeps = (1, 2, 3, 4, 6, 10, 40)
    for number in range(5):
        logits, votes = random_votes(10 + number)
        found = bounds(table(2.0 * logits), given(form, votes, 4), sweeps)
        assert np.all(np.diff(found) > -1e-12)
        assert found[1] > found[0] + 1e-5
        alpha = np.array([0.6, 3.0, 20.0])
        for s, bound in zip(sweeps, found, strict=True):
            log_h = items(2.0 * logits, votes)
            q = [lda_mean_field(h, alpha, s, rho_init=alpha) for h in log_h]
            expected = sum(lda_elbo(h, alpha, *qi) for h, qi in zip(log_h, q, strict=True))
            if form == "votes":
                np.testing.assert_allclose(bound, expected, rtol=1e-9)
            else:  # z is at its optimum given the last u, where the votes' z is that of the u before
                assert bound - log_coefficients(counts_of(votes, 4)) >= expected - 1e-9
