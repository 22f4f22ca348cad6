"""Split data into parts, and scale the parts alike."""

import dataclasses
import logging
import math
import numbers

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import GroupShuffleSplit, train_test_split

from pl2d_ppl.data.annotated import Annotated

__all__ = ["mean_and_scale", "split", "standardise"]

logger = logging.getLogger("pl2d_ppl")


def split(data: Annotated, test_share: float, seed: int) -> tuple[Annotated, Annotated]:
    """Split at random into a training and a test part.

    If the data have a `group`, no group is in both parts. Otherwise the split is stratified by `y`, where items of
    unknown truth form their own stratum, or unstratified if a stratum is too small.

    Parameters
    ----------
    data : Annotated
        Items to split.
    test_share : float in (0, 1)
        Share of the items, or of the groups, that the test part gets; rounded up.
    seed : int
        Seed of the split.

    Returns
    -------
    train, test : Annotated
        The parts; items keep their order.

    Raises
    ------
    ValueError
        If `test_share` or `seed` is out of range, or a part would be empty.
    """
    units = data.num_items if data.group is None else len(np.unique(data.group))
    _check_request(test_share, seed, units, "items" if data.group is None else "groups")
    if data.group is not None:
        splitter = GroupShuffleSplit(n_splits=1, test_size=test_share, random_state=seed)
        train, test = next(splitter.split(data.x, groups=data.group))
    else:
        strata = data.y if _can_stratify(data.y, test_share) else None
        if strata is None:
            logger.info("too few items of some class: the split is not stratified")
        train, test = train_test_split(
            np.arange(data.num_items), test_size=test_share, random_state=seed, stratify=strata
        )
    return data.take(np.sort(train)), data.take(np.sort(test))


def mean_and_scale(x: NDArray) -> tuple[NDArray, NDArray]:
    """Compute mean and standard deviation of features.

    Parameters
    ----------
    x : array, shape (N, ...)
        Features, or images.

    Returns
    -------
    mean, scale : array, shape (D,)
        For features (N, D), in float64; the scale of a constant feature is 1. For images 0 and 1, of shape ().
    """
    if x.ndim != 2:
        return np.zeros(()), np.ones(())
    constant = x.max(0) == x.min(0)  # their computed deviation may be a rounding error instead of 0
    return x.mean(0, dtype=np.float64), np.where(constant, 1.0, x.std(0, dtype=np.float64))


def standardise(train: Annotated, *others: Annotated) -> tuple[Annotated, ...]:
    """Scale features to mean 0 and standard deviation 1 on the training part.

    Parameters
    ----------
    train : Annotated
        Part with features (N, D), whose mean and standard deviation are used.
    *others : Annotated
        Parts to scale with the statistics of `train`, with features (N', D).

    Returns
    -------
    tuple of Annotated
        `train` and `others` scaled, in this order. A feature that is constant in `train` is only centred.

    Raises
    ------
    ValueError
        If features are not vectors, or parts differ in their number.
    """
    parts = (train, *others)
    for i, part in enumerate(parts):
        if part.x.ndim != 2 or part.x.shape[1] != train.x.shape[1]:
            raise ValueError(
                f"Expected features of shape (N, D) in {f'others[{i - 1}]' if i else 'train'}, with the D of train, "
                f"found {part.x.shape} beside {train.x.shape}. Flatten the features, or scale images yourself."
            )
    mean, scale = mean_and_scale(train.x)
    return tuple(dataclasses.replace(part, x=(part.x - mean) / scale, subset=True) for part in parts)


def _check_request(test_share: float, seed: int, units: int, name: str) -> None:
    if not 0 < test_share < 1:
        raise ValueError(f"Expected test_share strictly between 0 and 1, found {test_share}. Pass a share such as .2.")
    if isinstance(seed, bool) or not isinstance(seed, numbers.Integral) or not 0 <= seed < 2**32:
        raise ValueError(f"Expected seed as an integer in 0..2**32 - 1, found {seed!r}. Pass one such as 0.")
    if math.ceil(units * test_share) >= units:
        raise ValueError(
            f"Expected at least one of the {name} in both parts, found {units} of them for test_share {test_share}. "
            "Lower test_share, or bring more data."
        )


def _can_stratify(y: NDArray, test_share: float) -> bool:
    _, sizes = np.unique(y, return_counts=True)
    tested = math.ceil(len(y) * test_share)
    return bool(sizes.min() >= 2 and min(tested, len(y) - tested) >= len(sizes))
