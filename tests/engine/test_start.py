"""Where coordinate ascent starts: ties are broken by the guide's key, and a modeller may say where."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from engine.running import bound, double, probs, traced
from numpyro.ops.indexing import Vindex
from programs import ENUMERATE
from scipy.special import digamma, gammaln, softmax, xlogy

from pl2d_ppl.guides.mean_field import mean_field

N, M, K = 30, 4, 3
RNG = np.random.default_rng(0)
TRUTH = np.arange(N) % K
VOTES = np.where(RNG.random((N, M)) < 0.85, TRUTH[:, None], RNG.integers(K, size=(N, M)))
FIRST = 0.8 * np.eye(K)[VOTES[:, 0]] + 0.2 / K  # what the first person says


def dawid_skene(votes):
    """NumPyro's own example: at symmetric priors, no category differs from another one."""
    with numpyro.plate("annotator", M, dim=-2), numpyro.plate("class", K, dim=-1):
        beta = numpyro.sample("beta", dist.Dirichlet(jnp.ones(K)))
    pi = numpyro.sample("pi", dist.Dirichlet(jnp.ones(K)))
    with numpyro.plate("item", N, dim=-1):
        c = numpyro.sample("c", dist.Categorical(pi), infer=dict(ENUMERATE))
        with numpyro.plate("position", M, dim=-2):
            rows = Vindex(beta)[jnp.arange(M)[:, None], c, :]
            numpyro.sample("y", dist.Categorical(rows), obs=votes.T)


def by_hand(q):
    """Coordinate ascent from q(c) on: q(c) and the bound."""

    def log_mean(rho):
        return digamma(rho) - digamma(rho.sum(-1, keepdims=True))

    def divergence(rho):
        norms = gammaln(rho).sum(-1) - gammaln(rho.sum(-1)) + gammaln(K)
        return (((rho - 1) * log_mean(rho)).sum(-1) - norms).sum()

    said = np.eye(K)[VOTES]
    for _ in range(400):
        of_beta, of_pi = 1 + np.einsum("ik,imc->mkc", q, said), 1 + q.sum(0)
        logits = log_mean(of_pi) + np.einsum("imc,mkc->ik", said, log_mean(of_beta))
        q = softmax(logits, 1)
    return q, (q * logits).sum() - xlogy(q, q).sum() - divergence(of_beta) - divergence(of_pi)


def converged(start=None):
    return mean_field(dawid_skene, start=start, tolerance=1e-9, max_sweeps=400)


def found(guide, key):
    q = np.asarray(probs(traced(guide, VOTES, key=key), "c")).reshape(N, K)
    return q, float(bound(dawid_skene, guide, VOTES, key=key))


def test_the_saddle_is_a_fixed_point(float64):
    """What the engine would find, if it did not break the tie."""
    _, saddle = by_hand(np.full((N, K), 1 / K))
    q, value = found(converged({"c": double(np.full(K, 1 / K))}), jax.random.key(0))
    np.testing.assert_allclose(q, 1 / K, rtol=1e-6)
    np.testing.assert_allclose(value, saddle, rtol=1e-7)


@pytest.mark.slow
def test_the_key_breaks_the_tie(float64):
    _, best = by_hand(FIRST)
    _, saddle = by_hand(np.full((N, K), 1 / K))
    results = [found(converged(), jax.random.key(i)) for i in (0, 0, 1, 2)]
    np.testing.assert_array_equal(results[0][0], results[1][0])
    assert min(value for _, value in results) > saddle + 10
    np.testing.assert_allclose(max(value for _, value in results), best, rtol=1e-6)
    assert any(np.any(q.argmax(1) != results[0][0].argmax(1)) for q, _ in results[2:])


@pytest.mark.slow
@pytest.mark.parametrize("turn", [0, 1])
def test_a_start_names_the_categories(float64, turn):
    """A permuted start ends in permuted categories."""
    start = np.roll(FIRST, turn, 1)
    expected, value = by_hand(start)
    q, reached = found(converged({"c": double(start)}), jax.random.key(0))
    np.testing.assert_allclose(q, expected, atol=1e-5)
    np.testing.assert_allclose(reached, value, rtol=1e-7)
    assert np.mean(q.argmax(1) == (TRUTH + turn) % K) > 0.9


@pytest.mark.slow
def test_a_start_of_the_concentrations(float64):
    """From people who are mostly right."""
    diagonal = np.broadcast_to(1 + 8 * np.eye(K), (M, K, K))
    q, value = found(converged({"beta": double(diagonal)}), jax.random.key(0))
    np.testing.assert_allclose(value, by_hand(FIRST)[1], rtol=1e-6)
    assert np.mean(q.argmax(1) == TRUTH) > 0.9


def test_where_nothing_is_tied_the_key_does_not_matter(float64):
    def program(votes):
        with numpyro.plate("item", N, dim=-2):
            c = numpyro.sample("c", dist.Categorical(probs=double([0.5, 0.3, 0.2])), infer=dict(ENUMERATE))
            with numpyro.plate("person", M, dim=-1):
                numpyro.sample("y", dist.Categorical(probs=(0.7 * jnp.eye(K) + 0.1)[c]), obs=votes)

    one, other = (traced(mean_field(program), VOTES, key=jax.random.key(i)) for i in range(2))
    np.testing.assert_array_equal(probs(one, "c"), probs(other, "c"))


@pytest.mark.parametrize("start", [{"c": np.ones((7, K)) / K}, {"pi": np.ones(K + 1)}])
def test_a_start_that_does_not_fit_is_refused(start):
    with pytest.raises(ValueError, match=f"start of site '{next(iter(start))}'"):
        traced(mean_field(dawid_skene, start=start), VOTES)


def test_a_start_of_a_site_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="'cc'"):
        traced(mean_field(dawid_skene, start={"cc": np.ones(K) / K}), VOTES)
