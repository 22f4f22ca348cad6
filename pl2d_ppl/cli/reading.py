"""Options of reading, which all commands share, and what commands read by them."""

import csv
import dataclasses
import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from functools import wraps
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated as Option
from typing import Any

import numpy as np
import typer

from pl2d_ppl.data import Annotated
from pl2d_ppl.data.files.formats import format_of, read_reported
from pl2d_ppl.data.parts import Reading
from pl2d_ppl.data.tables.joining import Features, read_features

__all__ = ["ReadingOptions", "TableLayout", "read_inputs", "read_with_features", "takes_reading_options"]


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
    newest = "newest"
    majority = "majority"


NAMES = "with commas; a name that holds a comma in double quotes, or the option repeated"
Classes = Option[list[str] | None, typer.Option(help=f"Names of all categories, if the file lacks them, {NAMES}.")]
Columns = Option[
    list[str] | None,
    typer.Option(
        "--column",
        metavar="ROLE=NAME",
        help="Which column is the item, annotator, label, truth, group, coarse, split or time, such as "
        "label=diagnosis; ROLE= if there is none. Also in the tables of truth and features. As often as needed.",
    ),
]
PERSON = typer.Option("--person", "--people", help=f"Who is read, by default everybody; {NAMES}.")
MISSING = typer.Option("--missing-label", "--missing", help=f"More labels that mean no annotation, {NAMES}.")
Truth = Option[Path | None, typer.Option(help="A table of items and their truth.")]
FeaturesFile = Option[
    Path | None,
    typer.Option(help="Features by item: a .npz with items and x, a table, or a folder of images."),
]
Abstained = Option[
    list[str] | None, typer.Option("--abstained", help=f"Labels of somebody asked who would not say, {NAMES}.")
]
Encoding = Option[str | None, typer.Option(help="Encoding of a table of text, such as latin-1; by default UTF-8.")]
Delimiter = Option[str | None, typer.Option(help="What separates the fields of a table of text, such as ';'.")]
ColumnNames = Option[
    str, typer.Option("--names", help="Names of the columns of a table without a header, with commas.")
]
Header = Option[bool, typer.Option("--header", help="The first row is a header, although it looks like the others.")]
Quotes = Option[bool | None, typer.Option("--quotes/--no-quotes", help="Whether quotation marks enclose fields.")]
Prefix = Option[str | None, typer.Option("--feature-prefix", help="How names of features begin, by default x_.")]
Question = Option[str | None, typer.Option(help="Which of several questions of an export is meant.")]
Variant = Option[str | None, typer.Option(help="Ending of JSON annotations, such as 0.5: label_NAME_train_0.5.json.")]
Layout = Option[
    TableLayout | None,
    typer.Option(help="A row is an annotation, an item with people, or an item with numbers of votes."),
]
Duplicates = Option[
    DuplicateRule | None,
    typer.Option(help="Which label counts if a person gave an item several; by default it is an error."),
]


def _reading_options(
    layout: Layout = None,
    column: Columns = None,
    classes: Classes = None,
    person: Option[list[str] | None, PERSON] = None,
    truth: Truth = None,
    features: FeaturesFile = None,
    duplicates: Duplicates = None,
    missing_label: Option[list[str] | None, MISSING] = None,
    abstained: Abstained = None,
    encoding: Encoding = None,
    delimiter: Delimiter = None,
    column_names: ColumnNames = "",
    header: Header = False,
    quotes: Quotes = None,
    feature_prefix: Prefix = None,
    question: Question = None,
    variant: Variant = None,
) -> "ReadingOptions":
    return ReadingOptions(
        layout=layout,
        columns=tuple(column or ()),
        classes=tuple(classes or ()),
        people=tuple(person or ()),
        truth=truth,
        features=features,
        duplicates=duplicates,
        missing=tuple(missing_label or ()),
        abstained=tuple(abstained or ()),
        encoding=encoding,
        delimiter=_delimiter(delimiter),
        names=_split(column_names),
        header=header,
        quotes=quotes,
        feature_prefix=feature_prefix,
        question=question,
        variant=variant,
    )


def takes_reading_options(command: Callable) -> Callable:
    """Replace a command's parameter `reading` by the options of reading; options of its own keep their names."""
    own = [p for p in signature(command).parameters.values() if p.name != "reading"]
    taken = {p.name for p in own}
    shared = signature(_reading_options).parameters

    @wraps(command)
    def wrapped(**given: Any) -> None:
        reading = _reading_options(**{name: given.pop(name) for name in shared})
        command(**given, reading=reading)

    parameters = [p.replace(kind=Parameter.KEYWORD_ONLY) for p in (*own, *(_free(p, taken) for p in shared.values()))]
    wrapped.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    wrapped.__annotations__ = {p.name: p.annotation for p in parameters}
    return wrapped


def _free(parameter: Parameter, taken: set[str]) -> Parameter:
    """Leave out the short name of an option if the command has an option of this name."""
    short = {"person": ("people", PERSON), "missing_label": ("missing", MISSING)}
    if parameter.name not in short or short[parameter.name][0] not in taken:
        return parameter
    option = short[parameter.name][1]
    alone = typer.Option(f"--{parameter.name.replace('_', '-')}", help=option.help)
    return parameter.replace(annotation=Option[list[str] | None, alone])


