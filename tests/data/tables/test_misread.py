"""Ordinary files that are easily misread: each is read right, or refused with the way out."""

import warnings

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cases.tables import LONG, assert_same, table, text

from pl2d_ppl.data import read_data, read_table

LABELS = ("item,annotator,label", "a,m,cat", "a,n,dog", "b,m,dog", "b,n,dog")


# --- columns ---


@pytest.mark.parametrize("name", ["annotation_id", "response_id", "answer_id", "category_id", "labelid", "Label ID"])
def test_an_identifier_is_no_label(tmp_path, name):
    with pytest.raises(ValueError, match="columns for label beside 'annotator'"):
        table(tmp_path, f"{name},annotator,item,mood", "31,m,a,1", "32,n,a,2", subset=True)


@pytest.mark.parametrize("name", ["truth_id", "gold_id"])
def test_an_identifier_is_no_truth(tmp_path, name):
    assert (
        table(tmp_path, f"{LABELS[0]},{name}", *(f"{row},7{i}" for i, row in enumerate(LABELS[1:])), subset=True).y < 0
    ).all()


@pytest.mark.parametrize(
    "header",
    ["image,worker,response,label", "image,worker,object_response,category", "image,worker,answer,user:annotation"],
)
def test_which_of_two_columns_of_labels_is_asked(tmp_path, header):
    rows = ("a,p1,cat,dog", "a,p2,dog,dog", "b,p1,cat,cat", "b,p2,dog,cat")
    first, second = header.split(",")[2:]
    with pytest.raises(
        ValueError, match=rf"one column for the label, found '({first}|{second})' and '.*columns={{'label'"
    ):
        table(tmp_path, header, *rows, subset=True)
    data = table(tmp_path, header, *rows, columns={"label": first, "truth": second})
    assert data.annotations.tolist() == [[0, 1], [0, 1]]
    assert data.y.tolist() == [1, 0]


def test_a_column_that_numbers_rows_is_warned_of(tmp_path):
    rows = ("id,text,annotator,label", "1,good,m,0", "2,good,n,1", "3,bad,m,1", "4,bad,n,1")
    with pytest.warns(UserWarning, match=r"'id' to name items, found another one in every row of .* columns={'item'"):
        table(tmp_path, *rows, subset=True)
    assert table(tmp_path, *rows, columns={"item": "text"}, subset=True).num_items == 2
    assert table(tmp_path, *rows, columns={"item": "id"}, subset=True).num_items == 4


def test_two_columns_of_truth_are_asked_about(tmp_path):
    with pytest.raises(ValueError, match=r"one column for the truth, found 'truth' and 'gold'. Choose one"):
        table(tmp_path, LABELS[0] + ",gold,truth", *(row + ",cat,dog" for row in LABELS[1:]))


@pytest.mark.parametrize("lines", [LABELS[1:], ("m,a,.5", "n,a,.7"), ("0;1;cat", "0;2;dog", "1;1;dog")])
def test_a_table_without_a_header_is_refused_or_its_columns_are_named(tmp_path, lines):
    with pytest.raises(
        ValueError, match=r"a row of column names at the top of .*, found a row like the others: .* names="
    ):
        table(tmp_path, *lines, subset=True)


def test_names_of_columns(tmp_path):
    named = table(tmp_path, *LABELS[1:], names=["item", "annotator", "label"], subset=True)
    assert_same(named, table(tmp_path, *LABELS, subset=True))
    with pytest.raises(ValueError, match=r"a name for each of 3 columns of .*, found 2: item, label"):
        table(tmp_path, *LABELS[1:], names=["item", "label"])
    assert table(tmp_path, "m,n", "m,n", "n,m", header=True, subset=True).annotators == ("m", "n")


def test_a_header_among_the_rows_is_no_item(tmp_path):
    with pytest.raises(ValueError, match=r"one header at the top of .*, found it again in row 3 below it"):
        table(tmp_path, *LABELS[:3], *LABELS, subset=True)


