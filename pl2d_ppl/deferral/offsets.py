r"""Offsets with which the argmax of a gate meets bounds on people's shares, and who decides for each option.

A gate :math:`g_v(x)` chooses an option, and a matrix :math:`P_{vw}` gives the probability that person w decides there.
The I-projection of
:math:`q(v, w | x) = g_v(x) P_{vw}` onto bounds on the mean of :math:`q(w)` is proportional to
:math:`q(v, w | x) e^{-\nu_w}`. With the gate at temperature T, :math:`g^{1/T}`, it chooses the option

.. math:: \arg\max_v \left[\ln g_v(x) + T \ln \sum_w P_{vw} e^{-\nu_w}\right] \quad (T \to 0),

and within it the person :math:`w \sim P'_{vw} \propto P_{vw} e^{-\nu_w}`. Bounds on the mean of a gate do not bound its
argmax. At a low temperature the two agree except on a few items, which are then assigned exactly. Ties between equal
items are broken by fixed pseudo-random numbers.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.special import logsumexp
from numpy.typing import NDArray
from scipy.special import softmax

from pl2d_ppl.checks.bounds import SLACK
from pl2d_ppl.deferral.assignment import exact_offsets, nearest_counts, option_counts
from pl2d_ppl.engine.projection import LOG_FLOOR, Projection, log_floor, project

__all__ = ["GATE_FLOOR", "Policy", "argmax_policy", "project_people", "untied"]

TEMPERATURES = (1.0, 0.3, 0.1, 0.03, 0.01)  # in units of the gate's spread; at the last, means nearly equal shares
LEAST = -1e4  # ln of a probability of zero
GATE_FLOOR = -100.0  # ln of the least gate probability, about that of float32
MOST_MOVES = 1000  # items moved one by one; if more must move, many are equal, and they are divided together
MANY_EQUAL = 0.01  # largest difference between shares of the argmax and at the last temperature, if few are equal
TIE = 1e-9  # largest number added to ln gate so that no two items are equal, far above rounding in float64


class Policy(NamedTuple):
    """A rule for deciding within bounds, fitted on some items and used on others.

    Attributes
    ----------
    offsets : array of float, shape (V,)
        Offsets added to ln gate before the argmax; -inf where nobody decides.
    people_probs : array of float, shape (V, M+1)
        Probability that each person decides where an option is chosen, the AI last. A person whose upper bound is 0 has
        zeros. An option with only such people behind it has zeros too: it is closed.
    """

    offsets: NDArray[np.floating]
    people_probs: NDArray[np.floating]


def untied(log_gate: NDArray) -> NDArray[np.floating]:
    """Break the ties of ln gate by fixed pseudo-random numbers, so that offsets can divide equal items.

    Parameters
    ----------
    log_gate : array of float, shape (N, V)
        Ln of the gate.

    Returns
    -------
    array of float, shape (N, V)
        Ln of the gate plus numbers below 1e-9 that depend only on an item's position and on V.
    """
    return log_gate + TIE * np.random.default_rng(0).random(log_gate.shape)


def argmax_policy(log_gate: NDArray, people_probs: NDArray, lower: NDArray, upper: NDArray) -> Policy:
    """Find the policy under which the argmax of a gate over options meets bounds on people's shares.

    Offsets are those of the projection at a low temperature, corrected so that each option is chosen for as many items
    as the bounds need. They are zero if other weights of the people behind the options are enough. People are then
    drawn by the projection of their probabilities, given how often each option is chosen: shares meet the bounds to
    within a fraction of an item. Options are chosen by the argmax of the :func:`untied` gate plus the offsets.

    Parameters
    ----------
    log_gate : array of float, shape (N, V)
        Ln of the gate over options, -inf for all items where an option has a row of zeros in people_probs.
    people_probs : array of float, shape (V, W)
        Probability that each person decides where an option is chosen.
    lower, upper : array of float, shape (W,)
        Bounds on the shares of all items, feasible for the people whose column is not zero.

    Returns
    -------
    Policy
        Offsets and people_probs, which keeps the zeros of the argument.
    """
    log_gate = untied(log_gate)
    support = people_probs > 0
    is_open, upper = support.any(1), np.where(support.any(0), upper, 0.0)
    offsets = np.where(is_open, 0.0, -np.inf)
    counts = option_counts(log_gate, offsets)
    _, excess = nearest_counts(counts, support, lower, upper, may_move=False)
    if excess > SLACK:  # otherwise new weights of the people of each option are enough
        with np.errstate(divide="ignore"):
            log_people = None if np.array_equal(people_probs, np.diag(is_open)) else np.log(people_probs)
        annealed, temperature = _anneal(*_to_jax(log_gate, log_people, lower, upper))
        start = np.asarray(annealed, float)[is_open]
        offsets[is_open] = _corrected(log_gate[:, is_open], start, float(temperature), support[is_open], lower, upper)
        counts = option_counts(log_gate, offsets)
    return Policy(offsets, _balanced(people_probs, counts, lower, upper))


def _to_jax(*arrays: NDArray | None) -> tuple[Array | None, ...]:
    return jax.tree.map(lambda array: jnp.asarray(array, jnp.result_type(float)), arrays)


def _annealed(log_gate: Array, log_people: Array | None, lower: Array, upper: Array) -> tuple[Array, Array]:
    """Return offsets at the lowest temperature, and that temperature; each fit starts from the last warmer one."""
    log_gate = log_floor(jnp.maximum(log_gate, LEAST), floor=GATE_FLOOR)  # offsets are finite, also of who is absent
    spread = jnp.std(log_gate - log_gate.mean(1, keepdims=True) - log_gate.mean(0) + log_gate.mean())
    whole = jnp.std(log_gate, where=log_gate > GATE_FLOOR / 2)  # all spread if items are equal; multipliers reach it
    units = jnp.maximum(jnp.maximum(spread, whole / 100), 1e-4) * jnp.array(TEMPERATURES, log_gate.dtype)

    def cool(nu: Array, units: tuple[Array, Array]) -> tuple[Array, None]:
        before, unit = units
        # Multipliers between options grow as 1/T; those between people within an option do not.
        start = nu + (before / unit - 1) * _price_of_options(nu, log_people)
        sharp = jax.nn.log_softmax(log_gate / unit, -1)
        return project_people(sharp, log_people, lower, upper, start=start, tolerance=1e-4).multipliers, None

    start = jnp.zeros(lower.size, log_gate.dtype)
    nu, _ = jax.lax.scan(cool, start, (jnp.concatenate([units[:1], units[:-1]]), units))
    return units[-1] * _log_totals(nu, log_people), units[-1]


_anneal = jax.jit(_annealed)


def project_people(log_gate: Array, log_people: Array | None, lower: Array, upper: Array, **options: Any) -> Projection:
    """Project q(v, w | x) onto bounds on the mean of q(w); this needs only the marginals of w.

    Parameters
    ----------
    log_gate : Array, shape (N, V)
        Ln of the gate over options, finite.
    log_people : Array, shape (V, W), optional
        Ln of the probability that a person decides where an option is chosen; by default every option is one person, W
        = V.
    lower, upper : Array, shape (W,)
        Bounds; zero for people who are behind no option.
    **options
        Options of :func:`~pl2d_ppl.engine.projection.project`.

    Returns
    -------
    Projection
        Multipliers of people.
    """
    marginal = log_gate
    if log_people is not None:  # person by person: (N, V, W) numbers would not fit
        marginal = jax.lax.map(lambda column: logsumexp(log_gate + column, -1), log_people.T).T
    return project(marginal, lower, upper, **options)


def _log_totals(nu: Array, log_people: Array | None) -> Array:
    """Ln sum_w P_vw e^-nu_w."""
    return -nu if log_people is None else logsumexp(log_people - nu, 1)


def _price_of_options(nu: Array, log_people: Array | None) -> Array:
    """The part of people's multipliers that belongs to their options: the mean over options where they decide."""
    if log_people is None:
        return nu
    totals = _log_totals(nu, log_people)
    totals = jnp.where(jnp.isfinite(totals), totals, 0.0)
    probs = jnp.exp(log_people - nu - totals[:, None])
    return -(totals @ probs) / jnp.maximum(probs.sum(0), jnp.finfo(nu.dtype).tiny)


