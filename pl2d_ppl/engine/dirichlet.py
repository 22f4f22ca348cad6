"""Dirichlet sites, which enter mean field through their mean parameter E[ln u]."""

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.special import digamma
from numpyro.distributions import Dirichlet, Distribution, ExpandedDistribution, MaskedDistribution

__all__ = ["concentration_of", "exp_log_mean", "is_dirichlet", "log_mean"]

LEAST_LOG_MEAN = -80.0  # exp of it is still a normal float32


def is_dirichlet(fn: Distribution) -> bool:
    """Whether a site is Dirichlet, inside or outside a plate."""
    return isinstance(_core(fn), Dirichlet)


def concentration_of(fn: Distribution) -> Array:
    """Concentration of a Dirichlet site, broadcast to its batch shape."""
    return jnp.broadcast_to(_core(fn).concentration, fn.batch_shape + fn.event_shape)


def log_mean(concentration: Array) -> Array:
    """E[ln u] of a Dirichlet, its mean parameter: digamma(rho) - digamma(sum rho)."""
    return digamma(concentration) - digamma(concentration.sum(-1, keepdims=True))


def exp_log_mean(log_means: Array) -> Array:
    """exp(E[ln u]), floored against underflow; its logarithm passes gradients as if without the floor."""
    kept = jax.lax.stop_gradient(jnp.maximum(log_means, LEAST_LOG_MEAN) - log_means)
    return jnp.exp(log_means + kept)


def _core(fn: Distribution) -> Distribution:
    while isinstance(fn, MaskedDistribution | ExpandedDistribution):
        fn = fn.base_dist
    return fn
