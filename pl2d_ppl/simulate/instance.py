"""Experts whose mistakes depend on the features of an item."""

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
    """Simulate experts who err at their own rates, and whose wrong answers depend on the features of an item.

    Item i of category y_i is annotated by expert m as follows::

        q_im ~ TruncatedNormal(rate_m, spread², [0, 1])    probability of an error
        a_im = x_i W_m[y_i],  but −inf for y_i             what they would take it for
        annotation_im ~ Categorical(q_im softmax(a_im)),   but 1 − q_im for y_i

    W_m, of shape (C, S, C), has standard normal entries, and is the person's pattern of mistakes. Each row of `x` is
    first scaled to unit Euclidean norm, since the softmax would otherwise be one-hot; it is not centred. A row of zeros
    stays zero, and is confused with every other category equally often.

    Experts are drawn independently: adding one does not change those before.

    Parameters
    ----------
    rng_key : PRNG key
        Typed key, from `jax.random.key`.
    x : array, shape (N, S)
        Features, finite.
    y : array of int, shape (N,)
        Truth, in 0..C−1.
    num_categories : int
        Number of categories C >= 2.
    rates : sequence of float in [0, 1], length M
        Nominal error rate of each expert.
    groups : sequence of int, length M, optional
        Group 0, 1, ... that each expert belongs to; only for ``pattern="group"``.
    pattern : {"shared", "group", "person"}, default "shared"
        Which experts share a pattern of mistakes W: all, those of a group, or none.
    mode : {"truncated", "nominal"}, default "truncated"
        ``"truncated"`` follows the publication: `rates` are the locations of the truncated normal distributions, and
        truncation moves their means inwards: a nominal 5 % becomes 10 %, and 0 % becomes 8 %.
        ``"nominal"`` moves the locations so that `rates` are the means. Rates 0 and 1 then
        have no spread: such experts are never, or always, wrong.
    spread : float in [0, 1], default .1
        Standard deviation of q, before truncation. At 0, q is the nominal rate in both modes.

    Returns
    -------
    array of int32, shape (N, M)
        Annotations, none missing.

    Raises
    ------
    ValueError
        If an argument is malformed, or a nominal rate is too close to 0 or 1 for `spread`: closer than about ``spread /
        100``, except 0 and 1 themselves.

    Notes
    -----
    q is drawn independently for each item and expert, and does not depend on x_i, so that annotations depend only on
    its mean. In mode ``"nominal"`` they have the same distribution at any spread; in mode ``"truncated"`` they have the
    distribution for the means of the truncated normals, without spread.

    Time is linear in N. Memory holds `x`, W of one category, and scores of one category's items by C: the tensor of
    shape (N, S, C) in the formula is never built.

    References
    ----------
    Xia et al., "Part-dependent Label Noise: Towards Instance-dependent Label Noise", NeurIPS 2020.

    Examples
    --------
    Ten groups of ten people each, who share mistakes within a group::

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
    """Draw where each person errs, (N, M), and quantiles of their wrong answers, (N, M)."""
    wrong, places = [], []
    for m, rate in enumerate(rates):
        keys = jax.random.split(jax.random.fold_in(rng_key, m), 3)
        # Always in float32, so that a seed gives the same people in either precision.
        rows = [np.asarray(jax.random.uniform(key, (num_items,), jnp.float32), float) for key in keys]
        wrong.append(rows[0] < item_rates(rows[1], float(rate), spread, mode))
        places.append(rows[2])
    return np.stack(wrong, axis=1), np.stack(places, axis=1)


def _tendencies(
    rng_key: jax.Array, x: NDArray, y: NDArray, num_categories: int
) -> Iterator[tuple[NDArray, NDArray[np.float64]]]:
    """Yield, category by category, its items (n,) and the probabilities of wrong answers to them, (n, C)."""
    order = y.argsort(kind="stable")
    categories, starts = np.unique(y[order], return_index=True)
    for category, items in zip(categories, np.split(order, starts[1:]), strict=True):
        logits = _unit_rows(x[items]) @ _weights(rng_key, category, x.shape[1], num_categories)
        logits[:, category] = -np.inf
        tendencies = np.exp(logits - logits.max(1, keepdims=True))
        yield items, tendencies / tendencies.sum(1, keepdims=True)


def _weights(rng_key: jax.Array, category: int, num_features: int, num_categories: int) -> NDArray[np.float64]:
    """Draw W[category], (S, C), of the pattern with this key."""
    key = jax.random.fold_in(rng_key, category)
    return np.asarray(jax.random.normal(key, (num_features, num_categories), jnp.float32), float)


def _unit_rows(x: NDArray) -> NDArray[np.float64]:
    # In float64, squares of float32 numbers neither overflow nor vanish.
    x = x.astype(float)
    norms = np.linalg.norm(x, axis=1, keepdims=True)
    return np.divide(x, norms, out=np.zeros_like(x), where=norms > 0)


def _invert(cumulative: NDArray, quantiles: NDArray) -> NDArray:
    """Return the first category (n,) whose cumulative probability (n, C) exceeds the quantile (n,) in [0, 1)."""
    # Relative to the total, which rounding may leave below 1; a category of probability 0 is never first.
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
    with np.errstate(over="ignore"):  # numbers outside float32 become infinite, and are reported as such
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
    """Return the number of each expert's pattern of mistakes, (M,)."""
    check_choice("pattern", pattern, get_args(Pattern))
    if (groups is not None) != (pattern == "group"):
        found = "none" if groups is None else f"some with pattern={pattern!r}"
        raise ValueError(f"Expected groups with pattern='group', and only there, found {found}. Pass both or none.")
    if groups is None:
        return np.arange(num_experts) * (pattern == "person")
    most = np.iinfo(np.int32).max
    noun = "numbers of groups"
    return check_labels("groups", groups, (num_experts,), most, least=0, noun=noun, each="expert").astype(int)
