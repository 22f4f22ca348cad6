"""Annotations of identified people: checks, names, and each person's own items."""

from collections import Counter
from collections.abc import Hashable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

__all__ = [
    "PersonItems",
    "ProgramKey",
    "check_annotations",
    "check_largest",
    "listed",
    "names_of",
    "padded_length",
    "person_items",
]

TOLERANCE = 1e-3  # of sums of probabilities, which float32 and rounding for print leave a little off one
SHORTEST = 16  # padded number of items: few lengths, so that few programs are compiled


class PersonItems(NamedTuple):
    """Every person's annotated items, padded to a common length n.

    Attributes
    ----------
    cluster_probs : array of float, shape (M, n, K, C)
        Probabilities of the categories at the person's items, under each cluster.
    annotations : array of int, shape (M, n)
        What the person said, -1 in the padding.
    num_annotations : array of int, shape (M,)
        Number of annotations.
    people, clusters : tuple of str
        Names.
    """

    cluster_probs: NDArray[np.floating]
    annotations: NDArray[np.integer]
    num_annotations: NDArray[np.integer]
    people: tuple[str, ...]
    clusters: tuple[str, ...]

    @property
    def silent(self) -> list[str]:
        """Names of the people without an annotation."""
        return [name for name, n in zip(self.people, self.num_annotations, strict=True) if n == 0]


class ProgramKey:
    """A program that equals another one of the same function and arguments, so that it is not compiled again.

    Two ``partial(membership, concentration=0.3)`` are not equal in Python.

    Parameters
    ----------
    model : callable
        The program.
    """

    def __init__(self, model: Any):
        self.model = model
        self._key = _identity(model)

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ProgramKey) and self._key == other._key


def _identity(value: Any) -> Hashable:
    if isinstance(value, partial):
        options = ((name, _identity(option)) for name, option in sorted(value.keywords.items()))
        return "partial", _identity(value.func), tuple(map(_identity, value.args)), tuple(options)
    if isinstance(value, np.ndarray | np.generic | jax.Array) and not isinstance(value, jax.core.Tracer):
        array = np.asarray(value)
        return "array", array.shape, str(array.dtype), array.tobytes()
    try:
        return type(value), hash(value), value
    except TypeError:  # not hashable: the object itself, which the program keeps alive
        return "object", id(value)


def names_of(given: Sequence[Any] | None, size: int, what: str) -> tuple[str, ...]:
    """Names of people or clusters, as given or numbered.

    Parameters
    ----------
    given : sequence, optional
        Names; by default numbers.
    size : int
        How many there are.
    what : {"person", "cluster"}
        What they name.

    Returns
    -------
    tuple of str
        The names.

    Raises
    ------
    ValueError
        If there are more or fewer, or two the same.
    """
    names = tuple(f"{what}_{i}" for i in range(size)) if given is None else tuple(map(str, given))
    if len(names) != size:
        raise ValueError(f"Expected {size} names, one a {what}, found {len(names)}: {list(names)}.")
    duplicates = [name for name, count in Counter(names).items() if count > 1]
    if duplicates:
        raise ValueError(f"Expected distinct names, one a {what}, found {duplicates} more than once. Rename them.")
    return names


