"""Checks of probabilities that sum to one."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["TOLERANCE", "check_probabilities"]

TOLERANCE = 1e-3  # of sums of probabilities, which float32 and printed digits leave slightly off one


def check_probabilities(
    name: str,
    values: Any,
    axes: str,
    *,
    axis: int = -1,
    names: Sequence[str] | None = None,
    hint: str = "Pass probabilities, not logits.",
) -> NDArray[np.floating]:
    """Check probabilities, and return them on the host.

    Parameters
    ----------
    name : str
        Name of the probabilities, for messages.
    values : array of float
        The probabilities.
    axes : str
        A letter for every axis, such as ``"NKC"``.
    axis : int
        The axis over which they sum to one.
    names : sequence of str, optional
        Names along the last axis, for messages.
    hint : str
        What to do, for messages.

    Returns
    -------
    array of float
        The same.

    Raises
    ------
    ValueError
        If an axis is missing or empty, a number is negative or NaN, or a sum is not one; the message says where.
    """
    probs = np.asarray(values)
    probs = probs if probs.dtype.kind == "f" else probs.astype(float)
    if probs.ndim != len(axes) or 0 in probs.shape:
        raise ValueError(f"Expected {name} of shape ({', '.join(axes)}), not empty, found {probs.shape}.")
    sums = probs.sum(axis, keepdims=True)
    # Written so that NaN is bad, too.
    bad = ~(np.abs(sums - 1) <= TOLERANCE) | ~(probs >= 0).all(axis, keepdims=True)
    if bad.any():
        index = tuple(int(i) for i in np.argwhere(bad)[0])
        whole = tuple(slice(None) if i == axis % probs.ndim else place for i, place in enumerate(index))
        found = np.array2string(probs[whole], precision=4, threshold=6, edgeitems=3, separator=", ")
        places = [
            repr(names[i]) if names is not None and n == probs.ndim - 1 else f"{axes[n]} = {i}"
            for n, i in enumerate(index)
            if n != axis % probs.ndim
        ]
        raise ValueError(
            f"Expected {name} as probabilities, not negative, that sum to one over {axes[axis]}, found {found} with "
            f"sum {sums[index]:.6g}{_least(probs[whole])} at {', '.join(places)}. "
            f"{_remedy(probs[index[:-2]], axes, axis % probs.ndim - probs.ndim, hint)}"
        )
    return probs


def _least(probs: NDArray) -> str:
    """Say which number is negative, since a message does not show all."""
    return f" and least {probs.min():.6g}" if (probs < 0).any() else ""


def _remedy(probs: NDArray, axes: str, axis: int, hint: str) -> str:
    if not np.isfinite(probs).all():
        return "Correct NaN and infinite numbers."
    other = -1 if axis == -2 else -2
    is_transposed = probs.ndim > 1 and (probs >= 0).all() and (np.abs(probs.sum(other) - 1) <= TOLERANCE).all()
    return f"Transpose them, as they sum to one over {axes[other]}." if is_transposed else hint