@pytest.mark.parametrize("name", ["__index_level_0__", "Unnamed: 0", "Unnamed: 0.1", "index", "level_0", ""])
def test_the_index_of_pandas_is_neither_person_nor_feature(tmp_path, name):
    rows = [f"{name},item,ann,bob", "0,a,u,v", "1,b,v,v"]
    assert table(tmp_path, *rows, subset=True).annotators == ("ann", "bob")
    (tmp_path / "x.csv").write_text(text(f"{name},item,size", "0,a,3", "1,b,4"))
    assert table(tmp_path, *rows, features=tmp_path / "x.csv", subset=True).features == ("size",)


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("remark", ("it was dark", "no idea", "fine")),
        ("day", ("2024-05-01", "2024-05-01", "2024-05-02")),
        ("born", ("2024-05-01 08:00", "2024-05-01 08:00", "2024-05-01 08:00")),
        ("years", ("31", "45", "27")),
        ("age", ("0", "1", "0")),
        ("created_at", ("0", "1", "0")),
        ("source", ("http://x.org/1", "http://x.org/1", "http://x.org/1")),
    ],
)
def test_a_column_about_rows_is_no_person_in_the_head_of_a_file(tmp_path, column, values):
    rows = [
        f"item,ann,bob,{column}",
        *(f"i{n},{n % 2 if n else ''},{n // 2},{value}" for n, value in enumerate(values)),
    ]
    with pytest.raises(ValueError, match=rf"people as the columns of a wide table, found .*{column}.* people=\[...\]"):
        table(tmp_path, *rows, subset=True)
    assert table(tmp_path, *rows, people=["ann", "bob"], subset=True).num_experts == 2


def test_whole_lines_are_no_people(tmp_path):
    with pytest.raises(ValueError, match="people as the columns of a wide table, found"):
        table(tmp_path, "item annotator label", "it is a dark one they said", "it is a light one he said", subset=True)


@pytest.mark.parametrize("delimiter", [";", "\t", "|", "^", "~", "\x01", ":", " "])
def test_delimiters(tmp_path, delimiter):
    rows = [line.replace(",", delimiter) for line in LABELS]
    assert_same(table(tmp_path, *rows, subset=True), table(tmp_path, *LABELS, subset=True))
    strange = [line.replace(",", "#") for line in LABELS]
    assert_same(table(tmp_path, *strange, delimiter="#", subset=True), table(tmp_path, *LABELS, subset=True))


def test_a_delimiter_is_what_splits_rows_alike(tmp_path):
    rows = ("item|annotator|label, as said", 'a|m|"cat, big"', "a|n|dog", "b|m|dog, small, brown")
    data = table(tmp_path, *rows, columns={"label": "label, as said"}, subset=True)
    assert data.annotators == ("m", "n")


# --- values ---


@pytest.mark.parametrize(
    "spelling", ["NULL", "\\N", "#N/A", "na", "n/a", "None", "Null", "NaN", "?", ".", "#VALUE!", "<na>"]
)
def test_missing_beside_numbers(tmp_path, spelling):
    data = table(tmp_path, "item,r1,r2", f"a,1,{spelling}", "b,0,0", f"c,{spelling},1", subset=True)
    assert data.classes == ("0", "1")
    assert data.annotations.tolist() == [[1, -1], [0, 0], [-1, 1]]


@pytest.mark.parametrize("spelling", ["NULL", "\\N", "#N/A", "na", "N/A"])
def test_missing_beside_names(tmp_path, spelling):
    data = table(tmp_path, *LABELS, f"c,m,{spelling}", subset=True)
    assert data.classes == ("cat", "dog")
    assert data.annotations[-1].tolist() == [-1, -1]
    known = table(tmp_path, *LABELS, f"c,m,{spelling}", classes=["cat", "dog", spelling], subset=True)
    assert known.annotations[-1].tolist() == [2, -1]


@pytest.mark.parametrize("values", [("-1", "0", "1"), ("-1", "1", "1"), ("-1.0", "0", "1")])
def test_minus_one_beside_zero_and_one_is_asked_about(tmp_path, values):
    rows = ["item,r1,r2", *(f"i{n},{value},1" for n, value in enumerate(values))]
    with pytest.raises(ValueError, match=r'-1 either for no annotation or as a category, .* missing=\["-1"\]'):
        table(tmp_path, *rows, subset=True)
    assert table(tmp_path, *rows, missing=["-1"], subset=True).annotations[0].tolist() == [-1, 1]
    mood = table(tmp_path, *rows, classes=["-1", "0", "1"], subset=True)
    assert mood.annotations[0].tolist() == [0, 2]


