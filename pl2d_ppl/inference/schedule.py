"""How long to optimise, on how many items per step, and by which rule."""

import dataclasses
from functools import lru_cache
from typing import Any, Literal

import jax
import optax

__all__ = ["Schedule"]


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Steps of an optimiser whose learning rate falls along a cosine.

    The defaults follow the appendix of paper A, at the scale of feature vectors.

    Attributes
    ----------
    steps : int
        Steps, rounded to whole epochs.
    batch_size : int
        Number of items per step; a smaller data set is used whole.
    rule : {"sgd", "adamw"}
        The optimiser.
    learning_rate, weight_decay : float
        Learning rate and weight decay of the networks.
    momentum : float
        Momentum of SGD.
    clip : float, optional
        Largest global norm of the gradient.
    site_learning_rate : float, optional
        Learning rate of Adam, without decay, for the sites that items share. By default they are treated like networks.
    """

    steps: int = 2000
    batch_size: int = 128
    rule: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = 0.05
    weight_decay: float = 5e-4
    momentum: float = 0.9
    clip: float | None = 10.0
    site_learning_rate: float | None = None

    def __post_init__(self) -> None:
        """Check the settings that need no data."""
        if self.rule not in ("sgd", "adamw"):
            raise ValueError(f"Expected a rule out of sgd and adamw, found {self.rule!r}.")
        if self.steps < 1 or self.batch_size < 1:
            raise ValueError(
                f"Expected at least one step, on at least one item, found steps={self.steps} and "
                f"batch_size={self.batch_size}."
            )

    def replace(self, **changes: Any) -> "Schedule":
        """Return a copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def batch(self, num_items: int) -> int:
        """Return the number of items per step for a data set."""
        return min(self.batch_size, num_items)

    def epochs(self, num_items: int) -> int:
        """Return the number of epochs for a data set."""
        return max(1, round(self.steps / self._steps_an_epoch(num_items)))

    def optimizer(self, num_items: int) -> optax.GradientTransformation:
        """Return the optimiser for a data set; the same object for the same settings."""
        return _optimizer(self, self.epochs(num_items) * self._steps_an_epoch(num_items))

    def _steps_an_epoch(self, num_items: int) -> int:
        return max(1, num_items // self.batch_size)


@lru_cache(maxsize=64)
def _optimizer(schedule: Schedule, steps: int) -> optax.GradientTransformation:
    rate = optax.cosine_decay_schedule(schedule.learning_rate, steps)
    if schedule.rule == "sgd":
        decay = optax.add_decayed_weights(schedule.weight_decay)
        rule = optax.chain(decay, optax.sgd(rate, momentum=schedule.momentum))
    else:
        rule = optax.adamw(rate, weight_decay=schedule.weight_decay)
    if schedule.site_learning_rate is not None:
        site = optax.adam(optax.cosine_decay_schedule(schedule.site_learning_rate, steps))
        rule = optax.partition({"network": rule, "site": site}, _kinds)
    return rule if schedule.clip is None else optax.chain(optax.clip_by_global_norm(schedule.clip), rule)


def _kinds(params: dict[str, Any]) -> dict[str, Any]:
    """Separate parameters of networks, which ``nnx_module`` names, from those of sites."""
    kinds = {name: "network" if name.endswith("$params") else "site" for name in params}
    return {name: jax.tree.map(lambda _, kind=kinds[name]: kind, leaf) for name, leaf in params.items()}
