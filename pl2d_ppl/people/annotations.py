"""Annotations of identified people: checks, names, and each person's own items."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from pl2d_ppl.checks.labels import check_labels
from pl2d_ppl.checks.names import names_of
from pl2d_ppl.checks.probabilities import check_probabilities

__all__ = [
    "PersonItems",
    "check_annotations",
    "padded_length",
    "person_items",
]

SHORTEST = 16  # least padded number of items: few lengths need few compiled programs


class PersonItems(NamedTuple):
    """Every person's annotated items, padded to a common length n.

    Attributes
    ----------
    cluster_probs : array of float, shape (M, n, K, C)
        Probabilities of the categories at the person's items, under each cluster.
    annotations : array of int, shape (M, n)
        Annotations of the person, -1 in the padding.
    num_annotations : array of int, shape (M,)
        Number of annotations per person.
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


def check_annotations(
    annotations: Any, num_items: int, people: Sequence[Any] | None, num_categories: int | None = None
) -> tuple[NDArray[np.integer], tuple[str, ...]]:
    """Check annotations (N, M) of identified people, and name the people.

    Raises
    ------
    ValueError
        If there are no people, names do not fit, or :func:`~pl2d_ppl.checks.labels.check_labels` refuses the labels.
    """
    said = np.asarray(annotations)
    if said.ndim != 2 or said.shape[1] == 0:
        check_labels("annotations", said, (num_items, "M"))
        raise ValueError(f"Expected annotations of at least one person, found shape {said.shape}.")
    names = names_of(people, said.shape[1], "person")
    return check_labels("annotations", said, (num_items, "M"), num_categories, people=names), names


def padded_length(length: int) -> int:
    """Round up to a power of two, from 16 up."""
    return max(SHORTEST, 1 << (length - 1).bit_length())


def person_items(
    cluster_probs: Any, annotations: Any, people: Sequence[Any] | None, clusters: Sequence[Any] | None
) -> PersonItems:
    """Check cluster probabilities and annotations, and gather each person's items.

    Parameters
    ----------
    cluster_probs : array of float, shape (N, K, C)
        Probabilities of the categories under each cluster.
    annotations : array of int, shape (N, M)
        Annotations of people, -1 where missing.
    people, clusters : sequence, optional
        Names.

    Returns
    -------
    PersonItems
        Each person's items, in JAX's current precision.

    Raises
    ------
    ValueError
        If shapes disagree, if probabilities are negative, NaN, or do not sum to one, if labels are not among the
        categories, if an annotation has probability zero in every cluster, or if names do not fit.
    """
    probs = check_probabilities("cluster_probs", cluster_probs, "NKC")
    num_items, num_clusters, num_categories = probs.shape
    said, names = check_annotations(annotations, num_items, people, num_categories)
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


def _check_possible(probs: NDArray, said: NDArray, person: NDArray, item: NDArray, people: tuple[str, ...]) -> None:
    """Refuse annotations that have probability zero under every cluster: no membership could explain them."""
    likelihood = np.take_along_axis(probs, said[:, None, None], -1)[..., 0].max(-1)
    impossible = likelihood < np.finfo(probs.dtype).tiny
    if impossible.any():
        first = int(impossible.argmax())
        raise ValueError(
            f"Expected annotations that some cluster may give, found {said[first]} by {people[person[first]]!r} on "
            f"item {item[first]}, of probability 0 in every cluster. Smooth cluster_probs: .999 h + .001 / C."
        )
