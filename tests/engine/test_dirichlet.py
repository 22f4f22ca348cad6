"""Dirichlet sites: conjugate uses are right, others are refused."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from engine.running import bound, double, probs, traced
from programs import ENUMERATE
from scipy.special import digamma, gammaln, logsumexp, softmax, xlogy

from pl2d_ppl.guides.mean_field import mean_field

ALPHA = np.array([0.5, 2.0, 1.0])
Y = np.array([0, 2, 2, 1, 0, 0, 2])
COUNTS = np.bincount(Y, minlength=3)
ITEMS = np.array([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.2, 0.2, 0.6]])  # what each component says


def log_norm(alpha):
    return gammaln(alpha).sum(-1) - gammaln(alpha.sum(-1))


def log_mean(rho):
    return digamma(rho) - digamma(rho.sum(-1, keepdims=True))


def converged(program):
    return mean_field(program, tolerance=1e-10, max_sweeps=500)


def found(program, *args):
    tr = traced(converged(program), *args)
    return np.asarray(tr["u"]["fn"].concentration), bound(program, converged(program), *args)


def test_observed_categories(float64):
    def program():
        u = numpyro.sample("u", dist.Dirichlet(double(ALPHA)))
        with numpyro.plate("item", len(Y)):
            numpyro.sample("y", dist.Categorical(probs=u), obs=Y)

    rho, value = found(program)
    np.testing.assert_allclose(rho, ALPHA + COUNTS, rtol=1e-9)
    np.testing.assert_allclose(value, log_norm(ALPHA + COUNTS) - log_norm(ALPHA), rtol=1e-9)


def test_counts(float64):
    def program():
        u = numpyro.sample("u", dist.Dirichlet(double(ALPHA)))
        numpyro.sample("counts", dist.Multinomial(len(Y), probs=u), obs=COUNTS)

    rho, value = found(program)
    several = gammaln(len(Y) + 1) - gammaln(COUNTS + 1).sum()
    np.testing.assert_allclose(rho, ALPHA + COUNTS, rtol=1e-9)
    np.testing.assert_allclose(value, log_norm(ALPHA + COUNTS) - log_norm(ALPHA) + several, rtol=1e-9)


def with_choice():
    u = numpyro.sample("u", dist.Dirichlet(double(ALPHA)))
    with numpyro.plate("item", len(Y)):
        z = numpyro.sample("z", dist.Categorical(probs=u), infer=dict(ENUMERATE))
        numpyro.sample("y", dist.Categorical(probs=double(ITEMS)[z]), obs=Y)


def choice_summed_out():
    u = numpyro.sample("u", dist.Dirichlet(double(ALPHA)))
    with numpyro.plate("item", len(Y)):
        numpyro.sample("y", dist.Categorical(probs=u @ double(ITEMS)), obs=Y)


@pytest.mark.parametrize("program", [with_choice, choice_summed_out])
def test_a_choice_and_its_sum_have_the_same_bound(float64, program):
    """The posterior of the choice given E[ln u] is its best distribution, so that both are LDA's updates."""
    rho = ALPHA + len(Y) / 3
    for _ in range(500):
        zeta = softmax(np.log(ITEMS[:, Y]).T + log_mean(rho), 1)
        rho = ALPHA + zeta.sum(0)
    expected = (zeta * (np.log(ITEMS[:, Y]).T + log_mean(rho))).sum() - xlogy(zeta, zeta).sum()
    expected += (ALPHA - rho) @ log_mean(rho) + log_norm(rho) - log_norm(ALPHA)
    concentration, value = found(program)
    np.testing.assert_allclose(concentration, rho, rtol=1e-6)
    np.testing.assert_allclose(value, expected, rtol=1e-8)


def test_the_chosen_concentration(float64):
    """u ~ Dirichlet(alpha[k]): the bound lies below the evidence, rises, and ends where both updates rest."""
    alphas, prior = np.array([[4.0, 1.0, 1.0], [1.0, 1.0, 3.0]]), np.array([0.7, 0.3])

    def program():
        k = numpyro.sample("k", dist.Categorical(double(prior)), infer=dict(ENUMERATE))
        u = numpyro.sample("u", dist.Dirichlet(double(alphas)[k]))
        with numpyro.plate("item", len(Y)):
            numpyro.sample("y", dist.Categorical(probs=u), obs=Y)

    evidence = logsumexp(np.log(prior) + log_norm(alphas + COUNTS) - log_norm(alphas))
    bounds = [bound(program, mean_field(program, tolerance=0.0, max_sweeps=n)) for n in range(1, 7)]
    assert max(bounds) <= evidence + 1e-9
    assert np.all(np.diff(bounds) >= -1e-9)
    rho, value = found(program)
    q = np.asarray(probs(traced(converged(program)), "k")).ravel()
    np.testing.assert_allclose(rho, q @ alphas + COUNTS, rtol=1e-7)
    np.testing.assert_allclose(q, softmax(np.log(prior) - log_norm(alphas) + alphas @ log_mean(rho)), rtol=1e-7)
    own = (q @ alphas + COUNTS - rho) @ log_mean(rho) + log_norm(rho) + q @ (np.log(prior) - log_norm(alphas))
    np.testing.assert_allclose(value, own - xlogy(q, q).sum(), rtol=1e-8)


