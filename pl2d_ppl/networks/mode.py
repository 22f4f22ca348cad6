"""How a program gets its network, and sets the mode of the network."""

from collections.abc import Callable

import numpyro
from flax import nnx
from numpyro.primitives import Messenger, apply_stack

__all__ = ["MODE_MESSAGE", "evaluation", "in_evaluation", "instantiate", "is_evaluation"]

MODE_MESSAGE = "network_mode"


def instantiate(network: nnx.Module | Callable[..., nnx.Module]) -> nnx.Module:
    """Return the module that a program passes to ``nnx_module`` or ``random_nnx_module``.

    Parameters
    ----------
    network : nnx.Module or callable
        Either a module, whose weights start the training (a pretrained network), or a function of ``rngs`` that builds
        one, such as ``partial(MLP, 64, (128,), 10)``; it then draws its weights from the
        key that the program is seeded with, so that a key decides a whole run and runs can be batched.

    Returns
    -------
    nnx.Module
        The module, in evaluation mode under :class:`evaluation`, else as given.
    """
    if not isinstance(network, nnx.Module):
        key = numpyro.prng_key()
        if key is None:
            raise ValueError("Expected a seeded program, since a network is to be drawn. Use handlers.seed.")
        network = network(rngs=nnx.Rngs(key))
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
