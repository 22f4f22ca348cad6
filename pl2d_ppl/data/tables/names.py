"""Names and labels as people write them: missing ones, numbers, and one name in two spellings."""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pl2d_ppl.checks.advice import advice
from pl2d_ppl.checks.names import distinct_names
from pl2d_ppl.checks.warn import warn
from pl2d_ppl.data.tables.missing_labels import missing_among
from pl2d_ppl.data.tables.numbers import BOOLEANS, EXACT, as_number, integers_of, number_name, whole_id

__all__ = [
    "Coded",
    "as_ids",
    "coded",
    "in_order",
    "number_labels",
    "warn_of_spellings",
]

MOST_NUMBERED_CLASSES = 10_000  # as in .npz files: a stray 2**31 must not create two thousand million names
MOST_FRACTIONS = 500  # distinct labels with a point: more are measurements, or probabilities
SHOWN = 5


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
    if pa.types.is_floating(column.type):
        column = _whole(column)
    try:
        codes, distinct = pd.arrays.ArrowExtensionArray(column).factorize()
        values = pa.array(distinct).cast(pa.string()).to_pylist()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ValueError(f"Expected text or integers, found {column.type}. Convert the column.") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"Expected UTF-8 text, found: {error}. Fetch or rewrite the file.") from error
    filled = np.array([bool(value.strip()) for value in values] + [False])
    if filled[:-1].all():
        return Coded(codes.astype(np.int32, copy=False), values)
    places = np.where(filled, filled.cumsum() - 1, -1).astype(np.int32)
    return Coded(places[codes], [value for value in values if value.strip()])


def _whole(column: Any) -> Any:
    """Turn floats that are all whole numbers into integers: a gap makes floats of a column of integers."""
    given = column.filter(pc.is_finite(column))
    if len(given) == 0 or pc.max(pc.abs(given)).as_py() > EXACT or not pc.all(pc.equal(pc.round(given), given)).as_py():
        return column
    return pc.if_else(pc.is_finite(column), column, None).cast(pa.int64())


def as_ids(column: Coded) -> Coded:
    """Write identifiers that are whole numbers without the point that a gap in their column gave them.

    Parameters
    ----------
    column : Coded
        Names of items or people.

    Returns
    -------
    Coded
        The same; names that become equal are one.

    Raises
    ------
    ValueError
        If digits of a name are lost.
    """
    if not any("." in name or "+" in name for name in column.values):
        return column
    names = [whole_id(name.strip()) for name in column.values]
    if None in names:
        return column
    places: dict[str, int] = {}
    new = np.array([places.setdefault(str(name), len(places)) for name in names] + [-1], np.int32)
    return Coded(new[column.codes], list(places))


def number_labels(
    columns: Sequence[Coded],
    classes: Iterable[str] | None = None,
    missing: Iterable[str] = (),
    *,
    least: int = 2,
) -> tuple[list[NDArray], tuple[str, ...]]:
    """Turn labels, as written, into categories 0, ..., C − 1.

    With `classes`, a label is one of these names. If all labels are numbers and no name is, they count the names from
    0. Without `classes`, labels that are all integers from 0 up are categories themselves, with names "0", "1", ... up
    to the largest; other numbers are sorted by value, and other labels by name. "2.0" is 2 and "True" is "true", since
    programs write one column in several ways.

    Parameters
    ----------
    columns : sequence of Coded
        Labels, from all columns with the same categories.
    classes : iterable of str, length C, optional
        Names of the categories.
    missing : iterable of str
        Labels that mean "no annotation", in addition to :func:`~pl2d_ppl.data.tables.missing_labels.missing_among`.
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
        If a label is not in `classes`, a number is too large or may mean "missing", or every label is missing.
    """
    known = None if classes is None else distinct_names("classes", classes)
    vocabulary: dict[str, int] = {}
    places = [np.array([vocabulary.setdefault(v, len(vocabulary)) for v in c.values], int) for c in columns]
    absent = missing_among(vocabulary, missing, known)
    labels = [v for v in vocabulary if v not in absent]
    if known is None:
        numbers, known = _named_by_themselves(labels, least)
        warn_of_spellings("categories", known)
    else:
        numbers = _named_by(labels, known)
        _check_known([v for v in labels if v not in numbers], known, columns)
    category = np.array([numbers.get(v, -1) for v in vocabulary], np.int32)
    # The extra last value belongs to the code −1.
    return [np.append(category[p], np.int32(-1))[c.codes] for p, c in zip(places, columns, strict=True)], known


