"""Sheets of Excel, with the extra ``excel``."""

import importlib.util
import zipfile
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

__all__ = ["is_excel", "read_excel"]

OLD = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"  # .xls, before 2007


def is_excel(path: Path, begin: bytes) -> bool:
    """Whether a file is a workbook of Excel, by what it holds."""
    if begin.startswith(OLD):
        return True
    if not begin.startswith(b"PK\x03\x04"):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.startswith("xl/") for name in archive.namelist())
    except Exception:  # whatever a damaged archive raises
        return path.suffix.lower() == ".xlsx"


def read_excel(path: Path) -> Any:
    """Read the first sheet that has rows.

    Parameters
    ----------
    path : Path
        An ``.xlsx`` file.

    Returns
    -------
    pyarrow.Table
        Text; empty cells are null.

    Raises
    ------
    ValueError
        If it cannot be read, is of Excel before 2007, or the extra is not installed.
    """
    with path.open("rb") as file:
        old = file.read(8).startswith(OLD)
    if old:
        raise ValueError(f"Expected a workbook of Excel 2007 or later at {path}, found an older one. Save it as .csv.")
    if importlib.util.find_spec("openpyxl") is None:
        raise ValueError(
            f"Expected the package openpyxl to read {path}, a workbook of Excel, found none. Install it: pip install "
            "'pl2d_ppl[excel]'; or save the sheet as .csv."
        )
    try:
        sheets = pd.read_excel(path, sheet_name=None, dtype=object, keep_default_na=False, engine="openpyxl")
    except Exception as error:  # whatever a damaged workbook raises
        raise ValueError(f"Expected a workbook of Excel at {path}, found: {error}. Save it again.") from error
    frame = next((sheet for sheet in sheets.values() if len(sheet)), None)
    if frame is None:
        raise ValueError(f"Expected rows in {path}, found empty sheets. Check whether it is complete.")
    columns = {str(name): pa.array([_text(value) for value in frame[name]], pa.string()) for name in frame.columns}
    return pa.table(columns)


def _text(value: Any) -> str | None:
    if value is None or value == "" or (isinstance(value, float) and value != value):
        return None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)
