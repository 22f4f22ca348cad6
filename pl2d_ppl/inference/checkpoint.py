"""Fits on disk: a folder that is written whole or not at all."""

import json
import os
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from jax import Array

from pl2d_ppl.inference.compiled import compile_programs
from pl2d_ppl.inference.result import FitResult
from pl2d_ppl.io import written_whole

__all__ = ["load", "save"]

FORMAT = 1


def save(result: FitResult, path: str | os.PathLike) -> None:
    """Write a fit to a folder, from which training can go on.

    Parameters
    ----------
    result : FitResult
        The fit.
    path : path-like
        Folder; an older one is replaced once the new one is complete.

    Raises
    ------
    ValueError
        If the folder cannot be written to, or holds something else.
    """
    notes = {
        "format": FORMAT,
        "pl2d_ppl": version("pl2d_ppl"),
        "epoch": result.epoch,
        "status": result.status,
        "batched": result.programs.batched,
        "example": {n: [list(s.shape), str(s.dtype)] for n, s in result.example.items()},
        "runs": list(np.shape(result.best_loss)),
    }
    with written_whole(path, marker="fit.json") as folder:
        folder.mkdir()
        (folder / "fit.json").write_text(json.dumps(notes, indent=1))
        arrays: dict[str, Any] = {**result.history, "best_loss": result.best_loss, "stale": result.stale}
        np.savez(folder / "history.npz", **arrays)
        leaves = {str(i): leaf for i, leaf in enumerate(jax.tree.leaves((result.state, result.best_state)))}
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save((folder / "state").absolute(), leaves)


def load(
    path: str | os.PathLike,
    model: Callable,
    guide: Callable,
    optimizer: optax.GradientTransformation,
    *,
    arguments: Mapping[str, Any] | None = None,
    max_plate_nesting: int = 2,
) -> FitResult:
    """Read a fit from a folder.

    Parameters
    ----------
    path : path-like
        Folder that :func:`save` wrote.
    model, guide, optimizer : callable, callable, optax.GradientTransformation
        What was fitted: programs are code, and are not written to disk.
    arguments : mapping of str to pytree of array, optional
        As for the fit.
    max_plate_nesting : int
        Number of batch dimensions that plates may use.

    Returns
    -------
    FitResult
        The fit; ``fit(..., resume=...)`` goes on from it as if it had never stopped.

    Raises
    ------
    ValueError
        If the folder holds no whole fit, or one of other programs.
    """
    path = Path(path)
    notes, history = _read_notes(path)
    example = {n: jax.ShapeDtypeStruct(tuple(shape), dtype) for n, (shape, dtype) in notes["example"].items()}
    programs, leaves = compile_programs(model, guide, optimizer, notes["batched"], max_plate_nesting, arguments)
    keys = jax.random.split(jax.random.key(0), notes["runs"][0]) if notes["batched"] else jax.random.key(0)
    zeros = {n: jnp.zeros(s.shape, s.dtype) for n, s in example.items()}
    programs.probe(leaves, keys, zeros)
    expected = jax.eval_shape(programs.init, leaves, keys, zeros)
    state, best_state = _restore(path / "state", (expected, expected))
    return FitResult(
        programs=programs,
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


def _read_notes(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    try:
        notes = json.loads((path / "fit.json").read_text())
        with (path / "history.npz").open("rb") as file, np.load(file) as stored:
            history = dict(stored)
        missing = {"example", "batched", "runs", "epoch", "status"} - set(notes) | {"best_loss", "stale"} - set(history)
    except Exception as error:  # whatever a damaged file raises
        raise ValueError(f"Expected a saved fit in {path}, found none that can be read: {error}.") from error
    if not isinstance(notes, dict) or notes.get("format") != FORMAT or missing:
        raise ValueError(f"Expected a saved fit of format {FORMAT} in {path}, found something else. Save it again.")
    return notes, history


def _restore(path: Path, expected: Any) -> Any:
    shapes, structure = jax.tree.flatten(expected)
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            leaves: dict[str, Array] = checkpointer.restore(
                path.absolute(), {str(i): _concrete(s) for i, s in enumerate(shapes)}
            )
    except Exception as error:
        raise ValueError(
            f"Expected a state of these programs in {path}, found one that does not fit or cannot be read: "
            f"{str(error).splitlines()[0][:200]} Build the same networks, guide and optimizer as for the fit."
        ) from error
    return jax.tree.unflatten(structure, [leaves[str(i)] for i in range(len(shapes))])


def _concrete(shape: jax.ShapeDtypeStruct) -> Any:
    if jax.dtypes.issubdtype(shape.dtype, jax.dtypes.prng_key):
        return jax.random.split(jax.random.key(0), shape.shape) if shape.shape else jax.random.key(0)
    return jnp.zeros(shape.shape, shape.dtype)