def _named_by_themselves(labels: Sequence[str], least: int) -> tuple[dict[str, int], tuple[str, ...]]:
    if not labels:
        raise ValueError("Expected labels, found none: every one is missing. Check how missing labels are written.")
    labels = list(labels)
    truths = _truth_values(labels)
    if truths is not None:
        return truths
    values = [as_number(label) for label in labels]
    numbers = [value for value in values if value is not None]
    if len(numbers) < len(labels):
        return _named_by_names(labels)
    if all(isinstance(value, int) and value >= 0 for value in numbers):
        return _counted_from_zero(labels, [int(value) for value in numbers], least)
    distinct = sorted(set(numbers))
    if len(distinct) > MOST_FRACTIONS:
        raise ValueError(
            f"Expected at most {MOST_FRACTIONS} numbers as categories, found {len(distinct):,}, such as "
            f"{number_name(distinct[0])} and {number_name(distinct[-1])}. Check which column holds the labels; if "
            "these are probabilities, take the most probable category."
        )
    place = {value: i for i, value in enumerate(distinct)}
    return {label: place[value] for label, value in zip(labels, numbers, strict=True)}, tuple(
        map(number_name, distinct)
    )


def _truth_values(labels: Sequence[str]) -> tuple[dict[str, int], tuple[str, ...]] | None:
    """Return the categories of true and false, also beside 1 and 0; None if labels are others, or spelt one way."""
    values = [BOOLEANS.get(label.strip().casefold(), as_number(label)) for label in labels]
    words = [label for label in labels if label.strip().casefold() in BOOLEANS]
    if not words or not set(values) <= {0, 1} or len(labels) == len(set(values)):
        return None
    numbers = {label: int(value) for label, value in zip(labels, values, strict=True) if value is not None}
    return numbers, ("false", "true") if len(words) == len(labels) else ("0", "1")


def _named_by_names(labels: Sequence[str]) -> tuple[dict[str, int], tuple[str, ...]]:
    names = tuple(sorted(labels))
    if len(names) > MOST_NUMBERED_CLASSES:
        raise ValueError(
            f"Expected at most {MOST_NUMBERED_CLASSES:,} categories, found {len(names):,}, such as {names[0]!r}. "
            "Check which column holds the labels."
        )
    return {name: i for i, name in enumerate(names)}, names


def _counted_from_zero(
    labels: Sequence[str], integers: Sequence[int], least: int
) -> tuple[dict[str, int], tuple[str, ...]]:
    if max(integers) >= MOST_NUMBERED_CLASSES:
        raise ValueError(
            f"Expected labels that are numbers in 0..{MOST_NUMBERED_CLASSES - 1}, or -1 where missing, found "
            f"{max(integers)}. Check which column holds the labels, or name the categories, "
            f"{advice('classes=[...]', '--classes')}."
        )
    names = tuple(map(str, range(max(*integers, least - 1, 1) + 1)))
    return dict(zip(labels, integers, strict=True)), names


def _named_by(labels: Sequence[str], classes: Sequence[str]) -> dict[str, int]:
    """Return the categories of known labels."""
    places = {name: i for i, name in enumerate(classes)}
    values = [as_number(label) for label in labels]
    if None in values or all(label in places for label in labels):
        return {label: places[label] for label in labels if label in places}
    own = [as_number(name) for name in classes]
    if None not in own:
        by_value: Mapping[Any, int] = {number: i for i, number in enumerate(own)}
        return {v: by_value[i] for v, i in zip(labels, values, strict=True) if i in by_value}
    if any(number is not None for number in own):  # some names are numbers: labels are then names
        return {label: places[label] for label in labels if label in places}
    return {v: i for v, i in zip(labels, values, strict=True) if isinstance(i, int) and 0 <= i < len(classes)}


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
        f"Correct them, add them to {advice('classes', '--classes')}, or say that they mean no annotation, "
        f"{advice('missing=[...]', '--missing-label')}."
    )


def in_order(names: Iterable[str]) -> list[str]:
    """Sort names, by number if all are integers."""
    names = sorted(names)
    integers = integers_of(names)
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
