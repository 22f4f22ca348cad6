"""A classifier alone: the AI, trained first."""

from collections.abc import Callable

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from flax import nnx
from jax import Array
from numpyro.handlers import mask

from pl2d_ppl.checks.declared import declares, truth
from pl2d_ppl.networks import Frozen, apply_network

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

    Parameters
    ----------
    x : array, shape (N, ...)
        Inputs.
    y : array of int, shape (N,), optional
        Truth, -1 where unknown.
    classifier : nnx.Module, callable or Frozen
        Network from x to logits of shape (N, C).
    num_items : int, optional
        Size of the whole data set when x is a mini-batch of it.
    """
    ai_logits = numpyro.deterministic("ai_logits", apply_network("classifier", classifier, x))
    num_batch = len(ai_logits)
    truth = jnp.full((num_batch, 1), -1) if y is None else y[:, None]
    with numpyro.plate("item", max(num_items or 0, num_batch), subsample_size=num_batch, dim=-2):
        with mask(mask=truth >= 0):
            numpyro.sample("y_ai", dist.Categorical(logits=ai_logits[:, None]), obs=jnp.maximum(truth, 0))
