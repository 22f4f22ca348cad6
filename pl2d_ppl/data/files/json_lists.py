"""JSON files that are lists of items with their labels."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pl2d_ppl.data.npz import naming
from pl2d_ppl.data.tables.columns import find_columns
from pl2d_ppl.data.tables.names import Coded, coded

__all__ = ["Listed", "load_list", "parse_json"]

_KINDS = {int: "index", float: "index", str: "name", list: "one-hot list", type(None): "missing"}


@dataclass(frozen=True)
class Listed:
    """Contents of a file.

    Attributes
    ----------
    path : Path
        The file.
    items : list of str, length R
        Item of each record.
    labels : Coded
        Label of each record.
    width : int
        Length of one-hot lists, 0 if labels are not lists.
    has_names : bool
        Whether labels are names instead of positions among the classes.
    group, coarse : list, length R, optional
        Group and superclass of the items.
    """

    path: Path
    items: list[str]
    labels: Coded
    width: int
    has_names: bool
    group: list[Any] | None = None
    coarse: list[Any] | None = None


def parse_json(path: Path) -> Any:
    """Read JSON.

    Raises
    ------
    ValueError
        If the file cannot be read, is empty, or is not JSON.
    """
    try:
        content = path.read_bytes()
        if not content.strip():
            raise ValueError(f"Expected JSON in {path}, found an empty file. Fetch or write it again.")
        return json.loads(content)
    except FileNotFoundError as error:
        raise ValueError(f"Expected a file at {path}, found none. Check the name and the folder.") from error
    except OSError as error:
        raise ValueError(f"Expected a file that can be read at {path}, found: {error}. Fetch or rewrite it.") from error
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"Expected UTF-8 text in {path}, found byte 0x{content[error.start]:02x} in line {line} (byte "
            f"{error.start} of the file). Convert it: iconv -f LATIN1 -t UTF-8 {path}"
        ) from error
    except json.JSONDecodeError as error:
        raise ValueError(f"Expected JSON in {path}, found: {error}. Correct or fetch it again.") from error
    except RecursionError as error:
        raise ValueError(f"Expected a list of records in {path}, found lists within lists. Correct it.") from error


def load_list(path: Path, columns: Mapping[str, str | None] | None = None) -> Listed:
    """Read a list of records of an item and a label.

    Parameters
    ----------
    path : Path
        File.
    columns : mapping of str to str, optional
        Which key is ``item``, ``label``, ``truth``, ``group`` or ``coarse``, if its name does not show it.

    Returns
    -------
    Listed
        Contents of the file.

    Raises
    ------
    ValueError
        If the file cannot be read or is not such a list, or a label is malformed.
    """
    records = parse_json(path)
    if not isinstance(records, list) or (records and not isinstance(records[0], dict)):
        raise ValueError(
            f'Expected a list of records, [{{"file": ..., "label": ...}}, ...], in {path}, found something else. '
            "Correct it."
        )
    with naming(str(path)):
        keys = list(records[0]) if records else ["file", "label"]
        roles = find_columns(keys, columns)
        label = roles.get("label", roles.get("truth"))
        if "item" not in roles or label is None:
            raise ValueError(
                f"Expected records with keys for item and label, such as file and label, found {', '.join(keys)}. "
                "Rename them, or name them by columns (--column)."
            )
        items = [str(name) for name in _values(records, roles["item"], (str, int))]
        empty = [i for i, name in enumerate(items) if not name.strip()]
        if empty:
            raise ValueError(
                f"Expected every record to name its item, found none in record {empty[0]}, counted from 0. Add it, or "
                "drop the record."
            )
        values = _values(records, label, tuple(_KINDS))
        labels, width = _labels(values)
        more = {r: _values(records, roles[r], (str, int)) for r in ("group", "coarse") if r in roles}
        return Listed(path, items, labels, width, any(isinstance(value, str) for value in values), **more)


def _values(records: Sequence[Any], key: str, types: tuple[type, ...]) -> list[Any]:
    """Return the value of every record, of the right type."""
    try:
        values = [record[key] for record in records]
    except (KeyError, TypeError, IndexError):
        wrong = next(i for i, r in enumerate(records) if not isinstance(r, dict) or key not in r)
        raise ValueError(
            f"Expected the key {key!r} in every record, found {_shown(records[wrong])} as record {wrong}, counted from "
            "0. Correct it."
        ) from None
    if set(map(type, values)) - set(types):
        wrong = next(i for i, value in enumerate(values) if type(value) not in types)
        raise ValueError(
            f"Expected one of {', '.join(t.__name__.replace('NoneType', 'null') for t in types)} for the key {key!r}, "
            f"found {_shown(values[wrong])} in record {wrong}, counted from 0. Correct it."
        )
    return values


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "..."


def _labels(values: list[Any]) -> tuple[Coded, int]:
    """Return labels of one kind, and the length of one-hot lists."""
    kinds = {_KINDS[kind] for kind in set(map(type, values))} - {"missing"}
    if len(kinds) > 1:
        raise ValueError(f"Expected labels of one kind, found {' and '.join(sorted(kinds))}. Write them alike.")
    if kinds != {"one-hot list"}:
        try:
            return coded(pa.array(values)), 0
        except (pa.ArrowInvalid, OverflowError) as error:
            raise ValueError(f"Expected labels that are indices from 0, found {error}. Correct them.") from error
    given = np.array([value is not None for value in values])
    rows = [value for value in values if value is not None]
    width = len(rows[0])
    try:
        hot = np.array(rows, float)
        good = hot.ndim == 2 and bool((((hot == 0) | (hot == 1)).all(1) & (hot.sum(1) == 1)).all())
    except (ValueError, TypeError):
        good = False
    if not good:
        wrong = next(i for i, v in enumerate(values) if v is not None and not _is_one_hot(v, width))
        raise ValueError(
            f"Expected a single 1 among {width} numbers, the others 0, in a label that is a list, found "
            f"{_shown(values[wrong])} in record {wrong}, counted from 0. Write null where it is missing."
        )
    numbers = np.full(len(values), -1, np.int32)
    numbers[given] = hot.argmax(1)
    return Coded(numbers, [str(c) for c in range(width)]), width


def _is_one_hot(label: list[Any], width: int) -> bool:
    return len(label) == width and all(value in (0, 1) for value in label) and sum(label) == 1
