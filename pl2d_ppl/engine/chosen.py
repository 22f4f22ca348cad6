"""A mask that leaves one element of a plate: the one that a discrete site chooses."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from numpyro.handlers import mask

__all__ = ["chosen"]


class chosen(mask):
    """Effect handler that masks all elements of the innermost plate (dim -1) except the one with a given index.

    For NumPyro it is ``mask(mask=index == jnp.arange(size))``. The engine also knows that exactly one element is left:
    "y through expert m, where z = m" then costs M instead of M^2 for each item.

    Parameters
    ----------
    fn : callable, optional
        A program.
    index : Array of int, shape (..., 1)
        The index, usually the value of a discrete site that counts from 0.
    size : int
        Size of the plate.
    """

    def __init__(self, fn: Callable | None = None, index: Any = None, size: int = 1):
        super().__init__(fn, mask=index == jnp.arange(size))
