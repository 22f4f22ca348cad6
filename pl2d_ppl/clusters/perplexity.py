"""Choice of the number of clusters: perplexity, and its relative change from one number to the next.

Everything here is computed on the host, in float64.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["choose_num_clusters", "marginal_perplexity", "perplexity", "relative_perplexity_change"]

ROUNDING = 1e-9  # relative: changes that differ by less are equal, and fewer clusters win


def perplexity(log_prob: ArrayLike, num_votes: ArrayLike) -> float:
    r"""Compute the perplexity of anonymous votes, equation B.45.

    .. math:: \exp \left( - \frac{\sum_i \ln p(v_i \mid x_i)}{\sum_i L_i} \right)

    It is the number of equally likely categories among which a vote is as hard to guess: C for a uniform guess, 1 for
    certainty. When you report it, say whether it comes from the exact evidence,
    :func:`~pl2d_ppl.clusters.lda_evidence.lda_evidence`, or from the evidence lower bound, which gives a higher
    perplexity.

    Parameters
    ----------
    log_prob : array of float, shape (N,)
        Log evidence of each item's votes in their order, or its lower bound. For the evidence of counts, subtract the
        logarithm of the multinomial coefficient first. May be -inf.
    num_votes : array of int, shape (N,)
        Number of votes on each item; 0 is allowed.

    Returns
    -------
    float
        The perplexity, at least 1; infinite if some votes are impossible.

    Raises
    ------
    ValueError
        If shapes disagree, there are no votes, a number is NaN, or the probabilities exceed one.
    """
    log_prob, num_votes = np.asarray(log_prob, float), np.asarray(num_votes)
    if log_prob.ndim != 1 or log_prob.size == 0:
        raise ValueError(
            f"Expected log_prob as a non-empty vector, one number an item, found shape {log_prob.shape}. Do not sum "
            "over items."
        )
    if num_votes.shape != log_prob.shape or num_votes.dtype.kind not in "iu":
        raise ValueError(
            f"Expected num_votes as integers of shape {log_prob.shape}, as log_prob, found dtype {num_votes.dtype} "
            f"and shape {num_votes.shape}. Count the votes of each item: (votes >= 0).sum(1)."
        )
    if num_votes.min() < 0 or num_votes.sum() == 0:
        raise ValueError(
            f"Expected num_votes from 0 up, and one vote at least, found a minimum of {num_votes.min()} and a sum of "
            f"{num_votes.sum()}. Evaluate on items with votes."
        )
    total = log_prob.sum()
    if not total <= ROUNDING * log_prob.size:
        raise ValueError(
            f"Expected log-probabilities, whose sum is at most 0, found {total}. Pass the evidence or its bound an "
            "item, not a loss, and no NaN."
        )
    return _exp(-total / num_votes.sum())


def marginal_perplexity(train_counts: ArrayLike, test_counts: ArrayLike) -> float:
    r"""Compute the perplexity of votes under the marginal distribution of training votes, which ignores inputs.

    .. math:: p_c = \frac{1 + \sum_i n_{ic}}{C + \sum_{i c'} n_{ic'}}

    One is added to every category, so that a category which is new at test time is possible. A model that does no
    better has learned nothing from its inputs.

    Parameters
    ----------
    train_counts : array of int, shape (N, C)
        Votes of the training items for each category.
    test_counts : array of int, shape (N', C)
        Votes of the items to evaluate on.

    Returns
    -------
    float
        The perplexity, at least 1.

    Raises
    ------
    ValueError
        If the arguments are not counts of the same categories, or there are no test votes.
    """
    train, test = _counts("train_counts", train_counts), _counts("test_counts", test_counts)
    if train.shape[1] != test.shape[1]:
        raise ValueError(
            f"Expected counts of the same categories, found {train.shape[1]} in train_counts and {test.shape[1]} in "
            "test_counts. Count over all categories in both."
        )
    if test.sum() == 0:
        raise ValueError("Expected one vote at least in test_counts, found none. Evaluate on items with votes.")
    smoothed = 1.0 + train.sum(0)
    log_p = np.log(smoothed / smoothed.sum())
    return _exp(-(test.sum(0) @ log_p) / test.sum())


def relative_perplexity_change(num_clusters: ArrayLike, perplexities: ArrayLike) -> NDArray[np.float64]:
    r"""Compute how fast the perplexity changes with the number of clusters, equations B.46 and B.47.

    .. math:: \mathrm{RPC}_i = \frac{| P_i - P_{i-1} |}{| K_i - K_{i-1} |}, \quad i = 1, \dots, n - 1

    Entry i - 1 of the result is the change from :math:`K_{i-1}` to :math:`K_i`. It belongs to the larger of the two,
    :math:`K_i`; the smallest number of clusters has no entry.

    Parameters
    ----------
    num_clusters : array of int, shape (n,)
        Numbers of clusters, strictly increasing; at least two.
    perplexities : array of float, shape (n,) or (seeds, n)
        Perplexity at each; with several seeds, the mean is taken first.

    Returns
    -------
    array of float, shape (n - 1,)
        The changes, in perplexity per cluster.

    Raises
    ------
    ValueError
        If shapes disagree, numbers of clusters do not increase from 1 or more, or a perplexity is not at least 1.

    References
    ----------
    Zhao et al., "A heuristic approach to determine an appropriate number of topics in topic modeling", BMC
    Bioinformatics 16, 2015.
    """
    num_clusters, mean = _candidates(num_clusters, perplexities)
    return np.abs(np.diff(mean)) / np.diff(num_clusters)


def choose_num_clusters(num_clusters: ArrayLike, perplexities: ArrayLike) -> int:
    """Choose the smallest number of clusters that attains the largest relative perplexity change.

    The change from one number of clusters to the next belongs to the latter, so that the smallest candidate cannot be
    chosen: include one below those that you would accept, such as K = 1. The rule ignores noise, and treats a rise of
    the perplexity like a fall: look at the perplexities of several seeds.

    Parameters
    ----------
    num_clusters : array of int, shape (n,)
        Numbers of clusters, strictly increasing; at least two.
    perplexities : array of float, shape (n,) or (seeds, n)
        Perplexity at each, on held-out votes; with several seeds, the mean is taken first.

    Returns
    -------
    int
        The number of clusters.

    Raises
    ------
    ValueError
        Under the conditions of :func:`relative_perplexity_change`.
    """
    changes = relative_perplexity_change(num_clusters, perplexities)
    attained = changes >= (1 - ROUNDING) * changes.max()
    return int(np.asarray(num_clusters)[1:][attained.argmax()])


def _exp(value: float) -> float:
    with np.errstate(over="ignore"):
        return float(np.exp(value))


def _counts(name: str, counts: ArrayLike) -> NDArray:
    counts = np.asarray(counts)
    if counts.ndim != 2 or counts.shape[1] == 0 or counts.dtype.kind not in "iu" or (counts < 0).any():
        raise ValueError(
            f"Expected {name} as integers from 0 up of shape (N, C), found dtype {counts.dtype} and shape "
            f"{counts.shape}. Count the votes of each item for each category."
        )
    return counts


def _candidates(num_clusters: ArrayLike, perplexities: ArrayLike) -> tuple[NDArray, NDArray[np.float64]]:
    """Numbers of clusters, and the mean perplexity at each."""
    num_clusters, perplexities = np.asarray(num_clusters), np.asarray(perplexities, float)
    if num_clusters.ndim != 1 or len(num_clusters) < 2 or num_clusters.dtype.kind not in "iu":
        raise ValueError(
            f"Expected num_clusters as a vector of at least two integers, found dtype {num_clusters.dtype} and shape "
            f"{num_clusters.shape}. A change needs two candidates."
        )
    if num_clusters[0] < 1 or (np.diff(num_clusters.astype(int)) <= 0).any():
        raise ValueError(
            f"Expected num_clusters from 1 up, strictly increasing, found {num_clusters.tolist()}. Sort them, with "
            "their perplexities, and average those of one number over seeds."
        )
    shape = perplexities.shape
    if perplexities.ndim not in (1, 2) or shape[-1] != len(num_clusters) or shape[0] == 0:
        raise ValueError(
            f"Expected perplexities of shape ({len(num_clusters)},) or (seeds, {len(num_clusters)}), as num_clusters, "
            f"found {shape}. Give one column a number of clusters."
        )
    outside = perplexities[~((perplexities >= 1 - ROUNDING) & np.isfinite(perplexities))]
    if outside.size:
        raise ValueError(
            f"Expected finite perplexities of at least 1, found {outside[0]}. Pass perplexities, not their logarithms."
        )
    return num_clusters.astype(int), perplexities.reshape(-1, len(num_clusters)).mean(0)
