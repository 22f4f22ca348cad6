"""The methods that can be compared by name: a model and a guide for a data set, all with the same networks."""

import dataclasses
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Literal, NamedTuple

import optax

from pl2d_ppl.baselines.naive_l2d import naive_l2d
from pl2d_ppl.data import Annotated
from pl2d_ppl.networks import Ensemble, network_for

__all__ = ["METHODS", "Training", "build_method"]

GuideName = Literal["exact", "mean-field"]


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
    """

    hidden: tuple[int, ...] = (128, 128)
    steps: int = 2000
    batch_size: int = 128
    learning_rate: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 5e-4
    clip: float = 10.0
    window: int | None = None

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


class Shape(NamedTuple):
    """What networks are built for: shape of an item, number of experts and of categories, hidden widths."""

    item: tuple[int, ...]
    num_experts: int
    num_categories: int
    hidden: tuple[int, ...]

    def network(self, outputs: int) -> Callable:
        """Return a network that suits the items."""
        return network_for(self.item, self.hidden, outputs)


def _prob_l2d(shape: Shape, guide: GuideName) -> tuple[Callable, Callable]:
    # Imported here: models and guides are the user's to edit, and import the engine themselves.
    from pl2d_ppl.guides.exact import exact
    from pl2d_ppl.guides.mean_field import mean_field
    from pl2d_ppl.models.prob_l2d import prob_l2d

    model = partial(
        prob_l2d,
        gating=shape.network(shape.num_experts + 1),
        experts=partial(Ensemble, shape.network(shape.num_categories), shape.num_experts),
        classifier=shape.network(shape.num_categories),
    )
    return model, exact(model, ["z"]) if guide == "exact" else mean_field(model)


def _naive(shape: Shape, guide: GuideName) -> tuple[Callable, Callable]:
    from pl2d_ppl.guides.exact import exact

    del guide  # z alone is latent: both are the same
    model = partial(
        naive_l2d,
        gating=shape.network(shape.num_experts + 1),
        classifier=shape.network(shape.num_categories),
    )
    return model, exact(model)


METHODS = {"prob-l2d": _prob_l2d, "naive": _naive}


def build_method(
    name: str, data: Annotated, hidden: tuple[int, ...], guide: GuideName = "exact"
) -> tuple[Callable, Callable]:
    """Build the model and the guide of a method for a data set.

    Parameters
    ----------
    name : str
        One of ``METHODS``.
    data : Annotated
        Training data: decides the sizes of the networks.
    hidden : tuple of int
        Widths of the hidden layers.
    guide : {"exact", "mean-field"}
        Which posterior of the discrete sites.

    Returns
    -------
    tuple of callable
        Model and guide, the guide still without a workload.

    Raises
    ------
    ValueError
        If the method or the guide is unknown, or there is no expert.
    """
    if name not in METHODS:
        raise ValueError(f"Expected a method out of {', '.join(METHODS)}, found {name!r}.")
    if guide not in ("exact", "mean-field"):
        raise ValueError(f"Expected guide exact or mean-field, found {guide!r}.")
    if data.num_experts == 0:
        raise ValueError("Expected annotations of at least one expert, found none. Simulate some: pl2d_ppl.simulate.")
    return _build(name, Shape(data.x.shape[1:], data.num_experts, data.num_categories, tuple(hidden)), guide)


@lru_cache(maxsize=32)
def _build(name: str, shape: Shape, guide: GuideName) -> tuple[Callable, Callable]:
    """Return the same objects for the same shapes: data sets of one shape share a compilation."""
    return METHODS[name](shape, guide)
