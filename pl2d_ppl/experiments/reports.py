"""Reports of results over seeds: saved whenever a seed is finished, and summarised."""

import errno
import json
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from filelock import AcquireReturnProxy, FileLock, SoftFileLock

from pl2d_ppl.io import in_folder, written_whole

__all__ = [
    "add_seed",
    "known_mean",
    "mean_and_spread",
    "read_report",
    "resume_report",
    "select_seeds",
    "versions",
    "write_json",
]


SAME_FOR_ALL_SEEDS = ("settings", "coverages", "annotators", "people", "published", "versions")
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # `filelock` itself falls back only for ENOSYS


def resume_report(path: Path | None, settings: Mapping[str, Any], otherwise: Mapping[str, Any]) -> dict[str, Any]:
    """Return the report at a path.

    Parameters
    ----------
    path : Path or None
        Where the report is kept, if anywhere.
    settings : mapping
        Settings that identify the run. A report holds them under ``settings``, or beside its results.
    otherwise : mapping
        What to return if there is no readable report.

    Returns
    -------
    dict
        The report, with the current package versions.

    Raises
    ------
    ValueError
        If the report has other settings: it would be lost.
    """
    known = (path and read_report(path)) or {}
    told = known.get("settings", known)
    if not isinstance(told, Mapping) or not set(settings) & set(told):
        return {**otherwise, "versions": versions()}
    others = list(_differences({name: told.get(name) for name in settings}, _plain(settings)))
    if others:
        raise ValueError(
            f"Expected a report of the same settings at {path}, found one of others: {'; '.join(others)}. Choose "
            "another --out, or delete the folder."
        )
    return {**known, "versions": versions()}


def _differences(old: Any, new: Any, name: str = "") -> Iterator[str]:
    """List where nested settings differ; a missing setting counts as None."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in {**new, **old}:
            yield from _differences(old.get(key), new.get(key), f"{name}.{key}" if name else key)
    elif old != new:
        yield f"{name} {_short(old)} there, {_short(new)} here"


def _short(value: Any, most: int = 60) -> str:
    text = "none" if value is None else json.dumps(value)
    return text if len(text) <= most else f"{text[:most]}..."


def add_seed(
    path: Path | None,
    report: Mapping[str, Any],
    settings: Mapping[str, Any],
    seed: int,
    row: Mapping[str, Any],
    **same: Any,
) -> dict[str, Any]:
    """Add a seed to a report, and merge seeds that other processes have meanwhile written to its file.

    Parameters
    ----------
    path : Path or None
        Where the report is kept, if anywhere.
    report : mapping
        The report so far.
    settings : mapping
        Settings as for :func:`resume_report`.
    seed : int
        The seed.
    row : mapping
        Results of the seed; nested names are those of the report.
    **same
        Entries that are the same for all seeds.

    Returns
    -------
    dict
        The report with all seeds that any process has finished so far.

    Raises
    ------
    ValueError
        If another process has meanwhile written a report with other settings.
    """
    if path is None:
        return _with_row(report, seed, row, same)
    with _locked(path):
        now = resume_report(path, settings, report)
        if seed not in now["seeds"]:
            now = _with_row(now, seed, row, same)
        write_json(path, now)
    return now


def _with_row(report: Mapping[str, Any], seed: int, row: Mapping[str, Any], same: Mapping[str, Any]) -> dict[str, Any]:
    return {**report, **same, "seeds": [*report["seeds"], seed], **_appended(report, row)}


def _appended(lists: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
    """Lists with one more value each, from a row of the same nested names."""
    return {
        name: _appended(lists.get(name, {}), value) if isinstance(value, Mapping) else [*lists.get(name, []), value]
        for name, value in row.items()
    }


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Wait until no other process writes a file, and keep others from writing; remove the lock file afterwards."""
    file = path.parent / f".{path.name}.lock"
    with in_folder(file.parent):
        lock = _acquired(file)
    with lock:
        try:
            yield
        finally:
            with suppress(OSError):  # Windows removes the file itself, once the lock is released
                file.unlink()


def _acquired(file: Path) -> AcquireReturnProxy:
    """Lock a file; if the file system has no locks, use the existence of another file as the lock."""
    try:
        return FileLock(file, fallback_to_soft=False).acquire()
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
    return SoftFileLock(f"{file}ed").acquire()


def select_seeds(report: Mapping[str, Any], seeds: Sequence[int]) -> dict[str, Any]:
    """Return a report restricted to some of its seeds.

    Parameters
    ----------
    report : mapping
        A report from :func:`~pl2d_ppl.experiments.seeds.run_seeds`, or one that ``pl2d onboard`` wrote.
    seeds : sequence of int
        The seeds to keep, in this order.

    Returns
    -------
    dict
        The report with these seeds only.
    """
    rows = [report["seeds"].index(seed) for seed in seeds]
    return {name: value if name in SAME_FOR_ALL_SEEDS else _taken(value, rows) for name, value in report.items()}


def _taken(value: Any, rows: Sequence[int]) -> Any:
    if isinstance(value, Mapping):
        return {name: _taken(v, rows) for name, v in value.items()}
    return [value[row] for row in rows] if isinstance(value, list) else value


def known_mean(values: Any) -> np.ndarray:
    """Compute the mean of known values over the first axis.

    Parameters
    ----------
    values : array of float, shape (S, ...)
        NaN, or None, where a seed has no value.

    Returns
    -------
    array of float, shape (...)
        The mean; NaN where no seed has a value.
    """
    values = np.asarray(values, float)
    known = np.isfinite(values)
    number = known.sum(0)
    return np.where(number, np.where(known, values, 0.0).sum(0) / np.maximum(number, 1), np.nan)


def mean_and_spread(values: Any) -> str:
    """Format mean and standard deviation over the seeds that have a value.

    Parameters
    ----------
    values : array of float, shape (S,)
        NaN, or None, where a seed has no value.

    Returns
    -------
    str
        Text such as ``71.07 ± 0.40``.
    """
    values = np.asarray(values, float)
    mean = known_mean(values)
    return f"{mean:.2f} ± {np.sqrt(known_mean((values - mean) ** 2)):.2f}"


def read_report(path: Path) -> dict[str, Any] | None:
    """Return an earlier report, or None if there is no readable one."""
    try:
        report = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return report if isinstance(report, dict) and "seeds" in report else None


def write_json(path: str | os.PathLike, content: Any) -> None:
    """Write JSON whole or not at all; NaN becomes null."""
    with written_whole(path) as scratch:
        scratch.write_text(json.dumps(_plain(content), indent=1, allow_nan=False))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(v) for v in value]
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on."""
    found = {"python": platform.python_version()}
    for name in ("pl2d_ppl", "jax", "numpyro", "flax", "optax", "funsor"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "unknown"
    return found
