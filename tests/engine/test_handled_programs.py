"""Programs within handlers: guides, evidence and bound speak of the same program, or it is refused by name."""

import itertools
import threading

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from engine.running import bound, double, nothing, probs, traced
from numpyro.handlers import condition, do, mask, scope, substitute
from programs import ENUMERATE
from scipy.special import logsumexp

from pl2d_ppl.engine.marginals import log_evidence, marginals
from pl2d_ppl.guides.exact import exact
from pl2d_ppl.guides.mean_field import mean_field

RAIN, SPRINKLER = np.array([0.8, 0.2]), np.array([[0.6, 0.4], [0.9, 0.1]])
WET = np.array([[0.05, 0.8], [0.9, 0.99]])
SEEN, GIVEN = np.array([1, 0, 1]), np.array([1, 0, 1])


def wet(seen):
    with numpyro.plate("item", 3):
        r = numpyro.sample("r", dist.Bernoulli(0.2), infer=dict(ENUMERATE))
        s = numpyro.sample("s", dist.Categorical(double(SPRINKLER)[r]), infer=dict(ENUMERATE))
        numpyro.sample("w", dist.Bernoulli(double(WET)[r, s]), obs=seen)


def joint(prior_of_s=SPRINKLER):
    """Probabilities of (item, r, s, what is seen)."""
    seen = np.stack([WET if w else 1 - WET for w in SEEN])
    return RAIN[:, None] * prior_of_s * seen


def check(program, table, site="r", axis=1):
    """Evidence and marginals of one site that is left."""
    evidence = np.log(table.sum((1, 2))).sum()
    expected = table.sum(3 - axis) / table.sum((1, 2))[:, None]
    np.testing.assert_allclose(log_evidence(program)(SEEN), evidence, rtol=1e-9)
    np.testing.assert_allclose(marginals(program, [site])(SEEN)[site], expected, rtol=1e-9)
    for guide in (exact(program), nothing):
        np.testing.assert_allclose(bound(program, guide, SEEN), evidence, rtol=1e-9)
    assert bound(program, mean_field(program), SEEN) <= evidence + 1e-9


@pytest.mark.parametrize("handler", [substitute, condition])
def test_a_given_site_counts_in_the_joint(float64, handler):
    at = np.arange(2) == GIVEN[:, None]
    check(handler(wet, data={"s": jnp.asarray(GIVEN)}), joint() * at[:, None])


def test_an_intervention_cuts_the_prior(float64):
    at = np.arange(2) == GIVEN[:, None]
    check(do(wet, data={"s": jnp.asarray(GIVEN)}), joint(np.ones((2, 2))) * at[:, None])


@pytest.mark.parametrize("guide", [exact, mean_field])
def test_a_guide_of_the_program_without_the_value_is_refused(guide):
    fixed = substitute(wet, data={"s": jnp.asarray(GIVEN)})
    with pytest.raises(ValueError, match="'s'"):
        bound(fixed, guide(wet), SEEN)


def test_a_scope_renames_sites_and_plates(float64):
    check(scope(wet, prefix="inner"), joint(), site="inner/r")


def test_a_scope_with_plates_as_they_are(float64):
    check(scope(wet, prefix="inner", hide_types=["plate"]), joint(), site="inner/r")


@pytest.mark.parametrize("guide", [exact, mean_field, lambda program: nothing], ids=["exact", "mean_field", "nothing"])
def test_masks_of_python_and_of_arrays_are_alike(float64, guide):
    def program(kept):
        with numpyro.plate("item", 3):
            z = numpyro.sample("z", dist.Categorical(jnp.array([0.2, 0.8])), infer=dict(ENUMERATE))
            with mask(mask=kept):
                numpyro.sample("x", dist.Normal(1.0 * z, 1.0), obs=jnp.zeros(3))

    for off, on in itertools.product((False, np.zeros(3, bool)), (True, np.ones(3, bool))):
        values = []
        for kept in (off, on):
            here = lambda kept=kept: program(kept)  # noqa: E731
            values.append(float(bound(here, guide(here))))
        seen = 3 * logsumexp(np.log([0.2, 0.8]) + dist.Normal(jnp.arange(2.0)).log_prob(0.0))
        np.testing.assert_allclose(values, [0.0, seen], atol=1e-6)


@pytest.mark.parametrize("kept", [False, np.zeros(3, bool)], ids=["bool", "array"])
def test_a_latent_that_is_masked_is_uniform(float64, kept):
    def program():
        with numpyro.plate("item", 3), mask(mask=kept):
            z = numpyro.sample("z", dist.Categorical(jnp.array([0.2, 0.8])), infer=dict(ENUMERATE))
            numpyro.sample("x", dist.Normal(1.0 * z, 1.0), obs=jnp.zeros(3))

    np.testing.assert_allclose(marginals(program)()["z"], 0.5, rtol=1e-9)
    for guide in (exact(program), mean_field(program)):
        np.testing.assert_allclose(probs(traced(guide), "z"), 0.5, rtol=1e-9)
        np.testing.assert_allclose(bound(program, guide), 0.0, atol=1e-9)


def test_a_latent_masked_by_another_latent(float64):
    """Where r is off, s is uniform and says nothing."""

    def program(seen):
        with numpyro.plate("item", 3):
            r = numpyro.sample("r", dist.Bernoulli(0.2), infer=dict(ENUMERATE))
            with mask(mask=r == 1):
                s = numpyro.sample("s", dist.Bernoulli(0.3), infer=dict(ENUMERATE))
            numpyro.sample("w", dist.Bernoulli(double(WET)[r, s]), obs=seen)

    check(program, joint(np.array([[0.5, 0.5], [0.7, 0.3]])))


def test_an_enumeration_inside_another_one(float64):
    """A program that asks for the evidence of another one, while its own sites are enumerated."""

    def outer(seen):
        inner = log_evidence(wet)(seen)
        assert inner.ndim == 0
        k = numpyro.sample("k", dist.Bernoulli(0.4), infer=dict(ENUMERATE))
        numpyro.factor("f", jnp.where(k == 1, inner, -1.0))

    of_wet = np.log(joint().sum((1, 2))).sum()
    expected = np.log(0.4 * np.exp(of_wet) + 0.6 * np.exp(-1.0))
    np.testing.assert_allclose(log_evidence(outer)(SEEN), expected, rtol=1e-9)
    np.testing.assert_allclose(bound(outer, exact(outer), SEEN), expected, rtol=1e-9)


def test_threads_one_after_the_other(float64):
    """What is traced in one thread leaves nothing behind in another one."""
    found = []
    for _ in range(2):
        thread = threading.Thread(target=lambda: found.append(jax.enable_x64(True)(log_evidence(wet))(SEEN)))
        thread.start()
        thread.join()
    np.testing.assert_allclose(found, np.log(joint().sum((1, 2))).sum(), rtol=1e-6)
