"""The data container."""

import dataclasses
from collections import Counter
from itertools import combinations

import jax
import numpy as np
import pytest
from cases.annotated import arguments, assert_same, random_data
from hypothesis import given, settings
from hypothesis import strategies as st

from pl2d_ppl.data import Annotated, standardise
from pl2d_ppl.data.missing import drop_annotations


def test_dtypes_and_sizes():
    data = Annotated(**arguments(coarse=[0, 0, 1, 1], group=["p", "p", "q", "q"]))
    assert (data.num_items, data.num_experts, data.num_categories) == (4, 2, 3)
    assert data.x.dtype == np.float32
    assert {data.y.dtype, data.annotations.dtype, data.coarse.dtype} == {np.dtype(np.int32)}
    assert list(data.batch()) == ["x", "annotations", "y"]
    assert repr(data) == "Annotated(items=4, experts=2, categories=3)"
    with pytest.raises(dataclasses.FrozenInstanceError):
        data.y = None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": np.zeros((0, 2))}, r"N >= 1, found the empty shape \(0, 2\)"),
        ({"x": np.array(1.0)}, r"shape \(N, ...\)"),
        ({"x": np.array([["a"], ["b"], ["c"], ["d"]])}, "real numbers in x, found dtype <U1"),
        (
            {"x": [[0, 1], [2, np.nan], [np.inf, np.nan], [0, 0]]},
            "found 3 NaN or infinite values, first in row 1",
        ),
        ({"x": [[0, 1], [2, 1e300], [0, 0], [0, 0]]}, "finite in float32, found 1 .* row 1"),
        ({"y": [0, 1]}, r"y of shape \(4,\), .* found \(2,\)"),
        ({"y": np.eye(4, 3, dtype=int)}, r"y of shape \(4,\), .* found \(4, 3\). Take the argmax"),
        ({"y": [0.0, 1.0, 2.0, -1.0]}, "integer labels in y, found float64"),
        ({"y": [True, False, True, True]}, "integer labels in y, found bool"),
        ({"y": [0, 1, 3, 0]}, "labels in -1..2, -1 where missing, in y, found 3 at item 2 "),
        ({"y": [0, 1, -2, 0]}, "in y, found -2 at item 2 "),
        ({"y": np.array([0, 1, 255, 0], np.uint8)}, "in y, found 255 at item 2 "),
        ({"y": [0, 1, 2**32, 0]}, "in y, found 4294967296 at item 2 "),
        (
            {"y": [-1, -1, -1, -1], "annotations": np.full((4, 2), -1)},
            "truth of at least one item in y, or annotations, found only -1",
        ),
        (
            {"annotations": np.zeros((4, 3), int)},
            r"annotations of shape \(4, 2\), .* for each of 'ann', 'bob', found \(4, 3\)",
        ),
        ({"annotations": np.zeros((3, 2), int)}, r"annotations of shape \(4, 2\), one row an item .* found \(3, 2\)"),
        ({"annotations": np.zeros((4, 2))}, "integer labels in annotations, found float64"),
        ({"annotations": [[0, 1], [0, 1], [0, 7], [-3, 0]]}, r"found 7 at item 2, by 'bob' \(2 such values\)"),
        ({"group": [1, 2]}, r"group of shape \(4,\), .* found \(2,\)"),
        ({"group": [1.0, 2.0, 3.0, 4.0]}, "integers or strings in group, found dtype float64"),
        ({"coarse": [0, 0, -1, 0]}, "superclasses in 0.* in coarse, found -1 at item 2 "),
        ({"coarse": [0.0, 0.0, 1.0, 0.0]}, "integer superclasses in coarse, found float64"),
        ({"classes": ("a", "b", "a")}, "distinct names in classes, found 'a' more than once"),
        ({"classes": "abc"}, "found the string 'abc'"),
        ({"classes": ("a",)}, "at least 2 categories"),
        ({"annotators": ("ann", "ann")}, "distinct names in annotators, found 'ann'"),
    ],
)
def test_bad_data_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Annotated(**arguments(**changes))


