"""Features and truth from separate files, joined by the names of items."""

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from pl2d_ppl.checks.advice import advice
from pl2d_ppl.checks.warn import warn
from pl2d_ppl.data.images.folder import ImageFolder
from pl2d_ppl.data.npz import open_npz, read_text
from pl2d_ppl.data.stored import plain_name
from pl2d_ppl.data.tables.column_names import FEATURES, ROLES, VOTES, is_index
from pl2d_ppl.data.tables.columns import find_columns
from pl2d_ppl.data.tables.names import Coded
from pl2d_ppl.data.tables.table_files import TABLES, Dialect, TableFile, open_table

__all__ = [
    "Features",
    "check_overlap",
    "feature_columns",
    "features_by_name",
    "join_features",
    "known_truth",
    "read_features",
    "read_item_labels",
]

Columns = Mapping[str, str | None]


class Features(NamedTuple):
    """Features of items.

    Attributes
    ----------
    items : sequence of str, length N, or None
        Names of the items, if they have names.
    x : array, shape (N, ...)
        The features.
    names : tuple of str, length D, or None
        Names of the features, if they have names.
    """

    items: Sequence[str] | None
    x: NDArray
    names: tuple[str, ...] | None


def join_features(path: Path, items: Sequence[str] | None) -> Any:
    """Find the features of items by name.

    Parameters
    ----------
    path : Path
        An ``.npz`` with keys `items` (N',) and `x` (N', ...); a CSV or Parquet file with a column of items and columns
        of numbers (only those that begin with ``x_``, if there are any); or a folder of images, at any depth.
    items : sequence of str, length N, or None
        Names of the items. An image is found by its path in the folder, or by its file name, with or without extension.

    Returns
    -------
    array, shape (N, ...), or Source
        Features in the order of `items`; images are lazy.

    Raises
    ------
    ValueError
        If the file cannot be read, items have no names, an item has no features, or a name fits several images.
    """
    return features_by_name(path, items)[0]


def features_by_name(
    path: Path, items: Sequence[str] | None, columns: Columns | None = None
) -> tuple[Any, tuple[str, ...] | None]:
    """Find the features of items by name, as :func:`join_features` does, and the names of the features.

    Parameters
    ----------
    path, items
        As for :func:`join_features`.
    columns : mapping of str to str, optional
        Which column is ``item``, if the table has such a column.

    Returns
    -------
    x : array, shape (N, ...), or Source
    names : tuple of str, length D, or None

    Raises
    ------
    ValueError
        As :func:`join_features`.
    """
    if items is None:
        raise ValueError(f"Expected a column of items to join {path} by, found none. Name it: {_name_item()}.")
    if path.is_dir():
        return _images(path, items), None
    found = read_features(path, columns)
    if found.items is None:
        raise ValueError(
            f"Expected names of items in {path} (in an .npz, the key items), found none. Name the column, "
            f"{_name_item()}, or add them."
        )
    index = pd.Index(found.items)
    if index.has_duplicates:
        twice = index[index.duplicated()][0]
        raise ValueError(f"Expected each item once in {path}, found {twice!r} more than once. Merge or rename it.")
    places = index.get_indexer(pd.Index(items))
    _check_found(path, places >= 0, items, found.items)
    return found.x[places], found.names


def _name_item() -> str:
    return advice('columns={"item": ...}', "--column item=...")


def _check_found(path: Path, found: NDArray, items: Sequence[str], names: Sequence[str]) -> None:
    if not found.all():
        raise ValueError(
            f"Expected features of every item in {path}, found none of {(~found).sum():,} of {len(found):,}, such as "
            f"{str(items[int(np.argmin(found))])!r} (its own are called {str(names[0])!r}, ...). Add them, or make the "
            "names alike."
        )


