"""Write annotations to tables: one row per annotation, one row per item, or numbers of votes."""

import json
import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray

from pl2d_ppl.checks.warn import warn
from pl2d_ppl.data.annotated import Annotated
from pl2d_ppl.data.long import ABSTAINED
from pl2d_ppl.data.npz import stored_text
from pl2d_ppl.data.tables.column_names import FEATURES, VOTES, is_taken
from pl2d_ppl.data.tables.columns import Layout
from pl2d_ppl.data.tables.missing_labels import missing_among
from pl2d_ppl.data.tables.table_files import NOTES
from pl2d_ppl.io import check_writable, written_whole

__all__ = ["check_names", "check_parts", "item_names", "write_features", "write_table"]

NO_FEATURES = (
    "Expected a format that holds features, found {}, which holds no features. Write them beside it, features=FILE.npz "
    "(--features-out), and join them when it is read, features=FILE.npz (--features)."
)


def write_table(
    path: str | os.PathLike,
    data: Annotated,
    test: Annotated | None = None,
    *,
    layout: Layout | None = None,
    features: str | os.PathLike | None = None,
) -> None:
    """Write annotations to a CSV or Parquet file, whole or not at all.

    :func:`~pl2d_ppl.data.tables.reading.read_table` returns them from Parquet. CSV stores neither the order of classes
    and people nor classes that nobody names: pass ``classes=data.classes, people=data.annotators`` to the
    reader. Items without names are called "0", "1", ....

    Parameters
    ----------
    path : path-like
        ``.csv`` or ``.tsv``, in UTF-8, or ``.parquet``; an older file is replaced.
    data : Annotated
        Data set, or its training part.
    test : Annotated, optional
        Test part, marked by a column ``split``; with the same classes and annotators.
    layout : {"long", "wide", "counts"}, optional
        See :func:`~pl2d_ppl.data.tables.reading.read_table`. By default counts for votes without identified people,
        wide for votes with identified people, and long otherwise.
    features : path-like, optional
        An ``.npz`` for features and names of items, for the reader to join. Without it, wide and counts tables have
        columns ``x_0``, ``x_1``, ... for features (N, D).

    Raises
    ------
    ValueError
        If the path cannot be written to, the layout cannot hold the data, parts differ in their classes or annotators
        or share items, or a name would be read as something else.

    Warns
    -----
    UserWarning
        If features are left out: in a long table, for images, or for lazy items.
    """
    path = Path(path)
    votes = data.counts is not None
    layout = layout or ("long" if not votes else "wide" if data.num_experts else "counts")
    check_writable(path)
    parts = check_parts(data, test)
    check_names(data, absent=_absent(data) if path.suffix.lower() != ".parquet" else ())
    _check_layout(layout, data)
    names = item_names(parts)
    columns = _of_items(parts, names)
    if layout == "long":
        columns = _long(parts, columns)
        left_out = data.is_lazy or np.shape(data.x)[1:] != (0,)
    else:
        columns |= _said(parts) | _votes(parts)
        left_out = data.is_lazy or np.ndim(data.x) != 2
        if features is None and not left_out:
            x = np.concatenate([part.x for part in parts])
            names_of_x = data.features or tuple(map(str, range(x.shape[1])))
            columns |= {FEATURES + name.removeprefix(FEATURES): pa.array(x[:, d]) for d, name in enumerate(names_of_x)}
    if features is not None:
        write_features(features, data, test)
    elif left_out:
        warn(NO_FEATURES.format(path))
    _warn_of_losses(path, parts, layout)
    notes = {"layout": layout, "classes": data.classes, "annotators": data.annotators}
    table = pa.table(columns).replace_schema_metadata({NOTES: json.dumps(notes)})
    with written_whole(path) as scratch:
        if path.suffix.lower() == ".parquet":
            pa.parquet.write_table(table, scratch)
        else:
            _write_csv(table, scratch)


