"""Who decides given items on a given day: a gate over options, and the people behind each option."""

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


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Deferral:
    """Who decides each of N items: the option that a gate prefers, and a person behind it.

    Options are people themselves, or clusters of people; the AI is the last option. :meth:`of` makes a deferral from
    the gate of any method. Setting staff or bounds returns a new deferral and leaves this one unchanged::

        day = Deferral.of(gate, ai, membership=membership.soft, people=membership.people).present(["ann", "bob"])
        day.bounded([0.0] * M + [0.4], [0.2] * M + [0.4]).evaluate(annotations, y)

    Parameters
    ----------
    log_gate : array of float, shape (N, V)
        Ln of the gate over options, up to a constant in each row; -inf on all items for a closed option.
    ai : array of float, shape (N, C)
        The AI's probabilities of the categories.
    people_probs : array of float, shape (V, M+1)
        Probability that each person decides where an option is chosen, the AI last. Rows sum to one, or are zero for a
        closed option; the last row is the AI's own.
    people : tuple of str, length M
        Names.
    draws : array of float, shape (S, K, M), optional
        Draws of people's memberships in K = V - 1 clusters, over which people_probs are averaged. :meth:`present` uses
        them to find who decides among the people present. A deferral that follows a policy has no draws.

    Raises
    ------
    ValueError
        If shapes disagree, values are not as described, or names repeat.
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

    def __repr__(self) -> str:
        names, shares = (*self.people, "AI"), self.shares
        first = [*range(min(5, len(self.people))), -1]
        shown = ", ".join(f"{names[i]} {shares[i]:.1%}" for i in first)
        return f"Deferral(items={self.num_items}, people={len(self.people)}: {shown})"

    @classmethod
    def of(cls, gate: Any, ai: Any, *, membership: Any = None, people: Sequence[Any] | None = None) -> "Deferral":
        """Make the deferral of any method from its gate.

        Parameters
        ----------
        gate : array of float, shape (N, V)
            Probabilities of the options, the AI last.
        ai : array of float, shape (N, C)
            The AI's probabilities of the categories.
        membership : array of float, shape (K, M) or (S, K, M), optional
            Memberships of people in K = V - 1 clusters, soft or one-hot: columns sum to one. With draws, the
            probabilities of who decides in a cluster are averaged over the draws in which it has members. By default
            every option except the AI is one person.
        people : sequence of str, optional
            Names.

        Returns
        -------
        Deferral
            Deferral with everybody present.

        Raises
        ------
        ValueError
            If shapes disagree, or values are not probabilities.

        Warns
        -----
        UserWarning
            If a cluster has no members in any draw: its share goes to the other options.
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
        """Whether each person can decide on this day, the AI last, shape (M+1,)."""
        return (self.people_probs > 0).any(0)

    @property
    def decision(self) -> NDArray[np.integer]:
        """Option chosen for each item, the first of tied ones, V - 1 for the AI, shape (N,)."""
        return self.log_gate.argmax(1)

    @property
    def shares(self) -> NDArray[np.floating]:
        """Expected share of the items that each person decides, the AI last, shape (M+1,)."""
        return np.bincount(self.decision, minlength=len(self.people_probs)) / self.num_items @ self.people_probs

    def present(self, staff: Any) -> "Deferral":
        """Restrict deferral to the people present: each option defers to those present behind it.

        This deferral keeps everybody, so that people who return can be made present again from it. With draws of
        memberships, each draw is restricted to the people present. The probabilities of who decides in a cluster are
        then averaged over the draws in which one of the people present belongs to it.

        Parameters
        ----------
        staff : array of bool, shape (M,), or sequence of str
            Whether each person is present, or the names of those who are. The AI is always present.

        Returns
        -------
        Deferral
            Deferral with the same people; absent people decide nothing.

        Raises
        ------
        ValueError
            If nobody is present, a name is unknown, or staff is neither names nor a mask.

        Warns
        -----
        UserWarning
            If an option, such as a cluster, has nobody left behind it in any draw: its share goes to the other options.
            There is no warning if options are people themselves.
        """
        present = check_staff_of_day(staff, self.people, self.staff[:-1])
        draws = None if self.draws is None else self.draws * present
        weights = self.people_probs * np.append(present, True)
        if draws is not None:
            weights = _weights(draws) * self.people_probs.any(1, keepdims=True)
        log_gate, people_probs = _close_empty(self.log_gate, weights, self._open_options)
        return dataclasses.replace(self, log_gate=log_gate, people_probs=people_probs, draws=draws)

    def bounded(self, lower: ArrayLike, upper: ArrayLike) -> "Deferral":
        """Return a deferral within bounds on people's shares of these items; see :meth:`fit_policy`.

        Parameters
        ----------
        lower, upper : array_like, shape (M+1,)
            Bounds, the AI last.

        Returns
        -------
        Deferral
            Deferral without draws; shares meet the bounds to within a fraction of an item.

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
        """Return a deferral within bounds on the options' shares of these items; see :meth:`fit_policy`.

        Parameters
        ----------
        lower, upper : array_like, shape (V,)
            Bounds, the AI last.

        Returns
        -------
        Deferral
            Deferral with the same people behind the options, and without draws.

        Raises
        ------
        ValueError
            If the bounds are of the wrong length, or if the open options cannot meet them.

        Warns
        -----
        UserWarning
            If shares miss the bounds by more than an item.
        """
        return self.follow(self.fit_policy(lower, upper, of_options=True))

    def fit_policy(self, lower: ArrayLike, upper: ArrayLike, *, of_options: bool = False) -> Policy:
        """Fit a policy under which each person's or each option's share of these items is within bounds.

        The policy is the projection of the joint distribution of option and person onto the bounds, as the temperature
        of the gate goes to zero; see :mod:`pl2d_ppl.deferral.offsets`. Bounds on options leave the people behind them
        unchanged. The positions of equal items break their ties: shares meet the bounds on these items, and in
        expectation on others. A person whose upper bound is 0 decides nothing, no matter who else is present.

        Parameters
        ----------
        lower, upper : array_like, shape (M+1,), or (V,) of options
            Bounds on the shares, the AI last.
        of_options : bool
            Whether the bounds apply to the options' shares instead of people's shares.

        Returns
        -------
        Policy
            Policy for :meth:`follow`, on these items or others.

        Raises
        ------
        ValueError
            If the bounds are of the wrong length, or if those who are present cannot meet them.

        Warns
        -----
        UserWarning
            If shares of these items miss the bounds by more than an item; the warning says whose, and by how much.
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
        """Defer by a policy that was fitted on these items, or on others.

        Ties of the gate are broken by fixed pseudo-random numbers, the same ones as when the policy was fitted.

        Parameters
        ----------
        policy : Policy
            Policy for the same options and people. People who cannot decide in this deferral decide nothing.

        Returns
        -------
        Deferral
            Deferral with gate and people of the policy, without draws: the policy already averages over them.

        Raises
        ------
        ValueError
            If the policy has other sizes.

        Warns
        -----
        UserWarning
            If the policy leaves nobody behind an option of this deferral, unless by upper bounds of 0: the option's
            share goes to the others.
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
        is_asked = people_probs.any(1) | (offsets == -np.inf)  # otherwise bounds of 0 leave nobody: no need to warn
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
            If the key is not a typed key.
        """
        check_key(rng_key)
        with np.errstate(divide="ignore"):
            log_probs = jnp.asarray(np.log(self.people_probs))
        return np.asarray(jax.random.categorical(rng_key, log_probs[self.decision]))

    def evaluate(self, annotations: Any, y: Any) -> dict[str, Any]:
        """Compute expected coverage, accuracy and workload, as in section 5.2 of paper B.

        The accuracy on an item is the weight of the people behind its option who annotated it correctly, relative to
        those behind it who annotated it at all. If options are people, the result is that of
        :func:`~pl2d_ppl.deferral.decisions.evaluate_decisions`.

        Parameters
        ----------
        annotations : array of int, shape (N, M)
            Annotations of people, -1 where missing.
        y : array of int, shape (N,)
            Truth, -1 where unknown.

        Returns
        -------
        dict
            ``coverage``; ``accuracy``, over the items whose truth is known and which somebody behind their option
            annotated; ``judged``, the share of these items; ``workload``, the share of the items per person, a list of
            length M+1.

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
        """Draw who decides each item, and compute realised coverage, accuracy and workload.

        With missing annotations, fewer items are judged than by :meth:`evaluate`: only those that the drawn person
        annotated.

        Parameters
        ----------
        rng_key : Array
            One typed key.
        annotations, y : array of int, shape (N, M) and (N,)
            Annotations of people, and the truth, -1 where missing.

        Returns
        -------
        dict
            As :func:`~pl2d_ppl.deferral.decisions.evaluate_decisions`.

        Raises
        ------
        ValueError
            If the key is not a typed key, shapes disagree, or labels are not among the categories.
        """
        return evaluate_decisions(self.draw(rng_key), self.ai.argmax(1), self._annotated(annotations, y))

    def _annotated(self, annotations: Any, y: Any) -> Annotated:
        """Check annotations and truth."""
        classes = tuple(map(str, range(self.ai.shape[1])))
        nothing = np.zeros((self.num_items, 1))
        return Annotated(nothing, y, annotations, classes=classes, annotators=self.people, subset=True)

    @property
    def _open_options(self) -> dict[int, str]:
        """Open options with the people behind each, for messages; empty if options are people themselves."""
        behind_one = self.people_probs[:-1, :-1] > 0
        if behind_one.shape[0] == behind_one.shape[1] and not behind_one[~np.eye(len(behind_one), dtype=bool)].any():
            return {}  # an absent person needs no warning
        everybody = (*self.people, "AI")
        behind = {v: chosen_names(everybody, row > 0) for v, row in enumerate(self.people_probs) if row.any()}
        return {v: f"option {v} ({listed(names)})" for v, names in behind.items()}


def _weights(omega: NDArray[np.floating]) -> NDArray[np.floating]:
    """Probabilities of who decides per option: rows of Omega averaged over draws, zero if empty; then the AI."""
    draws = omega.reshape(-1, *omega.shape[-2:])
    totals = draws.sum(-1, keepdims=True)
    rows = draws / np.where(totals > 0, totals, 1.0)
    weights = np.zeros((draws.shape[1] + 1, draws.shape[2] + 1))
    weights[:-1, :-1] = rows.sum(0) / np.maximum((totals > 0).sum(0), 1)  # leave out draws where it is empty
    weights[-1, -1] = 1.0
    return weights


def _close_empty(
    log_gate: NDArray, weights: NDArray, names: Mapping[int, str]
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Normalise the gate and the rows of weights, and close options without people.

    A warning names the closed ones among ``names``, the options that were open.
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
