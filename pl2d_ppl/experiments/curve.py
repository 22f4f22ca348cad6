"""Coverage-accuracy curves: decisions at several coverages, and their accuracy."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from numpy.typing import ArrayLike

from pl2d_ppl.checks.names import listed
from pl2d_ppl.data import Annotated
from pl2d_ppl.deferral.decisions import expert_accuracy
from pl2d_ppl.deferral.deferral import Deferral
from pl2d_ppl.deferral.metrics import area_under_curve, expected_calibration_error
from pl2d_ppl.experiments.learned import Learned
from pl2d_ppl.experiments.methods import GATE_SCHEDULE, GuideName, Task, coverage_bounds, learn
from pl2d_ppl.inference.schedule import Schedule
from pl2d_ppl.people.crowd import CROWD_SCHEDULE

__all__ = ["coverage_curve", "evaluate_curve"]


def coverage_curve(
    rng_key: jax.Array,
    train: Annotated,
    test: Annotated,
    coverages: Sequence[float],
    *,
    method: str = "prob-l2d",
    guide: GuideName = "exact",
    schedule: Schedule = GATE_SCHEDULE,
    hidden: tuple[int, ...] = (128, 128),
    window: int | None = None,
    on_point: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Train a method, together with the AI, at several coverages, and evaluate it on the test part.

    Parameters
    ----------
    rng_key : Array
        Key of the networks and the shuffles, the same at every coverage.
    train, test : Annotated
        The data, standardised; the test part has annotations to evaluate with.
    coverages : sequence of float
        Targets.
    method, guide : str
        Arguments of :func:`~pl2d_ppl.experiments.methods.learn`.
    schedule, hidden, window : Schedule, tuple of int, int
        Attributes of :class:`~pl2d_ppl.experiments.methods.Task`.
    on_point : callable
        Called once for every coverage, for a progress bar.

    Returns
    -------
    dict
        The result of :func:`evaluate_curve`, and ``seconds``.

    Raises
    ------
    ValueError
        If a name is unknown, a coverage is not between 0 and 1, or the test part has no annotations.
    """
    _check_curve(test, coverages)
    start = time.perf_counter()
    points = [on_point] * len(coverages)
    crowd = CROWD_SCHEDULE.replace(steps=schedule.steps)
    task = Task(train, tuple(coverages), schedule, hidden, window, guide=guide, crowd_schedule=crowd)
    learned = learn(method, rng_key, task, on_fit=lambda: points.pop()())
    row = evaluate_curve(learned, train.x, test, coverages)
    for point in points:  # for a method with one fit, or one batch of fits, for all coverages
        point()
    return {**row, "seconds": time.perf_counter() - start}


