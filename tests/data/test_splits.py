"""Splits and standardisation, against scikit-learn."""

import dataclasses

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from cases.annotated import assert_same, random_data
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.preprocessing import StandardScaler

from pl2d_ppl.data import Annotated, split, standardise


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 60), st.floats(0.05, 0.95), st.integers(0, 2**32 - 1), st.sampled_from([None, 6]))
def test_split_is_a_partition(num_items, test_share, seed, groups):
    data = random_data(num_items, groups=groups)
    data = dataclasses.replace(data, x=np.arange(num_items)[:, None])  # an item's name
    units = num_items if groups is None else len(set(data.group))
    if np.ceil(units * test_share) == units:
        with pytest.raises(ValueError, match=r"at least one of the (items|groups) in both parts, found"):
            split(data, test_share, seed)
        return
    train, test = split(data, test_share, seed)
    assert sorted([*train.x.ravel(), *test.x.ravel()]) == list(range(num_items))
    if groups:
        assert not set(train.group) & set(test.group)
    else:
        assert test.num_items == np.ceil(num_items * test_share)


def test_split_is_stratified_and_seeded():
    y = np.repeat([0, 1, 2], [60, 30, 10])
    data = dataclasses.replace(random_data(100), y=y)
    train, test = split(data, 0.2, 0)
    assert np.bincount(test.y).tolist() == [12, 6, 2]
    assert_same(split(data, 0.2, 0)[0], train)
    assert not np.array_equal(split(data, 0.2, 1)[0].x, train.x)


def test_split_with_a_rare_class_is_random(caplog):
    data = dataclasses.replace(random_data(10), y=[0] * 9 + [1])
    with caplog.at_level("INFO", logger="pl2d_ppl"):
        split(data, 0.5, 0)
    assert "not stratified" in caplog.text


@pytest.mark.parametrize(
    ("test_share", "seed", "message"),
    [
        (0, 0, "test_share strictly between 0 and 1, found 0"),
        (1.0, 0, "test_share strictly between 0 and 1, found"),
        (float("nan"), 0, "test_share strictly between 0 and 1, found"),
        (0.5, None, "seed as an integer in"),
        (0.5, -1, "seed as an integer in"),
        (0.99, 0, "at least one of the items in both parts, found 10"),
    ],
)
def test_bad_split(test_share, seed, message):
    with pytest.raises(ValueError, match=message):
        split(random_data(10), test_share, seed)


def test_one_group_cannot_be_split():
    with pytest.raises(ValueError, match="at least one of the groups in both parts, found 1"):
        split(dataclasses.replace(random_data(10), group=["ward"] * 10), 0.2, 0)


@settings(max_examples=40, deadline=None)
@given(hnp.arrays(np.float32, st.tuples(st.integers(1, 9), st.integers(1, 4)), elements=st.integers(-99, 99)))
def test_standardise_agrees_with_scikit_learn(x):
    data = Annotated(x, np.zeros(len(x), int), np.zeros((len(x), 1), int), classes=("a", "b"), annotators=["ann"])
    other = dataclasses.replace(data, x=2 * x + 1)
    scaler = StandardScaler().fit(x.astype(float))
    for scaled, part in zip(standardise(data, other), (data, other), strict=True):
        np.testing.assert_allclose(scaled.x, scaler.transform(part.x.astype(float)), rtol=1e-4, atol=1e-5)


def test_standardise_constant_feature():
    data = dataclasses.replace(random_data(1000), x=np.full((1000, 1), 0.1))
    (scaled,) = standardise(data)  # the mean of 1,000 times .1 is not quite .1
    np.testing.assert_allclose(scaled.x, 0, atol=1e-6)


def test_standardise_refuses_images():
    data = random_data(4)
    with pytest.raises(ValueError, match=r"features of shape \(N, D\) in train"):
        standardise(dataclasses.replace(data, x=np.zeros((4, 2, 2))))
    with pytest.raises(ValueError, match=r"in others\[0\], .* found \(4, 3\) beside \(4, 2\)"):
        standardise(data, dataclasses.replace(data, x=np.zeros((4, 3))))
