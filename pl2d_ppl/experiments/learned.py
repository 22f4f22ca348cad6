"""What methods have learned: who decides on new items, and who joins."""

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
        """Whether it was trained for every coverage, so that plain decisions differ between them."""
        ...

    def defer(self, x: ArrayLike) -> list[Deferral]:
        """Say who should decide on items of shape (N, ...): at every coverage, or one deferral for all."""
        ...

    def join(self, rng_key: Array, data: Annotated, membership: NDArray | None) -> "Learned":
        """Add the people of a few annotated items, as far as the method can without training anew.

        Parameters
        ----------
        rng_key : Array
            A typed key.
        data : Annotated
            What the newcomers said, and the truth.
        membership : array, shape (K, M'), or None
            Their memberships in clusters.

        Returns
        -------
        Learned
            With the newcomers, or itself, where the method cannot defer to them.
        """
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class GateLearned:
    """Gates over people, or over clusters of them.

    Attributes
    ----------
    fits : list of FitResult
        One a coverage, or a batch of runs, one a coverage, or one for all.
    people : tuple of str
        Names.
    steered : bool
        Whether there is one a coverage.
    membership : array, shape (K, M), optional
        Of people in the clusters that the gate is over.
    view : callable, optional
        How a method sees memberships, such as rounded.
    num_clusters : int, optional
        K of the memberships that newcomers have, where it must be that of training.
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
        """See :class:`Learned`: into clusters by membership alone; a gate over persons knows no newcomers."""
        del rng_key
        if self.view is None or self.membership is None or membership is None:
            return self
        check_membership(membership, self.num_clusters, data.num_experts, people=data.annotators)
        joined = np.concatenate([self.membership, self.view(membership)], axis=1)
        return dataclasses.replace(self, membership=joined, people=(*self.people, *data.annotators))


@dataclasses.dataclass(frozen=True, eq=False)
class PooledLearned:
    """Partially pooled people.

    Attributes
    ----------
    people : PooledPeople
        Their posterior.
    """

    people: PooledPeople
    steered: bool = False

    def defer(self, x: ArrayLike) -> list[Deferral]:
        """See :class:`Learned`."""
        return [self.people.defer(x)]

    def join(self, rng_key: Array, data: Annotated, membership: NDArray | None) -> "PooledLearned":
        """See :class:`Learned`: from the mean of their cluster, as their annotations say."""
        omega = np.ones((1, data.num_experts)) if membership is None else membership
        return PooledLearned(self.people.join(rng_key, data.batch(), omega, people=data.annotators))


@dataclasses.dataclass(frozen=True, eq=False)
class PopulationLearned:
    """L2D-Pop: people as representations of what they annotated.

    Attributes
    ----------
    fit : PopulationFit
        The trained networks.
    representation : array, shape (M, R)
        People.
    names : tuple of str
        Their names.
    heard : array of bool, shape (M,)
        Who annotated an item of known truth. Of the others nothing is known, and they are not asked.
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
        """See :class:`Learned`: the person with the largest logit decides, or the AI's best category."""
        x = jnp.asarray(x)
        categories = self.class_logits(x)
        people = jnp.where(self.heard, self.fit.deferral_logits(x, self.representation), -jnp.inf)
        logits = jnp.concatenate([people, categories.max(-1)[:, None]], 1)
        gate, ai = (np.asarray(jax.nn.softmax(a, -1)) for a in (logits, categories))
        return [Deferral.of(gate, ai, people=self.names)]

    def join(self, rng_key: Array, data: Annotated, membership: NDArray | None) -> "PopulationLearned":
        """See :class:`Learned`: as the representation of what they annotated."""
        del rng_key, membership
        psi, heard = representations(self.fit, data)
        return dataclasses.replace(
            self,
            representation=jnp.concatenate([self.representation, psi]),
            names=(*self.names, *data.annotators),
            heard=np.concatenate([self.heard, heard]),
        )


def representations(fit: PopulationFit, data: Annotated) -> tuple[Array, NDArray[np.bool_]]:
    """Represent people by what they annotated.

    Parameters
    ----------
    fit : PopulationFit
        The networks.
    data : Annotated
        Items, annotations of M people, and truth.

    Returns
    -------
    psi : Array, shape (M, R)
        Representations; of who annotated nothing of known truth, zeros.
    heard : array of bool, shape (M,)
        Who did annotate.
    """
    heard = heard_people(data)
    psi = jnp.zeros((data.num_experts, fit.network.encoder.outputs[0]))
    if heard.any():
        psi = psi.at[heard].set(fit.representation(data.x, data.annotations[:, heard], data.y))
    return psi, heard


def heard_people(data: Annotated) -> NDArray[np.bool_]:
    """Who annotated an item of known truth, shape (M,)."""
    return ((data.annotations >= 0) & (data.y >= 0)[:, None]).any(0)
