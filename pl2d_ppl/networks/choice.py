"""A network that suits the items."""

from collections.abc import Callable, Sequence
from functools import partial
from math import prod

from pl2d_ppl.networks.convolutional import ConvNet
from pl2d_ppl.networks.mlp import MLP

__all__ = ["network_for"]


def network_for(item: Sequence[int], hidden: Sequence[int], outputs: int | tuple[int, ...]) -> Callable:
    """Choose a network that suits the items: a convolutional network for images, otherwise a perceptron.

    Parameters
    ----------
    item : sequence of int
        Shape of an item; with three axes, an image (height, width, channels).
    hidden : sequence of int
        Widths of the hidden layers, or channels of the convolutions.
    outputs : int or tuple of int
        Shape of the output of one item.

    Returns
    -------
    callable
        Function of ``rngs`` that builds the network.
    """
    if len(item) == 3:
        return partial(ConvNet, item[-1], tuple(hidden), outputs)
    return partial(MLP, prod(item), tuple(hidden), outputs)
