"""Tables of annotations: what is read, against plain loops."""

import csv
import os
import warnings
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cases.tables import LONG, SLOW, assert_same, table, text
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image

from pl2d_ppl.data import (
    read_data,
    read_table,
    write_netcdf,
    write_npz,
)


def test_a_long_table(tmp_path):
    data = table(tmp_path, *LONG)
    assert data.items.tolist() == ["a", "b", "c"]
    assert data.annotators == ("ann", "bob")
    assert data.classes == ("cat", "dog")
    assert data.annotations.tolist() == [[0, 1], [1, -1], [-1, -1]]
    assert data.y.tolist() == [0, 1, 0]
    assert data.x.shape == (3, 0)


@pytest.mark.parametrize(
    "header",
    [
        "Item_ID,WorkerId,Annotation,Gold",
        "image, rater ,response,y",
        "FILE,Reader Name,category,true label",
        "id,coder,answer,truth",
    ],
)
def test_columns_have_many_names(tmp_path, header):
    assert_same(table(tmp_path, header, *LONG[1:]), table(tmp_path, *LONG))


def test_columns_may_be_named(tmp_path):
    rows = ("img,who,dx,item,y", "a,ann,cat,7,0", "b,bob,dog,8,1")
    data = table(
        tmp_path, *rows, columns={"item": "img", "annotator": "who", "label": "dx", "truth": None}, subset=True
    )
    assert data.items.tolist() == ["a", "b"]
    assert (data.y == -1).all()


@pytest.mark.parametrize("missing", ["", "NA", "nan", "-1", " ", "null", "-1.0", "?"])
def test_missing_labels(tmp_path, missing):
    rows = [line.replace("c,bob,,cat", f"c,bob,{missing},cat") for line in LONG]
    assert_same(table(tmp_path, *rows, missing=["?"]), table(tmp_path, *LONG))
    assert table(tmp_path, "item,annotator,label", "a,m,NA", "b,m,x", classes=["x", "NA"], subset=True).y.size == 2


def test_none_is_something_that_is_seen(tmp_path):
    data = table(tmp_path, "item,annotator,label", "a,m,None", "b,m,lesion", subset=True)
    assert data.classes == ("None", "lesion")
    assert (data.annotations >= 0).all()


def test_integers_are_categories(tmp_path):
    data = table(tmp_path, "item,annotator,label,truth", "a,10,3.0,1", "a,9,-1,1", "b,9,0,")
    assert data.classes == ("0", "1", "2", "3")
    assert data.annotators == ("9", "10")  # as numbers
    assert data.annotations.tolist() == [[-1, 3], [0, -1]]
    assert data.y.tolist() == [1, -1]


def test_integers_may_be_places_among_the_classes(tmp_path):
    rows = ("item,annotator,label", "a,m,0", "b,m,2")
    assert table(tmp_path, *rows, classes=["x", "y", "z"], subset=True).annotations.tolist() == [[0], [2]]
    # Names that are numbers are names.
    assert table(tmp_path, *rows, classes=["2", "1", "0"], subset=True).annotations.tolist() == [[2], [0]]
    with pytest.raises(ValueError, match=r"among the classes '1', '2', found 1 unknown, .*: '0' 1\."):
        table(tmp_path, *rows, classes=["1", "2"], subset=True)


def test_a_wide_table(tmp_path):
    data = table(tmp_path, "item,truth,group,ann,bob,x_0,x_1", "a,cat,1,cat,dog,.5,1", "b,,1,dog,,-2,1e3")
    assert data.annotators == ("ann", "bob")
    assert data.annotations.tolist() == [[0, 1], [1, -1]]
    assert data.y.tolist() == [0, -1]
    assert data.group.tolist() == [1, 1]
    np.testing.assert_array_equal(data.x, np.array([[0.5, 1], [-2, 1000]], np.float32))


def test_a_wide_table_of_some_people_without_items(tmp_path):
    rows = ("ann,bob,comment,truth,f1", "cat,dog,hm,cat,1", "dog,,ho,dog,2")
    data = table(tmp_path, *rows, people=["bob", "ann"], feature_prefix="f")
    assert data.items is None
    assert data.annotations.tolist() == [[1, 0], [-1, 1]]
    assert data.x.tolist() == [[1], [2]]


