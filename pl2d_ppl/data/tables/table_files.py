"""CSV and Parquet files, read column by column; every problem of a file is reported."""

import codecs
import csv
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from pl2d_ppl.data.tables.names import Coded, coded

__all__ = ["NOTES", "TABLES", "TableFile", "naming_table", "open_table"]

TABLES = (".csv", ".tsv", ".txt", ".parquet")
NOTES = b"pl2d_ppl"  # key under which a Parquet file stores the order of classes and people
BLOCK = 2**23  # bytes that a thread reads at a time
MOST_SHOWN = 80


@dataclass(frozen=True)
class TableFile:
    """A table whose columns are read on access.

    Attributes
    ----------
    path : Path
        The file.
    names : tuple of str
        The columns that have a name, as written.
    notes : dict
        Notes that :func:`~pl2d_ppl.data.tables.writing.write_table` stored in a Parquet file; empty otherwise.
    """

    path: Path
    names: tuple[str, ...]
    load: Callable[[Sequence[str]], Any] = field(repr=False)
    notes: dict[str, Any]
    _read: dict[str, Any] = field(default_factory=dict, repr=False)

    def read(self, names: Sequence[str]) -> dict[str, Any]:
        """Read columns, each only once.

        Parameters
        ----------
        names : sequence of str
            Columns.

        Returns
        -------
        dict of str to pyarrow.ChunkedArray
            Text, in CSV; an empty field is null.

        Raises
        ------
        ValueError
            If the file cannot be read, or has no rows.
        """
        wanted = [name for name in names if name not in self._read]
        if wanted:
            try:
                table = self.load(wanted)
            except OSError as error:
                raise ValueError(
                    f"Expected a file that can be read at {self.path}, found: {error}. Fetch it again."
                ) from error
            if table.num_rows == 0:
                raise ValueError(f"Expected rows in {self.path}, found a header only. Check whether it is complete.")
            self._read.update(zip(wanted, table.columns, strict=True))
        return {name: self._read[name] for name in names}

    def coded(self, name: str) -> Coded:
        """Read a column of names.

        Raises
        ------
        ValueError
            If the file cannot be read, or its values are neither text nor numbers.
        """
        column = self.read([name])[name]
        try:
            return coded(column)
        except ValueError as error:
            raise ValueError(f"column {name!r}: {error}") from error


@contextmanager
def naming_table(path: Path) -> Iterator[None]:
    """Add the name of the table to an error message that lacks it."""
    try:
        yield
    except ValueError as error:
        if str(path) in str(error):
            raise
        raise ValueError(f"{path}: {error}") from error


def open_table(path: Path, encoding: str = "utf-8", delimiter: str | None = None) -> TableFile:
    """Open a CSV or Parquet file.

    Parameters
    ----------
    path : Path
        File; any file that is not Parquet is read as CSV.
    encoding : str
        Encoding of a CSV file; a byte-order mark takes precedence.
    delimiter : str, optional
        Delimiter of a CSV file; by default the most frequent in its header, or a tab in ``.tsv``.

    Returns
    -------
    TableFile
        Its columns.

    Raises
    ------
    ValueError
        If it cannot be read, is empty, or a column appears twice.
    """
    try:
        if path.is_dir():
            raise ValueError(f"Expected a table ({', '.join(TABLES)}) at {path}, found a folder. Name the file in it.")
        file = _open_parquet(path) if is_parquet(path) else _open_csv(path, encoding, delimiter)
    except FileNotFoundError as error:
        raise ValueError(f"Expected a file at {path}, found none. Check the name and the folder.") from error
    except OSError as error:
        raise ValueError(f"Expected a file that can be read at {path}, found: {error}. Fetch or rewrite it.") from error
    twice = [name for name, number in Counter(file.names).items() if number > 1]
    if twice:
        raise ValueError(
            f"Expected columns of different names in {path}, found {twice[0]!r} more than once. Rename it."
        )
    return file


def is_parquet(path: Path) -> bool:
    """Whether a file has the name, or the first bytes, of a Parquet file."""
    with path.open("rb") as file:
        return file.read(4) == b"PAR1" or path.suffix.lower() == ".parquet"


def _open_parquet(path: Path) -> TableFile:
    if path.stat().st_size == 0:
        raise ValueError(f"Expected a table in {path}, found an empty file. Fetch or write it again.")

    def load(names: Sequence[str]) -> Any:
        with pa.parquet.ParquetFile(path) as file:
            return file.read(columns=list(names)).select(list(names))

    try:
        with pa.parquet.ParquetFile(path) as file:
            schema = file.schema_arrow
    except pa.ArrowInvalid as error:
        raise ValueError(
            f"Expected a Parquet file at {path}, found something else: {error}. Fetch or rewrite it."
        ) from error
    notes = (schema.metadata or {}).get(NOTES)
    return TableFile(path, tuple(schema.names), load, json.loads(notes) if notes else {})


