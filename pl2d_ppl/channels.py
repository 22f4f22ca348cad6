"""How the truth is read off what somebody says."""

import jax
import jax.numpy as jnp
from jax import Array

__all__ = ["ABSENT", "EXACT", "answer_logits", "label_channel"]

ABSENT = -1e3  # log-probability of what cannot be: exp of it is zero
EXACT = 1e-30  # error rate of a channel that passes its input on, above the least float32


def label_channel(num_categories: int, error: float) -> Array:
    """Logits of a channel, (C, C): the input with probability 1 - error, else a uniform draw."""
    return jnp.log((1.0 - error) * jnp.eye(num_categories) + error / num_categories)


def answer_logits(annotations: Array, ai_belief: Array, label_noise: float) -> Array:
    """Logits of the truth if somebody decides, the AI last: of who said nothing all alike.

    Parameters
    ----------
    annotations : array of int, shape (N, M)
        What people said, -1 where missing.
    ai_belief : array, shape (N, C)
        Logits of what the AI says.
    label_noise : float
        Probability that the truth is drawn at random instead of read off the decider.

    Returns
    -------
    Array, shape (N, M+1, C)
        The logits.
    """
    num_categories = ai_belief.shape[1]
    people = jnp.where(annotations[..., None] >= 0, label_channel(num_categories, label_noise)[annotations], 0.0)
    ai = jnp.log((1.0 - label_noise) * jax.nn.softmax(ai_belief, -1) + label_noise / num_categories)
    return jnp.concatenate([people, ai[:, None]], axis=1)
