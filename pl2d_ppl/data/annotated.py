"""The container of items, their truth and their annotations."""

import dataclasses
from collections.abc import Iterable
from dataclasses import KW_ONLY, InitVar, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pl2d_ppl.checks.labels import check_labels
from pl2d_ppl.checks.names import distinct_names
from pl2d_ppl.checks.warn import warn
from pl2d_ppl.data.checks import (
    abstained_of,
    ai_of,
    coarse_of,
    counts_of,
    feature_names_of,
    features_of,
    group_of,
    indices_of,
    items_of,
)
from pl2d_ppl.data.long import ABSTAINED, LongAnnotations
from pl2d_ppl.data.missing import drop_annotations
from pl2d_ppl.data.source import gather, is_source, take
from pl2d_ppl.data.summary import Summary, summarise
from pl2d_ppl.plots import plot_missing

__all__ = ["Annotated"]

MOST_NAMES = 20  # in a message


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
    annotations : array of int, shape (N, M), or LongAnnotations
        Category that each expert gave, −1 where missing; stored as int32. M may be 0. The long form is kept, and
        becomes a matrix when somebody asks for one.
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
    features : iterable of str, length D, optional
        Names of the features, for x of shape (N, D).
    abstained : array of bool, shape (N, M), optional
        Where an expert was asked and would not say. Such annotations are −1: programs treat them as missing, unless
        :meth:`with_abstentions` makes a category of them.
    ai : array of float, shape (N, C), optional
        Probabilities of a classifier that exists already; rows of zeros where it is silent.
    subset : bool, default False
        Whether this is a part of a data set that was checked as a whole: then all truth may be unknown, and an expert
        without annotations raises no warning.

    Raises
    ------
    ValueError
        If shapes disagree, labels are not integers or out of range, `x` holds NaN or infinity, there is no item, or
        neither truth, nor annotations, nor votes, names repeat, or an expert is called "AI", as the classifier is.

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
    features: tuple[str, ...] | None = None
    abstained: NDArray | None = field(default_factory=lambda: None)  # without an attribute of the class
    ai: NDArray | None = None
    subset: InitVar[bool] = False

    def __post_init__(self, subset: bool) -> None:
        x = features_of(self.x)
        classes, annotators = distinct_names("classes", self.classes), distinct_names("annotators", self.annotators)
        if len(classes) < 2:
            raise ValueError(
                f"Expected at least 2 categories in classes, found {classes!r}. Name every one, used or not."
            )
        if "AI" in annotators:
            raise ValueError('Expected people in annotators, found "AI", the name of the classifier. Rename it.')
        items = (len(x),)
        values: dict[str, Any] = {
            "x": x,
            "y": check_labels("y", self.y, items, len(classes)).astype(np.int32, copy=False),
            "group": None if self.group is None else group_of(self.group, items),
            "classes": classes,
            "annotators": annotators,
            "coarse": None if self.coarse is None else coarse_of(self.coarse, items),
            "counts": None if self.counts is None else counts_of(self.counts, (len(x), len(classes))),
            "items": None if self.items is None else items_of(self.items, len(x)),
            "features": None if self.features is None else feature_names_of(self.features, x),
            "ai": None if self.ai is None else ai_of(self.ai, (len(x), len(classes))),
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)  # needed because of `frozen`
        self._keep_annotations(self.annotations)
        if not subset:
            _check_whole(self)

    def _keep_annotations(self, annotations: Any) -> None:
        shape = (self.num_items, self.num_experts)
        if isinstance(annotations, LongAnnotations):
            annotations.check(shape, self.num_categories)
            object.__setattr__(self, "_long", annotations)
            for name in ("annotations", "abstained"):  # made when somebody asks for them
                object.__delattr__(self, name)
            return
        dense = check_labels("annotations", annotations, shape, self.num_categories, people=self.annotators)
        object.__setattr__(self, "annotations", dense.astype(np.int32, copy=False))
        if self.abstained is not None:
            object.__setattr__(self, "abstained", abstained_of(self.abstained, dense))

    def __getattr__(self, name: str) -> Any:
        """Make the matrix of annotations, or the long form, when somebody asks for it."""
        if name not in ("annotations", "abstained", "_long"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        if name == "_long":
            value: Any = LongAnnotations.of(self.annotations, self.abstained)
        elif "_long" not in vars(self):
            raise AttributeError(name)  # while it is being unpickled
        elif name == "annotations":
            value = self._long.dense()
        else:
            given = self._long.abstentions
            value = None if given is None else given.mask()
        object.__setattr__(self, name, value)
        return value

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

    @property
    def long(self) -> LongAnnotations:
        """The annotations in long form, whose memory goes with their number; with abstentions."""
        return self._long

    def replace(self, **changes: Any) -> "Annotated":
        """Return these data with other fields; annotations that are not changed keep their form.

        Parameters
        ----------
        **changes
            Fields, and ``subset``.

        Returns
        -------
        Annotated
            The new data.

        Raises
        ------
        ValueError
            Under the same conditions as the class.
        """
        if "annotations" not in changes and "annotations" not in vars(self):
            changes |= {"annotations": self.long, "abstained": None}
        elif "annotations" in changes:
            changes.setdefault("abstained", None)
        return dataclasses.replace(self, **changes)

    def with_abstentions(self, name: str = "abstained") -> "Annotated":
        """Make a category of abstentions, for programs that learn who is asked in vain.

        Parameters
        ----------
        name : str
            Name of the category, the last.

        Returns
        -------
        Annotated
            The same items, with C + 1 categories.

        Raises
        ------
        ValueError
            If a category has this name.
        """
        long, new = self.long, len(self.classes)
        labels = np.where(long.labels == ABSTAINED, new, long.labels)
        return self.replace(
            annotations=dataclasses.replace(long, labels=labels),
            classes=(*self.classes, name),
            counts=None if self.counts is None else np.pad(self.counts, ((0, 0), (0, 1))),
            ai=None if self.ai is None else np.pad(self.ai, ((0, 0), (0, 1))),
            subset=True,
        )

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
        parts = {name: getattr(self, name) for name in ("y", "group", "coarse", "counts", "items", "ai")}
        parts = {name: None if part is None else part[chosen] for name, part in parts.items()}
        if "annotations" in vars(self):
            parts["annotations"] = self.annotations[chosen]
            parts["abstained"] = None if self.abstained is None else self.abstained[chosen]
        else:
            parts["annotations"] = self.long.take(chosen)
        return self.replace(x=take(self.x, chosen), **parts, subset=True)

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
                f"Expected people out of {', '.join(self.annotators[:MOST_NAMES])}, found "
                f"{', '.join(unknown)}. Correct the names."
            )
        places = {name: m for m, name in enumerate(self.annotators)}
        chosen = self.long.select(np.array([places[name] for name in people], int))
        return self.replace(annotations=chosen, annotators=people, subset=True)

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
        return self.replace(x=gather(self.x), subset=True) if self.is_lazy else self

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
        return self.replace(annotations=annotations, annotators=tuple(annotators))

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
            self.long,
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
    if not (data.y >= 0).any() and not (data.long.labels >= 0).any() and data.counts is None:
        raise ValueError(
            "Expected the truth of at least one item in y, or annotations, found only -1. Add labels: nothing can be "
            "learned without any."
        )
    numbers = np.bincount(data.long.said.people, minlength=data.num_experts)
    silent = [name for name, number in zip(data.annotators, numbers, strict=True) if number == 0]
    if silent:
        more = f" and {len(silent) - MOST_NAMES:,} more" if len(silent) > MOST_NAMES else ""
        shown = ", ".join(silent[:MOST_NAMES]) + more
        warn(
            f"Expected annotations by everybody, found none by {shown}: only the prior speaks for them. "
            "Drop them if they do not belong here."
        )
