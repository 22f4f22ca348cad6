"""Augmentation of images on the device, inside the compiled training step."""

import numbers
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from numpyro.contrib.module import nnx_module

from pl2d_ppl.data.images.reading import shape_of
from pl2d_ppl.networks import instantiate

__all__ = ["Augment", "augment", "augmented", "normalise"]

Fill = Literal["reflect", "constant", "edge"]
SITE = "augment"  # the state of a program's augmentation is {SITE}$state


def augment(
    rng_key: Array,
    images: Array,
    *,
    pad: int = 4,
    fill: Fill = "reflect",
    size: int | tuple[int, int] | None = None,
    flip: float = 0.5,
    cutout: int = 0,
    mean: float | Sequence[float] = 0.5,
    std: float | Sequence[float] = 0.5,
) -> Array:
    """Pad, crop at random, mirror at random, cut out, and normalise, with separate draws for every image.

    This is a pure function, to call inside a compiled one.

    Parameters
    ----------
    rng_key : Array
        A typed key.
    images : array of uint8, or of float on the same scale 0..255, shape (N, height, width, channels)
        The images.
    pad : int
        Pixels added on every side before the crop.
    fill : {"reflect", "constant", "edge"}
        How to fill the padding: mirrored image, black, or edge pixels.
    size : int or (int, int), optional
        Height and width of the crop; by default the image's.
    flip : float
        Probability of mirroring left and right.
    cutout : int
        Side of a square that is set to the mean, around a pixel drawn at random; 0 for none.
    mean, std : float or sequence of float, one per channel
        For the scale 0..1: the result is (v / 255 - mean) / std.

    Returns
    -------
    array of float32, shape (N, height, width, channels)
        Augmented images.

    Raises
    ------
    ValueError
        If images are none, or a setting does not suit them.

    References
    ----------
    DeVries and Taylor (2017). Improved Regularization of Convolutional Neural Networks with Cutout.
    """
    settings = _Settings(pad, fill, size, flip, cutout, mean, std)
    settings.check(images)
    return _apply(images, _draw(rng_key, images.shape, settings), settings)


def normalise(
    images: Array,
    *,
    size: int | tuple[int, int] | None = None,
    mean: float | Sequence[float] = 0.5,
    std: float | Sequence[float] = 0.5,
) -> Array:
    """Crop the middle of images, and normalise: :func:`augment` without randomness.

    Parameters
    ----------
    images : array of uint8, or of float on the same scale 0..255, shape (N, height, width, channels)
        The images.
    size : int or (int, int), optional
        Height and width of the crop; by default the image's.
    mean, std : float or sequence of float, one per channel
        For the scale 0..1: the result is (v / 255 - mean) / std.

    Returns
    -------
    array of float32, shape (N, height, width, channels)
        The images.

    Raises
    ------
    ValueError
        If images are none, or a setting does not suit them.
    """
    settings = _Settings(pad=0, size=size, mean=mean, std=std)
    settings.check(images)
    return _steady(images, settings)


class Augment(nnx.Module):
    """Layer that augments images in training, and only normalises in evaluation mode.

    Put it in front of a single network. For a program of several networks, which should see the same images, use
    :func:`augmented`.

    Parameters
    ----------
    rngs : nnx.Rngs
        Source of the random numbers: its stream ``augment``, or the default stream.
    **settings
        As of :func:`augment`.

    Raises
    ------
    ValueError
        If a setting is malformed.
    """

    def __init__(self, *, rngs: nnx.Rngs, **settings: Any):
        self.settings = _Settings(**settings)
        self.deterministic = False
        self.rngs = rngs[SITE].fork()

    def __call__(self, images: Array) -> Array:
        """Map images of shape (N, height, width, channels), 0..255, to normalised ones, float32."""
        self.settings.check(images)
        if self.deterministic:
            return _steady(images, self.settings)
        return _apply(images, _draw(self.rngs(), images.shape, self.settings), self.settings)

    def set_view(self, deterministic: bool | None = None) -> None:
        """Choose the mode, for ``nnx.view``."""
        if deterministic is not None:
            self.deterministic = deterministic


def augmented(model: Callable, **settings: Any) -> Callable:
    """Augment the images of a program at random in training, and only normalise them in evaluation mode.

    All networks of the program see the same augmented images, and so does its guide, which is built from the
    augmented program::

        model = augmented(partial(prob_l2d, gating=..., experts=..., classifier=...), pad=4, cutout=8)
        data = {"x": read_images(source), "annotations": annotations, "y": y}
        result = fit(rng_key, model, exact(model, ["z"]), data, optimizer, epochs=100, batch_size=128)

    The images stay on the device as bytes. The draws depend only on the fit's key. The networks learn from normalised
    images, and also need these outside the program. For a network that is to be frozen and take bytes, use
    :class:`Augment` as its first layer instead.

    Parameters
    ----------
    model : callable
        A program whose ``x`` are images.
    **settings
        As of :func:`augment`.

    Returns
    -------
    callable
        A program with the same arguments, whose ``x`` are images of 0..255.

    Raises
    ------
    ValueError
        If a setting is malformed.
    """
    _Settings(**settings)

    def layer(rngs: nnx.Rngs) -> Augment:
        return Augment(rngs=rngs, **settings)

    @wraps(model)
    def program(x: Array, *args: Any, **kwargs: Any) -> Any:
        return model(nnx_module(SITE, instantiate(layer))(x), *args, **kwargs)

    return program


