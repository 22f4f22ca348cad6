"""The container of items, their truth and their annotations."""

import dataclasses
from collections.abc import Iterable
from dataclasses import KW_ONLY, InitVar, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pl2d_ppl.checks.labels import check_labels
from pl2d_ppl.checks.names import distinct_names
from pl2d_ppl.checks.warn import warn
from pl2d_ppl.data.checks import coarse_of, counts_of, features_of, group_of, indices_of, items_of
from pl2d_ppl.data.missing import drop_annotations
from pl2d_ppl.data.source import gather, is_source, take
from pl2d_ppl.data.summary import Summary, summarise
from pl2d_ppl.plots import plot_missing

__all__ = ["Annotated"]


@dataclass(frozen=True, eq=False, repr=False)
class Annotated:
    """Items with features, truth, the annotations of identified experts, and anonymous votes.

    All data are checked here, once, on the host, before anything is compiled for them. A lazy ``x`` is checked when it
    is read.

    Parameters
    ----------
    x : array, shape (N, ...), or Source
        Features, stored as float32; or a lazy source of items, such as images that are decoded on access. The shape is
        (N, 0) if there are only annotations.
    y : array of int, shape (N,)
        Truth, −1 where unknown; stored as int32. It may be unknown of all items, if there are annotations or votes.
    annotations : array of int, shape (N, M)
        Category that each expert gave, −1 where missing; stored as int32. M may be 0.
    group : array of int or str, shape (N,), optional
        Group of each item (a patient, a night). `split` never divides a group.
    classes : iterable of str, length C
        Names of the categories.
    annotators : iterable of str, length M
        Names of the experts.
    coarse : array of int, shape (N,), optional
        Superclass of each item, which simulated experts need; stored as int32.
    counts : array of int, shape (N, C), optional
        Number of anonymous votes for each category; stored as int32.
    items : iterable of str, length N, optional
        Names of the items, such as files.
    subset : bool, default False
        Whether this is a part of a data set that was checked as a whole: then all truth may be unknown, and an expert
        without annotations raises no warning.

    Raises
    ------
    ValueError
        If shapes disagree, labels are not integers or out of range, `x` holds NaN or infinity, there is no item, or
        neither truth, nor annotations, nor votes, or names repeat.

    Warns
    -----
    UserWarning
        If an expert has no annotation at all: only the prior says anything about them.
    """

    x: Any
    y: NDArray
    annotations: NDArray
    _: KW_ONLY
    group: NDArray | None = None
    classes: tuple[str, ...]
    annotators: tuple[str, ...]
    coarse: NDArray | None = None
    counts: NDArray | None = None
    items: NDArray | None = None
    subset: InitVar[bool] = False

    def __post_init__(self, subset: bool) -> None:
        x = features_of(self.x)
        classes, annotators = distinct_names("classes", self.classes), distinct_names("annotators", self.annotators)
        if len(classes) < 2:
            raise ValueError(
                f"Expected at least 2 categories in classes, found {classes!r}. Name every one, used or not."
            )
        items = (len(x),)
        values = {
            "x": x,
            "y": check_labels("y", self.y, items, len(classes)).astype(np.int32, copy=False),
            "annotations": check_labels(
                "annotations", self.annotations, (len(x), len(annotators)), len(classes), people=annotators
            ).astype(np.int32, copy=False),
            "group": None if self.group is None else group_of(self.group, items),
            "classes": classes,
            "annotators": annotators,
            "coarse": None if self.coarse is None else coarse_of(self.coarse, items),
            "counts": None if self.counts is None else counts_of(self.counts, (len(x), len(classes))),
            "items": None if self.items is None else items_of(self.items, len(x)),
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)  # needed because of `frozen`
        if not subset:
            _check_whole(self)

    def __repr__(self) -> str:
        return f"Annotated(items={self.num_items}, experts={self.num_experts}, categories={self.num_categories})"

    @property
    def num_items(self) -> int:
        """Number of items, N."""
        return len(self.x)

    @property
    def num_experts(self) -> int:
        """Number of experts, M, without the AI."""
        return len(self.annotators)

    @property
    def num_categories(self) -> int:
        """Number of categories, C."""
        return len(self.classes)

    def take(self, indices: ArrayLike) -> "Annotated":
        """Take a subset of the items.

        Parameters
        ----------
        indices : array of int, shape (S,), or array of bool, shape (N,)
            Items to take, in this order, or a mask.

        Returns
        -------
        Annotated
            The S items. An expert whom the subset leaves without annotations raises no warning.

        Raises
        ------
        ValueError
            If nothing is taken, or an index is not an integer in 0..N−1.
        """
        chosen = indices_of(np.asarray(indices), self.num_items)
        parts = {name: getattr(self, name) for name in ("y", "annotations", "group", "coarse", "counts", "items")}
        parts = {name: None if part is None else part[chosen] for name, part in parts.items()}
        return dataclasses.replace(self, x=take(self.x, chosen), **parts, subset=True)

    def select_people(self, people: Iterable[str]) -> "Annotated":
        """Keep the annotations of some experts.

        Parameters
        ----------
        people : iterable of str, length M'
            Their names, in the order of the new columns.

        Returns
        -------
        Annotated
            The same items.

        Raises
        ------
        ValueError
            If a name is unknown or repeated.
        """
        people = distinct_names("people", people)
        unknown = [name for name in people if name not in self.annotators]
        if unknown:
            raise ValueError(
                f"Expected people out of {', '.join(self.annotators)}, found {', '.join(unknown)}. Correct the names."
            )
        columns = [self.annotators.index(name) for name in people]
        return dataclasses.replace(self, annotations=self.annotations[:, columns], annotators=people, subset=True)

    def drop_annotations(self, rng_key: Any, rate: ArrayLike, *, at_least_one: bool = False) -> "Annotated":
        """Make annotations missing at random; see :func:`~pl2d_ppl.data.missing.drop_annotations`.

        Parameters
        ----------
        rng_key : Array
            A typed key.
        rate : float in [0, 1], or sequence of them, length M
            Share of each expert's annotations that go missing.
        at_least_one : bool
            Whether every item that has an annotation keeps at least one.

        Returns
        -------
        Annotated
            The same items.

        Raises
        ------
        ValueError
            If an argument is malformed, or `at_least_one` asks for more annotations than the rate leaves.
        """
        return self.replace_annotations(drop_annotations(rng_key, self.annotations, rate, at_least_one))

    @property
    def is_lazy(self) -> bool:
        """Whether items are read on access."""
        return is_source(self.x)

    def read(self) -> "Annotated":
        """Read a lazy ``x`` into an array.

        Returns
        -------
        Annotated
            The same items; this object itself if they are already an array.

        Raises
        ------
        ValueError
            If items differ in shape, or one cannot be read.
        """
        return dataclasses.replace(self, x=gather(self.x), subset=True) if self.is_lazy else self

    def replace_annotations(self, annotations: ArrayLike, annotators: Iterable[str] | None = None) -> "Annotated":
        """Give the same items other annotations, such as simulated ones.

        Parameters
        ----------
        annotations : array of int, shape (N, M')
            New annotations, −1 where missing.
        annotators : iterable of str, length M', optional
            Names of their experts. By default the current names if the number is the same, else ``expert_0``, ...

        Returns
        -------
        Annotated

        Raises
        ------
        ValueError
            Under the same conditions as the class.
        """
        annotations = np.asarray(annotations)
        if annotators is None:
            same = annotations.shape[1:] == (self.num_experts,)
            annotators = self.annotators if same else expert_names(annotations)
        return dataclasses.replace(self, annotations=annotations, annotators=tuple(annotators))

    def batch(self) -> dict[str, NDArray]:
        """Return the arrays that a model takes.

        Returns
        -------
        dict
            ``x`` (N, ...) float32, ``annotations`` (N, M) int32 and ``y`` (N,) int32.

        Raises
        ------
        ValueError
            If ``x`` is lazy, or there are no features.
        """
        if self.is_lazy:
            raise ValueError(
                "Expected items in memory, found a lazy source. Read them, data.read(), or draw batches by "
                "pl2d_ppl.data.ImagePipeline."
            )
        if np.shape(self.x)[1:] == (0,):
            raise ValueError("Expected features, found annotations only. Read them with features, or set x.")
        return {"x": self.x, "annotations": self.annotations, "y": self.y}

    def summary(self) -> Summary:
        """Summarise how much and how well people annotated, and how far they agree; the summary prints as a table."""
        return summarise(
            self.annotations,
            self.y,
            annotators=self.annotators,
            num_categories=self.num_categories,
            votes=0 if self.counts is None else int(self.counts.sum()),
        )

    def plot_missing(self, ax: Any = None) -> Any:
        """Draw who annotated what; see :func:`~pl2d_ppl.plots.plot_missing`."""
        return plot_missing(self.annotations, self.annotators, ax=ax)


def expert_names(annotations: NDArray) -> tuple[str, ...]:
    """Name the columns of `annotations` ``expert_0``, ``expert_1``, ..."""
    return tuple(f"expert_{m}" for m in range(annotations.shape[1] if annotations.ndim == 2 else 0))


def _check_whole(data: Annotated) -> None:
    if data.counts is not None and not data.counts.any():
        raise ValueError(
            "Expected votes in counts, found none: every vote is missing. Check how missing votes are coded."
        )
    if not (data.y >= 0).any() and not (data.annotations >= 0).any() and data.counts is None:
        raise ValueError(
            "Expected the truth of at least one item in y, or annotations, found only -1. Add labels: nothing can be "
            "learned without any."
        )
    silent = [name for name, column in zip(data.annotators, data.annotations.T, strict=True) if (column < 0).all()]
    if silent:
        warn(
            f"Expected annotations by everybody, found none by {', '.join(silent)}: only the prior speaks for them. "
            "Drop them if they do not belong here."
        )
