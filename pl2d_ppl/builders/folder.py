"""A folder of images and a table of annotations, as a data set of TFDS."""

import hashlib
import logging
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tensorflow_datasets as tfds
from numpy.typing import NDArray

from pl2d_ppl.builders.base import AnnotatedBuilder, Contents, Item, check_names
from pl2d_ppl.builders.encoding import images_in
from pl2d_ppl.builders.tables import read_csv
from pl2d_ppl.data.checks import names_of

__all__ = ["FolderBuilder"]

logger = logging.getLogger("pl2d_ppl")


class FolderBuilder(AnnotatedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """A folder of images and a long table of annotations, one a row.

    Columns of the table are ``item`` (file of an image, relative to the folder), ``annotator``, ``label``, and, where
    they are known, ``truth`` and ``group`` of the item. An empty cell, or −1, is missing: a row with a truth and
    without annotator is an item that nobody annotated. Images that the table does not name become items without
    annotations and truth, and are told of in the log. An item without group is a group of its own.

    Parameters
    ----------
    name : str
        Name of the data set to be, of lower-case letters, digits and underscores. Once it is prepared,
        ``load_tfds(name, data_dir=...)`` finds it without this class.
    folder : path-like
        The images; subfolders are looked through.
    table : path-like
        A CSV.
    classes : iterable of str, optional
        Names of the categories, in order. By default those in the table, sorted; as numbers where all are.
    data_dir : path-like, optional
        Where TFDS keeps its data, by default ``~/tensorflow_datasets``.

    Raises
    ------
    ValueError
        If the table names images that do not exist or categories that are not in `classes`, contradicts itself or is
        malformed, or if a data set of this name was prepared from another table, other images (by name and size) or
        other classes.

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
            raise ValueError(
                f"`name` must be of lower-case letters, digits and underscores, found {name!r}; rename it."
            )
        self.name, self.folder, self.table = name, Path(folder), Path(table)
        if not self.folder.is_dir():
            raise ValueError(f"`folder` must be a folder of images, found {folder}, which is none; correct it.")
        self._rows, self._images = _read(self.table), images_in(self.folder)
        check_names(self._rows["item"], self._images, f"{self.table}", f"{self.folder}")
        self.CLASSES = _classes(self.table, self._rows, classes)
        self.GROUPED = "group" in self._rows
        super().__init__(data_dir=data_dir)
        self._check_same()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as what is prepared, for which the table is not needed."""
        return tfds.builder_from_directory, (os.fspath(self.data_dir),)

    def read(self, folder: Path) -> Contents:
        """Put the table and the images together."""
        images = self._images
        people = sorted(set(self._rows["annotator"]) - {""})
        rows, columns = ({name: i for i, name in enumerate(names)} for names in (images, people))
        said = np.full((len(images), len(people)), -1)
        given = self._rows[(self._rows[["annotator", "label"]] != "").all(axis=1)]
        said[given["item"].map(rows), given["annotator"].map(columns)] = self._numbers(given["label"])
        silent = int((said < 0).all(1).sum())
        if silent:
            logger.warning("%s: %d of %d images have no annotation", self.name, silent, len(images))
        truth, group = (_of_item(self._rows, column) for column in ("truth", "group"))
        labels = self._numbers(truth.get(name, "") for name in images)
        items = [
            Item(name, file, int(labels[row]), said[row], group.get(name, name))  # who has no group is alone
            for row, (name, file) in enumerate(images.items())
        ]
        self.info.metadata["digest"] = self._digest()
        return Contents({"train": items}, people)

    def _numbers(self, labels: Iterable[str]) -> NDArray:
        assert not isinstance(self.CLASSES, int)
        numbers = {"": -1} | {name: number for number, name in enumerate(self.CLASSES)}
        return np.array([numbers[label] for label in labels], int)

    def _digest(self) -> str:
        sizes = [(name, file.stat().st_size) for name, file in self._images.items()]
        return hashlib.sha256(repr((self.CLASSES, self._rows.to_csv(), sizes)).encode()).hexdigest()

    def _check_same(self) -> None:
        if self.is_prepared() and dict(self.info.metadata.items()).get("digest") != self._digest():
            raise ValueError(
                f"{self.table} and {self.folder} must be what {self.name} was prepared from, found another table, "
                f"other images or other classes; choose another name, or delete {self.data_dir} to prepare it again."
            )


def _read(table: Path) -> pd.DataFrame:
    rows = read_csv(table, ("item", "annotator", "label"))
    rows = rows[[column for column in ("item", "annotator", "label", "truth", "group") if column in rows]]
    labels = [column for column in ("label", "truth") if column in rows]
    rows[labels] = rows[labels].replace("-1", "")
    for keys, value in ((["item", "annotator"], "label"), (["item"], "truth"), (["item"], "group")):
        if value in rows:
            _check_once(table, rows[[*keys, value]], value)
    return rows


def _check_once(table: Path, rows: pd.DataFrame, value: str) -> None:
    keys = [column for column in rows if column != value]
    told = rows[(rows != "").all(axis=1)].drop_duplicates()
    again = told[told.duplicated(keys)]
    if len(again):
        raise ValueError(
            f"{table} must have one {value} for each {' and '.join(keys)}, found another for "
            f"{', '.join(again.iloc[0][keys])} ({len(again)} such rows); keep one."
        )


def _classes(table: Path, rows: pd.DataFrame, classes: Iterable[str] | None) -> tuple[str, ...]:
    columns = [column for column in ("label", "truth") if column in rows]
    found = set().union(*(rows[column] for column in columns)) - {""}
    if classes is None:
        classes = sorted(found, key=int) if all(map(str.isdecimal, found)) else sorted(found)
    classes = names_of("classes", classes)
    if len(classes) < 2:
        raise ValueError(
            f"{table} must tell at least 2 categories apart, found {len(classes)}; name them in `classes`."
        )
    check_names(sorted(found), classes, f"{table}", f"`classes` {', '.join(classes)}")
    return classes


def _of_item(rows: pd.DataFrame, column: str) -> dict[str, str]:
    if column not in rows:
        return {}
    told = rows[rows[column] != ""]
    return dict(zip(told["item"], told[column], strict=True))
