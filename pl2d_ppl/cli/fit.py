"""``pl2d fit``: train on all items of a file, within bounds, and save the fit."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated as Option
from typing import Any

import jax
import numpy as np
import typer

from pl2d_ppl.checks.bounds import check_bounds
from pl2d_ppl.cli.options import Data, Guide, Seed, floats, reports_errors
from pl2d_ppl.cli.reading import ReadingOptions, read_with_features, takes_reading_options
from pl2d_ppl.data import Annotated, standardise
from pl2d_ppl.data.npz import stored_text
from pl2d_ppl.data.splits import mean_and_scale
from pl2d_ppl.deferral.deferral import Deferral
from pl2d_ppl.engine.workload import workload
from pl2d_ppl.experiments.methods import GuideName, build_method
from pl2d_ppl.experiments.reports import write_json
from pl2d_ppl.inference.fit import fit as fit_program
from pl2d_ppl.inference.schedule import Schedule
from pl2d_ppl.io import check_writable, written_whole

__all__ = ["FitOptions", "fit", "programs_of", "run_fit", "share_table"]

HIDDEN = (128, 128)


@reports_errors
@takes_reading_options
def fit(
    data: Data,
    reading: ReadingOptions,
    out: Option[Path, typer.Option(help="Folder for the fit.")],
    lower: Option[str, typer.Option(help="Least shares, experts in order, then the AI, with commas.")] = "",
    upper: Option[str, typer.Option(help="Largest shares, in the same order.")] = "",
    epochs: Option[int, typer.Option(help="Passes over the data.", min=1)] = 30,
    guide: Option[Guide, typer.Option(help="Posterior of who decides and of missing annotations.")] = Guide.exact,
    batch_size: Option[int, typer.Option(help="Items per step.", min=1)] = 128,
    seed: Seed = 0,
) -> None:
    """Train on all items of a file, within bounds on everybody's share, and save the fit."""
    options = FitOptions(floats(lower), floats(upper), epochs, guide.value, batch_size, seed)
    typer.echo(run_fit(data, out, options, reading))


@dataclasses.dataclass(frozen=True)
class FitOptions:
    """Options of ``pl2d fit``; see its help."""

    lower: list[float]
    upper: list[float]
    epochs: int
    guide: GuideName
    batch_size: int
    seed: int


def run_fit(path: Path, out: Path, options: FitOptions, reading: ReadingOptions | None = None) -> str:
    """Run ``pl2d fit``."""
    data, _ = read_with_features(path, reading)
    if data.num_experts == 0:
        raise ValueError(f"Expected annotations in {path}, found none. Add columns of people, or the key annotations.")
    names = [*data.annotators, "AI"]
    lower, upper = _bounds(options, names)
    check_writable(out, marker="settings.json")
    batch_size = min(options.batch_size, data.num_items)
    mean, scale = mean_and_scale(data.x)
    (scaled,) = standardise(data) if data.x.ndim == 2 else (data,)
    settings = {
        "annotators": list(data.annotators),
        "classes": list(data.classes),
        "features": None if data.features is None else list(data.features),
        "num_items": data.num_items,
        "guide": options.guide,
        "lower": lower,
        "upper": upper,
        "steps": options.epochs * (data.num_items // batch_size),
        "batch_size": batch_size,
        "mean": mean.tolist(),
        "scale": scale.tolist(),
    }
    model, guide, schedule = programs_of(scaled, settings)
    result = fit_program(
        jax.random.key(options.seed),
        model,
        guide,
        scaled.batch(),
        schedule.optimizer(data.num_items),
        epochs=options.epochs,
        batch_size=batch_size,
    )
    day = Deferral.of(*result.predict(scaled.x), people=data.annotators)
    policy = day.fit_policy(lower, upper)
    with written_whole(out, marker="settings.json") as folder:
        folder.mkdir()
        result.save(folder / "fit")
        if data.items is not None:
            np.savez_compressed(folder / "items.npz", allow_pickle=False, **stored_text("items", data.items))
        write_json(folder / "settings.json", {**settings, "policy": policy._asdict()})
    return f"Shares of the training items:\n{share_table(day.follow(policy))}\nWritten: {out}"


def _bounds(options: FitOptions, names: Sequence[str]) -> tuple[list[float], list[float]]:
    lower, upper = options.lower or [0.0] * len(names), options.upper or [1.0] * len(names)
    if len(lower) != len(names) or len(upper) != len(names):
        raise ValueError(
            f"Expected {len(names)} bounds, for {', '.join(names)}, found {len(lower)} lower and {len(upper)} upper."
        )
    check_bounds(lower, upper)
    return lower, upper


def programs_of(data: Annotated, settings: Mapping[str, Any]) -> tuple:
    """Build the model, the guide with its bounds, and the schedule of a fit from data and settings."""
    model, guide = build_method("prob-l2d", data, HIDDEN, settings["guide"])
    guide = workload(guide, "z", settings["lower"], settings["upper"])
    return model, guide, Schedule(steps=settings["steps"], batch_size=settings["batch_size"])


def share_table(day: Deferral) -> str:
    """Table of each person's share of the items."""
    return "\n".join(f"  {name:<20}{share:.3f}" for name, share in zip((*day.people, "AI"), day.shares, strict=True))
