"""People as Beta posteriors of being right per class: the representation of EA-L2D."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pl2d_ppl.checks.data import check_data
from pl2d_ppl.checks.declared import Given, truth
from pl2d_ppl.checks.labels import check_labels

__all__ = ["beta_representation", "check_context"]


def beta_representation(
    annotations: ArrayLike, y: ArrayLike, num_categories: int, *, prior: tuple[float, float] = (1.0, 1.0)
) -> NDArray[np.float64]:
    r"""Represent people by how often they are right on items of each true class.

    With :math:`r_{mc}` right and :math:`w_{mc}` wrong annotations of person m on items of class c,

    .. math:: p(\text{m is right} \mid y = c) \sim \mathrm{Beta}(a + r_{mc}, b + w_{mc})

    Parameters
    ----------
    annotations : array of int, shape (N, M)
        Annotations of context items, -1 where missing.
    y : array of int, shape (N,)
        Truth; items of unknown truth, -1, are left out.
    num_categories : int
        Number of categories C.
    prior : pair of positive float
        Parameters a and b of the Beta prior, the same for all classes.

    Returns
    -------
    array of float, shape (M, 2C)
        Posterior means of the C classes, then their posterior variances. A class without annotations of a person keeps
        the moments of the prior.

    Raises
    ------
    ValueError
        If the arrays do not fit together, or the prior is not positive.

    References
    ----------
    Strong, Saha, Ibrahim, Ouyang and Noble, "Expert-Agnostic Learning to Defer", 2025, arXiv:2502.10533.
    """
    annotations, y = check_context(annotations, y, num_categories)
    if np.shape(prior) != (2,) or not (np.isfinite(prior).all() and np.min(prior) > 0):
        raise ValueError(f"Expected prior=(a, b) with both positive, found {prior}. Pass (1, 1) for a uniform prior.")
    # Unknown truth, -1, belongs to no class, and so has no effect.
    of_class = (y[:, None] == np.arange(num_categories)).astype(float)
    right = (annotations == y[:, None]).T.astype(float) @ of_class
    said = (annotations >= 0).T.astype(float) @ of_class
    a, b = prior[0] + right, prior[1] + said - right
    return np.concatenate([a / (a + b), a * b / ((a + b) ** 2 * (a + b + 1))], axis=1)


def check_context(annotations: ArrayLike, y: ArrayLike, num_categories: int) -> tuple[NDArray, NDArray]:
    """Check context items with truth, which represent people.

    Parameters
    ----------
    annotations : array of int, shape (N, M)
        Annotations, -1 where missing.
    y : array of int, shape (N,)
        Truth, -1 where unknown.
    num_categories : int
        Number of categories C.

    Returns
    -------
    tuple of array of int
        Annotations and truth, as arrays on the host.

    Raises
    ------
    ValueError
        If shapes, types or ranges are wrong.
    """
    if num_categories < 2:
        raise ValueError(f"Expected at least two categories, found num_categories={num_categories}.")
    y = check_labels("y", y, ("N",), num_categories)
    annotations = check_labels("annotations", annotations, (len(y), "M"), num_categories, may_be_empty=False)
    check_data({"annotations": annotations, "y": y}, 1, "the context")
    truth("y")(Given("the context", {"y": y}))
    # Signed, since 8-bit labels would wrap around at -1.
    return annotations.astype(np.int32), y.astype(np.int32)
