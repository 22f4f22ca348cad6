"""From long records, which every reader yields, to annotated items."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pl2d_ppl.data.long import ABSTAINED
from pl2d_ppl.data.tables.names import Coded, in_order, number_labels, warn_of_spellings
from pl2d_ppl.data.tables.repeats import Duplicates, once_per_item, place

__all__ = ["AI", "LABEL", "SKIP", "TRUTH", "Choice", "Record", "Records", "collect", "empty_rows", "instants", "joined"]

_OFFSETS = {"PDT": "-0700", "PST": "-0800", "EDT": "-0400", "EST": "-0500", "CDT": "-0500", "CST": "-0600"}
_ZONE = re.compile("|".join(rf"\b{zone}\b" for zone in _OFFSETS))
LABEL, TRUTH, AI, SKIP = range(4)  # what a record says: a person's label, the truth, the AI's label, an abstention


class Record(NamedTuple):
    """One thing that somebody said about an item.

    Attributes
    ----------
    item : str
        The item.
    person : str or None
        Who said it; None for the truth and the AI.
    label : str or None
        What they said; None if the record only names an item, or a person.
    time : str, float or None
        When, for revisions.
    role : int
        `LABEL`, `TRUTH`, `AI` or `SKIP`.
    score : float
        How sure the AI is.
    """

    item: str
    person: str | None
    label: str | None
    time: Any = None
    role: int = LABEL
    score: float = 1.0


@dataclass(frozen=True)
class Records:
    """Records as columns.

    Attributes
    ----------
    item, person, label : Coded
        Names, of R records.
    role : array of int8, shape (R,)
        `LABEL`, `TRUTH`, `AI` or `SKIP`.
    time : array of float, shape (R,), optional
        When, for revisions.
    score : array of float, shape (R,), optional
        How sure the AI is.
    """

    item: Coded
    person: Coded
    label: Coded
    role: NDArray
    time: NDArray | None = None
    score: NDArray | None = None

    @classmethod
    def of(cls, rows: Iterable[Record], *, with_times: bool = False) -> "Records":
        """Collect records.

        Parameters
        ----------
        rows : iterable of Record
            The records.
        with_times : bool
            Whether times are needed.

        Returns
        -------
        Records
            The same, as columns.
        """
        rows = list(rows)
        item, person, label = (
            _coded(column) for column in zip(*((r.item, r.person, r.label) for r in rows), strict=True)
        )
        times = [row.time for row in rows]
        return cls(
            item,
            person,
            label,
            np.array([row.role for row in rows], np.int8),
            instants(times) if with_times else None,
            np.array([row.score for row in rows], float),
        )


@dataclass(frozen=True)
class Choice:
    """What to make of records.

    Attributes
    ----------
    classes : sequence of str, optional
        Names of the categories.
    people : sequence of str, optional
        People to keep, in this order.
    missing, abstained : sequence of str
        Labels that mean "no annotation", and "asked, but would not say".
    duplicates : str
        Which label counts if a person gave an item several.
    first : sequence of str
        People who come first in the order.
    least : int
        Least number of categories, if numbers are their names.
    """

    classes: Sequence[str] | None = None
    people: Sequence[str] | None = None
    missing: Sequence[str] = ()
    abstained: Sequence[str] = ()
    duplicates: Duplicates = "error"
    first: Sequence[str] = ()
    least: int = 2


def _coded(names: Sequence[str | None]) -> Coded:
    codes, values = pd.factorize(np.array([*names, None], object)[:-1])
    return Coded(codes.astype(np.int32), list(values))


def instants(times: Sequence[Any]) -> NDArray[np.float64]:
    """Return times as numbers that grow.

    Parameters
    ----------
    times : sequence of str or float, length R
        Numbers, or dates as in ISO 8601 and as programs write them; None where unknown.

    Returns
    -------
    array of float64, shape (R,)
        Seconds, or the numbers; NaN where unknown.

    Raises
    ------
    ValueError
        If a text is no time.
    """
    column = pd.Series(list(times), dtype=object)
    numbers = pd.to_numeric(column, errors="coerce")
    if numbers.notna().sum() == column.notna().sum():
        return numbers.to_numpy(float)
    column = column.map(_with_offset, na_action="ignore")
    dates = pd.to_datetime(column, errors="coerce", utc=True, format="mixed")
    wrong = column[column.notna() & dates.isna()]
    if len(wrong):
        raise ValueError(f"Expected times such as 2024-05-01T08:00:00Z, found {wrong.iloc[0]!r}. Correct them.")
    seconds = (dates - pd.Timestamp(0, tz="UTC")).dt.total_seconds()
    return seconds.to_numpy(float)


def _with_offset(time: Any) -> str:
    """Write the offset of a zone of the United States, whose names pandas does not read."""
    return _ZONE.sub(lambda found: _OFFSETS[found[0]], str(time))


def joined(records: Records, item: Coded, label: Coded, role: int) -> Records:
    """Append what another table says.

    Parameters
    ----------
    records : Records
        R records.
    item, label : Coded
        Items and their labels, of S rows.
    role : int
        `TRUTH` or `AI`.

    Returns
    -------
    Records
        R + S records.
    """
    size = len(item.codes)
    nobody = Coded(np.full(size, -1, np.int32), [])
    return Records(
        _appended(records.item, item),
        _appended(records.person, nobody),
        _appended(records.label, label),
        np.append(records.role, np.full(size, role, np.int8)),
        None if records.time is None else np.append(records.time, np.full(size, np.nan)),
        None if records.score is None else np.append(records.score, np.ones(size)),
    )


def _appended(first: Coded, second: Coded) -> Coded:
    places = {name: i for i, name in enumerate(first.values)}
    own = np.array([places.setdefault(name, len(places)) for name in second.values] + [-1], np.int32)
    return Coded(np.append(first.codes, own[second.codes]), list(places))


def collect(records: Records, choice: Choice) -> dict[str, Any]:
    """Make annotated items of records.

    Parameters
    ----------
    records : Records
        What every reader yields.
    choice : Choice
        What to make of them.

    Returns
    -------
    dict
        ``items`` (N names), ``annotators``, ``classes``, ``annotations`` as
        :class:`~pl2d_ppl.data.long.LongAnnotations`, ``y`` (N,), ``ai`` (N, C) or None, and
        ``missing``, numbers of labels by their spelling that were read as missing.

    Raises
    ------
    ValueError
        If a record lacks its item or person, labels are unknown, or records contradict each other.
    """
    _check_named(records, choice)
    (numbers,), classes = number_labels(
        [records.label], choice.classes, [*choice.missing, *choice.abstained], least=choice.least
    )
    skipped = np.array([value.strip() in set(choice.abstained) for value in records.label.values] + [False])
    numbers = np.where(skipped[records.label.codes], ABSTAINED, numbers)
    numbers = np.where(records.role == SKIP, ABSTAINED, numbers).astype(np.int32)
    people, columns = _people(records.person, choice)
    items = records.item.values
    given = (records.role != TRUTH) & (records.role != AI) & (numbers != -1) & (columns >= 0)
    told = {"items": items, "people": people, "classes": classes}
    annotations = place(
        records.item.codes[given],
        columns[given],
        numbers[given],
        choice.duplicates,
        told,
        None if records.time is None else records.time[given],
    )
    return {
        "items": items,
        "annotators": people,
        "classes": classes,
        "annotations": annotations,
        "y": _truth(records, numbers, items, classes),
        "ai": _ai(records, numbers, len(items), len(classes)),
        "missing": _missing(records, numbers),
    }


def _check_named(records: Records, choice: Choice) -> None:
    if records.item.codes.size and records.item.codes.min() < 0:
        raise ValueError(
            f"Expected every row to name its item, found none in {empty_rows(records.item.codes < 0)}. Add it, or drop "
            "the rows."
        )
    nameless = (records.person.codes < 0) & (records.label.codes >= 0) & (records.role == LABEL)
    if nameless.any():
        (numbers,), _ = number_labels([records.label], choice.classes, choice.missing, least=choice.least)
        nameless &= numbers >= 0
    if nameless.any():
        raise ValueError(
            f"Expected every label to have its annotator, found none in {empty_rows(nameless)}. Add who it was; for "
            "anonymous votes, count them by item and category: columns votes_NAME."
        )


def empty_rows(wrong: NDArray) -> str:
    """Say where something is wrong, with rows counted as people count."""
    more = f" and {wrong.sum() - 1:,} more" if wrong.sum() > 1 else ""
    return f"row {int(np.argmax(wrong)) + 1} below the header{more}"


def _people(person: Coded, choice: Choice) -> tuple[list[str], NDArray]:
    """Return people in order, and the column of each row, −1 for people left out."""
    warn_of_spellings("people", person.values)
    present = set(person.values)
    if choice.people is None:
        noted = [name for name in choice.first if name in present]
        people = [*noted, *in_order(present - set(noted))]
    else:
        people = list(choice.people)
    unknown = [name for name in people if name not in present]
    if unknown:
        raise ValueError(
            f"Expected people out of {', '.join(in_order(present)[:20])}, found {', '.join(unknown)}. Correct them."
        )
    columns = pd.Index(people, dtype=object).get_indexer(pd.Index(person.values, dtype=object))
    return people, np.append(columns, -1)[person.codes]


def _truth(records: Records, numbers: NDArray, items: Sequence[str], classes: Sequence[str]) -> NDArray:
    spoken = (records.role == TRUTH) & (numbers >= 0)
    if not spoken.any():
        return np.full(len(items), -1, np.int32)
    told = {"items": items, "values": classes}
    return once_per_item("truth", records.item.codes[spoken], numbers[spoken], len(items), told)


def _ai(records: Records, numbers: NDArray, num_items: int, num_categories: int) -> NDArray | None:
    """Return the AI's probabilities: its score for its label, the rest shared; the last one of an item counts."""
    spoken = (records.role == AI) & (numbers >= 0)
    if not spoken.any():
        return None
    items, labels = records.item.codes[spoken], numbers[spoken]
    score = np.ones(len(items)) if records.score is None else np.clip(records.score[spoken], 0.0, 1.0)
    result = np.zeros((num_items, num_categories), np.float32)
    result[items] = ((1 - score) / (num_categories - 1))[:, None]
    result[items, labels] = score
    return result


def _missing(records: Records, numbers: NDArray) -> Counter[str]:
    """Count labels that were read as missing, by spelling; empty ones only where somebody was named."""
    absent = (numbers == -1) & (records.role == LABEL) & (records.person.codes >= 0)
    counts = np.bincount(records.label.codes[absent] + 1, minlength=len(records.label.values) + 1)
    found = Counter({value: int(n) for value, n in zip(records.label.values, counts[1:], strict=True) if n})
    if counts[0]:
        found[""] = int(counts[0])
    return found
