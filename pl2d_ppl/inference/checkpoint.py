"""Fits on disk: a folder that is written whole or not at all."""

import json
import os
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax import Array

from pl2d_ppl.io import written_whole

__all__ = ["read_notes", "read_state", "write_checkpoint"]

FORMAT = 1


def write_checkpoint(
    path: str | os.PathLike, notes: Mapping[str, Any], arrays: Mapping[str, np.ndarray], state: Any
) -> None:
    """Write a fit to a folder, whole or not at all.

    Parameters
    ----------
    path : path-like
        Folder; an older one is replaced once the new one is complete.
    notes : mapping
        Everything that is not an array, as JSON values.
    arrays : mapping of str to array
        The history.
    state : pytree of Array
        The state of the optimisation.

    Raises
    ------
    ValueError
        If the folder cannot be written to, or holds something else.
    """
    with written_whole(path, marker="fit.json") as folder:
        folder.mkdir()
        about = {"format": FORMAT, "pl2d_ppl": version("pl2d_ppl"), **notes}
        (folder / "fit.json").write_text(json.dumps(about, indent=1))
        np.savez(folder / "history.npz", allow_pickle=False, **arrays)
        leaves = {str(i): leaf for i, leaf in enumerate(jax.tree.leaves(state))}
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save((folder / "state").absolute(), leaves)


def read_notes(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Read notes and history of a fit from its folder.

    Raises
    ------
    ValueError
        If it holds no complete fit of this format.
    """
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


def read_state(path: Path, expected: Any) -> Any:
    """Read the state of a fit from its folder.

    Parameters
    ----------
    path : Path
        The folder.
    expected : pytree of jax.ShapeDtypeStruct
        Shapes and types that the state must have.

    Returns
    -------
    pytree of Array
        The state.

    Raises
    ------
    ValueError
        If the state is another one, or cannot be read.
    """
    shapes, structure = jax.tree.flatten(expected)
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            leaves: dict[str, Array] = checkpointer.restore(
                (path / "state").absolute(), {str(i): _concrete(s) for i, s in enumerate(shapes)}
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
