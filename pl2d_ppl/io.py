"""Files that are written whole or not at all."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["check_writable", "in_folder", "written_whole"]


@contextmanager
def in_folder(folder: Path) -> Iterator[None]:
    """Make a folder that the caller writes into next.

    Raises
    ------
    ValueError
        If it cannot be made, or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise ValueError(
            f"Expected a folder that can be written to at {folder}, found: {error.strerror}. Choose another."
        ) from error


@contextmanager
def written_whole(path: str | os.PathLike, *, marker: str | None = None) -> Iterator[Path]:
    """Give a temporary path beside the target; at the end, the file or folder there replaces the target.

    Parameters
    ----------
    path : path-like
        A file or, with a marker, a folder; an older one is replaced.
    marker : str, optional
        A file that an older folder must hold to be replaced, so that a user's other folders are kept.

    Raises
    ------
    ValueError
        If the folder cannot be written to, or something else is in the way.
    """
    path = Path(path)
    _check_place(path, marker)
    with in_folder(path.parent):
        scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield scratch / path.name
        _replace(scratch / path.name, path, scratch / "older")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def check_writable(path: str | os.PathLike, *, marker: str | None = None) -> None:
    """Refuse what :func:`written_whole` would refuse, but before the work; leave nothing behind.

    Raises
    ------
    ValueError
        If the place cannot be written to, or something else is in the way.
    """
    path = Path(path)
    _check_place(path, marker)
    made = [folder for folder in path.parents if not folder.exists()]
    with written_whole(path.parent / f".{path.name}.try") as probe:
        probe.touch()
    (path.parent / f".{path.name}.try").unlink()
    for folder in made:
        folder.rmdir()


def _check_place(path: Path, marker: str | None) -> None:
    if marker is None and path.is_dir():
        raise ValueError(f"Expected to write a file at {path}, found a folder. Choose another name.")
    if marker is not None and path.exists():
        is_older = path.is_dir() and ((path / marker).exists() or not any(path.iterdir()))
        if not is_older:
            raise ValueError(
                f"Expected nothing, or an older folder with {marker}, at {path}, found something else, which is kept. "
                "Choose another name."
            )


def _replace(new: Path, path: Path, older: Path) -> None:
    """Put the new one in place. A folder cannot be replaced in one step: on failure the older one is put back."""
    if not path.is_dir():
        os.replace(new, path)
        return
    os.rename(path, older)
    try:
        os.replace(new, path)
    except BaseException:
        os.rename(older, path)
        raise
