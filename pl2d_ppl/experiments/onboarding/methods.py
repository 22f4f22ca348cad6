"""Run every method on a workplace: train on the staff, add newcomers, evaluate on the day."""

from collections.abc import Callable
from typing import Any

import jax

from pl2d_ppl.experiments.curve import evaluate_curve
from pl2d_ppl.experiments.learned import Learned
from pl2d_ppl.experiments.methods import Task, learn
from pl2d_ppl.experiments.onboarding.options import OnboardingOptions
from pl2d_ppl.experiments.onboarding.workplace import Workplace

__all__ = ["learn_and_join", "onboard_methods"]


def onboard_methods(
    rng_key: jax.Array,
    place: Workplace,
    options: OnboardingOptions,
    *,
    on_method: Callable[[], None] = lambda: None,
) -> dict[str, dict[str, Any]]:
    """Train every method on the staff's annotations, add newcomers without training, and evaluate on the day.

    Parameters
    ----------
    rng_key : Array
        A typed key.
    place : Workplace
        From :func:`~pl2d_ppl.experiments.onboarding.workplace.open_workplace`.
    options : OnboardingOptions
        Settings.
    on_method : callable
        Called after every method, for a progress bar.

    Returns
    -------
    dict of str to dict
        For every method the result of :func:`~pl2d_ppl.experiments.curve.evaluate_curve`.
    """
    rows = {}
    for name in options.methods:
        learned = learn_and_join(name, rng_key, place, options)
        rows[name] = evaluate_curve(
            learned, place.unlabelled, place.test, options.coverages, staff=place.present, rng_key=rng_key
        )
        on_method()
    return rows


def learn_and_join(name: str, rng_key: jax.Array, place: Workplace, options: OnboardingOptions) -> Learned:
    """Train a method on the staff's annotations, and add newcomers without training.

    Parameters
    ----------
    name : str
        The method.
    rng_key : Array
        A typed key; use the same key for all methods, so that networks of the same shape start alike.
    place : Workplace
        From :func:`~pl2d_ppl.experiments.onboarding.workplace.open_workplace`.
    options : OnboardingOptions
        Settings.

    Returns
    -------
    Learned
        The method.
    """
    task = Task(
        place.staff,
        options.coverages,
        options.schedule,
        options.gate_hidden,
        classifier=place.classifier,
        membership=place.staff_membership,
    )
    learned = learn(name, rng_key, task)
    if place.newcomers is None:
        return learned
    return learned.join(jax.random.fold_in(rng_key, 1), place.newcomers, place.newcomer_membership)