def read_features(path: Path, columns: Columns | None = None, expected: Sequence[str] | None = None) -> Features:
    """Read features, and the names of their items if they have any.

    Parameters
    ----------
    path : Path
        ``.npz``, or a table, as for :func:`join_features`.
    columns : mapping of str to str, optional
        Which column is ``item``, if the table has such a column.
    expected : sequence of str, length D, optional
        Names of the features, if they are known; they are taken if the table has them all.

    Returns
    -------
    Features
        N items.

    Raises
    ------
    ValueError
        If the file cannot be read, or has no features.
    """
    if plain_name(path).suffix.lower() in TABLES:
        return _table_of_features(open_table(path), columns, expected)
    with open_npz(path) as file:
        keys = tuple(file.files)
        x = file["x"] if "x" in keys else None
        names = tuple(map(str, file["features"])) if "features" in keys else None
        items = read_text(file, "items") if {"items", "items_utf8"} & set(keys) else None
    if x is None:
        raise ValueError(
            f"Expected the key x, and items to join it by, in {path}, found {', '.join(keys) or 'none'}. Add them."
        )
    if items is not None and len(items) != len(np.atleast_1d(x)):
        raise ValueError(
            f"Expected a name for each of {len(x)} rows of x in {path}, found {len(items)} names. Make them agree."
        )
    return Features(items, x, names)


def _table_of_features(file: TableFile, columns: Columns | None, expected: Sequence[str] | None) -> Features:
    roles = find_columns(file.names, _present(columns, file))
    names = [name for name in file.names if name.startswith(FEATURES)]
    if expected is not None and set(expected) <= set(file.names):
        names = list(expected)
    if not names:
        names = [n for n in file.names if n not in roles.values() and not n.startswith(VOTES) and not is_index(n)]
    if not names:
        raise ValueError(f"Expected columns of features in {file.path}, found {', '.join(file.names)}. Add some.")
    items = None
    if "item" in roles:
        found = file.ids(roles["item"])
        if found.codes.min() < 0:
            raise ValueError(
                f"Expected the name of the item in every row of {file.path}, found none in row {_first_empty(found)}. "
                "Add it, or drop the row."
            )
        items = np.array(found.values, object)[found.codes].tolist()
    return Features(items, feature_columns(file, names), tuple(names))


def _present(columns: Columns | None, file: TableFile) -> dict[str, str | None]:
    """Return those of `columns` that a further table has, too."""
    return {role: name for role, name in (columns or {}).items() if name and name in file.names}


def _first_empty(column: Coded) -> int:
    """Return the first row without a value, counted as people count, below the header."""
    return int(np.argmax(column.codes < 0)) + 1


def feature_columns(file: TableFile, names: Sequence[str]) -> NDArray:
    """Read columns of numbers.

    Parameters
    ----------
    file : TableFile
        The table, of N rows.
    names : sequence of str, length D
        Columns.

    Returns
    -------
    array of float64, shape (N, D)
        NaN where empty.

    Raises
    ------
    ValueError
        If a value is not a number.
    """
    columns = []
    for name, column in file.read(names).items():
        try:
            columns.append(column.cast(pa.float64()).to_numpy())
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise ValueError(
                f"Expected numbers in column {name!r} of {file.path}, a feature, found: {error}. Correct it; if it is "
                f"no feature, rename it, or choose another prefix, {advice('feature_prefix', '--feature-prefix')}."
            ) from error
    return np.stack(columns, 1) if columns else np.empty((0, 0))


def _images(folder: Path, items: Sequence[str]) -> Any:
    paths = ImageFolder.glob(folder).paths
    keys: dict[str, list[int]] = {}
    for i, path in enumerate(map(PurePosixPath, paths)):
        for key in {str(path), str(path.with_suffix("")), path.name, path.stem}:
            keys.setdefault(key, []).append(i)
    found = [keys.get(item) or keys.get(item.rsplit("/", 1)[-1]) or [-1] for item in items]
    _check_found(folder, np.array([places[0] >= 0 for places in found]), items, paths)
    owners: dict[int, str] = {}
    for item, places in zip(items, found, strict=True):
        if len(places) > 1:
            fits = " and ".join(paths[place] for place in places[:2])
            raise ValueError(f"Expected one image of {item!r} in {folder}, found {fits}. Name items by their paths.")
        if owners.setdefault(places[0], item) != item:
            both = f"{owners[places[0]]!r} and {item!r}"
            raise ValueError(
                f"Expected an image of each item in {folder}, found {paths[places[0]]} for {both}. Name items by their "
                "paths."
            )
    return ImageFolder([paths[place] for place in owners], root=folder)


