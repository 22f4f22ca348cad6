"""Bounds on shares of the items."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["SLACK", "check_bounds"]

SLACK = 1e-6  # tolerance on the bounds themselves, which are decimal fractions


def check_bounds(lower: Any, upper: Any) -> tuple[Any, Any]:
    """Check bounds on the mean of a categorical, unless they are traced.

    Parameters
    ----------
    lower, upper : array_like, shape (..., K)
        Bounds.

    Returns
    -------
    tuple of Array
        The bounds, as floating-point arrays.

    Raises
    ------
    ValueError
        If they have different shapes, cross, lie outside [0, 1], or if no distribution meets them.
    """
    if isinstance(lower, jax.core.Tracer) or isinstance(upper, jax.core.Tracer):
        return lower, upper
    low, high = (np.asarray(b, float) for b in (lower, upper))
    if low.shape != high.shape or low.ndim == 0:
        raise ValueError(
            f"Expected lower and upper bounds of the same length, one a person and one for the AI, found shapes "
            f"{low.shape} and {high.shape}."
        )
    for name, bound in (("lower", low), ("upper", high)):
        if not np.all((bound >= 0) & (bound <= 1)):
            raise ValueError(f"Expected {name} bounds between 0 and 1, shares of the items, found {bound.tolist()}.")
    if np.any(low > high):
        worst = int(np.argmax((low - high).reshape(-1, low.shape[-1]).max(0)))
        raise ValueError(
            f"Expected lower <= upper for every person, found lower {low[..., worst].tolist()} above upper "
            f"{high[..., worst].tolist()} at position {worst}."
        )
    if np.any(low.sum(-1) > 1 + SLACK):
        raise ValueError(f"Expected lower bounds that sum to at most 1, found {low.sum(-1).max():.6g}. Lower them.")
    if np.any(high.sum(-1) < 1 - SLACK):
        raise ValueError(
            f"Expected upper bounds that sum to at least 1, found {high.sum(-1).min():.6g}: somebody must decide "
            "every item. Raise them."
        )
    return jnp.asarray(low, jnp.result_type(float)), jnp.asarray(high, jnp.result_type(float))
