"""How a table of text is written: its delimiter, whether it has a header, and whether its quotes are sound."""

import csv
import io
import sys
from collections.abc import Sequence

import numpy as np

from pl2d_ppl.checks.advice import advice
from pl2d_ppl.data.tables.column_names import is_known
from pl2d_ppl.data.tables.numbers import as_number

__all__ = ["check_quotes", "delimiter_of", "is_headerless"]

DELIMITERS = ",;\t|^~\x01"  # the first of tied ones
LAST_RESORT = ": "
MOST_LINES = 200


def delimiter_of(lines: Sequence[str]) -> str:
    """Find the delimiter of a table.

    Parameters
    ----------
    lines : sequence of str
        Its first lines, the header first.

    Returns
    -------
    str
        The one that splits the header into known names or, if several do, all lines alike.
    """
    best = max(DELIMITERS, key=lambda delimiter: _score(lines, delimiter))
    if _score(lines, best)[2] > 1:
        return best
    for delimiter in LAST_RESORT:
        known, alike, width = _score(lines, delimiter)
        if known > 1 and alike == 1 and width > 1:
            return delimiter
    return best


def _score(lines: Sequence[str], delimiter: str) -> tuple[int, float, int]:
    rows = rows_of(lines, delimiter)
    if not rows or len(rows[0]) < 2:
        return 0, 0.0, 1
    width = len(rows[0])
    alike = sum(len(row) == width for row in rows[1:]) / max(len(rows) - 1, 1)
    return sum(is_known(name) for name in rows[0]), alike, width


def rows_of(lines: Sequence[str], delimiter: str) -> list[list[str]]:
    """Split lines into fields, as far as this is possible."""
    rows: list[list[str]] = []
    try:
        for row in csv.reader(lines, delimiter=delimiter):
            rows.append(row)
    except csv.Error:
        pass
    return rows


def is_headerless(header: Sequence[str], rows: Sequence[Sequence[str]]) -> bool:
    """Whether the first row of a table is a row like the others.

    Parameters
    ----------
    header : sequence of str
        The first row.
    rows : sequence of sequence of str
        The rows below it.

    Returns
    -------
    bool
        True if no field is the name of a known column, and one occurs again in its column, or is a fraction.
    """
    if any(len(name.strip()) > 1 and is_known(name) for name in header):
        return False
    columns = [{row[i].strip() for row in rows if i < len(row)} for i in range(len(header))]
    again = any(name.strip() in column for name, column in zip(header, columns, strict=True) if name.strip())
    return again or any(isinstance(as_number(name), float) for name in header)


def check_quotes(text: bytes, delimiter: str, width: int, where: object) -> None:
    """Refuse a quotation mark that is never closed, or that swallows rows.

    Parameters
    ----------
    text : bytes
        The table, in UTF-8.
    delimiter : str
        Its delimiter.
    width : int
        Number of columns.
    where : path
        The file, for the message.

    Raises
    ------
    ValueError
        If a quoted field does not end before a delimiter or a line end, or holds a line that is a row itself.
    """
    marks = np.frombuffer(text, np.uint8)
    inside = np.bitwise_xor.accumulate((marks == ord('"')).view(np.uint8))
    ends = (marks == ord("\n")) | (marks == ord("\r"))
    if not (inside[ends].any() or (len(inside) and inside[-1])):
        return  # no quoted field goes beyond its line
    limit = csv.field_size_limit(sys.maxsize)
    line = 1
    try:
        reader = csv.reader(io.StringIO(text.decode(errors="replace"), newline=""), delimiter=delimiter, strict=True)
        for row in reader:
            if reader.line_num > line and _swallows(row, delimiter, width):
                raise ValueError(_unclosed(where, line, "a field with a whole row in it"))
            line = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(_unclosed(where, line, str(error))) from error
    finally:
        csv.field_size_limit(limit)


def _swallows(row: Sequence[str], delimiter: str, width: int) -> bool:
    parts = [part for field in row if "\n" in field or "\r" in field for part in field.splitlines()]
    return width > 2 and any(part.count(delimiter) >= width - 1 for part in parts)


def _unclosed(where: object, line: int, found: str) -> str:
    return (
        f"Expected quotation marks around whole fields in {where}, found one that is opened in line {line} and not "
        f"closed there ({found}). Write it twice within quotes, or read quotes as text: "
        f"{advice('quotes=False', '--no-quotes')}; if fields do hold line ends, {advice('quotes=True', '--quotes')}."
    )
