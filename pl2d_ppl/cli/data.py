"""The command ``pl2d data``."""

from collections.abc import Callable
from enum import StrEnum
from functools import wraps
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated as Option
from typing import Any

import typer

from pl2d_ppl.cli.options import names, reports_errors

__all__ = ["data_app"]


class TableLayout(StrEnum):
    """What a row of a table is."""

    long = "long"
    wide = "wide"
    counts = "counts"


class DuplicateRule(StrEnum):
    """Which label counts, of several that somebody gave to an item."""

    error = "error"
    first = "first"
    last = "last"
    majority = "majority"


FORMATS = ".npz, .nc, a table (.csv, .tsv, .parquet) or a folder of JSON files"
Source = Option[Path, typer.Argument(help=f"What to read: {FORMATS}.")]
Classes = Option[str, typer.Option(help="Names of all categories, with commas, where the file does not tell.")]
Columns = Option[
    list[str] | None,
    typer.Option(
        "--column",
        metavar="ROLE=NAME",
        help="Which column is the item, annotator, label, truth, group, coarse or split, such as label=diagnosis; "
        "ROLE= if there is none. As often as needed.",
    ),
]
People = Option[str, typer.Option(help="Who is read, with commas; by default everybody.")]
Truth = Option[Path | None, typer.Option(help="A table of items and their truth.")]
Features = Option[
    Path | None,
    typer.Option(help="Features by item: a .npz with items and x, a table, or a folder of images."),
]
Missing = Option[str, typer.Option(help="More labels that mean no annotation, with commas.")]
Encoding = Option[str | None, typer.Option(help="Of a CSV file, such as latin-1; by default UTF-8.")]
Variant = Option[str | None, typer.Option(help="Ending of JSON annotations, such as 0.5: label_NAME_train_0.5.json.")]
Layout = Option[
    TableLayout | None,
    typer.Option(help="A row is an annotation, an item with people, or an item with numbers of votes."),
]
Duplicates = Option[
    DuplicateRule | None,
    typer.Option(help="Which label counts where somebody gave an item several; by default it is an error."),
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
    """Give a command the options of reading as options of its own, in the place of its `reading`."""
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
    """Tell who annotated how much, how well, and how far people agree."""
    from pl2d_ppl.cli.data_command import ReadingOptions, run_describe

    typer.echo(run_describe(data, ReadingOptions(**reading), plot=plot, as_json=as_json))


@data_app.command()
@reports_errors
@_takes_reading_options
def convert(
    data: Source,
    out: Option[
        Path, typer.Argument(help="What to write; its ending tells the format. JSON: a folder without ending.")
    ],
    reading: dict[str, Any],
    to_layout: Option[TableLayout | None, typer.Option(help="Layout of a table that is written.")] = None,
    features_out: Option[
        Path | None, typer.Option(help="A .npz for the features, where a table or JSON files are written.")
    ] = None,
) -> None:
    """Write a file of annotations in another format, and join truth and features to it."""
    from pl2d_ppl.cli.data_command import ReadingOptions, run_convert

    options = ReadingOptions(**reading)
    typer.echo(run_convert(data, out, options, to_layout=to_layout, features_out=features_out))