def test_silent_expert_warns_once_for_the_whole():
    annotations = np.array([[0, -1], [1, -1], [-1, -1], [2, -1]])
    with pytest.warns(UserWarning, match="annotations by everybody, found none by bob") as caught:
        data = Annotated(**arguments(annotations=annotations))
    assert caught[0].filename == __file__
    data.take([2]).take([0])  # a subset is silent (warnings are errors here)
    standardise(data)
    with pytest.warns(UserWarning, match="found none by ann, bob"):
        data.replace_annotations(np.full((4, 2), -1))


def test_no_experts():
    data = Annotated(**arguments(annotations=np.zeros((4, 0)), annotators=()))
    assert data.annotations.shape == (4, 0)
    assert data.annotations.dtype == np.int32
    assert np.isnan(data.summary().missing_rate)


def test_take_keeps_order_and_fields():
    data = Annotated(**arguments(coarse=[0, 0, 1, 1], group=[5, 6, 7, 8]))
    taken = data.take([2, 0])
    np.testing.assert_array_equal(taken.group, [7, 5])
    np.testing.assert_array_equal(taken.annotations, [[-1, 2], [0, 1]])
    assert_same(taken, data.take(np.array([2, 0])))
    assert_same(data.take([1, 3]), data.take(np.array([False, True, False, True])))
    assert data.take([3]).y.tolist() == [-1]  # a subset may be without truth


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        ([], "non-empty vector"),
        ([4], r"0..3, found 4"),
        ([-1], r"0..3, found -1"),
        ([0.0], "found dtype float64"),
        ([True, False], "mask of shape"),
        ([False] * 4, "Take at least one item"),
    ],
)
def test_bad_indices(indices, message):
    with pytest.raises(ValueError, match=message):
        Annotated(**arguments()).take(indices)


def test_replace_annotations_names_experts():
    data = Annotated(**arguments())
    assert data.replace_annotations(np.zeros((4, 2), int)).annotators == ("ann", "bob")
    assert data.replace_annotations(np.zeros((4, 3), int)).annotators == ("expert_0", "expert_1", "expert_2")
    assert data.replace_annotations(np.zeros((4, 1), int), ["eve"]).annotators == ("eve",)
    with pytest.raises(
        ValueError, match=r"annotations of shape \(4, 0\), .* found \(4,\). Pass annotations\[:, None\]"
    ):
        data.replace_annotations(np.zeros(4, int))


def test_summary_by_hand():
    summary = Annotated(**arguments()).summary()
    assert dataclasses.asdict(summary) == {
        "items": 4,
        "experts": 2,
        "categories": 3,
        "known_truth": 3,
        "annotations": {"ann": 3, "bob": 3},
        "missing_rate": 0.25,
        "accuracy": {"ann": 1.0, "bob": 0.5},
        "per_item": {1: 2, 2: 2},
        "patterns": {("ann", "bob"): 2, ("ann",): 1, ("bob",): 1},
        "agreement": 0.0,
        "majority_accuracy": 2.5 / 3,
        "votes": 0,
        "abstentions": 0,
    }
    assert str(summary).splitlines() == [
        "4 items, 3 of known truth; 3 categories; 2 people",
        "person   annotations    right",
        "ann                3   100.0%",
        "bob                3    50.0%",
        "missing 25.0%; pairs that agree 0.0%; plurality right 83.3%",
        "items by number of annotations: 1: 2, 2: 2",
        "most frequent, who annotated together: ann, bob: 2; bob: 1; ann: 1",
    ]


@given(st.integers(0, 10**6))
@settings(max_examples=50, deadline=None)
def test_summary_against_a_count_of_pairs(seed):
    """By loops over items and pairs of people."""
    rng = np.random.default_rng(seed)
    num_items, num_people = rng.integers(1, 8), rng.integers(1, 5)
    said, y = rng.integers(-1, 3, (num_items, num_people)), rng.integers(-1, 3, num_items)
    names = tuple(f"p{m}" for m in range(num_people))
    x = np.zeros((num_items, 1))
    summary = Annotated(x, y, said, classes=tuple("abc"), annotators=names, subset=True).summary()
    same, pluralities, sets = [], [], Counter()
    for row, truth in zip(said, y, strict=True):
        own = [label for label in row if label >= 0]
        same += [a == b for a, b in combinations(own, 2)]
        most = [c for c in set(own) if own.count(c) == max(map(own.count, own))]
        if own and truth >= 0:
            pluralities.append((truth in most) / len(most))
        sets[tuple(name for name, label in zip(names, row, strict=True) if label >= 0)] += 1
    np.testing.assert_allclose(summary.agreement, np.mean(same) if same else np.nan)
    np.testing.assert_allclose(summary.majority_accuracy, np.mean(pluralities) if pluralities else np.nan)
    assert all(sets[who] == number for who, number in summary.patterns.items())
    assert sorted(summary.patterns.values()) == sorted(sets.values())[-5:]
    assert summary.per_item == dict(sorted(Counter((said >= 0).sum(1).tolist()).items()))


