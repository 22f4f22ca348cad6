"""Several networks of one architecture."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

__all__ = ["Ensemble"]


class Ensemble(nnx.Module):
    """One network per expert, all of one architecture, evaluated as one vectorised network.

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
        """Map inputs of shape (N, ...) to outputs of shape (N, size, ...), one slice per member."""
        outputs = nnx.vmap(lambda net, x: net(x), in_axes=(0, None))(self.members, x)
        return jnp.moveaxis(outputs, 0, 1)
