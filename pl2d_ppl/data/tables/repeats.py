"""Repeated entries: several labels by one person for an item, and facts that an item has once."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pl2d_ppl.checks.advice import advice
from pl2d_ppl.data.long import LongAnnotations

__all__ = ["every_item", "once_per_item", "place"]

Duplicates = Literal["error", "first", "last", "newest", "majority"]
RULES = ("error", "first", "last", "newest", "majority")


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
    time: NDArray | None = None,
) -> LongAnnotations:
    """Collect annotations, one for each pair of item and person; time and memory go with their number.

    If a person repeats a label for an item, it is not a conflict, under any rule.

    Parameters
    ----------
    rows, columns, labels : array of int, shape (R,)
        Item, person and category of each annotation.
    duplicates : {"error", "first", "last", "newest", "majority"}
        Which category counts if a person gave several to one item. Ties of the majority go to the first category, ties
        of the newest to the last row.
    told : mapping
        Names: ``items`` (N), ``people`` (M), ``classes``.
    time : array of float, shape (R,), optional
        When each annotation was made, for "newest".

    Returns
    -------
    LongAnnotations
        Of N items and M people.

    Raises
    ------
    ValueError
        If a person gave an item several categories and the rule is "error", the rule is unknown, or times are unknown.
    """
    if duplicates not in RULES:
        raise ValueError(
            f'Expected duplicates "error", "first", "last", "newest" or "majority", found {duplicates!r}. Choose one.'
        )
    shape = (len(told["items"]), len(told["people"]))
    cells = rows.astype(np.int64) * max(shape[1], 1) + columns
    if duplicates == "newest":
        time = _known(time)
        by_time = np.argsort(time, kind="stable")
        rows, columns, labels, cells = rows[by_time], columns[by_time], labels[by_time], cells[by_time]
    as_written = cells, labels
    order = np.argsort(cells, kind="stable")
    rows, columns, labels, cells = rows[order], columns[order], labels[order], cells[order]
    starts = np.flatnonzero(np.append(True, cells[1:] != cells[:-1])[: len(cells)])
    ends = np.append(starts[1:], len(cells))[: len(starts)] - 1
    last = np.repeat(labels[ends], ends - starts + 1)
    wrong = np.flatnonzero(labels != last)
    if len(wrong) and duplicates == "error":
        first = wrong[np.argmin(order[wrong])]
        raise ValueError(_conflict((labels[first], last[first]), columns[first], rows[first], cells[wrong], told))
    chosen = labels[starts if duplicates in ("first", "majority") else ends]
    if len(wrong) and duplicates == "majority":
        several = np.unique(cells[wrong])
        some = np.isin(as_written[0], several)
        chosen[np.isin(cells[starts], several)] = _majority(as_written[0][some], as_written[1][some])
    return LongAnnotations(rows[starts], columns[starts], chosen, shape)


def _known(time: NDArray | None) -> NDArray:
    if time is None or np.isnan(time).any():
        found = "none" if time is None else f"none in {int(np.isnan(time).sum()):,} rows"
        which = advice('columns={"time": ...}', "--column time=...")
        raise ValueError(
            f"Expected the time of every annotation to find the newest, found {found}. Say which column it is: {which}."
        )
    return time


def _conflict(labels: Sequence[int], column: int, row: int, cells: NDArray, told: Mapping[str, Sequence[str]]) -> str:
    both = ["(would not say)" if label < 0 else told["classes"][label] for label in labels]
    choose = advice(
        'duplicates="first", "last", "newest" or "majority"', "--duplicates first, last, newest or majority"
    )
    return (
        f"Expected one label of a person for an item, found several (such cases: {len(np.unique(cells)):,}), such as "
        f"{both[0]!r} and {both[1]!r} of {told['people'][column]!r} for {told['items'][row]!r}. Choose what counts: "
        f"{choose}."
    )


def _majority(cells: NDArray, labels: NDArray) -> NDArray:
    """Return the most frequent label of each cell, ascending; ties go to the first label."""
    pairs = pd.DataFrame({"cell": cells, "label": labels}).groupby(["cell", "label"], sort=False).size()
    most = pairs.sort_values(ascending=False, kind="stable").reset_index().drop_duplicates("cell")
    return most.sort_values("cell")["label"].to_numpy()
