"""``pl2d predict``: decide who answers new items, by a fit on disk."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated as Option
from typing import Any

import jax
import numpy as np
import typer

from pl2d_ppl.cli.fit import programs_of, share_table
from pl2d_ppl.cli.options import reports_errors
from pl2d_ppl.cli.reading import read_inputs
from pl2d_ppl.data import Annotated
from pl2d_ppl.data.npz import stored_text
from pl2d_ppl.deferral.deferral import Deferral
from pl2d_ppl.deferral.offsets import Policy
from pl2d_ppl.inference.load import load
from pl2d_ppl.inference.result import FitResult
from pl2d_ppl.io import check_writable, written_whole

__all__ = ["load_saved", "predict", "run_predict"]


SETTINGS = {
    "annotators",
    "classes",
    "num_items",
    "guide",
    "lower",
    "upper",
    "steps",
    "batch_size",
    "policy",
    "mean",
    "scale",
}


@reports_errors
def predict(
    folder: Option[Path, typer.Argument(help="Folder that `pl2d fit` wrote.")],
    data: Option[
        Path, typer.Argument(help="New items: a .npz with x, or a table with the columns of features of the fit.")
    ],
    out: Option[Path, typer.Option(help="A .npz for decision, gate, ai and belief probabilities.")],
    column: Option[
        list[str] | None,
        typer.Option(metavar="ROLE=NAME", help="Which column is the item, such as item=file; item= if there is none."),
    ] = None,
) -> None:
    """Decide who answers new items, within the bounds of the fit."""
    typer.echo(run_predict(folder, data, out, column or ()))


def run_predict(folder: Path, path: Path, out: Path, columns: Sequence[str] = ()) -> str:
    """Run ``pl2d predict``."""
    if out.suffix.lower() != ".npz":
        raise ValueError(f"Expected an .npz file for --out, found {out}. Rename it.")
    settings = _read_settings(folder)
    check_writable(out)
    inputs = read_inputs(path, settings.get("features"), columns)
    x = inputs.x
    mean, scale = np.asarray(settings["mean"]), np.asarray(settings["scale"])
    if mean.ndim and x.shape[1:] != mean.shape:
        raise ValueError(f"Expected x of shape (N, {mean.size}) in {path}, as in the fit, found {x.shape}.")
    x = ((x - mean) / scale).astype(np.float32)
    result = load_saved(folder / "fit", settings, x)
    prediction = result.predict(x)
    day = Deferral.of(*prediction, people=settings["annotators"]).follow(_policy(settings))
    belief = np.asarray(jax.nn.softmax(result.outputs(x)["belief_logits"][0], -1))
    with written_whole(out) as scratch, scratch.open("wb") as file:
        arrays: dict[str, Any] = {} if inputs.items is None else stored_text("items", list(inputs.items))
        np.savez_compressed(
            file,
            decision=day.decision.astype(np.int32),
            gate=prediction.gate,
            ai=prediction.ai,
            belief=belief,
            deciders=np.array([*settings["annotators"], "AI"]),
            classes=np.array(settings["classes"]),
            **arrays,
        )
    return f"Shares:\n{share_table(day)}\nWritten: {out}"


def _policy(settings: Mapping[str, Any]) -> Policy:
    """Return the policy of a fit; JSON stores -inf, the offset of a closed option, as null."""
    offsets = [-np.inf if offset is None else offset for offset in settings["policy"]["offsets"]]
    return Policy(np.array(offsets, float), np.array(settings["policy"]["people_probs"], float))


def _read_settings(folder: Path) -> dict[str, Any]:
    try:
        settings = json.loads((folder / "settings.json").read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"Expected a folder that `pl2d fit` wrote, found none in {folder}: {error}.") from error
    if not isinstance(settings, dict) or SETTINGS - set(settings):
        raise ValueError(f"Expected settings of a fit in {folder}, found something else. Run `pl2d fit` again.")
    return settings


def load_saved(folder: Path, settings: Mapping[str, Any], x: np.ndarray) -> FitResult:
    """Rebuild the programs of a fit from its settings, and read the fit."""
    num_items, num_experts = settings["num_items"], len(settings["annotators"])
    shape = Annotated(
        np.broadcast_to(x[:1], (num_items, *x.shape[1:])),
        np.zeros(num_items, np.int32),
        np.zeros((num_items, num_experts), np.int32),
        classes=settings["classes"],
        annotators=settings["annotators"],
    )
    model, guide, schedule = programs_of(shape, settings)
    return load(folder, model, guide, schedule.optimizer(num_items))
