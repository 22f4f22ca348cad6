r"""Exact log evidence of the annotator LDA, with all clusters of votes and the proportions u summed out.

The Dirichlet prior depends only on how many votes each cluster gave, :math:`n = (n_1, \dots, n_K)`, not on which votes.
The sum over the :math:`K^L` assignments of an item's votes therefore collapses to one over n:

.. math:: p(v_1, \dots, v_L \mid x) = \sum_{n: \sum_k n_k = L} [y^n] \prod_l \sum_k h_k(v_l \mid x) \, y_k \;
          \frac{\prod_k \alpha_k^{(n_k)}}{\alpha_0^{(L)}},

where :math:`[y^n]` takes the coefficient of :math:`\prod_k y_k^{n_k}`, :math:`a^{(n)} = a (a + 1) \cdots (a + n - 1)`
and :math:`\alpha_0 = \sum_k \alpha_k`. The polynomial is built up vote by vote; its coefficients after l votes are
indexed by the counts of the first K - 1 clusters, since the last cluster has the remaining votes.
"""

import itertools
import math
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.nn import logsumexp
from numpy.typing import NDArray

from pl2d_ppl.checks.concentration import check_concentration
from pl2d_ppl.checks.labels import check_labels
from pl2d_ppl.checks.probabilities import check_probabilities
from pl2d_ppl.checks.votes import check_votes

__all__ = ["evidence_states", "lda_evidence"]

IMPOSSIBLE = -1e30  # replaces ln 0, where gradients of logsumexp would be NaN
CHUNK = 2**24  # coefficients that a backward pass holds at once: 64 MiB in float32


def evidence_states(num_votes: int, num_clusters: int) -> int:
    """Count the states of the sum over assignments, which is the cost of the exact evidence.

    Parameters
    ----------
    num_votes : int
        Number of votes on an item, L, including padding.
    num_clusters : int
        Number of clusters, K.

    Returns
    -------
    int
        The binomial coefficient of L + K - 1 over K - 1. An item takes about L K times as many operations.

    Raises
    ------
    ValueError
        If there is no cluster or a negative number of votes.
    """
    if num_votes < 0 or num_clusters < 1:
        raise ValueError(
            f"Expected at least 0 votes and 1 cluster, found num_votes={num_votes} and num_clusters={num_clusters}. "
            "Take them from the shapes of votes (N, L) and cluster_log_probs (N, K, C)."
        )
    return math.comb(num_votes + num_clusters - 1, num_clusters - 1)


def lda_evidence(votes: Any, cluster_log_probs: Any, alpha: Any, *, max_states: int = 5000) -> Array:
    """Sum the annotator LDA over its latent sites: u ~ Dirichlet(alpha), z_l ~ Categorical(u), vote_l ~ h_{z_l}.

    The result is the log-probability of the votes in their order, like the evidence lower bound of votes. A bound of
    counts also includes the multinomial coefficient of every item. The result is differentiable in the probabilities
    and in alpha.

    Parameters
    ----------
    votes : array of int, shape (N, L)
        Anonymous votes, -1 where an item has fewer than L. Convert counts by
        :func:`~pl2d_ppl.data.votes.votes_of_counts`.
    cluster_log_probs : array, shape (N, K, C)
        ln h_k(c | x_i), normalised over c; -inf is allowed.
    alpha : float or array of shape (K,)
        Concentration.
    max_states : int
        Refuse problems with more states than this; see :func:`evidence_states`. The default admits 51 votes in 3
        clusters, but not in 4.

    Returns
    -------
    Array, shape (N,)
        ln p(votes_i | x_i): 0 for an item without votes, -inf for impossible votes.

    Raises
    ------
    ValueError
        If shapes disagree or there are more states than `max_states`. Unless they are traced, also if votes are not
        categories, log-probabilities are not normalised, or alpha is not positive.

    References
    ----------
    Learning to Defer on Anonymously-Annotated Data, appendix B.1: the evidence that equation B.45 stands for.
    """
    votes, log_h = jnp.asarray(votes), jnp.asarray(cluster_log_probs)
    check_votes(log_h, votes, None)
    num_votes, num_clusters = votes.shape[1], log_h.shape[1]
    num_states = evidence_states(num_votes, num_clusters)
    if num_states > max_states:
        raise ValueError(
            f"Expected at most max_states={max_states} states, found {num_states} for {num_votes} votes in "
            f"{num_clusters} clusters. Raise max_states if you can wait, or use the evidence lower bound."
        )
    _check_values(votes, log_h)
    alpha = jnp.asarray(check_concentration(alpha, num_clusters), log_h.dtype)
    return _evidence(votes, log_h, jnp.broadcast_to(alpha, (num_clusters,)))


def _check_values(votes: Array, log_h: Array) -> None:
    """Check the arguments that are not traced."""
    if not jnp.issubdtype(log_h.dtype, jnp.floating):
        raise ValueError(f"Expected log-probabilities as floats, found {log_h.dtype}. Pass log_softmax of logits.")
    if not isinstance(votes, jax.core.Tracer):
        check_labels("votes", votes, num_categories=log_h.shape[2])
    if not isinstance(log_h, jax.core.Tracer) and log_h.size:
        check_probabilities("exp(log_h)", np.exp(np.asarray(log_h)), "NKC", hint="Pass log_softmax of logits.")


