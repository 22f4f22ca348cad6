"""Tiny data of a curve, and settings that take a second."""

import jax
import numpy as np
import pytest

from pl2d_ppl import Annotated
from pl2d_ppl.experiments.seeds import prepare_split
from pl2d_ppl.inference.schedule import Schedule

KEY = jax.random.key(0)
TINY = {"schedule": Schedule(steps=6, batch_size=16), "hidden": (8,)}
QUICK = {"method": "two-stage", **TINY}  # whatever the coverages, one fit
NAMES = {"classes": ("a", "b", "c"), "annotators": ("p", "q")}


def toy(seed=0, num_items=48, missing=0.3):
    """Blobs; the first expert is right, the second guesses."""
    rng = np.random.default_rng(seed)
    y = np.arange(num_items) % 3
    x = 3 * np.eye(3)[y] + rng.standard_normal((num_items, 3))
    said = np.stack([y, rng.integers(0, 3, num_items)], 1)
    said[rng.random(said.shape) < missing] = -1
    return Annotated(x, y, said, **NAMES)


SETTINGS = {"data": "toy", "method": "two-stage"}


def prepare(calls, key, seed):
    calls.append(seed)
    return prepare_split(key, toy(0, 60), None, seed=seed)


def real(data_dir, name):
    path = data_dir / f"{name}.npz"
    if not path.exists():
        pytest.skip(f"no {path}")
    return path
