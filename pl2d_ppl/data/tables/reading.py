"""Read annotations from tables: one row per annotation, one row per item, or numbers of votes."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pl2d_ppl.checks.names import distinct_names, listed
from pl2d_ppl.data.annotated import Annotated
from pl2d_ppl.data.parts import Reading, in_parts, taken_line
from pl2d_ppl.data.tables.column_names import FEATURES, OF_LONG
from pl2d_ppl.data.tables.columns import Layout, detect_layout, find_columns
from pl2d_ppl.data.tables.joining import read_item_labels
from pl2d_ppl.data.tables.layouts import READERS, Request
from pl2d_ppl.data.tables.records import Choice
from pl2d_ppl.data.tables.repeats import Duplicates
from pl2d_ppl.data.tables.table_files import Dialect, TableFile, naming_table, open_table

__all__ = ["read_open_table", "read_table"]


def read_table(
    path: str | os.PathLike,
    *,
    layout: Layout | None = None,
    columns: Mapping[str, str | None] | None = None,
    classes: Iterable[str] | None = None,
    people: Iterable[str] | None = None,
    truth: str | os.PathLike | None = None,
    features: str | os.PathLike | None = None,
    feature_prefix: str = FEATURES,
    duplicates: Duplicates = "error",
    missing: Iterable[str] = (),
    abstained: Iterable[str] = (),
    encoding: str = "utf-8",
    delimiter: str | None = None,
    names: Iterable[str] | None = None,
    header: bool = False,
    quotes: bool | None = None,
    subset: bool = False,
) -> tuple[Annotated, Annotated | None]:
    """Read annotations from a table: text, Parquet or Excel, compressed or not.

    Layouts, recognised by their columns:

    - long: one row per annotation, with columns ``item``, ``annotator`` and ``label``. A row without label, or without
      annotator and label, only names a person, or an item. Other columns are ignored.
    - wide: one row per item, and one column per person: `people`, or all columns without another role. Columns
      ``votes_NAME`` hold numbers of anonymous votes for the category NAME.
    - counts: one row per item, and one column per category, with the number of anonymous votes; empty means none.

    All layouts may have columns ``truth``, ``group``, ``coarse`` and ``split`` ("train" or "test"; test items become
    the second part), with the same value in all rows of an item. Wide and counts tables need no ``item``, and may have
    features in columns that begin with ``x_``. Column names ignore case, and common other names such as ``worker_id``
    are recognised; identifiers of labels and the index of pandas are neither. Labels are names or numbers; empty, "NA",
    "NaN", "NULL" and the like mean missing, and so does -1, except on a scale such as -5..5. Items are in order of
    appearance, people in the order of `people`, or else sorted.

    Parameters
    ----------
    path : path-like
        ``.csv``, ``.tsv`` or ``.txt`` in UTF-8, ``.parquet`` or ``.xlsx``.
    layout : {"long", "wide", "counts"}, optional
        By default the layout is found from the columns.
    columns : mapping of str to str or None, optional
        Which column is ``item``, ``annotator``, ``label``, ``truth``, ``group``, ``coarse`` or ``split``, if its name
        does not show it; None if there is no such column, despite its name.
    classes : iterable of str, length C, optional
        Names of the categories. Labels are these names or, if none of them is a number, their positions from 0. By
        default the labels in the table, sorted; integers are categories themselves. A Parquet file from
        :func:`~pl2d_ppl.data.tables.writing.write_table` stores its classes.
    people : iterable of str, length M, optional
        People to read, in this order. By default everybody.
    truth : path-like, optional
        Another table, of items and their truth. Items that a long table lacks are added, without annotations.
    features : path-like, optional
        Features by item: an ``.npz`` with `items` and `x`, a table, or a folder of images, which are lazy; see
        :func:`~pl2d_ppl.data.tables.joining.join_features`. Without features, x has shape (N, 0).
    feature_prefix : str
        Prefix of columns of features, in a wide or counts table.
    duplicates : {"error", "first", "last", "newest", "majority"}
        Which label counts if a person gave an item several; ties of the majority go to the first label. A repeated
        label is not a conflict. The newest is found by a column ``time``.
    missing : iterable of str
        More labels that mean "no annotation", such as "unsure".
    abstained : iterable of str
        Labels of somebody who was asked and would not say, such as "skip".
    encoding : str
        Encoding of a table of text, such as "latin-1".
    delimiter : str, optional
        Delimiter of a table of text; by default the one that splits its rows alike.
    names : iterable of str, optional
        Names of the columns of a table of text without a header.
    header : bool
        Whether the first row is known to be a header, although it looks like the others.
    quotes : bool, optional
        Whether quotation marks enclose fields; by default they do, and one that is never closed is refused.
    subset : bool
        Whether this is a part of a data set, whose truth may be unknown.

    Returns
    -------
    train : Annotated
    test : Annotated or None
        Items whose ``split`` is "test".

    Raises
    ------
    ValueError
        If the file cannot be read, a column is missing, a label is unknown, a person gave an item several labels, truth
        differs between rows of an item, or :class:`Annotated` refuses the data.

    Warns
    -----
    UserWarning
        If names of people, or of categories, differ only by case, blanks or Unicode form.
    """
    given = Dialect(encoding, delimiter, None if names is None else distinct_names("names", names), quotes, header)
    named = {name for name in (columns or {}).values() if name}
    dialect = given if names is not None or not (named or people) else replace(given, header=header or bool(named))
    path = Path(path)
    return read_open_table(
        open_table(path, dialect),
        layout=layout,
        columns=columns,
        classes=classes,
        people=people,
        truth=truth,
        features=features,
        feature_prefix=feature_prefix,
        duplicates=duplicates,
        missing=missing,
        abstained=abstained,
        dialect=given,
        subset=subset,
    )[:2]


def read_open_table(
    file: TableFile,
    *,
    layout: Layout | None = None,
    columns: Mapping[str, str | None] | None = None,
    classes: Iterable[str] | None = None,
    people: Iterable[str] | None = None,
    truth: str | os.PathLike | None = None,
    features: str | os.PathLike | None = None,
    feature_prefix: str = FEATURES,
    duplicates: Duplicates = "error",
    missing: Iterable[str] = (),
    abstained: Iterable[str] = (),
    dialect: Dialect = Dialect(),  # noqa: B008 - frozen
    subset: bool = False,
) -> Reading:
    """Read annotations from a table that is open.

    Parameters
    ----------
    file : TableFile
        The table.
    dialect : Dialect
        How the table of the truth is written.
    layout, columns, classes, people, truth, features, feature_prefix, duplicates, missing, abstained, subset
        As for :func:`read_table`.

    Returns
    -------
    Reading
        The data, and what was taken for what.

    Raises
    ------
    ValueError
        As :func:`read_table`.
    """
    with naming_table(file.path):
        roles = find_columns(file.names, columns)
        named = None if classes is None else distinct_names("classes", classes)
        who = None if people is None else distinct_names("people", people)
        noted = tuple(file.notes["classes"]) if "classes" in file.notes else None
        layout = layout or file.notes.get("layout") or detect_layout(file, roles, named or noted, who, feature_prefix)
        if layout not in READERS:
            raise ValueError(f'Expected layout "long", "wide" or "counts", found {layout!r}. Choose one.')
    choice = Choice(
        named or noted, who, tuple(missing), tuple(abstained), duplicates, tuple(file.notes.get("annotators", ()))
    )
    request = Request(
        file=file,
        roles=roles,
        choice=choice,
        truth=None if truth is None else read_item_labels(Path(truth), columns, replace(dialect, names=None)),
        truth_path=None if truth is None else Path(truth),
        features=None if features is None else Path(features),
        feature_prefix=feature_prefix,
        columns=columns or {},
    )
    with naming_table(file.path):
        content, is_test = READERS[layout](request)
        taken = _taken(layout, request, content)
        return Reading(*in_parts(content, is_test, subset=subset), taken)


def _taken(layout: str, request: Request, content: Mapping[str, Any]) -> str:
    roles = dict(request.roles)
    told: dict[str, str | None] = {"item": roles.get("item")}
    if layout == "long":
        told |= {"person": roles.get("annotator"), "label": roles.get("label")}
    elif layout == "counts":
        told["votes"] = listed(content["classes"])
    else:
        told["people"] = listed(content["annotators"]) or None
    told["truth"] = roles.get("truth") if request.truth is None else str(request.truth_path)
    told |= {role: name for role, name in roles.items() if role not in (*OF_LONG, "truth", "time")}
    return taken_line(f"{layout} table", told, content["missing"])
