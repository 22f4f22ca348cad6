"""JSON files of annotations: what is read, against plain loops and paper A's own files; round trips; every message."""

import dataclasses
import json
import tarfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pl2d_ppl.data import Annotated, read_data, read_json, read_json_folder, write_data, write_json_files

FIELDS = ("x", "y", "annotations", "group", "coarse", "items", "classes", "annotators")


def assert_same(left, right):
    for field in FIELDS:
        np.testing.assert_array_equal(getattr(left, field), getattr(right, field), err_msg=field)


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def records(*pairs, **more):
    return [{"file": item, "label": label, **more} for item, label in pairs]


@pytest.fixture
def files(tmp_path):
    """A truth, and two people."""
    write(tmp_path / "truth.json", records(("a", 0), ("b", 1), ("c", None), ("d", 2)))
    write(tmp_path / "ann.json", records(("b", 1), ("a", 2)))
    write(tmp_path / "bob.json", records(("d", 0), ("c", None), ("e", 1)))
    return tmp_path


# --- what is read ---


def test_a_file_a_person(files):
    data = read_json(files / "truth.json", [files / "ann.json", files / "bob.json"])
    assert data.items.tolist() == list("abcde")
    assert data.annotators == ("ann", "bob")
    assert data.classes == ("0", "1", "2")
    assert data.y.tolist() == [0, 1, -1, 2, -1]
    assert data.annotations.tolist() == [[2, -1], [1, -1], [-1, -1], [-1, 0], [-1, 1]]
    named = read_json(files / "truth.json", {"Ann": files / "ann.json"}, classes=["3", "2", "1"])
    assert named.annotators == ("Ann",)
    assert named.classes == ("3", "2", "1")  # labels are places, whatever the names
    assert named.y.tolist() == [0, 1, -1, 2]
    assert_same(read_json_folder(files)[0], data)


def test_one_hot_lists(tmp_path):
    truth = write(tmp_path / "truth.json", records(("a", [0, 0, 1, 0]), ("b", [1.0, 0, 0, 0]), ("c", None)))
    ann = write(tmp_path / "ann.json", records(("c", 1), ("a", 2)))
    data = read_json(truth, [ann])
    assert data.classes == ("0", "1", "2", "3")  # as many as the lists are long
    assert data.y.tolist() == [2, 0, -1]
    assert data.annotations[:, 0].tolist() == [2, -1, 1]


def test_labels_may_be_names_and_keys_others(tmp_path):
    truth = write(tmp_path / "truth.json", [{"image": "a", "truth": "dog"}, {"image": "b", "truth": "cat"}])
    ann = write(tmp_path / "ann.json", [{"image": "b", "dx": "dog"}, {"image": "a", "dx": "owl"}])
    with pytest.raises(
        ValueError, match=r"ann.json: Expected records with keys for item and label, .* found image, dx"
    ):
        read_json(truth, [ann])
    ann = write(tmp_path / "ann.json", [{"image": "b", "label": "dog"}, {"image": "a", "label": "owl"}])
    data = read_json(truth, [ann])
    assert data.classes == ("cat", "dog", "owl")
    assert data.annotations[:, 0].tolist() == [2, 1]
    with pytest.raises(ValueError, match=r"among the classes 'cat', 'dog', found 1 unknown, .*: 'owl' 1\."):
        read_json(truth, [ann], classes=["cat", "dog"])


def test_without_truth(files):
    data = read_json(None, [files / "ann.json"])  # people's annotations are enough
    assert data.items.tolist() == ["b", "a"]
    assert (data.y < 0).all()
    with pytest.raises(ValueError, match="Expected a file of the truth or of a person, found none"):
        read_json(None, [])


def test_features_are_joined(files):
    np.savez(files / "x.npz", items=list("edcba"), x=np.arange(5.0)[:, None])
    assert read_json_folder(files, features=files / "x.npz")[0].x[:, 0].tolist() == [4, 3, 2, 1, 0]


def test_duplicates(tmp_path):
    truth = write(tmp_path / "truth.json", records(("a", 0), ("b", 1), ("a", 0)))
    ann = write(tmp_path / "ann.json", records(("a", 0), ("a", 1), ("b", 1), ("a", 1), ("b", 1)))
    with pytest.raises(
        ValueError, match=r"Expected one label of a person for an item, found several .such cases: 1.* of 'ann' for 'a'"
    ):
        read_json(truth, [ann])
    for rule, label in (("first", 0), ("last", 1), ("majority", 1)):
        assert read_json(truth, [ann], duplicates=rule).annotations[:, 0].tolist() == [label, 1]
    write(truth, records(("a", 0), ("a", 1)))
    with pytest.raises(ValueError, match=r"Expected the same truth .* found '0' and '1' for 'a'"):
        read_json(truth, [])


