"""Arithmetic of probabilities that may be zero."""

import numpy as np

Array = np.ndarray


def safe_log(value: Array | float) -> Array:
    """Logarithm with ln 0 = -inf, silently."""
    with np.errstate(divide="ignore"):
        return np.log(np.asarray(value, np.float64))


def ratio(numerator: Array, denominator: Array | float) -> Array:
    """Quotient with 0 / 0 = nan, silently: a posterior given an impossible event."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(numerator / denominator)
