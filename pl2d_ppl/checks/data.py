"""Data and arguments of a fit."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from pl2d_ppl.checks.concentration import check_concentration
from pl2d_ppl.checks.keys import is_key
from pl2d_ppl.checks.labels import check_labels
from pl2d_ppl.checks.membership import check_membership

__all__ = ["check_arguments", "check_categories", "check_data"]

LABELS = ("y", "annotations", "votes")


def check_data(data: Mapping[str, Any], batch_size: int, name: str, like: Mapping[str, Any] | None = None) -> int:
    """Check the arrays that models take.

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
        If lengths disagree, there are fewer items than a batch, a float is NaN or infinite, labels are not integers
        from -1 up, or an entry is missing.
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
        _check_array(f"{name}[{key!r}]", key, np.asarray(array))
    return num_items


def check_arguments(arguments: Mapping[str, Any], data: Mapping[str, Any]) -> None:
    """Check arguments of programs other than data.

    Raises
    ------
    ValueError
        If an argument is also in the data, is not finite, is a concentration that is not positive, or an invalid
        membership.
    """
    for name, value in arguments.items():
        if name in data:
            raise ValueError(f"Expected {name!r} as data or as an argument, found both. Pass it once.")
        leaves = [np.asarray(a) for a in jax.tree.leaves(value) if not is_key(a)]
        if any(leaf.dtype.kind == "f" and not np.isfinite(leaf).all() for leaf in leaves):
            raise ValueError(f"Expected finite numbers in arguments[{name!r}], found NaN or infinity.")
        if name == "alpha":
            alphas = np.concatenate([leaf.ravel() for leaf in leaves])
            check_concentration(alphas, alphas.size)
        if name == "membership":
            for each in [part for leaf in leaves for part in (leaf if leaf.ndim == 4 else [leaf])]:  # draws, of runs
                check_membership(each, may_be_empty=False)


def _check_like(data: Mapping[str, Any], name: str, like: Mapping[str, Any]) -> None:
    if set(like) != set(data):
        raise ValueError(f"Expected {name} with the entries of data, {sorted(like)}, found {sorted(data)}.")
    for key, array in data.items():
        if np.shape(array)[1:] != np.shape(like[key])[1:]:
            raise ValueError(
                f"Expected {name}[{key!r}] of shape {('N', *np.shape(like[key])[1:])}, as in data, found "
                f"{np.shape(array)}."
            )


def _check_array(label: str, key: str, array: np.ndarray) -> None:
    if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
        rows = np.flatnonzero(~np.isfinite(array.reshape(len(array), -1)).all(1))
        raise ValueError(
            f"Expected finite values in {label}, found NaN or infinity in {rows.size} rows, the first {rows[0]}. "
            "Impute or leave them out."
        )
    if key == "counts":
        _check_counts(label, array)
    if key not in LABELS:
        return
    check_labels(label, array)
    if key == "y" and (array < 0).all():
        raise ValueError(
            f"Expected some truth in {label}, found none. Add labels: without truth, nobody can be judged."
        )
    if key == "votes" and (array < 0).all():
        raise ValueError(f"Expected some votes in {label}, found only -1. Check how missing votes are coded.")


def _check_counts(label: str, array: np.ndarray) -> None:
    if not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"Expected integer counts in {label}, found {array.dtype}. Count votes; do not pass shares.")
    if array.ndim != 2 or array.min() < 0:
        found = f"shape {array.shape}" if array.ndim != 2 else f"a count of {array.min()}"
        raise ValueError(f"Expected counts of votes, (N, C) and not negative, in {label}, found {found}.")
    if not array.any():
        raise ValueError(f"Expected some votes in {label}, found counts of zero only.")


def check_categories(data: Mapping[str, Any], sites: Mapping[str, jax.ShapeDtypeStruct], name: str = "data") -> None:
    """Check labels against the number of categories of the program's networks, if it is known.

    Raises
    ------
    ValueError
        If a label is too large.
    """
    logits = next((sites[n] for n in ("ai_logits", "cluster_logits") if n in sites), None)
    if logits is None:
        return
    num_categories = logits.shape[-1]
    for key in LABELS:
        if key in data:
            check_labels(f"{name}[{key!r}]", data[key], num_categories=num_categories)
