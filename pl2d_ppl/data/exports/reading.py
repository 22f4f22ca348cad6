"""Read what annotation tools export: JSON, JSON lines, archives, and tables of a known kind."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from pl2d_ppl.checks.names import distinct_names
from pl2d_ppl.data.parts import Reading
from pl2d_ppl.data.tables.column_names import FEATURES
from pl2d_ppl.data.tables.columns import Layout
from pl2d_ppl.data.tables.reading import read_open_table
from pl2d_ppl.data.tables.repeats import Duplicates
from pl2d_ppl.data.tables.table_files import Dialect, open_table

__all__ = ["read_export", "read_export_table"]


def read_export_table(
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
    question: str | None = None,
    subset: bool = False,
) -> Reading:
    """Read a table, of an annotation tool or of any other kind, and say what was taken for what.

    Parameters
    ----------
    path : path-like
        The table.
    question : str, optional
        Which of several questions of an export is meant.
    layout, columns, classes, people, truth, features, feature_prefix, duplicates, missing, abstained
        As for :func:`~pl2d_ppl.data.tables.reading.read_table`.
    encoding, delimiter, names, header, quotes, subset
        As for :func:`~pl2d_ppl.data.tables.reading.read_table`.

    Returns
    -------
    Reading
        The data, and what was taken for what.

    Raises
    ------
    ValueError
        As :func:`~pl2d_ppl.data.tables.reading.read_table`.
    """
    given = Dialect(encoding, delimiter, None if names is None else distinct_names("names", names), quotes, header)
    told = names is None and bool(people or any((columns or {}).values()))
    file = open_table(Path(path), replace(given, header=header or told))
    return read_open_table(
        file,
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
    )


def read_export(path: str | os.PathLike, *, subset: bool = False) -> Reading:
    """Read JSON, JSON lines, an archive or a folder of an annotation tool."""
    raise ValueError(f"Expected JSON of an annotation tool at {path}, found something else.")
