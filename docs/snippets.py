"""What the pages' snippets start from: small files and data, which hidden set-up comments ask for."""

from typing import Any

import jax
import numpy as np

from pl2d_ppl import Annotated, split
from pl2d_ppl.data import write_npz
from pl2d_ppl.simulate import simulate_people

CATEGORIES = 3


def items(seed: int = 0, num_items: int = 120) -> Annotated:
    """Items of two features and three categories, without annotations."""
    rng = np.random.default_rng(seed)
    y = rng.integers(CATEGORIES, size=num_items)
    centres = np.array([[0.0, 2.0], [2.0, -1.0], [-2.0, -1.0]])
    x = (centres[y] + rng.normal(size=(num_items, 2))).astype(np.float32)
    return Annotated(x, y, np.empty((num_items, 0), np.int32), classes=range(CATEGORIES), annotators=())


def annotated(rates: Any = (0.1, 0.1, 0.4), *, missing: float = 0.5, seed: int = 0, num_items: int = 120) -> Annotated:
    """Items that people annotated who err at these rates, with annotations missing."""
    data = simulate_people(jax.random.key(seed), items(seed, num_items), rates=rates)
    absent = np.random.default_rng(seed + 1).random(data.annotations.shape) < missing
    return data.replace_annotations(np.where(absent, -1, data.annotations), data.annotators)


def deferral_file(path: str = "data.npz") -> None:
    """Write annotated items, in a part to learn from and a part to test on."""
    write_npz(path, *split(annotated(num_items=240), 0.3, seed=0))
