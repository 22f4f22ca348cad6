"""Numbers as people and programs write them: 2, 2.0, 9.007e+15."""

import re
from collections.abc import Iterable
from decimal import Decimal

__all__ = ["BOOLEANS", "as_number", "integers_of", "number_name", "whole_id"]

_INTEGER = re.compile(r"\s*([+-]?[0-9]+)(\.0*)?\s*")
_NUMBER = re.compile(r"\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?\s*")
_FLOAT_ID = re.compile(r"([+-]?[0-9]+)\.0+")
_EXPONENT_ID = re.compile(r"[+-]?[0-9](\.[0-9]+)?[eE]\+[0-9]{1,3}")
_INTEGER_ID = re.compile(r"[+-]?[0-9]+")
BOOLEANS = {"true": 1, "false": 0}
MOST_DIGITS = 400  # of a number that is worth reading as one
EXACT = 2**53  # floats beyond are not every integer
FEWEST_DIGITS = 10  # spreadsheets show six digits of a long number


def as_number(text: str) -> float | int | None:
    """Read a number.

    Parameters
    ----------
    text : str
        Such as "2", "2.0" or "-2.5".

    Returns
    -------
    int, float or None
        An int if it is whole; None if the text is no finite number.
    """
    if len(text) > MOST_DIGITS:
        return None
    whole = _INTEGER.fullmatch(text)
    if whole:
        return int(whole[1])
    if not _NUMBER.fullmatch(text):
        return None
    value = float(text)
    if value in (float("inf"), -float("inf")):
        return None
    return int(value) if value.is_integer() else value


def integers_of(names: Iterable[str]) -> list[int] | None:
    """Return names as integers, or None if not all are integers."""
    found = [_INTEGER.fullmatch(name) if len(name) <= MOST_DIGITS else None for name in names]
    return None if None in found else [int(match[1]) for match in found if match is not None]


def number_name(value: float | int) -> str:
    """Name a number: "2" for 2.0, "2.5" for 2.5."""
    return str(value)


def whole_id(text: str) -> str | None:
    """Write an identifier that is a whole number without the point that a gap in its column gave it.

    Parameters
    ----------
    text : str
        Such as "3", "003", "3.0" or "9.007199254740992e+15".

    Returns
    -------
    str or None
        "3", "003", "3", "9007199254740992"; None if it is no whole number.

    Raises
    ------
    ValueError
        If digits of it are lost.
    """
    if _INTEGER_ID.fullmatch(text):
        return text
    point = _FLOAT_ID.fullmatch(text)
    if point is None and not _EXPONENT_ID.fullmatch(text):
        return None
    value = Decimal(text)
    if value != value.to_integral_value():
        return None
    digits, needed = len(value.as_tuple().digits), value.adjusted() + 1
    if abs(value) > EXACT or (not point and digits < min(needed, FEWEST_DIGITS)):
        raise ValueError(_rounded(text))
    return point[1] if point else str(int(value))


def _rounded(text: str) -> str:
    return (
        f"Expected names that keep all their digits, found {text!r}, a rounded number: several names may have become "
        "one. Export the column as text."
    )
