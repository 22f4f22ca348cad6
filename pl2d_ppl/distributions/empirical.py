"""Draws of a posterior as a distribution."""

from typing import ClassVar

import jax.numpy as jnp
import numpyro
from jax import Array, random
from jax.typing import ArrayLike
from numpyro.distributions import Distribution, constraints

__all__ = ["Empirical", "membership_draws"]


class Empirical(Distribution):
    """One of S draws, each with the same probability.

    It carries a sampled posterior, such as that of a membership, into another program. Used as both prior and guide of
    a site, it leaves that posterior unchanged: observations of the other program do not feed back (a cut). The
    log-probability is that of a draw; values are not checked to be draws.

    Parameters
    ----------
    draws : Array, shape (S, ...)
        The draws.
    """

    arg_constraints: ClassVar[dict] = {}
    pytree_data_fields = ("draws",)

    def __init__(self, draws: ArrayLike, *, validate_args: bool | None = None):
        self.draws = jnp.asarray(draws)
        super().__init__((), self.draws.shape[1:], validate_args=validate_args)

    @constraints.dependent_property
    def support(self) -> constraints.Constraint:
        """All arrays with the shape of a draw."""
        return constraints.independent(constraints.real, len(self.event_shape))

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Array:
        """Choose draws; ``sample_shape`` comes first in their shape."""
        return self.draws[random.randint(key, sample_shape, 0, len(self.draws))]

    def log_prob(self, value: Array) -> Array:
        """Log-probability of draws."""
        batch = jnp.shape(value)[: jnp.ndim(value) - len(self.event_shape)]
        return jnp.full(batch, -jnp.log(len(self.draws)))


def membership_draws(*args, membership: Array, **kwargs) -> None:
    """Guide of the site ``membership`` of :func:`~pl2d_ppl.models.cluster_l2d.cluster_l2d`, given draws.

    If the draws are an argument of the fit, pass ``exact(model, ["w", "v"], continuous=membership_draws)``. If the
    model already has them, pass ``continuous=partial(membership_draws, membership=draws)``.

    Parameters
    ----------
    *args, **kwargs
        Other arguments of the model.
    membership : array, shape (S, K, M)
        Draws from the posterior of the membership.
    """
    del args, kwargs
    numpyro.sample("membership", Empirical(membership))
