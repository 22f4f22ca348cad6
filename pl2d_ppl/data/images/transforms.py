"""Transforms of images on the host, for grain: scaling, crops, mirroring, normalisation, several views."""

import numbers
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pl2d_ppl.data.images._grain import Map, RandomMap
from pl2d_ppl.data.images.reading import resize, shape_of

__all__ = ["CenterCrop", "Normalise", "RandomCrop", "RandomFlip", "Resize", "Views"]

type Transform = Map | RandomMap


@dataclass(frozen=True)
class Resize(Map):
    """Scale an image, by bicubic interpolation that averages when it shrinks.

    Parameters
    ----------
    size : int or (int, int)
        Length of the shorter side, which keeps the aspect ratio; or height and width.

    Raises
    ------
    ValueError
        If it is not positive.
    """

    size: int | tuple[int, int]

    def __post_init__(self) -> None:
        shape_of(self.size)

    def map(self, element: Any) -> Any:
        """Scale an image, uint8, or the ``x`` of an element."""
        return on_image(element, self._scale)

    def _scale(self, image: NDArray) -> NDArray:
        if isinstance(self.size, tuple):
            return resize(image, self.size)
        height, width = image.shape[:2]
        shorter = min(height, width)
        return resize(image, (max(round(height * self.size / shorter), 1), max(round(width * self.size / shorter), 1)))


@dataclass(frozen=True)
class CenterCrop(Map):
    """Crop the middle of an image.

    Parameters
    ----------
    size : int or (int, int)
        Height and width.

    Raises
    ------
    ValueError
        If the size is not positive; when applied, if an image is smaller.
    """

    size: int | tuple[int, int]

    def __post_init__(self) -> None:
        shape_of(self.size)

    def map(self, element: Any) -> Any:
        """Crop an image, or the ``x`` of an element."""
        return on_image(element, self._crop)

    def _crop(self, image: NDArray) -> NDArray:
        height, width = shape_of(self.size)
        _check_room(image, (height, width), 0)
        top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
        return image[top : top + height, left : left + width]


@dataclass(frozen=True)
class RandomCrop(RandomMap):
    """Pad an image, and crop it at random.

    Parameters
    ----------
    size : int or (int, int), optional
        Height and width; by default the image's.
    pad : int
        Pixels added on every side before the crop.
    fill : {"reflect", "constant", "edge"}
        How to fill the padding: mirrored image, black, or edge pixels.

    Raises
    ------
    ValueError
        If a setting is malformed; when applied, if an image is too small for it.
    """

    size: int | tuple[int, int] | None = None
    pad: int = 0
    fill: str = "reflect"

    def __post_init__(self) -> None:
        if self.size is not None:
            shape_of(self.size)
        check_numbers(pad=(self.pad, 0))
        if self.fill not in ("reflect", "constant", "edge"):
            raise ValueError(f"Expected fill 'reflect', 'constant' or 'edge', found {self.fill!r}.")

    def random_map(self, element: Any, rng: np.random.Generator) -> Any:
        """Crop an image, or the ``x`` of an element."""
        return on_image(element, lambda image: self._crop(image, rng))

    def _crop(self, image: NDArray, rng: np.random.Generator) -> NDArray:
        height, width = image.shape[:2] if self.size is None else shape_of(self.size)
        _check_room(image, (height, width), self.pad)
        if self.pad:
            if self.fill == "reflect" and self.pad >= min(image.shape[:2]):
                raise ValueError(
                    f"Expected pad below the sides of an image that is mirrored, found {self.pad} for "
                    f"{image.shape[:2]}. Lower it, or pass fill='edge'."
                )
            image = np.pad(image, ((self.pad, self.pad), (self.pad, self.pad), (0, 0)), mode=self.fill)  # type: ignore[call-overload]
        top = rng.integers(image.shape[0] - height + 1)
        left = rng.integers(image.shape[1] - width + 1)
        return image[top : top + height, left : left + width]


def _check_room(image: NDArray, shape: tuple[int, int], pad: int) -> None:
    room = tuple(n + 2 * pad for n in image.shape[:2])
    if shape[0] > room[0] or shape[1] > room[1]:
        raise ValueError(
            f"Expected a crop within the{' padded' if pad else ''} image, {room}, found {shape}. Lower it, or put "
            "Resize in front."
        )


