"""Annotated data in NumPy's ``.npz`` files."""

import contextlib
import itertools
import os
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray

from pl2d_ppl.checks.names import listed
from pl2d_ppl.data.annotated import Annotated, expert_names
from pl2d_ppl.data.checks import text_array
from pl2d_ppl.data.parts import Reading, taken_line
from pl2d_ppl.data.votes import vote_counts
from pl2d_ppl.io import written_whole

__all__ = [
    "naming",
    "open_npz",
    "read_npz",
    "read_npz_reported",
    "read_text",
    "stored_text",
    "unpacked_text",
    "write_npz",
]

_PER_ITEM = ("x", "y", "annotations", "group", "coarse", "counts", "items", "abstained", "ai")
# Labels come from many sources: a stray 2**31 must not create two thousand million class names.
_MOST_UNNAMED_CLASSES = 10_000


def read_npz(path: str | os.PathLike) -> tuple[Annotated, Annotated | None]:
    """Read a data set, and its test part if it has one.

    Keys; `x` is required, and `y` or votes: `x` (N, ...), `y` (N,), `annotations` (N, M), `group` (N,),
    `coarse` (N,), `items` (N,) names, `abstained` (N, M), `ai` (N, C), anonymous votes as `counts` (N, C) or as `votes`
    (N, L), -1 where an item has fewer than L, `classes` (C,), `annotators` (M,), `features` (D,). All except the last
    three may have the suffix ``_train``; with the suffix ``_test`` they form the test part. Other keys are ignored.

    Without `y`, all truth is unknown. Without `annotations`, there are no experts (M = 0). A test part without
    annotations gets the experts of the training part, with all annotations missing, so that both parts fit the same
    model. Without `classes` the categories are called ``0``, ``1``, ... up to the largest label; without
    `annotators` the experts are called ``expert_0``, ``expert_1``, ...

    Parameters
    ----------
    path : path-like
        File to read. Pickled objects in it are refused, since they could run any code.

    Returns
    -------
    train : Annotated
    test : Annotated or None

    Raises
    ------
    ValueError
        If the file is missing, unreadable, truncated or not an ``.npz``, lacks a key, or holds invalid data.
    """
    return read_npz_reported(path)[:2]


def read_npz_reported(path: str | os.PathLike, *, subset: bool = False) -> Reading:
    """Read an ``.npz`` as :func:`read_npz` does, and say what was taken for what.

    Parameters
    ----------
    path : path-like
        File to read.
    subset : bool
        Ignored: some truth must be known.

    Returns
    -------
    Reading
        The data, and what was taken for what.

    Raises
    ------
    ValueError
        As :func:`read_npz`.
    """
    path = Path(path)
    with open_npz(path) as file:
        train = _part(file, path, "_train" if "x_train" in file.files else "")
        test = _part(file, path, "_test") if "x_test" in file.files else None
        named = {
            key: tuple(map(str, np.atleast_1d(file[key])))
            for key in ("classes", "annotators", "features")
            if key in file.files
        }
    parts = [part for part in (train, test) if part is not None]
    labels = [part[key] for part in parts for key in ("y", "annotations", "votes") if key in part]
    columns = max((part["counts"].shape[-1] for part in parts if "counts" in part and part["counts"].ndim), default=0)
    train.setdefault("annotations", np.empty((len(np.atleast_1d(train["x"])), 0), np.int32))
    with naming(f"{path}"):
        names: dict[str, Any] = {
            "classes": named.get("classes") or _numbered(labels, columns),
            "annotators": named.get("annotators", expert_names(train["annotations"])),
            "features": named.get("features"),
        }
        data = Annotated(**_counted(train, len(names["classes"])), **names)
    told = {"people": listed(data.annotators) or None, "truth": "y" if (data.y >= 0).any() else None}
    taken = taken_line("npz", told, {"-1": data.num_items * data.num_experts - len(data.long.labels)})
    if test is None:
        return Reading(data, None, taken)
    annotated = "annotations" in test
    test.setdefault("annotations", np.full((len(np.atleast_1d(test["x"])), data.num_experts), -1, np.int32))
    with naming(f"{path}, test part"):
        # Without annotations, every expert is silent there by design: no warning.
        part = Annotated(**_counted(test, len(names["classes"])), **names, subset=not annotated)
        return Reading(data, part, taken)