@dataclass(frozen=True)
class _Settings:
    """The checked settings of :func:`augment`."""

    pad: int = 4
    fill: str = "reflect"
    size: Any = None
    flip: float = 0.5
    cutout: int = 0
    mean: Any = 0.5
    std: Any = 0.5

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            values = getattr(self, name)
            one = isinstance(values, numbers.Real)
            object.__setattr__(self, name, (float(values),) if one else tuple(map(float, values)))  # hashable
        if self.size is not None:
            object.__setattr__(self, "size", shape_of(self.size))
        for name in ("pad", "cutout"):
            value = getattr(self, name)
            if not isinstance(value, numbers.Integral) or value < 0:
                raise ValueError(f"Expected {name} as a number of pixels from 0 up, found {value!r}.")
        if self.fill not in ("reflect", "constant", "edge"):
            raise ValueError(f"Expected fill 'reflect', 'constant' or 'edge', found {self.fill!r}.")
        if not 0 <= self.flip <= 1:
            raise ValueError(f"Expected flip as a probability, found {self.flip!r}.")
        if not np.isfinite(self.mean + self.std).all() or min(self.std) <= 0:
            raise ValueError(f"Expected finite mean, and std above 0, found {self.mean} and {self.std}.")

    def check(self, images: Any) -> None:
        """Check images against the settings, only by their shapes."""
        shape, dtype = np.shape(images), jnp.result_type(images)
        if len(shape) != 4 or 0 in shape or not (dtype == jnp.uint8 or jnp.issubdtype(dtype, jnp.floating)):
            raise ValueError(
                f"Expected images of 0..255, uint8 or float, of shape (N, height, width, channels), found {dtype} of "
                f"shape {shape}. Read them by read_images; for grey images, keep the axis of channels."
            )
        if self.fill == "reflect" and self.pad >= min(shape[1:3]):
            raise ValueError(
                f"Expected pad below the sides of the images, {shape[1:3]}, since these are mirrored, found {self.pad}."
                " Lower it, or pass fill='edge'."
            )
        room = [n + 2 * self.pad for n in shape[1:3]]
        if self.size is not None and (self.size[0] > room[0] or self.size[1] > room[1]):
            raise ValueError(
                f"Expected crops within the padded images, {tuple(room)}, found size={self.size}. Lower it, or scale "
                "the images: read_images(source, size=...)."
            )
        for name in ("mean", "std"):
            if len(getattr(self, name)) not in (1, shape[3]):
                raise ValueError(
                    f"Expected {name} as a number, or one for each of {shape[3]} channels, found {getattr(self, name)}."
                )


class _Draws(NamedTuple):
    """Random draws for N images."""

    corners: Array  # (N, 2) of the crops, in the padded images
    mirrored: Array  # (N,)
    centres: Array  # (N, 2) of the squares that are cut out


def _draw(rng_key: Array, shape: tuple[int, ...], settings: _Settings) -> _Draws:
    crop_key, flip_key, cut_key = jax.random.split(rng_key, 3)
    size = jnp.array(settings.size or shape[1:3])
    room = jnp.array(shape[1:3]) + 2 * settings.pad - size
    return _Draws(
        jax.random.randint(crop_key, (shape[0], 2), 0, room + 1),
        jax.random.bernoulli(flip_key, settings.flip, shape[:1]),
        jax.random.randint(cut_key, (shape[0], 2), 0, size),
    )


def _apply(images: Array, draws: _Draws, settings: _Settings) -> Array:
    size, pad = settings.size or images.shape[1:3], settings.pad
    padded = jnp.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode=settings.fill)

    def crop(image: Array, corner: Array) -> Array:
        return jax.lax.dynamic_slice(image, (*corner, 0), (*size, image.shape[-1]))

    x = jax.vmap(crop)(padded, draws.corners)
    x = _scaled(jnp.where(draws.mirrored[:, None, None, None], x[:, :, ::-1], x), settings)
    if settings.cutout:
        inside = [_near(draws.centres[:, axis], size[axis], settings.cutout) for axis in (0, 1)]
        x = jnp.where((inside[0][:, :, None] & inside[1][:, None, :])[..., None], 0.0, x)
    return x


def _near(centres: Array, length: int, side: int) -> Array:
    """Mask of the pixels of an axis that lie in squares around the centres, (N, length)."""
    start = centres[:, None] - side // 2
    return (jnp.arange(length) >= start) & (jnp.arange(length) < start + side)


def _steady(images: Array, settings: _Settings) -> Array:
    """Crop the middle and normalise."""
    height, width = settings.size or images.shape[1:3]
    if height > images.shape[1] or width > images.shape[2]:
        pad = settings.pad
        images = jnp.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode=settings.fill)
    top, left = (images.shape[1] - height) // 2, (images.shape[2] - width) // 2
    return _scaled(images[:, top : top + height, left : left + width], settings)


def _scaled(images: Array, settings: _Settings) -> Array:
    mean, std = jnp.array(settings.mean, jnp.float32), jnp.array(settings.std, jnp.float32)
    return (images.astype(jnp.float32) / 255 - mean) / std
