"""The data container, its reader and writer, and the splits."""

import dataclasses
import io
import warnings
from collections import Counter
from itertools import combinations

import hypothesis.extra.numpy as hnp
import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.preprocessing import StandardScaler

from pl2d_ppl.data import Annotated, read_npz, split, standardise, write_npz
from pl2d_ppl.data.missing import drop_annotations

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


@pytest.fixture
def real(data_dir):
    return lambda name: read_npz(data_dir / f"{name}.npz")


# Container


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
        ({"y": [-1, -1, -1, -1]}, "truth of at least one item in y, found only -1"),
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


# Files


@pytest.mark.parametrize("part", ["whole", "split", "unannotated test"])
def test_round_trip(tmp_path, part):
    counts, names = np.arange(12).reshape(4, 3), ["u", "v", "w", "é"]
    data = Annotated(**arguments(coarse=[0, 0, 1, 1], group=["p", "p", "q", "q"], counts=counts, items=names))
    test = {
        "whole": None,
        "split": data.take([0, 1]),
        "unannotated test": data.take([0]).take([0]),
    }[part]
    if part == "unannotated test":
        test = dataclasses.replace(test, annotations=[[-1, -1]], subset=True)
    write_npz(tmp_path / "data.npz", data, test)
    first, second = read_npz(tmp_path / "data.npz")
    assert_same(first, data)
    assert (second is None) == (test is None)
    if second is not None:
        assert_same(second, test)
    assert [path.name for path in tmp_path.iterdir()] == ["data.npz"]


def test_round_trip_without_experts(tmp_path):
    data = Annotated(**arguments(annotations=np.zeros((4, 0)), annotators=()))
    write_npz(tmp_path / "data.npz", data, data)
    for part in read_npz(tmp_path / "data.npz"):
        assert_same(part, data)


def test_names_default_to_numbers(tmp_path):
    np.savez(
        tmp_path / "data.npz",
        x=np.zeros((2, 1)),
        y=[0, 1],
        annotations=[[0], [4]],
        x_test=[[1.0]],
        y_test=[6],
    )
    train, test = read_npz(tmp_path / "data.npz")
    assert train.classes == test.classes == tuple("0123456")
    assert train.annotators == test.annotators == ("expert_0",)
    assert test.annotations.tolist() == [[-1]]


def refusal(path):
    """Why a file is refused; None if it is not."""
    try:
        read_npz(path)
    except ValueError as error:
        return str(error)
    return None


def npz(**arrays):
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def npy():
    stream = io.BytesIO()
    np.save(stream, np.zeros(3))
    return stream.getvalue()


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (b"", "a readable .npz without pickled objects at .*data.npz, found"),
        (b"a,b\n1,2\n", "a readable .npz without pickled objects at .*data.npz, found"),
        (b"PK\x03\x04 and nothing more", "a readable .npz without pickled objects at .*data.npz, found"),
        (npy(), "found: a single .npy array"),
        (npz(), "found none. Add x"),
        (npz(webp=np.zeros(3)), "keys x, and y or votes or counts, in .*, found webp. Add x"),
        (
            npz(x_train=np.zeros(3)),
            "keys x_train, and y_train or votes_train or counts_train, in .*, found x_train. Add truth",
        ),
        (npz(x=np.zeros((2, 1)), y=[0, 1], x_test=np.zeros((2, 1))), "Add truth or votes"),
        (
            npz(x=np.zeros((2, 1)), y=np.array([0, "cat"], object)),
            "without pickled objects at .*, found: Object arrays",
        ),
        (npz(x=np.zeros((2, 1)), y=[0.0, 1.0]), "data.npz: Expected integer labels in y, found float64"),
        (npz(x=np.zeros((2, 1)), y=[0, 2**31]), "data.npz: Expected labels below 10000 .* found 2147483648"),
        (
            npz(x=np.zeros((1, 1)), y=[0], x_test=np.zeros((1, 1)), y_test=[-2]),
            "test part: Expected labels in -1..1, .* in y, found -2 at item 0",
        ),
    ],
)
def test_bad_files(tmp_path, contents, message):
    (tmp_path / "data.npz").write_bytes(contents)
    with pytest.raises(ValueError, match=message):
        read_npz(tmp_path / "data.npz")


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(ValueError, match=r"a file at .*, found none"):
        read_npz(tmp_path / "absent.npz")
    with pytest.raises(ValueError, match=r"a readable .npz"):
        read_npz(tmp_path)
    data = Annotated(**arguments())
    with pytest.raises(ValueError, match="existing folder"):
        write_npz(tmp_path / "absent" / "data.npz", data)
    with pytest.raises(ValueError, match="existing folder"):
        write_npz(tmp_path, data)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_damaged_file_is_a_value_error_or_valid(tmp_path_factory, data):
    """Truncate, or overwrite a byte: there is no other exception and no open file left behind."""
    whole = bytearray(npz(**arguments()))
    position = data.draw(st.integers(0, len(whole) - 1))
    if data.draw(st.booleans()):
        del whole[position:]
    else:
        whole[position] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.npz"
    path.write_bytes(whole)
    message = refusal(path)
    assert message is None or str(path) in message


def test_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path, data = tmp_path / "data.npz", Annotated(**arguments())
    write_npz(path, data)
    before = path.read_bytes()

    def full_disk(stream, **_):
        stream.write(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(np, "savez_compressed", full_disk)
    with pytest.raises(OSError, match="no space"):
        write_npz(path, data.take([0]))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_write_refuses_what_cannot_be_read(tmp_path):
    data = Annotated(**arguments())
    with pytest.raises(ValueError, match="a file without truth"):
        write_npz(tmp_path / "data.npz", data.take([3]))
    other = dataclasses.replace(data, annotators=("ann", "eve"))
    with pytest.raises(ValueError, match=r"test with the annotators of data, \('ann', 'bob'\), found"):
        write_npz(tmp_path / "data.npz", data, other)


# Splits


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
    assert "plainly random" in caplog.text


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


# Real data


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
