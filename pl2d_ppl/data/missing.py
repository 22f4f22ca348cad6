"""Make annotations missing."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike as JaxArrayLike
from numpy.typing import ArrayLike, NDArray

from pl2d_ppl.checks.keys import check_key
from pl2d_ppl.checks.labels import check_labels
from pl2d_ppl.checks.values import check_count, shares

__all__ = ["drop_annotations", "subset_annotators"]

logger = logging.getLogger("pl2d_ppl")


def drop_annotations(
    rng_key: JaxArrayLike, annotations: ArrayLike, rate: ArrayLike, at_least_one: bool = False
) -> NDArray[np.int32]:
    """Make annotations missing at random.

    Each expert keeps ``floor(n (1 − rate))`` of their n annotations, drawn uniformly and independently of the
    other experts. With `at_least_one`, an item that would lose all annotations gets one back, and its expert gives up
    one on an item that keeps another expert's, so that every expert's number is unchanged. If annotations are too
    sparse for such an exchange, an expert keeps one more.

    Parameters
    ----------
    rng_key : PRNG key
        Typed key, from `jax.random.key`.
    annotations : array of int, shape (N, M)
        Annotations, −1 where already missing.
    rate : float in [0, 1], or sequence of them, length M
        Share of each expert's annotations that go missing: the same for all, or one for each.
    at_least_one : bool, default False
        Whether every item that has an annotation keeps at least one.

    Returns
    -------
    array of int32, shape (N, M)
        Annotations, with more of them −1.

    Raises
    ------
    ValueError
        If an argument is malformed, or `at_least_one` asks for more annotations than the rate leaves.

    References
    ----------
    Nguyen, Do and Carneiro, "Probabilistic Learning to Defer: Handling Missing Expert's Annotations and
    Controlling Workload Distribution", ICLR 2025.
    """
    check_key(rng_key)
    annotations = check_labels("annotations", annotations, ("N", "M"))
    rates = shares("rate", rate)
    if rates.shape not in ((), annotations.shape[1:]):
        raise ValueError(
            f"Expected rate as one number, or one for each of {annotations.shape[1]} experts, found shape "
            f"{rates.shape}. Match the columns of annotations."
        )
    present = annotations >= 0
    # The tolerance undoes binary fractions: 10 annotations at rate .9 leave one, though 10 * (1 - .9) < 1.
    quotas = np.floor(present.sum(0) * (1 - rates) + 1e-9).astype(int)
    if at_least_one and quotas.sum() < present.any(1).sum():
        raise ValueError(
            f"Expected at least {present.any(1).sum()} annotations for at_least_one, one for every item, found that "
            f"rate {rates.tolist()} leaves {quotas.sum()}. Lower rate, or leave at_least_one out."
        )
    # Experts keep the items with their lowest scores: a uniform draw of a fixed number.
    scores = np.where(present, jax.random.uniform(rng_key, annotations.shape), np.inf)
    ranks = scores.argsort(axis=0, kind="stable").argsort(axis=0)
    kept = ranks < quotas
    if at_least_one:
        _cover(kept, present, scores)
    return np.where(kept, annotations, -1).astype(np.int32)


def subset_annotators(rng_key: JaxArrayLike, annotations: ArrayLike, per_item: int) -> NDArray[np.int32]:
    """Keep the annotations of a few people for each item, as if each person labelled a part of the data.

    For each item independently, the people are drawn uniformly among those who annotated it.

    Parameters
    ----------
    rng_key : PRNG key
        Typed key, from `jax.random.key`.
    annotations : array of int, shape (N, M)
        Annotations, −1 where already missing.
    per_item : int
        Number of annotations that an item keeps, at least 1; an item with fewer keeps all.

    Returns
    -------
    array of int32, shape (N, M)
        Annotations, with more of them −1.

    Raises
    ------
    ValueError
        If an argument is malformed.
    """
    check_key(rng_key)
    annotations = check_labels("annotations", annotations, ("N", "M"))
    check_count("per_item", per_item)
    present = annotations >= 0
    scores = np.asarray(jax.random.uniform(rng_key, annotations.shape, jnp.float32))
    ranks = np.where(present, scores, np.inf).argsort(axis=1).argsort(axis=1)
    return np.where(present & (ranks < per_item), annotations, -1).astype(np.int32)


def _cover(kept: NDArray, present: NDArray, scores: NDArray) -> None:
    """Exchange annotations, in place, until every item that had an annotation keeps one.

    Orphans go to the expert who was closest to keeping them. In exchange, among items that another expert also keeps,
    this expert gives up the one closest to being dropped. If no annotation was missing at first, some expert can always
    exchange (pigeonhole: as many annotations are kept as there are items).
    """
    covers = kept.sum(1)
    orphans = np.flatnonzero(present.any(1) & (covers == 0))
    # An item's cover never rises from 1 to 2, so a popped item never needs another look.
    stacks = [np.flatnonzero(column)[scores[column, m].argsort()].tolist() for m, column in enumerate(kept.T)]
    extra = 0
    for item in orphans:
        experts = [m for m in scores[item].argsort() if present[item, m]]
        for expert in experts:
            while stacks[expert] and covers[stacks[expert][-1]] < 2:
                stacks[expert].pop()
            if stacks[expert]:
                given_up = stacks[expert].pop()
                kept[given_up, expert] = False
                covers[given_up] -= 1
                break
        else:
            expert = experts[0]
            extra += 1
        kept[item, expert] = True
        covers[item] = 1
    if extra:
        logger.info("%d annotations kept beyond the rate, where items have too few experts to exchange", extra)
