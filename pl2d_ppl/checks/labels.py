"""Checks of labels: truth, annotations and votes, -1 where missing."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pl2d_ppl.checks.names import listed

__all__ = ["check_labels"]


def check_labels(
    name: str,
    values: Any,
    shape: tuple[int | str, ...] | None = None,
    num_categories: int | None = None,
    *,
    least: int = -1,
    people: Sequence[str] | None = None,
    noun: str = "labels",
    each: str = "item",
    may_be_empty: bool = True,
) -> NDArray[np.integer]:
    """Check labels, and return them on the host.

    Parameters
    ----------
    name : str
        Name of the labels, for messages.
    values : array of int
        Categories, -1 where missing.
    shape : tuple of int or str, optional
        Their shape; a letter stands for any length, such as ``("N", "M")``.
    num_categories : int, optional
        Number of categories C, if known.
    least : int
        The smallest label allowed: 0 if none may be missing.
    people : sequence of str, optional
        Names of the columns, for messages.
    noun : str
        What each number represents, for messages.
    each : str
        What each row represents, for messages.
    may_be_empty : bool
        Whether there may be no rows, or no columns.

    Returns
    -------
    array of int
        The same.

    Raises
    ------
    ValueError
        If the shape is wrong, labels are not integers, or one is out of range; the message says which.
    """
    values = np.asarray(values)
    _check_shape(name, values, shape, each, people)
    if not may_be_empty and not values.size:
        what = "column" if len(values) else each
        raise ValueError(f"Expected at least one {what} in {name}, found none in shape {values.shape}. Pass some.")
    # The type of an empty array means nothing: np.zeros((N, 0)) is float64.
    if values.size and values.dtype.kind not in "iu":
        raise ValueError(
            f"Expected integer {noun} in {name}, found {values.dtype}. {_coded(least)}, and cast with .astype(int)."
        )
    bad = (values < least) | (values >= (np.inf if num_categories is None else num_categories))
    if bad.any():
        first = tuple(int(i) for i in np.argwhere(bad)[0])
        allowed = f"from {least} up" if num_categories is None else f"in {least}..{num_categories - 1}"
        missing = ", -1 where missing," if least < 0 else ""
        raise ValueError(
            f"Expected {noun} {allowed}{missing} in {name}, found {values[first]} {_place(first, each, people)} "
            f"({bad.sum()} such {'value' if bad.sum() == 1 else 'values'}). {_remedy(values[first], least, each, noun)}"
        )
    return values


def _coded(least: int) -> str:
    return "Write -1 where one is missing" if least < 0 else f"Write numbers from {least} up"


def _remedy(value: Any, least: int, each: str, noun: str) -> str:
    if value >= least and noun != "labels":
        return "Correct it."
    if value >= least:
        return "Correct it, map labels to these categories, or allow more: name every class, or widen the networks."
    if least < 0:
        return "Correct it, or write -1 where it is missing."
    return f"Give every {each} one from {least} up, or leave out those without."


def _check_shape(
    name: str, values: NDArray, shape: tuple[int | str, ...] | None, each: str, people: Sequence[str] | None
) -> None:
    if shape is None:
        return
    fits = values.ndim == len(shape)
    if not (fits and all(isinstance(s, str) or s == n for s, n in zip(shape, values.shape, strict=True))):
        axes = ", ".join(map(str, shape)) + ("," if len(shape) == 1 else "")
        columns = f" and one column for each of {listed(people)}" if people else ""
        hint = f" Pass {name}[:, None] for a single column." if values.ndim == 1 and len(shape) == 2 else ""
        if values.ndim == 2 and len(shape) == 1:
            hint = f" Pass {name}[:, 0]." if values.shape[1] == 1 else " Take the argmax of probabilities."
        raise ValueError(f"Expected {name} of shape ({axes}), one row an {each}{columns}, found {values.shape}.{hint}")


def _place(index: tuple[int, ...], each: str, people: Sequence[str] | None) -> str:
    if len(index) == 1:
        return f"at {each} {index[0]}"
    column = f"column {index[1]}" if people is None else f"by {people[index[1]]!r}"
    return f"at {each} {index[0]}, {column}"
