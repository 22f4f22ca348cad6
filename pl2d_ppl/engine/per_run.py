"""Values that differ between the runs of a batch, and the leaves of guides."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

__all__ = ["Leafless", "PerRun", "guide_of", "tree_of_guide"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PerRun:
    """A value that differs between the runs of a batch: an argument of a fit, or a bound of a workload.

    Attributes
    ----------
    value : pytree of array, shape (R, ...)
        The value, with a leading axis of runs.
    """

    value: Any


@jax.tree_util.register_static
@dataclass(frozen=True)
class Leafless:
    """A guide without traced leaves, as a pytree.

    Attributes
    ----------
    guide : callable
        The guide.
    """

    guide: Callable | None


def tree_of_guide(guide: Callable | None) -> Any:
    """Return a guide as a pytree: itself if it is one, such as a workload, else without leaves."""
    return Leafless(guide) if jax.tree_util.all_leaves([guide]) else guide


def guide_of(tree: Any) -> Any:
    """Return the guide that :func:`tree_of_guide` was given."""
    return tree.guide if isinstance(tree, Leafless) else tree
