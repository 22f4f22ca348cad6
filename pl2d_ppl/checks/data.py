"""Data and arguments of a fit."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from pl2d_ppl.checks.keys import is_key

__all__ = ["check_arguments", "check_data"]


def check_data(data: Mapping[str, Any], batch_size: int, name: str, like: Mapping[str, Any] | None = None) -> int:
    """Check the arrays that any program takes; :mod:`~pl2d_ppl.checks.declared` has what a program itself declares.

    Parameters
    ----------
    data : mapping of str to array, shape (N, ...)
        The arrays.
    batch_size : int
        Number of items per step.
    name : str
        Name of the arrays, for messages.
    like : mapping, optional
        Training data, whose entries these data must have too.

    Returns
    -------
    int
        N.

    Raises
    ------
    ValueError
        If lengths disagree, there are fewer items than a batch, a float is NaN or infinite, or an entry is missing.
    """
    if not data:
        raise ValueError(f"Expected {name} as a mapping from names to arrays, such as x, annotations, y; found none.")
    if like is not None:
        _check_like(data, name, like)
    lengths = {key: len(array) for key, array in data.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"Expected arrays of one length in {name}, one row an item, found {lengths}.")
    num_items = next(iter(lengths.values()))
    if batch_size < 1:
        raise ValueError(f"Expected a positive batch_size, found {batch_size}.")
    if num_items < batch_size:
        raise ValueError(
            f"Expected at least batch_size={batch_size} items in {name}, found {num_items}. Lower batch_size."
        )
    for key, array in data.items():
        _check_finite(f"{name}[{key!r}]", np.asarray(array))
    return num_items


def check_arguments(arguments: Mapping[str, Any], data: Mapping[str, Any]) -> None:
    """Check arguments of programs other than data.

    Raises
    ------
    ValueError
        If an argument is also in the data, or is not finite.
    """
    for name, value in arguments.items():
        if name in data:
            raise ValueError(f"Expected {name!r} as data or as an argument, found both. Pass it once.")
        leaves = [np.asarray(a) for a in jax.tree.leaves(value) if not is_key(a)]
        if any(leaf.dtype.kind == "f" and not np.isfinite(leaf).all() for leaf in leaves):
            raise ValueError(f"Expected finite numbers in arguments[{name!r}], found NaN or infinity.")


def _check_like(data: Mapping[str, Any], name: str, like: Mapping[str, Any]) -> None:
    if set(like) != set(data):
        raise ValueError(f"Expected {name} with the entries of data, {sorted(like)}, found {sorted(data)}.")
    for key, array in data.items():
        if np.shape(array)[1:] != np.shape(like[key])[1:]:
            raise ValueError(
                f"Expected {name}[{key!r}] of shape {('N', *np.shape(like[key])[1:])}, as in data, found "
                f"{np.shape(array)}."
            )


def _check_finite(label: str, array: np.ndarray) -> None:
    if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
        rows = np.flatnonzero(~np.isfinite(array.reshape(len(array), -1)).all(1))
        raise ValueError(
            f"Expected finite values in {label}, found NaN or infinity in {rows.size} rows, the first {rows[0]}. "
            "Impute or leave them out."
        )
