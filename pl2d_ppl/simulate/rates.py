"""Error rates: nominal, per item, and realised."""

from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.stats import truncnorm

from pl2d_ppl.checks.labels import check_labels
from pl2d_ppl.checks.values import check_choice, shares

__all__ = ["realised_error"]

Mode = Literal["truncated", "nominal"]

# Lowest location, in standard deviations below 0, at which the truncated normal's mean keeps 8 digits.
FARTHEST = 100


def realised_error(annotations: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
    """Compute each expert's share of wrong annotations.

    Parameters
    ----------
    annotations : array of int, shape (N, M)
        Annotations, −1 where missing.
    y : array of int, shape (N,)
        Truth, −1 where unknown.

    Returns
    -------
    array of float, shape (M,)
        Error rates, over items that the expert annotated and whose truth is known; NaN if there are none.

    Raises
    ------
    ValueError
        If shapes or types are wrong.
    """
    annotations = check_labels("annotations", annotations, ("N", "M"), may_be_empty=False)
    y = check_labels("y", y, (len(annotations),))
    judged = (annotations >= 0) & (y >= 0)[:, None]
    with np.errstate(invalid="ignore"):  # 0 / 0 gives the documented NaN
        return (judged & (annotations != y[:, None])).sum(0) / judged.sum(0)


def check_rate(rate: ArrayLike, spread: ArrayLike, mode: Mode) -> tuple[float, float]:
    """Check one rate and its spread, and return them as floats."""
    check_choice("mode", mode, get_args(Mode))
    numbers = []
    for name, value in (("rate", rate), ("spread", spread)):
        share = shares(name, value)
        if share.ndim:
            raise ValueError(f"Expected {name} as one number, found shape {share.shape}. Call once for each.")
        numbers.append(float(share))
    rate, spread = numbers
    if mode == "nominal" and not is_constant(rate, spread, mode):
        least = _mean(-FARTHEST * spread, spread)
        if min(rate, 1 - rate) < least:
            raise ValueError(
                f"Expected a nominal rate in [{least:.4g}, 1 - {least:.4g}] with a spread of {spread:g}, or 0 or 1, "
                f"found {rate:g}. Lower spread: at 0, every rate is possible."
            )
    return rate, spread


def is_constant(rate: float, spread: float, mode: Mode) -> bool:
    """Whether all items have the same rate: without spread, or with a mean at an end of [0, 1]."""
    return spread == 0 or (mode == "nominal" and rate in (0, 1))


def item_rates(quantiles: NDArray, rate: float, spread: float, mode: Mode) -> NDArray[np.float64]:
    """Return the rates of items, (N,), at given quantiles (N,) in [0, 1); all arguments were checked before."""
    if is_constant(rate, spread, mode):
        return np.full(quantiles.shape, rate)
    center = location(rate, spread, mode)
    with np.errstate(over="ignore"):
        return truncnorm.ppf(quantiles, -center / spread, (1 - center) / spread, center, spread)


def location(rate: float, spread: float, mode: Mode) -> float:
    """Return the location of the truncated normal distribution; a nominal rate must be attainable."""
    if mode == "truncated":
        return rate
    if rate > 0.5:  # by symmetry, since floats are more precise near 0 than near 1
        return 1 - location(1 - rate, spread, mode)
    # The mean increases with the location, and exceeds 1/2 at 1.
    return brentq(lambda center: _mean(center, spread) - rate, -FARTHEST * spread, 1.0, xtol=1e-14)


def _mean(center: float, spread: float) -> float:
    with np.errstate(all="ignore"):  # scipy also computes the higher moments, which overflow
        return float(truncnorm.mean(-center / spread, (1 - center) / spread, center, spread))