def read_item_labels(path: Path, columns: Columns | None, dialect: Dialect) -> tuple[Coded, Coded]:
    """Read a table of items and their truth.

    Parameters
    ----------
    path : Path
        A table.
    columns : mapping of str to str, optional
        As for :func:`~pl2d_ppl.data.tables.columns.find_columns`, if the table has such columns.
    dialect : Dialect
        How text is written.

    Returns
    -------
    items, truth : Coded
        R rows.

    Raises
    ------
    ValueError
        If it cannot be read, a column is missing, or an item has no name.
    """
    file = open_table(path, dialect)
    roles = find_columns(file.names, _present(columns, file))
    column = roles.get("truth", roles.get("label"))
    if "item" not in roles or column is None:
        names = advice("columns", "--column")
        raise ValueError(
            f"Expected columns for item and truth in {path}, found {', '.join(file.names)}. Rename them "
            f"({ROLES['item'][0]}, {ROLES['truth'][0]}), or name them by {names}."
        )
    items = file.ids(roles["item"])
    if items.codes.min() < 0:
        raise ValueError(
            f"Expected the name of the item in every row of {path}, found none in row {_first_empty(items)}. Add it, "
            "or drop the row."
        )
    return items, file.coded(column)


def known_truth(
    where: Any, truth: tuple[Coded, Coded], own: Any, items: Sequence[str], *, may_add: bool
) -> tuple[Coded, Coded]:
    """Keep the truth of items that are known, and perhaps that of others.

    Parameters
    ----------
    where, own : path
        Files of the truth and of the items, for messages.
    truth : pair of Coded
        Items and their truth.
    items : sequence of str, length N
        The items that are known.
    may_add : bool
        Whether other items may be kept; they are not if they look like misspelt names of items.

    Returns
    -------
    pair of Coded
        Items and their truth.

    Raises
    ------
    ValueError
        If no item is known.

    Warns
    -----
    UserWarning
        If some are not.
    """
    known = {name: i for i, name in enumerate(items)}
    names, labels = truth
    check_overlap(where, names.values, own, known)
    unknown = [name for name in names.values if name not in known]
    if not unknown:
        return truth
    forms = {_bare(name) for name in items}
    kept = may_add and not any(_bare(name) in forms for name in unknown)
    warn(
        f"Expected items of {own} in {where}, found {len(unknown):,} of {len(names.values):,} items of {where} that "
        f"are none of {own}, such as {unknown[0]!r}: they are {'added without annotations' if kept else 'left out'}. "
        "Make the names alike if they should be (a spreadsheet drops leading zeros)."
    )
    if kept:
        return truth
    places = np.array([known.get(name, -1) for name in names.values], np.int32)[names.codes]
    rows = places >= 0
    return Coded(places[rows], list(items)), Coded(labels.codes[rows], labels.values)


def _bare(name: str) -> str:
    """Return a name without what programs change: leading zeros, case, blanks, the folder and the ending."""
    stem = PurePosixPath(name.strip().casefold()).stem
    return stem.lstrip("0") or "0"


def check_overlap(where: Any, names: Sequence[str], own: Any, items: Mapping[str, int]) -> None:
    """Refuse names of items if none of them is known: they are spelt differently, or belong to other items.

    Raises
    ------
    ValueError
        If the names do not overlap.
    """
    if names and items and not any(name in items for name in names):
        raise ValueError(
            f"Expected items of {own} in {where}, found none of them: {names[0]!r} there, and {next(iter(items))!r} "
            "here. Make the names alike, or take the file that belongs to it."
        )
