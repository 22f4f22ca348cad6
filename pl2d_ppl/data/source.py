"""Lazy inputs: items that are read, or decoded, on access."""

from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Part", "Source", "gather", "is_source", "take"]


@runtime_checkable
class Source(Protocol):
    """Random access to items, such as images in a folder; grain and ``tfds.data_source`` call it a data source."""

    def __len__(self) -> int:
        """Return the number of items, N."""
        ...

    def __getitem__(self, index: int) -> Any:
        """Return an item, an array of any shape; shapes of items may differ."""
        ...


class Part:
    """Some items of a source, in a given order; items are read only on access.

    Parameters
    ----------
    source : Source
        All items.
    indices : array of int, shape (N',)
        Indices of the items.
    """

    def __init__(self, source: Source, indices: ArrayLike):
        self.source, self.indices = source, np.asarray(indices)

    def __len__(self) -> int:
        """Return N'."""
        return len(self.indices)

    def __getitem__(self, index: int) -> Any:
        """Return an item."""
        return self.source[int(self.indices[index])]

    def __repr__(self) -> str:
        return f"Part({len(self)} of {self.source!r})"


def is_source(x: Any) -> bool:
    """Whether inputs are lazy, that is, neither an array nor convertible to one."""
    return isinstance(x, Source) and not (hasattr(x, "__array__") or isinstance(x, list | tuple | str | bytes))


def take(x: Any, indices: NDArray) -> Any:
    """Take items of an array, or of a source without reading them."""
    if not is_source(x):
        return x[indices]
    return Part(x.source, x.indices[indices]) if isinstance(x, Part) else Part(x, indices)


def gather(source: Source) -> NDArray:
    """Read all items into one array.

    Parameters
    ----------
    source : Source
        Items of one shape.

    Returns
    -------
    array, shape (N, ...)
        The items.

    Raises
    ------
    ValueError
        If shapes differ.
    """
    items = [np.asarray(source[i]) for i in range(len(source))]
    shapes = {item.shape for item in items}
    if len(shapes) > 1:
        shown = ", ".join(map(str, sorted(shapes)[:3]))
        raise ValueError(
            f"Expected items of one shape, found {len(shapes)} shapes, such as {shown}. Resize images: "
            "pl2d_ppl.data.ImagePipeline."
        )
    return np.stack(items)
