"""Shared checks of simulations; every error says what was expected, what was found, and what to do."""

from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pl2d_ppl.checks.labels import check_labels


def check_choice(name: str, value: str, choices: Collection[str]) -> None:
    """Check that `value` is one of `choices`."""
    if value not in choices:
        raise ValueError(f"Expected one of {choices} as {name}, found {value!r}. Choose one.")


def check_count(name: str, value: Any, least: int = 1) -> None:
    """Check that `value` is an integer from `least` up."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < least:
        raise ValueError(
            f"Expected {name} as an integer of at least {least}, found {value!r}. Pass one such as {least}."
        )


def check_num_categories(num_categories: int) -> None:
    """Check that there are at least two categories."""
    if num_categories < 2:
        raise ValueError(
            f"Expected num_categories of at least 2, found {num_categories}. Raise it: nobody errs with one category."
        )


def truth(y: ArrayLike, num_categories: int) -> NDArray:
    """Return `y` as a vector of known categories, all below `num_categories`."""
    check_num_categories(num_categories)
    # Signed, since 8-bit labels wrap around.
    return check_labels("y", y, ("N",), num_categories, least=0, may_be_empty=False).astype(int)


def shares(name: str, values: ArrayLike) -> NDArray[np.float64]:
    """Return `values`, one number or several, as floats in [0, 1]."""
    values = np.asarray(values)
    if values.dtype.kind not in "biuf":
        raise ValueError(f"Expected {name} as a share in [0, 1], found dtype {values.dtype}. Pass a number such as .5.")
    values = values.astype(float)
    bad = values[~((values >= 0) & (values <= 1))]
    if bad.size:
        raise ValueError(f"Expected {name} as a share in [0, 1], found {bad[0]:g}. Pass a number such as .5.")
    return values
