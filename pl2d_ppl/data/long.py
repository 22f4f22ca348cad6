"""Annotations in long form: memory goes with their number, not with items x people."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pl2d_ppl.checks.labels import check_labels

__all__ = ["ABSTAINED", "LongAnnotations"]

ABSTAINED = -2  # asked, and would not say; -1 is: not asked
MOST_CELLS = 2**31  # of items x people; 8 GiB


@dataclass(frozen=True)
class LongAnnotations:
    """Annotations, one entry each, sorted by item and person.

    Attributes
    ----------
    items, people : array of int, shape (R,)
        Item and person of each annotation; no pair occurs twice.
    labels : array of int, shape (R,)
        Categories; `ABSTAINED` where somebody was asked and would not say.
    shape : tuple of int
        (N, M).
    """

    items: NDArray
    people: NDArray
    labels: NDArray
    shape: tuple[int, int]

    @classmethod
    def of(cls, annotations: NDArray, abstained: NDArray | None = None) -> "LongAnnotations":
        """Collect the entries of a matrix.

        Parameters
        ----------
        annotations : array of int, shape (N, M)
            Categories, −1 where missing.
        abstained : array of bool, shape (N, M), optional
            Where somebody was asked and would not say.

        Returns
        -------
        LongAnnotations
            The same.
        """
        coded = annotations if abstained is None else np.where(abstained, ABSTAINED, annotations)
        items, people = np.nonzero(coded != -1)
        return cls(items, people, coded[items, people], (coded.shape[0], coded.shape[1]))

    @property
    def said(self) -> "LongAnnotations":
        """The annotations without abstentions."""
        return self if self.labels.size == 0 or self.labels.min() >= 0 else self._where(self.labels >= 0)

    @property
    def abstentions(self) -> "LongAnnotations | None":
        """The abstentions, None if there is none."""
        return self._where(self.labels == ABSTAINED) if (self.labels == ABSTAINED).any() else None

    def dense(self) -> NDArray[np.int32]:
        """Return the matrix (N, M), −1 where missing and where somebody abstained.

        Raises
        ------
        ValueError
            If it would not fit in memory.
        """
        if self.shape[0] * self.shape[1] > MOST_CELLS:
            raise ValueError(
                f"Expected at most {MOST_CELLS:,} pairs of item and person in a matrix, found {self.shape[0]:,} x "
                f"{self.shape[1]:,}. Select people, or use the long form of the data, data.long."
            )
        matrix = np.full(self.shape, -1, np.int32)
        matrix[self.items, self.people] = np.maximum(self.labels, -1)
        return matrix

    def mask(self) -> NDArray[np.bool_]:
        """Return where there are entries, (N, M)."""
        matrix = np.zeros(self.shape, bool)
        matrix[self.items, self.people] = True
        return matrix

    def take(self, indices: NDArray) -> "LongAnnotations":
        """Take items, in this order.

        Parameters
        ----------
        indices : array of int, shape (S,)
            The items; one may be taken repeatedly.

        Returns
        -------
        LongAnnotations
            The annotations of the S items.
        """
        starts = np.searchsorted(self.items, np.arange(self.shape[0] + 1))
        sizes = np.diff(starts)[indices]
        first = np.repeat(starts[:-1][indices] - (sizes.cumsum() - sizes), sizes)
        rows = first + np.arange(sizes.sum())
        new = np.repeat(np.arange(len(indices)), sizes)
        return LongAnnotations(new, self.people[rows], self.labels[rows], (len(indices), self.shape[1]))

    def select(self, people: NDArray) -> "LongAnnotations":
        """Keep some people, in this order.

        Parameters
        ----------
        people : array of int, shape (M',)
            The people, each once.

        Returns
        -------
        LongAnnotations
            Of the M' people.
        """
        places = np.full(self.shape[1], -1)
        places[people] = np.arange(len(people))
        kept = places[self.people] >= 0
        items, columns, labels = self.items[kept], places[self.people[kept]], self.labels[kept]
        order = np.lexsort([columns, items])
        return LongAnnotations(items[order], columns[order], labels[order], (self.shape[0], len(people)))

    def check(self, shape: tuple[int, int], num_categories: int) -> None:
        """Refuse entries outside a matrix, or outside the categories.

        Raises
        ------
        ValueError
            If there are some.
        """
        if self.shape != shape:
            raise ValueError(f"Expected annotations of shape {shape}, found {self.shape}. Make them agree.")
        check_labels("annotations", self.labels, ("R",), num_categories, least=ABSTAINED, each="annotation")
        pairs = self.items.astype(np.int64) * max(shape[1], 1) + self.people
        inside = (self.items >= 0) & (self.items < shape[0]) & (self.people >= 0) & (self.people < shape[1])
        if not inside.all() or (self.labels == -1).any() or (np.diff(pairs) <= 0).any():
            raise ValueError(
                "Expected each annotation once, sorted by item and person and without -1, found others. Make them by "
                "LongAnnotations.of."
            )

    def _where(self, kept: NDArray) -> "LongAnnotations":
        return LongAnnotations(self.items[kept], self.people[kept], self.labels[kept], self.shape)
