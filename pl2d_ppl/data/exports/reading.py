"""Read what annotation tools export: JSON, JSON lines, archives, and tables of a known kind."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from pl2d_ppl.checks.names import distinct_names
from pl2d_ppl.data.checks import text_array
from pl2d_ppl.data.exports.crowds import figure_eight, is_figure_eight, is_popquorn, is_toloka, popquorn, toloka
from pl2d_ppl.data.exports.doccano import doccano
from pl2d_ppl.data.exports.found import Found, Wanted
from pl2d_ppl.data.exports.keyed import answers, is_answers, is_lewidi, lewidi
from pl2d_ppl.data.exports.label_studio import flat, is_flat, is_tasks, tasks
from pl2d_ppl.data.exports.labelbox import is_labelbox, labelbox
from pl2d_ppl.data.exports.lists import has_lists, lists
from pl2d_ppl.data.exports.loading import load_json, load_members
from pl2d_ppl.data.exports.mturk import is_mturk, mturk
from pl2d_ppl.data.exports.prodigy import is_prodigy, prodigy
from pl2d_ppl.data.exports.varierr import is_varierr, varierr
from pl2d_ppl.data.exports.zooniverse import (
    classifications,
    extractions,
    is_classifications,
    is_extractions,
    is_reductions,
    reductions,
)
from pl2d_ppl.data.parts import Reading, in_parts, taken_line
from pl2d_ppl.data.tables.column_names import FEATURES
from pl2d_ppl.data.tables.columns import Layout
from pl2d_ppl.data.tables.joining import features_by_name, known_truth, read_item_labels
from pl2d_ppl.data.tables.reading import read_open_table
from pl2d_ppl.data.tables.records import SKIP, TRUTH, Choice, Records, collect, joined
from pl2d_ppl.data.tables.repeats import Duplicates
from pl2d_ppl.data.tables.table_files import Dialect, TableFile, naming_table, open_table, table_of

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
    wanted = Wanted(question, columns or {})
    reader = None if layout or "annotator" in wanted.columns else _table_reader(file)
    if reader is not None:
        options = _Options(classes, people, truth, features, duplicates, missing, abstained, subset)
        with naming_table(file.path):
            return _reading(file.path, reader(_rows(file), wanted), wanted, options)
    if not layout and is_reductions(file.names):
        _, counted = reductions(_rows(file), wanted)
        file = table_of(file.path, pa.Table.from_pylist(counted))
        columns, layout = {}, "wide"
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


def read_export(
    path: str | os.PathLike,
    *,
    columns: Mapping[str, str | None] | None = None,
    classes: Iterable[str] | None = None,
    people: Iterable[str] | None = None,
    truth: str | os.PathLike | None = None,
    features: str | os.PathLike | None = None,
    duplicates: Duplicates = "error",
    missing: Iterable[str] = (),
    abstained: Iterable[str] = (),
    layout: Layout | None = None,
    feature_prefix: str = FEATURES,
    question: str | None = None,
    subset: bool = False,
) -> Reading:
    """Read JSON, JSON lines, an archive or a folder of an annotation tool, and say what was taken for what.

    Known are tasks of Label Studio, examples of Prodigy, files of doccano by user, data rows of Labelbox, columns of
    lists, answers by item and person (peerannot), LeWiDi, and VariErr. Other records are read as a table.

    Parameters
    ----------
    path : path-like
        The file, compressed or not; a ``.zip``; or a folder.
    question : str, optional
        Which of several questions is meant.
    columns : mapping of str to str, optional
        Which field is the ``item``, or the ``label``, if it is not the usual one.
    classes, people, truth, features, duplicates, missing, abstained, layout, feature_prefix, subset
        As for :func:`~pl2d_ppl.data.tables.reading.read_table`.

    Returns
    -------
    Reading
        The data, and what was taken for what.

    Raises
    ------
    ValueError
        If the file cannot be read, the question is not clear, or records contradict each other.
    """
    path, wanted = Path(path), Wanted(question, columns or {})
    options = _Options(classes, people, truth, features, duplicates, missing, abstained, subset)
    with naming_table(path):
        if path.is_dir() or _is_archive(path):
            return _reading(path, doccano(load_members(path), wanted), wanted, options)
        content = load_json(path)
        try:
            of_one_line = isinstance(content, dict) and _as_table(content) is None
            for candidate in (content, [content]) if of_one_line else (content,):
                for fits, reader in _JSON:
                    if fits(candidate):
                        return _reading(path, reader(candidate, wanted), wanted, options)
        except (AttributeError, TypeError, KeyError, IndexError) as error:
            raise ValueError(
                f"Expected {path} to keep the layout with which it begins, found something else ({error!r}). Export it "
                "again."
            ) from error
        table = _as_table(content)
    if table is None:
        raise ValueError(
            f"Expected an export of an annotation tool, or a list of records, in {path}, found JSON of another kind. "
            "Write a table with columns for item, annotator and label."
        )
    return read_open_table(
        table_of(path, table),
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
        subset=subset,
    )


class _Options(NamedTuple):
    """Options of all readers."""

    classes: Iterable[str] | None
    people: Iterable[str] | None
    truth: str | os.PathLike | None
    features: str | os.PathLike | None
    duplicates: Duplicates
    missing: Iterable[str]
    abstained: Iterable[str]
    subset: bool


_TABLES: Sequence[tuple[Callable[[Sequence[str]], bool], Callable[[Any, Wanted], Found]]] = (
    (is_flat, flat),
    (is_classifications, classifications),
    (is_extractions, extractions),
    (is_mturk, mturk),
    (is_toloka, toloka),
    (is_figure_eight, figure_eight),
    (is_popquorn, popquorn),
)


def _is_flat_json(content: Any) -> bool:
    return isinstance(content, list) and bool(content) and isinstance(content[0], dict) and is_flat(list(content[0]))


def _has_lists(content: Any) -> bool:
    return isinstance(content, list) and all(isinstance(row, dict) for row in content) and has_lists(content)


_JSON: Sequence[tuple[Callable[[Any], bool], Callable[[Any, Wanted], Found]]] = (
    (is_tasks, tasks),
    (_is_flat_json, flat),
    (is_prodigy, prodigy),
    (is_labelbox, labelbox),
    (is_varierr, varierr),
    (is_lewidi, lewidi),
    (_has_lists, lists),
    (is_answers, answers),
)


def _table_reader(file: TableFile) -> Callable[[Any, Wanted], Found] | None:
    for fits, reader in _TABLES:
        if fits(file.names):
            return reader
    types = file.types()
    if any(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_struct(kind) for kind in types):
        return lists if has_lists(_rows(file)) else None
    return None


def _rows(file: TableFile) -> list[dict[str, Any]]:
    return pa.table(file.read(file.names)).to_pylist()


def _is_archive(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"PK"


def _as_table(content: Any) -> Any:
    """Return records, or columns, as an Arrow table of text; None if JSON holds neither."""
    if isinstance(content, dict) and content and all(isinstance(value, list) for value in content.values()):
        if len({len(value) for value in content.values()}) > 1:
            return None
        content = [dict(zip(content, row, strict=True)) for row in zip(*content.values(), strict=True)]
    elif isinstance(content, dict) and content and all(isinstance(value, dict) for value in content.values()):
        content = [{"item": key, **value} for key, value in content.items()]
    if not isinstance(content, list) or not content or not all(isinstance(row, dict) and row for row in content):
        return None
    names = list(dict.fromkeys(name for row in content for name in row))
    return pa.table({name: pa.array([_cell(row.get(name)) for row in content], pa.string()) for name in names})


def _cell(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    return str(value)


def _reading(path: Path, found: Found, wanted: Wanted, options: _Options) -> Reading:
    """Make data of what a reader found: the one path for all exports."""
    columns = wanted.columns
    if not found.records:
        raise ValueError(f"Expected annotations in {path}, found none. Check whether the export is complete.")
    records = Records.of(found.records, with_times=options.duplicates == "newest")
    told = dict(found.told)
    if options.truth is not None:
        rest = {role: name for role, name in columns.items() if role in ("item", "truth")}
        given = read_item_labels(Path(options.truth), rest, Dialect())
        own = known_truth(Path(options.truth), given, path, records.item.values, may_add=True)
        records = joined(records, *own, TRUTH)
        told["truth"] = str(options.truth)
    skipped = int((records.role == SKIP).sum())
    if skipped:
        told["abstained"] = f"{skipped:,} times"
    choice = Choice(
        None if options.classes is None else distinct_names("classes", options.classes),
        None if options.people is None else distinct_names("people", options.people),
        tuple(options.missing),
        tuple(options.abstained),
        found.duplicates if options.duplicates == "error" else options.duplicates,
    )
    content = collect(records, choice)
    items = content["items"]
    x, names = np.zeros((len(items), 0)), None
    if options.features is not None:
        x, names = features_by_name(Path(options.features), items, columns)
    whole = {**content, "x": x, "features": names, "counts": None, "items": text_array(items)}
    taken = taken_line(found.what, told, content["missing"])
    return Reading(*in_parts(whole, None, subset=options.subset), taken)