def _corrected(
    log_gate: NDArray, offsets: NDArray, temperature: float, support: NDArray, lower: NDArray, upper: NDArray
) -> NDArray:
    """Correct offsets for the items by which shares at a temperature differ from those of the argmax."""
    found = option_counts(log_gate, offsets)
    counts, _ = nearest_counts(_rounded(log_gate, offsets, temperature, found), support, lower, upper)
    if (counts == found).all():
        return offsets
    exact = offsets
    if _moves(found, counts) > MOST_MOVES:
        exact = _magnified(log_gate, offsets, temperature, counts)
    if _moves(option_counts(log_gate, exact), counts) <= MOST_MOVES:
        exact = exact_offsets(log_gate, exact, counts)
    excess = [
        nearest_counts(option_counts(log_gate, o), support, lower, upper, may_move=False)[1] for o in (exact, offsets)
    ]
    return exact if excess[0] <= excess[1] else offsets


def _rounded(log_gate: NDArray, offsets: NDArray, temperature: float, found: NDArray) -> NDArray[np.integer]:
    """Counts of the argmax; if it gives many equal items to one option, the counts at the temperature instead."""
    counts = softmax((log_gate + offsets) / temperature, axis=1).sum(0)
    if np.abs(counts - found).max() <= 1 + MANY_EQUAL * len(log_gate):
        return found
    return np.diff(np.rint(counts.cumsum()).astype(int), prepend=0)


