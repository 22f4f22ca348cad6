"""Random workload projections with bounds that can be met."""

import numpy as np
from scipy.special import softmax

Array = np.ndarray

PROBLEM_KINDS = ("equality", "one_sided_upper", "one_sided_lower", "slack", "mixed", "zeros_and_ones")

_GRID = 2**20  # bounds are multiples of 1 / _GRID: exact in float32, and sums are exact in any order


def _random_target(rng: np.random.Generator, people: int) -> Array:
    """Positive integers that sum to `_GRID`."""
    weights = rng.dirichlet(np.full(people, rng.choice([0.3, 1.0, 10.0])))
    units = 1 + np.floor(weights * (_GRID - people)).astype(np.int64)
    units[np.argmax(units)] += _GRID - units.sum()
    return units


def _random_bounds(rng: np.random.Generator, kind: str, mean: Array) -> tuple[Array, Array]:
    """Integer bounds, in units of 1 / `_GRID`, around a target that sums to one."""
    people = mean.size
    target = _random_target(rng, people)
    below = np.floor(target * rng.uniform(0, 1, people)).astype(np.int64)
    above = target + np.floor((_GRID - target) * rng.uniform(0, 1, people) ** 3).astype(np.int64)
    nothing, everything = np.zeros(people, np.int64), np.full(people, _GRID)
    if kind == "equality":
        return target, target
    if kind == "one_sided_upper":
        return nothing, np.where(rng.random(people) < 0.7, above, everything)
    if kind == "one_sided_lower":
        return np.where(rng.random(people) < 0.7, below, nothing), everything
    if kind == "slack":
        width = rng.uniform(1e-3, 0.2, people)
        lower = np.floor(_GRID * np.clip(mean - width, 0, 1)).astype(np.int64)
        return lower, np.ceil(_GRID * np.clip(mean + width, 0, 1)).astype(np.int64)
    if kind == "mixed":
        lower_kind, upper_kind = rng.integers(3, size=people), rng.integers(3, size=people)
        lower = np.choose(lower_kind, [nothing, below, target])
        return lower, np.choose(upper_kind, [everything, above, target])
    if kind == "zeros_and_ones":
        chosen = rng.integers(people)
        if rng.random() < 0.3:
            return np.where(np.arange(people) == chosen, _GRID, 0), everything
        banned = rng.random(people) < 0.4
        banned[(chosen + 1) % people], banned[chosen] = True, False
        target = np.where(banned, 0, target)
        target[chosen] += _GRID - target.sum()
        upper = np.where(rng.random(people) < 0.5, np.maximum(above, target), everything)
        return np.where(rng.random(people) < 0.3, target, 0), np.where(banned, 0, upper)
    raise ValueError(f"kind must be one of {PROBLEM_KINDS}, got {kind!r}")


def random_problem(
    seed: int,
    kind: str,
    *,
    n: int | None = None,
    people: int | None = None,
    scale: float | None = None,
    floor: float = 1e-12,
) -> tuple[Array, Array, Array]:
    """Random workload projection with sum-feasible bounds.

    Parameters
    ----------
    seed : int
    kind : str
        One of `PROBLEM_KINDS`. In "slack" the bounds hold already and the KL is zero; in "zeros_and_ones"
        some upper bounds are 0 (and those people's lower bounds too), or one lower bound is 1.
    n, people : int, optional
        Items and people, the AI included; by default log-uniform on 1..4096 and 2..101.
    scale : float, optional
        Sharpness of q = softmax(scale * normal); by default one of 0.1, 1, 5, 20.
    floor : float
        Least entry of q, before it is normalised again.

    Returns
    -------
    log_q : array of float, shape (n, people)
        Normalised.
    lower, upper : array of float, shape (people,)
        Multiples of 2^-20, so exact in float32 as well, where sum(lower) <= 1 <= sum(upper) still holds.
    """
    rng = np.random.default_rng([seed, PROBLEM_KINDS.index(kind)])
    sizes = np.exp(rng.uniform(np.log([1, 2]), np.log([4097, 102])))
    drawn_scale = rng.choice([0.1, 1.0, 5.0, 20.0])
    n = int(sizes[0]) if n is None else n
    people = int(sizes[1]) if people is None else people
    scale = float(drawn_scale) if scale is None else scale
    # People differ on average as well, or the means of many items would all be 1 / people.
    logits = scale * (rng.standard_normal((n, people)) + rng.choice([0.0, 0.5]) * rng.standard_normal(people))
    q = np.maximum(softmax(logits, axis=1), floor)
    q /= q.sum(axis=1, keepdims=True)
    lower, upper = _random_bounds(rng, kind, q.mean(axis=0))
    return np.log(q), lower / _GRID, upper / _GRID
