"""Small datasets, and what compares two of them."""

import numpy as np

from pl2d_ppl.data import Annotated

FIELDS = ("x", "y", "annotations", "group", "coarse", "counts", "items", "classes", "annotators")


def arguments(**changes):
    """Four items, two experts, three classes."""
    return {
        "x": np.arange(8.0).reshape(4, 2),
        "y": np.array([0, 1, 2, -1], np.int8),
        "annotations": np.array([[0, 1], [1, -1], [-1, 2], [2, 0]], np.int8),
        "classes": ("a", "b", "c"),
        "annotators": ("ann", "bob"),
    } | changes


def assert_same(left, right):
    for field in FIELDS:
        np.testing.assert_array_equal(getattr(left, field), getattr(right, field), err_msg=field)


def random_data(num_items, num_classes=3, groups=None, seed=0):
    rng = np.random.default_rng(seed)
    return Annotated(
        rng.normal(size=(num_items, 2)),
        rng.integers(0, num_classes, num_items),
        rng.integers(0, num_classes, (num_items, 2)),
        group=None if groups is None else rng.integers(0, groups, num_items),
        classes=map(str, range(num_classes)),
        annotators=("ann", "bob"),
    )
