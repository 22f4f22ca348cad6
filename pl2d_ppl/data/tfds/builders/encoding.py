"""Encode images for storage: whole, upright, with 8 bits per channel, in a format that every decoder reads."""

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from pl2d_ppl.data.images.folder import ImageFolder

__all__ = ["encoded", "images_in"]

MODES = {1: "L", 3: "RGB"}


def encoded(image: Path | NDArray, channels: int = 3) -> bytes:
    """Encode an image for `tfds.features.Image`, which accepts bytes and needs TensorFlow for arrays.

    Parameters
    ----------
    image : Path, or array of uint8, shape (H, W, channels)
        The image. A file that already is a JPEG or PNG with this number of channels is not encoded again.
    channels : {1, 3}, default 3
        Grey or colour.

    Returns
    -------
    bytes
        A JPEG, or otherwise a PNG.

    Raises
    ------
    ValueError
        If the file is no image, or is truncated.
    """
    if isinstance(image, np.ndarray):
        return _png(image)
    pixels = ImageFolder([image], mode=MODES[channels])[0]  # type: ignore[arg-type]  # this checks that it is whole
    with Image.open(image) as picture:
        upright = picture.getexif().get(ExifTags.Base.Orientation, 1) == 1
        fits = upright and picture.format in ("JPEG", "PNG") and picture.mode == MODES[channels]
    return image.read_bytes() if fits else _png(pixels)


def images_in(folder: Path) -> dict[str, Path]:
    """List the images of a folder and its subfolders, except hidden files, by their names relative to it.

    Raises
    ------
    ValueError
        If there is no folder, or no image in it.
    """
    names = ImageFolder.glob(folder).paths
    return {name: folder / name for name in names if not Path(name).name.startswith(".")}


def _png(pixels: NDArray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels).save(stream, "PNG")
    return stream.getvalue()