def _delimiter(given: str | None) -> str | None:
    if given is None or given in ("\\t", "tab"):
        return given and "\t"
    if len(given) != 1:
        raise ValueError(f"Expected one character for --delimiter, such as ';', found {given!r}. Correct it.")
    return given


def _split(text: str) -> tuple[str, ...]:
    """Split names at commas, but for those within double quotes."""
    try:
        rows = list(csv.reader(io.StringIO(text), skipinitialspace=True, strict=True))
    except csv.Error as error:
        raise ValueError(f"Expected names {NAMES}, found {text!r} ({error}). Correct the quotes.") from error
    return tuple(name.strip() for row in rows for name in row if name.strip())


def _columns(pairs: Sequence[str]) -> dict[str, str | None]:
    """Parse ROLE=NAME into columns by role; an empty name means no such column."""
    wrong = [pair for pair in pairs if "=" not in pair]
    if wrong:
        raise ValueError(f"Expected --column ROLE=NAME, such as --column label=diagnosis, found {wrong[0]!r}.")
    return {role.strip(): name or None for role, _, name in (pair.partition("=") for pair in pairs)}


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
    abstained: Sequence[str] = ()
    encoding: str | None = None
    delimiter: str | None = None
    names: Sequence[str] = ()
    header: bool = False
    quotes: bool | None = None
    feature_prefix: str | None = None
    question: str | None = None
    variant: str | None = None

    def read(self, path: Path, *, subset: bool = True) -> Reading:
        """Read a file or folder; all truth of a subset may be unknown.

        Raises
        ------
        ValueError
            If the file cannot be read so.
        """
        lists = {name: getattr(self, name) for name in ("classes", "people", "missing", "abstained")}
        try:
            return self._read(
                path, {name: [n for text in given for n in _split(text)] for name, given in lists.items()}, subset
            )
        except ValueError as error:
            if "," not in "".join(text for given in lists.values() for text in given) or "the options" in str(error):
                raise
            first = error
        try:  # each option may be one name that holds commas
            return self._read(path, {name: [text.strip() for text in given] for name, given in lists.items()}, subset)
        except ValueError:
            raise ValueError(f"{first} (Names are read {NAMES}.)") from first

    def _read(self, path: Path, lists: Mapping[str, list[str]], subset: bool) -> Reading:
        asked = {
            name: value
            for name, value in {**vars(self), **lists}.items()
            if value or (value is False and name == "quotes")
        }
        if self.columns:
            asked["columns"] = _columns(self.columns)
        return read_reported(path, subset=subset, **asked)


def read_with_features(
    path: Path, reading: ReadingOptions | None = None, *, subset: bool = False
) -> tuple[Annotated, Annotated | None]:
    """Read data of any format, which must have features; the truth of a subset may be unknown.

    The reader prints on stderr what it took for what.
    """
    reading = reading or ReadingOptions()
    train, test, taken = reading.read(path, subset=subset)
    typer.secho(f"pl2d: {path}: {taken}", err=True)
    if np.shape(train.x)[1:] == (0,) and not train.is_lazy:
        raise ValueError(
            f"Expected features in {path}, found annotations only. Join them: --features FILE, a table or .npz by "
            f"item; or write all into one file: pl2d data convert {path} DATA.npz --features FILE."
        )
    if not subset and not (train.y >= 0).any():
        raise ValueError(
            f"Expected some truth in {path}, found none. Infer it: pl2d crowd {path}; or add a table: --truth FILE."
        )
    return train.read(), None if test is None else test.read()


def read_inputs(path: Path, expected: Sequence[str] | None = None, columns: Sequence[str] = ()) -> Features:
    """Read features of new items; nothing else about them need be known.

    Parameters
    ----------
    path : Path
        The file.
    expected : sequence of str, length D, optional
        Names of the features of the fit: columns are found by them.
    columns : sequence of str
        Roles of columns, as for ``--column``.

    Returns
    -------
    Features
        In the order of the fit.

    Raises
    ------
    ValueError
        If features are missing, or not finite.
    """
    if path.exists() and format_of(path) not in ("npz", "table"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            data = read_with_features(path, subset=True)[0]
        found = Features(None if data.items is None else data.items.tolist(), np.asarray(data.x), data.features)
    else:
        found = read_features(path, _columns(columns), expected)
    found = found._replace(x=np.asarray(found.x, np.float32))
    if expected is not None and found.names is not None and tuple(found.names) != tuple(expected):
        found = _reordered(path, found, expected)
    if len(found.x) == 0 or not np.isfinite(found.x).all():
        what = "none" if len(found.x) == 0 else "NaN or infinity"
        raise ValueError(f"Expected finite inputs in {path}, found {what}.")
    return found


def _reordered(path: Path, found: Features, expected: Sequence[str]) -> Features:
    names = list(found.names or ())
    absent = [name for name in expected if name not in names]
    if absent:
        raise ValueError(
            f"Expected the features of the fit, {', '.join(expected)}, in {path}, found {', '.join(names)}, and none "
            f"of {', '.join(absent)}. Name the columns as in the fit."
        )
    return found._replace(x=found.x[:, [names.index(name) for name in expected]], names=tuple(expected))
