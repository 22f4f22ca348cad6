"""Read the tables that come with images: JSON and CSV."""

import json
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import pandas as pd

__all__ = ["check_columns", "read_csv", "read_json"]


def read_json(path: Path, kind: type, keys: Collection[str]) -> Any:
    """Read JSON of objects.

    Parameters
    ----------
    path : Path
        The file.
    kind : type
        Type of the container of the objects, dict or list.
    keys : collection of str
        Keys that every object must have.

    Returns
    -------
    dict or list
        The contents of the file.

    Raises
    ------
    ValueError
        If it is not JSON of that kind.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"Expected JSON in {path}, found: {error}. Fetch it again.") from error
    found = type(content)
    if found is not kind:
        raise ValueError(f"Expected a {kind.__name__} in {path}, found a {found.__name__}. Fetch it again.")
    check_columns(path, content.values() if kind is dict else content, keys)
    return content


def check_columns(path: Path, entries: Iterable[Any], keys: Collection[str]) -> None:
    """Check that entries are objects with these keys."""
    for entry in entries:
        if not isinstance(entry, dict) or not entry.keys() >= set(keys):
            raise ValueError(
                f"Expected objects with {', '.join(keys)} in {path}, found {str(entry)[:80]}. Fetch it again."
            )


def read_csv(path: Path, columns: Collection[str]) -> pd.DataFrame:
    """Read a CSV as text, without the spaces around a cell; an empty cell is an empty string.

    Parameters
    ----------
    path : Path
        The file.
    columns : collection of str
        Columns that it must have.

    Returns
    -------
    DataFrame
        All its columns.

    Raises
    ------
    ValueError
        If it cannot be read, has no row, or lacks a column.
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, skipinitialspace=True)
    except (OSError, ValueError) as error:  # parsing errors of pandas are ValueErrors
        raise ValueError(f"Expected a CSV that can be read at {path}, found: {error}. Correct it.") from error
    missing = [column for column in columns if column not in table.columns]
    if missing or table.empty:
        raise ValueError(
            f"Expected rows and the columns {', '.join(columns)} in {path}, found {len(table)} rows and "
            f"{', '.join(map(str, table.columns))}. Correct it."
        )
    return table.apply(lambda column: column.str.strip())
