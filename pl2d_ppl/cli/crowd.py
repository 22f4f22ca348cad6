"""``pl2d crowd``: infer the truth from annotations of named people, and how good each of them is."""

import dataclasses
from pathlib import Path
from typing import Annotated as Option

import jax
import numpy as np
import pandas as pd
import typer

from pl2d_ppl.cli.options import Data, Seed, integers, reports_errors
from pl2d_ppl.cli.reading import ReadingOptions, read_with_features, takes_reading_options
from pl2d_ppl.data import Annotated, standardise
from pl2d_ppl.experiments.reports import versions, write_json
from pl2d_ppl.io import check_writable, written_whole
from pl2d_ppl.people.crowd import CROWD_SCHEDULE, Crowd, fit_crowd
from pl2d_ppl.plots import MOST_CELLS, MOST_NAMES, plot_heatmap, save_figure

__all__ = ["CrowdOptions", "crowd", "run_crowd"]

LISTED = 10  # people and items that are printed


@reports_errors
@takes_reading_options
def crowd(
    data: Data,
    reading: ReadingOptions,
    hidden: Option[str, typer.Option(help="Widths of the classifier's hidden layers, with commas; or none.")] = "",
    steps: Option[int, typer.Option(help="Steps of Adam, on all items at once.", min=1)] = CROWD_SCHEDULE.steps,
    again: Option[int, typer.Option(help="Number of items to list for a second look.", min=0)] = 100,
    seed: Seed = 0,
    out: Option[Path, typer.Option(help="Folder to write to.")] = Path("outputs/crowd"),
) -> None:
    """Infer the truth from named people, and how good each of them is.

    The truth may be unknown of all items. Where it is known it counts as gold.
    """
    typer.echo(run_crowd(data, out, CrowdOptions(tuple(integers(hidden)), steps, again, seed), reading))


@dataclasses.dataclass(frozen=True)
class CrowdOptions:
    """Options of ``pl2d crowd``; see its help."""

    hidden: tuple[int, ...]
    steps: int
    again: int
    seed: int


def run_crowd(path: Path, out: Path, options: CrowdOptions, reading: ReadingOptions | None = None) -> str:
    """Run ``pl2d crowd``."""
    data, _ = read_with_features(path, reading, subset=True)
    check_writable(out / "crowd.json")
    scaled = standardise(data)[0] if data.x.ndim == 2 else data
    schedule = CROWD_SCHEDULE.replace(steps=options.steps)
    found = fit_crowd(jax.random.key(options.seed), scaled, hidden=options.hidden, schedule=schedule, progress=True)
    written = _write(out, found, scaled, options)
    return "\n".join([*_people(found, data), *_items(found, data), f"Written: {', '.join(written)}"])


def _write(out: Path, found: Crowd, data: Annotated, options: CrowdOptions) -> list[str]:
    """Write the truth, the report, the picture and the posterior; return their paths."""
    with written_whole(out / "truth.csv") as scratch:
        _truth(found, data).to_csv(scratch, index=False)
    skill, accuracy = found.skill(), found.accuracy()
    legible = max(1, min(MOST_NAMES, MOST_CELLS // data.num_categories))
    most = np.argsort(-(data.annotations >= 0).sum(0), kind="stable")[:legible]
    shown, names = skill[most].transpose(1, 0, 2), [data.annotators[m] for m in most]
    label = "probability of being right, by true category: posterior mean and 90 % interval"
    picture = plot_heatmap(shown[..., 0], data.classes, names, label=label, spread=shown[..., 1:])
    save_figure(picture.figure, out / "people.png")
    with written_whole(out / "posterior.nc") as scratch:
        found.tree.to_netcdf(scratch, engine="h5netcdf")
    report = {
        "options": dataclasses.asdict(options),
        "items": data.num_items,
        "annotations": int((data.annotations >= 0).sum()),
        "gold": int((data.y >= 0).sum()),
        "classes": list(data.classes),
        "people": {
            name: {"annotations": int((said >= 0).sum()), "accuracy": a, "by_category": s}
            for name, said, a, s in zip(data.annotators, data.annotations.T, accuracy, skill, strict=True)
        },
        "look_again": _names(data)[found.doubtful(options.again)].tolist(),
        "versions": versions(),
    }
    write_json(out / "crowd.json", report)
    return [str(out / name) for name in ("crowd.json", "truth.csv", "people.png", "posterior.nc")]


def _truth(found: Crowd, data: Annotated) -> pd.DataFrame:
    """Table of the inferred truth: a row for each item."""
    classes = np.array(data.classes)
    known = np.where(data.y >= 0, classes[np.maximum(data.y, 0)], "")
    columns = {"item": _names(data), "truth": classes[found.truth], "probability": found.truth_probs.max(1)}
    by_class = {f"p_{name}": p for name, p in zip(data.classes, found.truth_probs.T, strict=True)}
    return pd.DataFrame({**columns, "gold": known, "annotations": (data.annotations >= 0).sum(1), **by_class})


def _names(data: Annotated) -> np.ndarray:
    return np.arange(data.num_items).astype(str) if data.items is None else data.items


def _people(found: Crowd, data: Annotated) -> list[str]:
    accuracy = found.accuracy()
    order = np.argsort(-accuracy[:, 0], kind="stable")
    width = max(len(name) for name in data.annotators) + 2
    counts = (data.annotations >= 0).sum(0)
    lines = [f"{'person':<{width}}{'annotations':>12}   right, with 90 % interval"]
    for m in order[:LISTED]:
        mean, low, high = accuracy[m]
        lines.append(f"{data.annotators[m]:<{width}}{counts[m]:>12}   {mean:.2f} ({low:.2f}–{high:.2f})")
    more = len(order) - LISTED
    return [*lines, f"... and {more} more, in crowd.json"] if more > 0 else lines


def _items(found: Crowd, data: Annotated) -> list[str]:
    worst = found.doubtful(LISTED)
    shown = ", ".join(f"{_names(data)[i]} ({found.truth_probs[i].max():.2f})" for i in worst)
    return [f"Look again, the least certain first (probability of the most likely truth): {shown}"]
