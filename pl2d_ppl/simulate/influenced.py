"""Experts for test beds of deferral: biased against a group, swayed by the AI, or not consistent with themselves."""

import jax
import numpy as np
from jax.typing import ArrayLike as JaxArrayLike
from numpy.typing import ArrayLike, NDArray

from pl2d_ppl.checks.keys import check_key
from pl2d_ppl.checks.labels import check_labels
from pl2d_ppl.checks.values import check_num_categories, shares

__all__ = ["ask_again", "group_biased_experts", "swayed_by_ai"]


def group_biased_experts(
    rng_key: JaxArrayLike, y: ArrayLike, group: ArrayLike, num_categories: int, *, rates: ArrayLike
) -> NDArray[np.int32]:
    """Simulate experts whose error rate depends on the group of an item.

    The expert m errs on an item of group g with probability rates[m, g]; a wrong label is any other category alike.

    Parameters
    ----------
    rng_key : PRNG key
        Typed key, from `jax.random.key`.
    y : array of int, shape (N,)
        Truth.
    group : array of int or str, shape (N,)
        Group of each item.
    num_categories : int
        Number of categories C >= 2.
    rates : array of float in [0, 1], shape (M, G)
        Error rates by expert and group, the groups sorted.

    Returns
    -------
    array of int32, shape (N, M)
        Annotations, none missing.

    Raises
    ------
    ValueError
        If an argument is malformed.
    """
    check_key(rng_key)
    check_num_categories(num_categories)
    y = check_labels("y", y, ("N",), num_categories, least=0)
    names, places = np.unique(np.asarray(group), return_inverse=True)
    rates = shares("rates", rates)
    if rates.ndim != 2 or rates.shape[1] != len(names) or places.shape != y.shape:
        raise ValueError(
            f"Expected rates of shape (M, {len(names)}), one column for each group, and a group for each of {len(y)} "
            f"items, found {rates.shape} and {places.shape}. Make them agree."
        )
    error = rates[:, places].T
    return _with_errors(rng_key, np.broadcast_to(y[:, None], error.shape), error, num_categories)


def swayed_by_ai(
    rng_key: JaxArrayLike, annotations: ArrayLike, ai: ArrayLike, *, trust: ArrayLike
) -> NDArray[np.int32]:
    """Let experts see the AI's answer before they give theirs: some take it over.

    Parameters
    ----------
    rng_key : PRNG key
        Typed key, from `jax.random.key`.
    annotations : array of int, shape (N, M)
        What they would say alone, −1 where missing.
    ai : array of int, shape (N,)
        The AI's answers, −1 where it is silent.
    trust : float in [0, 1], or sequence of them, length M
        Probability that an expert takes over the AI's answer.

    Returns
    -------
    array of int32, shape (N, M)
        What they say; missing ones stay missing.

    Raises
    ------
    ValueError
        If an argument is malformed.
    """
    check_key(rng_key)
    annotations = check_labels("annotations", annotations, ("N", "M"))
    ai = check_labels("ai", ai, (len(annotations),))
    trust = _each(trust, "trust", annotations)
    taken = np.asarray(jax.random.uniform(rng_key, annotations.shape)) < trust
    return np.where((annotations >= 0) & (ai >= 0)[:, None] & taken, ai[:, None], annotations).astype(np.int32)


def ask_again(
    rng_key: JaxArrayLike, annotations: ArrayLike, num_categories: int, *, consistency: ArrayLike
) -> NDArray[np.int32]:
    """Ask the same experts about the same items a second time.

    Parameters
    ----------
    rng_key : PRNG key
        Typed key, from `jax.random.key`.
    annotations : array of int, shape (N, M)
        What they said first, −1 where missing.
    num_categories : int
        Number of categories C >= 2.
    consistency : float in [0, 1], or sequence of them, length M
        Probability that an expert gives the same answer; any other category is as likely as another.

    Returns
    -------
    array of int32, shape (N, M)
        What they say the second time; missing ones stay missing.

    Raises
    ------
    ValueError
        If an argument is malformed.
    """
    check_key(rng_key)
    check_num_categories(num_categories)
    annotations = check_labels("annotations", annotations, ("N", "M"), num_categories)
    changed = np.broadcast_to(1 - _each(consistency, "consistency", annotations), annotations.shape)
    again = _with_errors(rng_key, np.maximum(annotations, 0), changed, num_categories)
    return np.where(annotations >= 0, again, -1).astype(np.int32)


def _each(values: ArrayLike, name: str, annotations: NDArray) -> NDArray:
    found = shares(name, values)
    if found.shape not in ((), annotations.shape[1:]):
        raise ValueError(
            f"Expected {name} as one number, or one for each of {annotations.shape[1]} experts, found shape "
            f"{found.shape}. Match the columns of annotations."
        )
    return found


def _with_errors(rng_key: JaxArrayLike, labels: NDArray, error: NDArray, num_categories: int) -> NDArray[np.int32]:
    """Change labels with these probabilities, to any other category alike."""
    error_key, label_key = jax.random.split(rng_key)
    wrong = np.asarray(jax.random.uniform(error_key, labels.shape)) < error
    step = np.asarray(jax.random.randint(label_key, labels.shape, 1, num_categories))
    return np.where(wrong, (labels + step) % num_categories, labels).astype(np.int32)
