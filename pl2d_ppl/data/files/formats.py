"""Annotated data in files of any format."""

import codecs
import inspect
import logging
import os
import zipfile
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from pl2d_ppl.checks.advice import advice
from pl2d_ppl.data.annotated import Annotated
from pl2d_ppl.data.exports.reading import read_export, read_export_table
from pl2d_ppl.data.files.json_files import read_json_folder_reported
from pl2d_ppl.data.files.json_writing import write_json_files
from pl2d_ppl.data.files.netcdf import read_netcdf_reported, write_netcdf
from pl2d_ppl.data.npz import read_npz_reported, write_npz
from pl2d_ppl.data.parts import Reading
from pl2d_ppl.data.stored import begin_of, plain_name
from pl2d_ppl.data.tables.excel import OLD as OLD_EXCEL
from pl2d_ppl.data.tables.excel import is_excel
from pl2d_ppl.data.tables.table_files import TABLES
from pl2d_ppl.data.tables.writing import write_table

__all__ = ["digest", "format_of", "read_data", "read_reported", "write_data"]

JSON = (".json", ".jsonl", ".ndjson")
LONGEST = 64  # bytes that show whether a text is JSON

NETCDF = (".nc", ".netcdf", ".h5netcdf")
MAGIC = {b"PAR1": "table", b"\x89HDF\r\n\x1a\n": "netcdf", b"CDF": "netcdf", OLD_EXCEL: "table"}
_READERS: dict[str, Callable[..., Reading]] = {
    "npz": read_npz_reported,
    "table": read_export_table,
    "netcdf": read_netcdf_reported,
    "json": read_json_folder_reported,
    "export": read_export,
}
_WRITERS: dict[str, Callable] = {
    "npz": write_npz,
    "table": write_table,
    "netcdf": write_netcdf,
    "json": write_json_files,
}


def read_data(path: str | os.PathLike, *, subset: bool = False, **options: Any) -> tuple[Annotated, Annotated | None]:
    """Read annotated data of any format, and their test part if they have one.

    The content of a file decides its format, not its name.

    Parameters
    ----------
    path : path-like
        An ``.npz`` (:func:`~pl2d_ppl.data.npz.read_npz`); a table, ``.csv``, ``.tsv``, ``.txt``, ``.parquet`` or
        ``.xlsx`` (:func:`~pl2d_ppl.data.tables.reading.read_table`); ``.nc``
        (:func:`~pl2d_ppl.data.files.netcdf.read_netcdf`); a folder of JSON files
        (:func:`~pl2d_ppl.data.files.json_files.read_json_folder`); or what an annotation tool exports
        (:func:`~pl2d_ppl.data.exports.reading.read_export`). Each may be compressed, ``.gz`` or ``.zst``.
    subset : bool
        Whether this is a part of a data set, whose truth may be unknown.
    **options
        Options of the reader of the format: for a table ``layout``, ``columns``, ``classes``, ``people``, ``truth``,
        ``features``, ``duplicates`` and others.

    Returns
    -------
    train : Annotated
    test : Annotated or None

    Raises
    ------
    ValueError
        If the format is unknown, the reader does not take an option, or the reader raises an error.
    """
    return read_reported(path, subset=subset, **options)[:2]


def read_reported(path: str | os.PathLike, *, subset: bool = False, **options: Any) -> Reading:
    """Read annotated data as :func:`read_data` does, and say what was taken for what.

    Parameters
    ----------
    path, subset, **options
        As for :func:`read_data`.

    Returns
    -------
    Reading
        The data, and what was taken for item, person, label, truth and missing.

    Raises
    ------
    ValueError
        As :func:`read_data`.
    """
    path = Path(path)
    reader = _READERS[format_of(path)]
    _check_options(path, reader, options)
    found = reader(path, subset=subset, **options)
    logging.getLogger("pl2d_ppl").info("%s: %s", path, found.taken)
    return found


