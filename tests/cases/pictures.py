"""Folders of images in published layouts, and what should be read of them."""

from typing import NamedTuple

import numpy as np
from PIL import Image


class Written(NamedTuple):
    """What a part should be when it is read: oracle of the tests, which builds it beside the files."""

    images: list
    y: list
    annotations: list
    items: list
    group: list | None = None
    coarse: list | None = None


def paint(path, rng, mode="RGB", **options):
    """Write a random image, and return what a decoder sees in it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (6, 5) if mode == "L" else (6, 5, 3)
    Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(path, **options)
    with Image.open(path) as picture:
        return np.asarray(picture).reshape(6, 5, -1)


def check(data, written, *, annotators=(), classes=None):
    assert data.is_lazy
    assert list(data.items) == written.items
    np.testing.assert_array_equal(data.y, written.y)
    np.testing.assert_array_equal(data.annotations, np.reshape(written.annotations, (len(written.y), -1)))
    for i, image in enumerate(written.images):
        np.testing.assert_array_equal(data.x[i], image)
        assert data.x[i].dtype == np.uint8
    for name in ("group", "coarse"):
        if getattr(written, name) is None:
            assert getattr(data, name) is None
        else:
            np.testing.assert_array_equal(getattr(data, name), getattr(written, name))
    assert data.annotators == tuple(annotators)
    assert data.classes == (data.classes if classes is None else tuple(classes))
