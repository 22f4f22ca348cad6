"""Columns of a wide table that are people, and those that only look like them."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence

from pl2d_ppl.checks.advice import advice
from pl2d_ppl.data.tables.column_names import no_person
from pl2d_ppl.data.tables.missing_labels import MISSING
from pl2d_ppl.data.tables.numbers import BOOLEANS, as_number
from pl2d_ppl.data.tables.table_files import TableFile

__all__ = ["check_people"]

MOST_WORDS, MOST_LETTERS = 5, 60  # of a label
MOST_LABELS = 20  # of a column alone
_DATE = re.compile(r"\s*\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}([ T]\d{1,2}:\d{2}.*)?\s*|\s*\d{1,2}:\d{2}(:\d{2})?\s*")
_ADDRESS = re.compile(r"\s*(https?://|s3://|www\.)\S+|\s*\S+@\S+\.\S+\s*")


def check_people(file: TableFile, names: Sequence[str], truth: Sequence[str], feature_prefix: str) -> None:
    """Refuse comments, dates, features and whole lines among the columns that would be people.

    Parameters
    ----------
    file : TableFile
        The table.
    names : sequence of str
        The columns that would be people.
    truth : sequence of str
        The column of the truth, if there is one.
    feature_prefix : str
        Prefix of columns of features, for the message.

    Raises
    ------
    ValueError
        If a column is named like something else, or its values are no labels, or not those of other columns.
    """
    columns = [*names, *truth]
    file.read(columns)  # at once
    values = {name: [v for v in file.coded(name).values if v.strip().casefold() not in MISSING] for name in columns}
    for name in names:
        found = _why_not(name, values)
        if found:
            way = advice("people=[...]", "--people A,B")
            raise ValueError(
                f"Expected people as the columns of a wide table, found {found}. Say who the people are, {way}, or let "
                f"names of features begin with {feature_prefix!r}."
            )


def _why_not(name: str, values: Mapping[str, Sequence[str]]) -> str | None:
    """Say what tells that a column is no person, if something does."""
    own_values = values[name]
    owners = Counter(key for found in values.values() for key in set(map(_key, found)))
    own = [value for value in own_values if owners[_key(value)] == 1]
    if len(values) > 1 and len(own) > max(1, len(own_values) / 2) and not _all_rate(values):
        return f"{len(own):,} values in {name!r} that no other column has"
    if no_person(name):
        return f"{name!r}, which names nobody"
    if len(values) == 1 and len(own) > MOST_LABELS:
        return f"{len(own):,} different values in {name!r}"
    strange = [value for value in own_values if _no_label(value)]
    if strange and 2 * len(strange) >= len(own_values):
        return f"{strange[0][:MOST_LETTERS]!r} in {name!r}, which is no label"
    return None


def _key(value: str) -> object:
    """Return what two spellings of one label share: 2 and 2.0 are one, and so are true and 1."""
    form = value.strip().casefold()
    number = BOOLEANS.get(form, as_number(value))
    return form if number is None else number


def _no_label(value: str) -> bool:
    return (
        len(value) > MOST_LETTERS
        or len(value.split()) > MOST_WORDS
        or bool(_DATE.fullmatch(value) or _ADDRESS.fullmatch(value))
    )


def _all_rate(values: Mapping[str, Sequence[str]]) -> bool:
    """Whether all columns hold numbers of one range, such as ratings from 0 to 100, that rarely coincide."""
    ranges = []
    for found in values.values():
        numbers = [as_number(value) for value in found]
        known = [number for number in numbers if number is not None]
        if len(known) < len(numbers):
            return False
        if known:
            ranges.append((min(known), max(known)))
    if not ranges:
        return False
    narrowest = min(high - low for low, high in ranges)
    overlap = min(high for _, high in ranges) - max(low for low, _ in ranges)
    return overlap >= narrowest / 2
