"""Chaoyang: patches of colon slides that three pathologists labelled."""

from pathlib import Path

import tensorflow_datasets as tfds

from pl2d_ppl.data.tfds.builders.base import AnnotatedBuilder, Contents, Item, check_names
from pl2d_ppl.data.tfds.builders.encoding import images_in
from pl2d_ppl.data.tfds.builders.tables import read_json

__all__ = ["Chaoyang"]

ROOT = "chaoyang-data"
PARTS = ("train", "test")
PEOPLE = ("A", "B", "C")
RATES = ("0.3", "0.5", "0.7")


class Chaoyang(AnnotatedBuilder):
    """Patches of colon slides, 512 by 512 pixels, of 4 classes, with the labels of three pathologists: Chaoyang.

    The split is that of Nguyen, Do and Carneiro (4,103 to train, 2,057 to test), whose truth is the majority. Config
    ``complete``, the default, has all annotations; ``missing_0.3``, ``missing_0.5`` and ``missing_0.7`` lack that share
    in the training part, as drawn by the authors. ``group`` is the case number at the beginning of a file's name; cases
    occur in both parts of this split.

    References
    ----------
    Zhu, Chen, Peng, Wang and Jin, "Hard Sample Aware Noise Robust Learning for Histopathology Image Classification",
    IEEE Transactions on Medical Imaging, 2021. Nguyen, Do and Carneiro, "Probabilistic Learning to Defer", ICLR 2025.
    """

    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Ask for the images at https://bupt-ai-cz.github.io/HSA-NRL/, and unpack them in the manual folder as "
        f"{ROOT}/train and {ROOT}/test; copy the JSON files of datasets/chaoyang in "
        f"https://github.com/cnguyen10/pl2d to {ROOT}/annotations."
    )
    HOMEPAGE = "https://bupt-ai-cz.github.io/HSA-NRL/"
    BUILDER_CONFIGS = [  # noqa: RUF012  as TFDS has it
        tfds.core.BuilderConfig(name="complete", description="All annotations."),
        *(
            tfds.core.BuilderConfig(name=f"missing_{rate}", description=f"Without {rate} of those of training.")
            for rate in RATES
        ),
    ]
    CLASSES = ("normal", "serrated", "adenocarcinoma", "adenoma")
    GROUPED = True

    def files(self) -> tuple[str, ...]:
        """Return the files of the config."""
        tables = [f"annotations/{table}" for split in PARTS for table in self._tables(split)]
        return tuple(f"{ROOT}/{name}" for name in [*PARTS, *tables])

    def _tables(self, split: str) -> list[str]:
        rate = self.builder_config.name.removeprefix("complete").replace("missing", "") if split == "train" else ""
        return [f"{split}.json", *(f"label_{who}_{split}{rate}.json" for who in PEOPLE)]

    def read(self, folder: Path) -> Contents:
        """Read the truth and the labels of the three pathologists."""
        root = folder / ROOT
        images = {name: file for name, file in images_in(root).items() if name.startswith(PARTS)}
        return Contents({split: self._items(root / "annotations", split, images) for split in PARTS}, PEOPLE)

    def _items(self, tables: Path, split: str, images: dict[str, Path]) -> list[Item]:
        paths = [tables / name for name in self._tables(split)]
        truth, *said = (_labels(path) for path in paths)
        check_names(truth, images, f"{paths[0]}", f"{tables.parent}")
        for path, labels in zip(paths[1:], said, strict=True):
            check_names(labels, truth, f"{path}", f"{paths[0]}")
        return [
            Item(name, images[name], label, [labels.get(name, -1) for labels in said], _case(name))
            for name, label in truth.items()
        ]


def _case(name: str) -> str:
    return Path(name).name.split("-")[0].split("_")[0]


def _labels(path: Path) -> dict[str, int]:
    labels: dict[str, int] = {}
    for entry in read_json(path, list, ("file", "label")):
        name, label = entry["file"], entry["label"]
        if label not in range(len(Chaoyang.CLASSES)) or name in labels:
            raise ValueError(
                f"Expected one label in 0..{len(Chaoyang.CLASSES) - 1} for each file in {path}, found {label!r} for "
                f"{name}. Fetch it again."
            )
        labels[name] = label
    return labels
