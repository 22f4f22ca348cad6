"""Networks as parts of a program."""

from collections.abc import Callable

import jax
from flax import nnx
from jax import Array
from numpyro.contrib.module import nnx_module

from pl2d_ppl.networks.frozen import Frozen
from pl2d_ppl.networks.mode import NotGiven, instantiate

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

    Raises
    ------
    ValueError
        If the program neither has a seed to draw the network from nor was given the network's parameters.
    """
    if isinstance(network, Frozen):
        return network(x)
    function = nnx_module(name, instantiate(network))
    if any(isinstance(weight, NotGiven) for weight in jax.tree.leaves(function.args)):
        raise ValueError(
            f"Expected a program with a seed, or with parameters for all its networks, found neither for {name!r}. Use "
            f"handlers.seed(model, rng_key), or substitute(model, data=params) with '{name}$params' among them."
        )
    return function(x)
