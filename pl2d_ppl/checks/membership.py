"""Checks of memberships of people in clusters."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from pl2d_ppl.checks.names import names_of
from pl2d_ppl.checks.probabilities import check_probabilities

__all__ = ["check_membership"]


def check_membership(
    membership: Any,
    num_clusters: int | None = None,
    num_people: int | None = None,
    people: Sequence[Any] | None = None,
    *,
    may_be_empty: bool = True,
) -> None:
    """Check memberships of people in clusters; for traced arrays, check only the shape.

    Parameters
    ----------
    membership : array of float, shape (K, M) or (S, K, M)
        Memberships Omega, soft or one-hot, or draws of them.
    num_clusters, num_people : int, optional
        K and M, if known.
    people : sequence, optional
        Names, for messages.
    may_be_empty : bool
        Whether a cluster may have no members in every draw.

    Raises
    ------
    ValueError
        If the shape is wrong, a number is not finite or is negative, a column does not sum to one, or a cluster is
        empty.
    """
    shape = np.shape(membership)
    if len(shape) not in (2, 3) or 0 in shape:
        raise ValueError(f"Expected membership of shape (K, M), or (S, K, M) of draws, found {shape}.")
    for found, expected, what in ((shape[-2], num_clusters, "clusters"), (shape[-1], num_people, "people")):
        if expected is not None and found != expected:
            raise ValueError(
                f"Expected membership of {expected} {what}, found {found}, in shape {shape}. Its rows are clusters, "
                "without the AI, and its columns people."
            )
    names = names_of(people, shape[-1], "person")
    if isinstance(membership, jax.core.Tracer):
        return
    omega = check_probabilities("membership", membership, "SKM"[-len(shape) :], axis=-2, names=names)
    empty = np.flatnonzero(omega.any(-1).reshape(-1, shape[-2]).any(0) == 0)
    if empty.size and not may_be_empty:
        raise ValueError(
            f"Expected somebody in every cluster, found nobody in cluster {', '.join(map(str, empty))}. Drop that row "
            "of the membership."
        )
