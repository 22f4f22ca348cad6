"""Data sets of TensorFlow Datasets (TFDS), without TensorFlow."""

import copy
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray

import pl2d_ppl.data.tfds.builders  # noqa: F401  registers ours
from pl2d_ppl.data.annotated import Annotated, expert_names
from pl2d_ppl.data.npz import naming

if TYPE_CHECKING:
    from tensorflow_datasets.core import DatasetBuilder

__all__ = ["TfdsImages", "load_tfds"]

# Names of features by role, if the caller gives none: the first that exists.
NAMES = {
    "image": ("image",),
    "label": ("label", "fine_label"),
    "coarse": ("coarse_label",),
    "annotations": ("annotations",),
    "group": ("group",),
    "item": ("item", "id", "file_name"),
}

People = Callable[[Annotated], Annotated]


@overload
def load_tfds(
    name: "str | DatasetBuilder",
    *,
    split: str,
    people: People | None = ...,
    data_dir: str | os.PathLike | None = ...,
    manual_dir: str | os.PathLike | None = ...,
    features: Mapping[str, str] | None = ...,
) -> Annotated: ...


@overload
def load_tfds(
    name: "str | DatasetBuilder",
    *,
    split: list[str] | tuple[str, ...] | None = ...,
    people: People | None = ...,
    data_dir: str | os.PathLike | None = ...,
    manual_dir: str | os.PathLike | None = ...,
    features: Mapping[str, str] | None = ...,
) -> tuple[Annotated, ...]: ...


def load_tfds(
    name: "str | DatasetBuilder",
    *,
    split: str | list[str] | tuple[str, ...] | None = None,
    people: People | None = None,
    data_dir: str | os.PathLike | None = None,
    manual_dir: str | os.PathLike | None = None,
    features: Mapping[str, str] | None = None,
) -> Annotated | tuple[Annotated, ...]:
    """Load image classification data from TFDS, and prepare them first if necessary.

    Images stay on disk, and are decoded on access. Labels, annotations and names are read immediately, in one pass over
    the records that decodes no image (about 0.1 ms per record). TensorFlow is not needed to read, or to prepare our own
    builders (:mod:`pl2d_ppl.data.tfds.builders`: ``cifair100``, ``cifar100_python``, ``chaoyang``,
    ``mice_bone``, ``nih_airspace_opacity``, ``dopanim``, and `FolderBuilder`). Most of TFDS's own builders need it for
    preparation; use ``cifar100_python`` instead of ``cifar100``. Progress is shown unless
    ``tfds.disable_progress_bar()`` was called.

    Parameters
    ----------
    name : str or tfds.core.DatasetBuilder
        Name of a data set of TFDS, also as ``"name/config:version"``, of one of ours, or of one that is already
        prepared in `data_dir`; or a builder.
    split : str, or list or tuple of str, optional
        Splits to load, such as ``"train[:80%]+test"``. By default the builder's choice, mostly ``"train"`` and
        ``"test"``.
    people : callable, optional
        Function from `Annotated` to `Annotated` that simulates annotations of all splits together, by the same people,
        such as ``partial(simulate_people, rng_key, kind="superclass")``. They replace the builder's annotations.
    data_dir : path-like, optional
        Where TFDS keeps its data, by default ``~/tensorflow_datasets``.
    manual_dir : path-like, optional
        Where you have put the files that a builder cannot download, by default ``downloads/manual`` in `data_dir`.
    features : mapping of str to str, optional
        Names of the builder's features, by role: ``image``, ``label``, ``coarse`` (superclass),
        ``annotations`` (M,) with −1 for missing, ``group``, ``item`` (its name). By default features have the names of
        their roles, or ``coarse_label`` and ``id`` as in TFDS's builders; a single image or class label needs no name.

    Returns
    -------
    Annotated, or tuple of Annotated
        One for a `split` that is a string, else one for each. `x` is lazy; there are no experts (M = 0) if the builder
        has no annotations and `people` is not given.

    Raises
    ------
    ValueError
        If there is no such data set, split or feature, files are missing, or the data are malformed.
    ImportError
        If preparing a builder needs a missing package, mostly TensorFlow.

    Examples
    --------
    ::

        people = partial(simulate_people, jax.random.key(0), kind="superclass", expertise=[range(10), range(10, 20)])
        train, test = load_tfds("cifair100", people=people, manual_dir="downloads")
    """
    builder = _find(name, data_dir)
    _prepare(builder, manual_dir)
    metadata = dict(builder.info.metadata.items()) if isinstance(builder.info.metadata, dict) else {}
    names = _features(builder, features or {})
    splits = [split] if isinstance(split, str) else list(split or metadata.get("splits", ("train", "test")))
    parts = [_load(builder, part, names, metadata.get("annotators")) for part in splits]
    if people is not None:
        parts = _annotate(people, parts)
    return parts[0] if isinstance(split, str) else tuple(parts)


