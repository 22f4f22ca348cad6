"""Agreement beyond chance: Cohen's and Fleiss' kappa, Krippendorff's alpha; time and memory go with the annotations."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array

from pl2d_ppl.data.long import LongAnnotations

__all__ = [
    "Agreement",
    "Pairs",
    "agreement",
    "alpha_by_label",
    "cohen_kappas",
    "fleiss_kappa",
    "krippendorff_alpha",
]

Level = Literal["nominal", "ordinal"]
MOST_PAIRS = 50_000_000  # of annotations of one item


class Pairs(NamedTuple):
    """Agreement of pairs of people who annotated the same items; pairs without such items are left out.

    Attributes
    ----------
    first, second : array of int, shape (P,)
        The people of each pair, first < second.
    items : array of int, shape (P,)
        Number of items that both annotated.
    agree : array of float, shape (P,)
        Share of them on which they agree.
    kappa : array of float, shape (P,)
        Cohen's kappa; NaN where both always give the same single label.
    """

    first: NDArray
    second: NDArray
    items: NDArray
    agree: NDArray
    kappa: NDArray


@dataclass(frozen=True)
class Agreement:
    """Agreement of people beyond chance.

    Attributes
    ----------
    fleiss : float
        Fleiss' kappa.
    alpha : float
        Krippendorff's alpha for names.
    alpha_ordinal : float
        Krippendorff's alpha for ordered categories.
    by_label : array of float, shape (C,)
        Krippendorff's alpha of each category against all others.
    pairs : Pairs or None
        Cohen's kappa by pair; None if there are too many annotations of one item to compare them pair by pair.
    """

    fleiss: float
    alpha: float
    alpha_ordinal: float
    by_label: NDArray
    pairs: Pairs | None


def agreement(annotations: LongAnnotations, num_categories: int) -> Agreement:
    """Measure agreement in all ways.

    Parameters
    ----------
    annotations : LongAnnotations
        Annotations of M people on N items; ``data.long`` has them.
    num_categories : int
        Number of categories C.

    Returns
    -------
    Agreement
        The measures, NaN where they are undefined.
    """
    said = annotations.said
    sizes = np.bincount(said.items, minlength=said.shape[0])
    pairs = cohen_kappas(said, num_categories) if (sizes * (sizes - 1)).sum() / 2 <= MOST_PAIRS else None
    return Agreement(
        fleiss_kappa(said, num_categories),
        krippendorff_alpha(said, num_categories),
        krippendorff_alpha(said, num_categories, level="ordinal"),
        alpha_by_label(said, num_categories),
        pairs,
    )


def cohen_kappas(annotations: LongAnnotations, num_categories: int) -> Pairs:
    """Cohen's kappa of every pair of people who annotated the same items.

    ``kappa = (p_o - p_e) / (1 - p_e)``, where p_o is the share of items on which the two agree, and p_e the one
    expected of two people who label independently as often as they do.

    Parameters
    ----------
    annotations : LongAnnotations
        Annotations of M people.
    num_categories : int
        Number of categories C.

    Returns
    -------
    Pairs
        The pairs, by first and second person.

    References
    ----------
    Cohen, "A Coefficient of Agreement for Nominal Scales", 1960.
    """
    said, num_people = annotations.said, annotations.shape[1]
    left, right = _pairs(said)
    code = said.people[left].astype(np.int64) * num_people + said.people[right]
    pairs, index = np.unique(code, return_inverse=True)
    items = np.bincount(index, minlength=len(pairs))
    agree = np.bincount(index, said.labels[left] == said.labels[right], len(pairs)) / np.maximum(items, 1)
    shape = (len(pairs), num_categories)
    ones = np.ones(len(index))
    own, other = (csr_array(coo_array((ones, (index, said.labels[side])), shape)) for side in (left, right))
    chance = np.asarray(own.multiply(other).sum(1)).ravel() / np.maximum(items, 1) ** 2.0
    with np.errstate(invalid="ignore", divide="ignore"):
        kappa = np.where(chance < 1, (agree - chance) / (1 - chance), np.nan)
    return Pairs(pairs // max(num_people, 1), pairs % max(num_people, 1), items, agree, kappa)


def _pairs(said: LongAnnotations) -> tuple[NDArray, NDArray]:
    """Return the positions of all pairs of annotations of one item, the first person before the second."""
    starts = np.searchsorted(said.items, np.arange(said.shape[0] + 1))
    ends = starts[1:][said.items] if len(said.items) else np.zeros(0, int)
    after = ends - np.arange(len(said.items)) - 1  # annotations of the same item that follow
    left = np.repeat(np.arange(len(said.items)), after)
    first = np.repeat(after.cumsum() - after, after)
    return left, left + 1 + np.arange(len(left)) - first


def _counts(annotations: LongAnnotations, num_categories: int) -> csr_array:
    """Count annotations by item and category, over items with two or more."""
    said = annotations.said
    ones = np.ones(len(said.labels))
    counts = csr_array(coo_array((ones, (said.items, said.labels)), (said.shape[0], num_categories)))
    return counts[np.flatnonzero(np.asarray(counts.sum(1)).ravel() >= 2)]


def fleiss_kappa(annotations: LongAnnotations, num_categories: int) -> float:
    """Fleiss' kappa of all people together.

    ``(P - P_e) / (1 - P_e)``, where P is the mean over items of the share of pairs that agree, and P_e the sum of the
    squared shares of the categories. Items with fewer than two annotations are left out; if items differ in their
    number of annotations, each item counts as much, and each annotation in P_e.

    Parameters
    ----------
    annotations : LongAnnotations
        Annotations.
    num_categories : int
        Number of categories C.

    Returns
    -------
    float
        Kappa; NaN if no item has two annotations, or all are of one category.

    References
    ----------
    Fleiss, "Measuring nominal scale agreement among many raters", 1971.
    """
    counts = _counts(annotations, num_categories)
    if counts.shape[0] == 0:
        return float("nan")
    sizes = np.asarray(counts.sum(1)).ravel()
    same = (np.asarray(counts.multiply(counts).sum(1)).ravel() - sizes) / (sizes * (sizes - 1))
    shares = np.asarray(counts.sum(0)).ravel() / sizes.sum()
    chance = float((shares**2).sum())
    return float((same.mean() - chance) / (1 - chance)) if chance < 1 else float("nan")


def krippendorff_alpha(annotations: LongAnnotations, num_categories: int, *, level: Level = "nominal") -> float:
    """Krippendorff's alpha: one minus the observed by the expected disagreement, over pairs of annotations of one item.

    Parameters
    ----------
    annotations : LongAnnotations
        Annotations; any may be missing.
    num_categories : int
        Number of categories C.
    level : {"nominal", "ordinal"}
        Whether categories are names, or ordered, where a disagreement weighs by the ranks between.

    Returns
    -------
    float
        Alpha; NaN if no item has two annotations, or all are of one category.

    Raises
    ------
    ValueError
        If the level is unknown.

    References
    ----------
    Krippendorff, "Computing Krippendorff's Alpha-Reliability", 2011.
    """
    if level not in ("nominal", "ordinal"):
        raise ValueError(f'Expected level "nominal" or "ordinal", found {level!r}. Choose one.')
    coincidences = _coincidences(_counts(annotations, num_categories))
    return _alpha(coincidences, level)


def alpha_by_label(annotations: LongAnnotations, num_categories: int) -> NDArray[np.float64]:
    """Krippendorff's alpha of each category against all others: which label people agree on.

    Parameters
    ----------
    annotations : LongAnnotations
        Annotations.
    num_categories : int
        Number of categories C.

    Returns
    -------
    array of float, shape (C,)
        Alpha; NaN for a category that nobody used.
    """
    coincidences = _coincidences(_counts(annotations, num_categories))
    total, diagonal = coincidences.sum(), coincidences.diagonal()
    sizes = np.asarray(coincidences.sum(0)).ravel()
    with np.errstate(invalid="ignore", divide="ignore"):
        observed = (sizes - diagonal) / total
        expected = sizes * (total - sizes) / (total * (total - 1))
        return np.where(expected > 0, 1 - observed / expected, np.nan)


def _coincidences(counts: csr_array) -> csr_array:
    """Count pairs of annotations of one item by their categories, each item as many times as it has annotations."""
    if counts.shape[0] == 0:
        return csr_array((counts.shape[1], counts.shape[1]))
    weights = 1 / (np.asarray(counts.sum(1)).ravel() - 1)
    weighted = counts.multiply(weights[:, None]).tocsr()
    itself = np.asarray(weighted.sum(0)).ravel()
    every = np.arange(counts.shape[1])
    return csr_array(counts.T @ weighted) - csr_array(coo_array((itself, (every, every)), (len(every), len(every))))


def _alpha(coincidences: csr_array, level: Level) -> float:
    sizes = np.asarray(coincidences.sum(0)).ravel()
    total = sizes.sum()
    pairs = coincidences.tocoo()
    if level == "nominal":
        observed = pairs.data[pairs.row != pairs.col].sum()
        expected = total**2 - (sizes**2).sum()
    else:
        middle = sizes.cumsum() - sizes / 2  # a distance is the number of annotations between, with halves of both ends
        observed = (pairs.data * (middle[pairs.row] - middle[pairs.col]) ** 2).sum()
        expected = 2 * (total * (sizes * middle**2).sum() - (sizes * middle).sum() ** 2)
    if total < 2 or expected <= 0:
        return float("nan")
    return float(1 - (total - 1) * observed / expected)
