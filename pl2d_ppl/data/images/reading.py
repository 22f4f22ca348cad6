"""Read all images: report those that cannot be read, and make one array."""

from collections import Counter
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import batched
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from pl2d_ppl.data.annotated import Annotated
from pl2d_ppl.data.source import Part, Source, is_source

__all__ = ["BadImage", "ImageReport", "check_images", "read_images"]

AHEAD = 256  # most images that are decoded ahead of their use


class BadImage(NamedTuple):
    """An image that cannot be read."""

    item: int
    name: str
    why: str


@dataclass(frozen=True)
class ImageReport:
    """Report on images; it prints as a table.

    Attributes
    ----------
    num_items : int
        N.
    bad : tuple of BadImage
        Images that cannot be read.
    shapes : dict of tuple to int
        Number of the other images by shape, the most frequent first.
    """

    num_items: int
    bad: tuple[BadImage, ...]
    shapes: dict[tuple[int, ...], int]

    @property
    def good(self) -> NDArray:
        """Indices of the items that can be read, for ``data.take``."""
        return np.setdiff1d(np.arange(self.num_items), [image.item for image in self.bad])

    def __str__(self) -> str:
        """Return the table."""
        lines = [f"{self.num_items:,} images, {len(self.bad):,} of which cannot be read; {len(self.shapes)} shapes"]
        most = list(self.shapes.items())[:5]
        lines += [f"  {' x '.join(map(str, shape))}: {number:,}" for shape, number in most]
        return "\n".join([*lines, *(f"  {image.item}  {image.name}: {image.why}" for image in self.bad)])


def check_images(images: Source | Annotated, *, progress: bool = True) -> ImageReport:
    """Decode all images; report those that cannot be decoded, and the shapes of the others.

    Leave bad images out by ``data.take(check_images(data).good)``.

    Parameters
    ----------
    images : Source or Annotated
        N images, or data with a lazy ``x`` of them.
    progress : bool
        Whether to show a progress bar.

    Returns
    -------
    ImageReport
        The report.

    Raises
    ------
    ValueError
        If images are not a source.
    """
    source, names = source_of(images)

    def look(index: int) -> tuple[int, ...] | BadImage:
        try:
            return np.shape(source[index])
        except Exception as error:  # users write sources too: any error is a finding
            return BadImage(index, names(index), str(error) or type(error).__name__)

    found = list(in_order(look, len(source), progress, "check images"))
    shapes = Counter(one for one in found if not isinstance(one, BadImage))
    return ImageReport(len(found), tuple(one for one in found if isinstance(one, BadImage)), dict(shapes.most_common()))


def read_images(
    images: Source | Annotated, *, size: int | tuple[int, int] | None = None, progress: bool = True
) -> NDArray:
    """Decode all images into one array of bytes, which takes a quarter of the memory of float32.

    The array may be the ``x`` of :func:`~pl2d_ppl.fit`, with :func:`~pl2d_ppl.data.augmented` around the model.

    Parameters
    ----------
    images : Source or Annotated
        N images, or data with a lazy ``x`` of them.
    size : int or (int, int), optional
        Height and width to scale them to; by default all images must have one size.
    progress : bool
        Whether to show a progress bar.

    Returns
    -------
    array of uint8, shape (N, height, width, channels)
        The images.

    Raises
    ------
    ValueError
        If images are not a source, one cannot be decoded, or they differ in shape.
    """
    source, names = source_of(images)
    scale = (lambda image: image) if size is None else (lambda image: resize(image, shape_of(size)))
    first = scale(check_image(source[0], names(0)))
    result = np.empty((len(source), *first.shape), np.uint8)

    def read(index: int) -> None:
        image = scale(check_image(source[index], names(index)))
        if image.shape != first.shape:
            raise ValueError(
                f"Expected images of one shape, found {first.shape} for {names(0)} and {image.shape} for "
                f"{names(index)}. Pass size=(height, width), or crop them by an ImagePipeline."
            )
        result[index] = image

    for _ in in_order(read, len(source), progress, "read images"):
        pass
    return result


def source_of(images: Source | Annotated) -> tuple[Source, Callable[[int], str]]:
    """Return a source, and a function for the names of its items.

    Raises
    ------
    ValueError
        If there is none.
    """
    source = images.x if isinstance(images, Annotated) else images
    if not is_source(source) or len(source) == 0:
        raise ValueError(
            f"Expected a source of images, such as ImageFolder or EncodedImages, or data with one as x, found "
            f"{'an empty one' if is_source(source) else type(source).__name__}."
        )
    if isinstance(images, Annotated) and images.items is not None:
        return source, [str(name) for name in images.items].__getitem__
    return source, lambda index: _name(source, index)


def _name(source: Source, index: int) -> str:
    if isinstance(source, Part):
        return _name(source.source, int(source.indices[index]))
    name = getattr(source, "name", None)
    return name(index) if callable(name) else f"image {index}"


def check_image(image: Any, name: str) -> NDArray:
    """Check an image, and return it as uint8; images in the ``x`` of data are float.

    Raises
    ------
    ValueError
        If it does not consist of bytes, or does not have shape (height, width, channels).
    """
    image = np.asarray(image)
    if image.dtype == np.float32 and np.array_equal(image, np.clip(np.rint(image), 0, 255)):
        image = image.astype(np.uint8)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (1, 3) or image.size == 0:
        raise ValueError(
            f"Expected an image, uint8 of shape (height, width, 1 or 3), found {image.dtype} of shape {image.shape} "
            f"for {name}. Scale pixels to 0..255."
        )
    return image


def shape_of(size: int | Sequence[int]) -> tuple[int, int]:
    """Return height and width; a single number stands for both.

    Raises
    ------
    ValueError
        If they are not positive integers.
    """
    pair = (size, size) if isinstance(size, int | np.integer) else tuple(size)
    if len(pair) != 2 or not all(isinstance(n, int | np.integer) and n >= 1 for n in pair):
        raise ValueError(f"Expected a size as a number of pixels, or (height, width), from 1 up, found {size!r}.")
    return int(pair[0]), int(pair[1])


def resize(image: NDArray, shape: tuple[int, int]) -> NDArray:
    """Scale an image to a height and a width, by bicubic interpolation that averages when it shrinks."""
    from PIL import Image

    if image.shape[:2] == shape:
        return image
    scaled = to_pillow(image).resize(shape[::-1], Image.Resampling.BICUBIC)
    return np.array(scaled).reshape(*shape, -1)


def to_pillow(image: NDArray) -> Any:
    """Return an array as Pillow's image."""
    from PIL import Image

    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def in_order[T](function: Callable[[int], T], number: int, progress: bool, what: str) -> Generator[T]:
    """Call a function with 0, 1, ... in threads, a limited number ahead, and yield its results in order."""
    # Decoders release Python's lock. On an error, or Ctrl-C, calls that have not begun are dropped.
    with (
        ThreadPoolExecutor() as pool,
        tqdm(total=number, desc=what, unit="image", disable=not progress) as bar,
    ):
        for chunk in batched(range(number), AHEAD):
            with closing(pool.map(function, chunk)) as results:  # type: ignore[type-var]
                for result in results:
                    yield result
                    bar.update()