class TfdsImages:
    """Images of a data source of TFDS, decoded on access; can be pickled.

    Parameters
    ----------
    source : sequence of mapping
        Result of `tfds.data_source`.
    feature : str
        Name of the image feature.
    """

    def __init__(self, source: Any, feature: str):
        self.source, self.feature = source, feature

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.source)

    def __getitem__(self, index: int) -> NDArray:
        """Decode an image, an array of uint8, shape (H, W, channels)."""
        if not 0 <= index < len(self):
            raise IndexError(f"Expected an index in 0..{len(self) - 1}, found {index}.")
        try:
            return np.asarray(self.source[int(index)][self.feature])
        except (OSError, SyntaxError, ValueError, AttributeError) as error:  # Pillow's, or OpenCV's None
            raise ValueError(
                f"Expected an image that can be decoded, found image {index} of {self!r}: {error}. Prepare it again."
            ) from error

    def __repr__(self) -> str:
        return f"TfdsImages({self.source!r}, {self.feature!r})"


class _Joined:
    """Concatenated sources."""

    def __init__(self, sources: Sequence[Any]):
        self.sources, self.ends = sources, np.cumsum([len(source) for source in sources])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, index: int) -> Any:
        which = int(np.searchsorted(self.ends, index, side="right"))
        return self.sources[which][index - int(self.ends[which]) + len(self.sources[which])]


def _find(name: "str | DatasetBuilder", data_dir: str | os.PathLike | None) -> "DatasetBuilder":
    import tensorflow_datasets as tfds  # slow, and rarely needed

    if not isinstance(name, str):
        if data_dir is not None:
            raise ValueError(
                "Expected no data_dir beside a builder, which has its own, found one. Pass it to the builder."
            )
        return name
    try:
        return tfds.builder(name, data_dir=None if data_dir is None else os.fspath(data_dir))
    except tfds.core.DatasetNotFoundError as error:
        raise ValueError(
            "Expected name to be that of a data set of TFDS, of pl2d_ppl.data.tfds.builders, or of one prepared in "
            f"data_dir, found {name!r}. List them: tfds.list_builders()."
        ) from error
    except ImportError as error:
        raise ImportError(f"{_without_package(name, error)} to data_dir.") from error


def _prepare(builder: "DatasetBuilder", manual_dir: str | os.PathLike | None) -> None:
    import tensorflow_datasets as tfds

    if builder.is_prepared():
        return
    config = tfds.download.DownloadConfig(manual_dir=None if manual_dir is None else os.fspath(manual_dir))
    try:
        builder.download_and_prepare(download_config=config, file_format="array_record")
    except ImportError as error:
        raise ImportError(f"{_without_package(builder.name, error)} to {builder.data_dir}.") from error


def _without_package(name: str, error: ImportError) -> str:
    found = str(error).splitlines()[-1]  # TFDS puts its examples first
    return (
        f"Expected the packages that TFDS needs to prepare {name}, found: {found}. Prepare it where TensorFlow "
        f"is, tfds.builder({name!r}).download_and_prepare(file_format='array_record'), and copy the folder"
    )


