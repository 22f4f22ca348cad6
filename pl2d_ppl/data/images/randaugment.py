"""RandAugment and Cutout: strong augmentation, on the host."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pl2d_ppl.data.images._grain import RandomMap
from pl2d_ppl.data.images.reading import to_pillow
from pl2d_ppl.data.images.transforms import on_image

__all__ = ["OPERATIONS", "Cutout", "RandAugment"]

LEVELS = 30  # magnitudes are 0..30
GREY = 128  # fills the area that an operation leaves empty


def _enhance(name: str) -> Callable[[Any, float], Any]:
    def apply(image: Any, strength: float) -> Any:
        from PIL import ImageEnhance

        return getattr(ImageEnhance, name)(image).enhance(1 + 0.9 * strength)

    return apply


def _tone(name: str) -> Callable[[Any, float], Any]:
    def apply(image: Any, strength: float) -> Any:
        from PIL import ImageOps

        del strength
        return getattr(ImageOps, name)(image)

    return apply


def _solarize(image: Any, strength: float) -> Any:
    from PIL import ImageOps

    return ImageOps.solarize(image, round(256 * (1 - abs(strength))))


def _posterize(image: Any, strength: float) -> Any:
    from PIL import ImageOps

    return ImageOps.posterize(image, 8 - round(4 * abs(strength)))


def _affine(image: Any, coefficients: tuple[float, ...]) -> Any:
    from PIL import Image

    fill = GREY if image.mode == "L" else (GREY,) * 3
    return image.transform(image.size, Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR, fillcolor=fill)


def _rotate(image: Any, strength: float) -> Any:
    from PIL import Image

    fill = GREY if image.mode == "L" else (GREY,) * 3
    return image.rotate(30 * strength, Image.Resampling.BILINEAR, fillcolor=fill)


# Functions of an image and a strength from -1 to 1, or its size where the sign means nothing.
OPERATIONS: dict[str, Callable[[Any, float], Any]] = {
    "identity": lambda image, strength: image,
    "auto_contrast": _tone("autocontrast"),
    "equalize": _tone("equalize"),
    "rotate": _rotate,
    "solarize": _solarize,
    "color": _enhance("Color"),
    "posterize": _posterize,
    "contrast": _enhance("Contrast"),
    "brightness": _enhance("Brightness"),
    "sharpness": _enhance("Sharpness"),
    "shear_x": lambda image, strength: _affine(image, (1, 0.3 * strength, 0, 0, 1, 0)),
    "shear_y": lambda image, strength: _affine(image, (1, 0, 0, 0.3 * strength, 1, 0)),
    "translate_x": lambda image, strength: _affine(image, (1, 0, 150 / 331 * strength * image.width, 0, 1, 0)),
    "translate_y": lambda image, strength: _affine(image, (1, 0, 0, 0, 1, 150 / 331 * strength * image.height)),
}


@dataclass(frozen=True)
class RandAugment(RandomMap):
    """RandAugment: apply a few operations, drawn from 14, one after the other.

    At magnitude 30 a rotation is by 30 degrees, a shear by 0.3, a translation by 150/331 of the side, an enhancement by
    a factor of 0.1 or 1.9, posterisation to 4 bits, and solarisation applies to all pixels. Half of all geometric
    operations and enhancements go in the opposite direction. Empty areas are filled with grey.

    Parameters
    ----------
    num_ops : int
        Operations per image.
    magnitude : int
        Magnitude from 0 to 30; the largest one if it is drawn.
    draw_magnitude : bool
        Whether every operation draws its magnitude, from 1 up to `magnitude`, as in FixMatch.

    Raises
    ------
    ValueError
        If a number is out of range.

    References
    ----------
    Cubuk, Zoph, Shlens and Le (2020). RandAugment: Practical Automated Data Augmentation with a Reduced Search Space.
    NeurIPS.
    """

    num_ops: int = 2
    magnitude: int = 9
    draw_magnitude: bool = False

    def __post_init__(self) -> None:
        least = int(self.draw_magnitude)
        if self.num_ops < 0 or not least <= self.magnitude <= LEVELS:
            raise ValueError(
                f"Expected num_ops from 0 up, and magnitude in {least}..{LEVELS}, found {self.num_ops} and "
                f"{self.magnitude}."
            )

    def random_map(self, element: Any, rng: np.random.Generator) -> Any:
        """Augment an image, uint8, or the ``x`` of an element."""
        return on_image(element, lambda image: self._augment(image, rng))

    def _augment(self, image: NDArray, rng: np.random.Generator) -> NDArray:
        names = list(OPERATIONS)
        drawn = to_pillow(image)
        for _ in range(self.num_ops):
            name = names[rng.integers(len(names))]
            level = rng.integers(1, self.magnitude + 1) if self.draw_magnitude else self.magnitude
            sign = rng.choice((-1, 1))
            drawn = OPERATIONS[name](drawn, float(sign * level / LEVELS))
        return np.array(drawn).reshape(image.shape)


@dataclass(frozen=True)
class Cutout(RandomMap):
    """Set a square to grey, around a pixel drawn at random.

    Parameters
    ----------
    side : int
        Length of the side; the part beyond the edge of the image is lost.

    Raises
    ------
    ValueError
        If it is not positive.

    References
    ----------
    DeVries and Taylor (2017). Improved Regularization of Convolutional Neural Networks with Cutout.
    """

    side: int

    def __post_init__(self) -> None:
        if self.side < 1:
            raise ValueError(f"Expected a side from 1 up, found {self.side}.")

    def random_map(self, element: Any, rng: np.random.Generator) -> Any:
        """Cut a square out of an image, uint8, or of the ``x`` of an element."""
        return on_image(element, lambda image: self._cut(image, rng))

    def _cut(self, image: NDArray, rng: np.random.Generator) -> NDArray:
        top, left = (int(rng.integers(n)) - self.side // 2 for n in image.shape[:2])
        image = image.copy()
        image[max(top, 0) : max(top + self.side, 0), max(left, 0) : max(left + self.side, 0)] = GREY
        return image
