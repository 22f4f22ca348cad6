"""Experts who know some superclasses and guess elsewhere."""

from collections.abc import Iterable, Sequence
from typing import Literal, get_args

import jax
import numpy as np
from jax.typing import ArrayLike as JaxArrayLike
from numpy.typing import ArrayLike, NDArray

from pl2d_ppl.checks.keys import check_key
from pl2d_ppl.checks.labels import check_labels
from pl2d_ppl.checks.values import check_choice, truth

__all__ = ["superclass_experts"]

Confusion = Literal["uniform", "partner", "within"]


def superclass_experts(
    rng_key: JaxArrayLike,
    y: ArrayLike,
    coarse: ArrayLike,
    num_categories: int,
    expertise: Sequence[Sequence[int]],
    error: float = 0.5,
    confusion: Confusion = "uniform",
) -> NDArray[np.int32]:
    """Simulate experts who know some superclasses and guess elsewhere.

    Experts are right on items of the superclasses that they know. Elsewhere they are wrong with probability `error`,
    and then name

    - ``"uniform"``: any other category, with equal probability;
    - ``"partner"``: the one category that this expert confuses with the true one. Categories are paired at random for
      each expert; with an odd number, the remaining one gets a partner from another pair;
    - ``"within"``: any other category of the superclass, with equal probability, among those that occur
      in `y`.

    Experts are drawn independently: adding one does not change those before.

    Parameters
    ----------
    rng_key : PRNG key
        Typed key, from `jax.random.key`.
    y : array of int, shape (N,)
        Truth, in 0..C−1.
    coarse : array of int, shape (N,)
        Superclass of each item; pass `y` itself for experts who know single categories.
    num_categories : int
        Number of categories C >= 2.
    expertise : sequence of sequences of int, length M
        Superclasses that each expert knows; an empty one makes a novice.
    error : float in [0, 1], default .5
        Probability of an error outside the superclasses that an expert knows.
    confusion : {"uniform", "partner", "within"}, default "uniform"
        Which wrong category an expert names.

    Returns
    -------
    array of int32, shape (N, M)
        Annotations, none missing.

    Raises
    ------
    ValueError
        If an argument is malformed, an expert's superclass does not occur in `coarse`, or, for ``"within"``,
        a category has two superclasses or shares its superclass with no other category.

    References
    ----------
    Nguyen, Do and Carneiro, "Probabilistic Learning to Defer: Handling Missing Expert's Annotations and
    Controlling Workload Distribution", ICLR 2025. Their generator is unpublished; they flip labels "between two
    classes"; ``"partner"`` is closest to that.
    """
    check_key(rng_key)
    y = truth(y, num_categories)
    coarse = check_labels("coarse", coarse, y.shape, least=0, noun="superclasses").astype(int)  # signed, too
    known = [_check_expertise(m, own, coarse) for m, own in enumerate(_check_sequence(expertise))]
    if not 0 <= error <= 1:
        raise ValueError(f"Expected error as a probability in [0, 1], found {error}. Pass one such as .5.")
    check_choice("confusion", confusion, get_args(Confusion))
    columns = []
    for m, own in enumerate(known):
        key_table, key_error, key_which = jax.random.split(jax.random.fold_in(rng_key, m), 3)
        table, sizes = _confusions(key_table, y, coarse, num_categories, confusion)
        wrong = jax.random.bernoulli(key_error, error, y.shape) & ~np.isin(coarse, own)
        which = jax.random.randint(key_which, y.shape, 0, sizes[y])
        columns.append(np.where(wrong, table[y, which], y))
    return np.stack(columns, axis=1).astype(np.int32)


def _confusions(
    rng_key: jax.Array, y: NDArray, coarse: NDArray, num_categories: int, confusion: Confusion
) -> tuple[NDArray, NDArray]:
    """List the categories that each one may be confused with: a padded table (C, S), and the list lengths (C,)."""
    categories = np.arange(num_categories)
    if confusion == "uniform":
        others = np.broadcast_to(categories, (num_categories, num_categories))
        table = others[~np.eye(num_categories, dtype=bool)].reshape(num_categories, num_categories - 1)
        return table, np.full(num_categories, num_categories - 1)
    if confusion == "partner":
        order = np.asarray(jax.random.permutation(rng_key, num_categories))
        partner = np.empty(num_categories, int)
        # Neighbours in a random order are partners; `% C` gives the odd one out the first, never itself.
        partner[order] = order[(categories ^ 1) % num_categories]
        return partner[:, None], np.ones(num_categories, int)
    return _siblings(y, coarse, num_categories)


def _siblings(y: NDArray, coarse: NDArray, num_categories: int) -> tuple[NDArray, NDArray]:
    """List the other categories of each one's superclass, as `_confusions` does."""
    pairs = np.unique(np.stack([y, coarse], axis=1), axis=0)
    superclass = dict(pairs.tolist())
    if len(superclass) < len(pairs):
        repeated = int(pairs[:-1, 0][pairs[1:, 0] == pairs[:-1, 0]][0])
        raise ValueError(
            f"Expected each category in one superclass for confusion='within', found category {repeated} in several. "
            "Correct coarse, or choose 'uniform'."
        )
    table, sizes = np.zeros((num_categories, num_categories), int), np.ones(num_categories, int)
    for category, own in superclass.items():
        siblings = [other for other, its in superclass.items() if its == own and other != category]
        if not siblings:
            raise ValueError(
                "Expected several categories in each superclass for confusion='within', found only category "
                f"{category} in superclass {own}. Choose 'uniform' or 'partner'."
            )
        table[category, : len(siblings)], sizes[category] = siblings, len(siblings)
    return table, sizes


def _check_sequence(expertise: Sequence[Sequence[int]]) -> Sequence[Sequence[int]]:
    if len(expertise) == 0 or not all(isinstance(own, Iterable) and not isinstance(own, str) for own in expertise):
        raise ValueError(
            f"Expected expertise as a sequence of superclasses for each expert, found {expertise!r}. Write [[0, 1], "
            "[2]] for two experts."
        )
    return expertise


def _check_expertise(expert: int, own: Sequence[int], coarse: NDArray) -> NDArray:
    superclasses = np.asarray(list(own))
    absent = np.setdiff1d(superclasses, coarse)
    if absent.size:
        raise ValueError(
            f"Expected superclasses that occur in coarse in expertise[{expert}], found {absent[0]}. Correct it, or "
            "simulate before splitting the data."
        )
    return superclasses