def test_a_scale_through_zero(tmp_path):
    data = table(tmp_path, "item,annotator,label", "a,m,-5", "b,m,-1", "c,m,0", "d,m,5", subset=True)
    assert data.classes == ("-5", "-1", "0", "5")
    assert data.annotations[:, 0].tolist() == [0, 1, 2, 3]
    with pytest.raises(ValueError, match=r"-1 where missing, found -9.* missing="):
        table(tmp_path, "item,annotator,label", "a,m,-9", "b,m,4", subset=True)


def test_half_steps_are_numbers(tmp_path):
    data = table(tmp_path, "item,r1,r2", "a,1,1.0", "b,2,2.0", "c,3,2.5", "d,3,3.0", "e,1,", subset=True)
    assert data.classes == ("1", "2", "2.5", "3")
    assert data.annotations.tolist() == [[0, 0], [1, 1], [3, 2], [3, 3], [0, -1]]
    named = table(tmp_path, "item,r1,r2", "a,1,1.0", "b,2.50,2.5", classes=["1", "2.5"], subset=True)
    assert named.annotations.tolist() == [[0, 0], [1, 1]]


def test_measurements_are_no_labels(tmp_path):
    rows = [f"i{n},m,{n / 1000}" for n in range(700)]
    with pytest.raises(ValueError, match="at most 500 numbers as categories, found 700"):
        table(tmp_path, "item,annotator,label", *rows, subset=True)


@pytest.mark.parametrize(
    ("values", "classes"),
    [
        (("True", "false", "TRUE", "False"), ("false", "true")),
        (("True", "0", "1", "false"), ("0", "1")),
        (("true", "0.0", "1.0", "FALSE"), ("0", "1")),
        (("True", "False", "True", "False"), ("False", "True")),
    ],
)
def test_true_and_false_are_two(tmp_path, values, classes):
    data = table(tmp_path, "item,annotator,label", *(f"i{n},m,{v}" for n, v in enumerate(values)), subset=True)
    assert data.classes == classes
    assert data.annotations[:, 0].tolist() == [int(v.casefold() in ("true", "1", "1.0")) for v in values]


def test_a_gap_makes_floats_of_identifiers_but_no_other_people(tmp_path):
    (tmp_path / "truth.csv").write_text(text("item,truth", "10,1", "11,0"))
    rows = ("item,worker,label", "10.0,3.0,1", "10,4.0,0", "11.0,3,0")
    data = table(tmp_path, *rows, truth=tmp_path / "truth.csv")
    assert (data.items.tolist(), data.annotators) == (["10", "11"], ("3", "4"))
    assert data.annotations.tolist() == [[1, 0], [0, -1]]
    columns = {"item": ["a", "b"], "worker": pa.array([9007199254740991.0, 7.0]), "label": [0, 1]}
    pq.write_table(pa.table(columns), tmp_path / "p.parquet")
    assert read_data(tmp_path / "p.parquet", subset=True)[0].annotators == ("7", "9007199254740991")
    versions = table(tmp_path, "item,worker,label", "1.0,m,0", "1.1,m,1", subset=True)
    assert versions.items.tolist() == ["1.0", "1.1"]


@pytest.mark.parametrize("name", ["9.007e+15", "1.23457E+11", "9.3e+15"])
def test_identifiers_that_lost_digits_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match=r"names that keep all their digits, found .* Export the column as text"):
        table(tmp_path, "item,worker,label", f"{name},1,0", "12,2,1", subset=True)


def test_people_may_write_true_and_1(tmp_path):
    data = table(tmp_path, "item,r1,r2", "a,True,1", "b,False,0", "c,true,0", subset=True)
    assert data.classes == ("0", "1")
    assert data.annotations.tolist() == [[1, 1], [0, 0], [1, 0]]


# --- rows ---


@pytest.mark.parametrize(
    "rows",
    [
        ('t1\tm\t0\t"he said', "t2\tm\t1\tno", "t3\tm\t0\tend"),
        ('t1\tm\t0\t"he said', 't2\tm\t1\t"he said', "t3\tm\t0\tend"),
        ('t1\tm\t0\t"he said', 't2\tm\t1\tsaid he"', "t3\tm\t0\tend"),
    ],
    ids=["never closed", "closed by another", "closed two rows below"],
)
def test_a_lone_quotation_mark_swallows_no_rows(tmp_path, rows):
    lines = ("item\tannotator\tlabel\ttext", *rows)
    with pytest.raises(ValueError, match=r"found one that is opened in line 2 and not closed there .* quotes=False"):
        table(tmp_path, *lines, name="d.tsv", subset=True)
    assert table(tmp_path, *lines, name="d.tsv", quotes=False, subset=True).num_items == 3


