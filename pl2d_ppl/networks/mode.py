"""How a program gets its network, and sets the mode of the network."""

from collections.abc import Callable
from typing import Any, NoReturn

import jax
from flax import nnx
from numpyro.primitives import Messenger, apply_stack

__all__ = ["MODE_MESSAGE", "NotGiven", "evaluation", "in_evaluation", "instantiate", "is_evaluation"]

MODE_MESSAGE = "network_mode"


def instantiate(network: nnx.Module | Callable[..., nnx.Module]) -> nnx.Module:
    """Return the module that a program passes to ``nnx_module`` or ``random_nnx_module``.

    Parameters
    ----------
    network : nnx.Module or callable
        Either a module, whose weights start the training (a pretrained network), or a function of ``rngs`` that builds
        one, such as ``partial(MLP, 64, (128,), 10)``; it then draws its weights from the
        key that the program is seeded with, so that a key decides a whole run and runs can be batched. Without a seed,
        the program must be given all weights, such as by ``substitute(model, data=result.params)``.

    Returns
    -------
    nnx.Module
        The module, in evaluation mode under :class:`evaluation`, else as given.

    Raises
    ------
    ValueError
        If the module is used although it has neither been drawn nor been given its weights.
    """
    if not isinstance(network, nnx.Module):
        key = _key()
        network = _without_weights(network(rngs=nnx.Rngs(0))) if key is None else network(rngs=nnx.Rngs(key))
    return in_evaluation(network) if is_evaluation() else network


def is_evaluation() -> bool:
    """Whether the program runs under :class:`evaluation`."""
    mode = apply_stack({"type": MODE_MESSAGE, "fn": lambda: "as given", "args": (), "kwargs": {}, "value": None})
    return mode["value"] == "evaluation"


class evaluation(Messenger):
    """Effect handler that puts networks in evaluation mode: they use running statistics, and dropout is off."""

    def process_message(self, msg: dict) -> None:
        """Answer the question of :func:`instantiate`."""
        if msg["type"] == MODE_MESSAGE:
            msg["value"] = "evaluation"


def in_evaluation(network: nnx.Module) -> nnx.Module:
    """Return a view of a network in evaluation mode: it uses running statistics, and dropout is off."""
    return nnx.view(network, deterministic=True, use_running_average=True, raise_if_not_found=False)


def _key() -> Any:
    """Return a key of the handler of seeds, or None if there is none; ``numpyro.prng_key`` would warn."""
    message = {"type": "prng_key", "fn": lambda rng_key: rng_key, "args": (), "kwargs": {"rng_key": None}}
    return apply_stack({**message, "value": None})["value"]


def _without_weights(network: nnx.Module) -> nnx.Module:
    """Return a network whose weights, and statistics, have to be given before it is used."""
    graph, state = nnx.split(network)
    return nnx.merge(graph, jax.tree.map(NotGiven, state))


class NotGiven:
    """A weight that a program without a seed has not been given."""

    def __init__(self, drawn: Any):
        self.shape, self.dtype = drawn.shape, drawn.dtype

    def refuse(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse to be read: the program would run with weights that nobody asked for."""
        raise ValueError(
            "Expected a program with a seed, or with parameters for all its networks, found neither for a weight of "
            f"shape {self.shape}. Use handlers.seed(model, rng_key), or substitute(model, data=result.params)."
        )

    # Modules of flax read a weight by indexing; modules of users may compute with it.
    __getitem__ = __array__ = __jax_array__ = refuse
    __add__ = __sub__ = __mul__ = __truediv__ = __matmul__ = refuse
    __radd__ = __rsub__ = __rmul__ = __rtruediv__ = __rmatmul__ = refuse
