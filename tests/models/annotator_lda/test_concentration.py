"""The concentration alpha, its prior, and numbers far from one."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from cases.annotator_lda import (
    FORMS,
    KEY,
    concentrations,
    counts_of,
    given,
    infer,
    items,
    log_coefficients,
    random_votes,
)
from numpyro.handlers import block, seed, trace
from numpyro.infer.autoguide import AutoDelta
from oracles.lda import lda_elbo, lda_mean_field
from programs import Table, table, tree_allclose
from scipy.stats import gamma

from pl2d_ppl import EnumELBO
from pl2d_ppl.guides.mean_field import mean_field
from pl2d_ppl.models.annotator_lda import annotator_lda

SITES = ["u", "z"]


def prior_concentration(alpha, num_clusters=3):
    model = partial(annotator_lda, clusters=Table(np.zeros((4, num_clusters, 2), np.float32)), alpha=alpha)
    tr = trace(seed(model, KEY)).get_trace(jnp.zeros((4, 1)))
    return concentrations(tr)


@pytest.mark.parametrize("alpha", [2.5, 50, np.array([4.0]), [1.0, 2.0, 3.0]])
def test_forms_of_alpha(alpha):
    np.testing.assert_array_equal(prior_concentration(alpha), np.broadcast_to(alpha, (4, 3)))


@pytest.mark.slow
@pytest.mark.parametrize(("form", "num_items", "shared"), [("votes", 35, False), ("counts", None, True)])
def test_gradient_of_a_prior_of_alpha(float64, form, num_items, shared):
    logits, votes = random_votes(9)
    prior = dist.Gamma(2.0, 0.1) if shared else dist.Gamma(2.0, 0.1).expand([3]).to_event(1)
    model = partial(annotator_lda, clusters=Table(table(logits)), alpha=prior, num_items=num_items)
    guide = mean_field(model, continuous=AutoDelta(block(model, hide=SITES)), tolerance=0.0, max_sweeps=2000)
    data = {"x": jnp.zeros((7, 1)), **given(form, votes, 4)}
    seed(guide.continuous, KEY)(**data)

    @jax.jit
    def loss(alpha):
        return EnumELBO().loss(KEY, {"alpha_auto_loc": alpha}, model, guide, **data)

    def objective(alpha):
        """Bound at its optimum, and the prior; written by hand."""
        by_cluster = np.broadcast_to(alpha, 3)
        q = [lda_mean_field(log_h, by_cluster, 200, rho_init=by_cluster) for log_h in items(logits, votes)]
        total = sum(lda_elbo(log_h, by_cluster, *qi) for log_h, qi in zip(items(logits, votes), q, strict=True))
        total += log_coefficients(counts_of(votes, 4)) if form == "counts" else 0.0
        return -(num_items or 7) / 7 * total - gamma(2.0, scale=10.0).logpdf(alpha).sum()

    alpha = np.array(4.0) if shared else np.array([0.8, 4.0, 20.0])
    value, gradient = jax.value_and_grad(loss)(jnp.asarray(alpha))
    np.testing.assert_allclose(value, objective(alpha), rtol=1e-9)
    steps = np.array([1e-5 * alpha]) if shared else 1e-5 * np.diag(alpha)
    slope = [(objective(alpha + s) - objective(alpha - s)) / (2 * s.sum()) for s in steps]
    np.testing.assert_allclose(np.ravel(gradient), slope, rtol=1e-6, atol=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("alpha", "tolerance"),
    [
        (1e-4, 1e-2),
        (1.0, 1e-4),
        (1e3, 2e-2),
        pytest.param(1e5, 1e-1, marks=pytest.mark.xfail(strict=True, reason="gammaln(alpha) in float32")),
    ],
)
@pytest.mark.parametrize("form", FORMS)
def test_concentrations_far_from_one(form, alpha, tolerance):
    """ELBO of float32 against the oracle, absolutely, of seven items."""
    logits, votes = random_votes(15)
    _, elbo, gradient = infer(form, logits, votes, alpha, sweeps=500, tolerance=1e-6)
    with jax.enable_x64(True):
        _, expected, slope = infer(form, logits, votes, alpha)
    np.testing.assert_allclose(gradient, slope, atol=1e-3)
    np.testing.assert_allclose(elbo, expected, rtol=0, atol=tolerance)


@pytest.mark.slow
@pytest.mark.xfail(strict=True, reason="1 + (alpha - 1) is 0 in float32, no concentration")
@pytest.mark.parametrize("form", FORMS)
def test_a_tiny_concentration(form):
    logits, votes = random_votes(15)
    rho, elbo, _ = infer(form, logits, votes, 1e-8, sweeps=500, tolerance=1e-6)
    np.testing.assert_allclose(rho[2], 1e-8, rtol=1e-3)  # the item without votes
    assert np.isfinite(elbo)


LONE, PADDED = np.array([[0, 1, 1, 2]]), np.array([[1, 1, 2, -1]])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "sure", "votes"),
    [
        ("votes", [0], LONE),  # one cluster rules out what another explains
        ("counts", [0], LONE),
        ("votes", [0, 1], LONE),  # nobody explains a vote
        pytest.param(
            "counts", [0, 1], LONE, marks=pytest.mark.xfail(strict=True, reason="probabilities are floored at exp(-80)")
        ),
        ("votes", [0, 1], PADDED),  # nobody voted for what is ruled out
        ("counts", [0, 1], PADDED),
    ],
)
def test_networks_that_are_very_sure(form, sure, votes):
    """A network may give category 0 a log-probability for which float32 has no probability."""
    logits = np.zeros((1, 2, 3), np.float32)
    logits[0, sure, 0] = -100.0
    rho, elbo, gradient = infer(form, logits, votes, 2.5, sweeps=500, tolerance=1e-6)
    alpha = np.full(2, 2.5)
    q = lda_mean_field(items(logits, votes)[0], alpha, 2000, rho_init=alpha)
    expected = lda_elbo(items(logits, votes)[0], alpha, *q)
    expected += log_coefficients(counts_of(votes, 3)) if form == "counts" else 0.0
    np.testing.assert_allclose(elbo, expected, rtol=1e-4)
    np.testing.assert_allclose(rho[0], q[1], rtol=1e-4)
    assert np.isfinite(gradient).all()


@partial(jax.jit, static_argnames="max_votes")
def bound_of_counts(logits, counts, max_votes):
    model = partial(annotator_lda, clusters=Table(logits), alpha=2.5, max_votes=max_votes)
    guide = mean_field(model, tolerance=0.0, max_sweeps=500)

    def loss(values):
        return EnumELBO().loss(KEY, {"clusters$params": {"logits": values}}, model, guide, logits, counts=counts)

    return jax.value_and_grad(loss)(logits)


@pytest.mark.slow
@pytest.mark.parametrize("max_votes", [3, 20])
def test_categories_without_votes_may_be_left_out(float64, max_votes):
    logits, votes = random_votes(17, num_categories=6, num_votes=3)
    counts = jnp.asarray(counts_of(votes, 6))
    everything = bound_of_counts(table(logits), counts, None)
    tree_allclose(bound_of_counts(table(logits), counts, max_votes), everything, rtol=1e-9, atol=1e-9)
