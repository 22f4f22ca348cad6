"""Summary of a data set: how much and how well people annotated, and how far they agree."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Summary", "summarise"]

MOST_PATTERNS = 5


@dataclass(frozen=True)
class Summary:
    """Summary of a data set; it prints as a table.

    Attributes
    ----------
    items, experts, categories : int
        N, M and C.
    known_truth : int
        Items of known truth.
    annotations : dict of str to int
        Number of annotations by expert.
    missing_rate : float
        Share of (item, expert) pairs without annotation; NaN without experts.
    accuracy : dict of str to float
        Share of right annotations by expert, over items of known truth; NaN without any.
    per_item : dict of int to int
        Number of items by the number of experts who annotated them.
    patterns : dict of tuple of str to int
        The most frequent sets of experts who annotated the same item, with their numbers of items.
    agreement : float
        Share of pairs of annotations of the same item that agree; NaN without pairs.
    majority_accuracy : float
        Share of items of known truth and some annotation whose plurality is right, where ties count in proportion; NaN
        without such items.
    votes : int
        Anonymous votes.
    """

    items: int
    experts: int
    categories: int
    known_truth: int
    annotations: dict[str, int]
    missing_rate: float
    accuracy: dict[str, float]
    per_item: dict[int, int]
    patterns: dict[tuple[str, ...], int]
    agreement: float
    majority_accuracy: float
    votes: int

    def __str__(self) -> str:
        """Return the table."""
        lines = [
            f"{self.items:,} items, {self.known_truth:,} of known truth; {self.categories} categories; "
            f"{self.experts} people" + (f"; {self.votes:,} anonymous votes" if self.votes else "")
        ]
        if not self.experts:
            return lines[0]
        width = max(map(len, [*self.annotations, "person"])) + 2
        lines.append(f"{'person':<{width}}{'annotations':>12}{'right':>9}")
        lines += [
            f"{name:<{width}}{number:>12,}{_share(self.accuracy[name]):>9}" for name, number in self.annotations.items()
        ]
        lines.append(
            f"missing {_share(self.missing_rate)}; pairs that agree {_share(self.agreement)}; plurality right "
            f"{_share(self.majority_accuracy)}"
        )
        lines.append("items by number of annotations: " + ", ".join(f"{n}: {k:,}" for n, k in self.per_item.items()))
        shown = "; ".join(f"{', '.join(who) or 'nobody'}: {number:,}" for who, number in self.patterns.items())
        return "\n".join([*lines, f"most frequent, who annotated together: {shown}"])


def summarise(
    annotations: NDArray, y: NDArray, *, annotators: tuple[str, ...], num_categories: int, votes: int = 0
) -> Summary:
    """Summarise a data set.

    Parameters
    ----------
    annotations : array of int, shape (N, M)
        Annotations of people, -1 where missing.
    y : array of int, shape (N,)
        Truth, -1 where unknown.
    annotators : tuple of str, length M
        Names.
    num_categories : int
        Number of categories C.
    votes : int
        Number of anonymous votes.

    Returns
    -------
    Summary
        The summary.
    """
    given = annotations >= 0
    judged = given & (y >= 0)[:, None]
    right = (judged & (annotations == y[:, None])).sum(0)
    counts = _count(annotations, num_categories)
    with np.errstate(invalid="ignore"):  # 0 / 0 gives the documented NaN
        accuracy = right / judged.sum(0)
        pairs = counts.sum(1)
        agreement = (counts * (counts - 1)).sum() / np.float64((pairs * (pairs - 1)).sum())
    numbers, items = np.unique(given.sum(1), return_counts=True)
    return Summary(
        given.shape[0],
        given.shape[1],
        num_categories,
        int((y >= 0).sum()),
        dict(zip(annotators, given.sum(0).tolist(), strict=True)),
        float(1 - given.mean()) if given.size else float("nan"),
        dict(zip(annotators, accuracy.tolist(), strict=True)),
        dict(zip(numbers.tolist(), items.tolist(), strict=True)),
        _patterns(given, annotators),
        float(agreement),
        _plurality(counts, y),
        votes,
    )


def _count(annotations: NDArray, num_categories: int) -> NDArray:
    """Number of experts who named each category, (N, C)."""
    rows, columns = np.nonzero(annotations >= 0)
    places = rows * num_categories + annotations[rows, columns]
    size = len(annotations) * num_categories
    return np.bincount(places, minlength=size).reshape(len(annotations), num_categories)


def _patterns(given: NDArray, names: tuple[str, ...]) -> dict[tuple[str, ...], int]:
    rows, numbers = np.unique(np.packbits(given, axis=1), axis=0, return_counts=True)
    order = np.argsort(-numbers, kind="stable")[:MOST_PATTERNS]
    sets = np.unpackbits(rows[order], axis=1, count=given.shape[1]).astype(bool)
    return {
        tuple(name for name, is_in in zip(names, row, strict=True) if is_in): int(number)
        for row, number in zip(sets, numbers[order], strict=True)
    }


def _plurality(counts: NDArray, y: NDArray) -> float:
    judged = counts.any(1) & (y >= 0)
    if not judged.any():
        return float("nan")
    counts, y = counts[judged], y[judged]
    best = counts == counts.max(1, keepdims=True)
    return float(np.mean(best[np.arange(len(y)), y] / best.sum(1)))


def _share(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.1%}"
