"""Tables of annotations, and netCDF: what is read, against plain loops; round trips; every message."""

import csv
import dataclasses
import os
import unicodedata
import warnings
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xarray as xr
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from pl2d_ppl.data import (
    Annotated,
    from_dataset,
    read_data,
    read_netcdf,
    read_table,
    to_dataset,
    write_data,
    write_netcdf,
    write_npz,
    write_table,
)
from pl2d_ppl.data.tables.columns import is_taken
from pl2d_ppl.data.tables.names import MISSING, Coded, number_labels
from pl2d_ppl.data.tables.repeats import place

FIELDS = ("x", "y", "annotations", "group", "coarse", "counts", "items", "classes", "annotators")
SLOW = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def assert_same(left, right, *, but=()):
    for field in set(FIELDS) - set(but):
        np.testing.assert_array_equal(getattr(left, field), getattr(right, field), err_msg=field)
        if isinstance(getattr(right, field), np.ndarray):
            assert getattr(left, field).dtype.kind == getattr(right, field).dtype.kind, field


def text(*lines):
    return "\n".join(lines) + "\n"


def table(tmp_path, *lines, name="data.csv", **options):
    """Write lines, and read them."""
    (tmp_path / name).write_text(text(*lines), encoding="utf-8")
    return read_table(tmp_path / name, **options)[0]


LONG = ("item,annotator,label,truth", "a,ann,cat,cat", "a,bob,dog,cat", "b,ann,dog,dog", "c,bob,,cat")


# --- what is read ---


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
    data = table(tmp_path, *rows, truth=tmp_path / "truth.csv")
    assert data.items.tolist() == ["a", "b", "c", "d"]  # d was annotated by nobody
    assert data.y.tolist() == [0, 1, -1, 0]
    assert data.annotations[:, 0].tolist() == [1, 1, 0, -1]
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


# --- against plain loops ---


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


# --- round trips ---

# Whatever people call things: with commas, quotes and line ends, and no control characters otherwise.
letters = st.characters(exclude_categories=("Cs", "Cc")) | st.sampled_from("\",;\n\r\t'é’")
names = st.text(letters, min_size=1, max_size=6).filter(lambda name: name.strip() and name.strip() not in MISSING)


def form(name):
    """Names of one form differ by case, blanks or Unicode form only."""
    return " ".join(unicodedata.normalize("NFKC", name).casefold().split())


@st.composite
def datasets(draw, votes=False, features=True, no_people=True):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    sizes = draw(st.tuples(st.integers(1, 6), st.integers(0 if no_people else 1, 4), st.integers(2, 4)))
    num_items, num_people, num_classes = sizes
    lists = [st.lists(names, min_size=n, max_size=n, unique_by=form) for n in (num_people, num_classes)]
    people, classes = (draw(some) for some in lists)
    items = draw(st.lists(names, min_size=num_items, max_size=num_items, unique=True))
    annotations = np.where(rng.random(sizes[:2]) < draw(st.floats(0, 1)), -1, rng.integers(0, num_classes, sizes[:2]))
    y = rng.integers(-1, num_classes, num_items)
    y[0] = max(y[0], 0)
    optional = draw(st.tuples(st.booleans(), st.booleans(), st.booleans()))
    group = rng.integers(-3, 3, num_items) if optional[0] else np.array([f"g {i % 2}" for i in range(num_items)])
    return Annotated(
        rng.normal(size=(num_items, 2 if features and optional[2] else 0)),
        y,
        annotations,
        group=group if optional[1] else None,
        coarse=rng.integers(0, 3, num_items) if optional[2] else None,
        counts=rng.integers(0, 4, (num_items, num_classes)) + (np.arange(num_items) == 0)[:, None] if votes else None,
        items=items,
        classes=classes,
        annotators=people,
        subset=True,  # people may be silent
    )


def divided(data, with_test):
    """One part, or two."""
    if not with_test or data.num_items < 2:
        return data, None
    return data.take(range(data.num_items - 1)), data.take([data.num_items - 1])


