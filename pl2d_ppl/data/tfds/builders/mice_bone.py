"""MiceBone: collagen fibres in the bones of mice, from the data-centric image classification benchmark."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from pl2d_ppl.data.tfds.builders.base import AnnotatedBuilder, Contents, Item, check_names
from pl2d_ppl.data.tfds.builders.encoding import images_in
from pl2d_ppl.data.tfds.builders.tables import check_columns, read_json

__all__ = ["MiceBone"]

ROOT = "MiceBone"
FOLDS = ("fold1", "fold2", "fold3", "fold4", "fold5")
TABLE = f"{ROOT}/annotations.json"


class MiceBone(AnnotatedBuilder):
    """7,240 patches of second-harmonic-generation images of bones of mice, in 3 classes, 79 annotators: MiceBone.

    Splits ``fold1`` to ``fold5`` are those of the benchmark; training on the first four and testing on the last is
    the default, as in Nguyen, Do and Carneiro. As in the benchmark, the truth is the most frequent class among the
    annotations, or the first of tied classes. Config ``complete``, the default, has the eight annotators who labelled
    every image; ``everyone`` has all. The names of annotators are the numbers in their anonymous names; a second person
    with the same number gets the suffix ``_2``. If a person annotated an image several times, the last annotation
    counts.

    References
    ----------
    Schmarje et al., "Is one annotation enough? A data-centric image classification benchmark for noisy and ambiguous
    label estimation", NeurIPS Datasets and Benchmarks, 2022.
    """

    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Get https://zenodo.org/records/8115942/files/MiceBone.zip (see https://github.com/Emprime/dcic), and unpack "
        "it in the manual folder."
    )
    HOMEPAGE = "https://doi.org/10.5281/zenodo.7152309"
    BUILDER_CONFIGS = [  # noqa: RUF012  as TFDS has it
        tfds.core.BuilderConfig(name="complete", description="Annotators who labelled every image."),
        tfds.core.BuilderConfig(name="everyone", description="All annotators."),
    ]
    FILES = (TABLE, *(f"{ROOT}/{fold}" for fold in FOLDS))
    CLASSES = ("g", "nr", "ug")
    SPLITS = ("+".join(FOLDS[:-1]), FOLDS[-1])

    def read(self, folder: Path) -> Contents:
        """Read the annotations."""
        images = images_in(folder / ROOT)
        rows = {f"{ROOT}/{name}": file for name, file in images.items() if name.split("/")[0] in FOLDS}
        places = {name: row for row, name in enumerate(rows)}
        people, said, votes = _annotations(folder / TABLE, places)
        if self.builder_config.name == "complete":
            chosen = (said >= 0).all(0)
            if not chosen.any():
                raise ValueError(
                    f"Expected annotators of every image in {folder / TABLE}, found none. Choose everyone."
                )
            people, said = [name for name, keep in zip(people, chosen, strict=True) if keep], said[:, chosen]
        truth = np.where(votes.any(1), votes.argmax(1), -1)
        items = [Item(name, file, int(truth[row]), said[row]) for row, (name, file) in enumerate(rows.items())]
        return Contents({fold: [i for i in items if i.name.startswith(f"{ROOT}/{fold}/")] for fold in FOLDS}, people)


def _annotations(path: Path, places: dict[str, int]) -> tuple[list[str], Any, Any]:
    """Read names of people, M, their annotations, (N, M), and numbers of annotations per class, (N, C)."""
    records = read_json(path, list, ("name", "annotations"))
    given = [list(_given(path, record["annotations"])) for record in records]
    check_names([name for labels in given for name, _ in labels], places, f"{path}", f"{path.parent}")
    said = np.full((len(places), len(records)), -1)
    votes = np.zeros((len(places), len(MiceBone.CLASSES)), int)
    for person, labels in enumerate(given):
        for name, label in labels:
            said[places[name], person] = label
            votes[places[name], label] += 1
    return _distinct([str(record["name"]) for record in records]), said, votes


def _given(path: Path, entries: list[Any]) -> Iterator[tuple[str, int]]:
    check_columns(path, entries, ("image_path", "class_label"))
    for entry in entries:
        label = entry["class_label"]
        if label is None:  # shown, but not labelled
            continue
        if label not in MiceBone.CLASSES:
            raise ValueError(
                f"Expected labels out of {', '.join(MiceBone.CLASSES)} in {path}, found {label!r}. Fetch it again."
            )
        yield entry["image_path"], MiceBone.CLASSES.index(label)


def _distinct(names: list[str]) -> list[str]:
    """Shorten anonymous names to their numbers, and separate people who drew the same one out of 1,000."""
    seen: Counter[str] = Counter()
    distinct = []
    for name in names:
        number = name.removeprefix("INVALID") or name
        seen[number] += 1
        distinct.append(number if seen[number] == 1 else f"{number}_{seen[number]}")
    return distinct
