"""Tables and requests that are refused or warned of."""

import numpy as np
import pytest
from cases.tables import LONG, table, text

from pl2d_ppl.data import (
    read_data,
    read_table,
)
from pl2d_ppl.data.tables.names import Coded, number_labels
from pl2d_ppl.data.tables.repeats import place


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
        (b"item,ann\na,x\n", "at least 2 categories"),
        (b"item,text\na,x\nb,y\n", "people as the columns of a wide table, found 'text', which names nobody"),
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
    (tmp_path / "data.csv").write_text(text(*rows), encoding="utf-8")
    with pytest.warns(
        UserWarning, match=r"different people, found 'Zoë' and 'zo.+', .* only \(1 more such\). Spell"
    ) as caught:
        data, _ = read_table(tmp_path / "data.csv", subset=True)
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


def test_too_many_people_for_memory():
    told = {"items": ["i"] * 70_000, "people": ["p"] * 70_000, "classes": ("a", "b")}
    long = place(np.zeros(1, int), np.zeros(1, int), np.zeros(1, int), "error", told)
    with pytest.raises(ValueError, match="at most 2,147,483,648 pairs of item and person in a matrix, found 70,000 x"):
        long.dense()


def test_too_many_categories():
    many = [f"name {i}" for i in range(10_001)]
    with pytest.raises(ValueError, match="at most 10,000 categories, found 10,001, such as 'name 0'"):
        number_labels([Coded(np.arange(10_001, dtype=np.int32), many)])


def test_a_reader_names_the_folder_that_it_was_given(tmp_path):
    with pytest.raises(ValueError, match=r"a table .* at .*, found a folder"):
        read_table(tmp_path)
