"""Annotations without names: votes, and their counts."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike as JaxArrayLike
from numpy.typing import ArrayLike, NDArray

from pl2d_ppl.checks.keys import check_key
from pl2d_ppl.checks.labels import check_labels
from pl2d_ppl.checks.values import check_count

__all__ = ["anonymise"]


def anonymise(rng_key: JaxArrayLike, annotations: ArrayLike, num_votes: int | None = None) -> NDArray[np.int32]:
    """Remove the identities of annotators.

    The annotations of each item are put in an independent, uniformly random order, so that a column says nothing about
    a person.

    Parameters
    ----------
    rng_key : PRNG key
        Typed key, from `jax.random.key`.
    annotations : array of int, shape (N, M)
        Annotations, −1 where missing.
    num_votes : int, optional
        Number of columns L, so that two parts of a data set can have equally many. By default the largest number of
        annotations of an item, and 1 if there are no annotations.

    Returns
    -------
    array of int32, shape (N, L)
        Votes; −1 pads the rows on the right.

    Raises
    ------
    ValueError
        If an argument is malformed, or an item has more than `num_votes` annotations.

    References
    ----------
    "Learning to Defer on Anonymously-Annotated Data", whose annotators have no identities.
    """
    check_key(rng_key)
    annotations = check_labels("annotations", annotations, ("N", "M"), may_be_empty=False)
    present = annotations >= 0
    most = max(int(present.sum(1).max()), 1)
    if num_votes is None:
        num_votes = most
    check_count("num_votes", num_votes)
    if num_votes < most:
        raise ValueError(
            f"Expected num_votes of at least {most}, the most annotations of an item, found {num_votes}. Raise it, or "
            "thin the annotations with subset_annotators."
        )
    scores = np.asarray(jax.random.uniform(rng_key, annotations.shape, jnp.float32))
    order = np.where(present, scores, np.inf).argsort(axis=1)[:, :most]
    votes = np.full((len(annotations), num_votes), -1, np.int32)
    votes[:, :most] = np.take_along_axis(annotations, order, axis=1)
    return votes
