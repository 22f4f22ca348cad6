"""JSON in a file, an archive or a folder: one value, or a value a line."""

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pl2d_ppl.data.stored import content_of

__all__ = ["load_json", "load_members"]

ENDINGS = (".jsonl", ".json", ".ndjson")
MOST_BYTES = 2**33  # of an archive, unpacked


def load_json(path: Path) -> Any:
    """Read JSON, or JSON lines as a list.

    Parameters
    ----------
    path : Path
        The file, compressed or not.

    Returns
    -------
    list or dict
        What it holds.

    Raises
    ------
    ValueError
        If it cannot be read, or is neither.
    """
    return parse(content_of(path).to_pybytes(), path)


def parse(content: bytes, where: Any) -> Any:
    """Read JSON, or JSON lines as a list.

    Raises
    ------
    ValueError
        If it is neither.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"Expected UTF-8 text in {where}, found byte 0x{content[error.start]:02x} in line {line} (byte "
            f"{error.start} of the file). Convert it: iconv -f LATIN1 -t UTF-8 {where}"
        ) from error
    if not text.strip():
        raise ValueError(f"Expected JSON in {where}, found an empty file. Fetch or write it again.")
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        first = error
    except RecursionError as error:
        raise ValueError(f"Expected records in {where}, found lists within lists. Correct it.") from error
    lines = [(i, line) for i, line in enumerate(text.splitlines(), 1) if line.strip()]
    found = []
    for number, text_line in lines:
        try:
            found.append(json.loads(text_line))
        except json.JSONDecodeError as error:
            told = first if not found else f"{error.msg} in line {number}"
            raise ValueError(f"Expected JSON in {where}, found: {told}. Correct or fetch it again.") from error
        except RecursionError as error:
            raise ValueError(f"Expected records in {where}, found lists within lists. Correct it.") from error
    return found


def load_members(path: Path) -> Mapping[str, Any]:
    """Read all JSON files of an archive, or of a folder.

    Parameters
    ----------
    path : Path
        A ``.zip``, or a folder.

    Returns
    -------
    mapping of str to list
        What they hold, by name.

    Raises
    ------
    ValueError
        If one cannot be read.
    """
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix.lower() in ENDINGS)
        return {file.name: load_json(file) for file in files}
    try:
        with zipfile.ZipFile(path) as archive:
            infos = [info for info in archive.infolist() if info.filename.lower().endswith(ENDINGS)]
            if sum(info.file_size for info in infos) > MOST_BYTES:
                raise ValueError(f"Expected an archive of at most {MOST_BYTES:,} bytes at {path}, found a larger one.")
            return {info.filename: parse(archive.read(info), f"{path}, {info.filename}") for info in infos}
    except ValueError:
        raise
    except Exception as error:  # whatever a damaged archive raises
        raise ValueError(f"Expected an archive that can be read at {path}, found: {error}. Fetch it again.") from error
