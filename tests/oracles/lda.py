"""Annotator LDA (section 2): mean field, its bound, and the evidence by sums over assignments."""

import itertools

import numpy as np
from scipy.special import digamma, gammaln, logsumexp, softmax, xlogy

Array = np.ndarray


def lda_mean_field(log_h: Array, alpha: Array, sweeps: int, rho_init: Array | None = None) -> tuple[Array, Array]:
    """Mean field of one item in the annotator LDA (B.13, B.16): zeta first, then rho, each sweep.

    Parameters
    ----------
    log_h : array of float, shape (L, K)
        ln h_k(vote_l | x); leave padded votes out.
    alpha : array of float, shape (K,)
    sweeps : int
        At least 1.
    rho_init : array of float, shape (K,), optional
        By default alpha + L / K.

    Returns
    -------
    zeta : array of float, shape (L, K)
    rho : array of float, shape (K,)
        ``alpha + zeta.sum(0)`` for the zeta returned.
    """
    if sweeps < 1:
        raise ValueError(f"sweeps must be at least 1, got {sweeps}")
    log_h, alpha = np.asarray(log_h, np.float64), np.asarray(alpha, np.float64)
    votes, clusters = log_h.shape
    rho = alpha + votes / clusters if rho_init is None else np.asarray(rho_init, np.float64)
    zeta = np.empty_like(log_h)
    for _ in range(sweeps):
        zeta = softmax(log_h + digamma(rho) - digamma(rho.sum()), axis=1)
        rho = alpha + zeta.sum(axis=0)
    return zeta, rho


def lda_elbo(log_h: Array, alpha: Array, zeta: Array, rho: Array) -> float:
    """Evidence lower bound of one item of the annotator LDA for any zeta (L, K) and rho (K,)."""
    log_h, alpha = np.asarray(log_h, np.float64), np.asarray(alpha, np.float64)
    mean_log_u = digamma(rho) - digamma(np.sum(rho))

    def log_normaliser(a: Array) -> float:
        return float(np.sum(gammaln(a)) - gammaln(np.sum(a)))

    log_p = np.sum(zeta * (log_h + mean_log_u)) + (alpha - 1) @ mean_log_u - log_normaliser(alpha)
    entropy = -np.sum(xlogy(zeta, zeta)) - ((rho - 1) @ mean_log_u - log_normaliser(rho))
    return float(log_p + entropy)


def lda_log_evidence(log_h: Array, alpha: Array) -> float:
    """Exact ln p(votes | x) of one item: all K^L assignments, u integrated out (Dirichlet-multinomial)."""
    log_h, alpha = np.asarray(log_h, np.float64), np.asarray(alpha, np.float64)
    votes, clusters = log_h.shape
    terms = []
    for z in itertools.product(range(clusters), repeat=votes):
        counts = np.bincount(np.array(z, int), minlength=clusters)
        prior = np.sum(gammaln(alpha + counts) - gammaln(alpha)) + gammaln(alpha.sum()) - gammaln(alpha.sum() + votes)
        terms.append(prior + sum(log_h[vote, cluster] for vote, cluster in enumerate(z)))
    return float(logsumexp(terms))
