"""The oracle by brute force against closed forms and against NumPyro's own enumeration."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from engine.random_checks import Case
from engine.random_specs import Plate, Program, Site
from numpyro import handlers
from numpyro.contrib.funsor import config_enumerate, enum, log_density
from oracles.brute_force import BruteForce
from scipy.special import betaln, logsumexp

X = np.array([0.5, 1.2, -0.3], np.float32)
LOG_PRIOR = np.log([0.3, 0.7])


def mixture(x, latent=1.0, observed=1.0, full=3, mask=True, seen=True):
    with numpyro.plate("N", full, subsample_size=3):
        with handlers.scale(scale=latent), handlers.mask(mask=mask):
            z = numpyro.sample("z", dist.Categorical(probs=jnp.array([0.3, 0.7])))
        with handlers.scale(scale=observed), handlers.mask(mask=seen):
            numpyro.sample("x", dist.Normal(z * 1.0, 1.0), obs=x)


def log_joint(prior=LOG_PRIOR):
    """Log p(z, x) of each item, (items, values)."""
    log_normal = -0.5 * (X.astype(float)[:, None] - np.arange(2)) ** 2 - 0.5 * np.log(2 * np.pi)
    return log_normal + prior


def test_a_mixture_has_the_evidence_and_the_posterior_of_its_closed_form():
    oracle = BruteForce(mixture, kwargs={"x": X})
    assert oracle.evidence == pytest.approx(logsumexp(log_joint(), -1).sum(), rel=1e-7)
    posterior = np.exp(log_joint() - logsumexp(log_joint(), -1, keepdims=True))
    np.testing.assert_allclose(oracle.marginal("z"), posterior, rtol=1e-6)
    assert oracle.elbo({"z": posterior}) == pytest.approx(oracle.evidence, rel=1e-7)


def test_a_subsample_counts_as_its_full_size():
    oracle = BruteForce(mixture, kwargs={"x": X, "full": 12})
    assert oracle.evidence == pytest.approx(4 * logsumexp(log_joint(), -1).sum(), rel=1e-7)


def test_a_weighted_item_counts_as_often_as_its_weight():
    weights = np.array([0.5, 1.0, 3.0], np.float32)
    oracle = BruteForce(mixture, kwargs={"x": X, "latent": weights, "observed": weights})
    assert oracle.evidence == pytest.approx((weights * logsumexp(log_joint(), -1)).sum(), rel=1e-7)


def test_the_evidence_with_two_scales_is_the_greatest_elbo():
    oracle = BruteForce(mixture, kwargs={"x": X, "latent": 2.0})
    terms = log_joint() + LOG_PRIOR
    assert oracle.evidence == pytest.approx(2 * logsumexp(terms / 2, -1).sum(), rel=1e-7)
    best = oracle.marginal("z")
    assert oracle.elbo({"z": best}) == pytest.approx(oracle.evidence, rel=1e-7)
    assert oracle.elbo({"z": 0.9 * best + 0.05}) < oracle.evidence


def test_a_masked_latent_is_uniform_and_adds_nothing_to_the_evidence():
    mask = np.array([True, False, True])
    oracle = BruteForce(mixture, kwargs={"x": X, "mask": mask, "seen": mask})
    assert oracle.evidence == pytest.approx(logsumexp(log_joint(), -1)[mask].sum(), rel=1e-7)
    np.testing.assert_allclose(oracle.marginal("z")[1], 0.5)
    uniform = BruteForce(mixture, kwargs={"x": X, "mask": False})
    assert uniform.evidence == pytest.approx(logsumexp(log_joint(np.log([0.5, 0.5])), -1).sum(), rel=1e-7)


def test_a_dirichlet_is_integrated():
    def model(counted):
        u = numpyro.sample("u", dist.Dirichlet(jnp.array([1.0, 3.0])))
        with numpyro.plate("N", 5):
            numpyro.sample("x", dist.Categorical(probs=u), obs=counted)

    oracle = BruteForce(model, kwargs={"counted": np.array([0, 0, 1, 1, 1])})
    assert oracle.evidence == pytest.approx(betaln(1 + 2, 3 + 3) - betaln(1, 3), rel=1e-7)


def test_a_substituted_site_keeps_its_log_probability_and_an_intervention_does_not():
    given = {"z": np.array([1, 0, 1])}
    expected = log_joint()[np.arange(3), given["z"]]
    for handler in (handlers.substitute, handlers.condition):
        assert BruteForce(handler(mixture, data=given), kwargs={"x": X}).evidence == pytest.approx(expected.sum())
    done = BruteForce(handlers.do(mixture, data=given), kwargs={"x": X})
    assert done.evidence == pytest.approx((expected - LOG_PRIOR[given["z"]]).sum())


@pytest.mark.parametrize("dims", ["auto", "left", "gap", "mixed"])
@pytest.mark.parametrize("use", ["table", "vindex", "arithmetic"])
def test_generated_programs_have_the_evidence_of_numpyros_enumeration(dims, use):
    plates = (Plate("P0", 2), Plate("P1", 2, outer="P0"))
    sites = (
        Site("z0", "categorical"),
        Site("z1", "binomial", "P0", ("z0",), use),  # NumPyro's enumeration is wrong for supports that start at 1
        Site("z2", "ordered_logistic", "P1", ("z1", "z0"), use, param="theta"),
        Site("x3", "normal_vector", "P1", ("z2", "z1"), use, observed=True, mask="array"),
        Site("x4", "poisson", "P0", ("z1",), use, observed=True, param="rate"),
    )
    case = Case(Program(plates, sites, dims=dims, seed=1))
    model = enum(config_enumerate(handlers.seed(case.model, 0)), first_available_dim=-4)
    found, _ = log_density(model, (), jax.tree.map(jnp.asarray, case.kwargs), case.params)
    assert float(found) == pytest.approx(case.oracle.evidence, rel=1e-5)
