"""Checks of the arrays of a data set, before anything is compiled for them."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pl2d_ppl.data.source import is_source

__all__ = ["coarse_of", "counts_of", "distinct_names", "features_of", "group_of", "indices_of", "items_of", "labels_of"]


def distinct_names(field: str, names: Iterable[str]) -> tuple[str, ...]:
    """Check names."""
    if isinstance(names, str):
        raise ValueError(f"`{field}` must be several names, found the string {names!r}; wrap it in a tuple.")
    names = tuple(str(name) for name in names)
    repeated = sorted(name for name, number in Counter(names).items() if number > 1)
    if repeated:
        raise ValueError(f"`{field}` must be distinct names, found {repeated[0]!r} more than once; rename it.")
    return names


def features_of(x: Any) -> Any:
    """Check features: an array becomes float32, a lazy source stays as it is."""
    if is_source(x):
        if len(x) == 0:
            raise ValueError("`x` must have at least one item, found an empty source; pass some items.")
        return x
    x = np.asarray(x)
    if x.ndim == 0 or len(x) == 0 or (x.size == 0 and x.ndim != 2):
        raise ValueError(f"`x` must have shape (N, ...) with N >= 1, found the empty shape {x.shape}; pass some items.")
    if x.dtype.kind not in "biuf":
        raise ValueError(f"`x` must hold real numbers, found dtype {x.dtype}; encode it as floats.")
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is reported as such
        x = x.astype(np.float32, copy=False)
    bad = ~np.isfinite(x)
    if bad.any():
        row = int(np.argwhere(bad)[0, 0])
        raise ValueError(
            f"`x` must be finite in float32, found {bad.sum()} NaN or infinite values, first in row {row}; "
            "impute them, or drop their rows."
        )
    return x


def _shaped(field: str, values: ArrayLike, shape: tuple[int, ...]) -> NDArray:
    values = np.asarray(values)
    if values.shape != shape:
        raise ValueError(
            f"`{field}` must have shape {shape}, found {values.shape}: `x` counts the items and `annotators` "
            "the experts; make them agree."
        )
    return values


def _integers(field: str, values: ArrayLike, shape: tuple[int, ...]) -> NDArray:
    values = _shaped(field, values, shape)
    # An array without elements has no dtype of its own choosing: np.zeros((N, 0)) is float64.
    if values.size and values.dtype.kind not in "iu":
        raise ValueError(
            f"`{field}` must have an integer dtype, found {values.dtype}; put −1 where a label is missing "
            "and cast with `.astype(int)`."
        )
    return values


def labels_of(field: str, values: ArrayLike, shape: tuple[int, ...], num_categories: int) -> NDArray:
    """Check labels, -1 where missing."""
    values = _integers(field, values, shape)
    bad = np.argwhere((values < -1) | (values >= num_categories))
    if len(bad):
        first = tuple(bad[0])
        place = ", ".join(f"{axis} {index}" for axis, index in zip(("row", "column"), first, strict=False))
        raise ValueError(
            f"`{field}` must lie in −1..{num_categories - 1} for {num_categories} classes, found "
            f"{values[first]} in {place} ({len(bad)} such values); correct the label, or name its class in "
            "`classes`."
        )
    return values.astype(np.int32, copy=False)


def group_of(values: ArrayLike, shape: tuple[int, ...]) -> NDArray:
    """Check groups."""
    values = _shaped("group", values, shape)
    if values.dtype.kind not in "iuU":
        raise ValueError(f"`group` must hold integers or strings, found dtype {values.dtype}; use `.astype(str)`.")
    return values


def coarse_of(values: ArrayLike, shape: tuple[int, ...]) -> NDArray:
    """Check superclasses."""
    values = _integers("coarse", values, shape)
    if values.min() < 0 or values.max() > np.iinfo(np.int32).max:
        row = int(np.argmax((values < 0) | (values > np.iinfo(np.int32).max)))
        raise ValueError(
            f"`coarse` must hold superclasses 0, 1, ..., found {values[row]} in row {row}; give every item "
            "its superclass, or leave `coarse` out."
        )
    return values.astype(np.int32, copy=False)


def indices_of(indices: NDArray, num_items: int) -> NDArray:
    """Check items to take."""
    if indices.dtype == bool and indices.shape == (num_items,):
        indices = np.flatnonzero(indices)
    if indices.ndim != 1 or indices.size == 0 or indices.dtype.kind not in "iu":
        raise ValueError(
            f"`indices` must be a non-empty vector of integers, or a mask of shape ({num_items},), found "
            f"dtype {indices.dtype} and shape {indices.shape}; take at least one item."
        )
    # Negative ones are refused too: −1 means "missing" in this library, never "the last".
    bad = indices[(indices < 0) | (indices >= num_items)]
    if bad.size:
        raise ValueError(f"`indices` must lie in 0..{num_items - 1}, found {bad[0]}; choose among the items there are.")
    return indices


def counts_of(counts: ArrayLike, shape: tuple[int, int]) -> NDArray:
    """Check numbers of votes of shape (N, C)."""
    counts = _integers("counts", counts, shape)
    if counts.size and counts.min() < 0:
        row, column = np.argwhere(counts < 0)[0]
        raise ValueError(
            f"`counts` must be numbers of votes from 0 up, found {counts[row, column]} in row {row}, column {column}; "
            "where nobody voted put 0."
        )
    return counts.astype(np.int32, copy=False)


def items_of(items: Iterable[str], num_items: int) -> NDArray:
    """Check names of items."""
    names = np.asarray([str(item) for item in items], dtype=np.str_)
    if names.shape != (num_items,):
        raise ValueError(f"`items` must name each of {num_items} items, found {len(names)} names; make them agree.")
    kept, first, numbers = np.unique(names, return_index=True, return_counts=True)
    if len(kept) < num_items:
        again = kept[numbers > 1][np.argmin(first[numbers > 1])]
        raise ValueError(f"`items` must be distinct names, found {str(again)!r} more than once; merge or rename them.")
    return names
