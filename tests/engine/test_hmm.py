"""Hidden Markov chains, their sites written out: against the forward algorithm."""

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from engine.running import bound, double, draws
from programs import ENUMERATE
from scipy.special import logsumexp

from pl2d_ppl.engine.marginals import log_evidence, marginals
from pl2d_ppl.guides.exact import exact

RNG = np.random.default_rng(0)
K = 3
START, STEP = RNG.dirichlet(np.ones(K)), RNG.dirichlet(np.ones(K), K) * 0.5 + 0.5 * np.eye(K)
RATES = np.array([0.5, 2.0, 6.0])


def chain(seen):
    """Sites h0, h1, ... written out."""
    before = None
    for t, each in enumerate(seen):
        prior = double(START) if before is None else double(STEP)[before]
        before = numpyro.sample(f"h{t}", dist.Categorical(prior), infer=dict(ENUMERATE))
        numpyro.sample(f"x{t}", dist.Poisson(double(RATES)[before]), obs=each)


def forward_backward(seen):
    """Evidence, marginals, and probabilities of neighbours."""
    emission = np.stack([np.asarray(dist.Poisson(double(RATES)).log_prob(int(each))) for each in seen])
    ahead, behind = [np.log(START) + emission[0]], [np.zeros(K)]
    for each in emission[1:]:
        ahead.append(logsumexp(ahead[-1][:, None] + np.log(STEP), 0) + each)
    for each in emission[:0:-1]:
        behind.append(logsumexp(np.log(STEP) + each + behind[-1], 1))
    ahead, behind = np.array(ahead), np.array(behind[::-1])
    evidence = logsumexp(ahead[-1])
    pairs = ahead[:-1, :, None] + np.log(STEP) + (emission[1:] + behind[1:])[:, None]
    return evidence, np.exp(ahead + behind - evidence), np.exp(pairs - evidence)


def observed(length):
    return np.random.default_rng(1).poisson(RATES[(np.arange(length) // 7) % K])


@pytest.mark.slow
def test_evidence_and_bound_of_a_long_chain(float64):
    seen = observed(50)
    evidence, _, _ = forward_backward(seen)
    np.testing.assert_allclose(jax.jit(lambda: log_evidence(chain)(seen))(), evidence, rtol=1e-9)
    np.testing.assert_allclose(bound(chain, exact(chain), seen), evidence, rtol=1e-9)


def test_a_chain_of_more_sites_than_an_array_has_dimensions_is_refused():
    with pytest.raises(ValueError, match=r"at most 57 discrete latent sites .* found 'h57' .* markov"):
        log_evidence(chain)(observed(100))


@pytest.mark.slow
def test_draws_of_the_exact_guide(float64):
    seen = observed(30)
    _, expected, pairs = forward_backward(seen)
    found = draws(exact(chain), 20_000, seen)
    paths = np.stack([found[f"h{t}"] for t in range(30)], 1)
    np.testing.assert_allclose((paths[..., None] == np.arange(K)).mean(0), expected, atol=0.015)
    both = (paths[:, :-1, None, None] == np.arange(K)[:, None]) & (paths[:, 1:, None, None] == np.arange(K))
    np.testing.assert_allclose(both.mean(0), pairs, atol=0.015)


def test_marginals_of_a_short_chain(float64):
    seen = observed(8)
    evidence, expected, _ = forward_backward(seen)
    found = jax.jit(lambda: marginals(chain)(seen))()
    np.testing.assert_allclose([found[f"h{t}"] for t in range(8)], expected, rtol=1e-9)
    np.testing.assert_allclose(bound(chain, exact(chain), seen), evidence, rtol=1e-9)
