"""Readers for each layout of a table."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pl2d_ppl.checks.warn import warn
from pl2d_ppl.data.tables.columns import OF_ITEMS, OF_LONG, VOTES, rest_of
from pl2d_ppl.data.tables.joining import check_overlap, feature_columns, join_features
from pl2d_ppl.data.tables.names import Coded, in_order, number_labels, numbered, warn_of_spellings
from pl2d_ppl.data.tables.repeats import Duplicates, every_item, once_per_item, place
from pl2d_ppl.data.tables.table_files import TableFile

__all__ = ["READERS", "Request"]

TRAIN, TEST = ("train", "training"), ("test", "testing")
MOST_OWN = 20  # values that occur in one column only: with more, the column is not a person


@dataclass(frozen=True)
class Request:
    """A request to read a table, in any layout."""

    file: TableFile
    roles: Mapping[str, str]
    classes: tuple[str, ...] | None
    people: tuple[str, ...] | None
    truth: tuple[Coded, Coded] | None
    truth_path: Path | None
    features: Path | None
    feature_prefix: str
    duplicates: Duplicates
    missing: tuple[str, ...]

    def column(self, role: str) -> Coded | None:
        """Read the column of a role, if it exists."""
        return self.file.coded(self.roles[role]) if role in self.roles else None


def _read_long(request: Request) -> tuple[dict[str, Any], NDArray | None]:
    request.file.read(list(request.roles.values()))  # at once
    item, person, label = (request.column(role) for role in OF_LONG)
    if item is None or person is None or label is None:
        lacking = [role for role in OF_LONG if role not in request.roles]
        raise ValueError(
            f"Expected columns for {', '.join(lacking)} in a long table, found {', '.join(request.file.names)}. Say "
            f"which they are: columns={{{lacking[0]!r}: ...}} (--column {lacking[0]}=...)."
        )
    if item.codes.min() < 0:
        raise ValueError(
            f"Expected every row to name its item, found none in {_empty(item.codes < 0)}. Add it, or drop the rows."
        )
    truth = request.column("truth")
    items = list(item.values)
    spoken = [(item.codes, truth)] if truth else []
    if request.truth:
        places = {name: i for i, name in enumerate(items)}
        check_overlap(request.truth_path, request.truth[0].values, request.file.path, places)
        own = np.array([places.setdefault(name, len(places)) for name in request.truth[0].values])
        items = list(places)
        spoken.append((own[request.truth[0].codes], request.truth[1]))
    (labels, *truths), classes = number_labels([label, *(t for _, t in spoken)], request.classes, request.missing)
    nameless = (person.codes < 0) & (labels >= 0)
    if nameless.any():
        raise ValueError(
            f"Expected every label to have its annotator, found none in {_empty(nameless)}. Add who it was."
        )
    people, columns = _people(person, request)
    given = (labels >= 0) & (columns >= 0)
    told = {"items": items, "people": people, "classes": classes}
    annotations = place(item.codes[given], columns[given], labels[given], request.duplicates, told)
    rows = np.concatenate([rows for rows, _ in spoken]) if spoken else item.codes
    unread = [name for name in request.file.names if name.startswith(request.feature_prefix)]
    if unread and request.features is None:
        warn(
            f"Expected features of a long table in a file of their own, found {unread[0]} in the table, which is left "
            "out. Pass features=FILE (--features)."
        )
    of_items = _of_items(request, item.codes, items)
    is_test = of_items.pop("is_test")
    return {
        "x": np.zeros((len(items), 0)) if request.features is None else join_features(request.features, items),
        "y": _truth(rows, truths, items, classes),
        "annotations": annotations,
        "classes": classes,
        "annotators": people,
        "counts": None,
        "items": np.array(items),
        **of_items,
    }, is_test


def _empty(wrong: NDArray) -> str:
    """Say where something is wrong, with rows counted as people count."""
    more = f" and {wrong.sum() - 1:,} more" if wrong.sum() > 1 else ""
    return f"row {int(np.argmax(wrong)) + 1} below the header{more}"


def _people(person: Coded, request: Request) -> tuple[list[str], NDArray]:
    """Return people in order, and the column of each row, −1 for people left out."""
    warn_of_spellings("people", person.values)
    present = set(person.values)
    if request.people is None:
        noted = [name for name in request.file.notes.get("annotators", ()) if name in present]
        people = [*noted, *in_order(present - set(noted))]
    else:
        people = list(request.people)
    unknown = [name for name in people if name not in present]
    if unknown:
        raise ValueError(
            f"Expected people out of {', '.join(in_order(present)[:20])}, found {', '.join(unknown)}. Correct them."
        )
    columns = pd.Index(people, dtype=object).get_indexer(person.values)
    return people, np.append(columns, -1)[person.codes]


def _truth(rows: NDArray, truths: Sequence[NDArray], items: Sequence[str], classes: Sequence[str]) -> NDArray:
    if not truths:
        return np.full(len(items), -1, np.int32)
    return once_per_item("truth", rows, np.concatenate(truths), len(items), {"items": items, "values": classes})


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
                f'out: columns={{"split": None}}.'
            )
        return np.array([form in TEST for form in forms])
    integers = numbered(names)
    if integers is not None and (role == "coarse" or [str(i) for i in integers] == list(names)):
        return np.array(integers)
    if role == "coarse":
        wrong = next(name for name in names if numbered([name]) is None)
        raise ValueError(f"Expected superclasses 0, 1, ... in coarse, found {wrong!r}. Number them.")
    return np.array(names)


def _read_wide(request: Request) -> tuple[dict[str, Any], NDArray | None]:
    if request.people is None:
        people = rest_of(request.file.names, request.roles, request.feature_prefix)
        noted = request.file.notes.get("annotators", ())
        people = list(noted) if set(noted) == set(people) else people
        _check_people(people, request)
    else:
        people = list(request.people)
        _check_columns("people", people, request)
    warn_of_spellings("people", people)
    votes = {n.removeprefix(VOTES): n for n in request.file.names if n.startswith(VOTES)}
    if votes:
        classes = request.classes or tuple(votes)
        _check_columns("classes", [VOTES + name for name in classes], request)
        counts = _counts(request, [VOTES + name for name in classes])
        return _rows(request, people, classes, counts)
    if not people and "truth" not in request.roles and not request.truth:
        raise ValueError(
            f"Expected a column for each person, or for the truth, found {', '.join(request.file.names)}. Add "
            "annotations."
        )
    return _rows(request, people, request.classes, None)


def _read_counts(request: Request) -> tuple[dict[str, Any], NDArray | None]:
    prefixed = [name for name in request.file.names if name.startswith(VOTES)]
    names = {
        n.removeprefix(VOTES): n for n in prefixed or rest_of(request.file.names, request.roles, request.feature_prefix)
    }
    if request.classes is not None:
        names = {name: names.get(name, name) for name in request.classes}
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


def _check_people(names: Sequence[str], request: Request) -> None:
    """Refuse columns of comments or features among the people."""
    truth = [request.roles["truth"]] if "truth" in request.roles else []
    request.file.read([*names, *truth])  # at once
    values = {name: request.file.coded(name).values for name in [*names, *truth]}
    owners = Counter(value for found in values.values() for value in found)
    for name in names:
        found = values[name]
        own = sum(owners[value] == 1 for value in found)
        if len(values) > 1 and own > max(MOST_OWN, len(found) / 2):
            raise ValueError(
                f"Expected people as the columns of a wide table, found {own:,} values in {name!r} that no other "
                "column has. Say who the people are, people=[...] (--people), or let names of features begin with "
                f"{request.feature_prefix!r}."
            )


def _counts(request: Request, names: Sequence[str]) -> NDArray:
    """Read the numbers of votes, (N, C)."""
    columns = []
    for name in names:
        found = request.file.coded(name)
        numbers = numbered(found.values)
        if numbers is None or min(numbers, default=0) < 0:
            wrong = next(v for v in found.values if numbered([v]) is None or int(float(v)) < 0)
            raise ValueError(
                f"Expected numbers of votes in column {name!r}, a category, found {wrong!r}. Correct it; if it is no "
                "category, leave it out by classes, or choose another layout."
            )
        columns.append(np.array([*numbers, 0])[found.codes])
    return np.stack(columns, 1)


def _rows(
    request: Request, people: Sequence[str], classes: tuple[str, ...] | None, counts: NDArray | None
) -> tuple[dict[str, Any], NDArray | None]:
    """Read a table with one row per item."""
    request.file.read([*people, *(request.roles[role] for role in OF_ITEMS if role in request.roles)])  # at once
    item, truth = request.column("item"), request.column("truth")
    said = [request.file.coded(name) for name in people]
    num_items = len(next(iter(request.file.read(request.file.names[:1]).values())))
    items = None if item is None else _names(item)
    rows, spoken = np.arange(num_items), [] if truth is None else [(np.arange(num_items), truth)]
    if request.truth:
        if items is None:
            raise ValueError(
                f"Expected a column of items to join {request.truth_path} by, found none. Name it by columns "
                "(--column)."
            )
        spoken.append(_joined(request, items, *request.truth))
    numbers, classes = number_labels([*said, *(t for _, t in spoken)], classes, request.missing)
    told = items if items is not None else [f"row {i + 1}" for i in rows]
    of_items = _of_items(request, rows, told)
    is_test = of_items.pop("is_test")
    return {
        "x": _features(request, items, num_items),
        "y": _truth(np.concatenate([r for r, _ in spoken]) if spoken else rows, numbers[len(said) :], told, classes),
        "annotations": np.stack(numbers[: len(said)], 1) if said else np.empty((num_items, 0), np.int32),
        "classes": classes,
        "annotators": list(people),
        "counts": counts,
        "items": None if items is None else np.array(items),
        **of_items,
    }, is_test


def _names(item: Coded) -> list[str]:
    """Return the names of the items of a table with one row per item."""
    if item.codes.min() < 0:
        raise ValueError(
            f"Expected every row to name its item, found none in {_empty(item.codes < 0)}. Add it, or drop the rows."
        )
    if len(item.values) < len(item.codes):
        twice = item.values[int(np.argmax(np.bincount(item.codes) > 1))]
        raise ValueError(
            f"Expected one row for each item in a wide or counts table, found several of {twice!r} "
            f"({len(item.codes) - len(item.values):,} rows too many). Merge them, or choose the column of items."
        )
    return list(item.values)


def _joined(request: Request, items: Sequence[str], names: Coded, truth: Coded) -> tuple[NDArray, Coded]:
    """Read the truth of these items from another table."""
    places = {name: i for i, name in enumerate(items)}
    check_overlap(request.truth_path, names.values, request.file.path, places)
    rows = np.array([places.get(name, -1) for name in names.values])[names.codes]
    return rows[rows >= 0], Coded(truth.codes[rows >= 0], truth.values)


def _features(request: Request, items: Sequence[str] | None, num_items: int) -> Any:
    """Read features from their own file, or else from columns of this table."""
    if request.features is not None:
        return join_features(request.features, items)
    own = [request.roles[role] for role in OF_ITEMS if role in request.roles]
    names = [n for n in request.file.names if n.startswith(request.feature_prefix) and n not in own]
    return feature_columns(request.file, names) if names else np.zeros((num_items, 0))


READERS = {"long": _read_long, "wide": _read_wide, "counts": _read_counts}