def coin(u):
    numpyro.sample("used", dist.Bernoulli(probs=u[..., 1]), obs=1)


def child(u):
    numpyro.sample("used", dist.Dirichlet(5.0 * u), obs=jnp.array([0.2, 0.3, 0.5]))


def regression(u):
    numpyro.sample("used", dist.Normal(u @ jnp.arange(3.0), 1.0), obs=0.5)


def logits(u):
    numpyro.sample("used", dist.Categorical(logits=2.0 * u), obs=1)


def squared(u):
    numpyro.sample("used", dist.Categorical(probs=u**2 / (u**2).sum(-1, keepdims=True)), obs=1)


def ordered(u):
    numpyro.sample("used", dist.Bernoulli(probs=jnp.cumsum(u, -1)[..., 1]), obs=1)


def penalty(u):
    numpyro.factor("used", -(u**2).sum(-1))


def latent_coin(u):
    numpyro.sample("used", dist.Bernoulli(probs=u[..., 1]), infer=dict(ENUMERATE))


@pytest.mark.parametrize("use", [coin, child, regression, logits, squared, ordered, penalty, latent_coin])
def test_other_uses_are_refused(use):
    def program():
        use(numpyro.sample("u", dist.Dirichlet(jnp.array([1.0, 2.0, 1.0]))))

    with pytest.raises(ValueError, match=r"'used' .* 'u' .*continuous="):
        bound(program, mean_field(program))


def test_log_probabilities_as_logits(float64):
    """logits=ln u are normalised, but ln u is already: right, or refused with the name of the site."""

    def program():
        u = numpyro.sample("u", dist.Dirichlet(double(ALPHA)))
        with numpyro.plate("item", len(Y)):
            numpyro.sample("y", dist.Categorical(logits=jnp.log(u)), obs=Y)

    try:
        rho, value = found(program)
    except ValueError as error:
        assert "'u'" in str(error)  # noqa: PT017
    else:
        np.testing.assert_allclose(rho, ALPHA + COUNTS, rtol=1e-9)
        np.testing.assert_allclose(value, log_norm(ALPHA + COUNTS) - log_norm(ALPHA), rtol=1e-9)


def test_two_sites_whose_product_is_used(float64):
    """Each alone is conjugate, but E[ln] of both enters as a sum: the bound stays below the evidence, by quadrature."""
    one, other = np.array([1.0, 2.0]), np.array([3.0, 1.0])

    def program():
        u = numpyro.sample("u", dist.Dirichlet(double(one)))
        v = numpyro.sample("v", dist.Dirichlet(double(other)))
        z = numpyro.sample("z", dist.Categorical(probs=u), infer=dict(ENUMERATE))
        numpyro.sample("y", dist.Categorical(probs=jnp.where((z == 0)[..., None], v, v[..., ::-1])), obs=0)

    u, v = one / one.sum(), other / other.sum()
    evidence = np.log(u[0] * v[0] + u[1] * v[1])
    value = bound(program, converged(program))
    assert evidence - 1.0 < value <= evidence + 1e-9


def test_a_dirichlet_of_each_person(float64):
    said = np.array([[0, 1], [0, 2], [1, 2], [0, 2]])

    def program():
        with numpyro.plate("person", 2):
            u = numpyro.sample("u", dist.Dirichlet(double(ALPHA)))
            with numpyro.plate("item", 4):
                numpyro.sample("said", dist.Categorical(probs=u), obs=said)

    counts = np.stack([np.bincount(column, minlength=3) for column in said.T])
    rho, value = found(program)
    np.testing.assert_allclose(rho, ALPHA + counts, rtol=1e-9)
    np.testing.assert_allclose(value, (log_norm(ALPHA + counts) - log_norm(ALPHA)).sum(), rtol=1e-9)
