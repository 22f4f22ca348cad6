"""``pl2d data``: describe files of annotations, and convert them from one format to another."""

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from functools import wraps
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated as Option
from typing import Any

import numpy as np
import typer

from pl2d_ppl.cli.options import names, reports_errors
from pl2d_ppl.data import Annotated, read_data, write_data
from pl2d_ppl.io import check_writable
from pl2d_ppl.plots import save_figure

__all__ = ["data_app"]


class TableLayout(StrEnum):
    """What a row of a table holds."""

    long = "long"
    wide = "wide"
    counts = "counts"


class DuplicateRule(StrEnum):
    """Which label counts if a person gave an item several."""

    error = "error"
    first = "first"
    last = "last"
    majority = "majority"


FORMATS = ".npz, .nc, a table (.csv, .tsv, .parquet) or a folder of JSON files"
Source = Option[Path, typer.Argument(help=f"What to read: {FORMATS}.")]
Classes = Option[str, typer.Option(help="Names of all categories, comma-separated, if the file lacks them.")]
Columns = Option[
    list[str] | None,
    typer.Option(
        "--column",
        metavar="ROLE=NAME",
        help="Which column is the item, annotator, label, truth, group, coarse or split, such as label=diagnosis; "
        "ROLE= if there is none. As often as needed.",
    ),
]
People = Option[str, typer.Option(help="Names of the people to read, comma-separated; by default everybody.")]
Truth = Option[Path | None, typer.Option(help="A table of items and their truth.")]
Features = Option[
    Path | None,
    typer.Option(help="Features by item: a .npz with items and x, a table, or a folder of images."),
]
Missing = Option[str, typer.Option(help="More labels that mean no annotation, with commas.")]
Encoding = Option[str | None, typer.Option(help="Encoding of a CSV file, such as latin-1; by default UTF-8.")]
Variant = Option[str | None, typer.Option(help="Ending of JSON annotations, such as 0.5: label_NAME_train_0.5.json.")]
Layout = Option[
    TableLayout | None,
    typer.Option(help="A row is an annotation, an item with people, or an item with numbers of votes."),
]
Duplicates = Option[
    DuplicateRule | None,
    typer.Option(help="Which label counts if a person gave an item several; by default it is an error."),
]

data_app = typer.Typer(help="Look at files of annotations, and convert them.", no_args_is_help=True)


def _reading_options(
    layout: Layout = None,
    column: Columns = None,
    classes: Classes = "",
    people: People = "",
    truth: Truth = None,
    features: Features = None,
    duplicates: Duplicates = None,
    missing: Missing = "",
    encoding: Encoding = None,
    variant: Variant = None,
) -> dict[str, Any]:
    return {
        "layout": layout,
        "columns": column or (),
        "classes": names(classes),
        "people": names(people),
        "truth": truth,
        "features": features,
        "duplicates": duplicates,
        "missing": names(missing),
        "encoding": encoding,
        "variant": variant,
    }


def _takes_reading_options(command: Callable) -> Callable:
    """Replace a command's parameter `reading` by the options of reading."""
    own = [p for p in signature(command).parameters.values() if p.name != "reading"]
    shared = signature(_reading_options).parameters

    @wraps(command)
    def wrapped(**given: Any) -> None:
        reading = _reading_options(**{name: given.pop(name) for name in shared})
        command(**given, reading=reading)

    parameters = [p.replace(kind=Parameter.KEYWORD_ONLY) for p in (*own, *shared.values())]
    wrapped.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    wrapped.__annotations__ = {p.name: p.annotation for p in parameters}
    return wrapped


@data_app.command()
@reports_errors
@_takes_reading_options
def describe(
    data: Source,
    reading: dict[str, Any],
    plot: Option[Path | None, typer.Option(help="A picture of who annotated what, .png, .pdf or .svg.")] = None,
    as_json: Option[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Summarise how much and how well people annotated, and how far they agree."""
    typer.echo(run_describe(data, ReadingOptions(**reading), plot=plot, as_json=as_json))


@data_app.command()
@reports_errors
@_takes_reading_options
def convert(
    data: Source,
    out: Option[Path, typer.Argument(help="File to write; its ending sets the format. JSON: a folder without ending.")],
    reading: dict[str, Any],
    to_layout: Option[TableLayout | None, typer.Option(help="Layout of a table that is written.")] = None,
    features_out: Option[
        Path | None, typer.Option(help="A .npz for the features, where a table or JSON files are written.")
    ] = None,
) -> None:
    """Write a file of annotations in another format, and join truth and features to it."""
    options = ReadingOptions(**reading)
    typer.echo(run_convert(data, out, options, to_layout=to_layout, features_out=features_out))


MOST_NAMES = 20
FIGURES = (".png", ".pdf", ".svg")


@dataclasses.dataclass(frozen=True)
class ReadingOptions:
    """Options of reading; see the help of ``pl2d data``. None or empty means not requested."""

    layout: str | None = None
    columns: Sequence[str] = ()
    classes: Sequence[str] = ()
    people: Sequence[str] = ()
    truth: Path | None = None
    features: Path | None = None
    duplicates: str | None = None
    missing: Sequence[str] = ()
    encoding: str | None = None
    variant: str | None = None

    def read(self, path: Path) -> tuple[Annotated, Annotated | None]:
        """Read a file or folder; all truth may be unknown."""
        asked = {name: value for name, value in vars(self).items() if value}
        if self.columns:
            asked["columns"] = _columns(self.columns)
        return read_data(path, subset=True, **asked)


def _columns(pairs: Sequence[str]) -> dict[str, str | None]:
    """Parse ROLE=NAME into columns by role; an empty name means no such column."""
    wrong = [pair for pair in pairs if "=" not in pair]
    if wrong:
        raise ValueError(f"Expected --column ROLE=NAME, such as --column label=diagnosis, found {wrong[0]!r}.")
    return {role.strip(): name or None for role, _, name in (pair.partition("=") for pair in pairs)}


def run_describe(path: Path, options: ReadingOptions, *, plot: Path | None, as_json: bool) -> str:
    """Run ``pl2d data describe``."""
    if plot is not None:
        if plot.suffix.lower() not in FIGURES:
            raise ValueError(f"Expected a picture, {', '.join(FIGURES)}, found {plot}. Rename it.")
        check_writable(plot)
    train, test = options.read(path)
    parts = {"train": train} if test is None else {"train": train, "test": test}
    if plot is not None:
        if train.num_experts == 0:
            raise ValueError(
                f"Expected annotations to plot in {path}, found none of identified people. Leave --plot out."
            )
        save_figure(train.plot_missing().figure, plot)
    if as_json:
        return json.dumps({name: _described(part) for name, part in parts.items()}, indent=1, ensure_ascii=False)
    lines = [f"{name + ' part: ' if test else ''}{part.summary()}" for name, part in parts.items()]
    written = [] if plot is None else [f"Written: {plot}"]
    return "\n".join([_about(train), *lines, *written])


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
    train, test = options.read(path)
    if out.suffix.lower() in (".npz", ".nc"):  # these hold features, which must therefore be read
        train, test = train.read(), None if test is None else test.read()
    write_data(out, train, test, **asked)
    parts = [str(part.summary()).splitlines()[0] for part in (train, test) if part is not None]
    return "\n".join([_about(train), *parts, f"Written: {out}" + (f", {features_out}" if features_out else "")])
