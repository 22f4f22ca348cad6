"""Checks of the arrays of a data set, before anything is compiled for them."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pl2d_ppl.checks.labels import check_labels
from pl2d_ppl.data.source import is_source

__all__ = ["coarse_of", "counts_of", "features_of", "group_of", "indices_of", "items_of"]


def features_of(x: Any) -> Any:
    """Check features: an array becomes float32, a lazy source is unchanged."""
    if is_source(x):
        if len(x) == 0:
            raise ValueError("Expected at least one item in x, found an empty source. Pass some items.")
        return x
    x = np.asarray(x)
    if x.ndim == 0 or len(x) == 0 or (x.size == 0 and x.ndim != 2):
        raise ValueError(f"Expected x of shape (N, ...) with N >= 1, found the empty shape {x.shape}. Pass some items.")
    if x.dtype.kind not in "biuf":
        raise ValueError(f"Expected real numbers in x, found dtype {x.dtype}. Encode it as floats.")
    with np.errstate(over="ignore"):  # numbers outside float32 become infinite, and are reported as such
        x = x.astype(np.float32, copy=False)
    bad = ~np.isfinite(x)
    if bad.any():
        row = int(np.argwhere(bad)[0, 0])
        raise ValueError(
            f"Expected x that is finite in float32, found {bad.sum()} NaN or infinite values, first in row {row}. "
            "Impute them, or drop their rows."
        )
    return x


def _shaped(field: str, values: ArrayLike, shape: tuple[int, ...]) -> NDArray:
    values = np.asarray(values)
    if values.shape != shape:
        raise ValueError(
            f"Expected {field} of shape {shape}, one entry for each item of x, found {values.shape}. Make them agree."
        )
    return values


def group_of(values: ArrayLike, shape: tuple[int, ...]) -> NDArray:
    """Check groups."""
    values = _shaped("group", values, shape)
    if values.dtype.kind not in "iuU":
        raise ValueError(f"Expected integers or strings in group, found dtype {values.dtype}. Use .astype(str).")
    return values


def coarse_of(values: ArrayLike, shape: tuple[int, ...]) -> NDArray:
    """Check superclasses."""
    most = np.iinfo(np.int32).max
    return check_labels("coarse", values, shape, most, least=0, noun="superclasses").astype(np.int32, copy=False)


def indices_of(indices: NDArray, num_items: int) -> NDArray:
    """Check indices of items to take."""
    if indices.dtype == bool and indices.shape == (num_items,):
        indices = np.flatnonzero(indices)
    if indices.ndim != 1 or indices.size == 0 or indices.dtype.kind not in "iu":
        raise ValueError(
            f"Expected indices as a non-empty vector of integers, or a mask of shape ({num_items},), found dtype "
            f"{indices.dtype} and shape {indices.shape}. Take at least one item."
        )
    # Negative ones are refused too: −1 means "missing" in this library, never "the last".
    bad = indices[(indices < 0) | (indices >= num_items)]
    if bad.size:
        raise ValueError(f"Expected indices in 0..{num_items - 1}, found {bad[0]}. Choose among the {num_items} items.")
    return indices


def counts_of(counts: ArrayLike, shape: tuple[int, int]) -> NDArray:
    """Check numbers of votes of shape (N, C)."""
    return check_labels("counts", counts, shape, least=0, noun="numbers of votes").astype(np.int32, copy=False)


def items_of(items: Iterable[str], num_items: int) -> NDArray:
    """Check names of items."""
    names = np.asarray([str(item) for item in items], dtype=np.str_)
    if names.shape != (num_items,):
        raise ValueError(
            f"Expected {num_items} names in items, one for each item, found {len(names)}. Make them agree."
        )
    kept, first, numbers = np.unique(names, return_index=True, return_counts=True)
    if len(kept) < num_items:
        again = kept[numbers > 1][np.argmin(first[numbers > 1])]
        raise ValueError(
            f"Expected distinct names in items, found {str(again)!r} more than once. Merge or rename them."
        )
    return names
