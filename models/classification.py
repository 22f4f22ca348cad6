"""A classifier alone: the AI, trained first."""

from collections.abc import Callable

import numpyro.distributions as dist
from flax import nnx
from jax import Array

from pl2d_ppl.checks.declared import declares, truth
from pl2d_ppl.networks import Frozen
from pl2d_ppl.primitives import items, network, observe

__all__ = ["classification"]


@declares(truth("y", categories="ai_logits"))
def classification(
    x: Array,
    y: Array | None = None,
    *,
    classifier: nnx.Module | Callable[..., nnx.Module] | Frozen,
    num_items: int | None = None,
) -> None:
    """Generate the truth of items from a classifier.

    For every item i::

        y_i ~ Categorical(classifier(x_i))

    Sites: plate ``item`` (dim -2, as in the models of deferral); observed ``y_ai``; deterministic ``ai_logits`` (N, C).
    Plate diagram: docs/models/classification.

    Parameters
    ----------
    x : array, shape (N, ...)
        Inputs.
    y : array of int, shape (N,), optional
        Truth, -1 where unknown. Without this argument it is generated.
    classifier : nnx.Module, callable or Frozen
        Network from x to logits of shape (N, C).
    num_items : int, optional
        Size of the whole data set when x is a mini-batch of it.
    """
    ai_logits = network("classifier", classifier, x, output="ai_logits")
    with items(x, num_items):
        observe("y_ai", dist.Categorical(logits=ai_logits[:, None]), y)
