"""Equality of programs and optimisers that Python considers different."""

from collections.abc import Hashable
from functools import partial
from types import CellType, FunctionType
from typing import Any

import jax
import numpy as np

__all__ = ["ProgramKey"]


class ProgramKey:
    """A program that equals another one with the same function and arguments, so that it is not compiled again.

    Two ``partial(membership, concentration=0.3)`` are not equal in Python, nor are two ``optax.adam(1e-3)``, whose
    functions are equal but for the values that they close over.

    Parameters
    ----------
    model : callable
        The program.
    """

    def __init__(self, model: Any):
        self.model = model
        self._key = _identity(model)

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ProgramKey) and self._key == other._key

    def __reduce__(self) -> tuple:
        return ProgramKey, (self.model,)


def _identity(value: Any) -> Hashable:
    if isinstance(value, partial):
        options = ((name, _identity(option)) for name, option in sorted(value.keywords.items()))
        return "partial", _identity(value.func), tuple(map(_identity, value.args)), tuple(options)
    if isinstance(value, np.ndarray | np.generic | jax.Array) and not isinstance(value, jax.core.Tracer):
        array = np.asarray(value)
        return "array", array.shape, str(array.dtype), array.tobytes()
    if isinstance(value, FunctionType) and value.__closure__:
        cells = tuple(_identity(_content(cell)) for cell in value.__closure__)
        defaults = _identity(value.__defaults__), _identity(tuple((value.__kwdefaults__ or {}).items()))
        return "closure", value.__code__, id(value.__globals__), cells, defaults
    if isinstance(value, tuple):
        return type(value), tuple(map(_identity, value))
    try:
        return type(value), hash(value), value
    except TypeError:  # not hashable: use the identity of the object, which the program keeps alive
        return "object", id(value)


def _content(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # a name that is not assigned yet
        return None
