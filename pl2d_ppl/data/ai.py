"""The AI that somebody already has, by its predictions: a frozen classifier to defer with."""

import numpy as np
from flax import nnx
from jax import Array

from pl2d_ppl.data.annotated import Annotated
from pl2d_ppl.networks.frozen import Frozen

__all__ = ["LastFeatures", "with_ai_features"]

LEAST = 1e-6  # probability whose logarithm is still a feature


class LastFeatures(nnx.Module):
    """A classifier without weights: its logits are the last features.

    Parameters
    ----------
    num_categories : int
        Number of categories C.
    """

    def __init__(self, num_categories: int):
        self.num_categories = num_categories

    def __call__(self, x: Array) -> Array:
        """Return the logits of the AI, shape (N, C)."""
        return x[..., -self.num_categories :]


def with_ai_features(data: Annotated) -> tuple[Annotated, Frozen]:
    """Append the AI's logarithmic probabilities to the features, and make the classifier that returns them.

    Parameters
    ----------
    data : Annotated
        Items with `ai` (N, C), and with or without features (N, D).

    Returns
    -------
    data : Annotated
        Items with features (N, D + C). Where the AI is silent, its probabilities are equal.
    classifier : Frozen
        For programs that take a classifier, such as :func:`~pl2d_ppl.models.prob_l2d.prob_l2d`. Do not standardise the
        features after this.

    Raises
    ------
    ValueError
        If there are no predictions, or features are not vectors.
    """
    if data.ai is None:
        raise ValueError("Expected the AI's predictions, data.ai, found none. Read them, or set ai.")
    x = np.asarray(data.x)
    if data.is_lazy or x.ndim != 2:
        raise ValueError(f"Expected features of shape (N, D), found {x.shape}. Embed images first.")
    silent = data.ai.sum(1, keepdims=True) == 0
    logits = np.log(np.maximum(np.where(silent, 1 / data.num_categories, data.ai), LEAST))
    names = None
    if data.features is not None or x.shape[1] == 0:
        names = (*(data.features or ()), *(f"ai_{name}" for name in data.classes))
    whole = data.replace(x=np.concatenate([x, logits], 1), features=names, subset=True)
    return whole, Frozen.of(LastFeatures(data.num_categories))
