"""Shared parts of the builders: files placed by hand, items with annotations, and writing without TensorFlow."""

import abc
import functools
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from numpy.typing import NDArray
from tensorflow_datasets.core.dataset_builder import ShardBasedBuilder

from pl2d_ppl.data.tfds.builders.encoding import encoded

__all__ = ["AnnotatedBuilder", "Contents", "Item", "check_names"]

SHARD = 500  # items whose bytes are in memory while they are written
SHOWN = 3  # names in an error


class Item(NamedTuple):
    """An item to write.

    Attributes
    ----------
    name : str
        Its name, such as its file.
    image : Path, or array of uint8, shape (H, W, 3)
        Its image.
    label : int
        Truth, −1 where unknown.
    annotations : sequence of int, length M
        Annotations, −1 where missing.
    group : str
        Its group.
    coarse : int
        Its superclass.
    """

    name: str
    image: Path | NDArray
    label: int = -1
    annotations: Sequence[int] | NDArray = ()
    group: str = ""
    coarse: int = -1


class Contents(NamedTuple):
    """Contents of a data set, to write.

    Attributes
    ----------
    splits : dict of str to list of Item
        The items, checked except for the contents of their images.
    annotators : sequence of str, length M
        Names of the annotators.
    names : dict of str to sequence of str
        Class names of features, ``label`` or ``coarse_label``, that are in the files.
    """

    splits: dict[str, list[Item]]
    annotators: Sequence[str] = ()
    names: dict[str, Sequence[str]] = {}  # noqa: RUF012  a NamedTuple's default, which nobody changes