def _features(builder: "DatasetBuilder", chosen: Mapping[str, str]) -> dict[str, str]:
    """Find the role of each feature."""
    import tensorflow_datasets as tfds

    present = dict(builder.info.features.items())
    listed = ", ".join(sorted(present))
    unknown = [key for key in chosen if key not in NAMES]
    if unknown:
        raise ValueError(f"Expected keys out of {', '.join(NAMES)} in features, found {unknown[0]}. Correct it.")
    absent = [name for name in chosen.values() if name not in present]
    if absent:
        raise ValueError(f"Expected features of {builder.name}, {listed}, found {absent[0]}. Correct it.")
    usual = {key: next((name for name in names if name in present), None) for key, names in NAMES.items()}
    names = {key: name for key, name in {**usual, **chosen}.items() if name is not None}
    for key, kind in {"image": tfds.features.Image, "label": tfds.features.ClassLabel}.items():
        candidates = [name for name, feature in present.items() if isinstance(feature, kind)]
        if key not in names and len(candidates) == 1:
            names[key] = candidates[0]
        if names.get(key) not in candidates:
            raise ValueError(
                f"Expected one feature of {builder.name} that is the {key}, a tfds.features.{kind.__name__}, found "
                f"{listed}. Name it, features={{{key!r}: ...}}, or choose a data set of image classification."
            )
    return names


def _load(builder: "DatasetBuilder", split: str, names: dict[str, str], annotators: Sequence[str] | None) -> Annotated:
    source = _source(builder, split)
    columns = _columns(source, names)
    annotations = np.stack(columns.get("annotations", [np.zeros(0, np.int32)] * len(source)))
    texts = {key: np.array([_text(value) for value in columns[key]]) for key in ("group", "item") if key in columns}
    with naming(f"{builder.name}, {split}"):
        return Annotated(
            TfdsImages(source, names["image"]),
            np.array(columns["label"]),
            annotations,
            group=texts.get("group"),
            classes=builder.info.features[names["label"]].names,
            annotators=expert_names(annotations) if annotators is None else tuple(annotators),
            coarse=np.array(columns["coarse"]) if "coarse" in columns else None,
            items=texts.get("item"),
            subset=bool(annotations.size and (annotations < 0).all()),  # nobody was asked: no warning
        )


def _source(builder: "DatasetBuilder", split: str) -> Any:
    try:
        return builder.as_data_source(split)
    except NotImplementedError as error:  # a format that only TensorFlow reads
        raise ValueError(
            f"Expected {builder.name} prepared as array_record or parquet, found {builder.info.file_format} in "
            f"{builder.data_dir}. Choose another data_dir to prepare it again."
        ) from error
    except (ValueError, AssertionError) as error:
        known = ", ".join(builder.info.splits) or "none"
        raise ValueError(
            f"Expected split to be made of the splits of {builder.name}, {known}, found {split!r}. Correct it."
        ) from error


def _columns(source: Any, names: dict[str, str]) -> dict[str, list[Any]]:
    """Read everything except the images."""
    import tensorflow_datasets as tfds

    # PartialDecoding would also leave the images out of the record, but needs TensorFlow.
    labels = copy.copy(source)
    labels.decoders = {names["image"]: tfds.decode.SkipDecoding()}
    columns: dict[str, list[Any]] = {key: [] for key in names if key != "image"}
    for index in tfds.core.utils.tqdm(range(len(labels)), desc="Reading labels", unit=" items", leave=False):
        row = labels[index]
        for key, column in columns.items():
            column.append(row[names[key]])
    return columns


def _annotate(people: People, parts: list[Annotated]) -> list[Annotated]:
    """Let people annotate all parts together; otherwise people would differ between parts, or repeat their errors."""
    y, starts = np.concatenate([part.y for part in parts]), np.cumsum([part.num_items for part in parts])[:-1]
    coarse = None if parts[0].coarse is None else np.concatenate([part.coarse for part in parts])
    nobody = np.zeros((len(y), 0), np.int32)
    joined = Annotated(
        _Joined([part.x for part in parts]), y, nobody, classes=parts[0].classes, annotators=(), coarse=coarse
    )
    said = people(joined)
    pieces = np.split(said.annotations, starts)
    return [part.replace_annotations(own, said.annotators) for part, own in zip(parts, pieces, strict=True)]


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