def _write_csv(table: pa.Table, path: Path) -> None:
    """Write without quotes if nothing needs them: otherwise Arrow quotes all text.

    `DataFrame.to_csv` of pandas writes the same bytes, but takes 9 (wide) to 12 (long) times as long.
    """
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    needed = any(re.search(f'["\r\n{delimiter}]', name) for name in table.column_names)
    for style in ("needed",) if needed else ("none", "needed"):
        options = pa.csv.WriteOptions(
            delimiter=delimiter, quoting_style=style, quoting_header="needed" if needed else "none"
        )
        try:
            pa.csv.write_csv(table, path, options)
            return
        except pa.ArrowInvalid:
            if style == "needed":
                raise


def check_parts(data: Annotated, test: Annotated | None) -> list[Annotated]:
    """Refuse parts that do not belong together.

    Returns
    -------
    list of Annotated
        One part, or two.

    Raises
    ------
    ValueError
        If the parts differ in classes or annotators, or only one of them has groups, superclasses or votes.
    """
    parts = [data] if test is None else [data, test]
    for field in ("classes", "annotators"):
        if test is not None and getattr(test, field) != getattr(data, field):
            raise ValueError(
                f"Expected test with the {field} of data, {getattr(data, field)}, found {getattr(test, field)}. Write "
                "them to separate files."
            )
    for field in ("group", "coarse", "counts"):
        if len({getattr(part, field) is None for part in parts}) > 1:
            raise ValueError(
                f"Expected {field} in both parts, or in none, found it in one. Write them to separate files."
            )
    return parts


def check_names(data: Annotated, *, absent: Collection[str] = ()) -> None:
    """Refuse names that would be read as missing.

    Raises
    ------
    ValueError
        If a category has a name in `absent` or without letters, or a person has an empty name.
    """
    wrong = [name for name in data.classes if not name.strip() or name in absent]
    empty = [name for name in data.annotators if not name.strip()]
    if wrong or empty:
        raise ValueError(
            f"Expected names that do not mean that something is missing, found {(wrong + empty)[0]!r} in "
            f"{'classes' if wrong else 'annotators'}. Rename it."
        )


def _absent(data: Annotated) -> Collection[str]:
    """Names of categories that would be read as missing from a table that does not list its categories."""
    try:
        return missing_among(data.classes)
    except ValueError:  # -1 might be
        return ("-1",)


def _warn_of_losses(path: Path, parts: list[Annotated], layout: str) -> None:
    lost = ["the AI's probabilities"] if parts[0].ai is not None else []
    if layout != "long" and any(part.long.abstentions is not None for part in parts):
        lost.append("abstentions")
    if lost:
        warn(f"Expected a format that holds {' and '.join(lost)}, found {path}, which leaves them out. Write an .npz.")


def _check_layout(layout: str, data: Annotated) -> None:
    if layout not in ("long", "wide", "counts"):
        raise ValueError(f'Expected layout "long", "wide" or "counts", found {layout!r}. Choose one.')
    if layout == "counts" and (data.counts is None or data.num_experts):
        found = f"annotations of {data.num_experts} people" if data.num_experts else "no votes"
        raise ValueError(f'Expected votes only for layout="counts", found {found}. Choose "wide", which holds both.')
    if layout == "long" and data.counts is not None:
        raise ValueError('Expected no anonymous votes for layout="long", found some. Choose "wide", which holds both.')
    taken = [name for name in data.annotators if is_taken(name)] if layout == "wide" else []
    if taken:
        raise ValueError(
            "Expected columns of a wide table that are not read as something else, found a person called "
            f'{taken[0]!r}. Rename them, or choose layout="long".'
        )


def item_names(parts: list[Annotated]) -> list[NDArray]:
    """Return the names of the items of each part, or numbers if items have no names.

    Raises
    ------
    ValueError
        If parts share items, or a name is empty.
    """
    starts = np.cumsum([0, *(part.num_items for part in parts)])
    names = [
        np.arange(start, start + part.num_items).astype(str) if part.items is None else part.items
        for part, start in zip(parts, starts, strict=False)
    ]
    whole = [name for part in names for name in part.tolist()]
    if len(set(whole)) < len(whole):
        seen: set[str] = set()
        again = next(name for name in whole if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"Expected parts that share no items, found {again!r} in both. Write them to separate files.")
    if not all(name.strip() for name in whole):
        raise ValueError("Expected names in items that are not empty, found an empty one. Rename it.")
    return names


