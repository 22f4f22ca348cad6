"""Checks of the arrays of a data set, before anything is compiled for them."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pl2d_ppl.checks.labels import check_labels
from pl2d_ppl.checks.names import distinct_names
from pl2d_ppl.data.source import is_source

__all__ = [
    "abstained_of",
    "ai_of",
    "coarse_of",
    "counts_of",
    "feature_names_of",
    "features_of",
    "group_of",
    "indices_of",
    "items_of",
    "text_array",
]

MOST_PADDING = 8  # times the text itself, that an array of fixed width may take
SMALL = 2**20  # bytes that are never too many


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
    if values.dtype.kind == "O" and all(isinstance(value, str) for value in values):
        return text_array(values.tolist())
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
    names = [str(item) for item in items]
    if len(names) != num_items:
        raise ValueError(
            f"Expected {num_items} names in items, one for each item, found {len(names)}. Make them agree."
        )
    seen: set[str] = set()
    if len(set(names)) < num_items:
        again = next(name for name in names if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"Expected distinct names in items, found {again!r} more than once. Merge or rename them.")
    return text_array(names)


def text_array(names: Sequence[str]) -> NDArray:
    """Return an array of text: of fixed width, unless one long name would make all of them take its memory."""
    longest, total = max(map(len, names), default=0), sum(map(len, names))
    if 4 * longest * len(names) <= max(SMALL, 4 * MOST_PADDING * total):
        return np.asarray(names, dtype=np.str_)
    array = np.empty(len(names), object)
    array[:] = names
    return array


def feature_names_of(features: Iterable[str], x: Any) -> tuple[str, ...]:
    """Check names of features."""
    names, shape = distinct_names("features", features), None if is_source(x) else np.shape(x)
    if shape is None or len(shape) != 2 or shape[1] != len(names):
        raise ValueError(f"Expected a name for each feature of x, found {len(names)} for {shape}. Make them agree.")
    return names


def abstained_of(abstained: ArrayLike, annotations: NDArray) -> NDArray:
    """Check where experts abstained: nowhere that they said something."""
    abstained = np.asarray(abstained)
    if abstained.shape != annotations.shape or abstained.dtype != bool:
        raise ValueError(
            f"Expected abstained as booleans of shape {annotations.shape}, found {abstained.dtype} of shape "
            f"{abstained.shape}. Make it agree with annotations."
        )
    if (abstained & (annotations >= 0)).any():
        item, person = np.argwhere(abstained & (annotations >= 0))[0]
        raise ValueError(
            f"Expected no annotation where somebody abstained, found one at item {item}, column {person}. Write "
            "-1 there."
        )
    return abstained


def ai_of(ai: ArrayLike, shape: tuple[int, int]) -> NDArray:
    """Check a classifier's probabilities, with rows of zeros where it is silent."""
    ai = np.asarray(ai)
    if ai.shape != shape or ai.dtype.kind not in "iuf":
        raise ValueError(f"Expected ai as probabilities of shape {shape}, found {ai.dtype} of shape {ai.shape}.")
    ai = ai.astype(np.float32, copy=False)
    sums = ai.sum(1)
    good = (ai >= 0).all(1) & ((np.abs(sums - 1) < 1e-3) | (sums == 0))
    if not good.all():
        row = int(np.argmin(good))
        raise ValueError(
            f"Expected probabilities that add up to 1, or zeros, in every row of ai, found {ai[row].tolist()} in row "
            f"{row}. Normalise them."
        )
    return ai