@jax.jit
def _evidence(votes: Array, log_h: Array, alpha: Array) -> Array:
    """Compute the evidence of all items, one chunk after the other."""
    (num_items, num_votes), num_clusters = votes.shape, log_h.shape[1]
    given = jnp.take_along_axis(log_h, jnp.maximum(votes, 0)[:, None], axis=2)  # (N, K, L)
    given = jnp.maximum(given, IMPOSSIBLE)
    states, previous = _states(num_votes, num_clusters)
    size = min(max(CHUNK // (len(states) * max(num_votes, 1)), 8), max(num_items, 1))
    num_chunks = -(-num_items // size)
    padding = num_chunks * size - num_items
    votes = jnp.pad(votes, ((0, padding), (0, 0)), constant_values=-1)
    given = jnp.pad(given, ((0, padding), (0, 0), (0, 0)))

    # Items come last, so that looking up states moves whole rows. In the backward pass, checkpoints recompute a chunk,
    # and then a vote: memory is that of the coefficients of one chunk.
    seen = (votes >= 0).reshape(num_chunks, size, num_votes).transpose(0, 2, 1)
    given = given.reshape(num_chunks, size, num_clusters, num_votes).transpose(0, 3, 2, 1)
    prior = _log_rising(alpha / alpha.sum(), alpha.sum(), num_votes)
    total = _log_rising(jnp.ones((), alpha.dtype), alpha.sum(), num_votes)
    chunk = jax.checkpoint(partial(_chunk_evidence, states, previous, prior, total))
    log_p = jax.lax.map(lambda arrays: chunk(*arrays), (seen, given)).reshape(-1)[:num_items]
    return jnp.where(log_p < IMPOSSIBLE / 10, -jnp.inf, log_p)


def _chunk_evidence(states: NDArray, previous: NDArray, prior: Array, total: Array, seen: Array, given: Array) -> Array:
    """Evidence of some items, shape (B,), from seen (L, B) and given (L, K, B)."""
    num_states, num_items = len(states), seen.shape[1]

    @jax.checkpoint
    def step(coefficients: Array, vote: tuple[Array, Array]) -> tuple[Array, None]:
        seen, given = vote
        terms = [
            coefficients.at[rows].get(mode="fill", fill_value=IMPOSSIBLE) + by_cluster
            for rows, by_cluster in zip(previous, given[:-1], strict=True)
        ]
        terms.append(coefficients + given[-1])  # the last cluster gives the vote; its count is implied
        # A logsumexp of finite terms, which the compiler fuses: four times as fast as on their stack.
        highest = jax.lax.stop_gradient(reduce(jnp.maximum, terms))
        log_sum = highest + jnp.log(sum(jnp.exp(term - highest) for term in terms))
        return jnp.where(seen, log_sum, coefficients), None

    start = jnp.full((num_states, num_items), IMPOSSIBLE, given.dtype).at[0].set(0.0)
    coefficients, _ = jax.lax.scan(step, start, (seen, given))
    num_votes = seen.sum(0)
    rest = jnp.maximum(num_votes - states.sum(1)[:, None], 0)  # negative only in unreachable states
    weight = sum((prior[k, count][:, None] for k, count in enumerate(states.T)), start=prior[-1, rest])
    return logsumexp(coefficients + weight, axis=0) - total[num_votes]


def _log_rising(share: Array, scale: Array, num_votes: int) -> Array:
    """Logarithm of the rising factorial of ``share * scale``, over ``scale**n``; shape (..., L + 1) for n = 0..L.

    The power cancels between numerator and denominator. Leaving it and gammaln out avoids differences of large numbers
    in float32, even for large alpha.
    """
    factors = jnp.log(share[..., None] + jnp.arange(num_votes, dtype=scale.dtype) / scale)
    zero = jnp.zeros((*share.shape, 1), scale.dtype)
    return jnp.concatenate([zero, jnp.cumsum(factors, -1)], -1)


def _states(num_votes: int, num_clusters: int) -> tuple[NDArray, NDArray]:
    """Counts of the first K - 1 clusters, shape (S, K - 1), and the rows with one vote less, shape (K - 1, S).

    The first row has no votes; S marks a row that does not exist.
    """
    bars = list(itertools.combinations(range(num_votes + num_clusters - 1), num_clusters - 1))
    # The number of stars between two bars is the number of votes of a cluster.
    states = np.diff(np.array(bars, int).reshape(len(bars), -1), axis=1, prepend=-1) - 1
    rows = {tuple(state): row for row, state in enumerate(states.tolist())}
    fewer = states - np.eye(num_clusters - 1, dtype=int)[:, None]
    previous = [[rows.get(tuple(state), len(states)) for state in by_cluster] for by_cluster in fewer.tolist()]
    return states, np.array(previous, int).reshape(num_clusters - 1, len(states))