class Squares:
    """A lazy source that notes what it is asked for."""

    def __init__(self, sizes):
        self.sizes, self.asked = sizes, []

    def __len__(self):
        return len(self.sizes)

    def __getitem__(self, index):
        self.asked.append(index)
        return np.full((self.sizes[index], 2), index)


def test_lazy_items_are_read_when_they_are_asked_for():
    source = Squares([3, 3, 3, 3])
    data = Annotated(**arguments(x=source))
    part = data.take([3, 1, 0]).take([2, 0])
    assert data.is_lazy
    assert part.is_lazy
    assert source.asked == []
    whole = part.read()
    assert source.asked == [0, 3]
    assert not whole.is_lazy
    assert whole.read() is whole
    np.testing.assert_array_equal(whole.x[:, 0, 0], [0, 3])
    assert whole.x.dtype == np.float32
    np.testing.assert_array_equal(whole.y, data.y[[0, 3]])
    with pytest.raises(ValueError, match=r"found a lazy source. Read them, data.read\(\)"):
        part.batch()
    with pytest.raises(ValueError, match=r"one shape, found 2 shapes, such as \(2, 2\), \(3, 2\)"):
        Annotated(**arguments(x=Squares([3, 2, 3, 3]))).read()
    with pytest.raises(ValueError, match="empty source"):
        Annotated(**arguments(x=Squares([]), y=np.zeros(0, int), annotations=np.zeros((0, 2), int)))


def test_people_are_selected_in_the_order_that_is_asked_for():
    data = Annotated(**arguments())
    chosen = data.select_people(["bob"])
    assert chosen.annotators == ("bob",)
    np.testing.assert_array_equal(chosen.annotations, data.annotations[:, 1:])
    both = data.select_people(("bob", "ann"))
    np.testing.assert_array_equal(both.annotations, data.annotations[:, ::-1])
    with pytest.raises(ValueError, match="people out of ann, bob, found eve"):
        data.select_people(["ann", "eve"])


def test_votes_stand_in_for_truth():
    counts = np.array([[2, 0, 1], [0, 3, 0], [0, 0, 0], [1, 1, 1]])
    data = Annotated(**arguments(y=np.full(4, -1), counts=counts))
    assert data.counts.dtype == np.int32
    np.testing.assert_array_equal(data.take([3, 0]).counts, counts[[3, 0]])
    assert data.summary().votes == 9
    with pytest.raises(ValueError, match=r"counts of shape \(4, 3\), .* found \(4, 2\)"):
        Annotated(**arguments(counts=counts[:, :2]))


def test_items_have_names():
    data = Annotated(**arguments(items=["u", "v", "w", "é"]))
    assert data.take([3, 1]).items.tolist() == ["é", "v"]
    with pytest.raises(ValueError, match="distinct names in items, found 'u' more than once"):
        Annotated(**arguments(items=["u", "v", "u", "v"]))
    with pytest.raises(ValueError, match="4 names in items, one for each item, found 1"):
        Annotated(**arguments(items=["u"]))


def test_annotations_without_features_are_not_fed_to_a_model():
    data = Annotated(**arguments(x=np.zeros((4, 0))))
    assert data.summary().items == 4
    with pytest.raises(ValueError, match="found annotations only"):
        data.batch()


def test_annotations_are_dropped_as_by_the_simulator():
    data, key = random_data(200), jax.random.key(3)
    dropped = data.drop_annotations(key, 0.5, at_least_one=True)
    np.testing.assert_array_equal(dropped.annotations, drop_annotations(key, data.annotations, 0.5, True))
    assert dropped.annotators == data.annotators
