"""Names and labels as people write them: missing ones, numbers, and one name in two spellings."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from pl2d_ppl.checks.names import distinct_names
from pl2d_ppl.checks.warn import warn

__all__ = [
    "MISSING",
    "Coded",
    "coded",
    "in_order",
    "number_labels",
    "numbered",
    "warn_of_spellings",
]

# "None" is not here: many experts use it to say that there is nothing to see.
MISSING = ("", "NA", "N/A", "NaN", "nan", "null", "<NA>", "-1")
MOST_NUMBERED_CLASSES = 10_000  # as in .npz files: a stray 2**31 must not create two thousand million names
SHOWN = 5
_INTEGER = re.compile(r"\s*([+-]?[0-9]+)(\.0*)?\s*")


class Coded(NamedTuple):
    """A column of names.

    Attributes
    ----------
    codes : array of int32, shape (R,)
        Index of each row's name in `values`, −1 where it is empty.
    values : list of str
        The distinct names, in order of appearance.
    """

    codes: NDArray
    values: list[str]


def coded(column: Any) -> Coded:
    """Number the distinct values of an Arrow column of text, numbers or categories.

    Parameters
    ----------
    column : pyarrow.Array or pyarrow.ChunkedArray, length R
        Values; null and blank text are empty.

    Returns
    -------
    Coded
        R codes.

    Raises
    ------
    ValueError
        If the values cannot be written as text, such as lists.
    """
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    try:
        codes, distinct = pd.arrays.ArrowExtensionArray(column).factorize()
        values = pa.array(distinct).cast(pa.string()).to_pylist()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ValueError(f"Expected text or integers, found {column.type}. Convert the column.") from error
    filled = np.array([bool(value.strip()) for value in values] + [False])
    if filled[:-1].all():
        return Coded(codes.astype(np.int32, copy=False), values)
    places = np.where(filled, filled.cumsum() - 1, -1).astype(np.int32)
    return Coded(places[codes], [value for value in values if value.strip()])


def number_labels(
    columns: Sequence[Coded],
    classes: Iterable[str] | None = None,
    missing: Iterable[str] = (),
    *,
    least: int = 2,
) -> tuple[list[NDArray], tuple[str, ...]]:
    """Turn labels, as written, into categories 0, ..., C − 1.

    With `classes`, a label is one of these names. If all labels are numbers and no name is, they count the names from
    0. Without `classes`, labels that are all integers are categories themselves, with names "0", "1", ... up to the
    largest; other labels are sorted by name. "2.0" is the integer 2, since columns of integers with gaps are often
    written like this.

    Parameters
    ----------
    columns : sequence of Coded
        Labels, from all columns with the same categories.
    classes : iterable of str, length C, optional
        Names of the categories.
    missing : iterable of str
        Labels that mean "no annotation", in addition to `MISSING`.
    least : int
        Least number of categories, if numbers are their names.

    Returns
    -------
    numbers : list of array of int32
        Categories of each column's rows, −1 where missing.
    classes : tuple of str, length C
        Names of the categories.

    Raises
    ------
    ValueError
        If a label is not in `classes`, an integer is negative or too large, or every label is missing.
    """
    known = None if classes is None else distinct_names("classes", classes)
    vocabulary: dict[str, int] = {}
    places = [np.array([vocabulary.setdefault(v, len(vocabulary)) for v in c.values], int) for c in columns]
    blank = {*MISSING, *(text.strip() for text in missing)} - set(known or ())
    labels = [v for v in vocabulary if v.strip() not in blank and (_integer(v) != -1 or v in (known or ()))]
    if known is None:
        numbers, known = _named_by_themselves(labels, least)
        warn_of_spellings("categories", known)
    else:
        numbers = _named_by(labels, known)
        _check_known([v for v in labels if v not in numbers], known, columns)
    category = np.array([numbers.get(v, -1) for v in vocabulary], np.int32)
    # The extra last value belongs to the code −1.
    return [np.append(category[p], np.int32(-1))[c.codes] for p, c in zip(places, columns, strict=True)], known


def _integer(label: str) -> int | None:
    found = _INTEGER.fullmatch(label)
    return int(found[1]) if found else None


def _named_by_themselves(labels: Sequence[str], least: int) -> tuple[dict[str, int], tuple[str, ...]]:
    if not labels:
        raise ValueError("Expected labels, found none: every one is missing. Check how missing labels are written.")
    integers = numbered(labels)
    if integers is None:
        names = tuple(sorted(labels))
        if len(names) > MOST_NUMBERED_CLASSES:
            raise ValueError(
                f"Expected at most {MOST_NUMBERED_CLASSES:,} categories, found {len(names):,}, such as {names[0]!r}. "
                "Check which column holds the labels."
            )
        return {name: i for i, name in enumerate(names)}, names
    if min(integers) < 0 or max(integers) >= MOST_NUMBERED_CLASSES:
        wrong = min(integers) if min(integers) < 0 else max(integers)
        raise ValueError(
            f"Expected labels that are numbers in 0..{MOST_NUMBERED_CLASSES - 1}, or -1 where missing, found {wrong}. "
            "Check which column holds the labels, or give the names of the categories as classes."
        )
    names = tuple(map(str, range(max(*integers, least - 1, 1) + 1)))
    return dict(zip(labels, integers, strict=True)), names


def numbered(names: Iterable[str]) -> list[int] | None:
    """Return names as integers, or None if not all are integers."""
    integers = [_integer(name) for name in names]
    return None if None in integers else [i for i in integers if i is not None]


def _named_by(labels: Sequence[str], classes: Sequence[str]) -> dict[str, int]:
    """Return the categories of known labels."""
    places = {name: i for i, name in enumerate(classes)}
    integers = numbered(labels)
    if integers is None or all(label in places for label in labels):
        return {label: places[label] for label in labels if label in places}
    own = [_integer(name) for name in classes]
    if None not in own:
        by_value = {number: i for i, number in enumerate(own)}
        return {v: by_value[i] for v, i in zip(labels, integers, strict=True) if i in by_value}
    if any(number is not None for number in own):  # some names are numbers: labels are then names
        return {label: places[label] for label in labels if label in places}
    return {v: i for v, i in zip(labels, integers, strict=True) if 0 <= i < len(classes)}


def _check_known(unknown: Sequence[str], classes: Sequence[str], columns: Sequence[Coded]) -> None:
    if not unknown:
        return
    counts: Counter[str] = Counter()
    for column in columns:
        given = np.bincount(column.codes[column.codes >= 0], minlength=len(column.values))
        counts.update(dict(zip(column.values, given.tolist(), strict=True)))
    most = sorted(unknown, key=lambda value: -counts[value])[:SHOWN]
    found = ", ".join(f"{value!r} {counts[value]:,}" for value in most)
    told = ", ".join(map(repr, classes[:20])) + (", ..." if len(classes) > 20 else "")
    raise ValueError(
        f"Expected labels among the classes {told}, found {len(unknown):,} unknown, with their numbers: {found}. "
        "Correct them, add them to classes, or name them in missing."
    )


def in_order(names: Iterable[str]) -> list[str]:
    """Sort names, by number if all are integers."""
    names = sorted(names)
    integers = numbered(names)
    return names if integers is None else [n for _, n in sorted(zip(integers, names, strict=True))]


def warn_of_spellings(what: str, names: Iterable[str]) -> None:
    """Warn of names that differ only by case, blanks or Unicode form, and so may be the same."""
    forms: dict[str, list[str]] = {}
    for name in names:
        form = " ".join(unicodedata.normalize("NFKC", name).casefold().split())
        forms.setdefault(form, []).append(name)
    several = [spellings for spellings in forms.values() if len(spellings) > 1]
    if several:
        more = f" ({len(several) - 1:,} more such)" if len(several) > 1 else ""
        warn(
            f"Expected different {what}, found {' and '.join(map(repr, several[0]))}, which differ by case, blanks or "
            f"Unicode form only{more}. Spell them alike if they are one."
        )
