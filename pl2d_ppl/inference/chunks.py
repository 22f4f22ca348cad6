"""Items in chunks: what is found of each is put together on the host, so that only one chunk is on the device."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jax import Array

__all__ = ["Chunk", "Whole", "chunks_of", "smallest_integer"]


class Chunk(NamedTuple):
    """Some of the items, in order; all chunks have one length, so that one compilation serves all of them.

    Attributes
    ----------
    start : int
        The first item.
    length : int
        Number of items.
    rows : array of int, shape (chunk length,)
        The items, the last of them repeated where the last chunk is too long.
    """

    start: int
    length: int
    rows: np.ndarray

    def take(self, array: Any, axis: int | None = 0) -> Any:
        """Take the items of an array along an axis; without one, the array is not of items."""
        if axis is None or (len(self.rows) == array.shape[axis] and self.start == 0):
            return array
        return array[(slice(None),) * (axis % array.ndim) + (self.rows,)]

    def within(self, array: Any, axis: int | None = 0) -> np.ndarray:
        """Drop the repeated items of a result."""
        array = np.asarray(array)
        return array if axis is None else array[(slice(None),) * (axis % array.ndim) + (slice(self.length),)]


def chunks_of(num_items: int, largest: int) -> Iterator[Chunk]:
    """Cut items into chunks of equal length.

    Parameters
    ----------
    num_items : int
        Number of items, N.
    largest : int
        Largest length of a chunk.

    Yields
    ------
    Chunk
        The chunks.
    """
    number = -(-num_items // largest)
    length = -(-num_items // number)
    for start in range(0, num_items, length):
        rows = np.minimum(np.arange(start, start + length), num_items - 1)
        yield Chunk(start, min(length, num_items - start), rows)


class Whole:
    """Arrays over all items on the host, filled chunk by chunk.

    Parameters
    ----------
    num_items : int
        Number of items, N.
    num_draws : int, optional
        Number of draws, S, where arrays have a leading axis of draws, of which each part has some.
    """

    def __init__(self, num_items: int, num_draws: int | None = None):
        self.arrays: dict[str, np.ndarray] = {}
        self._num_items, self._num_draws = num_items, num_draws

    def put(
        self,
        parts: Mapping[str, Array | np.ndarray],
        axes: Mapping[str, int | None],
        chunk: Chunk,
        first: int = 0,
    ) -> None:
        """Put parts in their places.

        Parameters
        ----------
        parts : mapping of str to Array
            What was found of a chunk.
        axes : mapping of str to int or None
            The axis of the items of each, counted without draws; None where an array is not of items.
        chunk : Chunk
            The chunk.
        first : int
            The first of the draws.
        """
        for name, part in parts.items():
            axis = axes[name]
            axis = axis if axis is None else axis + (self._num_draws is not None)
            array = chunk.within(part, axis)
            if name not in self.arrays:
                self.arrays[name] = np.empty(self._shape(array.shape, axis), array.dtype)
            place = self._place(array.shape, axis, chunk, first)
            self.arrays[name][place] = array

    def _shape(self, shape: Sequence[int], axis: int | None) -> list[int]:
        whole = list(shape)
        if self._num_draws is not None:
            whole[0] = self._num_draws
        if axis is not None:
            whole[axis] = self._num_items
        return whole

    def _place(self, shape: Sequence[int], axis: int | None, chunk: Chunk, first: int) -> tuple[slice, ...]:
        place = [slice(None)] * len(shape)
        if self._num_draws is not None:
            place[0] = slice(first, first + shape[0])
        if axis is not None:
            place[axis] = slice(chunk.start, chunk.start + shape[axis])
        return tuple(place)


def smallest_integer(number: int) -> Any:
    """Return the smallest signed integer type that holds 0, 1, ... up to a number of values, and -1."""
    return np.min_scalar_type(-max(number, 1))
