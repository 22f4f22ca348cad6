"""Annotator urn: clusters of people from anonymous votes, where each person casts at most one."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from flax import nnx
from jax import Array
from jax.nn import log_sigmoid, log_softmax, one_hot

from pl2d_ppl.checks.declared import declares, vote_counts, votes
from pl2d_ppl.checks.votes import check_staff, check_votes
from pl2d_ppl.distributions.staff_votes import StaffVotes, right_votes
from pl2d_ppl.primitives import ENUMERATE, items, network

__all__ = ["annotator_urn", "cluster_probs"]


def cluster_probs(truth_probs: Array, skill: Array, errors: Array) -> Array:
    """Compute the probability that a person in a cluster gives a category, under an uncertain truth.

    Parameters
    ----------
    truth_probs : Array, shape (N, C)
        Probabilities of the truth, from the network or from a posterior given anonymous votes.
    skill : Array, shape (K, C)
        Logit of the probability of being right, by cluster and true category.
    errors : Array, shape (C, C)
        Logits of the category that a wrong vote names, by true category.

    Returns
    -------
    Array, shape (N, K, C)
        The probabilities.
    """
    right = truth_probs[:, None] * jax.nn.sigmoid(skill)
    return right + jnp.einsum("nky,yc->nkc", truth_probs[:, None] - right, jnp.exp(_log_errors(errors)))


def _log_errors(errors: Array) -> Array:
    return log_softmax(jnp.where(jnp.eye(len(errors), dtype=bool), -1e30, errors))


@declares(votes("votes", categories="cluster_logits"), vote_counts("counts"))
def annotator_urn(
    x: Array,
    votes: Array | None = None,
    counts: Array | None = None,
    *,
    truth: nnx.Module | Callable[..., nnx.Module],
    sizes: Sequence[int],
    num_votes: int | Array | None = None,
    num_items: int | None = None,
) -> None:
    """Generate the anonymous votes on an item, by a staff where each person votes at most once.

    ::

        skill_mean_k ~ Normal(between 2.5 and 0.5, 1)      of cluster k, in logits
        skill_kc     ~ Normal(skill_mean_k, 0.3)           on items of category c
        errors_cd    ~ Normal(0, 1)                        logit that a wrong vote on c says d

    and for every item i::

        y_i      ~ Categorical(truth(x_i))                 the truth, which is latent
        counts_i: of the M people some L_i, anybody, vote; one of cluster k says y_i with probability
                 sigmoid(skill_k,y), else something else, by errors_y

    This model differs from :func:`~pl2d_ppl.models.annotator_lda.annotator_lda` in two ways. (1) Votes agree because
    they are about the same truth, which is latent here, so that clusters need not explain agreement. (2) Nobody votes
    twice. The number of right votes then varies less, the more people differ, which identifies the clusters' skills.
    The model is LDA with alpha_k = -sizes_k, where the Polya urn of the Dirichlet becomes an urn without replacement.
    Only the prior links the skills of a cluster on different categories.

    About 20,000 items with six votes each determine skills to within .03. The spread of the skills is learned slowly,
    in a few thousand steps at a learning rate of .01.

    Sites: plates ``cluster`` (dim -2), ``category`` (dim -1), ``item`` (dim -2); latent ``skill_mean``, ``skill``,
    ``errors`` (guide: ``AutoDelta``) and ``y``; observed ``counts``; deterministic ``truth_logits`` (N, C),
    ``cluster_logits`` (N, K, C), normalised. Plate diagram: docs/models/annotator_urn.

    Parameters
    ----------
    x : array, shape (N, ...)
        Inputs.
    votes : array of int, shape (N, L), optional
        Anonymous votes, -1 where an item has fewer than L.
    counts : array of int, shape (N, C), optional
        Number of votes for each category, instead of ``votes``.
    truth : nnx.Module or callable
        Network from x to logits of shape (N, C); see :func:`~pl2d_ppl.networks.instantiate`.
    sizes : sequence of int, length K
        Number of people in each cluster, the most skilled first.
    num_votes : int or array of int, shape (N,), optional
        Number of votes to generate on each item, at most M, where neither votes nor counts are given. Without it no
        votes are generated: the program does not model how many people vote.
    num_items : int, optional
        Size of the whole data set when x is a mini-batch of it: weighs the items against the priors.
    """
    truth_logits = network("truth", truth, x, output="truth_logits")
    check_staff(truth_logits, sizes, votes, counts)
    num_categories = truth_logits.shape[-1]
    num_clusters = len(sizes)
    with numpyro.plate("cluster", num_clusters, dim=-2):
        typical = jnp.linspace(2.5, 0.5, num_clusters)[:, None]
        skill_mean = numpyro.sample("skill_mean", dist.Normal(typical, 1.0))
        with numpyro.plate("category", num_categories, dim=-1):
            skill = numpyro.sample("skill", dist.Normal(skill_mean, 0.3))
    with numpyro.plate("true_category", num_categories, dim=-2), numpyro.plate("category_said", num_categories, dim=-1):
        errors = numpyro.sample("errors", dist.Normal(0.0, 1.0))
    probs = cluster_probs(jax.nn.softmax(truth_logits), skill, errors)
    cluster_logits = numpyro.deterministic("cluster_logits", jnp.log(jnp.maximum(probs, 1e-30)))
    check_votes(cluster_logits, votes, counts)
    if votes is not None:
        counts = one_hot(votes, num_categories, dtype=jnp.int32).sum(1)
    num_votes = num_votes if counts is None else counts.sum(-1)
    log_right = right_votes(log_sigmoid(skill), log_sigmoid(-skill), sizes)

    with items(x, num_items):
        y = numpyro.sample("y", dist.Categorical(logits=truth_logits[:, None]), infer=dict(ENUMERATE))
        if num_votes is not None:
            said = StaffVotes(y, log_right[y], _log_errors(errors)[y], jnp.broadcast_to(num_votes, len(x))[:, None])
            numpyro.sample("counts", said, obs=None if counts is None else counts[:, None])
