"""Annotations as a list for each item: where most people annotated few items, most of a matrix is missing."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["list_annotations"]


def list_annotations(annotations: ArrayLike) -> dict[str, NDArray]:
    """List each item's annotations, and who gave them.

    Parameters
    ----------
    annotations : array of int, shape (N, M)
        Annotations of M people, -1 where missing.

    Returns
    -------
    dict
        ``annotations`` and ``people``, shape (N, L), with L the largest number of annotations of an item, at least
        one; -1 and 0 after the last annotation of an item. People are in order.

    Raises
    ------
    ValueError
        If the annotations are not a matrix of integers.
    """
    annotations = np.asarray(annotations)
    if annotations.ndim != 2 or not np.issubdtype(annotations.dtype, np.integer):
        raise ValueError(
            f"Expected annotations of shape (N, M), integers, found {annotations.dtype} of shape {annotations.shape}."
        )
    given = annotations >= 0
    length = max(int(given.sum(1).max(initial=0)), 1)
    people = np.argsort(~given, axis=1, kind="stable")[:, :length]
    listed = np.take_along_axis(annotations, people, 1)
    return {"annotations": np.where(listed >= 0, listed, -1), "people": np.where(listed >= 0, people, 0)}
