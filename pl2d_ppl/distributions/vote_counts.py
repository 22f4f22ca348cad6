"""Numbers of anonymous votes for listed categories."""

import jax.numpy as jnp
from jax import Array
from jax.scipy.special import gammaln, xlogy
from numpyro.distributions import Distribution, constraints

__all__ = ["VoteCounts"]


class VoteCounts(Distribution):
    """Multinomial numbers of votes, of which the categories that got votes are listed.

    Parameters
    ----------
    probs : Array, shape (batch shape, D)
        Probabilities of D listed categories; all others together have the remaining probability, and no votes.
    """

    support = constraints.independent(constraints.nonnegative_integer, 1)
    pytree_data_fields = ("probs",)

    def __init__(self, probs: Array, *, validate_args: bool | None = None):
        self.probs = probs
        super().__init__(jnp.shape(probs)[:-1], jnp.shape(probs)[-1:], validate_args=validate_args)

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Array:
        """Refuse: the number of votes is not part of the distribution."""
        raise NotImplementedError("Expected observed counts: how many people vote is not modelled. Simulate votes.")

    def log_prob(self, value: Array) -> Array:
        """Log-probability of counts, shape (..., D)."""
        value = value.astype(jnp.result_type(self.probs))
        coefficient = gammaln(value.sum(-1) + 1.0) - gammaln(value + 1.0).sum(-1)
        return coefficient + xlogy(value, self.probs).sum(-1)
