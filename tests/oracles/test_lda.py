"""Mean field of the annotator LDA rises below its evidence."""

import numpy as np
import pytest

from oracles.lda import lda_elbo, lda_log_evidence, lda_mean_field


@pytest.mark.parametrize("seed", range(4))
def test_lda_mean_field_rises_below_the_evidence(seed):
    rng = np.random.default_rng(seed)
    log_h = np.log(rng.dirichlet(np.ones(3), size=5))
    alpha = rng.uniform(0.5, 5, size=3)
    rho_init = alpha + rng.uniform(0, 3, size=3)
    elbos = []
    for sweeps in range(1, 9):
        zeta, rho = lda_mean_field(log_h, alpha, sweeps, rho_init)
        np.testing.assert_allclose(zeta.sum(axis=1), 1)
        np.testing.assert_allclose(rho, alpha + zeta.sum(axis=0))
        elbos.append(lda_elbo(log_h, alpha, zeta, rho))
    assert np.all(np.diff(elbos) >= -1e-12)
    assert elbos[-1] <= lda_log_evidence(log_h, alpha)
    zeta, rho = lda_mean_field(log_h, alpha, 500)
    best = lda_elbo(log_h, alpha, zeta, rho)
    for _ in range(20):  # a fixed point is a local maximum
        other = zeta * np.exp(1e-3 * rng.standard_normal(zeta.shape))
        other /= other.sum(axis=1, keepdims=True)
        assert lda_elbo(log_h, alpha, other, rho * np.exp(1e-3 * rng.standard_normal(3))) <= best + 1e-12


def test_lda_bound_is_tight_for_one_cluster():
    log_h = np.log([[0.2], [0.7]])
    zeta, rho = lda_mean_field(log_h, np.array([50.0]), 1)
    np.testing.assert_allclose(lda_elbo(log_h, np.array([50.0]), zeta, rho), log_h.sum())
    np.testing.assert_allclose(lda_log_evidence(log_h, np.array([50.0])), log_h.sum())
