"""Small convolutional networks."""

from collections.abc import Sequence
from itertools import pairwise

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from pl2d_ppl.networks.mlp import MLP

__all__ = ["ConvNet"]


class ConvNet(nnx.Module):
    """Small convolutional network: 3 x 3 convolutions with batch normalisation, each halving the image.

    Parameters
    ----------
    num_channels : int
        Channels of the input image.
    hidden : sequence of int
        Channels after every convolution.
    outputs : int or tuple of int
        Shape of the output of one item.
    rngs : nnx.Rngs
        Source of the weights.
    """

    def __init__(self, num_channels: int, hidden: Sequence[int], outputs: int | tuple[int, ...], *, rngs: nnx.Rngs):
        widths = (num_channels, *hidden)
        pairs = list(pairwise(widths))
        self.convs = nnx.List([nnx.Conv(i, o, (3, 3), strides=2, use_bias=False, rngs=rngs) for i, o in pairs])
        self.norms = nnx.List([nnx.BatchNorm(o, rngs=rngs) for o in hidden])
        self.head = MLP(widths[-1], (), outputs, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        """Map images of shape (N, height, width, channels) to outputs of shape (N, *outputs)."""
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = nnx.relu(norm(_convolve(conv, x)))
        return self.head(x.mean((1, 2)))


def _convolve(conv: nnx.Conv, x: Array) -> Array:
    """Evaluate a 3 x 3 convolution of stride 2; on a CPU as a product, since there a gradient in a loop is slow.

    In a compiled loop, such as an epoch, XLA's own convolution takes about thirty times as long (jax-ml/jax#12868).
    """
    if jax.default_backend() != "cpu":
        return conv(x)
    sizes = [-(-side // 2) for side in x.shape[1:3]]  # rounded up
    pads = [max(2 * size + 1 - side, 0) for size, side in zip(sizes, x.shape[1:3], strict=True)]
    x = jnp.pad(x, ((0, 0), *((pad // 2, pad - pad // 2) for pad in pads), (0, 0)))
    shifts = [x[:, i : i + 2 * sizes[0] : 2, j : j + 2 * sizes[1] : 2] for i in range(3) for j in range(3)]
    shifts = [shift[:, : sizes[0], : sizes[1]] for shift in shifts]
    kernel = conv.kernel[...]
    return jnp.concatenate(shifts, -1) @ kernel.reshape(-1, kernel.shape[-1])