def _of_items(parts: list[Annotated], names: list[NDArray]) -> dict[str, Any]:
    """Return the columns of a table with one row per item."""
    columns: dict[str, Any] = {"item": pa.array(np.concatenate(names).tolist(), pa.string())}
    y = np.concatenate([part.y for part in parts])
    if (y >= 0).any():
        columns["truth"] = _labels(y, parts[0].classes)
    for field in ("group", "coarse"):
        if getattr(parts[0], field) is not None:
            values = [getattr(part, field) for part in parts]
            columns[field] = pa.array(np.concatenate(values).tolist())
    if len(parts) > 1:
        sizes = [part.num_items for part in parts]
        columns["split"] = pa.array(np.repeat(["train", "test"], sizes).tolist())
    return columns


def _labels(numbers: NDArray, names: tuple[str, ...]) -> Any:
    """Return names of categories, null where missing."""
    return pa.array(list(names), pa.string()).take(pa.array(numbers, mask=numbers < 0))


def _long(parts: list[Annotated], of_items: dict[str, Any]) -> dict[str, Any]:
    """Return columns with one row per annotation; items and people without any get a row without label."""
    starts = np.cumsum([0, *(part.num_items for part in parts)])
    longs = [part.long for part in parts]
    rows = np.concatenate([long.items + start for long, start in zip(longs, starts, strict=False)])
    people, labels = (np.concatenate([getattr(long, name) for long in longs]) for name in ("people", "labels"))
    unannotated = np.flatnonzero(np.bincount(rows, minlength=starts[-1]) == 0)
    silent = np.flatnonzero(np.bincount(people, minlength=parts[0].num_experts) == 0)
    rows = np.concatenate([rows, unannotated, np.zeros(len(silent), int)])
    people = np.concatenate([people, np.full(len(unannotated), -1), silent])
    labels = np.concatenate([labels, np.full(len(unannotated) + len(silent), -1)])
    order = np.argsort(rows, kind="stable")  # keep the order of the items
    rows, people, labels = rows[order], people[order], labels[order]
    columns = {name: column.take(pa.array(rows)) for name, column in of_items.items()}
    said = {"annotator": _labels(people, parts[0].annotators), "label": _labels(labels, parts[0].classes)}
    if (labels == ABSTAINED).any():
        said["abstained"] = pa.array(labels == ABSTAINED)
    return {"item": columns.pop("item"), **said, **columns}


def _said(parts: list[Annotated]) -> dict[str, Any]:
    annotations = np.concatenate([part.annotations for part in parts])
    return {name: _labels(annotations[:, m], parts[0].classes) for m, name in enumerate(parts[0].annotators)}


def _votes(parts: list[Annotated]) -> dict[str, Any]:
    counts = [part.counts for part in parts if part.counts is not None]
    if not counts:
        return {}
    whole = np.concatenate(counts)
    return {VOTES + name: pa.array(whole[:, c]) for c, name in enumerate(parts[0].classes)}


def write_features(path: str | os.PathLike, data: Annotated, test: Annotated | None = None) -> None:
    """Write features with the names of their items, for a reader to join.

    Parameters
    ----------
    path : path-like
        An ``.npz``; an older file is replaced.
    data, test : Annotated
        Parts, whose features have one shape.

    Raises
    ------
    ValueError
        If the path cannot be written to, the file is not an ``.npz``, or there are no features in memory.
    """
    path = Path(path)
    parts = [data] if test is None else [data, test]
    if path.suffix.lower() != ".npz":
        raise ValueError(f"Expected an .npz to write features to, found {path}. Rename it.")
    if data.is_lazy or np.shape(data.x)[1:] == (0,):
        raise ValueError(f"Expected features in memory, found {'a lazy source' if data.is_lazy else 'none'}.")
    with written_whole(path) as scratch, scratch.open("wb") as file:
        names = [name for part in item_names(parts) for name in part.tolist()]
        arrays = {**stored_text("items", names), "x": np.concatenate([part.x for part in parts])}
        if data.features is not None:
            arrays["features"] = np.array(data.features)
        np.savez_compressed(file, allow_pickle=False, **arrays)