@dataclass(frozen=True)
class RandomFlip(RandomMap):
    """Mirror an image left and right, at random.

    Parameters
    ----------
    probability : float
        Probability of mirroring.

    Raises
    ------
    ValueError
        If it is not a probability.
    """

    probability: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise ValueError(f"Expected a probability, found {self.probability!r}.")

    def random_map(self, element: Any, rng: np.random.Generator) -> Any:
        """Mirror an image, or the ``x`` of an element."""
        mirrored = rng.random() < self.probability
        return on_image(element, lambda image: image[:, ::-1] if mirrored else image)


@dataclass(frozen=True)
class Normalise(Map):
    """Turn bytes v into (v / 255 - mean) / std, float32.

    Parameters
    ----------
    mean, std : float or tuple of float, one per channel
        For the scale 0..1.

    Raises
    ------
    ValueError
        If a number is not finite, or std not positive.
    """

    mean: float | tuple[float, ...] = 0.5
    std: float | tuple[float, ...] = 0.5

    def __post_init__(self) -> None:
        if not (np.isfinite(self.mean).all() and np.isfinite(self.std).all() and np.min(self.std) > 0):
            raise ValueError(f"Expected finite mean, and std above 0, found {self.mean} and {self.std}.")

    def map(self, element: Any) -> Any:
        """Normalise an image, or the ``x`` of an element."""
        return on_image(element, self._scale)

    def _scale(self, image: NDArray) -> NDArray:
        for name, values in (("mean", self.mean), ("std", self.std)):
            if np.size(values) not in (1, image.shape[-1]):
                raise ValueError(
                    f"Expected {name} as a number, or one for each of {image.shape[-1]} channels, found {values}."
                )
        mean, std = np.asarray(self.mean, np.float32), np.asarray(self.std, np.float32)
        return (image / np.float32(255) - mean) / std


class Views(RandomMap):
    """Several views of the same image, such as a weak and a strong one. It must be the last transform.

    Parameters
    ----------
    **views
        Transforms of each view, by name. The views replace the ``x`` of an element; one of them should be called
        ``x``::

            weak = [RandomFlip(), RandomCrop(pad=4)]
            Views(x=[*weak, Normalise()], x_strong=[*weak, RandAugment(), Cutout(16), Normalise()])

    Raises
    ------
    ValueError
        If there are no views, or one contains something other than transforms.
    """

    def __init__(self, **views: Sequence[Transform]):
        if not views:
            raise ValueError("Expected views by name, such as x=[...] and x_strong=[...], found none.")
        for transforms in views.values():
            check_transforms(transforms)
        self.views = {name: Composed(tuple(transforms)) for name, transforms in views.items()}

    def random_map(self, element: Any, rng: np.random.Generator) -> dict[str, Any]:
        """Make the views of an element's ``x``."""
        rest = {name: value for name, value in element.items() if name != "x"}
        return {**{name: view.random_map(element["x"], rng) for name, view in self.views.items()}, **rest}


class Composed(RandomMap):
    """Transforms, applied one after the other, which share an item's random numbers.

    Parameters
    ----------
    transforms : tuple of grain.transforms.Map or grain.transforms.RandomMap
        The transforms.
    """

    def __init__(self, transforms: tuple[Transform, ...]):
        self.transforms = transforms

    def random_map(self, element: Any, rng: np.random.Generator) -> Any:
        """Transform an element."""
        for transform in self.transforms:
            element = transform.random_map(element, rng) if isinstance(transform, RandomMap) else transform.map(element)
        return element


def on_image(element: Any, change: Callable[[NDArray], NDArray]) -> Any:
    """Change an image, or the ``x`` of an element."""
    return {**element, "x": change(element["x"])} if isinstance(element, dict) else change(element)


def check_transforms(transforms: Sequence[Any]) -> None:
    """Raise a ValueError if something is not a transform."""
    for transform in transforms:
        if not isinstance(transform, Map | RandomMap):
            raise ValueError(
                f"Expected transforms, grain.transforms.Map or RandomMap, found {transform!r}. Others, such as filters,"
                " go around a pipeline's .dataset."
            )


def check_numbers(**values: tuple[Any, int]) -> None:
    """Raise a ValueError if a value is not an integer from its least value up."""
    for name, (value, least) in values.items():
        if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < least:
            raise ValueError(f"Expected {name} as an integer from {least} up, found {value!r}.")