def write_npz(path: str | os.PathLike, data: Annotated, test: Annotated | None = None) -> None:
    """Write a data set and its test part, so that `read_npz` returns them.

    The file is written whole or not at all: under a temporary name in the same folder, then renamed.

    Parameters
    ----------
    path : path-like
        File to write; an existing one is replaced.
    data : Annotated
        Data set, or its training part.
    test : Annotated, optional
        Test part, with the same classes and annotators.

    Raises
    ------
    ValueError
        If the folder does not exist, `path` is a folder, no truth is known in a part, or the parts disagree
        on classes or annotators.
    """
    path = Path(path)
    if path.is_dir() or not path.parent.is_dir():
        raise ValueError(
            f"Expected path to be a file in an existing folder, found {path}. Create {path.parent}, or rename the file."
        )
    arrays = {"classes": np.array(data.classes), "annotators": np.array(data.annotators, dtype=str)}
    if data.features is not None:
        arrays["features"] = np.array(data.features)
    arrays |= _arrays(data, "")
    if test is not None:
        for field in ("classes", "annotators"):
            if getattr(test, field) != getattr(data, field):
                raise ValueError(
                    f"Expected test with the {field} of data, {getattr(data, field)}, found {getattr(test, field)}. "
                    "Write them to separate files."
                )
        arrays |= _arrays(test, "_test")
    with written_whole(path) as scratch, open(scratch, "xb") as stream:
        np.savez_compressed(stream, allow_pickle=False, **arrays)
        stream.flush()
        os.fsync(stream.fileno())  # otherwise a crash after the rename could leave an empty file