@given(data=datasets(features=False), ending=st.sampled_from([".csv", ".tsv", ".parquet"]), with_test=st.booleans())
@SLOW
def test_round_trip_of_long_tables(tmp_path, data, ending, with_test):
    path, parts = tmp_path / f"long{ending}", divided(data, with_test)
    write_table(path, *parts)
    known = {} if ending == ".parquet" else {"classes": data.classes, "people": data.annotators}
    for part, back in zip(parts, read_data(path, subset=True, **known), strict=True):
        assert (part is None) == (back is None)
        if part is not None:
            assert_same(back, part)


@given(
    data=datasets(), votes=datasets(votes=True), ending=st.sampled_from([".csv", ".parquet"]), with_test=st.booleans()
)
@SLOW
def test_round_trip_of_wide_tables(tmp_path, data, votes, ending, with_test):
    for whole in (data, votes):
        path, parts = tmp_path / f"wide{ending}", divided(whole, with_test)
        if any(map(is_taken, whole.annotators)):
            with pytest.raises(ValueError, match="not read as something else, found a person called"):
                write_table(path, *parts, layout="wide")
            continue
        write_table(path, *parts, layout="wide")
        known = {} if ending == ".parquet" else {"classes": whole.classes, "people": whole.annotators, "layout": "wide"}
        for part, back in zip(parts, read_table(path, subset=True, **known), strict=True):
            if part is not None:
                assert_same(back, part)


@given(data=datasets(votes=True), ending=st.sampled_from([".csv", ".parquet"]))
@SLOW
def test_round_trip_of_counts(tmp_path, data, ending):
    data = data.select_people([])
    write_data(tmp_path / f"counts{ending}", data)
    assert_same(read_data(tmp_path / f"counts{ending}")[0], data)


@given(data=datasets(votes=True), with_test=st.booleans())
@settings(SLOW, max_examples=15)
def test_round_trip_of_netcdf(tmp_path, data, with_test):
    parts = divided(data, with_test)
    write_data(tmp_path / "data.nc", *parts)
    for part, back in zip(parts, read_data(tmp_path / "data.nc", subset=True), strict=True):
        if part is not None:
            assert_same(back, part)
    assert_same(from_dataset(to_dataset(data), subset=True), data)


def test_features_travel_in_a_file_of_their_own(tmp_path):
    data = dataclasses.replace(table(tmp_path, *LONG), x=np.arange(12.0).reshape(3, 2, 2))
    write_data(tmp_path / "d.csv", data, features=tmp_path / "x.npz")
    assert_same(read_data(tmp_path / "d.csv", features=tmp_path / "x.npz")[0], data)
    for layout in ("long", "wide"):
        with pytest.warns(
            UserWarning, match=r"found .*d.csv, which holds no features. Write them beside it, features=FILE.npz"
        ) as caught:
            write_data(tmp_path / "d.csv", data, layout=layout)
        assert caught[0].filename == __file__
    with pytest.raises(ValueError, match=r"an .npz to write features to, found .*x.csv"):
        write_data(tmp_path / "d.csv", data, features=tmp_path / "x.csv")


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    data = table(tmp_path, *LONG)
    before = (tmp_path / "data.csv").read_bytes()

    def fail(*_, **__):
        raise RuntimeError("the disk is full")

    monkeypatch.setattr("pyarrow.csv.write_csv", fail)
    with pytest.raises(RuntimeError):
        write_data(tmp_path / "data.csv", data)
    assert [path.name for path in tmp_path.iterdir()] == ["data.csv"]
    assert (tmp_path / "data.csv").read_bytes() == before


def test_dimensions_have_names(tmp_path):
    dataset = to_dataset(table(tmp_path, *LONG))
    assert dataset["annotations"].sel(item="a", expert="bob") == 1
    assert dataset["category"].to_numpy().tolist() == ["cat", "dog"]
    assert_same(from_dataset(dataset.transpose("category", "expert", ...)), table(tmp_path, *LONG))
    with pytest.raises(ValueError, match="Expected annotations along item, expert, found item, person"):
        from_dataset(dataset.rename(expert="person"))
    with pytest.raises(ValueError, match="the coordinate category, found x, y"):
        from_dataset(dataset[["x", "y"]].drop_vars("category", errors="ignore").drop_dims("category", errors="ignore"))