def test_a_table_of_counts(tmp_path):
    rows = ("item,truth,dog,cat", "a,cat,1,3", "b,dog,2,", "c,,0,0.0")
    data = table(tmp_path, *rows)  # the truth speaks of the columns
    assert data.classes == ("dog", "cat")
    assert data.counts.tolist() == [[1, 3], [2, 0], [0, 0]]
    assert data.y.tolist() == [1, 0, -1]
    assert data.num_experts == 0
    rows = ("item,dog,cat", "a,1,3", "b,2,0")
    for options in ({"layout": "counts"}, {"classes": ["dog", "cat"]}):
        assert table(tmp_path, *rows, **options).counts.tolist() == [[1, 3], [2, 0]]
    assert table(tmp_path, *rows, layout="counts", classes=["cat", "dog"]).counts.tolist() == [[3, 1], [0, 2]]


def test_a_wide_table_with_votes(tmp_path):
    data = table(tmp_path, "item,ann,votes_dog,votes_cat", "a,cat,1,3", "b,dog,2,0")
    assert data.classes == ("dog", "cat")
    assert data.annotations.tolist() == [[1], [0]]
    assert data.counts.tolist() == [[1, 3], [2, 0]]


def test_whole_numbers_without_a_gap_are_not_guessed(tmp_path):
    rows = ("item,ann,bob", "a,1,3", "b,2,0")
    with pytest.raises(
        ValueError,
        match=r'labels or of numbers of votes, .* of ann, bob, which may be either. Say which: layout="wide"',
    ):
        table(tmp_path, *rows)
    assert table(tmp_path, *rows, layout="wide", subset=True).num_experts == 2
    assert table(tmp_path, "item,rater1,rater2", *rows[1:], subset=True).num_experts == 2
    assert table(tmp_path, *rows, people=["ann"], subset=True).num_experts == 1
    assert table(tmp_path, *rows, "c,,1", subset=True).num_experts == 2  # a gap


def test_parts(tmp_path):
    (tmp_path / "d.csv").write_text(
        text("item,annotator,label,truth,split", "a,m,0,1,train", "b,m,1,0,Test", "c,m,1,,train")
    )
    train, test = read_table(tmp_path / "d.csv")
    assert train.items.tolist() == ["a", "c"]
    assert test.items.tolist() == ["b"]
    assert test.annotations.tolist() == [[1]]
    assert test.classes == train.classes


def test_truth_of_another_table(tmp_path):
    (tmp_path / "truth.csv").write_text(text("file,label", "b,dog", "d,cat", "a,cat"))
    rows = ("item,annotator,label", "a,m,dog", "b,m,dog", "c,m,cat")
    with pytest.warns(
        UserWarning, match=r"found 1 of 3 items of .*truth.csv that are none of .*, such as 'd': .* added"
    ):
        data = table(tmp_path, *rows, truth=tmp_path / "truth.csv")
    assert data.items.tolist() == ["a", "b", "c", "d"]  # d was annotated by nobody
    assert data.y.tolist() == [0, 1, -1, 0]
    assert data.annotations[:, 0].tolist() == [1, 1, 0, -1]
    with pytest.warns(UserWarning, match="found 1 of 3 items of .*, such as 'd': they are left out"):
        wide = table(tmp_path, "item,m", "a,dog", "b,dog", "c,cat", truth=tmp_path / "truth.csv")
    assert wide.y.tolist() == [0, 1, -1]
    (tmp_path / "other.csv").write_text(text("item,truth", "a.png,dog"))
    with pytest.raises(ValueError, match=r"items of .*data.csv in .*other.csv, found none of them: 'a.png' .*'a'"):
        table(tmp_path, *rows, truth=tmp_path / "other.csv")
    (tmp_path / "other.csv").write_text(text("item,value", "a,dog"))
    with pytest.raises(ValueError, match=r"columns for item and truth in .*, found item, value. Rename"):
        table(tmp_path, *rows, truth=tmp_path / "other.csv")