@contextlib.contextmanager
def open_npz(path: Path) -> Iterator[NpzFile]:
    """Open an ``.npz``; any error of the file, now or while it is read, is raised as a ValueError."""
    try:
        # Opened here, since np.load leaves the file open if its contents are bad.
        with open(path, "rb") as stream:
            file = np.load(stream, allow_pickle=False)
            if not isinstance(file, NpzFile):
                raise ValueError("a single .npy array")
            with file:
                yield file
    except FileNotFoundError as error:
        raise ValueError(f"Expected a file at {path}, found none. Check the name and the folder.") from error
    except MissingKeyError:
        raise
    except (OSError, EOFError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        found = str(error) or type(error).__name__
        raise ValueError(
            f"Expected a readable .npz without pickled objects at {path}, found: {found}. Fetch or rewrite it."
        ) from error


class MissingKeyError(ValueError):
    """The file is readable but is not a data set."""


def _part(file: NpzFile, path: Path, suffix: str) -> dict[str, Any]:
    part: dict[str, Any] = {key: file[key + suffix] for key in (*_PER_ITEM, "votes") if key + suffix in file.files}
    if f"group{suffix}{BYTES}" in file.files:
        part["group"] = np.array(read_text(file, "group" + suffix), object)
    if f"items{suffix}{BYTES}" in file.files:
        part["items"] = read_text(file, "items" + suffix)
    if "x" not in part or not {"y", "votes", "counts"} & set(part):
        raise MissingKeyError(
            f"Expected the keys x{suffix}, and y{suffix} or votes{suffix} or counts{suffix}, in {path}, found "
            f"{', '.join(file.files) or 'none'}. Add {'truth or votes' if 'x' in part else 'x' + suffix}."
        )
    if {"votes", "counts"} <= set(part):
        raise MissingKeyError(f"Expected either votes{suffix} or counts{suffix} in {path}, found both. Leave one out.")
    part.setdefault("y", np.full(len(np.atleast_1d(part["x"])), -1, np.int32))
    return part


def _counted(part: dict[str, Any], num_categories: int) -> dict[str, Any]:
    """Count votes."""
    if "votes" not in part:
        return part
    votes, num_items = np.asarray(part["votes"]), len(np.atleast_1d(part["x"]))
    if votes.ndim != 2 or len(votes) != num_items:
        raise ValueError(
            f"Expected votes of shape ({num_items}, L), one row an item, found {votes.shape}. Pad rows with -1."
        )
    rest = {key: value for key, value in part.items() if key != "votes"}
    return {**rest, "counts": vote_counts(votes, num_categories)}


def _numbered(labels: list[NDArray], columns: int) -> tuple[str, ...]:
    # Annotated refuses labels that are not integers.
    largest = max((int(part.max()) for part in labels if part.size and part.dtype.kind in "iu"), default=1)
    if largest >= _MOST_UNNAMED_CLASSES:
        raise ValueError(
            f"Expected labels below {_MOST_UNNAMED_CLASSES} where the file names no classes, found {largest}. Add "
            "classes, or put -1 where a label is missing."
        )
    return tuple(str(category) for category in range(max(largest + 1, columns, 2)))


@contextlib.contextmanager
def naming(source: str) -> Iterator[None]:
    """Say which file an invalid array comes from."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error


def _arrays(data: Annotated, suffix: str) -> dict[str, NDArray]:
    if not (data.y >= 0).any() and data.counts is None:
        raise ValueError(
            "Expected the truth of at least one item in y, found only -1. Add labels: a file without truth cannot be "
            "read."
        )
    if data.is_lazy:
        raise ValueError("Expected items in memory to write, found a lazy source. Read them first: data.read().")
    arrays = {key: getattr(data, key) for key in _PER_ITEM if getattr(data, key) is not None}
    if suffix and (data.annotations < 0).all():
        del arrays["annotations"]  # a test part without annotations is written like this
    stored = {key + suffix: value for key, value in arrays.items() if key not in ("items", "group")}
    for key in {"items", "group"} & set(arrays):
        stored |= stored_text(key + suffix, arrays[key])
    return stored


BYTES, ENDS = "_utf8", "_ends"


def stored_text(key: str, values: Any) -> dict[str, NDArray]:
    """Return arrays that hold text: of fixed width, or bytes and their ends where one long name would widen all.

    Parameters
    ----------
    key : str
        Name of the array.
    values : array of str or int, shape (N,)
        The text; integers are unchanged.

    Returns
    -------
    dict of str to array
        ``key``, or ``key_utf8`` and ``key_ends``.
    """
    array = text_array(values) if isinstance(values, list) else values
    if array.dtype.kind != "O":
        return {key: array}
    encoded = [name.encode() for name in array.tolist()]
    return {key + BYTES: np.frombuffer(b"".join(encoded), np.uint8), key + ENDS: np.cumsum([len(e) for e in encoded])}


def read_text(file: NpzFile, key: str) -> list[str]:
    """Read what :func:`stored_text` returned.

    Raises
    ------
    ValueError
        If it is damaged.
    """
    if key + BYTES not in file.files:
        return [str(name) for name in np.atleast_1d(file[key])]
    return unpacked_text(key, file[key + BYTES], file[key + ENDS])


def unpacked_text(key: str, encoded: NDArray, ends_of: NDArray) -> list[str]:
    """Return the text whose bytes and ends are given.

    Raises
    ------
    ValueError
        If it is damaged.
    """
    text, ends = encoded.tobytes(), [0, *ends_of.tolist()]
    if ends != sorted(ends) or ends[-1] != len(text):
        raise ValueError(f"{key} is damaged")
    return [text[start:end].decode() for start, end in itertools.pairwise(ends)]
