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
from numpyro.ops.indexing import Vindex

from pl2d_ppl.checks.concentration import check_concentration
from pl2d_ppl.checks.declared import concentration, declares, vote_counts, votes
from pl2d_ppl.checks.votes import check_vote_values, check_votes
from pl2d_ppl.distributions.vote_counts import VoteCounts
from pl2d_ppl.primitives import ENUMERATE, items, network, observe

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
    num_votes: int | None = None,
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
    prior; observed ``votes`` or ``counts``; deterministic ``cluster_logits`` (N, K, C), normalised, and with
    counts ``listed_probs`` (N, K, D), of the categories that got votes. Plate diagram: docs/models/annotator_lda.

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
    num_votes : int, optional
        Number of votes to generate on each item, where neither votes nor counts are given. Without it no votes are
        generated: the program does not model how many people vote.
    max_votes : int, optional
        For counts, the largest number of votes on an item, if it is less than C: it limits the number of distinct
        categories.
    num_items : int, optional
        Size of the whole data set when x is a mini-batch of it: weighs the items against a prior of alpha.

    References
    ----------
    Learning to Defer on Anonymously-Annotated Data, equations B.1 to B.29.
    """
    log_h = log_softmax(network("clusters", clusters, x))
    check_votes(log_h, votes, counts)
    check_vote_values(log_h.shape[-1], votes, counts, max_votes)
    cluster_logits = numpyro.deterministic("cluster_logits", log_h)
    num_clusters = cluster_logits.shape[1]
    if isinstance(alpha, dist.Distribution):
        alpha = numpyro.sample("alpha", alpha)
    alpha = jnp.asarray(check_concentration(alpha, num_clusters), log_h.dtype)
    num_votes = num_votes if votes is None else votes.shape[1]
    if counts is not None:  # of the listed categories only, and once instead of every sweep
        times, listed = jax.lax.top_k(counts, min(max_votes or counts.shape[1], counts.shape[1]))
        probs = jnp.exp(jnp.maximum(jnp.take_along_axis(cluster_logits, listed[:, None], axis=-1), LEAST))
        listed_probs = numpyro.deterministic("listed_probs", probs)

    with items(x, num_items):
        u = numpyro.sample("u", dist.Dirichlet(jnp.broadcast_to(alpha, (num_clusters,))))
        if counts is not None:
            mixture = jnp.einsum("nok,nkd->nod", u, listed_probs)
            numpyro.sample("counts", VoteCounts(mixture), obs=times[:, None])
        elif num_votes is not None:
            with numpyro.plate("vote", num_votes, dim=-1), mask(mask=True if votes is None else votes >= 0):
                z = numpyro.sample("z", dist.Categorical(probs=u), infer=dict(ENUMERATE))
                observe("votes", dist.Categorical(logits=Vindex(cluster_logits[:, None])[..., z, :]), votes)