@pytest.mark.parametrize("ending", [".npz", ".csv", ".parquet"])
def test_features_are_joined_by_name(tmp_path, ending):
    path, names, x = tmp_path / f"x{ending}", ["c", "zz", "b", "a"], np.arange(8.0).reshape(4, 2)
    if ending == ".npz":
        np.savez(path, items=names, x=x)
    elif ending == ".csv":
        path.write_text(text("image,f,g", *(f"{n},{a},{b}" for n, (a, b) in zip(names, x, strict=True))))
    else:
        pq.write_table(pa.table({"item": names, "note": ["", "p", "q", "r"], "x_0": x[:, 0], "x_1": x[:, 1]}), path)
    assert table(tmp_path, *LONG, features=path).x.tolist() == [[6, 7], [4, 5], [0, 1]]
    with pytest.raises(
        ValueError, match=r"features of every item in .*, found none of 1 of 4, such as 'd' \(its own are called 'c'"
    ):
        table(tmp_path, *LONG, "d,ann,cat,", features=path)


def test_images_are_joined_by_name_and_are_lazy(tmp_path):
    folder = tmp_path / "images"
    (folder / "p").mkdir(parents=True)
    for name, grey in (("a.png", 10), ("b.PNG", 20), ("p/c.bmp", 30)):
        Image.new("L", (2, 3), grey).save(folder / name)
    rows = ("item,annotator,label", "c,m,x", "a.png,m,y", "elsewhere/b.PNG,m,y")
    data = table(tmp_path, *rows, features=folder, subset=True)
    assert data.is_lazy
    assert [int(data.x[i].flat[0]) for i in range(3)] == [30, 10, 20]
    with pytest.raises(ValueError, match=r"features of every item in .*, found none of 1 of 4, such as 'd'"):
        table(tmp_path, *rows, "d,m,x", features=folder, subset=True)
    with pytest.raises(ValueError, match=r"an image of each item in .*, found p/c.bmp for 'c' and 'c.bmp'"):
        table(tmp_path, *rows, "c.bmp,m,x", features=folder, subset=True)
    Image.new("L", (2, 3)).save(folder / "c.png")
    with pytest.raises(ValueError, match=r"one image of 'c' in .*, found c.png and p/c.bmp. Name items by their paths"):
        table(tmp_path, *rows, features=folder, subset=True)


