"""What is said twice: labels that somebody gave to the same item, and facts that an item has once."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

__all__ = ["every_item", "once_per_item", "place"]

Duplicates = Literal["error", "first", "last", "majority"]

MOST_CELLS = 2**31  # of items x people; 8 GiB


def once_per_item(what: str, rows: NDArray, values: NDArray, num_items: int, told: Mapping[str, Any]) -> NDArray:
    """Collect what is said of an item in several rows, and must be the same in all of them.

    Parameters
    ----------
    what : str
        Its name, for the message.
    rows : array of int, shape (R,)
        Item of each row.
    values : array of int32, shape (R,)
        What the row says, −1 where nothing.
    num_items : int
        N.
    told : mapping
        ``items`` and ``values``: names of the items and of what is said, for the message.

    Returns
    -------
    array of int32, shape (N,)
        What is said, −1 where nothing.

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
    """Collect what must be said of every item; as :func:`once_per_item`, where it is a ValueError if it is not.

    Raises
    ------
    ValueError
        If two rows of an item disagree, or nothing is said of an item.
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

    A label that somebody gave to the same item again is no conflict, whatever the rule.

    Parameters
    ----------
    rows, columns, labels : array of int, shape (R,)
        Item, person and category of each annotation.
    duplicates : {"error", "first", "last", "majority"}
        What becomes of several categories that one person gave to one item. A tie of the majority goes to what came
        first.
    told : mapping
        Names: ``items`` (N), ``people`` (M), ``classes``.

    Returns
    -------
    array of int32, shape (N, M)
        Annotations, −1 where missing.

    Raises
    ------
    ValueError
        If somebody gave an item several categories and the rule is "error", the rule is unknown, or the matrix would
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
    """Most frequent label of each cell, ascending; of a tie the one that came first."""
    pairs = pd.DataFrame({"cell": cells, "label": labels}).groupby(["cell", "label"], sort=False).size()
    most = pairs.sort_values(ascending=False, kind="stable").reset_index().drop_duplicates("cell")
    return most.sort_values("cell")["label"].to_numpy()