def listed(names: Sequence[str], limit: int = 5) -> str:
    """Names for a message, at most so many."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(map(repr, names[:limit])) + more


def check_annotations(annotations: Any, num_items: int, people: Sequence[Any] | None) -> tuple[NDArray, tuple]:
    """Check annotations of M people, and name the people.

    Parameters
    ----------
    annotations : array of int, shape (N, M)
        What they said, -1 where missing.
    num_items : int
        N.
    people : sequence, optional
        Names.

    Returns
    -------
    annotations : array of int, shape (N, M)
        The same on the host.
    people : tuple of str
        Names.

    Raises
    ------
    ValueError
        If they are no integers from -1 up of this shape, or names do not fit.
    """
    said = np.asarray(annotations)
    if said.ndim != 2 or len(said) != num_items or said.shape[1] == 0:
        hint = " Pass annotations[:, None] for one person." if said.ndim == 1 else ""
        raise ValueError(
            f"Expected annotations of shape ({num_items}, M), one row an item and one column a person, found "
            f"{said.shape}.{hint}"
        )
    if not np.issubdtype(said.dtype, np.integer):
        raise ValueError(
            f"Expected integer labels in annotations, found {said.dtype}. Encode them as 0..C-1, -1 missing."
        )
    names = names_of(people, said.shape[1], "person")
    if (said < -1).any():
        item, person = np.argwhere(said < -1)[0]
        raise ValueError(
            f"Expected labels from 0 up, or -1 where missing, found {said[item, person]} by {names[person]!r} on item "
            f"{item}."
        )
    return said, names


def check_largest(said: NDArray, people: Sequence[str], num_categories: int) -> None:
    """Check that labels are among the categories that the networks know.

    Raises
    ------
    ValueError
        If one is not.
    """
    if (said >= num_categories).any():
        item, person = np.argwhere(said >= num_categories)[0]
        raise ValueError(
            f"Expected labels in -1..{num_categories - 1}, since the clusters' networks have {num_categories} "
            f"categories, found {said[item, person]} by {people[person]!r} on item {item}. Have the networks been "
            "trained on other categories? Map the labels to theirs."
        )


def padded_length(length: int) -> int:
    """Round up to a power of two, from 16 up."""
    return max(SHORTEST, 1 << (length - 1).bit_length())


def person_items(
    cluster_probs: Any, annotations: Any, people: Sequence[Any] | None, clusters: Sequence[Any] | None
) -> PersonItems:
    """Check what the clusters say and what people said, and gather each person's items.

    Parameters
    ----------
    cluster_probs : array of float, shape (N, K, C)
        Probabilities of the categories under each cluster.
    annotations : array of int, shape (N, M)
        What people said, -1 where missing.
    people, clusters : sequence, optional
        Names.

    Returns
    -------
    PersonItems
        Arrays of the precision that is on.

    Raises
    ------
    ValueError
        If shapes disagree, if probabilities are negative, NaN, or do not sum to one, if labels are not among the
        categories, if somebody said what no cluster would say, or if names do not fit.
    """
    probs = _check_probs(cluster_probs)
    num_items, num_clusters, num_categories = probs.shape
    said, names = check_annotations(annotations, num_items, people)
    check_largest(said, names, num_categories)
    cluster_names = names_of(clusters, num_clusters, "cluster")
    num_annotations = (said >= 0).sum(0)
    person, item = np.nonzero(said.T >= 0)
    place = np.arange(len(person)) - np.repeat(np.cumsum(num_annotations) - num_annotations, num_annotations)
    shape = (len(names), padded_length(int(num_annotations.max())))
    short = np.full(shape, -1, np.int32)
    short[person, place] = said[item, person]
    gathered = np.full((*shape, num_clusters, num_categories), 1 / num_categories, jnp.result_type(float))
    gathered[person, place] = probs[item]
    _check_possible(gathered[person, place], short[person, place], person, item, names)
    return PersonItems(gathered, short, num_annotations, names, cluster_names)


def _check_probs(cluster_probs: Any) -> NDArray[np.floating]:
    probs = np.asarray(cluster_probs)
    if probs.ndim != 3 or 0 in probs.shape or not np.issubdtype(probs.dtype, np.floating):
        raise ValueError(
            f"Expected cluster_probs as floats of shape (N, K, C), for N items, K clusters and C categories, found "
            f"{probs.dtype} of shape {probs.shape}."
        )
    sums = probs.sum(-1)
    off = ~(np.abs(sums - 1) <= TOLERANCE)  # NaN too
    if off.any():
        item, cluster = np.argwhere(off)[0]
        hint = "Mend the networks." if np.isnan(sums[item, cluster]) else "Pass probabilities, not logits."
        raise ValueError(
            f"Expected cluster_probs that sum to one over C, found a sum of {sums[item, cluster]:.6g} for item {item} "
            f"and cluster {cluster}. {hint}"
        )
    if probs.min() < 0:
        item, cluster, _ = np.argwhere(probs < 0)[0]
        raise ValueError(
            f"Expected cluster_probs that are not negative, found {probs[item, cluster].min():.6g} for item {item} and "
            f"cluster {cluster}. Pass probabilities, not logits."
        )
    return probs


def _check_possible(probs: NDArray, said: NDArray, person: NDArray, item: NDArray, people: tuple[str, ...]) -> None:
    """Refuse annotations of probability zero under every cluster, given which there is no membership."""
    likelihood = np.take_along_axis(probs, said[:, None, None], -1)[..., 0].max(-1)
    impossible = likelihood < np.finfo(probs.dtype).tiny
    if impossible.any():
        first = int(impossible.argmax())
        raise ValueError(
            f"Expected annotations that some cluster may give, found {said[first]} by {people[person[first]]!r} on "
            f"item {item[first]}, of probability 0 in every cluster. Smooth cluster_probs: .999 h + .001 / C."
        )
