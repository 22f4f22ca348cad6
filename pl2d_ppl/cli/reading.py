"""Read the data that commands train on, and decide on."""

from pathlib import Path

import numpy as np

from pl2d_ppl.data import Annotated, read_data
from pl2d_ppl.data.files.formats import format_of
from pl2d_ppl.data.tables.joining import read_features

__all__ = ["read_inputs", "read_with_features"]


def read_with_features(path: Path, *, subset: bool = False) -> tuple[Annotated, Annotated | None]:
    """Read data of any format, which must have features; the truth of a subset may be unknown."""
    train, test = read_data(path, subset=subset)
    if np.shape(train.x)[1:] == (0,):
        raise ValueError(
            f"Expected features in {path}, found annotations only. Join them first: pl2d data convert {path} DATA.npz "
            "--features FILE"
        )
    return train, test


def read_inputs(path: Path) -> np.ndarray:
    """Read features of new items; nothing else about them need be known."""
    if path.exists() and format_of(path) != "npz":
        table = format_of(path) == "table"
        x = np.asarray(read_features(path)[1] if table else read_with_features(path, subset=True)[0].x, np.float32)
    else:
        x = _read_npz_inputs(path)
    if len(x) == 0 or not np.isfinite(x).all():
        raise ValueError(f"Expected finite inputs in {path}, found {'none' if len(x) == 0 else 'NaN or infinity'}.")
    return x


def _read_npz_inputs(path: Path) -> np.ndarray:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return np.asarray(arrays["x"], np.float32)
    except Exception as error:
        raise ValueError(f"Expected a .npz file with x at {path}, found none that can be read: {error}.") from error
