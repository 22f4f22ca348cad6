"""Place identified people among clusters that were found in anonymous votes."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from numpy.typing import ArrayLike, NDArray

from pl2d_ppl.clusters.fit import ClusterRun
from pl2d_ppl.models.membership import membership
from pl2d_ppl.people.membership import Membership
from pl2d_ppl.people.place import sample_membership

__all__ = ["given_votes", "place_people"]


def place_people(
    rng_key: jax.Array,
    run: ClusterRun,
    x: ArrayLike,
    counts: ArrayLike,
    annotations: ArrayLike,
    *,
    concentration: float = 0.3,
    people: Sequence[str] | None = None,
    voted: bool = True,
) -> Membership:
    """Place identified people among clusters, by NUTS.

    Parameters
    ----------
    rng_key : Array
        A typed key.
    run : ClusterRun
        The clusters.
    x : array, shape (N, ...)
        Inputs, in the form that the clusters were fitted to.
    counts : array of int, shape (N, C)
        Votes on the same items. With the urn they inform about the truth, and so about whether a person was right.
    annotations : array of int, shape (N, M)
        Annotations of identified people, -1 where missing.
    concentration : float
        Concentration of the Dirichlet prior of memberships; below one, people belong to few clusters.
    people : sequence of str, optional
        Names.
    voted : bool
        Whether these people's votes are among the counts.

    Returns
    -------
    Membership
        Posterior of everybody's membership.
    """
    x, counts, annotations = np.asarray(x), np.asarray(counts), np.asarray(annotations)
    if run.vote_model == "lda":
        annotated = (annotations >= 0).any(1)
        rows = np.flatnonzero(annotated) if annotated.any() else np.arange(1)
        probs, said = run.cluster_probs(x[rows]), annotations[rows]
    else:
        probs, said = given_votes(run, x, counts, annotations, voted=voted)
    names: dict[str, Any] = {"people": people, "clusters": [f"cluster {k}" for k in range(run.num_clusters)]}
    return sample_membership(rng_key, partial(membership, concentration=concentration), probs, said, **names)


def given_votes(
    run: ClusterRun, x: NDArray, counts: NDArray, annotations: NDArray, *, voted: bool = True
) -> tuple[NDArray, NDArray]:
    """Compute probabilities of categories in every cluster, given the votes of others.

    Parameters
    ----------
    run : ClusterRun
        The clusters, fitted with the urn.
    x : array, shape (N, ...)
        Inputs.
    counts : array of int, shape (N, C)
        Votes.
    annotations : array of int, shape (N, M)
        Annotations of people, -1 where missing.
    voted : bool
        Whether their votes are among the counts: each person's own vote is then subtracted.

    Returns
    -------
    tuple of array, shape (P, K, C) and (P, M)
        Probabilities, and annotations of one person per row, for each of P annotations; one empty row if there are
        none.
    """
    items, people = np.nonzero(annotations >= 0)
    if not items.size:
        return run.cluster_probs(x[:1], counts[:1]), np.full((1, annotations.shape[1]), -1, np.int32)
    said = annotations[items, people]
    others = counts[items].copy()
    own = np.arange(len(items))
    if voted:
        others[own, said] = np.maximum(others[own, said] - 1, 0)
    apart = np.full((len(items), annotations.shape[1]), -1, np.int32)
    apart[own, people] = said
    return run.cluster_probs(x[items], others), apart