def test_netcdf_that_is_none(tmp_path):
    (tmp_path / "a.nc").write_bytes(b"\x89HDF\r\n\x1a\n and no more")
    with pytest.raises(ValueError, match=r"netCDF that can be read at .*a.nc, found"):
        read_data(tmp_path / "a.nc")
    with pytest.raises(ValueError, match=r"a file at .*b.nc, found none"):
        read_data(tmp_path / "b.nc")
    xr.Dataset({"z": ("item", [1, 2])}).to_netcdf(tmp_path / "c.nc", engine="h5netcdf")
    with pytest.raises(ValueError, match=r"c.nc: Expected y, annotations or counts, .* found z"):
        read_netcdf(tmp_path / "c.nc")
    data = dataclasses.replace(table(tmp_path, *LONG), x=np.zeros((3, 1)))
    write_netcdf(tmp_path / "d.nc", data)
    assert_same(read_netcdf(tmp_path / "d.nc")[0], data)


# --- files as they come ---


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


# --- what is refused ---


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "in .*bad.csv, found an empty file"),
        (b"\xef\xbb\xbf \n\n", "in .*bad.csv, found an empty file"),
        (b"item,annotator,label\n", "rows in .*bad.csv, found a header only"),
        (
            b"item,annotator,label\na,m\nb,m,x\n",
            r"3 fields in every row of .*bad.csv, .* found 2 in row 2: 'a,m' \(such rows: 1\)",
        ),
        (b"item,annotator,label\na,m,x\nb,m,x, y\nc\n", r"found 4 in row 3: 'b,m,x, y' \(such rows: 2\)\. .* quotes"),
        (
            b"item,annotator,label\na,m,x\nb,Zo\xeb,y\n",
            r"UTF-8 text in .*bad.csv, found byte 0xeb in line 3 \(byte 31 .*iconv",
        ),
        (b"item,annotator,lab\xeb\na,m,x\n", r"UTF-8 text in .*bad.csv, found byte 0xeb in line 1 \(byte 18"),
        (b"item,item,label\na,m,x\n", "columns of different names in .*bad.csv, found 'item' more than once"),
        (b"item,Item,label,worker\na,m,x,p\n", "one column for the item, found 'item' and 'Item'. Choose"),
        (b"item,worker,verdict\na,m,x\n", "columns for label beside 'worker', found item, worker, verdict. Say"),
        (b"worker,label,text\na,m,x\n", "columns for item beside 'worker', found worker, label, text"),
        (
            b"item,worker,label\n,m,x\n ,m,x\n",
            "every row to name its item, found none in row 1 below the header and 1 more",
        ),
        (
            b"item,worker,label\na,m,x\nb,,y\n",
            "every label to have its annotator, found none in row 2 below the header",
        ),
        (b"item,worker,label\na,m,\nb,n,NA\n", "Expected labels, found none: every one is missing"),
        (b"item,worker,label\na,m,x\nb,n,x\n", r"bad.csv: Expected at least 2 categories in classes, found \('x',\)"),
        (b"item,worker,label\na,m,-2\nb,n,1\n", "numbers in 0..9999, or -1 where missing, found -2"),
        (b"item,worker,label\na,m,0\nb,n,123456\n", "numbers in 0..9999, .* found 123456"),
        (
            b"item,worker,label,truth\na,m,x,x\na,n,y,y\nb,m,x,y\nb,n,x,x\n",
            "the same truth .* 'x' and 'y' for 'a' .such items: 2",
        ),
        (b"item,worker,label,group\na,m,x,1\na,n,y,2\n", "the same group .* '1' and '2' for 'a'"),
        (
            b"item,worker,label,group\na,m,x,1\nb,n,y,\n",
            "group of every item, found none for 1, such as 'b'",
        ),
        (b"item,worker,label,split\na,m,x,train\nb,n,y,val\n", '"train" or "test" in split, found \'val\''),
        (b"item,worker,label,split\na,m,x,test\nb,n,y,test\n", '"train" in split for some items, found "test" for all'),
        (
            b"item,worker,label,coarse\na,m,x,big\nb,n,y,small\n",
            "superclasses 0, 1, ... in coarse, found 'big'",
        ),
        (b"item,ann,bob\na,x,y\na,y,x\nb,x,x\n", r"one row for each item .* found several of 'a' \(1 rows too many\)"),
        (b"item,text\na,x\n", "at least 2 categories"),
        (b"item,x_0\na,1\n", "a column for each person, or for the truth, found item, x_0"),
        (b"item,ann,x_0\na,u,1\nb,v,one\n", "numbers in column 'x_0' of .*bad.csv, a feature, found"),
        (b"item,votes_a,votes_b\na,1,2\nb,2,some\n", "numbers of votes in column 'votes_b', .* found 'some'"),
        (b"item,votes_a,votes_b\na,1,2\nb,2,-3\n", "numbers of votes in column 'votes_b', .* found '-3'"),
        (b"\x00\x01\x02", "bad.csv"),
    ],
)
def test_bad_tables(tmp_path, content, message):
    (tmp_path / "bad.csv").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_data(tmp_path / "bad.csv", subset=True)


