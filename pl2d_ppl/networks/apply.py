"""Networks as parts of a program."""

from collections.abc import Callable

from flax import nnx
from jax import Array
from numpyro.contrib.module import nnx_module

from pl2d_ppl.networks.frozen import Frozen
from pl2d_ppl.networks.mode import instantiate

__all__ = ["Network", "apply_network"]

Network = nnx.Module | Callable[..., nnx.Module] | Frozen


def apply_network(name: str, network: Network, x: Array) -> Array:
    """Evaluate a network of a program.

    Parameters
    ----------
    name : str
        Name of the network; its parameters are ``{name}$params``.
    network : nnx.Module or callable or Frozen
        A network to train, see :func:`instantiate`, or a Frozen one, which is not trained.
    x : array, shape (N, ...)
        Inputs.

    Returns
    -------
    array
        Its outputs.
    """
    return network(x) if isinstance(network, Frozen) else nnx_module(name, instantiate(network))(x)
