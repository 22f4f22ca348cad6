"""Is a model of people any good? Statistics of what people said, compared between the data and a model's replicates.

Every statistic is a function of plain arrays, -1 where something is missing. :func:`compare` computes one of the data
and of replicates of them, such as those of :func:`~pl2d_ppl.inference.predictive.predictive` with ``missing="mark"``::

    tree = predictive(rng_key, result, data, missing="mark")
    said, drawn = (tree[g]["annotation"].values for g in ("observed_data", "posterior_predictive"))
    compare(agreement, said, drawn[0]).surprising
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import binomtest

from pl2d_ppl.checks.labels import check_labels

__all__ = ["Compared", "Reliability", "accuracy_by_class", "agreement", "compare", "decider_shares", "reliability"]


def agreement(annotations: Any) -> np.ndarray:
    """Share of the items that two people both annotated on which they agree.

    Parameters
    ----------
    annotations : array of int, shape (N, M)
        Annotations, -1 where missing.

    Returns
    -------
    array, shape (M, M)
        The shares; NaN where two people have no item in common. One on the diagonal.

    Raises
    ------
    ValueError
        If these are no annotations.
    """
    annotations = _labels("annotations", annotations, ("N", "M"))
    there = (annotations >= 0).astype(float)
    alike = np.zeros((annotations.shape[1],) * 2)
    for category in np.unique(annotations[annotations >= 0]):
        of_category = (annotations == category).astype(float)
        alike += of_category.T @ of_category
    return _ratio(alike, there.T @ there)


def accuracy_by_class(annotations: Any, y: Any, num_categories: int | None = None) -> np.ndarray:
    """Share of the items of each true category that each person is right about.

    Parameters
    ----------
    annotations : array of int, shape (N, M)
        Annotations, -1 where missing.
    y : array of int, shape (N,)
        Truth, -1 where unknown.
    num_categories : int, optional
        Number of categories, C; by default one more than the largest in the truth.

    Returns
    -------
    array, shape (M, C)
        The shares; NaN where somebody annotated no item of a category.

    Raises
    ------
    ValueError
        If annotations and truth do not fit.
    """
    annotations = _labels("annotations", annotations, ("N", "M"))
    y = _labels("y", y, (len(annotations),))
    num_categories = max(y.max(initial=0) + 1, 1) if num_categories is None else num_categories
    of_class = (y[:, None] == np.arange(num_categories)).astype(float)
    right = (annotations == y[:, None]) & (annotations >= 0)
    return _ratio(right.T.astype(float) @ of_class, (annotations >= 0).T.astype(float) @ of_class)


def decider_shares(decisions: Any, num_deciders: int) -> np.ndarray:
    """Share of the items that each decider decides.

    Parameters
    ----------
    decisions : array of int, shape (N,)
        Who decides, the AI last; -1 where nobody does.
    num_deciders : int
        Number of deciders, M + 1.

    Returns
    -------
    array, shape (M+1,)
        The shares, of all items.

    Raises
    ------
    ValueError
        If there are no such deciders.
    """
    decisions = _labels("decisions", decisions, ("N",))
    if decisions.max(initial=-1) >= num_deciders:
        raise ValueError(
            f"Expected decisions below num_deciders={num_deciders}, found {decisions.max()}. Count the AI, too."
        )
    return np.bincount(decisions[decisions >= 0], minlength=num_deciders) / max(len(decisions), 1)


class Compared(NamedTuple):
    """A statistic of the data, and of replicates.

    Attributes
    ----------
    observed : array
        The statistic of the data.
    lower, median, upper : array
        Quantiles of the replicates' statistics.
    p_value : array
        Posterior predictive p-value: how often a replicate's statistic is larger than that of the data, and half of how
        often it is equal. Close to 0 or 1 where the model does not produce such data. NaN where either has no value.
    """

    observed: np.ndarray
    lower: np.ndarray
    median: np.ndarray
    upper: np.ndarray
    p_value: np.ndarray

    @property
    def surprising(self) -> np.ndarray:
        """Where the data are outside of the interval."""
        return (self.observed < self.lower) | (self.observed > self.upper)


def compare(
    statistic: Callable[..., np.ndarray], observed: Any, replicated: Any, *arguments: Any, level: float = 0.9
) -> Compared:
    """Compare a statistic of the data with that of replicates of them.

    Parameters
    ----------
    statistic : callable
        Function of an array such as ``observed``, and of ``arguments``.
    observed : array of int, shape (...)
        The data, -1 where missing.
    replicated : array of int, shape (S, ...)
        Replicates, with -1 in the same places.
    *arguments
        Further arguments, equal for all: such as the truth, for :func:`accuracy_by_class`.
    level : float
        Probability of the interval, between its symmetric quantiles.

    Returns
    -------
    Compared
        The statistic, its interval, and p-values.

    Raises
    ------
    ValueError
        If replicates are of another shape, or miss other entries, or the level is not between 0 and 1.
    """
    observed, replicated = np.asarray(observed), np.asarray(replicated)
    if not 0 < level < 1:
        raise ValueError(f"Expected a level between 0 and 1, found {level}. Pass .9 for an interval of 90 %.")
    if replicated.ndim != observed.ndim + 1 or replicated.shape[1:] != observed.shape or not len(replicated):
        raise ValueError(
            f"Expected replicates of shape (S, {', '.join(map(str, observed.shape))}), found {replicated.shape}. Take "
            "one chain of predictive draws, [0]."
        )
    if ((replicated < 0) != (observed < 0)).any():
        raise ValueError(
            "Expected replicates that miss what the data miss, found others. Draw them by predictive(..., "
            "missing='mark')."
        )
    own = np.asarray(statistic(observed, *arguments), float)
    others = np.stack([np.asarray(statistic(r, *arguments), float) for r in replicated])
    lower, median, upper = np.quantile(others, [(1 - level) / 2, 0.5, (1 + level) / 2], axis=0)
    p_value = (others > own).mean(0) + 0.5 * (others == own).mean(0)
    known = np.isfinite(own) & np.isfinite(others).all(0)
    return Compared(own, lower, median, upper, np.where(known, p_value, np.nan))


class Reliability(NamedTuple):
    """How often what is predicted happens, in bins of the predicted probability; of those that are not empty.

    Attributes
    ----------
    predicted, happened : array, shape (B,)
        Mean of the predicted probabilities, and share of what happened.
    lower, upper : array, shape (B,)
        Wilson interval of that share.
    number : array of int, shape (B,)
        Number of predictions.
    """

    predicted: np.ndarray
    happened: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    number: np.ndarray


def reliability(probs: Any, happened: Any, *, num_bins: int = 10, level: float = 0.95) -> Reliability:
    """Compare predicted probabilities of events with how often these happen, with intervals.

    For the AI pass the probabilities of its first choices, and whether these are right; for the gate, the probability
    that it gives to whom it chooses, or that of being right (``right_probs``), and whether that one is right.

    Parameters
    ----------
    probs : array of float, shape (N,)
        Predicted probabilities.
    happened : array of bool, shape (N,)
        Whether each event happened.
    num_bins : int
        Number of bins of equal width.
    level : float
        Probability of the intervals.

    Returns
    -------
    Reliability
        The reliability curve.

    Raises
    ------
    ValueError
        If these are no probabilities and events of one length.

    References
    ----------
    Wilson (1927). Probable inference, the law of succession, and statistical inference. JASA.
    """
    probs, happened = np.asarray(probs, float), np.asarray(happened)
    if probs.ndim != 1 or probs.shape != happened.shape or not len(probs):
        raise ValueError(
            f"Expected as many events as probabilities, (N,), found {happened.shape} and {probs.shape}. Leave items of "
            "unknown truth out, and flatten arrays."
        )
    if not ((probs >= 0) & (probs <= 1)).all() or not np.isin(happened, (0, 1)).all():
        raise ValueError(
            "Expected probabilities between 0 and 1 and events that are 0 or 1, found others. Pass probabilities, not "
            "logits, and whether each event happened, not a label."
        )
    if num_bins < 1 or not 0 < level < 1:
        raise ValueError(f"Expected num_bins from 1 and 0 < level < 1, found {num_bins} and {level}.")
    bins = np.minimum((probs * num_bins).astype(int), num_bins - 1)
    count = np.bincount(bins, minlength=num_bins)
    used = count > 0
    sums = np.bincount(bins, probs, num_bins)[used]
    wins, count = np.bincount(bins, happened, num_bins)[used].astype(int), count[used]
    intervals = [binomtest(k, n).proportion_ci(level, method="wilson") for k, n in zip(wins, count, strict=True)]
    lower, upper = np.array(intervals).T
    return Reliability(sums / count, wins / count, lower, upper, count)


def _labels(name: str, values: Any, shape: tuple[int | str, ...]) -> np.ndarray:
    return check_labels(name, values, shape)


def _ratio(shares: np.ndarray, totals: np.ndarray) -> np.ndarray:
    return np.divide(shares, totals, out=np.full(shares.shape, np.nan), where=totals > 0)
