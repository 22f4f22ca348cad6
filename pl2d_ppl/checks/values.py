"""Checks that simulations share: every error says what was expected, what was found, and what to do."""

from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


def check_choice(name: str, value: str, choices: Collection[str]) -> None:
    """Check that `value` is one of `choices`."""
    if value not in choices:
        raise ValueError(f"`{name}` must be one of {choices}, found {value!r}; choose one.")


def check_count(name: str, value: Any, least: int = 1) -> None:
    """Check that `value` is an integer from `least` up."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < least:
        raise ValueError(f"`{name}` must be an integer of at least {least}, found {value!r}; pass one such as {least}.")


def check_num_categories(num_categories: int) -> None:
    """Check that there is something to confuse."""
    if num_categories < 2:
        raise ValueError(f"`num_categories` must be at least 2, found {num_categories}; nobody errs with one category.")


def integers(name: str, values: ArrayLike, ndim: int) -> NDArray:
    """Return `values` as a non-empty array of integers with `ndim` axes."""
    values = np.asarray(values)
    if values.ndim != ndim or values.size == 0 or values.dtype.kind not in "iu":
        raise ValueError(
            f"`{name}` must be a non-empty array of integers with {ndim} axes, found dtype {values.dtype} "
            f"and shape {values.shape}; put −1 where a label is missing and cast with `.astype(int)`."
        )
    return values


def labels(name: str, values: ArrayLike) -> NDArray:
    """Return `values` as a matrix of categories, −1 where there is none."""
    values = integers(name, values, 2)
    if values.min() < -1:
        raise ValueError(f"`{name}` must be −1 or a category, found {values.min()}; write −1 for missing.")
    return values


def truth(y: ArrayLike, num_categories: int) -> NDArray:
    """Return `y` as a vector of known categories, all below `num_categories`."""
    y = integers("y", y, 1)
    check_num_categories(num_categories)
    if y.min() < 0 or y.max() >= num_categories:
        bad = y.min() if y.min() < 0 else y.max()
        raise ValueError(
            f"`y` must lie in 0..{num_categories - 1}, found {bad}; simulate on items of known truth, and "
            "check `num_categories`."
        )
    # Signed, as 8-bit labels wrap around.
    return y.astype(int)


def shares(name: str, values: ArrayLike) -> NDArray[np.float64]:
    """Return `values`, one number or several, as floats in [0, 1]."""
    values = np.asarray(values)
    if values.dtype.kind not in "biuf":
        raise ValueError(f"`{name}` must be a share in [0, 1], found dtype {values.dtype}; pass one such as .5.")
    values = values.astype(float)
    bad = values[~((values >= 0) & (values <= 1))]
    if bad.size:
        raise ValueError(f"`{name}` must be a share in [0, 1], found {bad[0]:g}; pass one such as .5.")
    return values
