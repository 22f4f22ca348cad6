"""Checks of a deferral: its parts against each other, and bounds against the people present."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pl2d_ppl.checks.bounds import SLACK, check_bounds
from pl2d_ppl.checks.names import listed
from pl2d_ppl.checks.probabilities import TOLERANCE
from pl2d_ppl.checks.warn import warn

__all__ = [
    "check_bounds_of_day",
    "check_draws",
    "check_parts",
    "check_staff_of_day",
    "chosen_names",
    "warn_of_missed_bounds",
]

MANY = 20  # names in a message that lists what to pass
PRECISION = 1e-4  # of shares, since people within an option are weighted in float32


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


def check_draws(draws: Any, shape: tuple[int, int]) -> NDArray[np.floating]:
    """Check draws of memberships against the shape of people_probs."""
    draws = np.asarray(draws, float)
    expected = (shape[0] - 1, shape[1] - 1)
    if draws.ndim != 3 or draws.shape[1:] != expected or not len(draws) or not (draws >= 0).all():
        raise ValueError(
            f"Expected draws of shape {('S', *expected)}, not negative, one row an option but the AI and one column a "
            f"person, found shape {draws.shape}. Make deferrals of draws with Deferral.of."
        )
    return draws


def check_staff_of_day(staff: Any, people: Sequence[str], is_able: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Check names or a mask of the people present against those who are able to decide; return the mask."""
    mask = np.asarray(staff)
    present = mask if mask.dtype == bool else np.isin(people, _check_names(staff, people))
    if present.shape != (len(people),):
        raise ValueError(
            f"Expected whether each of {len(people)} people is present, of shape {(len(people),)}, found "
            f"{present.shape}. The AI always is."
        )
    if not (present & is_able).any():
        raise ValueError(
            f"Expected somebody present, of {listed(chosen_names(people, is_able))}, found nobody. Without people the "
            "AI decides."
        )
    return present


def _check_names(staff: Any, people: Sequence[str]) -> list[str]:
    if isinstance(staff, str) or not np.iterable(staff):
        raise ValueError(f"Expected names, or a boolean mask, found {staff!r}. Pass names as a list.")
    names = list(staff)
    other = [name for name in names if not isinstance(name, str)]
    if other:
        raise ValueError(
            f"Expected names, or a boolean mask of {len(people)}, found {other[0]!r}, a {type(other[0]).__name__}. "
            f"Pass names as strings, among {listed(people, MANY)}, or a mask of True and False."
        )
    unknown = [name for name in names if name not in people]
    if unknown:
        raise ValueError(f"Expected names among {listed(people, MANY)}, found {listed(unknown)}. Mend or drop them.")
    return names


def check_bounds_of_day(
    lower: ArrayLike, upper: ArrayLike, names: Sequence[str], is_able: NDArray[np.bool_]
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Check bounds on shares against who can decide: the named people or options, then the AI."""
    low, high = np.asarray(lower, float), np.asarray(upper, float)
    for bound, name in ((low, "lower"), (high, "upper")):
        if bound.shape != is_able.shape:
            raise ValueError(
                f"Expected {len(is_able)} {name} bounds, one for each of {listed(names, MANY)}, then the AI, found "
                f"shape {bound.shape}."
            )
    everybody = (*names, "AI")
    _check_crossed(low, high, everybody)
    is_asked = (low > 0) & ~is_able
    if is_asked.any():
        raise ValueError(
            f"Expected lower bounds of 0 for those who are absent, found {low[is_asked].tolist()} for "
            f"{listed(chosen_names(everybody, is_asked), MANY)}. Lower them."
        )
    if low.sum() > 1 + SLACK:
        raise ValueError(
            f"Expected lower bounds that sum to at most 1, found {low.sum():.6g}: "
            f"{_with_names(low[low > 0], chosen_names(everybody, low > 0))}. Lower them."
        )
    most = high[is_able].sum()
    if most < 1 - SLACK:
        raise ValueError(
            f"Expected upper bounds of those who are present that sum to at least 1, found {most:.6g} over "
            f"{listed(chosen_names(everybody, is_able), MANY)}: somebody must decide every item. Raise them."
        )
    check_bounds(low, high)
    return low, high


def _check_crossed(low: NDArray, high: NDArray, names: Sequence[str]) -> None:
    is_crossed = low > high
    if is_crossed.any():
        who = chosen_names(names, is_crossed)
        raise ValueError(
            f"Expected lower <= upper for everybody, found lower {_with_names(low[is_crossed], who)}, above upper "
            f"{_with_names(high[is_crossed], who)}. Lower the one or raise the other."
        )


def warn_of_missed_bounds(
    shares: NDArray, lower: NDArray, upper: NDArray, names: Sequence[str], num_items: int
) -> None:
    """Warn if shares, of the named people or options and last of the AI, miss their bounds by more than an item."""
    missed = np.maximum(lower - shares, shares - upper)
    is_missed = missed > 1 / num_items + PRECISION
    if is_missed.any():
        found = _with_names(shares[is_missed], chosen_names((*names, "AI"), is_missed))
        warn(
            f"Expected shares of {num_items} items within their bounds, found {found}, which miss their bounds by up "
            f"to {missed.max():.3g}, more than an item. Loosen the bounds, or fit on more items."
        )


def _with_names(values: NDArray, names: Sequence[str], limit: int = 5) -> str:
    """Values of a few people, for a message."""
    found = [f"{value:.6g} for {name!r}" for name, value in zip(names, values, strict=True)]
    more = f" and {len(found) - limit} more" if len(found) > limit else ""
    return ", ".join(found[:limit]) + more


def chosen_names(names: Sequence[str], which: NDArray[np.bool_]) -> list[str]:
    """Return the names of the chosen ones."""
    return [name for name, chosen in zip(names, which, strict=True) if chosen]
