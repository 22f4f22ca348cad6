"""Trained methods: they decide new items, and newcomers can join."""

import dataclasses
from collections.abc import Callable
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import ArrayLike, NDArray

from pl2d_ppl.baselines.l2d_pop import PopulationFit
from pl2d_ppl.checks.membership import check_membership
from pl2d_ppl.data import Annotated
from pl2d_ppl.deferral.deferral import Deferral
from pl2d_ppl.inference.result import FitResult
from pl2d_ppl.people.pooled import PooledPeople

__all__ = ["GateLearned", "Learned", "PooledLearned", "PopulationLearned", "heard_people", "representations"]

View = Callable[[NDArray], NDArray]


class Learned(Protocol):
    """A trained method."""

    @property
    def steered(self) -> bool:
        """Whether the method was trained for every coverage, so that plain decisions differ between coverages."""
        ...

    def defer(self, x: ArrayLike) -> list[Deferral]:
        """Find who should decide items of shape (N, ...): a deferral for every coverage, or one for all."""
        ...

    def join(self, rng_key: Array, data: Annotated, membership: NDArray | None) -> "Learned":
        """Add the people of a few annotated items, as far as the method can without retraining.

        Parameters
        ----------
        rng_key : Array
            A typed key.
        data : Annotated
            The newcomers' annotations, and the truth.
        membership : array, shape (K, M'), or None
            Their memberships in clusters.

        Returns
        -------
        Learned
            The method with the newcomers, or unchanged if it cannot defer to them.
        """
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class GateLearned:
    """Gates over people, or over clusters of them.

    Attributes
    ----------
    fits : list of FitResult
        One fit per coverage, or a batch with one run per coverage, or one fit for all.
    people : tuple of str
        Names.
    steered : bool
        Whether there is one fit or run per coverage.
    membership : array, shape (K, M), optional
        Memberships of people in the clusters that the gate is over.
    view : callable, optional
        Function that turns memberships into those that the method uses, such as rounded ones.
    num_clusters : int, optional
        Number of clusters K that newcomers' memberships must have, if it must match training.
    """

    fits: list[FitResult]
    people: tuple[str, ...]
    steered: bool
    membership: NDArray | None = None
    view: View | None = None
    num_clusters: int | None = None

    def defer(self, x: ArrayLike) -> list[Deferral]:
        """See :class:`Learned`."""
        predictions = [result.predict(x) for result in self.fits]
        runs = [run for p in predictions for run in (zip(p.gate, p.ai, strict=True) if p.gate.ndim == 3 else [p[:2]])]
        return [Deferral.of(*run, membership=self.membership, people=self.people) for run in runs]

    def join(self, rng_key: Array, data: Annotated, membership: NDArray | None) -> "GateLearned":
        """See :class:`Learned`. People join clusters by membership alone; a gate over people cannot take newcomers."""
        del rng_key
        if self.view is None or self.membership is None or membership is None:
            return self
        check_membership(membership, self.num_clusters, data.num_experts, people=data.annotators)
        joined = np.concatenate([self.membership, self.view(membership)], axis=1)
        return dataclasses.replace(self, membership=joined, people=(*self.people, *data.annotators))


@dataclasses.dataclass(frozen=True, eq=False)
class PooledLearned:
    """Partially pooled people, of ``pooled`` or ``crowd``.

    Attributes
    ----------
    people : PooledPeople
        The people, with their posterior.
    """

    people: PooledPeople
    steered: bool = False

    def defer(self, x: ArrayLike) -> list[Deferral]:
        """See :class:`Learned`."""
        return [self.people.defer(x)]

    def join(self, rng_key: Array, data: Annotated, membership: NDArray | None) -> "PooledLearned":
        """See :class:`Learned`. Newcomers start at the mean of their cluster, and move as their annotations say."""
        omega = np.ones((1, data.num_experts)) if membership is None else membership
        return PooledLearned(self.people.join(rng_key, data.batch(), omega, people=data.annotators))


@dataclasses.dataclass(frozen=True, eq=False)
class PopulationLearned:
    """L2D-Pop: people as representations of their annotations.

    Attributes
    ----------
    fit : PopulationFit
        The trained networks.
    representation : array, shape (M, R)
        Representations of people.
    names : tuple of str
        Their names.
    heard : array of bool, shape (M,)
        Whether each person annotated an item of known truth. The others are not asked, since nothing is known about
        them.
    class_logits : callable
        Network of the AI, from x to (N, C).
    """

    fit: PopulationFit
    representation: Array
    names: tuple[str, ...]
    heard: NDArray[np.bool_]
    class_logits: Callable[[Array], Array]
    steered: bool = False

    def defer(self, x: ArrayLike) -> list[Deferral]:
        """See :class:`Learned`. The AI decides where its best category has a larger logit than every person."""
        x = jnp.asarray(x)
        categories = self.class_logits(x)
        people = jnp.where(self.heard, self.fit.deferral_logits(x, self.representation), -jnp.inf)
        logits = jnp.concatenate([people, categories.max(-1)[:, None]], 1)
        gate, ai = (np.asarray(jax.nn.softmax(a, -1)) for a in (logits, categories))
        return [Deferral.of(gate, ai, people=self.names)]

    def join(self, rng_key: Array, data: Annotated, membership: NDArray | None) -> "PopulationLearned":
        """See :class:`Learned`. Newcomers are represented by their annotations."""
        del rng_key, membership
        psi, heard = representations(self.fit, data)
        return dataclasses.replace(
            self,
            representation=jnp.concatenate([self.representation, psi]),
            names=(*self.names, *data.annotators),
            heard=np.concatenate([self.heard, heard]),
        )


def representations(fit: PopulationFit, data: Annotated) -> tuple[Array, NDArray[np.bool_]]:
    """Represent people by their annotations.

    Parameters
    ----------
    fit : PopulationFit
        The networks.
    data : Annotated
        Items, annotations of M people, and truth.

    Returns
    -------
    psi : Array, shape (M, R)
        Representations; zeros for people who annotated nothing of known truth.
    heard : array of bool, shape (M,)
        Whether each person annotated an item of known truth.
    """
    heard = heard_people(data)
    psi = jnp.zeros((data.num_experts, fit.network.encoder.outputs[0]))
    if heard.any():
        psi = psi.at[heard].set(fit.representation(data.x, data.annotations[:, heard], data.y))
    return psi, heard


def heard_people(data: Annotated) -> NDArray[np.bool_]:
    """Whether each person annotated an item of known truth, shape (M,)."""
    return ((data.annotations >= 0) & (data.y >= 0)[:, None]).any(0)
