"""How the truth is read off a person's answer."""

import jax
import jax.numpy as jnp
from jax import Array

__all__ = ["ABSENT", "EXACT", "answer_logits", "label_channel"]

ABSENT = -1e3  # log-probability of an impossible event: its exp is zero
EXACT = 1e-30  # error rate of a channel that copies its input, above the least float32


def label_channel(num_categories: int, error: float) -> Array:
    """Logits of a channel, (C, C): it copies the input with probability 1 - error, else draws uniformly."""
    return jnp.log((1.0 - error) * jnp.eye(num_categories) + error / num_categories)


def answer_logits(said: Array, belief_logits: Array, label_noise: float) -> Array:
    """Logits of the truth if a person decides, with their annotation summed out where it is missing.

    Parameters
    ----------
    said : array of int, shape (N, M+1)
        Annotations of everybody, -1 where missing.
    belief_logits : array, shape (N, M+1, C)
        Logits of the annotations that people would give.
    label_noise : float
        Probability that the truth is drawn at random instead of read off the decision-maker.

    Returns
    -------
    Array, shape (N, M+1, C)
        ln A[t_m, y] for an observed t_m, else ln sum_c f_m(c) A[c, y], where A is the channel.
    """
    num_categories = belief_logits.shape[-1]
    missing = jnp.log((1.0 - label_noise) * jax.nn.softmax(belief_logits, -1) + label_noise / num_categories)
    return jnp.where(said[..., None] >= 0, label_channel(num_categories, label_noise)[said], missing)
