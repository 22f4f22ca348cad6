"""Counts of items per option that meet bounds, and offsets with which an argmax gives exactly these counts."""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array
from scipy.sparse.csgraph import csgraph_from_dense, dijkstra, floyd_warshall

__all__ = ["exact_offsets", "nearest_counts", "option_counts"]

CLEARANCE = 1e-6  # gap by which an option that may have no item stays below the others


def option_counts(log_gate: NDArray, offsets: NDArray) -> NDArray[np.integer]:
    """Count the items that choose each option.

    Parameters
    ----------
    log_gate : array of float, shape (N, V)
        Ln of the gate; pass it through :func:`~pl2d_ppl.deferral.offsets.untied` to follow a policy.
    offsets : array of float, shape (V,)
        Added to it.

    Returns
    -------
    array of int, shape (V,)
        Numbers of items.
    """
    return np.bincount((log_gate + offsets).argmax(1), minlength=len(offsets))


def nearest_counts(
    counts: NDArray, support: NDArray, lower: NDArray, upper: NDArray, *, may_move: bool = True
) -> tuple[NDArray[np.integer], float]:
    """Find the fewest moves of items between options that let people's shares meet their bounds best.

    Parameters
    ----------
    counts : array of int, shape (V,)
        Number of items that choose each option; N in all.
    support : array of bool, shape (V, W)
        Whether a person may decide where an option is chosen.
    lower, upper : array of float, shape (W,)
        Bounds on the shares.
    may_move : bool
        Whether items may move; otherwise only the excess is found.

    Returns
    -------
    counts : array of int, shape (V,)
        Number of items after the moves.
    excess : float
        Share by which people must then miss their bounds: less than 1/N if the bounds are feasible.
    """
    num_items, num_options, num_people = counts.sum(), *support.shape
    option, person = np.nonzero(support)  # items flow from options to people
    leaves, arrives = (np.arange(n)[:, None] == ends for n, ends in ((num_options, option), (num_people, person)))
    sizes = (num_options, num_options, len(option), 1)  # unknowns: items gained, items lost, flow, excess in items
    most_moves = num_items if may_move else 0
    none, ones, eye = np.zeros((num_people, 2 * num_options)), np.ones((num_people, 1)), np.eye(num_options)
    gained_is_lost = np.repeat([1.0, -1.0, 0.0, 0.0], sizes)[None]
    constraints = [
        LinearConstraint(np.hstack([-eye, eye, leaves, np.zeros((num_options, 1))]), counts, counts),
        LinearConstraint(gained_is_lost, 0.0, 0.0),
        LinearConstraint(np.hstack([none, arrives, ones]), num_items * lower, np.inf),
        LinearConstraint(np.hstack([none, arrives, -ones]), -np.inf, num_items * upper),
    ]
    solution = milp(
        np.repeat([1.0, 1.0, 0.0, 10.0 * num_options], sizes),  # an item of excess outweighs the moves against it
        integrality=np.repeat([1, 1, 0, 0], sizes),
        bounds=Bounds(0.0, np.repeat([most_moves, most_moves, np.inf, np.inf], sizes)),
        constraints=constraints,
    )
    gained, lost = np.rint(solution.x[: 2 * num_options]).astype(int).reshape(2, num_options)
    return counts + gained - lost, float(solution.x[-1]) / num_items


def exact_offsets(log_gate: NDArray, offsets: NDArray, counts: NDArray) -> NDArray[np.floating]:
    """Find offsets with which the argmax chooses every option a given number of times.

    The assignment of items to options maximises the sum of ln gate; the offsets are its dual. Starting from the argmax,
    items move one by one along shortest augmenting paths from options with too many to options with too few. Several
    offsets give this assignment; a central one is returned, so that no two options tie.

    Parameters
    ----------
    log_gate : array of float, shape (N, V)
        Ln of the gate, finite.
    offsets : array of float, shape (V,)
        Offsets to start from; fewer items to move take less time.
    counts : array of int, shape (V,)
        Number of items to choose each option, N in all.

    Returns
    -------
    array of float, shape (V,)
        The offsets. The argmax cannot separate equal items, and may then miss the counts: see
        :func:`~pl2d_ppl.deferral.offsets.untied`.
    """
    decision, exact = (log_gate + offsets).argmax(1), offsets.copy()
    while (surplus := np.bincount(decision, minlength=len(counts)) - counts).any():
        gap, first = _gaps(log_gate + exact, decision)
        sources = np.flatnonzero(surplus > 0)
        distance, before, _ = dijkstra(_graph(gap), indices=sources, return_predecessors=True, min_only=True)
        option = int(np.where(surplus < 0, distance, np.inf).argmin())
        exact += np.minimum(distance, distance[option])  # now every option on the path ties with the next
        while before[option] >= 0:
            decision[first[before[option], option]] = option
            option = before[option]
    return _central(log_gate, decision, exact, counts > 0)


def _gaps(scores: NDArray, decision: NDArray) -> tuple[NDArray, NDArray]:
    """Find by how much an option may gain on another before the other's first item changes over; and that item."""
    num_options = scores.shape[1]
    gap, first = np.full((num_options, num_options), np.inf), np.zeros((num_options, num_options), int)
    for option in np.unique(decision):
        items = np.flatnonzero(decision == option)
        margin = scores[items, option, None] - scores[items]
        nearest = margin.argmin(0)
        gap[option], first[option] = np.maximum(margin.min(0), 0.0), items[nearest]
    return gap, first


def _graph(gap: NDArray) -> csr_array:
    """Graph of all finite gaps; SciPy would drop gaps of zero if given the array itself."""
    return csgraph_from_dense(gap, null_value=np.inf)


def _central(log_gate: NDArray, decision: NDArray, offsets: NDArray, is_chosen: NDArray) -> NDArray:
    """Return offsets that keep the decisions and stay away from ties: the mean over extreme offsets."""
    gap, _ = _gaps(log_gate + offsets, decision)
    paths = floyd_warshall(_graph(gap[np.ix_(is_chosen, is_chosen)]))  # every row is an extreme shift
    shift = np.zeros(len(offsets))
    shift[is_chosen] = paths.mean(0) - paths.mean()
    limit = (shift[is_chosen, None] + gap[np.ix_(is_chosen, ~is_chosen)]).min(0)
    shift[~is_chosen] = np.minimum(limit - CLEARANCE, 0.0)
    return offsets + shift