def evaluate_curve(
    learned: Learned,
    x: ArrayLike,
    test: Annotated,
    coverages: Sequence[float],
    *,
    staff: Sequence[str] | None = None,
    rng_key: jax.Array | None = None,
) -> dict[str, Any]:
    """Evaluate a trained method at several coverages, by argmax decisions.

    Parameters
    ----------
    learned : Learned
        The method.
    x : array, shape (N, ...)
        Inputs on which offsets are fitted, without labels. Use other inputs than those of training if possible, since
        gates are overconfident on their training inputs.
    test : Annotated
        Items to decide, with annotations of everybody who may be asked.
    coverages : sequence of float
        Targets.
    staff : sequence of str, optional
        Names of the people present; by default all people that the method knows. If it knows none of those present, the
        AI decides. People who are present and may be asked must be among the people of the test part.
    rng_key : Array, optional
        If given, ``accuracy_drawn`` is the accuracy of people who are actually drawn, with offsets.

    Returns
    -------
    dict
        Lists with one entry per target: ``coverage``, ``accuracy``, ``judged``, ``workload`` of plain argmax decisions,
        and the same with suffix ``_offset`` for decisions with offsets fitted on x. Also ``area``, ``area_offset``,
        ``ai_accuracy`` and ``ai_calibration_error`` (means over targets), ``expert_accuracy``. A method that is not
        steered has one plain point for all targets.

    Raises
    ------
    ValueError
        If a coverage is not between 0 and 1, the test part has no annotations, or it lacks a person who is present.
    """
    _check_curve(test, coverages)
    fitted, days = ([_on_day(d, staff) for d in learned.defer(items)] for items in (x, test.x))
    row: dict[str, list] = {}
    ai_accuracy, calibration = [], []
    for i, coverage in enumerate(coverages):
        index = i if learned.steered else 0
        plain, said = days[index], _annotations(days[index], test)
        bounds = coverage_bounds(coverage, len(plain.people))
        bounded = plain.follow(fitted[index].fit_policy(*bounds)) if plain.staff[:-1].any() else plain
        for suffix, day in (("", plain), ("_offset", bounded)):
            for name, value in day.evaluate(said, test.y).items():
                row.setdefault(name + suffix, []).append(value)
        if rng_key is not None:
            drawn = bounded.evaluate_drawn(jax.random.fold_in(rng_key, i), said, test.y)
            row.setdefault("accuracy_drawn", []).append(drawn["accuracy"])
        known = test.y >= 0
        is_right = (plain.ai.argmax(-1) == test.y)[known]
        ai_accuracy.append(float(is_right.mean()))
        calibration.append(expected_calibration_error(plain.ai[known].max(-1), is_right))
    alone = expert_accuracy(test)
    points = len(coverages) if learned.steered else 1
    alone_ai = float(np.mean(ai_accuracy))
    able = [a for a, name in zip(alone, test.annotators, strict=True) if a is not None and _may(name, staff)]
    best = max(able, default=alone_ai)
    # If nobody can be deferred to, there is no expert at coverage 0 to join the one point to.
    extremes = (best if days[0].staff[:-1].any() else alone_ai), alone_ai
    areas = {
        f"area{s}": _area(row[f"coverage{s}"][:n], row[f"accuracy{s}"][:n], *extremes)
        for s, n in (("", points), ("_offset", len(coverages)))
    }
    ai = {"ai_accuracy": alone_ai, "ai_calibration_error": float(np.mean(calibration))}
    return {**row, **areas, **ai, "expert_accuracy": alone}


def _check_curve(test: Annotated, coverages: Sequence[float]) -> None:
    if not len(coverages):
        raise ValueError("Expected at least one coverage, found none.")
    for coverage in coverages:
        coverage_bounds(coverage, 1)
    if all(accuracy is None for accuracy in expert_accuracy(test)):
        raise ValueError(
            "Expected a test part with annotations of items whose truth is known, found none: deferral could not be "
            "judged. Hold out other items, or fewer for training."
        )


def _may(name: str, staff: Sequence[str] | None) -> bool:
    return staff is None or name in staff


def _on_day(deferral: Deferral, staff: Sequence[str] | None) -> Deferral:
    """Restrict deferral to those of the staff that the method knows."""
    if staff is None:
        return deferral
    known = [name for name in deferral.people if name in staff]
    return deferral.present(known) if known else _ai_alone(deferral)


def _ai_alone(deferral: Deferral) -> Deferral:
    log_gate, people_probs = np.full_like(deferral.log_gate, -np.inf), np.zeros_like(deferral.people_probs)
    log_gate[:, -1], people_probs[-1, -1] = 0.0, 1.0
    return dataclasses.replace(deferral, log_gate=log_gate, people_probs=people_probs)


def _annotations(deferral: Deferral, test: Annotated) -> np.ndarray:
    """Annotations of the people of a deferral, in their order; annotations of absent people may be unknown."""
    columns = dict(zip(test.annotators, test.annotations.T, strict=True))
    present = [name for name, there in zip(deferral.people, deferral.staff[:-1], strict=True) if there]
    unknown = [name for name in present if name not in columns]
    if unknown:
        raise ValueError(
            f"Expected a test part with annotations of everybody who may be asked, found none of {listed(unknown)}. "
            "Pass staff= without them, or test items that they annotated."
        )
    nothing = np.full(test.num_items, -1)
    return np.stack([columns.get(name, nothing) for name in deferral.people], axis=1)


def _area(coverage: list[float], accuracy: list[float], expert_accuracy: float, ai_accuracy: float) -> float:
    """Area over the points that can be judged; NaN if there are none."""
    points = np.array([coverage, accuracy])
    points = points[:, np.isfinite(points[1])]
    return area_under_curve(points[0], points[1], expert_accuracy, ai_accuracy) if points.size else float("nan")
