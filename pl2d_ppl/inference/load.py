"""Fits read from disk."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import optax

from pl2d_ppl.inference.checkpoint import read_notes, read_state
from pl2d_ppl.inference.compiled import compile_fit
from pl2d_ppl.inference.result import FitResult

__all__ = ["load"]


def load(
    path: str | os.PathLike,
    model: Callable,
    guide: Callable,
    optimizer: optax.GradientTransformation,
    *,
    arguments: Mapping[str, Any] | None = None,
) -> FitResult:
    """Read a fit from a folder.

    Parameters
    ----------
    path : path-like
        Folder that :meth:`~pl2d_ppl.inference.result.FitResult.save` wrote.
    model, guide, optimizer : callable, callable, optax.GradientTransformation
        The fitted programs and their optimizer: code is not written to disk.
    arguments : mapping of str to pytree of array, optional
        As for the fit.

    Returns
    -------
    FitResult
        The fit; ``fit(..., resume=...)`` goes on from it as if it had never stopped.

    Raises
    ------
    ValueError
        If the folder holds no complete fit, or a fit of other programs.
    """
    path = Path(path)
    notes, history = read_notes(path)
    example = {n: jax.ShapeDtypeStruct(tuple(shape), dtype) for n, (shape, dtype) in notes["example"].items()}
    whole = notes["num_rows"], notes["item_plate"]
    compiled, leaves = compile_fit(model, guide, optimizer, notes["batched"], *whole, arguments)
    keys, zeros = compiled.start_on(leaves, example, tuple(notes["runs"]))
    expected = jax.eval_shape(compiled.init, leaves, keys, zeros)
    state, best_state = read_state(path, (expected, expected))
    return FitResult(
        compiled=compiled,
        leaves=leaves,
        state=state,
        best_state=best_state,
        best_loss=history.pop("best_loss"),
        stale=history.pop("stale"),
        epoch=notes["epoch"],
        history=history,
        status=notes["status"],
        example=example,
    )
