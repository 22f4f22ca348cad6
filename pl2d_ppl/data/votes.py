"""Anonymous votes in NumPy's ``.npz`` files."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pl2d_ppl.data.annotated import Annotated, expert_names
from pl2d_ppl.data.npz import MissingKeyError, naming, open_npz
from pl2d_ppl.simulate import vote_counts

__all__ = ["Votes", "read_votes"]


@dataclass(frozen=True, eq=False)
class Votes:
    """Items with anonymous votes, and perhaps annotations of identified people.

    Attributes
    ----------
    x : array of float32, shape (N, ...)
        Features.
    counts : array of int32, shape (N, C)
        Number of votes for each category.
    classes : tuple of str, length C
        Names of the categories.
    annotations : array of int32, shape (N, M)
        What identified people said, -1 where missing; M may be 0.
    annotators : tuple of str, length M
        Their names.
    """

    x: NDArray
    counts: NDArray
    classes: tuple[str, ...]
    annotations: NDArray
    annotators: tuple[str, ...]


def read_votes(path: str | os.PathLike) -> Votes:
    """Read anonymous votes.

    Keys: `x` (N, ...); `votes` (N, L), -1 where an item has fewer than L, or `counts` (N, C). Optional: `classes`
    (C,); `annotations` (N, M) of identified people, -1 where missing, and `annotators` (M,). Other keys are left
    alone. Without `classes` there are as many as the columns of `counts`, or up to the largest label.

    Parameters
    ----------
    path : path-like
        File to read. Pickled objects in it are refused, as they could run any code.

    Returns
    -------
    Votes
        What it holds, checked.

    Raises
    ------
    ValueError
        If the file cannot be read, lacks a key, or holds invalid data.
    """
    path = Path(path)
    with open_npz(path) as file:
        keys = ("x", "votes", "counts", "classes", "annotations", "annotators")
        arrays = {key: file[key] for key in keys if key in file.files}
        found = ", ".join(file.files) or "none"
    if "x" not in arrays or ("votes" in arrays) == ("counts" in arrays):
        raise MissingKeyError(f"{path} must hold the keys x and either votes or counts, found {found}.")
    with naming(f"{path}"):
        return _checked(arrays)


def _checked(arrays: dict[str, Any]) -> Votes:
    num_items = len(np.atleast_1d(arrays["x"]))
    annotations = np.asarray(arrays.get("annotations", np.empty((num_items, 0), np.int32)))
    said = [np.asarray(arrays[key]) for key in ("votes", "annotations") if key in arrays]
    if "counts" in arrays:
        num_categories = arrays["counts"].shape[-1]
    else:
        num_categories = max([2, *(int(a.max()) + 1 for a in said if a.size and a.dtype.kind in "iu")])
    classes = arrays.get("classes", np.arange(num_categories))
    people = arrays.get("annotators", expert_names(annotations))
    # The container's checks of features, labels and names.
    items = Annotated(
        arrays["x"],
        np.full(num_items, -1),
        annotations,
        classes=tuple(map(str, np.atleast_1d(classes))),
        annotators=tuple(map(str, np.atleast_1d(people))),
        subset=True,
    )
    counts = _counts(arrays, items.num_items, items.num_categories)
    return Votes(items.x, counts, items.classes, items.annotations, items.annotators)


def _counts(arrays: dict[str, Any], num_items: int, num_categories: int) -> NDArray:
    if "votes" in arrays:
        votes = np.asarray(arrays["votes"])
        if votes.ndim != 2 or len(votes) != num_items:
            raise ValueError(f"`votes` must have shape ({num_items}, L), found {votes.shape}; one row an item.")
        counts = vote_counts(votes, num_categories)
    else:
        counts = np.asarray(arrays["counts"])
        if counts.shape != (num_items, num_categories) or counts.dtype.kind not in "iu" or counts.min() < 0:
            found = f"{counts.dtype} of shape {counts.shape}" + (f" down to {counts.min()}" if counts.size else "")
            raise ValueError(
                f"`counts` must be integers from 0 up of shape ({num_items}, {num_categories}), found {found}; count "
                "votes."
            )
    if not counts.any():
        raise ValueError("there must be votes, found none: every vote is missing; check how missing ones are coded.")
    return counts.astype(np.int32)