# --- paper A's own files ---


@pytest.fixture(scope="module")
def chaoyang(tmp_path_factory, data_dir):
    archive = data_dir / "chaoyang" / "annotations.tar.gz"
    if not archive.exists():
        pytest.skip(f"no {archive}")
    folder = tmp_path_factory.mktemp("chaoyang")
    with tarfile.open(archive) as file:
        file.extractall(folder, filter="data")
    return folder


def test_chaoyang(chaoyang):
    """As the README of the data tells, and against loops over the files."""
    train, test = read_data(chaoyang)
    assert (train.num_items, test.num_items) == (4103, 2057)
    assert train.annotators == test.annotators == ("A", "B", "C")
    assert train.num_categories == 4
    for part, data in (("train", train), ("test", test)):
        for name in ("", "A", "B", "C"):
            path = chaoyang / (f"label_{name}_{part}.json" if name else f"{part}.json")
            said = {row["file"]: row["label"] for row in json.loads(path.read_text())}
            column = data.annotations[:, data.annotators.index(name)] if name else data.y
            assert said == dict(zip(data.items.tolist(), column.tolist(), strict=True))


def test_chaoyang_with_missing_annotations(chaoyang):
    train, test = read_data(chaoyang, variant="0.5", people=["A", "B"])
    assert train.summary().per_item[0] == 1062
    assert train.annotators == ("A", "B")
    assert (test.annotations >= 0).all()
    with pytest.raises(
        ValueError, match=r"Expected label_NAME_train_0.4.json in .*, found endings 0.3, 0.5, 0.7. Choose"
    ):
        read_data(chaoyang, variant="0.4")
    with pytest.raises(ValueError, match=r"a file in .* for everybody in people, found A, B, C, and not D"):
        read_data(chaoyang, people=["A", "D"])
    with pytest.raises(ValueError, match=r"items of .*train.json in .*label_A_test.json, found none of them"):
        read_json(chaoyang / "train.json", [chaoyang / "label_A_test.json"])


# --- round trips ---

letters = st.characters(exclude_categories=("Cs", "Cc")) | st.sampled_from('",;\n\\/%_.')
names = st.text(letters, min_size=1, max_size=6).filter(lambda name: name.strip())


