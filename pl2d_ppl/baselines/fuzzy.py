"""Fuzzy C-means: soft clusters of people from their representations."""

import logging

import jax
import numpy as np
from jax import Array
from numpy.typing import ArrayLike, NDArray

from pl2d_ppl.checks.keys import check_key

__all__ = ["fuzzy_partition"]

logger = logging.getLogger("pl2d_ppl")

TOLERANCE, MAX_SWEEPS = 1e-9, 2000  # tolerance on the change of memberships in a sweep, in Frobenius norm


def fuzzy_partition(
    rng_key: Array, representations: ArrayLike, num_clusters: int, *, fuzziness: float = 2.0, starts: int = 20
) -> NDArray[np.float64]:
    r"""Cluster people by fuzzy C-means.

    The method alternates between memberships and centres, with :math:`d_{km} = \|x_m - v_k\|` and the fuzziness f:

    .. math::

        u_{km} = 1 \Big/ \sum_j (d_{km} / d_{jm})^{2 / (f - 1)}, \qquad
        v_k = \sum_m u_{km}^f x_m \Big/ \sum_m u_{km}^f

    which never increases :math:`\sum_{km} u_{km}^f d_{km}^2`. Several random starts each draw people as centres; the
    start with the lowest final value is kept.

    Parameters
    ----------
    rng_key : Array
        A typed key, for the starts.
    representations : array of float, shape (M, R)
        One row per person. Distances are Euclidean: standardise columns that have different scales.
    num_clusters : int
        Number of clusters K, at most M.
    fuzziness : float
        Exponent f > 1; memberships are hard as it goes to 1, and uniform as it grows.
    starts : int
        Number of random starts.

    Returns
    -------
    array of float, shape (K, M)
        Memberships; columns sum to one. The order of the clusters has no meaning.

    Raises
    ------
    ValueError
        If an argument is malformed.

    References
    ----------
    Bezdek, Ehrlich and Full, "FCM: The fuzzy c-means clustering algorithm", Computers & Geosciences 10, 1984.
    """
    x = _check(rng_key, representations, num_clusters, fuzziness, starts)
    try:
        from skfuzzy.cluster import cmeans  # imported here, since the import takes as long as much of this package
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "Expected scikit-fuzzy for fuzzy clusters, found none. Run pip install 'pl2d_ppl[baselines]'."
        ) from error

    rng = np.random.default_rng(np.asarray(jax.random.key_data(rng_key)))
    lowest, best, sweeps = np.inf, np.empty(0), 0
    for _ in range(starts):
        centres = x[rng.choice(len(x), num_clusters, replace=False)]
        init = _memberships(x, centres, fuzziness)
        _, u, _, distances, _, number, _ = cmeans(x.T, num_clusters, fuzziness, TOLERANCE, MAX_SWEEPS, init=init)
        objective = (u**fuzziness * distances**2).sum()
        if objective < lowest:
            lowest, best, sweeps = objective, u, number
    if sweeps == MAX_SWEEPS:
        logger.warning("Fuzzy C-means still moved after %d sweeps; the partition may be rough.", sweeps)
    return best


def _memberships(x: NDArray, centres: NDArray, fuzziness: float) -> NDArray:
    """Memberships for given centres; a person at a centre belongs to its cluster."""
    distances = np.linalg.norm(centres[:, None] - x, axis=-1)
    distances = np.maximum(distances, np.finfo(float).eps)
    # Relative to the nearest centre, since powers of small distances overflow.
    u = (distances / distances.min(0)) ** (-2 / (fuzziness - 1))
    return u / u.sum(0)


def _check(
    rng_key: Array, representations: ArrayLike, num_clusters: int, fuzziness: float, starts: int
) -> NDArray[np.float64]:
    check_key(rng_key)
    x = np.asarray(representations, float)
    if x.ndim != 2 or x.size == 0 or not np.isfinite(x).all():
        found = f"shape {x.shape}" if x.ndim != 2 or x.size == 0 else "NaN or infinity"
        raise ValueError(f"Expected finite representations of shape (M, R), one row a person, found {found}.")
    if not 1 <= num_clusters <= len(x):
        raise ValueError(
            f"Expected num_clusters in 1..{len(x)}, the number of people, found {num_clusters}. Ask for fewer clusters."
        )
    if not (np.isfinite(fuzziness) and fuzziness > 1):
        raise ValueError(f"Expected fuzziness above 1, found {fuzziness}. Pass 2, or use k-means for hard clusters.")
    if starts < 1:
        raise ValueError(f"Expected at least one start, found starts={starts}.")
    return x
