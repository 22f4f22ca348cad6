"""Repeated entries: several labels by one person for an item, and facts that an item has once."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

__all__ = ["every_item", "once_per_item", "place"]

Duplicates = Literal["error", "first", "last", "majority"]

MOST_CELLS = 2**31  # of items x people; 8 GiB


def once_per_item(what: str, rows: NDArray, values: NDArray, num_items: int, told: Mapping[str, Any]) -> NDArray:
    """Collect a fact about each item that may occur in several rows, and must be the same in all of them.

    Parameters
    ----------
    what : str
        Name of the fact, for the message.
    rows : array of int, shape (R,)
        Item of each row.
    values : array of int32, shape (R,)
        Value in the row, −1 if empty.
    num_items : int
        N.
    told : mapping
        ``items`` and ``values``: names of the items and of the values, for the message.

    Returns
    -------
    array of int32, shape (N,)
        Value of each item, −1 if unknown.

    Raises
    ------
    ValueError
        If two rows of an item disagree.
    """
    rows, values = rows[values >= 0], values[values >= 0]
    result = np.full(num_items, -1, np.int32)
    result[rows] = values  # the last of several
    wrong = np.flatnonzero(result[rows] != values)
    if len(wrong):
        item = rows[wrong[0]]
        both = [told["values"][v] for v in (values[wrong[0]], result[item])]
        raise ValueError(
            f"Expected the same {what} wherever an item is named, found {both[0]!r} and {both[1]!r} for "
            f"{told['items'][item]!r} (such items: {len(np.unique(rows[wrong])):,}). Correct it, or leave it out."
        )
    return result


def every_item(what: str, rows: NDArray, values: NDArray, num_items: int, told: Mapping[str, Any]) -> NDArray:
    """Collect a fact that every item must have, by :func:`once_per_item`; raise a ValueError if an item lacks it.

    Raises
    ------
    ValueError
        If two rows of an item disagree, or an item has no value.
    """
    result = once_per_item(what, rows, values, num_items, told)
    if result.min() < 0:
        raise ValueError(
            f"Expected {what} of every item, found none for {(result < 0).sum():,}, such as "
            f"{str(told['items'][int(np.argmin(result))])!r}. Add it, or leave {what} out."
        )
    return result


def place(
    rows: NDArray,
    columns: NDArray,
    labels: NDArray,
    duplicates: Duplicates,
    told: Mapping[str, Sequence[str]],
) -> NDArray:
    """Put labels into a matrix of items by people.

    If a person repeats a label for an item, it is not a conflict, under any rule.

    Parameters
    ----------
    rows, columns, labels : array of int, shape (R,)
        Item, person and category of each annotation.
    duplicates : {"error", "first", "last", "majority"}
        Which category counts if a person gave several to one item. Ties of the majority go to the first category.
    told : mapping
        Names: ``items`` (N), ``people`` (M), ``classes``.

    Returns
    -------
    array of int32, shape (N, M)
        Annotations, −1 where missing.

    Raises
    ------
    ValueError
        If a person gave an item several categories and the rule is "error", the rule is unknown, or the matrix would
        not fit in memory.
    """
    if duplicates not in ("error", "first", "last", "majority"):
        raise ValueError(
            f'Expected duplicates "error", "first", "last" or "majority", found {duplicates!r}. Choose one.'
        )
    shape = (len(told["items"]), len(told["people"]))
    if shape[0] * shape[1] > MOST_CELLS:
        raise ValueError(
            f"Expected at most {MOST_CELLS:,} pairs of item and person, found {shape[0]:,} x {shape[1]:,}. Check which "
            f"columns hold items and people: {told['items'][0]!r} is an item here, and {told['people'][0]!r} a person."
        )
    cells = rows.astype(np.int64) * shape[1] + columns
    result = np.full(shape[0] * shape[1], -1, np.int32)  # pandas' pivot takes 30 times as long
    result[cells] = labels  # the last of several
    wrong = np.flatnonzero(result[cells] != labels)
    if len(wrong) and duplicates == "error":
        first = wrong[0]
        both = [told["classes"][v] for v in (labels[first], result[cells[first]])]
        cases = len(np.unique(cells[wrong]))
        raise ValueError(
            f"Expected one label of a person for an item, found several (such cases: {cases:,}), "
            f"such as {both[0]!r} and {both[1]!r} of {told['people'][columns[first]]!r} for "
            f'{told["items"][rows[first]]!r}. Choose what counts: duplicates="first", "last" or "majority".'
        )
    if len(wrong) and duplicates == "first":
        result[cells[::-1]] = labels[::-1]
    if len(wrong) and duplicates == "majority":
        some = np.isin(cells, np.unique(cells[wrong]))
        result[np.unique(cells[wrong])] = _majority(cells[some], labels[some])
    return result.reshape(shape)


def _majority(cells: NDArray, labels: NDArray) -> NDArray:
    """Return the most frequent label of each cell, ascending; ties go to the first label."""
    pairs = pd.DataFrame({"cell": cells, "label": labels}).groupby(["cell", "label"], sort=False).size()
    most = pairs.sort_values(ascending=False, kind="stable").reset_index().drop_duplicates("cell")
    return most.sort_values("cell")["label"].to_numpy()