def test_comments_are_no_people(tmp_path):
    rows = ["item,ann,bob,comment", *(f"{i},{'xy'[i % 2]},x,text {i}" for i in range(30))]
    with pytest.raises(
        ValueError, match=r"Expected people as .*, found 30 values in 'comment' that no other column has. Say who"
    ):
        table(tmp_path, *rows, subset=True)
    assert table(tmp_path, *rows, people=["ann", "bob"], subset=True).annotators == ("ann", "bob")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": ["cat"]}, r"among the classes 'cat', found 1 unknown, .*: 'dog' 3. Correct them"),
        ({"classes": ["a", "b"]}, r"found 2 unknown, with their numbers: 'cat' 4, 'dog' 3\."),
        ({"layout": "tall"}, 'layout "long", "wide" or "counts", found \'tall\''),
        ({"columns": {"label": "dx"}}, "a column 'dx', as columns says, found item, annotator, label, truth"),
        ({"columns": {"rater": "item"}}, "roles out of item, annotator, .* in columns, found 'rater'"),
        ({"people": ["ann", "eve"]}, "people out of ann, bob, found eve"),
        ({"people": ["eve"], "layout": "wide"}, "a column for each of people, found item, .* and none of eve"),
        (
            {"classes": ["u", "v"], "layout": "counts"},
            "a column for each of classes, found item, .* and none of u, v",
        ),
        ({"truth": "nowhere.csv"}, "a file at .*nowhere.csv, found none"),
        ({"features": "nowhere.npz"}, "a file at .*nowhere.npz, found none"),
        ({"encoding": "klingon"}, "an encoding that Python knows, .* found 'klingon'"),
        ({"variant": "0.5"}, r"the options layout, .* for the format of .*data.csv, found variant"),
    ],
)
def test_bad_requests(tmp_path, options, message):
    (tmp_path / "data.csv").write_text(text(*LONG))
    with pytest.raises(ValueError, match=message):
        read_data(tmp_path / "data.csv", **options)


def test_the_most_frequent_unknown_categories_are_told(tmp_path):
    rows = [f"{i}{c},m,{c}" for c, n in zip("abcdefg", (1, 5, 2, 7, 3, 4, 6), strict=True) for i in range(n)]
    told = r"found 6 unknown, with their numbers: 'd' 7, 'g' 6, 'b' 5, 'f' 4, 'e' 3. Correct"
    with pytest.raises(ValueError, match=told):
        table(tmp_path, "item,annotator,label", *rows, classes=["a", "z"], subset=True)


def test_two_spellings_are_warned_of(tmp_path):
    rows = ("item,annotator,label", "a,Zoë,x", "a,zoe\u0308 ,y", "b,bob,x", "b,Bob,x", "c,eve,x")
    with pytest.warns(
        UserWarning, match=r"different people, found 'Zoë' and 'zo.+', .* only \(1 more such\). Spell"
    ) as caught:
        data = table(tmp_path, *rows, subset=True)
    assert caught[0].filename == __file__
    assert data.num_experts == 5
    with pytest.warns(UserWarning, match="different categories, found 'Cat' and 'cat', which differ by case"):
        table(tmp_path, "item,annotator,label", "a,m,cat", "b,m,Cat", subset=True)


def test_features_within_a_long_table_are_warned_of(tmp_path):
    with pytest.warns(
        UserWarning, match="features of a long table in a file of their own, found x_0 in the table, which is left out"
    ):
        table(tmp_path, "item,annotator,label,x_0", "a,m,u,1", "b,m,v,2", subset=True)


