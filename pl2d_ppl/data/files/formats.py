"""Annotated data in files of any format."""

import inspect
import os
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

from pl2d_ppl.data.annotated import Annotated
from pl2d_ppl.data.files.json_files import read_json_folder
from pl2d_ppl.data.files.json_writing import write_json_files
from pl2d_ppl.data.files.netcdf import read_netcdf, write_netcdf
from pl2d_ppl.data.npz import read_npz, write_npz
from pl2d_ppl.data.tables.reading import read_table
from pl2d_ppl.data.tables.table_files import TABLES
from pl2d_ppl.data.tables.writing import write_table

__all__ = ["digest", "format_of", "read_data", "write_data"]

NETCDF = (".nc", ".netcdf", ".h5netcdf")
MAGIC = {b"PK\x03\x04": "npz", b"PAR1": "table", b"\x89HDF\r\n\x1a\n": "netcdf"}
_READERS: dict[str, Callable] = {
    "npz": read_npz,
    "table": read_table,
    "netcdf": read_netcdf,
    "json": read_json_folder,
}
_WRITERS: dict[str, Callable] = {
    "npz": write_npz,
    "table": write_table,
    "netcdf": write_netcdf,
    "json": write_json_files,
}


def read_data(path: str | os.PathLike, *, subset: bool = False, **options: Any) -> tuple[Annotated, Annotated | None]:
    """Read annotated data of any format, and their test part if they have one.

    Parameters
    ----------
    path : path-like
        An ``.npz`` (:func:`~pl2d_ppl.data.npz.read_npz`); a table, ``.csv``, ``.tsv``, ``.txt`` or ``.parquet``
        (:func:`~pl2d_ppl.data.tables.reading.read_table`); ``.nc`` (:func:`~pl2d_ppl.data.files.netcdf.read_netcdf`);
        or a folder of JSON files (:func:`~pl2d_ppl.data.files.json_files.read_json_folder`).
    subset : bool
        Whether this is a part of a data set, whose truth may be unknown. An ``.npz`` still needs some known truth.
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
    path = Path(path)
    kind = format_of(path)
    reader = _READERS[kind]
    _check_options(path, reader, options)
    return reader(path, **options) if kind == "npz" else reader(path, subset=subset, **options)


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
    if kind is None:
        raise ValueError(_unknown(path))
    _check_options(path, _WRITERS[kind], options)
    _WRITERS[kind](path, data, test, **options)


def format_of(path: Path) -> str:
    """Find the format of a file by its ending, or else by its first bytes.

    Parameters
    ----------
    path : Path
        File or folder.

    Returns
    -------
    {"npz", "table", "netcdf", "json"}
        The format.

    Raises
    ------
    ValueError
        If it is unknown.
    """
    kind = _by_ending(path)
    if kind is not None:  # the reader reports problems of the file, such as a folder in its place
        return kind
    if path.is_dir():
        return "json"
    if not path.exists():
        raise ValueError(f"Expected a file or folder at {path}, found none. Check the name and the folder.")
    with path.open("rb") as file:
        begin = file.read(8)
    for magic, kind in MAGIC.items():
        if begin.startswith(magic):
            return kind
    raise ValueError(_unknown(path))


def _by_ending(path: Path) -> str | None:
    ending = path.suffix.lower()
    return "npz" if ending == ".npz" else "table" if ending in TABLES else "netcdf" if ending in NETCDF else None


def _unknown(path: Path) -> str:
    hint = " For JSON files, name the folder, or use pl2d_ppl.data.read_json." if path.suffix == ".json" else ""
    return f"Expected .npz, .nc, a table ({', '.join(TABLES)}) or a folder of JSON files, found {path}.{hint}"


def _check_options(path: Path, function: Callable, options: dict[str, Any]) -> None:
    known = [name for name, p in inspect.signature(function).parameters.items() if p.kind == p.KEYWORD_ONLY]
    strange = [name for name in options if name not in known]
    if strange:
        raise ValueError(
            f"Expected the options {', '.join(known) or '(none)'} for the format of {path}, found "
            f"{', '.join(strange)}. Leave them out."
        )


def digest(path: Path) -> str:
    """Compute the SHA-256 of a file, or of all files in a folder with their names."""
    if not path.is_dir():
        return sha256(path.read_bytes()).hexdigest()
    whole = sha256()
    for file in sorted(path.glob("*.json")):
        whole.update(f"{file.name} {sha256(file.read_bytes()).hexdigest()}\n".encode())
    return whole.hexdigest()
