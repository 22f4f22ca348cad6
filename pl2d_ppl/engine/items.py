"""Which rows of the data set the arguments of a program are, and which plate is that of the items."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from numpyro.primitives import Messenger, apply_stack

__all__ = ["ITEMS_MESSAGE", "Items", "items", "items_here", "plate_of_items"]

ITEMS_MESSAGE = "items"
ITEM = "item"  # the name of the plate in the library's models


class Items(NamedTuple):
    """The items of a mini-batch.

    Attributes
    ----------
    plate : str or None
        The plate of the items, if the program has one.
    size : int
        Number of items of the whole data set, N.
    length : int
        Number of items of the mini-batch, n.
    rows : Array or None
        Their rows of the data set, shape (n,); None for items that are not of it.
    in_parts : bool
        Whether the programs are learned from mini-batches that are parts of the data set.
    """

    plate: str | None
    size: int
    length: int
    rows: Array | None
    in_parts: bool

    def is_part(self, plate: str, declared: int) -> bool:
        """Whether a plate of some declared size is that of the items, and tells nothing of the whole data set."""
        return plate == self.plate and declared == self.length != self.size


class items(Messenger):
    """Effect handler that tells a model and a guide which items they see.

    The plate of the items has the rows of the data set as its indices: parameters of single items, of a
    ``numpyro.param`` inside the plate or of :func:`~pl2d_ppl.guides.normal.normal`, follow their items through any
    shuffling. A plate of the length of the mini-batch is a part of the data set: its sites get the weight N / n.

    Parameters
    ----------
    fn : callable, optional
        A program.
    which : Items
        The items.
    """

    def __init__(self, fn: Callable | None = None, which: Items | None = None):
        self.which = which
        self.sizes: dict[str, int] = {}
        super().__init__(fn)

    def process_message(self, msg: dict) -> None:
        """Answer questions, index the plate, and weigh its sites."""
        which = self.which
        if msg["type"] == ITEMS_MESSAGE:
            msg["value"] = which
        if which is None:
            return
        if msg["type"] == "plate" and msg["name"] == which.plate:
            self._index(msg, which)
        elif msg["type"] in ("sample", "param"):
            frames = [f for f in msg.get("cond_indep_stack", ()) if f.name == which.plate]
            if frames and which.is_part(frames[0].name, self.sizes.get(frames[0].name, 0)):
                self._weigh(msg, which)

    def _index(self, msg: dict, which: Items) -> None:
        size, part = msg["args"]
        self.sizes[msg["name"]] = size
        length = size if part is None else part
        if length != which.length:
            raise ValueError(
                f"Expected plate {which.plate!r} of {which.length} elements, the items of a mini-batch, found "
                f"{length}. Name the plate of the items by item_plate, or let its size follow the data: len(x)."
            )
        if which.rows is not None:
            msg["value"] = jnp.asarray(which.rows)

    def _weigh(self, msg: dict, which: Items) -> None:
        if msg["type"] == "param":
            raise ValueError(
                f"Expected a plate of all {which.size} items around parameter {msg['name']!r}, found one of "
                f"{which.length}: its values would belong to other items at every step. Write numpyro.plate("
                f"{which.plate!r}, {which.size}, subsample_size=len(x)), and give event_dim."
            )
        scale = which.size / which.length
        msg["scale"] = scale if msg.get("scale") is None else scale * msg["scale"]


def items_here() -> Items | None:
    """Return the items that a program sees, if a handler tells."""
    return apply_stack({"type": ITEMS_MESSAGE, "fn": lambda: None, "args": (), "kwargs": {}, "value": None})["value"]


def plate_of_items(
    given: str | None, lengths: Mapping[str, int], longer: Callable[[], Mapping[str, int]]
) -> str | None:
    """Find the plate of the items: the one that is named, ``item``, or the only one whose length follows the data.

    Parameters
    ----------
    given : str or None
        The name, if the user gave one.
    lengths : mapping of str to int
        Lengths of the model's plates.
    longer : callable
        Returns the lengths for data of one more item.

    Returns
    -------
    str or None
        The plate; None if no plate follows the data.

    Raises
    ------
    ValueError
        If the named plate does not exist, or several follow the data.
    """
    if given is not None and given not in lengths:
        raise ValueError(f"Expected item_plate among the plates of the model, {sorted(lengths)}, found {given!r}.")
    if given is not None or ITEM in lengths:
        return given or ITEM
    if not lengths:
        return None
    follows = [name for name, length in longer().items() if length != lengths.get(name)]
    if len(follows) > 1:
        raise ValueError(
            f"Expected one plate of the items, found plates {follows} that follow the number of rows. Name one by "
            "item_plate, or call it 'item'."
        )
    return follows[0] if follows else None
