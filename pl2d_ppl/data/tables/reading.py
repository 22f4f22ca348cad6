"""Read annotations from tables: one row per annotation, one row per item, or numbers of votes."""

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

    Layouts, recognised by their columns:

    - long: one row per annotation, with columns ``item``, ``annotator`` and ``label``. A row without label, or without
      annotator and label, only names a person, or an item. Other columns are ignored.
    - wide: one row per item, and one column per person: `people`, or all columns without another role. Columns
      ``votes_NAME`` hold numbers of anonymous votes for the category NAME.
    - counts: one row per item, and one column per category, with the number of anonymous votes; empty means none.

    All layouts may have columns ``truth``, ``group``, ``coarse`` and ``split`` ("train" or "test"; test items become
    the second part), with the same value in all rows of an item. Wide and counts tables need no ``item``, and may have
    features in columns that begin with ``x_``. Column names ignore case, and common other names such as ``worker_id``
    are recognised. Labels are names or integers; empty, "NA", "NaN", "null" and -1 mean missing. Items are in order of
    appearance, people in the order of `people`, or else sorted.

    Parameters
    ----------
    path : path-like
        ``.csv``, ``.tsv`` or ``.txt`` in UTF-8, or ``.parquet``.
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
    duplicates : {"error", "first", "last", "majority"}
        Which label counts if a person gave an item several; ties of the majority go to the first label. A repeated
        label is not a conflict.
    missing : iterable of str
        More labels that mean "no annotation", such as "unsure".
    encoding : str
        Encoding of a CSV file, such as "latin-1".
    delimiter : str, optional
        Delimiter of a CSV file; by default the most frequent in its header: comma, semicolon or tab.
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
    """Divide the items into a training and a test part."""
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
