"""Annotations in tables: a row an annotation, a row an item, or numbers of votes."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pl2d_ppl.checks.names import distinct_names
from pl2d_ppl.data.annotated import Annotated
from pl2d_ppl.data.source import take
from pl2d_ppl.data.tables.columns import FEATURES, Layout, detect_layout, find_columns
from pl2d_ppl.data.tables.joining import read_item_labels
from pl2d_ppl.data.tables.layouts import READERS, Request
from pl2d_ppl.data.tables.repeats import Duplicates
from pl2d_ppl.data.tables.table_files import naming_table, open_table

__all__ = ["read_table"]


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
    encoding: str = "utf-8",
    delimiter: str | None = None,
    subset: bool = False,
) -> tuple[Annotated, Annotated | None]:
    """Read annotations from a CSV or Parquet file.

    Layouts, told apart by their columns:

    - long: a row an annotation, with columns ``item``, ``annotator`` and ``label``. A row without label, or without
      annotator and label, says that there is such a person, or item. Other columns are left alone.
    - wide: a row an item, and a column a person; all columns that are nothing else, or `people`. Columns
      ``votes_NAME`` hold numbers of anonymous votes for the category NAME.
    - counts: a row an item, and a column a category, with the number of anonymous votes; empty means none.

    Any may have columns ``truth``, ``group``, ``coarse`` and ``split`` ("train" or "test"; test items become the second
    part), alike in all rows of an item; wide and counts tables need no ``item``, and may have features, in columns
    that begin with ``x_``. Case, and common other names such as ``worker_id``, are understood. Labels are names or
    integers, missing where empty, "NA", "NaN", "null" or -1. Items are in order of appearance, people in that of
    `people`, or else sorted.

    Parameters
    ----------
    path : path-like
        ``.csv``, ``.tsv`` or ``.txt`` in UTF-8, or ``.parquet``.
    layout : {"long", "wide", "counts"}, optional
        By default what the columns say.
    columns : mapping of str to str or None, optional
        Which column is ``item``, ``annotator``, ``label``, ``truth``, ``group``, ``coarse`` or ``split``, where its
        name does not tell; None where there is none, in spite of a name.
    classes : iterable of str, length C, optional
        Names of the categories; labels are these names, or where none of these is a number, may be their places from
        0. By default the labels that there are, sorted; integers are categories themselves. A Parquet file that
        :func:`~pl2d_ppl.data.tables.writing.write_table` wrote knows its own.
    people : iterable of str, length M, optional
        Who is read, in this order. By default everybody.
    truth : path-like, optional
        Another table, of items and their truth. Items that a long table lacks are added: nobody annotated them.
    features : path-like, optional
        Features by item: an ``.npz`` with `items` and `x`, a table, or a folder of images, which are lazy; see
        :func:`~pl2d_ppl.data.tables.joining.join_features`. Without any, x has shape (N, 0).
    feature_prefix : str
        How columns of features begin, in a wide or counts table.
    duplicates : {"error", "first", "last", "majority"}
        Which label counts where somebody gave an item several; a tie of the majority goes to what came first. The same
        label again is no conflict.
    missing : iterable of str
        More labels that mean "no annotation", such as "unsure".
    encoding : str
        Of a CSV file, such as "latin-1".
    delimiter : str, optional
        Of a CSV file; by default what its header has most of: comma, semicolon or tab.
    subset : bool
        Whether this is a part of a data set, of which no truth need be known.

    Returns
    -------
    train : Annotated
    test : Annotated or None
        Items whose ``split`` is "test".

    Raises
    ------
    ValueError
        If the file cannot be read, a column is missing, a label is unknown, somebody gave an item several labels,
        truth differs between rows of an item, or as :class:`Annotated` does.

    Warns
    -----
    UserWarning
        If names of people, or of categories, differ by case, blanks or Unicode form only.
    """
    path = Path(path)
    file = open_table(path, encoding, delimiter)
    with naming_table(path):
        roles = find_columns(file.names, columns)
        named = None if classes is None else distinct_names("classes", classes)
        who = None if people is None else distinct_names("people", people)
        noted = tuple(file.notes["classes"]) if "classes" in file.notes else None
        layout = layout or file.notes.get("layout") or detect_layout(file, roles, named or noted, who, feature_prefix)
        if layout not in READERS:
            raise ValueError(f'Expected layout "long", "wide" or "counts", found {layout!r}. Choose one.')
    request = Request(
        file=file,
        roles=roles,
        classes=named or noted,
        people=who,
        truth=None if truth is None else read_item_labels(Path(truth), columns, encoding),
        truth_path=None if truth is None else Path(truth),
        features=None if features is None else Path(features),
        feature_prefix=feature_prefix,
        duplicates=duplicates,
        missing=tuple(missing),
    )
    with naming_table(path):
        return _parts(*READERS[layout](request), subset=subset)


def _parts(content: dict[str, Any], is_test: NDArray | None, *, subset: bool) -> tuple[Annotated, Annotated | None]:
    """Divide what was read into a training and a test part."""
    if not subset and content["counts"] is None and not (content["y"] >= 0).any():
        raise ValueError(
            "Expected the truth of at least one item in y, found none. Add a column truth, or name a table that has "
            "it, truth=FILE (pl2d data convert --truth FILE)."
        )
    if is_test is None or not is_test.any():
        return Annotated(**content, subset=subset), None
    if is_test.all():
        raise ValueError('Expected "train" in split for some items, found "test" for all. Correct it, or leave it out.')
    whole = {name: content.pop(name) for name in ("classes", "annotators")}

    def part(rows: NDArray) -> dict[str, Any]:
        chosen = {n: v if v is None else take(v, np.flatnonzero(rows)) for n, v in content.items()}
        return chosen | whole

    return Annotated(**part(~is_test), subset=subset), Annotated(**part(is_test), subset=True)
