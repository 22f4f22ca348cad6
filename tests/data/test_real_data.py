"""Real datasets, where they are at hand."""

import warnings

import numpy as np
import pytest

from pl2d_ppl.data import read_npz, split


@pytest.fixture
def real(data_dir):
    return lambda name: read_npz(data_dir / f"{name}.npz")


@pytest.mark.parametrize(
    ("name", "shape", "missing"),
    [
        ("cue_conflict", (1280, 10, 16), 0.01),
        ("labelme", (1000, 59, 8), 0.957),
        ("sleep_dodh", (24284, 2, 5), 0.0),
    ],
)
def test_real_data(name, shape, missing, real):
    train, _ = real(name)
    assert (train.num_items, train.num_experts, train.num_categories) == shape
    assert train.summary().missing_rate == pytest.approx(missing, abs=2e-3)


def test_real_sleep_accuracy_and_groups(real):
    train, _ = real("sleep_dodh")
    assert list(train.summary().accuracy.values()) == pytest.approx([0.83, 0.79], abs=5e-3)
    kept, held_out = split(train, 0.2, 0)
    assert len(set(held_out.group)) == 5
    assert not set(kept.group) & set(held_out.group)


def test_real_test_part_without_annotations(real):
    train, test = real("labelme")
    assert test.num_items == 1188
    assert test.annotators == train.annotators
    assert (test.annotations == -1).all()


def test_real_silent_radiologists(real):
    with pytest.warns(UserWarning, match="found none by 0, 1, 2:"):
        train, _ = real("nih_airspace_opacity")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        split(train, 0.3, 0)


def test_real_cifar100_has_superclasses_and_no_experts(real):
    train, test = real("cifar100_features")
    assert (train.num_items, test.num_items, train.num_experts, train.num_categories) == (
        50_000,
        10_000,
        0,
        100,
    )
    assert train.classes[0] == "apple"
    assert np.unique(train.coarse).tolist() == list(range(20))
    assert len(np.unique(np.stack([train.y, train.coarse]), axis=1).T) == 100
