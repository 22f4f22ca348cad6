"""NIH ChestX-ray14: airspace opacity, read by radiologists."""

import logging
from pathlib import Path

import numpy as np
import pandas as pd
import tensorflow_datasets as tfds
from numpy.typing import NDArray

from pl2d_ppl.data.tfds.builders.base import AnnotatedBuilder, Contents, Item, check_names
from pl2d_ppl.data.tfds.builders.encoding import images_in
from pl2d_ppl.data.tfds.builders.tables import read_csv

__all__ = ["NihAirspaceOpacity"]

logger = logging.getLogger("pl2d_ppl")

ROOT = "NIH"
TABLES = f"{ROOT}/four_findings_expert_labels"
READERS = f"{TABLES}/individual_readers.csv"
FINDING = "Airspace opacity"
READER = "4295342357"
ANSWERS = {"NO": 0, "YES": 1, "": -1}


class NihAirspaceOpacity(AnnotatedBuilder):
    """Chest X-rays that 22 radiologists read for airspace opacity, with adjudicated truth: NIH ChestX-ray14.

    1024 by 1024 grey pixels. Splits ``validation`` (2,414 images, 13 readers) and ``test`` (1,962 images, 11 readers)
    are the published ones; they share two readers and no patient. Config ``reader_4295342357``, the default, has the
    images that this reader read (2,350, all in ``validation``) and nobody else's annotations; ``all_readers`` has
    everything. ``group`` is the patient: split by it with `pl2d_ppl.data.splits`. A reader who is recorded with both
    answers for an image counts as missing there.

    References
    ----------
    Wang et al., "ChestX-ray8", CVPR 2017. Majkowska et al., "Chest Radiograph Interpretation Using Deep Learning
    Models: Assessment Using Radiologist Adjudicated Reference Standards and Population-Adjusted Evaluation",
    Radiology, 2020.
    """

    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        f"Get the directory four_findings_expert_labels as https://cloud.google.com/healthcare-api/docs/resources/"
        f"public-datasets/nih-chest says, into {ROOT} in the manual folder, and the images from "
        f"https://nihcc.app.box.com/v/ChestXray-NIHCC, unpacked anywhere under {ROOT}."
    )
    HOMEPAGE = "https://nihcc.app.box.com/v/ChestXray-NIHCC"
    BUILDER_CONFIGS = [  # noqa: RUF012  as TFDS has it
        tfds.core.BuilderConfig(name=f"reader_{READER}", description="The images that this reader read."),
        tfds.core.BuilderConfig(name="all_readers", description="All images and readers."),
    ]
    FILES = (READERS, f"{TABLES}/validation_labels.csv", f"{TABLES}/test_labels.csv")
    CLASSES = ("no", "yes")
    GROUPED = True
    CHANNELS = 1

    def read(self, folder: Path) -> Contents:
        """Read the annotations and the truth."""
        images = {file.name: file for file in images_in(folder / ROOT).values()}
        said = _said(folder / READERS)
        everyone = self.builder_config.name == "all_readers"
        if not everyone:
            said = said.reindex(columns=[READER]).query(f"`{READER}` >= 0")
        splits = {}
        for split in ("validation", "test"):
            path = folder / f"{TABLES}/{split}_labels.csv"
            truth = read_csv(path, ("Image Index", "Patient ID", FINDING)).set_index("Image Index")
            truth = truth if everyone else truth[truth.index.isin(said.index)]
            check_names(truth.index, images, f"{path}", f"{folder / ROOT}")
            splits[split] = _items(path, truth, said.reindex(truth.index, fill_value=-1).to_numpy(), images)
        return Contents(splits, list(said.columns))


def _said(path: Path) -> pd.DataFrame:
    """Read all answers, with one row per image and one column per reader, −1 where missing."""
    keys = ["Image ID", "Reader ID"]
    readings = read_csv(path, (*keys, FINDING))
    answers = readings.assign(answer=_answers(path, readings)).groupby(keys)["answer"].agg(["min", "max"])
    both = answers["min"] != answers["max"]
    if both.any():
        logger.warning("%s: %d readings with both answers of one reader are left out", path.name, both.sum())
    return answers["min"].where(~both, -1).unstack(fill_value=-1)


def _items(path: Path, truth: pd.DataFrame, said: NDArray, images: dict[str, Path]) -> list[Item]:
    return [
        Item(str(name), images[str(name)], int(label), row, patient)
        for name, label, row, patient in zip(truth.index, _answers(path, truth), said, truth["Patient ID"], strict=True)
    ]


def _answers(path: Path, table: pd.DataFrame) -> NDArray:
    unknown = sorted(set(table[FINDING]) - set(ANSWERS))
    if unknown:
        raise ValueError(f"Expected YES, NO or nothing in {FINDING} of {path}, found {unknown[0]!r}. Fetch it again.")
    return np.array([ANSWERS[answer] for answer in table[FINDING]])