def test_line_ends_within_quotes_may_be_meant(tmp_path):
    lines = ("item,annotator,label,text", 'a,m,x,"one, two, three, four', 'five"', "b,m,y,")
    with pytest.raises(ValueError, match="a field with a whole row in it"):
        table(tmp_path, *lines, subset=True)
    assert table(tmp_path, *lines, quotes=True, subset=True).num_items == 2


def test_truth_that_lost_its_zeros_is_warned_of_and_adds_nothing(tmp_path):
    (tmp_path / "truth.csv").write_text(text("image,truth", "98,x", "99,y", "1100,y"))
    rows = ("image,reader,label", "0098,A,x", "0099,A,y", "1100,A,y", "1100,B,y")
    with pytest.warns(
        UserWarning, match="found 2 of 3 items of .*truth.csv that are none of .*, such as '98': .* left out"
    ):
        data = table(tmp_path, *rows, truth=tmp_path / "truth.csv")
    assert data.items.tolist() == ["0098", "0099", "1100"]
    assert data.y.tolist() == [-1, -1, 1]


# --- size ---


def test_one_long_name_does_not_widen_all(tmp_path):
    rows = [f"short {i},m,{i % 2}" for i in range(2000)]
    data = table(tmp_path, "item,annotator,label", *rows, f"{'long ' * 8000},m,0", subset=True)
    assert data.items.nbytes < 10**6
    back = tmp_path / "back.npz"
    from pl2d_ppl.data import write_npz

    write_npz(back, data.replace(y=np.zeros(data.num_items, int)))
    assert back.stat().st_size < 10**6
    np.testing.assert_array_equal(read_data(back)[0].items, data.items)


def test_many_people_stay_in_long_form(tmp_path):
    rows = [f"i{n},p{n},{n % 3}" for n in range(3000)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = table(tmp_path, "item,annotator,label", *rows, subset=True)
    assert "annotations" not in vars(data)
    summary = str(data.summary())
    assert "annotations" not in vars(data)
    assert len(summary.splitlines()) < 30
    assert "and 2,980 more people" in summary
    taken = data.take([5, 6, 0]).select_people(["p5", "p0"])
    assert taken.annotations.tolist() == [[2, -1], [-1, -1], [-1, 0]]
    assert data.annotations.shape == (3000, 3000)


def test_long_and_dense_say_the_same(tmp_path):
    data = table(tmp_path, *LONG)
    dense = data.replace(annotations=data.annotations)
    assert str(dense.summary()) == str(data.summary())
    for part in (dense, data):
        assert part.take([2, 1]).annotations.tolist() == [[-1, -1], [1, -1]]


# --- abstentions ---


def test_abstentions_have_a_code_of_their_own(tmp_path):
    data = table(tmp_path, *LABELS, "b,o,skip", "a,o,", abstained=["skip"], subset=True)
    assert data.annotations.tolist() == [[0, 1, -1], [1, 1, -1]]
    assert data.abstained.tolist() == [[False] * 3, [False, False, True]]
    told = data.with_abstentions("would not say")
    assert told.classes == ("cat", "dog", "would not say")
    assert told.annotations.tolist() == [[0, 1, -1], [1, 1, 2]]
    assert "abstentions: 1" in str(data.summary())


@pytest.mark.parametrize("ending", [".npz", ".nc", ".csv", ".parquet"])
def test_abstentions_are_kept(tmp_path, ending):
    from pl2d_ppl.data import write_data

    rows = (*LABELS[1:], "a,o,cat", "b,o,skip")
    data = table(tmp_path, LABELS[0] + ",truth", *(row + ",cat" for row in rows), abstained=["skip"])
    write_data(tmp_path / f"kept{ending}", data)
    back, _ = read_data(tmp_path / f"kept{ending}")
    np.testing.assert_array_equal(back.abstained, data.abstained)
    np.testing.assert_array_equal(back.annotations, data.annotations)


def test_the_classifier_is_nobody(tmp_path):
    with pytest.raises(ValueError, match='found "AI", the name of the classifier'):
        table(tmp_path, "item,AI,bob", "a,x,y", "b,y,y", subset=True)


def test_read_table_takes_what_files_are(tmp_path):
    (tmp_path / "d.csv").write_text(text(*LABELS))
    assert read_table(tmp_path / "d.csv", subset=True)[0].num_items == 2
