"""Checks of a deferral: its parts against each other, and bounds against who is there."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pl2d_ppl.people import TOLERANCE, listed
from pl2d_ppl.projection import SLACK, check_bounds

__all__ = ["MANY", "check_bounds_of_day", "check_parts", "check_probs", "chosen_names"]

MANY = 20  # names in a message, where they say what to pass


def check_probs(name: str, probs: Any) -> NDArray[np.floating]:
    """Check probabilities, a row an item."""
    probs = np.asarray(probs, float)
    if probs.ndim != 2 or 0 in probs.shape:
        raise ValueError(f"Expected {name} of shape (N, ...), one row an item, found {probs.shape}.")
    bad = ~(np.abs(probs.sum(1) - 1) <= TOLERANCE) | ~(probs >= 0).all(1)  # NaN too
    if bad.any():
        item = int(bad.argmax())
        raise ValueError(
            f"Expected {name} as probabilities that sum to one in every row, found {probs[item].round(4).tolist()} for "
            f"item {item}. Pass probabilities, not logits."
        )
    return probs


def check_parts(log_gate: NDArray, ai: NDArray, people_probs: NDArray) -> None:
    """Check the parts of a deferral against each other."""
    num_options = len(people_probs)
    if log_gate.shape[1] != num_options or len(ai) != len(log_gate):
        raise ValueError(
            f"Expected log_gate of shape ({len(ai)}, {num_options}), one row an item of ai and one column a row of "
            f"people_probs, found {log_gate.shape}."
        )
    is_open = people_probs.any(1)
    if not np.isfinite(log_gate[:, is_open]).all() or not (log_gate[:, ~is_open] == -np.inf).all():
        raise ValueError(
            "Expected log_gate that is finite where an option is open, and -inf on all items where its row of "
            "people_probs is zero, found otherwise. Make deferrals of probabilities with Deferral.of."
        )
    if not (people_probs >= 0).all() or not np.allclose(people_probs.sum(1)[is_open], 1.0, atol=TOLERANCE):
        raise ValueError(f"Expected people_probs with rows that sum to one, found {people_probs.sum(1).tolist()}.")
    alone = np.eye(people_probs.shape[1])[-1]
    if not np.array_equal(people_probs[-1], alone * is_open[-1]) or people_probs[:-1, -1].any():
        raise ValueError(
            f"Expected the AI alone in the last row and column of people_probs, found row {people_probs[-1].tolist()} "
            f"and column {people_probs[:, -1].tolist()}."
        )


def check_bounds_of_day(
    lower: ArrayLike, upper: ArrayLike, names: Sequence[str], is_able: NDArray[np.bool_]
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Check bounds on shares against who can decide: named ones, and the AI last."""
    low, high = np.asarray(lower, float), np.asarray(upper, float)
    for bound, name in ((low, "lower"), (high, "upper")):
        if bound.shape != is_able.shape:
            raise ValueError(
                f"Expected {len(is_able)} {name} bounds, one for each of {listed(names, MANY)}, then the AI, found "
                f"shape {bound.shape}."
            )
    check_bounds(low, high)
    everybody = (*names, "AI")
    is_asked = (low > 0) & ~is_able
    if is_asked.any():
        raise ValueError(
            f"Expected lower bounds of 0 for those who are absent, found {low[is_asked].tolist()} for "
            f"{listed(chosen_names(everybody, is_asked), MANY)}. Lower them."
        )
    most = high[is_able].sum()
    if most < 1 - SLACK:
        raise ValueError(
            f"Expected upper bounds of those who are present that sum to at least 1, found {most:.6g} over "
            f"{listed(chosen_names(everybody, is_able), MANY)}: somebody must decide every item. Raise them."
        )
    return low, high


def chosen_names(names: Sequence[str], which: NDArray[np.bool_]) -> list[str]:
    """Return the names of those who are chosen."""
    return [name for name, chosen in zip(names, which, strict=True) if chosen]
