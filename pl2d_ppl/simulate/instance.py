"""Experts whose mistakes depend on what the item looks like."""

from collections.abc import Iterator
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike as JaxArrayLike
from numpy.typing import ArrayLike, NDArray

from pl2d_ppl.checks.keys import check_key
from pl2d_ppl.checks.labels import check_labels
from pl2d_ppl.checks.values import check_choice, shares, truth
from pl2d_ppl.simulate.rates import Mode, check_rate, item_rates

__all__ = ["instance_dependent_experts"]

Pattern = Literal["shared", "group", "person"]


def instance_dependent_experts(
    rng_key: JaxArrayLike,
    x: ArrayLike,
    y: ArrayLike,
    num_categories: int,
    rates: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    pattern: Pattern = "shared",
    mode: Mode = "truncated",
    spread: float = 0.1,
) -> NDArray[np.int32]:
    """Simulate experts who err at a rate of their own, and take items for what they look like.

    Item i of category y_i is annotated by expert m as follows::

        q_im ~ TruncatedNormal(rate_m, spread², [0, 1])    how likely they are to err
        a_im = x_i W_m[y_i],  but −inf for y_i             what they would take it for
        annotation_im ~ Categorical(q_im softmax(a_im)),   but 1 − q_im for y_i

    W_m, of shape (C, S, C), has standard normal entries, and is a person's pattern of mistakes. Each row of
    `x` is scaled to unit Euclidean norm first, lest the softmax be one-hot; it is not centred. A row of zeros
    stays zero, and is taken for every other category alike.

    Experts are drawn independently: one more changes nothing for those before.

    Parameters
    ----------
    rng_key : PRNG key
        Typed key, as `jax.random.key` makes it.
    x : array, shape (N, S)
        Features, finite.
    y : array of int, shape (N,)
        Truth, in 0..C−1.
    num_categories : int
        Number of categories C >= 2.
    rates : sequence of float in [0, 1], length M
        Nominal error rate of each expert.
    groups : sequence of int, length M, optional
        Group 0, 1, ... that each expert belongs to; for ``pattern="group"``, and only there.
    pattern : {"shared", "group", "person"}, default "shared"
        Whose mistakes look alike: who has the same W. Everyone, those of a group, or nobody.
    mode : {"truncated", "nominal"}, default "truncated"
        ``"truncated"`` is as published: `rates` are the locations of the truncated normal distributions, and
        the truncation moves their means inwards: a nominal 5 % becomes 10 %, and 0 % becomes 8 %.
        ``"nominal"`` moves the locations so that `rates` are the means. Rates 0 and 1 then
        have no spread: such experts are never, or always, wrong.
    spread : float in [0, 1], default .1
        Standard deviation of q, before truncation. At 0 q is the nominal rate, whatever the mode.

    Returns
    -------
    array of int32, shape (N, M)
        Annotations, none missing.

    Raises
    ------
    ValueError
        If an argument is malformed, or a nominal rate is so close to 0 or 1 that `spread` does not allow it:
        closer than about ``spread / 100``, but for 0 and 1 themselves.

    Notes
    -----
    q is drawn anew for each item and expert, whatever x_i, so that no more than its mean shows in the
    annotations: in mode ``"nominal"`` they have the same distribution at any spread, and in mode
    ``"truncated"`` that of the means of the truncated normals, without spread.

    Linear in N. Memory is that of `x`, of W of one category and of a category's items by C: the tensor of
    shape (N, S, C) in the formula is never there.

    References
    ----------
    Xia et al., "Part-dependent Label Noise: Towards Instance-dependent Label Noise", NeurIPS 2020.

    Examples
    --------
    Ten groups of ten people each, who err alike within a group::

        groups = np.repeat(np.arange(10), 10)
        rates = np.linspace(0.05, 0.5, 10)[groups]
        annotations = instance_dependent_experts(
            jax.random.key(0), x, y, 10, rates, groups=groups, pattern="group", mode="nominal"
        )
    """
    check_key(rng_key)
    y = truth(y, num_categories)
    x = _check_features(x, y)
    nominal = _check_rates(rates, spread, mode)
    patterns = _check_patterns(pattern, groups, len(nominal))
    key_people, key_patterns = jax.random.split(rng_key)
    wrong, places = _draw_errors(key_people, len(y), nominal, float(spread), mode)
    annotations = np.repeat(y[:, None], len(nominal), axis=1)
    for own in np.unique(patterns):
        people = np.flatnonzero(patterns == own)
        for items, tendencies in _tendencies(jax.random.fold_in(key_patterns, own), x, y, num_categories):
            cumulative = tendencies.cumsum(1)
            for m in people:
                chosen = _invert(cumulative, places[items, m])
                annotations[items, m] = np.where(wrong[items, m], chosen, annotations[items, m])
    return annotations.astype(np.int32)


