"""Who decides, on a given day, on given items: a gate over options, and who stands behind each of them."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import log_softmax

from pl2d_ppl.checks.deferral import (
    check_bounds_of_day,
    check_draws,
    check_parts,
    check_staff_of_day,
    chosen_names,
    warn_of_missed_bounds,
)
from pl2d_ppl.checks.keys import check_key
from pl2d_ppl.checks.membership import check_membership
from pl2d_ppl.checks.names import listed, names_of
from pl2d_ppl.checks.probabilities import check_probabilities
from pl2d_ppl.checks.warn import warn
from pl2d_ppl.data import Annotated
from pl2d_ppl.deferral.assignment import option_counts
from pl2d_ppl.deferral.decisions import evaluate_decisions
from pl2d_ppl.deferral.offsets import GATE_FLOOR, Policy, argmax_policy, untied

__all__ = ["Deferral"]


@dataclasses.dataclass(frozen=True, eq=False)
class Deferral:
    """Who decides each of N items: the option that a gate prefers, and a person who stands behind it.

    Options are people themselves, or clusters of people; the AI is the last. Of any method, :meth:`of` makes one
    from what its gate says. Staff and bounds give another one, and leave this as it is::

        day = Deferral.of(gate, ai, membership=membership.soft, people=membership.people).present(["ann", "bob"])
        day.bounded([0.0] * M + [0.4], [0.2] * M + [0.4]).evaluate(annotations, y)

    Parameters
    ----------
    log_gate : array of float, shape (N, V)
        Ln of the gate over options, but for a constant in each row; -inf on all items where an option is closed.
    ai : array of float, shape (N, C)
        The AI's probabilities of the categories.
    people_probs : array of float, shape (V, M+1)
        Who decides where an option is chosen, the AI last: rows sum to one, or are zero where an option is closed;
        the last row is the AI's own.
    people : tuple of str, length M
        Names.
    draws : array of float, shape (S, K, M), optional
        Draws of where people belong among K = V - 1 clusters, over which people_probs are averaged: from them
        :meth:`present` finds who decides among those who are there. What follows a policy has none.

    Raises
    ------
    ValueError
        If shapes disagree, numbers are not as said, or names repeat.
    """

    log_gate: NDArray[np.floating]
    ai: NDArray[np.floating]
    people_probs: NDArray[np.floating]
    people: tuple[str, ...]
    draws: NDArray[np.floating] | None = None

    def __post_init__(self) -> None:
        arrays = {name: np.asarray(getattr(self, name), float) for name in ("log_gate", "ai", "people_probs")}
        for name, array in arrays.items():
            if array.ndim != 2 or 0 in array.shape:
                raise ValueError(f"Expected {name} as a matrix that is not empty, found shape {array.shape}.")
            object.__setattr__(self, name, array)  # the way past `frozen`
        object.__setattr__(self, "people", names_of(self.people, self.people_probs.shape[1] - 1, "person"))
        check_parts(self.log_gate, self.ai, self.people_probs)
        if self.draws is not None:
            object.__setattr__(self, "draws", check_draws(self.draws, self.people_probs.shape))

    @classmethod
    def of(cls, gate: Any, ai: Any, *, membership: Any = None, people: Sequence[Any] | None = None) -> "Deferral":
        """Deferral of any method, from its gate.

        Parameters
        ----------
        gate : array of float, shape (N, V)
            Probabilities of the options, the AI last.
        ai : array of float, shape (N, C)
            The AI's probabilities of the categories.
        membership : array of float, shape (K, M) or (S, K, M), optional
            Where people belong among K = V - 1 clusters, soft or one-hot: columns sum to one. Of draws, who decides in
            a cluster is averaged over those in which it has members. By default every option but the AI's is one
            person.
        people : sequence of str, optional
            Names.

        Returns
        -------
        Deferral
            With everybody present.

        Raises
        ------
        ValueError
            If shapes disagree, or numbers are no probabilities.

        Warns
        -----
        UserWarning
            If a cluster has no members, in any draw: its share goes to the others.
        """
        gate = check_probabilities("gate", gate, "NV").astype(float)
        ai = check_probabilities("ai", ai, "NC").astype(float)
        num_clusters = gate.shape[1] - 1
        if num_clusters < 1:
            raise ValueError(f"Expected a gate over at least one option besides the AI, found shape {gate.shape}.")
        if membership is not None:
            check_membership(membership, num_clusters, people=people)
        omega = np.eye(num_clusters) if membership is None else np.asarray(membership, float)
        weights, names = _weights(omega), names_of(people, omega.shape[-1], "person")
        with np.errstate(divide="ignore"):  # a probability that underflows closes no option
            log_gate = np.maximum(np.log(gate), GATE_FLOOR)
        clusters = {v: f"option {v} (a cluster without members)" for v in range(num_clusters)}
        log_gate, people_probs = _close_empty(log_gate, weights, clusters)
        return cls(log_gate, ai, people_probs, names, omega if omega.ndim == 3 else None)

    @property
    def num_items(self) -> int:
        """Number of items, N."""
        return len(self.log_gate)

    @property
    def staff(self) -> NDArray[np.bool_]:
        """Who can decide on this day, the AI last, shape (M+1,)."""
        return (self.people_probs > 0).any(0)

    @property
    def decision(self) -> NDArray[np.integer]:
        """Option that decides each item, the first among equals, V - 1 for the AI, shape (N,)."""
        return self.log_gate.argmax(1)

    @property
    def shares(self) -> NDArray[np.floating]:
        """Expected share of the items that everybody decides, the AI last, shape (M+1,)."""
        return np.bincount(self.decision, minlength=len(self.people_probs)) / self.num_items @ self.people_probs

    def present(self, staff: Any) -> "Deferral":
        """Deferral among those who are present: of an option, to those of them who stand behind it.

        Whoever comes back is present again in this deferral, from which nothing is lost. Of draws of where people
        belong, each is restricted to those who are present, and who decides in a cluster is then averaged over the
        draws in which one of them belongs to it.

        Parameters
        ----------
        staff : array of bool, shape (M,), or sequence of str
            Who of the people is present, or their names. The AI always is.

        Returns
        -------
        Deferral
            With the same people, of which those who are absent decide nothing.

        Raises
        ------
        ValueError
            If nobody is present, a name is unknown, or staff is neither names nor a mask.

        Warns
        -----
        UserWarning
            If nobody is left behind an option, such as a cluster, in any draw: its share goes to the others. Not where
            options are people themselves.
        """
        present = check_staff_of_day(staff, self.people, self.staff[:-1])
        draws = None if self.draws is None else self.draws * present
        weights = self.people_probs * np.append(present, True)
        if draws is not None:
            weights = _weights(draws) * self.people_probs.any(1, keepdims=True)
        log_gate, people_probs = _close_empty(self.log_gate, weights, self._open_options)
        return dataclasses.replace(self, log_gate=log_gate, people_probs=people_probs, draws=draws)

    def bounded(self, lower: ArrayLike, upper: ArrayLike) -> "Deferral":
        """Deferral within bounds on everybody's share of these items; see :meth:`fit_policy`.

        Parameters
        ----------
        lower, upper : array_like, shape (M+1,)
            Bounds, the AI last.

        Returns
        -------
        Deferral
            With shares within the bounds, but for a fraction of an item, and without draws.

        Raises
        ------
        ValueError
            If the bounds are of the wrong length, or if those who are present cannot meet them.

        Warns
        -----
        UserWarning
            If shares miss the bounds by more than an item.
        """
        return self.follow(self.fit_policy(lower, upper))

    def bounded_options(self, lower: ArrayLike, upper: ArrayLike) -> "Deferral":
        """Deferral within bounds on every option's share of these items; see :meth:`fit_policy`.

        Parameters
        ----------
        lower, upper : array_like, shape (V,)
            Bounds, the AI last.

        Returns
        -------
        Deferral
            With the same people behind the options, and without draws.

        Raises
        ------
        ValueError
            If the bounds are of the wrong length, or if the options that are open cannot meet them.

        Warns
        -----
        UserWarning
            If shares miss the bounds by more than an item.
        """
        return self.follow(self.fit_policy(lower, upper, of_options=True))

    def fit_policy(self, lower: ArrayLike, upper: ArrayLike, *, of_options: bool = False) -> Policy:
        """Policy under which everybody's share of these items, or every option's, is within bounds.

        Of the joint of option and person, it is the projection onto the bounds, at a temperature of the gate that
        goes to zero; see :mod:`pl2d_ppl.deferral.offsets`. Bounds on options leave the people behind them as they are.
        Items that are equal are told apart by their positions: shares are within bounds on these items, and in
        expectation on others. A person whose upper bound is 0 decides nothing, whoever else is present.

        Parameters
        ----------
        lower, upper : array_like, shape (M+1,), or (V,) of options
            Bounds on the shares, the AI last.
        of_options : bool
            Whether they are on the options' shares, instead of people's.

        Returns
        -------
        Policy
            For :meth:`follow`, on these items or others.

        Raises
        ------
        ValueError
            If the bounds are of the wrong length, or if those who are present cannot meet them.

        Warns
        -----
        UserWarning
            If shares of these items miss the bounds by more than an item: tells whose, and by how much.
        """
        if not of_options:
            low, high = check_bounds_of_day(lower, upper, self.people, self.staff)
            policy = argmax_policy(self.log_gate, self.people_probs, low, high)
            warn_of_missed_bounds(self.follow(policy).shares, low, high, self.people, self.num_items)
            return policy
        is_open = self.people_probs.any(1)
        names = [f"option {v}" for v in range(len(is_open) - 1)]
        low, high = check_bounds_of_day(lower, upper, names, is_open)
        policy = argmax_policy(self.log_gate, np.diag(1.0 * is_open), low, high)
        shares = option_counts(untied(self.log_gate), policy.offsets) / self.num_items
        warn_of_missed_bounds(shares, low, high, names, self.num_items)
        return policy._replace(people_probs=self.people_probs)

    def follow(self, policy: Policy) -> "Deferral":
        """Deferral by a policy that was fitted on these items, or on others.

        Ties of the gate are broken by chance, the same way every time, as they were when the policy was fitted.

        Parameters
        ----------
        policy : Policy
            Of the same options and people. Those of the people who cannot decide here do not.

        Returns
        -------
        Deferral
            Gate and people of the policy, and no draws: those who decide in a cluster were averaged over them before.

        Raises
        ------
        ValueError
            If the policy is of other sizes.

        Warns
        -----
        UserWarning
            If the policy leaves nobody behind an option of this deferral, other than by upper bounds of 0: its share
            goes to the others.
        """
        offsets, people_probs = (np.asarray(part, float) for part in policy)
        num_options = len(self.people_probs)
        if offsets.shape != (num_options,) or people_probs.shape != self.people_probs.shape:
            raise ValueError(
                f"Expected a policy of {num_options} options and {len(self.people)} people, with offsets of shape "
                f"{(num_options,)} and people_probs of shape {self.people_probs.shape}, found {offsets.shape} and "
                f"{people_probs.shape}. Fit it on a deferral of the same options and people."
            )
        weights = people_probs * self.people_probs.any(1, keepdims=True) * self.staff
        is_asked = people_probs.any(1) | (offsets == -np.inf)  # otherwise bounds of 0 leave nobody, which is no news
        names = {option: name for option, name in self._open_options.items() if is_asked[option]}
        log_gate, people_probs = _close_empty(untied(self.log_gate) + offsets, weights, names)
        return dataclasses.replace(self, log_gate=log_gate, people_probs=people_probs, draws=None)

    def draw(self, rng_key: jax.Array) -> NDArray[np.integer]:
        """Draw the person who decides each item.

        Parameters
        ----------
        rng_key : Array
            One typed key.

        Returns
        -------
        array of int, shape (N,)
            Person, M for the AI.

        Raises
        ------
        ValueError
            If the key is something else.
        """
        check_key(rng_key)
        with np.errstate(divide="ignore"):
            log_probs = jnp.asarray(np.log(self.people_probs))
        return np.asarray(jax.random.categorical(rng_key, log_probs[self.decision]))

    def evaluate(self, annotations: Any, y: Any) -> dict[str, Any]:
        """Expected coverage, accuracy and workload, as in section 5.2 of paper B.

        An item is right in the share of those behind its option who annotated it rightly, among those of them who
        annotated it. Where options are people, it is :func:`~pl2d_ppl.deferral.decisions.evaluate_decisions`.

        Parameters
        ----------
        annotations : array of int, shape (N, M)
            What people said, -1 where missing.
        y : array of int, shape (N,)
            Truth, -1 where unknown.

        Returns
        -------
        dict
            ``coverage``; ``accuracy``, over the items whose truth is known and which somebody behind their option
            annotated; ``judged``, their share; ``workload``, everybody's share of the items, a list of length M+1.

        Raises
        ------
        ValueError
            If shapes disagree, or labels are not among the categories.
        """
        data = self._annotated(annotations, y)
        said = np.column_stack([data.annotations, self.ai.argmax(1)])
        weights = self.people_probs[self.decision] * (said >= 0)
        total, right = weights.sum(1), (weights * (said == data.y[:, None])).sum(1)
        judged = (total > 0) & (data.y >= 0)
        return {
            "coverage": float(self.shares[-1]),
            "accuracy": float((right[judged] / total[judged]).mean()) if judged.any() else float("nan"),
            "judged": float(judged.mean()),
            "workload": self.shares.tolist(),
        }

    def evaluate_drawn(self, rng_key: jax.Array, annotations: Any, y: Any) -> dict[str, Any]:
        """Realised coverage, accuracy and workload of people who are drawn.

        Where annotations are missing, fewer items are judged than by :meth:`evaluate`: those that the person drawn
        annotated.

        Parameters
        ----------
        rng_key : Array
            One typed key.
        annotations, y : array of int, shape (N, M) and (N,)
            What people said, and the truth, -1 where missing.

        Returns
        -------
        dict
            As :func:`~pl2d_ppl.deferral.decisions.evaluate_decisions`.

        Raises
        ------
        ValueError
            If the key is none, shapes disagree, or labels are not among the categories.
        """
        return evaluate_decisions(self.draw(rng_key), self.ai.argmax(1), self._annotated(annotations, y))

    def _annotated(self, annotations: Any, y: Any) -> Annotated:
        """Annotations and truth, checked."""
        classes = tuple(map(str, range(self.ai.shape[1])))
        nothing = np.zeros((self.num_items, 1))
        return Annotated(nothing, y, annotations, classes=classes, annotators=self.people, subset=True)

    @property
    def _open_options(self) -> dict[int, str]:
        """Options that are open, and who is behind each, for messages; none where options are people themselves."""
        behind_one = self.people_probs[:-1, :-1] > 0
        if behind_one.shape[0] == behind_one.shape[1] and not behind_one[~np.eye(len(behind_one), dtype=bool)].any():
            return {}  # that somebody is absent is no news
        everybody = (*self.people, "AI")
        behind = {v: chosen_names(everybody, row > 0) for v, row in enumerate(self.people_probs) if row.any()}
        return {v: f"option {v} ({listed(names)})" for v, names in behind.items()}


def _weights(omega: NDArray[np.floating]) -> NDArray[np.floating]:
    """Who decides where an option is chosen: rows of Omega, averaged over draws, zero where empty; then the AI."""
    draws = omega.reshape(-1, *omega.shape[-2:])
    totals = draws.sum(-1, keepdims=True)
    rows = draws / np.where(totals > 0, totals, 1.0)
    weights = np.zeros((draws.shape[1] + 1, draws.shape[2] + 1))
    weights[:-1, :-1] = rows.sum(0) / np.maximum((totals > 0).sum(0), 1)  # empty in a draw, which says nothing of it
    weights[-1, -1] = 1.0
    return weights


def _close_empty(
    log_gate: NDArray, weights: NDArray, names: Mapping[int, str]
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Normalise the gate and the rows of weights, and close the options that nobody is behind.

    Of those in names, which were open, a warning tells.
    """
    totals = weights.sum(1, keepdims=True)
    is_empty = totals[:, 0] == 0
    if is_empty.all():
        raise ValueError("Expected at least one option that is the AI or that somebody is behind, found none.")
    closed = [name for option, name in names.items() if is_empty[option]]
    if closed:
        message = (
            f"Expected somebody behind every option, found nobody behind {', '.join(closed)}: their share goes to the "
            "others."
        )
        warn(message)
    return log_softmax(np.where(is_empty, -np.inf, log_gate), 1), weights / np.where(is_empty[:, None], 1.0, totals)
