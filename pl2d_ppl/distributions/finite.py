"""Categorical distribution over any finite set of values."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from numpyro.distributions import Categorical, Distribution, constraints

__all__ = ["Finite", "over_support"]


class Finite(Distribution):
    """A distribution over listed values.

    Parameters
    ----------
    values : Array, shape (values,)
        The values, such as 1 .. 5.
    logits : Array, shape (batch shape, values)
        Unnormalised log-probabilities.
    """

    has_enumerate_support = True
    pytree_data_fields = ("values", "logits")

    def __init__(self, values: Array, logits: Array, *, validate_args: bool | None = None):
        self.values, self.logits = values, logits
        super().__init__(jnp.shape(logits)[:-1], (), validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> constraints.Constraint:
        """Integers from the least to the largest value."""
        return constraints.integer_interval(self.values.min(), self.values.max())

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Array:
        """Draw values."""
        return self.values[jax.random.categorical(key, self.logits, shape=sample_shape + self.batch_shape)]

    def log_prob(self, value: Any) -> Array:
        """Log-probability; minus infinity for a value that is not listed."""
        is_value = jnp.expand_dims(jnp.asarray(value), -1) == self.values
        return jnp.max(jnp.where(is_value, jax.nn.log_softmax(self.logits, -1), -jnp.inf), -1)

    def enumerate_support(self, expand: bool = True) -> Array:
        """List the values, shape (values, batch shape or ones)."""
        listed = self.values.reshape(-1, *[1] * len(self.batch_shape))
        return jnp.broadcast_to(listed, (len(self.values), *self.batch_shape)) if expand else listed


def over_support(logits: Array, values: Array | None) -> Distribution:
    """Return a categorical distribution over 0, 1, 2 ..., or over values if some are given."""
    return Categorical(logits=logits) if values is None else Finite(values, logits)