def loops(path, duplicates):
    """Read a long table with the csv module and dictionaries."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file)]
    items, said, truth = {}, {}, {}
    for row in rows:
        items.setdefault(row["item"], len(items))
        if row["truth"]:
            truth[row["item"]] = row["truth"]
        if row["label"]:
            said.setdefault((row["item"], row["annotator"]), []).append(row["label"])
    people = sorted({row["annotator"] for row in rows})
    classes = sorted({label for labels in said.values() for label in labels} | set(truth.values()))
    choose = {"first": lambda v: v[0], "last": lambda v: v[-1], "majority": lambda v: Counter(v).most_common(1)[0][0]}
    chosen = {pair: classes.index(choose[duplicates](labels)) for pair, labels in said.items()}
    matrix = [[chosen.get((item, person), -1) for person in people] for item in items]
    return list(items), people, classes, matrix, [classes.index(truth[i]) if i in truth else -1 for i in items]


@given(
    rows=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2), st.integers(-1, 2)), min_size=1, max_size=40),
    truth=st.lists(st.integers(-1, 2), min_size=5, max_size=5),
    duplicates=st.sampled_from(["first", "last", "majority"]),
)
@SLOW
def test_a_long_table_is_what_loops_make_of_it(tmp_path, rows, truth, duplicates):
    names = ("éclair", 'a "quoted", one', "x")
    path = tmp_path / "loops.csv"
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["item", "annotator", "label", "truth"])
        for i, m, c in rows:
            writer.writerow([f"item {i}", f"p{m}", *(names[v] if v >= 0 else "" for v in (c, truth[i]))])
    items, people, classes, matrix, y = loops(path, duplicates)
    assume(len(classes) > 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that somebody is silent
        data, _ = read_table(path, duplicates=duplicates, subset=True)
    assert (data.items.tolist(), list(data.annotators), list(data.classes)) == (items, people, classes)
    assert (data.annotations.tolist(), data.y.tolist()) == (matrix, y)


def test_a_tie_of_the_majority_goes_to_what_came_first(tmp_path):
    rows = ("item,annotator,label", "a,m,dog", "a,m,cat", "a,m,cat", "a,m,dog", "b,m,cat", "b,m,owl", "b,m,owl")
    data = table(tmp_path, *rows, duplicates="majority", subset=True)
    assert [data.classes[c] for c in data.annotations[:, 0]] == ["dog", "owl"]
    with pytest.raises(
        ValueError,
        match=r"found several .such cases: 2., such as 'cat' and 'dog' of 'm' for 'a'. Choose .*duplicates=\"first\"",
    ):
        table(tmp_path, *rows, subset=True)
    same = table(tmp_path, *rows[:2], rows[1], "b,m,cat", subset=True)  # the same again is no conflict
    assert same.annotations.tolist() == [[1], [0]]
    with pytest.raises(ValueError, match=r'duplicates "error", "first", .* found \'never\''):
        table(tmp_path, *rows, duplicates="never", subset=True)


@pytest.mark.parametrize(
    "content",
    [
        "\ufeff" + text(*LONG),
        text(*LONG).replace("\n", "\r\n"),
        text(*LONG).replace("b,ann", "\nb,ann").replace("dog,dog\n", "dog,dog\r\n"),
        text(*LONG).replace("\n", "\r"),
        text(*LONG).rstrip("\n"),
        "\n\n" + text(*LONG),
        text(*LONG).replace(",", ";"),
        text(*LONG).replace(",", "\t"),
        text(*(",".join(f'"{field}"' for field in line.split(",")) for line in LONG)),
    ],
    ids=["BOM", "CRLF", "mixed", "CR", "no last line end", "empty lines", "semicolons", "tabs", "quotes"],
)
def test_files_as_programs_write_them(tmp_path, content):
    (tmp_path / "as.txt").write_bytes(content.encode())
    assert_same(read_data(tmp_path / "as.txt")[0], table(tmp_path, *LONG))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "latin-1"])
def test_other_encodings(tmp_path, encoding):
    lines = [line.replace("ann,", "Zoë,") for line in LONG]
    (tmp_path / "other.csv").write_bytes(text(*lines).encode(encoding))
    known = {} if encoding == "utf-16" else {"encoding": encoding}  # its byte-order mark tells
    assert_same(read_table(tmp_path / "other.csv", **known)[0], table(tmp_path, *lines))


def test_line_ends_within_quotes(tmp_path):
    data = table(tmp_path, 'item,"annotator",label,comment', 'a,m,x,"one,\n""two"""', "b,m,y,", subset=True)
    assert data.items.tolist() == ["a", "b"]


def test_columns_of_parquet_have_types(tmp_path):
    columns = {
        "item": pa.array([7, 8, 8]),
        "annotator": pa.array(["m", "m", "n"]).dictionary_encode(),
        "label": pa.array([1.0, None, float("nan")]),
        "truth": pa.array([True, False, False]),
    }
    pq.write_table(pa.table(columns), tmp_path / "typed.parquet")
    data, _ = read_table(tmp_path / "typed.parquet", columns={"truth": None}, subset=True)
    assert data.items.tolist() == ["7", "8"]
    assert data.annotations.tolist() == [[1, -1], [-1, -1]]
    os.rename(tmp_path / "typed.parquet", tmp_path / "no_ending")
    assert_same(read_data(tmp_path / "no_ending", columns={"truth": None}, subset=True)[0], data)
    pq.write_table(pa.table({**columns, "label": [[1], [2], [3]]}), tmp_path / "lists.parquet")
    with pytest.raises(ValueError, match="column 'label': Expected text or integers, found list<"):
        read_table(tmp_path / "lists.parquet")


def test_formats_are_known_by_how_they_begin(tmp_path):
    data = table(tmp_path, *LONG)
    write_npz(tmp_path / "d.npz", data)
    write_netcdf(tmp_path / "d.nc", data)
    for name in ("d.npz", "d.nc"):
        os.rename(tmp_path / name, tmp_path / "d.part")
        assert_same(read_data(tmp_path / "d.part")[0], data)
