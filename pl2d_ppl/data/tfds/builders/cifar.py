"""CIFAR-100 and ciFAIR-100, from the authors' files for Python."""

import codecs
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from pl2d_ppl.data.tfds.builders.base import AnnotatedBuilder, Contents, Item

__all__ = ["Cifair100", "Cifar100Python"]

SIDE = 32


class Cifair100(AnnotatedBuilder):
    """CIFAR-100 with another test part, without near-duplicates of training images: ciFAIR-100.

    50,000 images to train and 10,000 to test, of 100 classes in 20 superclasses, 32 by 32 pixels. It has no
    annotations: simulate them by `pl2d_ppl.simulate.simulate_people`.

    References
    ----------
    Barz and Denzler, "Do We Train on Test Data? Purging CIFAR of Near-Duplicates", Journal of Imaging 6, 2020.
    """

    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Get ciFAIR-100.zip from https://github.com/cvjena/cifair/releases/download/v1.0/ciFAIR-100.zip (see "
        "https://cvjena.github.io/cifair/), and unpack it in the manual folder."
    )
    HOMEPAGE = "https://cvjena.github.io/cifair/"
    FOLDER = "ciFAIR-100"
    FILES = ("ciFAIR-100/train", "ciFAIR-100/test", "ciFAIR-100/meta")
    CLASSES = 100
    COARSE = 20
    ANNOTATED = False

    def read(self, folder: Path) -> Contents:
        """Read the two parts into memory: 180 MB."""
        meta = _unpickled(folder / self.FOLDER / "meta")
        fine, coarse = (
            [_text(name) for name in _entry(meta, folder / self.FOLDER / "meta", f"{kind}_label_names")]
            for kind in ("fine", "coarse")
        )
        splits = {split: _items(folder / self.FOLDER / split, split) for split in ("train", "test")}
        return Contents(splits, names={"label": fine, "coarse_label": coarse})


class Cifar100Python(Cifair100):
    """CIFAR-100, like `tfds.builder("cifar100")`, but prepared without TensorFlow.

    References
    ----------
    Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
    """

    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Get https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz, and unpack it in the manual folder."
    )
    HOMEPAGE = "https://www.cs.toronto.edu/~kriz/cifar.html"
    FOLDER = "cifar-100-python"
    FILES = ("cifar-100-python/train", "cifar-100-python/test", "cifar-100-python/meta")


def _items(path: Path, split: str) -> list[Item]:
    batch = _unpickled(path)
    data = np.asarray(_entry(batch, path, "data"))
    labels = [np.asarray(_entry(batch, path, f"{kind}_labels")) for kind in ("fine", "coarse")]
    shape = (len(data), 3 * SIDE * SIDE)
    if data.dtype != np.uint8 or data.shape != shape or any(part.shape != shape[:1] for part in labels):
        raise ValueError(
            f"Expected data of shape (N, {shape[1]}) in bytes and two lists of N labels in {path}, found {data.dtype} "
            f"of shape {data.shape} and {len(labels[0])} and {len(labels[1])} labels. Fetch it again."
        )
    images = data.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)
    return [
        Item(f"{split}/{i:05d}", image, int(fine), coarse=int(coarse))
        for i, (image, fine, coarse) in enumerate(zip(images, *labels, strict=True))
    ]


class _Unpickler(pickle.Unpickler):
    """Unpickler only of arrays, lists and strings: a pickle of anything else could run any code."""

    def find_class(self, module: str, name: str) -> Any:
        """Find one of the few names that arrays need."""
        multiarray = np.zeros(0).__reduce__()[0].__module__  # numpy.core, or numpy._core in newer versions
        allowed: dict[tuple[str, str], Any] = {
            (package, "_reconstruct"): np.zeros(0).__reduce__()[0]
            for package in ("numpy.core.multiarray", "numpy._core.multiarray", multiarray)
        }
        allowed |= {
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
            ("_codecs", "encode"): codecs.encode,
        }
        if (module, name) not in allowed:
            raise pickle.UnpicklingError(f"{module}.{name}, which is not what these files are made of")
        return allowed[module, name]


def _unpickled(path: Path) -> dict[Any, Any]:
    try:
        with open(path, "rb") as stream:
            content = _Unpickler(stream, encoding="bytes").load()
    except (OSError, EOFError, pickle.UnpicklingError, ValueError, TypeError, IndexError, KeyError) as error:
        raise ValueError(
            f"Expected a pickled dictionary of arrays in {path}, found: {error}. Fetch it again."
        ) from error
    if not isinstance(content, dict):
        raise ValueError(f"Expected a pickled dictionary of arrays in {path}, found {type(content)}. Fetch it again.")
    return {_text(key): value for key, value in content.items()}


def _entry(content: dict[Any, Any], path: Path, key: str) -> Any:
    if key not in content:
        raise ValueError(
            f"Expected {key} in {path}, found {', '.join(map(str, content)) or 'nothing'}. Fetch it again."
        )
    return content[key]


def _text(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value
