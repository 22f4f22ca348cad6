"""dopanim: animals that look like others, annotated by 20 people."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pl2d_ppl.data.tfds.builders.base import AnnotatedBuilder, Contents, Item, check_names
from pl2d_ppl.data.tfds.builders.encoding import images_in
from pl2d_ppl.data.tfds.builders.tables import read_json

__all__ = ["Dopanim"]

ROOT = "dopanim"
TASKS, ANNOTATIONS = f"{ROOT}/task_data.json", f"{ROOT}/annotation_data.json"
PARTS = ("train", "valid", "test")
GROUPS = {
    "big cats": ("Cheetah", "Jaguar", "Leopard"),
    "hares and rabbits": (
        "Black-tailed Jackrabbit",
        "Brown Hare",
        "Desert Cottontail",
        "European Rabbit",
        "Marsh Rabbit",
    ),
    "insects": ("European Hornet", "European Paper Wasp", "German Yellowjacket", "Yellow-legged Hornet"),
    "squirrels": ("American Red Squirrel", "Douglas' Squirrel", "Eurasian Red Squirrel"),
}


class Dopanim(AnnotatedBuilder):
    """About 15,750 photographs of animals of 15 species that are easily confused: dopanim.

    The splits are ``train`` (10,500 images, with 52,000 annotations of 20 people), ``valid`` and ``test`` (without
    any); ``train`` and ``test`` are the default. People gave each species a likelihood. Their annotation is the most
    likely species, with ties broken by a fixed draw; it is missing if all likelihoods are 0. If a person annotated an
    image several times, the last annotation counts. ``coarse_label`` is the group of look-alikes.

    References
    ----------
    Herde, Huseljic, Rauch and Sick, "dopanim: A Dataset of Doppelganger Animals with Noisy Annotations from Multiple
    Humans", NeurIPS Datasets and Benchmarks, 2024.
    """

    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Get task_data.json, annotation_data.json, train.zip, valid.zip and test.zip from "
        f"https://doi.org/10.5281/zenodo.11479590 into {ROOT} in the manual folder, and unpack the latter three there."
    )
    HOMEPAGE = "https://doi.org/10.5281/zenodo.11479590"
    FILES = (TASKS, ANNOTATIONS, *(f"{ROOT}/{part}" for part in PARTS))
    CLASSES = tuple(species for group in GROUPS.values() for species in group)
    COARSE = tuple(GROUPS)
    SPLITS = ("train", "test")

    def read(self, folder: Path) -> Contents:
        """Read the annotations and the truth."""
        tasks = read_json(folder / TASKS, dict, ("split", "taxon_name"))
        images = images_in(folder / ROOT)
        names = {key: f"{task['split']}/{task['taxon_name']}/{key}.jpeg" for key, task in tasks.items()}
        check_names(names.values(), images, f"{folder / TASKS}", f"{folder / ROOT}")
        people, said = _annotations(folder / ANNOTATIONS, tasks)
        splits: dict[str, list[Item]] = {part: [] for part in PARTS}
        for row, (key, task) in enumerate(tasks.items()):
            label, coarse = _species(folder / TASKS, task["taxon_name"])
            splits[task["split"]].append(Item(names[key], images[names[key]], label, said[row], coarse=coarse))
        return Contents(splits, people)


def _annotations(path: Path, tasks: dict[str, Any]) -> tuple[list[str], NDArray]:
    """Read the names of people, M, and their annotations, (N, M)."""
    given = read_json(path, dict, ("observation_id", "annotator_id", "likelihoods"))
    check_names([str(entry["observation_id"]) for entry in given.values()], tasks, f"{path}", TASKS)
    people = sorted({str(entry["annotator_id"]) for entry in given.values()})
    rows, columns = ({key: i for i, key in enumerate(keys)} for keys in (tasks, people))
    said = np.full((len(tasks), len(people)), -1)
    rng = np.random.default_rng(0)
    for entry in given.values():
        place = rows[str(entry["observation_id"])], columns[str(entry["annotator_id"])]
        said[place] = _likeliest(path, entry["likelihoods"], rng)
    return people, said


def _likeliest(path: Path, likelihoods: dict[str, float], rng: np.random.Generator) -> int:
    highest = max(likelihoods.values(), default=0)
    if highest <= 0:
        return -1
    likeliest = [name for name, value in likelihoods.items() if value == highest]
    return _species(path, likeliest[rng.integers(len(likeliest))])[0]


def _species(path: Path, name: str) -> tuple[int, int]:
    """Find the number of a species, and that of its group."""
    if name not in Dopanim.CLASSES:
        raise ValueError(f"Expected species of dopanim in {path}, found {name!r}. Fetch it again.")
    return Dopanim.CLASSES.index(name), next(i for i, group in enumerate(GROUPS.values()) if name in group)
