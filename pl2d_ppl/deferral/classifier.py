"""Train the AI before deferral."""

from collections.abc import Callable
from functools import lru_cache, partial

import jax
import numpy as np
from flax import nnx
from numpy.typing import ArrayLike

from pl2d_ppl.checks.data import check_data
from pl2d_ppl.checks.declared import Given, truth
from pl2d_ppl.checks.keys import check_key
from pl2d_ppl.engine.guide_tools import no_guide
from pl2d_ppl.inference.fit import fit
from pl2d_ppl.inference.result import FitResult
from pl2d_ppl.inference.schedule import Schedule
from pl2d_ppl.models.classification import classification
from pl2d_ppl.networks import Frozen, network_for

__all__ = ["CLASSIFIER_SCHEDULE", "train_classifier", "trained_network"]

CLASSIFIER_SCHEDULE = Schedule(rule="adamw", learning_rate=1e-3, weight_decay=1e-2)


def train_classifier(
    rng_key: jax.Array,
    x: ArrayLike,
    y: ArrayLike,
    num_categories: int,
    *,
    hidden: tuple[int, ...] = (128,),
    schedule: Schedule = CLASSIFIER_SCHEDULE,
    validation_share: float = 0.1,
    progress: bool = False,
) -> Frozen:
    """Train a classifier on the truth, and freeze it.

    Parameters
    ----------
    rng_key : Array
        A typed key.
    x : array, shape (N, ...)
        Inputs.
    y : array of int, shape (N,)
        Truth, -1 where unknown.
    num_categories : int
        Number of categories C.
    hidden : tuple of int
        Widths of the hidden layers, or channels of the convolutions.
    schedule : Schedule
        Steps and optimiser.
    validation_share : float
        Share of the items held out; their loss chooses the epoch.
    progress : bool
        Whether to show a progress bar.

    Returns
    -------
    Frozen
        The classifier, from x to logits of shape (N, C).

    Raises
    ------
    ValueError
        If the numbers of inputs and labels differ, no label is known, or validation leaves nothing to train on.
    """
    x, y = np.asarray(x), np.asarray(y)
    check_key(rng_key)
    check_data({"x": x, "y": y}, 1, "data")
    truth("y")(Given("data", {"y": y}))
    if not 0 <= validation_share < 1:
        raise ValueError(f"Expected a share of items for validation from 0 to below 1, found {validation_share}.")
    split_key, fit_key = jax.random.split(rng_key)
    order = np.asarray(jax.random.permutation(split_key, len(x)))
    order = order[y[order] >= 0]  # a classifier learns nothing from items of unknown truth
    held = int(len(order) * validation_share)
    parts = [{"x": x[rows], "y": y[rows]} for rows in (order[held:], order[:held])]
    num_items = len(parts[0]["x"])
    network = network_for(x.shape[1:], hidden, num_categories)
    result = fit(
        fit_key,
        _program(x.shape[1:], tuple(hidden), num_categories),
        no_guide,
        parts[0],
        schedule.optimizer(num_items),
        epochs=schedule.epochs(num_items),
        batch_size=schedule.batch(num_items),
        validation=parts[1] if held else None,
        progress=progress,
    )
    return trained_network(result, "classifier", network)


def trained_network(result: FitResult, name: str, network: Callable[..., nnx.Module]) -> Frozen:
    """Take a network out of a fit.

    Parameters
    ----------
    result : FitResult
        A fit of one run.
    name : str
        Name of the network; its parameters are ``{name}$params``.
    network : callable
        Function of ``rngs`` that built it.

    Returns
    -------
    Frozen
        The network, with the weights and statistics of the fit.

    Raises
    ------
    ValueError
        If the fit has no such network, or is a batch of runs.
    """
    if result.compiled.batched:
        raise ValueError("Expected a single run, found a batch of runs. Choose one by result.run(i).")
    params = result.params
    if f"{name}$params" not in params:
        found = sorted(n.removesuffix("$params") for n in params if n.endswith("$params"))
        raise ValueError(f"Expected a trained network {name!r} in the fit, found {found}.")
    module = network(rngs=nnx.Rngs(0))
    nnx.update(module, params[f"{name}$params"])
    nnx.update(module, params.get(f"{name}$state", {}).get("state", {}))  # nested as nnx_module stores it
    return Frozen.of(module)


@lru_cache(maxsize=32)
def _program(item: tuple[int, ...], hidden: tuple[int, ...], num_categories: int) -> Callable:
    """Return the same program for the same sizes, so that fits share a compilation."""
    return partial(classification, classifier=network_for(item, hidden, num_categories))
