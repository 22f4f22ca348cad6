"""``pl2d data``: describe files of annotations, and convert them from one format to another."""

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated as Option
from typing import Any

import numpy as np
import typer

from pl2d_ppl.cli.agreement import agreement_lines, agreement_values
from pl2d_ppl.cli.options import reports_errors
from pl2d_ppl.cli.reading import ReadingOptions, TableLayout, takes_reading_options
from pl2d_ppl.data import Annotated, write_data
from pl2d_ppl.data.agreement import agreement
from pl2d_ppl.io import check_writable
from pl2d_ppl.plots import plot_agreement, save_figure

__all__ = ["data_app"]


FORMATS = (
    ".npz, .nc, a table (.csv, .tsv, .parquet, .xlsx), JSON or an archive of an annotation tool, or a folder of JSON "
    "files"
)
Source = Option[Path, typer.Argument(help=f"What to read: {FORMATS}; also compressed, .gz or .zst.")]

data_app = typer.Typer(help="Look at files of annotations, and convert them.", no_args_is_help=True)


@data_app.command()
@reports_errors
@takes_reading_options
def describe(
    data: Source,
    reading: ReadingOptions,
    plot: Option[Path | None, typer.Option(help="A picture of who annotated what, .png, .pdf or .svg.")] = None,
    plot_agreement: Option[Path | None, typer.Option(help="A picture of Cohen's kappa by pair of people.")] = None,
    as_json: Option[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Summarise how much and how well people annotated, and how far they agree."""
    typer.echo(run_describe(data, reading, plot=plot, agreement_plot=plot_agreement, as_json=as_json))


@data_app.command()
@reports_errors
@takes_reading_options
def convert(
    data: Source,
    out: Option[Path, typer.Argument(help="File to write; its ending sets the format. JSON: a folder without ending.")],
    reading: ReadingOptions,
    to_layout: Option[TableLayout | None, typer.Option(help="Layout of a table that is written.")] = None,
    features_out: Option[
        Path | None, typer.Option(help="A .npz for the features, where a table or JSON files are written.")
    ] = None,
) -> None:
    """Write a file of annotations in another format, and join truth and features to it."""
    typer.echo(run_convert(data, out, reading, to_layout=to_layout, features_out=features_out))


MOST_NAMES = 20
FIGURES = (".png", ".pdf", ".svg")


def run_describe(
    path: Path, options: ReadingOptions, *, plot: Path | None, as_json: bool, agreement_plot: Path | None = None
) -> str:
    """Run ``pl2d data describe``."""
    pictures = [picture for picture in (plot, agreement_plot) if picture is not None]
    for picture in pictures:
        if picture.suffix.lower() not in FIGURES:
            raise ValueError(f"Expected a picture, {', '.join(FIGURES)}, found {picture}. Rename it.")
        check_writable(picture)
    train, test, taken = options.read(path)
    parts = {"train": train} if test is None else {"train": train, "test": test}
    found = {name: agreement(part.long, part.num_categories) for name, part in parts.items()}
    if pictures and train.num_experts == 0:
        raise ValueError(
            f"Expected annotations to plot in {path}, found none of identified people. Leave pictures out."
        )
    if plot is not None:
        save_figure(train.plot_missing().figure, plot)
    if agreement_plot is not None:
        pairs = found["train"].pairs
        if pairs is None:
            raise ValueError(f"Expected fewer annotations of one item in {path} to compare people, found too many.")
        save_figure(plot_agreement(pairs, train.annotators).figure, agreement_plot)
    if as_json:
        told: dict[str, Any] = {"taken": taken}
        told |= {name: _described(part) | agreement_values(part, found[name]) for name, part in parts.items()}
        return json.dumps(told, indent=1, ensure_ascii=False)
    lines = []
    for name, part in parts.items():
        lines.append(f"{name + ' part: ' if test else ''}{part.summary()}")
        lines += agreement_lines(part, found[name])
    written = [f"Written: {', '.join(map(str, pictures))}"] if pictures else []
    return "\n".join([taken, _about(train), *lines, *_without_truth(train), *written])


def _without_truth(data: Annotated) -> list[str]:
    """What can be done with annotations of named people where nothing of the truth is known."""
    if data.num_experts == 0 or (data.y >= 0).any():
        return []
    return ["No truth: `pl2d crowd` infers it, and how good each person is; fit, curve and onboard need some truth."]


def _about(data: Annotated) -> str:
    """Categories, features and groups."""
    names = ", ".join(data.classes[:MOST_NAMES]) + (", ..." if len(data.classes) > MOST_NAMES else "")
    shape = None if data.is_lazy else np.shape(data.x)[1:]
    features = "read when asked for" if shape is None else "none" if shape == (0,) else " x ".join(map(str, shape))
    groups = "" if data.group is None else f"; groups: {len(np.unique(data.group)):,}"
    return f"categories: {names}; features: {features}{groups}"


def _described(data: Annotated) -> dict[str, Any]:
    """Convert the summary to JSON values: a list of patterns, and null for unknown values."""
    summary = dataclasses.asdict(data.summary())
    patterns = [{"people": list(who), "items": number} for who, number in summary.pop("patterns").items()]
    return {"classes": list(data.classes), **_told(summary), "patterns": patterns}


def _told(values: Mapping[Any, Any]) -> dict[str, Any]:
    return {
        str(key): _told(value)
        if isinstance(value, Mapping)
        else None
        if isinstance(value, float) and math.isnan(value)
        else value
        for key, value in values.items()
    }


def run_convert(
    path: Path, out: Path, options: ReadingOptions, *, to_layout: str | None, features_out: Path | None
) -> str:
    """Run ``pl2d data convert``."""
    asked = {"layout": to_layout, "features": features_out}
    asked = {name: value for name, value in asked.items() if value is not None}
    if out.resolve() == path.resolve():
        raise ValueError(f"Expected another file to write than the one that is read, found {out} twice.")
    train, test, taken = options.read(path)
    if out.suffix.lower() in (".npz", ".nc"):  # these hold features, which must therefore be read
        train, test = train.read(), None if test is None else test.read()
    write_data(out, train, test, **asked)
    parts = [str(part.summary()).splitlines()[0] for part in (train, test) if part is not None]
    return "\n".join([taken, _about(train), *parts, f"Written: {out}" + (f", {features_out}" if features_out else "")])
