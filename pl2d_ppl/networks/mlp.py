"""Multi-layer perceptrons."""

from collections.abc import Sequence
from itertools import pairwise
from math import prod

from flax import nnx
from jax import Array

__all__ = ["MLP"]


class MLP(nnx.Module):
    """Multi-layer perceptron with ReLU.

    Parameters
    ----------
    num_inputs : int
        Size of the last axis of the input; all axes after the first are flattened into it.
    hidden : sequence of int
        Widths of the hidden layers.
    outputs : int or tuple of int
        Shape of the output of one item.
    dropout : float
        Dropout rate after every hidden layer.
    rngs : nnx.Rngs
        Source of the weights.
    """

    def __init__(
        self,
        num_inputs: int,
        hidden: Sequence[int],
        outputs: int | tuple[int, ...],
        *,
        dropout: float = 0.0,
        rngs: nnx.Rngs,
    ):
        self.outputs = (outputs,) if isinstance(outputs, int) else tuple(outputs)
        widths = (num_inputs, *hidden)
        self.hidden = nnx.List([nnx.Linear(i, o, rngs=rngs) for i, o in pairwise(widths)])
        self.readout = nnx.Linear(widths[-1], prod(self.outputs), rngs=rngs)
        self.dropout = nnx.Dropout(dropout, rngs=rngs) if dropout else None

    def __call__(self, x: Array) -> Array:
        """Map inputs of shape (N, ...) to outputs of shape (N, *outputs)."""
        x = x.reshape(x.shape[0], -1)
        for layer in self.hidden:
            x = nnx.relu(layer(x))
            if self.dropout is not None:
                x = self.dropout(x)
        return self.readout(x).reshape(-1, *self.outputs)
