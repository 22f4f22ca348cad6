"""Flax networks for the models: how a program gets one, its mode, and a few that suit the papers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
from flax import nnx
from jax import Array
from numpyro.contrib.module import nnx_module
from numpyro.primitives import Messenger, apply_stack

__all__ = ["MLP", "ConvNet", "Ensemble", "Frozen", "apply_network", "evaluation", "instantiate", "network_for"]

MODE_MESSAGE = "network_mode"


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Frozen:
    """A trained network that is used as it is: no gradient reaches it, and it drops nothing out.

    It is a pytree of its weights, so that it can be an argument of a fit: another network of the same architecture is
    not another compilation.

    Attributes
    ----------
    graph : nnx.GraphDef
        Everything about the network but its weights.
    state : pytree of Array
        Its weights, and statistics.
    """

    graph: nnx.GraphDef = field(metadata={"static": True})
    state: Any

    @classmethod
    def of(cls, network: nnx.Module) -> "Frozen":
        """Freeze a copy of a module, which may be trained on."""
        graph, state = nnx.split(network)
        return cls(graph, _copied(state))

    @property
    def module(self) -> nnx.Module:
        """A copy of the network as a module, in the mode that it was given in, to go on training from."""
        return nnx.merge(self.graph, _copied(self.state))

    def __call__(self, x: Array) -> Array:
        """Evaluate the network."""
        return _in_evaluation(nnx.merge(self.graph, jax.lax.stop_gradient(self.state)))(x)


def _copied(state: Any) -> Any:
    """Return the same arrays in variables of their own."""
    return jax.tree.map(lambda a: a, state)


Network = nnx.Module | Callable[..., nnx.Module] | Frozen


def apply_network(name: str, network: Network, x: Array) -> Array:
    """Evaluate a network of a program.

    Parameters
    ----------
    name : str
        Of its parameters, ``{name}$params``.
    network : nnx.Module or callable or Frozen
        What is trained, see :func:`instantiate`, or is not.
    x : array, shape (N, ...)
        Inputs.

    Returns
    -------
    array
        Its outputs.
    """
    return network(x) if isinstance(network, Frozen) else nnx_module(name, instantiate(network))(x)


def instantiate(network: nnx.Module | Callable[..., nnx.Module]) -> nnx.Module:
    """Return the module that a program passes to ``nnx_module`` or ``random_nnx_module``.

    Parameters
    ----------
    network : nnx.Module or callable
        Either a module, whose weights are where training starts (a pretrained network), or a function of
        ``rngs`` that builds one, such as ``partial(MLP, 64, (128,), 10)``; it then draws its weights from the
        key that the program is seeded with, so that a key decides a whole run and runs can be batched.

    Returns
    -------
    nnx.Module
        In evaluation mode under :class:`evaluation`, else as given.
    """
    if not isinstance(network, nnx.Module):
        key = numpyro.prng_key()
        if key is None:
            raise ValueError("Expected a seeded program, since a network is to be drawn. Use handlers.seed.")
        network = network(rngs=nnx.Rngs(key))
    mode = apply_stack({"type": MODE_MESSAGE, "fn": lambda: "as given", "args": (), "kwargs": {}, "value": None})
    if mode["value"] != "evaluation":
        return network
    return _in_evaluation(network)


def _in_evaluation(network: nnx.Module) -> nnx.Module:
    """Return a view of a network that normalises by its running statistics, and drops nothing out."""
    return nnx.view(network, deterministic=True, use_running_average=True, raise_if_not_found=False)


class evaluation(Messenger):
    """Effect handler: networks normalise by their running statistics, and drop nothing out."""

    def process_message(self, msg: dict) -> None:
        """Answer the question of :func:`instantiate`."""
        if msg["type"] == MODE_MESSAGE:
            msg["value"] = "evaluation"


class MLP(nnx.Module):
    """Multi-layer perceptron with ReLU.

    Parameters
    ----------
    num_inputs : int
        Size of the last axis of the input; further axes but the first are flattened into it.
    hidden : sequence of int
        Widths of the hidden layers.
    outputs : int or tuple of int
        Shape of the output, one item's.
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


class ConvNet(nnx.Module):
    """Small convolutional network: 3 x 3 convolutions with batch normalisation, each halving the image.

    Parameters
    ----------
    num_channels : int
        Channels of the input image.
    hidden : sequence of int
        Channels after every convolution.
    outputs : int or tuple of int
        Shape of the output, one item's.
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

    In a compiled loop, such as an epoch, XLA's own takes some thirty times as long (jax-ml/jax#12868).
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


class Ensemble(nnx.Module):
    """One network an expert, of one architecture, evaluated as one vectorised network.

    Parameters
    ----------
    member : callable
        Function of ``rngs`` that builds a member, such as ``partial(MLP, 64, (128,), 10)``.
    size : int
        Number of members.
    rngs : nnx.Rngs
        Source of the weights; every member draws its own.
    """

    def __init__(self, member: Callable[..., nnx.Module], size: int, *, rngs: nnx.Rngs):
        self.size = size
        keys = jax.random.split(rngs.params(), size)
        self.members = nnx.vmap(lambda key: member(rngs=nnx.Rngs(key)))(keys)

    def __call__(self, x: Array) -> Array:
        """Map inputs of shape (N, ...) to outputs of shape (N, size, ...), one slice a member."""
        outputs = nnx.vmap(lambda net, x: net(x), in_axes=(0, None))(self.members, x)
        return jnp.moveaxis(outputs, 0, 1)


def network_for(item: Sequence[int], hidden: Sequence[int], outputs: int | tuple[int, ...]) -> Callable:
    """Choose a network that suits the items: a convolutional net of images, a perceptron of anything else.

    Parameters
    ----------
    item : sequence of int
        Shape of an item; with three axes, an image (height, width, channels).
    hidden : sequence of int
        Widths of the hidden layers, or channels of the convolutions.
    outputs : int or tuple of int
        Shape of the output, one item's.

    Returns
    -------
    callable
        Function of ``rngs`` that builds it.
    """
    if len(item) == 3:
        return partial(ConvNet, item[-1], tuple(hidden), outputs)
    return partial(MLP, prod(item), tuple(hidden), outputs)
