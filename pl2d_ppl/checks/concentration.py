"""Concentrations of Dirichlet distributions."""

from typing import Any

import jax
import numpy as np

__all__ = ["check_concentration"]


def check_concentration(
    alpha: Any, size: int, name: str = "concentration alpha", hint: str = "50, or at least 2"
) -> Any:
    """Check the concentration of a Dirichlet, as far as possible before compilation, and return it.

    Raises
    ------
    ValueError
        If it is neither one number nor one per component, or not positive.
    """
    if np.shape(alpha) not in ((), (1,), (size,)):
        raise ValueError(f"Expected a {name}, or one for each of {size}, found shape {np.shape(alpha)}.")
    if not isinstance(alpha, jax.core.Tracer) and not (np.all(np.isfinite(alpha)) and np.all(np.asarray(alpha) > 0)):
        raise ValueError(f"Expected a positive {name}, found {alpha}. Pass {hint}.")
    return alpha
