"""Mixtures of categoricals."""

from typing import ClassVar

import jax.numpy as jnp
from jax import Array
from numpyro.distributions import CategoricalProbs, Distribution, constraints
from numpyro.distributions.util import validate_sample

__all__ = ["CategoricalMixture"]


class CategoricalMixture(Distribution):
    """Categorical(weights @ probs) that looks up an observed category before it mixes: O(K) instead of O(K C).

    Parameters
    ----------
    weights : Array, shape (..., K)
        Weights of the components, which sum to one.
    probs : Array, shape (..., K, C)
        Probabilities of the categories under each component, which sum to one over C.
    """

    arg_constraints: ClassVar = {
        "weights": constraints.simplex,
        "probs": constraints.independent(constraints.nonnegative, 2),
    }
    has_enumerate_support = True

    def __init__(self, weights: Array, probs: Array, *, validate_args: bool | None = None):
        self.weights, self.probs = weights, probs
        batch_shape = jnp.broadcast_shapes(jnp.shape(weights)[:-1], jnp.shape(probs)[:-2])
        super().__init__(batch_shape, validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> constraints.Constraint:
        """The categories."""
        return constraints.integer_interval(0, jnp.shape(self.probs)[-1] - 1)

    @validate_sample
    def log_prob(self, value: Array) -> Array:
        """Log-probability of categories, shape (...)."""
        shape = jnp.broadcast_shapes(jnp.shape(value), self.batch_shape)
        probs = jnp.broadcast_to(self.probs, (*shape, *jnp.shape(self.probs)[-2:]))
        index = jnp.broadcast_to(value, shape)[..., None, None]
        said = jnp.take_along_axis(probs, index, -1)[..., 0]
        mixed = (said * self.weights).sum(-1)
        # A masked item may be impossible: its gradient must then be zero, not NaN.
        return jnp.where(mixed > 0, jnp.log(jnp.where(mixed > 0, mixed, 1.0)), -jnp.inf)

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Array:
        """Draw categories."""
        return self._mixed().sample(key, sample_shape)

    def enumerate_support(self, expand: bool = True) -> Array:
        """All categories."""
        return self._mixed().enumerate_support(expand)

    def _mixed(self) -> CategoricalProbs:
        return CategoricalProbs(jnp.einsum("...k,...kc->...c", self.weights, self.probs))
