"""Tables of text, Parquet and Excel, read column by column; every problem of a file is reported."""

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
import pyarrow.compute
import pyarrow.csv
import pyarrow.parquet

from pl2d_ppl.checks.advice import advice
from pl2d_ppl.data.stored import begin_of, content_of, plain_name
from pl2d_ppl.data.tables.column_names import is_known
from pl2d_ppl.data.tables.dialects import MOST_LINES, check_quotes, delimiter_of, is_headerless, rows_of
from pl2d_ppl.data.tables.excel import is_excel, read_excel
from pl2d_ppl.data.tables.names import Coded, as_ids, coded

__all__ = ["NOTES", "TABLES", "Dialect", "TableFile", "naming_table", "open_table", "table_of"]

TABLES = (".csv", ".tsv", ".txt", ".parquet", ".xlsx")
NOTES = b"pl2d_ppl"  # key under which a Parquet file stores the order of classes and people
LAYOUTS = ("long", "wide", "counts")
BLOCK = 2**23  # bytes that a thread reads at a time
MOST_SHOWN = 80


@dataclass(frozen=True)
class Dialect:
    """How a table of text is written; None: as its content shows.

    Attributes
    ----------
    encoding : str
        Encoding; a byte-order mark takes precedence.
    delimiter : str, optional
        What separates fields.
    names : tuple of str, optional
        Names of the columns of a table without a header.
    quotes : bool, optional
        Whether quotation marks enclose fields; by default they do, and marks that are never closed are refused.
    header : bool
        Whether the first row is known to be a header, however it looks.
    """

    encoding: str = "utf-8"
    delimiter: str | None = None
    names: tuple[str, ...] | None = None
    quotes: bool | None = None
    header: bool = False


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
    schema : pyarrow.Schema, optional
        Types of the columns; None if all are text.
    """

    path: Path
    names: tuple[str, ...]
    load: Callable[[Sequence[str]], Any] = field(repr=False)
    notes: dict[str, Any]
    schema: Any = None
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
            except (OSError, pa.ArrowException) as error:
                raise ValueError(
                    f"Expected a file that can be read at {self.path}, found: {error}. Fetch it again."
                ) from error
            if table.num_rows == 0:
                raise ValueError(f"Expected rows in {self.path}, found a header only. Check whether it is complete.")
            _check_header_once(self.path, wanted, table)
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

    def types(self) -> list[Any]:
        """Return the types of all columns, without reading those of a text."""
        return list(self.schema.types) if self.schema is not None else []

    def ids(self, name: str) -> Coded:
        """Read a column of identifiers, of items or people; "3.0" is "3" where all are whole numbers.

        Raises
        ------
        ValueError
            If the file cannot be read, or digits of an identifier are lost.
        """
        try:
            return as_ids(self.coded(name))
        except ValueError as error:
            raise ValueError(f"column {name!r}: {error}" if "column" not in str(error) else str(error)) from error


def _check_header_once(path: Path, names: Sequence[str], table: Any) -> None:
    """Refuse a header among the rows, where files were joined."""
    if sum(map(is_known, names)) < 2 or not all(pa.types.is_string(column.type) for column in table.columns):
        return
    again = pa.compute.equal(table.columns[0], names[0])
    for name, column in zip(names[1:], table.columns[1:], strict=True):
        again = pa.compute.and_(again, pa.compute.equal(column, name))
    if pa.compute.any(again).as_py():
        row = pa.compute.index(again, True).as_py() + 1
        raise ValueError(
            f"Expected one header at the top of {path}, found it again in row {row} below it. Remove it there, and "
            "check that names of items do not repeat."
        )


@contextmanager
def naming_table(path: Path) -> Iterator[None]:
    """Add the name of the table to an error message that lacks it."""
    try:
        yield
    except ValueError as error:
        if str(path) in str(error):
            raise
        raise ValueError(f"{path}: {error}") from error


def open_table(path: Path, dialect: Dialect = Dialect()) -> TableFile:
    """Open a table, compressed or not: Parquet, Excel, or text.

    Parameters
    ----------
    path : Path
        File; what is neither Parquet nor Excel is read as text.
    dialect : Dialect
        How text is written.

    Returns
    -------
    TableFile
        Its columns.

    Raises
    ------
    ValueError
        If it cannot be read, is empty, or a column appears twice.
    """
    if path.is_dir():
        raise ValueError(f"Expected a table ({', '.join(TABLES)}) at {path}, found a folder. Name the file in it.")
    try:
        begin = begin_of(path)
        if is_excel(path, begin):
            file = table_of(path, read_excel(path))
        else:
            file = _open_parquet(path) if is_parquet(path, begin) else _open_csv(path, dialect)
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


def table_of(path: Path, table: Any) -> TableFile:
    """Make a table of an Arrow table in memory.

    Parameters
    ----------
    path : Path
        File that it comes from, for messages.
    table : pyarrow.Table
        The columns.

    Returns
    -------
    TableFile
        The same.
    """
    return TableFile(path, tuple(table.column_names), lambda names: table.select(list(names)), {})


def is_parquet(path: Path, begin: bytes) -> bool:
    """Whether a file has the name, or the first bytes, of a Parquet file."""
    return begin.startswith(b"PAR1") or plain_name(path).suffix.lower() == ".parquet"


def _open_parquet(path: Path) -> TableFile:
    if path.stat().st_size == 0:
        raise ValueError(f"Expected a table in {path}, found an empty file. Fetch or write it again.")
    source = path if plain_name(path) == path else pa.BufferReader(content_of(path))

    def load(names: Sequence[str]) -> Any:
        with pa.parquet.ParquetFile(source) as file:
            return file.read(columns=list(names)).select(list(names))

    try:
        with pa.parquet.ParquetFile(path if source is path else pa.BufferReader(content_of(path))) as file:
            schema = file.schema_arrow
    except (OSError, pa.ArrowException) as error:
        raise ValueError(
            f"Expected a Parquet file at {path}, found something else: {error}. Fetch or rewrite it."
        ) from error
    return TableFile(path, tuple(schema.names), load, _notes(path, schema), schema)


def _notes(path: Path, schema: Any) -> dict[str, Any]:
    """Return what :func:`~pl2d_ppl.data.tables.writing.write_table` noted."""
    stored = (schema.metadata or {}).get(NOTES)
    if stored is None:
        return {}
    try:
        notes = json.loads(stored)
        names = [*notes.get("classes", ()), *notes.get("annotators", ())]
        if not all(isinstance(name, str) for name in names) or notes.get("layout") not in (None, *LAYOUTS):
            raise ValueError("other values")
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(f"Expected notes that can be read in {path}, found: {error}. Fetch or rewrite it.") from error
    return notes


def _open_csv(path: Path, dialect: Dialect) -> TableFile:
    content = _utf8(path, dialect.encoding)
    lines = _first_lines(path, content)
    delimiter = dialect.delimiter or _delimiter(path, lines)
    first, above = _header(path, lines, delimiter)
    header = list(first) if dialect.names is None else list(dialect.names)
    if len(header) != len(first):
        raise ValueError(
            f"Expected a name for each of {len(first)} columns of {path}, found {len(header)}: {', '.join(header)}. "
            "Name them all."
        )
    if dialect.names is None and not dialect.header and is_headerless(first, rows_of(lines, delimiter)[above + 1 :]):
        raise ValueError(
            f"Expected a row of column names at the top of {path}, found a row like the others: "
            f"{', '.join(first)[:MOST_SHOWN]}. Add one, or name the columns: "
            f"{advice('names=["item", "annotator", "label"]', '--names item,annotator,label')}; if these are names, "
            f"say so, {advice('header=True', '--header')}."
        )
    if dialect.quotes is None and re.search(b'"', memoryview(content)):
        check_quotes(content.to_pybytes(), delimiter, len(header), path)
    places = {name: i for i, name in enumerate(header) if name.strip()}
    skipped = above + (dialect.names is None)

    def load(names: Sequence[str]) -> Any:
        wanted = [places[name] for name in names]
        return _parse(path, content, len(header), wanted, skipped, delimiter, dialect.quotes is not False)

    return TableFile(path, tuple(name for name in header if name.strip()), load, {})


def _utf8(path: Path, encoding: str) -> pa.Buffer:
    """Read a file in UTF-8 without its byte-order mark."""
    content = content_of(path)
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
        f"(byte {error.start} of the file). Pass its encoding, such as "
        f"{advice('encoding="latin-1"', '--encoding latin-1')}, or convert it: iconv -f LATIN1 -t UTF-8 {path}"
    )


def _delimiter(path: Path, lines: Sequence[str]) -> str:
    if plain_name(path).suffix.lower() == ".tsv":
        return "\t"
    return delimiter_of([line for line in lines if line.strip()])


def _first_lines(path: Path, content: pa.Buffer) -> list[str]:
    with io.TextIOWrapper(pa.BufferReader(content), "utf-8", newline="") as text:
        try:
            return [line for line, _ in zip(_lines(text), range(MOST_LINES), strict=False)]
        except UnicodeDecodeError:
            raise _explained(path, content, "") from None


def _lines(text: Any) -> Iterator[str]:
    """Read lines, which may end in a carriage return alone."""
    for line in text:
        yield from line.splitlines(keepends=True) if "\r" in line else [line]


def _header(path: Path, lines: Sequence[str], delimiter: str) -> tuple[list[str], int]:
    """Return the names in the first row that is not empty, and the number of rows above it."""
    try:
        for above, row in enumerate(csv.reader(lines, delimiter=delimiter)):
            if any(name.strip() for name in row):
                return row, above
    except (csv.Error, TypeError) as error:
        raise ValueError(f"Expected a row of column names at the top of {path}, found: {error}. Correct it.") from error
    raise ValueError(f"Expected a header and rows in {path}, found an empty file. Fetch or write it again.")


def _parse(
    path: Path, content: pa.Buffer, width: int, places: Sequence[int], skipped: int, delimiter: str, quotes: bool
) -> Any:
    # Not `pandas.read_csv`: its engines take 6 to 7 times as long or, as fast, break quoted line ends every megabyte.
    names = [str(i) for i in range(width)]
    quoted = quotes and re.search(b'"', memoryview(content)) is not None
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
            pa.csv.ParseOptions(
                delimiter=delimiter, quote_char='"' if quotes else False, newlines_in_values=quoted, **diagnosis
            ),
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
