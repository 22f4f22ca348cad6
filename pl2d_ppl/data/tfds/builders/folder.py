"""A folder of images and a table of annotations, as a data set of TFDS."""

import hashlib
import logging
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from numpy.typing import NDArray

from pl2d_ppl.data.annotated import Annotated
from pl2d_ppl.data.tables.reading import read_table
from pl2d_ppl.data.tfds.builders.base import AnnotatedBuilder, Contents, Item, check_names
from pl2d_ppl.data.tfds.builders.encoding import images_in

__all__ = ["FolderBuilder"]

logger = logging.getLogger("pl2d_ppl")


class FolderBuilder(AnnotatedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """A folder of images and a long table with one annotation per row.

    The table has the form of :func:`~pl2d_ppl.data.tables.reading.read_table`: its columns are ``item`` (file of an
    image, relative to the folder), ``annotator``, ``label`` and, if known, ``truth``, ``group`` and ``split`` of the
    item. A row with a truth but without annotator is an item that nobody annotated. Images that the table does not name
    become training items without annotations and truth, each in its own group, and the log reports them.

    Parameters
    ----------
    name : str
        Name of the new data set, of lower-case letters, digits and underscores. Once it is prepared,
        ``load_tfds(name, data_dir=...)`` finds it without this class.
    folder : path-like
        The images; subfolders are searched.
    table : path-like
        A CSV or Parquet file.
    classes : iterable of str, optional
        Names of the categories, in order. By default those in the table, sorted, as numbers if all are numbers.
    data_dir : path-like, optional
        Where TFDS keeps its data, by default ``~/tensorflow_datasets``.

    Raises
    ------
    ValueError
        If the table names images that do not exist, cannot be read or contradicts itself, or if a data set of this name
        was prepared from another table, other images (by name and size) or other classes.

    Examples
    --------
    ::

        builder = FolderBuilder("birds", "photos", "annotations.csv")
        (data,) = load_tfds(builder)
        train, test = split(data, 0.2, seed=0)
    """

    MANUAL_DOWNLOAD_INSTRUCTIONS = "Put images there, or correct the folder."

    def __init__(
        self,
        name: str,
        folder: str | os.PathLike,
        table: str | os.PathLike,
        *,
        classes: Iterable[str] | None = None,
        data_dir: str | os.PathLike | None = None,
    ):
        if not re.fullmatch("[a-z][a-z0-9_]*", name):
            raise ValueError(f"Expected name of lower-case letters, digits and underscores, found {name!r}. Rename it.")
        self.name, self.folder, self.table = name, Path(folder), Path(table)
        if not self.folder.is_dir():
            raise ValueError(f"Expected a folder of images, found {folder}, which is none. Correct it.")
        train, test = read_table(self.table, layout="long", classes=classes, subset=True)
        self._parts = {"train": train} | ({} if test is None else {"test": test})
        self._images = images_in(self.folder)
        check_names(self._named, self._images, f"{self.table}", f"{self.folder}")
        self.CLASSES = train.classes
        self.GROUPED = train.group is not None
        super().__init__(data_dir=data_dir)
        self._check_same()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the prepared data set, which does not need the table."""
        return tfds.builder_from_directory, (os.fspath(self.data_dir),)

    @property
    def _named(self) -> list[str]:
        """Return the names of the items in the table."""
        return [str(name) for part in self._parts.values() for name in _items(part)]

    def read(self, folder: Path) -> Contents:
        """Combine the table and the images."""
        people = self._parts["train"].annotators
        splits = {split: list(self._of(part)) for split, part in self._parts.items()}
        named = set(self._named)
        nothing = np.full(len(people), -1)
        splits["train"] += [
            Item(name, file, annotations=nothing, group=name)
            for name, file in self._images.items()
            if name not in named
        ]
        items = [item for part in splits.values() for item in part]
        silent = sum(bool((np.asarray(item.annotations) < 0).all()) for item in items)
        if silent:
            logger.warning("%s: %d of %d images have no annotation", self.name, silent, len(items))
        self.info.metadata["digest"] = self._digest()
        return Contents(splits, people)

    def _of(self, part: Annotated) -> Iterator[Item]:
        for row, name in enumerate(_items(part)):
            group = str(name) if part.group is None else str(part.group[row])
            yield Item(str(name), self._images[str(name)], int(part.y[row]), part.annotations[row], group)

    def _digest(self) -> str:
        whole = hashlib.sha256(repr([(name, file.stat().st_size) for name, file in self._images.items()]).encode())
        for split, part in self._parts.items():
            whole.update(repr((split, part.classes, part.annotators, _items(part).tolist())).encode())
            group = "" if part.group is None else part.group.tolist()
            whole.update(part.annotations.tobytes() + part.y.tobytes() + repr(group).encode())
        return whole.hexdigest()

    def _check_same(self) -> None:
        if self.is_prepared() and dict(self.info.metadata.items()).get("digest") != self._digest():
            raise ValueError(
                f"Expected the {self.table} and {self.folder} that {self.name} was prepared from, found another table, "
                f"other images or other classes. Choose another name, or delete {self.data_dir} to prepare it again."
            )


def _items(part: Annotated) -> NDArray:
    """Return the names of items, which a long table always has."""
    assert part.items is not None
    return part.items
