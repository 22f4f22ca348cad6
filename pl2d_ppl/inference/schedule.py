"""Networks and optimisation that methods share."""

import dataclasses
from functools import lru_cache

import optax

__all__ = ["Training"]


@dataclasses.dataclass(frozen=True)
class Training:
    """Networks and optimisation, shared by all methods (paper A, appendix, at the scale of feature vectors).

    Attributes
    ----------
    hidden : tuple of int
        Widths of the hidden layers; of images, channels of the convolutions.
    steps : int
        Steps of SGD, rounded to whole epochs.
    batch_size : int
        Items a step; of a smaller data set, all.
    learning_rate, momentum, weight_decay, clip : float
        Of SGD with a cosine schedule; the gradient is clipped to a global norm.
    window : int or None
        Window of the workload, in items; None holds every mini-batch to the bounds, as paper A.
    pooled_steps : int
        Steps of Adam, each on all items, of partially pooled people, who are no network.
    """

    hidden: tuple[int, ...] = (128, 128)
    steps: int = 2000
    batch_size: int = 128
    learning_rate: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 5e-4
    clip: float = 10.0
    window: int | None = None
    pooled_steps: int = 1000

    def batch(self, num_items: int) -> int:
        """Return the number of items a step for a data set."""
        return min(self.batch_size, num_items)

    def epochs(self, num_items: int) -> int:
        """Return the number of epochs for a data set."""
        return max(1, round(self.steps / max(1, num_items // self.batch_size)))

    def optimizer(self, num_items: int) -> optax.GradientTransformation:
        """Return the optimizer for a data set; the same object for the same settings."""
        return _optimizer(self, self.epochs(num_items) * max(1, num_items // self.batch_size))


@lru_cache(maxsize=32)
def _optimizer(training: Training, steps: int) -> optax.GradientTransformation:
    return optax.chain(
        optax.clip_by_global_norm(training.clip),
        optax.add_decayed_weights(training.weight_decay),
        optax.sgd(optax.cosine_decay_schedule(training.learning_rate, steps), momentum=training.momentum),
    )