def _draw_errors(
    rng_key: jax.Array, num_items: int, rates: NDArray, spread: float, mode: Mode
) -> tuple[NDArray, NDArray]:
    """Draw where everyone errs, (N, M), and quantiles of what they say instead, (N, M)."""
    wrong, places = [], []
    for m, rate in enumerate(rates):
        keys = jax.random.split(jax.random.fold_in(rng_key, m), 3)
        # In float32 whatever the default, so that a seed gives the same people in either precision.
        rows = [np.asarray(jax.random.uniform(key, (num_items,), jnp.float32), float) for key in keys]
        wrong.append(rows[0] < item_rates(rows[1], float(rate), spread, mode))
        places.append(rows[2])
    return np.stack(wrong, axis=1), np.stack(places, axis=1)


def _tendencies(
    rng_key: jax.Array, x: NDArray, y: NDArray, num_categories: int
) -> Iterator[tuple[NDArray, NDArray[np.float64]]]:
    """Yield, category by category, its items (n,) and what they are taken for when they are mistaken, (n, C)."""
    order = y.argsort(kind="stable")
    categories, starts = np.unique(y[order], return_index=True)
    for category, items in zip(categories, np.split(order, starts[1:]), strict=True):
        logits = _unit_rows(x[items]) @ _weights(rng_key, category, x.shape[1], num_categories)
        logits[:, category] = -np.inf
        tendencies = np.exp(logits - logits.max(1, keepdims=True))
        yield items, tendencies / tendencies.sum(1, keepdims=True)


def _weights(rng_key: jax.Array, category: int, num_features: int, num_categories: int) -> NDArray[np.float64]:
    """Draw W[category], (S, C), of the pattern whose key this is."""
    key = jax.random.fold_in(rng_key, category)
    return np.asarray(jax.random.normal(key, (num_features, num_categories), jnp.float32), float)


def _unit_rows(x: NDArray) -> NDArray[np.float64]:
    # In float64 the squares of what float32 holds neither overflow nor vanish.
    x = x.astype(float)
    norms = np.linalg.norm(x, axis=1, keepdims=True)
    return np.divide(x, norms, out=np.zeros_like(x), where=norms > 0)


def _invert(cumulative: NDArray, quantiles: NDArray) -> NDArray:
    """Return the first category (n,) whose cumulative probability (n, C) exceeds the quantile (n,) in [0, 1)."""
    # Relative to the total, since rounding may leave that below 1; a category of probability 0 is never first.
    return (cumulative <= quantiles[:, None] * cumulative[:, -1:]).sum(1)


def _check_features(x: ArrayLike, y: NDArray) -> NDArray:
    x = np.asarray(x)
    if x.ndim != 2 or x.shape[0] != len(y) or x.shape[1] == 0:
        raise ValueError(
            f"Expected x of shape ({len(y)}, S), a row of features for each of y, found {x.shape}. Flatten what has "
            "more axes."
        )
    if x.dtype.kind not in "biuf":
        raise ValueError(f"Expected real numbers in x, found dtype {x.dtype}. Encode it as floats.")
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is reported as such
        x = x.astype(np.float32, copy=False)
    finite = np.isfinite(x).all(1)
    if not finite.all():
        raise ValueError(
            f"Expected x that is finite in float32, found NaN or infinite values in {(~finite).sum()} rows, first in "
            f"row {finite.argmin()}. Impute them, or drop their rows."
        )
    return x


def _check_rates(rates: ArrayLike, spread: float, mode: Mode) -> NDArray[np.float64]:
    nominal = shares("rates", rates)
    if nominal.ndim != 1 or nominal.size == 0:
        raise ValueError(
            f"Expected rates with one error rate for each expert, found shape {nominal.shape}. Write [.1, .3] for two."
        )
    for rate in nominal:
        check_rate(rate, spread, mode)
    return nominal


def _check_patterns(pattern: Pattern, groups: ArrayLike | None, num_experts: int) -> NDArray:
    """Number the pattern of mistakes that each expert has, (M,)."""
    check_choice("pattern", pattern, get_args(Pattern))
    if (groups is not None) != (pattern == "group"):
        found = "none" if groups is None else f"some with pattern={pattern!r}"
        raise ValueError(f"Expected groups with pattern='group', and only there, found {found}. Pass both or none.")
    if groups is None:
        return np.arange(num_experts) * (pattern == "person")
    most = np.iinfo(np.int32).max
    noun = "numbers of groups"
    return check_labels("groups", groups, (num_experts,), most, least=0, noun=noun, each="expert").astype(int)
