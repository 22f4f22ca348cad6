"""Annotator LDA: clusters of people from anonymous votes (paper B)."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from flax import nnx
from jax import Array
from jax.nn import log_softmax
from numpyro.handlers import mask

from pl2d_ppl.checks.concentration import check_concentration
from pl2d_ppl.checks.declared import concentration, declares, vote_counts, votes
from pl2d_ppl.checks.votes import check_vote_values, check_votes
from pl2d_ppl.distributions.vote_counts import VoteCounts
from pl2d_ppl.networks import apply_network

__all__ = ["annotator_lda"]

LEAST = -80.0  # least log-probability of a vote: its exp is still a normal float32


@declares(votes("votes", categories="cluster_logits"), vote_counts("counts"), concentration("alpha"))
def annotator_lda(
    x: Array,
    votes: Array | None = None,
    counts: Array | None = None,
    *,
    clusters: nnx.Module | Callable[..., nnx.Module],
    alpha: Any = 50.0,
    max_votes: int | None = None,
    num_items: int | None = None,
) -> None:
    """Generate the anonymous votes on an item: each by a person from one of K clusters.

    For every item i and vote l::

        u_i     ~ Dirichlet(alpha)              how much of the item each cluster votes on
        z_il    ~ Categorical(u_i)              the cluster of the vote
        vote_il ~ Categorical(h_z(x_i))         h_k = softmax of the k-th of the networks `clusters`

    With ``counts``, an item's votes are given as the number for each category. Votes for the same category are
    interchangeable, so that their clusters are summed out in the likelihood: counts_i ~ Multinomial(sum_k u_ik
    h_k(x_i)). The mean-field guide is the same, at a cost per item of distinct categories times K instead of votes
    times K.

    The clusters are weakly identified. Under a large alpha the votes of an item depend only on the mean of all h_k.
    Under a small alpha, clusters serve to explain why votes on an item agree, although votes agree because they are
    about the same truth. Compare several seeds before you trust a cluster; if the number of people is known, use
    :func:`~pl2d_ppl.models.annotator_urn.annotator_urn`, whose clusters are identified.

    Sites: plates ``item`` (dim -2) and ``vote`` (dim -1); latent ``u``, and with votes ``z``; ``alpha`` if it has a
    prior; observed ``votes`` or ``counts``; deterministic ``cluster_logits`` (N, K, C), normalised, and
    ``vote_logits``, ``vote_probs`` of the categories that got votes.

    Parameters
    ----------
    x : array, shape (N, ...)
        Inputs.
    votes : array of int, shape (N, L), optional
        Anonymous votes, -1 where an item has fewer than L.
    counts : array of int, shape (N, C), optional
        Number of votes for each category, instead of ``votes``.
    clusters : nnx.Module or callable
        K networks as one, from x to logits of shape (N, K, C), such as ``partial(Ensemble, member, K)``.
    alpha : float, array of shape (K,), or Distribution
        Concentration, preferably 2 or more; or its prior, such as ``dist.Gamma(2.0, 0.1).expand([K]).to_event(1)``. In
        that case pass a guide of alpha alone as ``continuous`` to ``mean_field``: ``normal(block(model, hide=["u"]))``.
    max_votes : int, optional
        For counts, the largest number of votes on an item, if it is less than C: it limits the number of distinct
        categories.
    num_items : int, optional
        Size of the whole data set when x is a mini-batch of it: weighs the items against a prior of alpha.

    References
    ----------
    Learning to Defer on Anonymously-Annotated Data, equations B.1 to B.29.
    """
    log_h = log_softmax(apply_network("clusters", clusters, x))
    check_votes(log_h, votes, counts)
    check_vote_values(log_h.shape[-1], votes, counts, max_votes)
    cluster_logits = numpyro.deterministic("cluster_logits", log_h)
    num_batch, num_clusters, _ = cluster_logits.shape
    if isinstance(alpha, dist.Distribution):
        alpha = numpyro.sample("alpha", alpha)
    alpha = jnp.asarray(check_concentration(alpha, num_clusters), log_h.dtype)
    alpha = jnp.broadcast_to(alpha, (num_clusters,))

    if counts is not None:
        times, listed = jax.lax.top_k(counts, min(max_votes or counts.shape[1], counts.shape[1]))
    elif votes is not None:
        listed = jnp.maximum(votes, 0)
    if votes is not None or counts is not None:  # its own site, so that it is computed once, not every sweep
        by_vote = jnp.take_along_axis(cluster_logits, listed[:, None], axis=-1)
        vote_logits = numpyro.deterministic("vote_logits", by_vote)
        vote_probs = numpyro.deterministic("vote_probs", jnp.exp(jnp.maximum(by_vote, LEAST)))

    with numpyro.plate("item", max(num_items or 0, num_batch), subsample_size=num_batch, dim=-2):
        u = numpyro.sample("u", dist.Dirichlet(alpha))
        if counts is not None:
            mixture = jnp.einsum("nok,nkd->nod", u, vote_probs)
            numpyro.sample("counts", VoteCounts(mixture), obs=times[:, None])
        elif votes is not None:
            with numpyro.plate("vote", votes.shape[1], dim=-1), mask(mask=votes >= 0):
                z = numpyro.sample("z", dist.Categorical(probs=u), infer={"enumerate": "parallel"})
                item, vote = jnp.ogrid[:num_batch, : votes.shape[1]]
                numpyro.factor("votes", vote_logits[item, z, vote])
