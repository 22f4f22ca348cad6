"""Trained networks that are used without further training."""

from dataclasses import dataclass, field
from typing import Any

import jax
from flax import nnx
from jax import Array

from pl2d_ppl.networks.mode import in_evaluation

__all__ = ["Frozen"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Frozen:
    """A trained network that is used without further training: no gradient reaches it, and dropout is off.

    It is a pytree of its weights, so that it can be an argument of a fit: another network of the same architecture
    needs no new compilation.

    Attributes
    ----------
    graph : nnx.GraphDef
        Everything about the network except its weights.
    state : pytree of Array
        Its weights, and statistics.
    """

    graph: nnx.GraphDef = field(metadata={"static": True})
    state: Any

    @classmethod
    def of(cls, network: nnx.Module) -> "Frozen":
        """Freeze a copy of a module; the module itself may be trained further."""
        graph, state = nnx.split(network)
        return cls(graph, _copied(state))

    @property
    def module(self) -> nnx.Module:
        """Return a copy of the network as a module, in its original mode, for further training."""
        return nnx.merge(self.graph, _copied(self.state))

    def __call__(self, x: Array) -> Array:
        """Evaluate the network."""
        return in_evaluation(nnx.merge(self.graph, jax.lax.stop_gradient(self.state)))(x)


def _copied(state: Any) -> Any:
    """Return the same arrays in new variables."""
    return jax.tree.map(lambda a: a, state)
