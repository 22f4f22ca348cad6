"""Readers for each layout of a table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pl2d_ppl.checks.advice import advice
from pl2d_ppl.checks.warn import warn
from pl2d_ppl.data.checks import text_array
from pl2d_ppl.data.tables.column_names import OF_ITEMS, OF_LONG, VOTES, form_of
from pl2d_ppl.data.tables.columns import rest_of
from pl2d_ppl.data.tables.joining import feature_columns, features_by_name, known_truth
from pl2d_ppl.data.tables.names import Coded
from pl2d_ppl.data.tables.numbers import integers_of
from pl2d_ppl.data.tables.people_columns import check_people
from pl2d_ppl.data.tables.records import LABEL, SKIP, TRUTH, Choice, Records, collect, empty_rows, instants, joined
from pl2d_ppl.data.tables.repeats import every_item
from pl2d_ppl.data.tables.table_files import TableFile

__all__ = ["READERS", "Request", "features_of_table"]

TRAIN, TEST = ("train", "training"), ("test", "testing")


@dataclass(frozen=True)
class Request:
    """A request to read a table, in any layout."""

    file: TableFile
    roles: Mapping[str, str]
    choice: Choice
    truth: tuple[Coded, Coded] | None
    truth_path: Path | None
    features: Path | None
    feature_prefix: str
    columns: Mapping[str, str | None]

    def column(self, role: str) -> Coded | None:
        """Read the column of a role, if it exists."""
        if role not in self.roles:
            return None
        name = self.roles[role]
        return self.file.ids(name) if role in ("item", "annotator", "group") else self.file.coded(name)

    def no_column(self, role: str) -> str:
        """Advise to say that a role has no column."""
        return advice(f"columns={{{role!r}: None}}", f"--column {role}=")

    def name_column(self, role: str) -> str:
        """Advise to name the column of a role."""
        return advice(f"columns={{{role!r}: ...}}", f"--column {role}=...")


def _read_long(request: Request) -> tuple[dict[str, Any], NDArray | None]:
    request.file.read(list(request.roles.values()))  # at once
    item, person, label = (request.column(role) for role in OF_LONG)
    if item is None or person is None or label is None:
        lacking = [role for role in OF_LONG if role not in request.roles]
        raise ValueError(
            f"Expected columns for {', '.join(lacking)} in a long table, found {', '.join(request.file.names)}. Say "
            f"which they are: {request.name_column(lacking[0])}."
        )
    time = None
    if request.choice.duplicates == "newest" and "time" in request.roles:
        found = request.file.coded(request.roles["time"])
        time = instants([*found.values, None])[found.codes]
    said = np.full(len(item.codes), LABEL, np.int8)
    skipped = request.column("abstained")
    if skipped is not None:
        yes = [value.strip().casefold() in ("true", "1", "1.0") for value in skipped.values]
        said[np.array([*yes, False])[skipped.codes]] = SKIP
    records = Records(item, person, label, said, time)
    truth = request.column("truth")
    if truth is not None:
        records = joined(records, item, truth, TRUTH)
    if request.truth is not None:
        own = known_truth(request.truth_path, request.truth, request.file.path, item.values, may_add=True)
        records = joined(records, *own, TRUTH)
    content = collect(records, request.choice)
    unread = [name for name in request.file.names if name.startswith(request.feature_prefix)]
    if unread and request.features is None:
        warn(
            f"Expected features of a long table in a file of their own, found {unread[0]} in the table, which is left "
            f"out. Pass it, {advice('features=FILE', '--features FILE')}."
        )
    items = content["items"]
    _warn_of_numbered_rows(request, item, person)
    of_items = _of_items(request, item.codes, items)
    is_test = of_items.pop("is_test")
    joined_features = _joined_features(request, items) or {"x": np.zeros((len(items), 0))}
    return {**content, **joined_features, "counts": None, "items": text_array(items), **of_items}, is_test


def _warn_of_numbered_rows(request: Request, item: Coded, person: Coded) -> None:
    """Warn if a column ``id`` that was guessed to name items numbers the rows instead."""
    name = request.roles["item"]
    guessed = not request.columns.get("item") and form_of(name) == "id"
    if guessed and len(item.values) == len(item.codes) > 1 and len(person.values) > 1:
        warn(
            f"Expected {name!r} to name items, found another one in every row of {request.file.path}: it may number "
            f"the rows. Say which column is the item, {request.name_column('item')}, or {name!r} if it is."
        )


def _joined_features(request: Request, items: Sequence[str] | None) -> dict[str, Any] | None:
    if request.features is None:
        return None
    x, names = features_by_name(request.features, items, request.columns)
    return {"x": x, "features": names}


def _of_items(request: Request, rows: NDArray, items: Sequence[str]) -> dict[str, Any]:
    """Return group, superclass and part of each item, None if there is no such column."""
    found: dict[str, Any] = {}
    for role in ("group", "coarse", "split"):
        column = request.column(role)
        if column is None:
            found[role] = None
            continue
        told = {"items": items, "values": column.values}
        codes = every_item(role, rows, column.codes, len(items), told)
        found[role] = _values(role, column.values)[codes]
    found["is_test"] = found.pop("split")
    return found


def _values(role: str, names: Sequence[str]) -> NDArray:
    """Return distinct values: integers if they are written as such, or whether an item is in the test part."""
    if role == "split":
        forms = [name.strip().casefold() for name in names]
        other = [name for name, form in zip(names, forms, strict=True) if form not in TRAIN + TEST]
        if other:
            raise ValueError(
                f'Expected "train" or "test" in split, found {other[0]!r}. Keep these two parts, or leave the column '
                f"out: {advice('columns={"split": None}', '--column split=')}."
            )
        return np.array([form in TEST for form in forms])
    integers = integers_of(names)
    if integers is not None and (role == "coarse" or [str(i) for i in integers] == list(names)):
        return np.array(integers)
    if role == "coarse":
        wrong = next(name for name in names if integers_of([name]) is None)
        raise ValueError(f"Expected superclasses 0, 1, ... in coarse, found {wrong!r}. Number them.")
    return text_array(names)


def _read_wide(request: Request) -> tuple[dict[str, Any], NDArray | None]:
    if request.choice.people is None:
        people = rest_of(request.file.names, request.roles, request.feature_prefix)
        noted = list(request.choice.first)
        people = noted if set(noted) == set(people) else people
        truth = [request.roles["truth"]] if "truth" in request.roles else []
        if not noted:
            check_people(request.file, people, truth, request.feature_prefix)
    else:
        people = list(request.choice.people)
        _check_columns("people", people, request)
    votes = {n.removeprefix(VOTES): n for n in request.file.names if n.startswith(VOTES)}
    if votes:
        classes = request.choice.classes or tuple(votes)
        _check_columns("classes", [VOTES + name for name in classes], request)
        return _rows(request, people, classes, _counts(request, [VOTES + name for name in classes]))
    if not people and "truth" not in request.roles and not request.truth:
        raise ValueError(
            f"Expected a column for each person, or for the truth, found {', '.join(request.file.names)}. Add "
            "annotations."
        )
    return _rows(request, people, request.choice.classes, None)


def _read_counts(request: Request) -> tuple[dict[str, Any], NDArray | None]:
    prefixed = [name for name in request.file.names if name.startswith(VOTES)]
    names = {
        n.removeprefix(VOTES): n for n in prefixed or rest_of(request.file.names, request.roles, request.feature_prefix)
    }
    if request.choice.classes is not None:
        names = {name: names.get(name, name) for name in request.choice.classes}
    _check_columns("classes", list(names.values()), request)
    return _rows(request, [], tuple(names), _counts(request, list(names.values())))


def _check_columns(what: str, names: Sequence[str], request: Request) -> None:
    there = set(request.file.names)
    absent = [name for name in names if name not in there]
    if absent:
        raise ValueError(
            f"Expected a column for each of {what}, found {', '.join(request.file.names)}, and none of "
            f"{', '.join(absent)}. Correct {what}, or the layout."
        )


def _counts(request: Request, names: Sequence[str]) -> NDArray:
    """Read the numbers of votes, (N, C)."""
    columns = []
    for name in names:
        found = request.file.coded(name)
        numbers = integers_of(found.values)
        if numbers is None or min(numbers, default=0) < 0:
            wrong = next(v for v in found.values if integers_of([v]) is None or int(float(v)) < 0)
            raise ValueError(
                f"Expected numbers of votes in column {name!r}, a category, found {wrong!r}. Correct it; if it is no "
                f"category, leave it out by {advice('classes', '--classes')}, or choose another layout."
            )
        columns.append(np.array([*numbers, 0])[found.codes])
    return np.stack(columns, 1)


def _rows(
    request: Request, people: Sequence[str], classes: Sequence[str] | None, counts: NDArray | None
) -> tuple[dict[str, Any], NDArray | None]:
    """Read a table with one row per item."""
    request.file.read([*people, *(request.roles[role] for role in OF_ITEMS if role in request.roles)])  # at once
    num_items = len(next(iter(request.file.read(request.file.names[:1]).values())))
    rows = np.arange(num_items, dtype=np.int32)
    item = request.column("item")
    items = None if item is None else _names(item)
    told = items if items is not None else [f"row {i + 1}" for i in rows]
    named = Coded(rows, told)
    records = _melted(named, people, [request.file.coded(name) for name in people])
    truth = request.column("truth")
    if truth is not None:
        records = joined(records, named, truth, TRUTH)
    if request.truth:
        if items is None:
            raise ValueError(
                f"Expected a column of items to join {request.truth_path} by, found none. Name it: "
                f"{request.name_column('item')}."
            )
        own = known_truth(request.truth_path, request.truth, request.file.path, items, may_add=False)
        records = joined(records, *own, TRUTH)
    found = collect(records, replace(request.choice, classes=classes, people=people, first=()))
    of_items = _of_items(request, rows, told)
    is_test = of_items.pop("is_test")
    features = _joined_features(request, items) or features_of_table(request, num_items)
    named_items = None if items is None else text_array(items)
    return {**found, **features, "counts": counts, "items": named_items, **of_items}, is_test


def _melted(items: Coded, people: Sequence[str], said: Sequence[Coded]) -> Records:
    """Turn a column a person into long records."""
    places: dict[str, int] = {}
    codes = [np.zeros(0, np.int32)]
    for column in said:
        own = np.array([places.setdefault(name, len(places)) for name in column.values] + [-1], np.int32)
        codes.append(own[column.codes])
    size = len(items.codes)
    # Items without any person are items all the same, as the vocabulary of the names says.
    return Records(
        Coded(np.tile(items.codes, len(people)), items.values),
        Coded(np.repeat(np.arange(len(people), dtype=np.int32), size), list(people)),
        Coded(np.concatenate(codes), list(places)),
        np.full(size * len(people), LABEL, np.int8),
    )


def _names(item: Coded) -> list[str]:
    """Return the names of the items of a table with one row per item."""
    if item.codes.min() < 0:
        raise ValueError(
            f"Expected every row to name its item, found none in {empty_rows(item.codes < 0)}. Add it, or "
            "drop the rows."
        )
    if len(item.values) < len(item.codes):
        twice = item.values[int(np.argmax(np.bincount(item.codes) > 1))]
        raise ValueError(
            f"Expected one row for each item in a wide or counts table, found several of {twice!r} "
            f"({len(item.codes) - len(item.values):,} rows too many). Merge them, or choose the column of items."
        )
    return list(item.values)


def features_of_table(request: Request, num_items: int) -> dict[str, Any]:
    """Read features from columns of this table."""
    own = [request.roles[role] for role in OF_ITEMS if role in request.roles]
    names = [n for n in request.file.names if n.startswith(request.feature_prefix) and n not in own]
    if not names:
        return {"x": np.zeros((num_items, 0))}
    return {"x": feature_columns(request.file, names), "features": tuple(names)}


READERS = {"long": _read_long, "wide": _read_wide, "counts": _read_counts}