def _moves(found: NDArray, counts: NDArray) -> int:
    return int(np.abs(counts - found).sum()) // 2


def _magnified(log_gate: NDArray, offsets: NDArray, temperature: float, counts: NDArray) -> NDArray[np.floating]:
    """Find offsets with which options get about the given counts of items, many of which only tie-breaking separates.

    The remaining differences are far below the precision of one annealing. Each annealing therefore magnifies them to
    order one, at a tenth of the temperature of the last.
    """
    shares = counts / counts.sum()
    while temperature > TIE / 10:
        lens = temperature / 10
        scores = (log_gate + offsets) / lens
        found, coldest = _anneal(*_to_jax(scores - scores.max(1, keepdims=True), None, shares, shares))
        offsets, temperature = offsets + lens * np.asarray(found, float), lens * float(coldest)
    return offsets


def _balanced(people_probs: NDArray, counts: NDArray, lower: NDArray, upper: NDArray) -> NDArray[np.floating]:
    """Project people_probs so that shares meet the bounds, given how many items choose each option.

    People whose upper bound is 0 get exact zeros, so that they get nothing even where others are absent. The AI, alone
    in its option, stays.
    """
    _, excess = nearest_counts(counts, people_probs > 0, lower, upper, may_move=False)
    may_decide = np.append(upper[:-1] > 0, True)
    with np.errstate(divide="ignore"):
        log_people = np.log(people_probs * may_decide)
    arguments = (log_people, np.maximum(lower - excess, 0.0), np.minimum(upper + excess, 1.0), counts)
    nu = np.asarray(_multipliers(*_to_jax(*arguments)), float)
    tilted = log_people - nu
    largest = tilted.max(1, keepdims=True)
    weights = np.exp(tilted - np.where(np.isfinite(largest), largest, 0.0))
    return weights / np.maximum(weights.sum(1, keepdims=True), 1.0)  # a sum is at least 1, or 0 for a closed option


@jax.jit
def _multipliers(log_people: Array, lower: Array, upper: Array, counts: Array) -> Array:
    floored = jnp.maximum(log_people, LOG_FLOOR)  # first, for rows of options that are closed
    return project(log_floor(floored), lower, upper, weights=counts, max_steps=1000).multipliers
