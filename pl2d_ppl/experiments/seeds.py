"""Coverage-accuracy curves over seeds: data preparation, and one row of a report per seed."""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from pl2d_ppl.data import Annotated, split, standardise
from pl2d_ppl.data.missing import drop_annotations
from pl2d_ppl.experiments.curve import coverage_curve
from pl2d_ppl.experiments.reports import add_seed, resume_report
from pl2d_ppl.simulate import simulate_people

__all__ = ["SIMULATED_EXPERTS", "prepare_split", "run_seeds"]

logger = logging.getLogger("pl2d_ppl")

SIMULATED_EXPERTS = 2


def prepare_split(
    rng_key: jax.Array,
    train: Annotated,
    test: Annotated | None,
    *,
    seed: int,
    test_share: float = 0.33,
    missing: float = 0.0,
    num_simulated: int = SIMULATED_EXPERTS,
) -> tuple[Annotated, Annotated]:
    """Prepare the training and test parts of one seed.

    If there are no annotations, superclass experts are simulated on both parts (paper A: right on their superclasses,
    wrong half the time elsewhere). If the test part has no annotations, a held-out part of the training items replaces
    it, split by group if there are groups. Annotations are dropped only from the training part, and features are
    standardised with its statistics.

    Parameters
    ----------
    rng_key : Array
        Key for simulated experts and dropped annotations.
    train, test : Annotated
        The data, and its test part if it has one.
    seed : int
        Seed of the split.
    test_share : float
        Share of the groups, or items, to hold out.
    missing : float
        Share of the annotations to drop.
    num_simulated : int
        Number of simulated experts.

    Returns
    -------
    tuple of Annotated
        Training and test parts.

    Raises
    ------
    ValueError
        If there are no annotations, and no coarse labels to simulate them from.
    """
    expert_key, missing_key = jax.random.split(rng_key)
    if train.num_experts == 0:
        train, test = _simulate(expert_key, train, test, num_simulated)
    if test is not None and (test.annotations < 0).all():
        logger.warning("The test part has no annotations: a held-out part of the training items replaces it.")
        test = None
    if test is None:
        train, test = split(train, test_share, seed)
    if missing:
        train = train.replace_annotations(drop_annotations(missing_key, train.annotations, missing), train.annotators)
    if train.x.ndim == 2:
        train, test = standardise(train, test)
    return train, test


def _simulate(
    key: jax.Array, train: Annotated, test: Annotated | None, num_experts: int
) -> tuple[Annotated, Annotated | None]:
    if train.coarse is None:
        raise ValueError(
            "Expected annotations of at least one expert, found none, and no coarse labels to simulate experts from."
        )
    known = [own.tolist() for own in np.array_split(np.unique(train.coarse), num_experts)]
    logger.warning("There are no annotations: %d superclass experts are simulated.", num_experts)
    annotate = partial(simulate_people, kind="superclass", expertise=known)
    train_key, test_key = jax.random.split(key)
    return annotate(train_key, train), None if test is None else annotate(test_key, test)


def run_seeds(
    prepare: Callable[[jax.Array, int], tuple[Annotated, Annotated]],
    seeds: Sequence[int],
    coverages: Sequence[float],
    settings: Mapping[str, Any],
    *,
    path: Path | None = None,
    on_point: Callable[[], None] = lambda: None,
    **curve: Any,
) -> dict[str, Any]:
    """Run a method on several seeds, and collect a report.

    Parameters
    ----------
    prepare : callable
        Function from a key and a seed to training and test parts.
    seeds : sequence of int
        The seeds.
    coverages : sequence of float
        Targets.
    settings : mapping
        Settings that identify the run; they are part of the report.
    path : Path, optional
        Where the report is kept: seeds in it are not run again, and every other seed is added when it is finished.
    on_point : callable
        Called after every coverage.
    **curve
        Arguments of :func:`~pl2d_ppl.experiments.curve.coverage_curve`.

    Returns
    -------
    dict
        ``settings``, ``coverages``, ``seeds``; with one row per seed and one column per target ``coverage``,
        ``accuracy``, ``judged``, ``workload`` and the same with suffix ``_offset``; with one value per seed ``area``,
        ``area_offset``, ``ai_accuracy``, ``expert_accuracy`` (a list), ``seconds``; ``versions``. A report on disk has
        all its seeds.

    Raises
    ------
    ValueError
        If there is a report with other settings.
    """
    settings = {**settings, "coverages": list(coverages)}
    report = resume_report(path, settings, {**settings, "seeds": []})
    for seed in seeds:
        if seed in report["seeds"]:
            for _ in coverages:
                on_point()
            continue
        data_key, fit_key = jax.random.split(jax.random.key(seed))
        train, test = prepare(data_key, seed)
        row = coverage_curve(fit_key, train, test, coverages, on_point=on_point, **curve)
        report = add_seed(path, report, settings, seed, row, annotators=list(train.annotators))
    return report
