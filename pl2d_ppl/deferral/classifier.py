"""The AI, trained before anybody is deferred to."""

from collections.abc import Callable
from functools import lru_cache, partial

import jax
import numpy as np
import optax
from flax import nnx
from numpy.typing import ArrayLike

from pl2d_ppl.checks.data import check_data
from pl2d_ppl.checks.keys import check_key
from pl2d_ppl.engine.guide_tools import no_guide
from pl2d_ppl.inference.fit import fit
from pl2d_ppl.inference.result import FitResult
from pl2d_ppl.networks import Frozen, network_for

__all__ = ["train_classifier", "trained_network"]


def train_classifier(
    rng_key: jax.Array,
    x: ArrayLike,
    y: ArrayLike,
    num_categories: int,
    *,
    hidden: tuple[int, ...] = (128,),
    steps: int = 2000,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
    weight_decay: float = 1e-2,
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
    steps : int
        Steps of AdamW at most, rounded to whole epochs.
    batch_size : int
        Items a step.
    learning_rate, weight_decay : float
        Of AdamW; the learning rate falls along a cosine.
    validation_share : float
        Share of the items by whose loss the epoch is chosen.
    progress : bool
        Whether to show a progress bar.

    Returns
    -------
    Frozen
        The classifier, from x to logits of shape (N, C).

    Raises
    ------
    ValueError
        If there are other numbers of inputs and labels, no label is known, or validation leaves nothing to train on.
    """
    x, y = np.asarray(x), np.asarray(y)
    check_key(rng_key)
    check_data({"x": x, "y": y}, 1, "data")
    if not 0 <= validation_share < 1:
        raise ValueError(f"Expected a share of items for validation from 0 to below 1, found {validation_share}.")
    split_key, fit_key = jax.random.split(rng_key)
    order = np.asarray(jax.random.permutation(split_key, len(x)))
    order = order[y[order] >= 0]  # what is unknown teaches a classifier nothing
    held = int(len(order) * validation_share)
    parts = [{"x": x[rows], "y": y[rows]} for rows in (order[held:], order[:held])]
    num_items = len(parts[0]["x"])
    batch_size = min(batch_size, num_items)
    epochs = max(1, round(steps / (num_items // batch_size)))
    network = network_for(x.shape[1:], hidden, num_categories)
    model, optimizer = _programs(
        x.shape[1:], tuple(hidden), num_categories, epochs * (num_items // batch_size), learning_rate, weight_decay
    )
    result = fit(
        fit_key,
        model,
        no_guide,
        parts[0],
        optimizer,
        epochs=epochs,
        batch_size=batch_size,
        validation=parts[1] if held else None,
        progress=progress,
        on_interrupt="raise",
    )
    return trained_network(result, "classifier", network)


def trained_network(result: FitResult, name: str, network: Callable[..., nnx.Module]) -> Frozen:
    """Take a network out of a fit.

    Parameters
    ----------
    result : FitResult
        A fit of one run.
    name : str
        Of the network's parameters, ``{name}$params``.
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
    if result.programs.batched:
        raise ValueError("Expected a single run, found a batch of runs. Choose one by result.run(i).")
    params = result.params
    if f"{name}$params" not in params:
        found = sorted(n.removesuffix("$params") for n in params if n.endswith("$params"))
        raise ValueError(f"Expected a trained network {name!r} in the fit, found {found}.")
    module = network(rngs=nnx.Rngs(0))
    nnx.update(module, params[f"{name}$params"])
    nnx.update(module, params.get(f"{name}$state", {}).get("state", {}))  # as nnx_module keeps it
    return Frozen.of(module)


@lru_cache(maxsize=32)
def _programs(
    item: tuple[int, ...],
    hidden: tuple[int, ...],
    num_categories: int,
    steps: int,
    learning_rate: float,
    weight_decay: float,
) -> tuple:
    """Return the same objects for the same settings, which share a compilation."""
    # Imported here: models are the user's to edit, and import the engine themselves.
    from pl2d_ppl.models.classification import classification

    network = network_for(item, hidden, num_categories)
    schedule = optax.cosine_decay_schedule(learning_rate, steps)
    optimizer = optax.chain(optax.clip_by_global_norm(10.0), optax.adamw(schedule, weight_decay=weight_decay))
    return partial(classification, classifier=network), optimizer