def _open_csv(path: Path, encoding: str, delimiter: str | None) -> TableFile:
    content = _utf8(path, encoding)
    delimiter = delimiter or _delimiter(path, content)
    header, above = _header(path, content, delimiter)
    places = {name: i for i, name in enumerate(header) if name.strip()}

    def load(names: Sequence[str]) -> Any:
        return _parse(path, content, len(header), [places[name] for name in names], above + 1, delimiter)

    return TableFile(path, tuple(name for name in header if name.strip()), load, {})


def _utf8(path: Path, encoding: str) -> pa.Buffer:
    """Read a file in UTF-8 without its byte-order mark.

    The buffer is Arrow's own: if a thread of Arrow releases a Python buffer while Python exits, the process aborts.
    """
    with pa.OSFile(str(path)) as file:
        content = file.read_buffer()
    begin = content.slice(0, min(3, content.size)).to_pybytes()
    if begin.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"  # as Excel writes "Unicode text"
    try:
        if codecs.lookup(encoding).name not in ("utf-8", "utf-8-sig"):
            stream = pa.BufferOutputStream()
            stream.write(content.to_pybytes().decode(encoding).encode())
            return stream.getvalue()
    except LookupError as error:
        raise ValueError(
            f'Expected an encoding that Python knows, such as "latin-1", found {encoding!r}. Correct its name.'
        ) from error
    except UnicodeDecodeError as error:
        raise _wrong_encoding(path, content.to_pybytes(), error) from error
    return content.slice(3) if begin == codecs.BOM_UTF8 else content


def _wrong_encoding(path: Path, content: bytes, error: UnicodeDecodeError) -> ValueError:
    line = content.count(b"\n", 0, error.start) + 1
    return ValueError(
        f"Expected {error.encoding.upper()} text in {path}, found byte 0x{content[error.start]:02x} in line {line} "
        f'(byte {error.start} of the file). Pass its encoding, such as encoding="latin-1", or convert it: iconv -f '
        f"LATIN1 -t UTF-8 {path}"
    )


def _delimiter(path: Path, content: pa.Buffer) -> str:
    if path.suffix.lower() == ".tsv":
        return "\t"
    found = re.match(rb"[\r\n]*([^\r\n]*)", memoryview(content))
    first = found[1].decode(errors="replace") if found else ""
    return max(",;\t", key=first.count)  # the first of tied ones: a comma


def _header(path: Path, content: pa.Buffer, delimiter: str) -> tuple[list[str], int]:
    """Return the names in the first row that is not empty, and the number of rows above it."""
    with io.TextIOWrapper(pa.BufferReader(content), "utf-8", newline="") as text:
        try:
            for above, row in enumerate(csv.reader(text, delimiter=delimiter)):
                if any(name.strip() for name in row):
                    return row, above
        except UnicodeDecodeError:
            raise _explained(path, content, "") from None
        except (csv.Error, TypeError) as error:
            raise ValueError(
                f"Expected a row of column names at the top of {path}, found: {error}. Correct it."
            ) from error
    raise ValueError(f"Expected a header and rows in {path}, found an empty file. Fetch or write it again.")


def _parse(path: Path, content: pa.Buffer, width: int, places: Sequence[int], skipped: int, delimiter: str) -> Any:
    # Not `pandas.read_csv`: its engines take 6 to 7 times as long or, as fast, break quoted line ends every megabyte.
    names = [str(i) for i in range(width)]
    quoted = re.search(b'"', memoryview(content)) is not None
    invalid: list[Any] = []

    def note(row: Any) -> str:
        invalid.append(row)
        return "skip"

    def read(**diagnosis: Any) -> Any:
        alone = bool(diagnosis)  # rows are numbered only if one thread reads them
        return pa.csv.read_csv(
            pa.BufferReader(content),
            pa.csv.ReadOptions(
                column_names=names, skip_rows_after_names=skipped, block_size=BLOCK, use_threads=not alone
            ),
            # Line ends within quotes cost time, and occur only with quotes.
            pa.csv.ParseOptions(delimiter=delimiter, newlines_in_values=quoted, **diagnosis),
            pa.csv.ConvertOptions(
                include_columns=[names[i] for i in places],
                column_types=dict.fromkeys(names, pa.string()),
                null_values=[""],
                strings_can_be_null=True,
            ),
        )

    try:
        return read()
    except pa.ArrowInvalid as error:
        found = str(error)
    try:
        read(invalid_row_handler=note)
    except pa.ArrowInvalid as error:
        raise _explained(path, content, str(error)) from error
    if not invalid:
        raise _explained(path, content, found)
    text = invalid[0].text[:MOST_SHOWN]
    raise ValueError(
        f"Expected {width} fields in every row of {path}, as in its header, found {invalid[0].actual_columns} in row "
        f"{invalid[0].number}: {text!r} (such rows: {len(invalid):,}). Correct them, or put quotes around a field that "
        f"holds {delimiter!r}."
    )


def _explained(path: Path, content: pa.Buffer, found: str) -> ValueError:
    whole = content.to_pybytes()
    try:
        whole.decode()
    except UnicodeDecodeError as error:
        return _wrong_encoding(path, whole, error)
    return ValueError(f"Expected a table of text in {path}, found: {found}. Correct it.")
