"""Metrics of a partition of people: agreement with true groups, and distances between memberships.

Everything here is computed on the host, in float64. A membership has one row per cluster and one column per person, and
its columns sum to one; a hard partition has only zeros and ones.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pl2d_ppl.checks.probabilities import check_probabilities

__all__ = ["cosine_dissimilarity", "partition_scores", "within_group_spread"]


def partition_scores(groups: ArrayLike, membership: ArrayLike) -> dict[str, float]:
    """Compute the agreement of a partition with the true groups, corrected for chance.

    Each person is assigned to the cluster of their largest membership, the first of tied ones. Neither score depends on
    how groups and clusters are numbered; both are 1 for equal partitions, and 0 on average for a random one.

    Parameters
    ----------
    groups : array of int, shape (M,)
        True group of each person.
    membership : array of float, shape (K, M)
        Soft or hard memberships.

    Returns
    -------
    dict of str to float
        ``ari``, the adjusted Rand index, and ``ami``, the adjusted mutual information with the arithmetic mean of
        the entropies.

    Raises
    ------
    ValueError
        If shapes disagree or columns are not memberships.

    References
    ----------
    Hubert and Arabie, "Comparing partitions", Journal of Classification 2, 1985. Vinh, Epps and Bailey,
    "Information theoretic measures for clusterings comparison", JMLR 11, 2010.
    """
    groups, membership = _groups(groups, membership)
    from sklearn.metrics import adjusted_mutual_info_score, adjusted_rand_score  # here, since it imports slowly

    clusters = membership.argmax(0)
    ami = adjusted_mutual_info_score(groups, clusters, average_method="arithmetic")
    return {"ari": float(adjusted_rand_score(groups, clusters)), "ami": float(ami)}


def cosine_dissimilarity(membership: ArrayLike) -> float:
    r"""Compute how far the memberships of two people lie apart, on average over pairs.

    .. math:: \frac{2}{M (M - 1)} \sum_{m < n} 1 - \frac{\omega_m^\top \omega_n}{\|\omega_m\| \, \|\omega_n\|}

    with :math:`\omega_m` the column of person m. It is 0 if all people have the same membership.

    Parameters
    ----------
    membership : array of float, shape (K, M)
        Soft or hard memberships of at least two people.

    Returns
    -------
    float
        The mean dissimilarity, in [0, 1].

    Raises
    ------
    ValueError
        If there are fewer than two people or columns are not memberships.

    References
    ----------
    "Learning to Defer on Anonymously-Annotated Data", Table 2.
    """
    membership = check_probabilities("membership", membership, "KM", axis=0).astype(float)
    num_people = membership.shape[1]
    if num_people < 2:
        raise ValueError("Expected at least two people, found 1. A single person is dissimilar to nobody.")
    directions = membership / np.linalg.norm(membership, axis=0)
    # The squared norm of a sum of unit vectors is M plus twice the cosine of every pair.
    cosines = ((directions.sum(1) ** 2).sum() - num_people) / (num_people * (num_people - 1))
    return float(np.clip(1 - cosines, 0, 1))


def within_group_spread(groups: ArrayLike, membership: ArrayLike) -> float:
    r"""Compute the largest difference between the memberships of two people of one true group.

    .. math:: \max_{m, n: c_m = c_n} \max_k | \omega_{km} - \omega_{kn} |

    Parameters
    ----------
    groups : array of int, shape (M,)
        True group of each person.
    membership : array of float, shape (K, M)
        Soft or hard memberships; clusters are compared without matching.

    Returns
    -------
    float
        The largest difference, in [0, 1]; 0 if every group has a single person.

    Raises
    ------
    ValueError
        If shapes disagree or columns are not memberships.
    """
    groups, membership = _groups(groups, membership)
    return max(float(np.ptp(membership[:, groups == group], axis=1).max()) for group in np.unique(groups))


def _groups(groups: ArrayLike, membership: ArrayLike) -> tuple[NDArray, NDArray[np.floating]]:
    groups, membership = np.asarray(groups), check_probabilities("membership", membership, "KM", axis=0).astype(float)
    if groups.shape != membership.shape[1:] or groups.dtype.kind not in "iu":
        raise ValueError(
            f"Expected groups as integers of shape {membership.shape[1:]}, one a column of the membership, found dtype "
            f"{groups.dtype} and shape {groups.shape}. Number the groups."
        )
    return groups, membership