class AnnotatedBuilder(ShardBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """Base of builders of images with annotations, from files that the user put in the manual folder.

    Data are written shard by shard, in the order of the source, since `GeneratorBasedBuilder` needs TensorFlow to
    shuffle more than a gigabyte. A subclass lists the files that it needs in `FILES`, their origin in
    `MANUAL_DOWNLOAD_INSTRUCTIONS`, and reads them in `read`. Its features are ``image``, ``label`` (truth, −1 where
    unknown), ``item`` (the name), and, if available, ``annotations`` (M,) with −1 for missing, ``group`` and
    ``coarse_label``. The metadata ``annotators`` hold the names of the annotators.
    """

    VERSION = tfds.core.Version("1.0.0")
    FILES: ClassVar[tuple[str, ...]] = ()
    CLASSES: Sequence[str] | int  # or their number, if their names are in the files
    COARSE: Sequence[str] | int = 0
    ANNOTATED: bool = True
    GROUPED: bool = False
    CHANNELS: int = 3
    SPLITS: Sequence[str] = ()  # splits that `load_tfds` gives; if empty, all in the order of writing
    HOMEPAGE: str | None = None

    url_infos = None  # nothing is downloaded; looking for checksums needs a package that TFDS does not require

    _contents: Contents | None = None
    _bar: Any = None

    def files(self) -> Sequence[str]:
        """Return the files and folders, relative to the manual folder, that must exist."""
        return self.FILES

    @abc.abstractmethod
    def read(self, folder: Path) -> Contents:
        """Read tables and check that images are there.

        Parameters
        ----------
        folder : Path
            The manual folder, where `FILES` exist.

        Returns
        -------
        Contents
            Contents of the data set.
        """

    def download_and_prepare(
        self,
        *,
        download_dir: Any = None,
        download_config: tfds.download.DownloadConfig | None = None,
        file_format: str = "array_record",
        **rest: Any,
    ) -> None:
        """Prepare the data set, unless it is prepared; see :meth:`tfds.core.DatasetBuilder.download_and_prepare`.

        Parameters
        ----------
        download_dir : path-like, optional
            Folder whose subfolder ``manual`` holds the files; by default ``downloads`` in the data folder.
        download_config : tfds.download.DownloadConfig, optional
            Its `manual_dir` is the manual folder itself.
        file_format : str, default "array_record"
            Format; the default is written and read without TensorFlow.
        **rest
            Further arguments of TFDS.

        Raises
        ------
        ValueError
            If a file is missing or malformed; nothing is left behind.
        """
        config = download_config or tfds.download.DownloadConfig()
        if not self.is_prepared() or config.download_mode.overwrite_dataset:
            downloads = Path(download_dir or self.data_dir_root / "downloads")
            self._contents = self.checked(Path(config.manual_dir or downloads / "manual"))
        total = sum(map(len, self._contents.splits.values())) if self._contents else 0
        with tfds.core.utils.tqdm(total=total, desc=self.name, unit=" items", disable=not total) as self._bar:
            super().download_and_prepare(
                download_dir=download_dir, download_config=config, file_format=file_format, **rest
            )
        self._contents = None

    def checked(self, folder: Path) -> Contents:
        """Check that the files of the manual folder exist, and read them."""
        missing = [file for file in self.files() if not (folder / file).exists()]
        if missing:
            raise ValueError(
                f"Expected {', '.join(missing)} in {folder} for {self.name}, found nothing there of that name. "
                f"{self.MANUAL_DOWNLOAD_INSTRUCTIONS} Make sure that {folder / missing[0]} exists then."
            )
        contents = self.read(folder)
        if not any(contents.splits.values()):
            raise ValueError(
                f"Expected items of {self.name} in {folder}, found none. {self.MANUAL_DOWNLOAD_INSTRUCTIONS}"
            )
        for split, items in contents.splits.items():
            repeated = [name for name, number in Counter(item.name for item in items).items() if number > 1]
            if repeated:
                raise ValueError(
                    f"Expected distinct names of items in {self.name}, {split}, found {repeated[0]} again. Rename it."
                )
        return contents

    def _info(self) -> tfds.core.DatasetInfo:
        features: dict[str, Any] = {
            "image": tfds.features.Image(shape=(None, None, self.CHANNELS)),
            "label": _class_label(self.CLASSES),
            "item": tfds.features.Text(),
        }
        if self.ANNOTATED:
            features["annotations"] = tfds.features.Tensor(shape=(None,), dtype=np.int32)
        if self.GROUPED:
            features["group"] = tfds.features.Text()
        if self.COARSE:
            features["coarse_label"] = _class_label(self.COARSE)
        return tfds.core.DatasetInfo(
            builder=self,
            description=type(self).__doc__,
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("image", "label"),
            homepage=self.HOMEPAGE,
            metadata=tfds.core.MetadataDict(),
            disable_shuffling=True,
        )

    def _shard_iterators_per_split(self, dl_manager: Any) -> dict[str, list[Any]]:
        assert self._contents is not None
        for feature, names in self._contents.names.items():
            self.info.features[feature].names = list(names)
        splits = {split: items for split, items in self._contents.splits.items() if items}
        self.info.metadata.update(annotators=list(self._contents.annotators), splits=list(self.SPLITS or splits))
        return {
            split: [functools.partial(self._examples, items[i : i + SHARD]) for i in range(0, len(items), SHARD)]
            for split, items in splits.items()
        }

    def _examples(self, items: list[Item]) -> Iterator[tuple[str, dict[str, Any]]]:
        for item in items:
            values = {
                "image": encoded(item.image, self.CHANNELS),
                "label": item.label,
                "item": item.name,
                "annotations": np.asarray(item.annotations, np.int32),
                "group": item.group,
                "coarse_label": item.coarse,
            }
            yield item.name, {name: value for name, value in values.items() if name in self.info.features}
            self._bar.update()


def _class_label(names: Sequence[str] | int) -> tfds.features.ClassLabel:
    key = "num_classes" if isinstance(names, int) else "names"
    return tfds.features.ClassLabel(**{key: names})


def check_names(wanted: Collection[str], present: Collection[str], source: str, place: str) -> None:
    """Check that all names in a file are present.

    Parameters
    ----------
    wanted, present : collection of str
        Names that must be present, and those that are.
    source, place : str
        The file with the names, and the place that is searched.

    Raises
    ------
    ValueError
        If names are missing; the message gives their number, and the first three.
    """
    there = set(present)
    missing = [name for name in dict.fromkeys(wanted) if name not in there]
    if missing:
        more = ", ..." if len(missing) > SHOWN else ""
        raise ValueError(
            f"Expected all that {source} names in {place}, found {len(missing)} missing: "
            f"{', '.join(missing[:SHOWN])}{more}. Fetch them, or correct the names."
        )