@st.composite
def datasets(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    num_items, num_people, num_classes = draw(st.tuples(st.integers(2, 6), st.integers(0, 3), st.integers(2, 4)))
    people = draw(st.lists(names, min_size=num_people, max_size=num_people, unique_by=lambda n: n.strip().casefold()))
    classes = draw(st.lists(names, min_size=num_classes, max_size=num_classes, unique=True))
    annotations = rng.integers(-1, num_classes, (num_items, num_people))
    y = rng.integers(-1, num_classes, num_items)
    y[0] = max(y[0], 0)
    with_group = draw(st.booleans())
    return Annotated(
        np.zeros((num_items, 0)),
        y,
        annotations,
        group=np.array([f"g{i % 2}" for i in range(num_items)]) if with_group else None,
        coarse=None if with_group else rng.integers(0, 3, num_items),
        items=draw(st.lists(names, min_size=num_items, max_size=num_items, unique=True)),
        classes=classes,
        annotators=people,
        subset=True,
    )


@pytest.mark.filterwarnings("ignore:the people")  # random names may be of one form
@given(data=datasets(), with_test=st.booleans())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_round_trip(tmp_path, data, with_test):
    last = data.num_items - 1
    parts = (data.take(range(last)), data.take([last])) if with_test else (data, None)
    write_data(tmp_path / "folder", *parts)
    for part, back in zip(parts, read_data(tmp_path / "folder", subset=True), strict=True):
        assert (part is None) == (back is None)
        if part is not None:
            assert_same(back, part)


def test_an_older_folder_is_replaced_and_another_one_kept(files, tmp_path):
    data, _ = read_json_folder(files)
    write_json_files(tmp_path / "new", data.select_people(["ann"]))
    write_json_files(tmp_path / "new", data)
    assert_same(read_json_folder(tmp_path / "new")[0], data)
    (tmp_path / "new" / "names.json").unlink()
    with pytest.raises(ValueError, match="found something else, which is kept"):
        write_json_files(tmp_path / "new", data)


def test_what_json_files_cannot_hold(files, tmp_path):
    data, _ = read_json_folder(files)
    votes = dataclasses.replace(data, counts=np.ones((5, 3), int))
    with pytest.raises(ValueError, match="no anonymous votes"):
        write_json_files(tmp_path / "new", votes)
    with pytest.raises(ValueError, match="File name too long"):
        write_json_files(tmp_path / "new", dataclasses.replace(data, annotators=("a", "b" * 300)))
    with pytest.raises(ValueError, match="found ' ' in annotators"):
        write_json_files(tmp_path / "new", dataclasses.replace(data, annotators=("a", " ")))
    assert not (tmp_path / "new").exists()
    with pytest.warns(UserWarning, match="found .*new, which holds no features"):
        write_json_files(tmp_path / "new", dataclasses.replace(data, x=np.zeros((5, 1))))


# --- what is refused ---


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "JSON in .*bad.json, found an empty file"),
        ("[1, 2", r"JSON in .*bad.json, found: .* line 1 column 6"),
        ('{"file": 1}', "a list of records, .* in .*bad.json, found something else"),
        ("[3]", "a list of records, .* in .*bad.json, found something else"),
        ("[" * 100_000, r"found lists within lists|Expected JSON in"),
        ([{"name": "a"}], "keys for item and label, such as file and label, found name"),
        ([*records(("a", 0)), {"file": "b"}], 'the key \'label\' in every record, found {"file": "b"} as record 1'),
        ([*records(("a", 0)), 5], "the key 'file' in every record, found 5 as record 1"),
        (records(("a", 0), (["b"], 1)), r"one of str, int for the key 'file', found \[\"b\"\] in record 1"),
        (records(("a", 0), (" ", 1)), "every record to name its item, found none in record 1"),
        (
            records(("a", 0), ("b", True)),
            "one of int, float, str, list, null for the key 'label', found true in record 1",
        ),
        (records(("a", 0), ("b", {"c": 1})), "one of .* for the key 'label', found {\"c\": 1} in record 1"),
        (records(("a", 0), ("b", "cat")), "labels of one kind, found index and name"),
        (records(("a", [0, 1]), ("b", 1)), "labels of one kind, found index and one-hot list"),
        (
            records(("a", [0, 1]), ("b", [1, 1])),
            r"a single 1 among 2 numbers, the others 0, .* found \[1, 1\] in record 1",
        ),
        (records(("a", [0, 1]), ("b", [0, 0])), r"found \[0, 0\] in record 1"),
        (records(("a", [0, 1]), ("b", [0, 0, 1])), r"found \[0, 0, 1\] in record 1"),
        (records(("a", [0, 1]), ("b", ["x", 0])), r"found \[\"x\", 0\] in record 1"),
        (records(("a", [0, 1]), ("b", [0.5, 0.5])), r"found \[0.5, 0.5\] in record 1"),
        (records(("a", 0), ("b", -2)), "numbers in 0..9999, or -1 where missing, found -2"),
        (records(("a", 0), ("b", 2**70)), "labels that are indices from 0, found"),
        ([{"file": "a", "label": 0, "group": None}], "one of str, int for the key 'group', found null in record 0"),
    ],
)
def test_bad_files(tmp_path, content, message):
    write(tmp_path / "bad.json", content)
    with pytest.raises(ValueError, match=message):
        read_json(tmp_path / "bad.json", [])


def test_bad_bytes_and_paths(tmp_path, files):
    (tmp_path / "bad.json").write_bytes('[{"file": "é"}]'.encode("latin-1"))
    with pytest.raises(ValueError, match=r"UTF-8 text in .*bad.json, found byte 0xe9 in line 1 \(byte 11 .*iconv"):
        read_json(tmp_path / "bad.json", [])
    (tmp_path / "bad.json").write_bytes(b"\xef\xbb\xbf" + (files / "truth.json").read_bytes())
    assert read_json(tmp_path / "bad.json", []).num_items == 4  # a byte-order mark
    with pytest.raises(ValueError, match=r"a file at .*no.json, found none"):
        read_json(tmp_path / "no.json", [])
    with pytest.raises(ValueError, match="a file that can be read at"):
        read_json(tmp_path, [])
    with pytest.raises(ValueError, match="distinct names in people, found 'ann' more than once"):
        read_json(files / "truth.json", [files / "ann.json", files / ".." / files.name / "ann.json"])
    with pytest.raises(ValueError, match=r"lists of 3 numbers in .*, for a, b, c, found 2"):
        read_json(write(tmp_path / "hot.json", records(("a", [0, 1]))), [], classes="a b c".split())
    write(tmp_path / "names.json", {"classes": [1, 2]})
    with pytest.raises(ValueError, match=r"Expected {.*} in .*names.json, found something else"):
        read_json_folder(tmp_path)
