"""Summary of a data set: how much and how well people annotated, and how far they agree."""

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array

from pl2d_ppl.data.long import LongAnnotations

__all__ = ["Summary", "summarise"]

MOST_PATTERNS = 5
MOST_PEOPLE = 20  # that a screen holds
MOST_TOGETHER = 8  # people of one pattern


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
    abstentions : int
        Annotations that somebody was asked for and would not give.
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
    abstentions: int = 0

    def __str__(self) -> str:
        """Return the table."""
        lines = [
            f"{self.items:,} items, {self.known_truth:,} of known truth; {self.categories} categories; "
            f"{self.experts} people" + (f"; {self.votes:,} anonymous votes" if self.votes else "")
        ]
        if not self.experts:
            return lines[0]
        shown = self._shown()
        width = max(map(len, [*shown, "person"])) + 2
        lines.append(f"{'person':<{width}}{'annotations':>12}{'right':>9}")
        lines += [f"{name:<{width}}{self.annotations[name]:>12,}{_share(self.accuracy[name]):>9}" for name in shown]
        if len(shown) < self.experts:
            lines.append(f"and {self.experts - len(shown):,} more people, who annotated less")
        lines.append(
            f"missing {_share(self.missing_rate)}; pairs that agree {_share(self.agreement)}; plurality right "
            f"{_share(self.majority_accuracy)}" + (f"; abstentions: {self.abstentions:,}" if self.abstentions else "")
        )
        lines.append("items by number of annotations: " + _histogram(self.per_item))
        together = "; ".join(f"{_together(who)}: {number:,}" for who, number in self.patterns.items())
        return "\n".join([*lines, f"most frequent, who annotated together: {together}"])

    def _shown(self) -> list[str]:
        """Return everybody, or those who annotated most if they are many."""
        people = list(self.annotations)
        if len(people) <= MOST_PEOPLE:
            return people
        return sorted(people, key=lambda name: -self.annotations[name])[:MOST_PEOPLE]


def summarise(
    annotations: LongAnnotations, y: NDArray, *, annotators: tuple[str, ...], num_categories: int, votes: int = 0
) -> Summary:
    """Summarise a data set; time and memory go with the annotations, not with items x people.

    Parameters
    ----------
    annotations : LongAnnotations
        Annotations of M people on N items.
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
    said, (num_items, num_people) = annotations.said, annotations.shape
    judged = y[said.items] >= 0
    right = np.bincount(said.people[judged & (said.labels == y[said.items])], minlength=num_people)
    numbers = np.bincount(said.people, minlength=num_people)
    counts = _counts(said, num_categories)
    with np.errstate(invalid="ignore", divide="ignore"):  # 0 / 0 gives the documented NaN
        accuracy = right / np.bincount(said.people[judged], minlength=num_people)
        pairs = np.bincount(said.items, minlength=num_items)
        agreement = (counts.data * (counts.data - 1)).sum() / np.float64((pairs * (pairs - 1)).sum())
    per_item, items = np.unique(pairs, return_counts=True)
    cells = num_items * num_people
    return Summary(
        num_items,
        num_people,
        num_categories,
        int((y >= 0).sum()),
        dict(zip(annotators, numbers.tolist(), strict=True)),
        1 - len(said.labels) / cells if cells else float("nan"),
        dict(zip(annotators, accuracy.tolist(), strict=True)),
        dict(zip(per_item.tolist(), items.tolist(), strict=True)),
        _patterns(said, annotators),
        float(agreement),
        _plurality(counts, y),
        votes,
        len(annotations.labels) - len(said.labels),
    )


def _counts(said: LongAnnotations, num_categories: int) -> coo_array:
    """Number of experts who named each category, (N, C)."""
    ones = np.ones(len(said.labels), int)
    counts = coo_array((ones, (said.items, said.labels)), shape=(said.shape[0], num_categories))
    counts.sum_duplicates()
    return counts


def _patterns(said: LongAnnotations, names: tuple[str, ...]) -> dict[tuple[str, ...], int]:
    """Count items by who annotated them: entries are sorted by item and person."""
    starts = np.searchsorted(said.items, np.arange(said.shape[0] + 1))
    people = said.people.astype(np.int32)
    sets: dict[bytes, int] = {}
    for first, last in itertools.pairwise(starts.tolist()):
        who = people[first:last].tobytes()
        sets[who] = sets.get(who, 0) + 1
    most = sorted(sets, key=lambda who: (-sets[who], [-m for m in _columns(who)]))[:MOST_PATTERNS]
    return {tuple(names[m] for m in _columns(who)): sets[who] for who in most}


def _columns(who: bytes) -> list[int]:
    return np.frombuffer(who, np.int32).tolist()


def _plurality(counts: coo_array, y: NDArray) -> float:
    """Share of items whose plurality is right; ties count in proportion."""
    num_items = counts.shape[0]
    most = np.zeros(num_items, int)
    np.maximum.at(most, counts.row, counts.data)
    judged = (most > 0) & (y >= 0)
    if not judged.any():
        return float("nan")
    best = counts.data == most[counts.row]
    ties = np.bincount(counts.row[best], minlength=num_items)
    right = np.bincount(counts.row[best & (counts.col == y[counts.row])], minlength=num_items)
    return float((right[judged] / ties[judged]).mean())


def _together(who: tuple[str, ...]) -> str:
    more = f" and {len(who) - MOST_TOGETHER} more" if len(who) > MOST_TOGETHER else ""
    return (", ".join(who[:MOST_TOGETHER]) or "nobody") + more


def _histogram(per_item: dict[int, int]) -> str:
    """Show numbers of items by their number of annotations; the middle in one if there are many."""
    shown = list(per_item.items())
    if len(shown) <= MOST_PEOPLE:
        return ", ".join(f"{n}: {k:,}" for n, k in shown)
    half = MOST_PEOPLE // 2
    between = sum(k for _, k in shown[half:-half])
    first, last = (", ".join(f"{n}: {k:,}" for n, k in part) for part in (shown[:half], shown[-half:]))
    return f"{first}, {shown[half][0]} to {shown[-half - 1][0]}: {between:,}, {last}"


def _share(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.1%}"