def write_data(path: str | os.PathLike, data: Annotated, test: Annotated | None = None, **options: Any) -> None:
    """Write annotated data in any format, whole or not at all, so that :func:`read_data` returns them.

    Parameters
    ----------
    path : path-like
        An ``.npz``, ``.nc``, ``.csv``, ``.tsv`` or ``.parquet`` file. A path without ending, or an existing folder, is
        a folder for JSON.
    data : Annotated
        Data set, or its training part.
    test : Annotated, optional
        Test part, with the same classes and annotators.
    **options
        ``layout`` of a table; ``features``, an ``.npz`` for the features of a table or of JSON files.

    Raises
    ------
    ValueError
        If the format is unknown, does not take an option or cannot hold the data, or the path cannot be written to.
    """
    path = Path(path)
    kind = "json" if path.is_dir() or not path.suffix else _by_ending(path)
    if kind is None or path.suffix.lower() == ".xlsx" or plain_name(path) != path:
        raise ValueError(_unknown(path))
    _check_options(path, _WRITERS[kind], options, WRITING)
    _WRITERS[kind](path, data, test, **options)


def format_of(path: Path) -> str:
    """Find the format of a file by what it holds, or by its ending if it is empty or damaged.

    Parameters
    ----------
    path : Path
        File or folder.

    Returns
    -------
    {"npz", "table", "netcdf", "json", "export"}
        The format; "export" is JSON, JSON lines, an archive or a folder of an annotation tool.

    Raises
    ------
    ValueError
        If it is unknown.
    """
    kind = _by_ending(path)
    if path.is_dir():
        return kind or ("json" if any(path.glob("*.json")) or not any(path.glob("*.jsonl")) else "export")
    if not path.exists():
        if kind is None:
            raise ValueError(f"Expected a file or folder at {path}, found none. Check the name and the folder.")
        return kind  # its reader says that there is none
    found = _by_content(path)
    if found is None and kind is None and plain_name(path).suffix.lower() in JSON:
        return "export"  # its reader says what is wrong
    if found is None and kind is None:
        raise ValueError(_unknown(path))
    return found or kind or ""


def _by_content(path: Path) -> str | None:
    try:
        begin = begin_of(path, LONGEST)
    except OSError:
        return None
    for magic, kind in MAGIC.items():
        if begin.startswith(magic):
            return kind
    if begin.startswith(b"PK\x03\x04"):
        return _of_archive(path)
    text = begin.removeprefix(codecs.BOM_UTF8).lstrip()
    if text[:1] in (b"[", b"{") and _by_ending(path) in (None, "table"):
        return "export"
    is_text = text and b"\0" not in begin and all(byte > 31 or byte in b"\t\n\r\x01" for byte in begin)
    return "table" if is_text and _by_ending(path) is None else None


def _of_archive(path: Path) -> str:
    if is_excel(path, b"PK\x03\x04"):
        return "table"
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if not name.endswith("/")]
    except Exception:  # whatever a damaged archive raises
        return "npz"  # its reader says what is wrong
    return "export" if any(name.lower().endswith(JSON) for name in names) else "npz"


def _by_ending(path: Path) -> str | None:
    ending = plain_name(path).suffix.lower()
    return "npz" if ending == ".npz" else "table" if ending in TABLES else "netcdf" if ending in NETCDF else None


def _unknown(path: Path) -> str:
    return (
        f"Expected .npz, .nc, a table ({', '.join(TABLES)}), JSON of an annotation tool or a folder of JSON files, "
        f"found {path}."
    )


def _check_options(
    path: Path, function: Callable, options: dict[str, Any], shell: Mapping[str, str] | None = None
) -> None:
    known = [name for name, p in inspect.signature(function).parameters.items() if p.kind == p.KEYWORD_ONLY]
    strange = [name for name in options if name not in known]
    if strange:
        raise ValueError(
            f"Expected the options {_options(known, shell) or '(none)'} for the format of {path}, found "
            f"{_options(strange, shell)}. "
            "Leave them out."
        )


# Names of options on the command line, where they differ.
READING = {"columns": "--column", "people": "--person", "missing": "--missing-label"}
WRITING = {"layout": "--to-layout", "features": "--features-out"}


def _options(names: list[str], shell: Mapping[str, str] | None) -> str:
    told = [name for name in names if name != "subset"]
    flags = READING if shell is None else shell
    return advice(", ".join(told), ", ".join(flags.get(name, f"--{name.replace('_', '-')}") for name in told))


def digest(path: Path) -> str:
    """Compute the SHA-256 of a file, or of all files in a folder with their names."""
    if not path.is_dir():
        return sha256(path.read_bytes()).hexdigest()
    whole = sha256()
    for file in sorted(path.glob("*.json")):
        whole.update(f"{file.name} {sha256(file.read_bytes()).hexdigest()}\n".encode())
    return whole.hexdigest()
