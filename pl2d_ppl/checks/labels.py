"""Labels: truth, annotations and votes, -1 where there is none."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
) -> NDArray[np.integer]:
    """Check labels, and return them on the host.

    Parameters
    ----------
    name : str
        What they are called, in messages.
    values : array of int
        Categories, -1 where there is none.
    shape : tuple of int or str, optional
        Their shape; a letter stands for any length, such as ``("N", "M")``.
    num_categories : int, optional
        Number of categories C, where it is known.
    least : int
        The least label: 0 where none may be missing.
    people : sequence of str, optional
        Names of the columns, for messages.
    noun : str
        What each number is, for messages.

    Returns
    -------
    array of int
        The same.

    Raises
    ------
    ValueError
        If the shape is another one, they are not integers, or one is out of range: tells which.
    """
    values = np.asarray(values)
    _check_shape(name, values, shape)
    # An array without elements has no type of its own choosing: np.zeros((N, 0)) is float64.
    if values.size and values.dtype.kind not in "iu":
        raise ValueError(
            f"Expected integer {noun} in {name}, found {values.dtype}. Write numbers from {least} up, and cast with "
            ".astype(int)."
        )
    bad = (values < least) | (values >= (np.inf if num_categories is None else num_categories))
    if bad.any():
        first = tuple(int(i) for i in np.argwhere(bad)[0])
        allowed = f"from {least} up" if num_categories is None else f"in {least}..{num_categories - 1}"
        missing = ", -1 where missing," if least < 0 else ""
        raise ValueError(
            f"Expected {noun} {allowed}{missing} in {name}, found {values[first]} {_place(first, people)} "
            f"({bad.sum()} such values). Correct or leave out what is wrong; every category counts, used or not."
        )
    return values


def _check_shape(name: str, values: NDArray, shape: tuple[int | str, ...] | None) -> None:
    if shape is None:
        return
    fits = values.ndim == len(shape)
    if not (fits and all(isinstance(s, str) or s == n for s, n in zip(shape, values.shape, strict=True))):
        axes = ", ".join(map(str, shape)) + ("," if len(shape) == 1 else "")
        hint = f" Pass {name}[:, None] for a single column." if values.ndim == 1 and len(shape) == 2 else ""
        raise ValueError(f"Expected {name} of shape ({axes}), one row an item, found {values.shape}.{hint}")


def _place(index: tuple[int, ...], people: Sequence[str] | None) -> str:
    if len(index) == 1:
        return f"at item {index[0]}"
    column = f"column {index[1]}" if people is None else f"by {people[index[1]]!r}"
    return f"at item {index[0]}, {column}"