def test_truth_must_be_known_but_of_a_part(tmp_path):
    rows = ("item,annotator,label", "a,m,u", "b,m,v")
    with pytest.raises(ValueError, match=r"data.csv: Expected the truth of at least one item in y, found none"):
        table(tmp_path, *rows)
    assert table(tmp_path, *rows, subset=True).num_items == 2


@pytest.mark.parametrize("name", ["a.csv", "a.parquet", "a.npz", "a.nc", "a.json", "a.xlsx", "a"])
def test_paths(tmp_path, name):
    with pytest.raises(ValueError, match=f"a file.* at .*{name}, found none"):
        read_data(tmp_path / name)
    (tmp_path / name).mkdir()
    with pytest.raises(ValueError, match=f"Expected .* (at|in) .*{name}, found"):
        read_data(tmp_path / name)
    (tmp_path / name).rmdir()
    (tmp_path / name).write_text("{}")
    with pytest.raises(ValueError, match=name):
        read_data(tmp_path / name)


def test_formats_are_known_by_how_they_begin(tmp_path):
    data = table(tmp_path, *LONG)
    write_npz(tmp_path / "d.npz", data)
    write_netcdf(tmp_path / "d.nc", data)
    for name in ("d.npz", "d.nc"):
        os.rename(tmp_path / name, tmp_path / "d.part")
        assert_same(read_data(tmp_path / "d.part")[0], data)


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"classes": ("NA", "b")}, {}, "do not mean that something is missing, found 'NA' in classes"),
        ({"annotators": ("ann", " ")}, {}, "found ' ' in annotators"),
        ({"annotators": ("x_ray", "bob")}, {"layout": "wide"}, "found a person called 'x_ray'"),
        ({}, {"layout": "counts"}, 'votes only for layout="counts", found annotations of 2 people'),
        ({}, {"layout": "round"}, "layout .*, found 'round'"),
        ({"counts": np.ones((3, 2), int)}, {"layout": "long"}, 'no anonymous votes for layout="long", found some'),
        ({"items": ["a", " ", "c"]}, {}, "names in items that are not empty, found an empty one"),
    ],
)
def test_what_a_table_cannot_hold(tmp_path, changes, options, message):
    data = dataclasses.replace(table(tmp_path, *LONG), **changes)
    with pytest.raises(ValueError, match=message):
        write_data(tmp_path / "new.csv", data, **options)
    assert not (tmp_path / "new.csv").exists()


def test_parts_that_do_not_belong_together(tmp_path):
    data = table(tmp_path, *LONG)
    with pytest.raises(ValueError, match="parts that share no items, found 'a' in both"):
        write_data(tmp_path / "new.csv", data, data)
    with pytest.raises(ValueError, match=r"test with the annotators of data, .* found"):
        write_data(tmp_path / "new.csv", data, data.select_people(["ann"]))
    with pytest.raises(ValueError, match="group in both parts, or in none, found it in one"):
        write_data(tmp_path / "new.csv", data, dataclasses.replace(data, group=[1, 2, 3]))
    with pytest.raises(ValueError, match=r"Expected .npz, .nc, a table .* found .*new.json"):
        write_data(tmp_path / "new.json", data)
    with pytest.raises(ValueError, match=r"the options \(none\) for the format of .*, found layout"):
        write_data(tmp_path / "new.npz", data, layout="long")


def test_too_many_people_for_memory():
    told = {"items": ["i"] * 70_000, "people": ["p"] * 70_000, "classes": ("a", "b")}
    with pytest.raises(ValueError, match="at most 2,147,483,648 pairs of item and person, found 70,000 x 70,000"):
        place(np.zeros(1, int), np.zeros(1, int), np.zeros(1, int), "error", told)


def test_too_many_categories():
    many = [f"name {i}" for i in range(10_001)]
    with pytest.raises(ValueError, match="at most 10,000 categories, found 10,001, such as 'name 0'"):
        number_labels([Coded(np.arange(10_001, dtype=np.int32), many)])


def test_a_reader_names_the_folder_that_it_was_given(tmp_path):
    with pytest.raises(ValueError, match=r"a table .* at .*, found a folder"):
        read_table(tmp_path)
