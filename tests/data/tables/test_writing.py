"""Round trips of tables and netCDF, and what a table cannot hold."""

import dataclasses
import unicodedata

import numpy as np
import pytest
from cases.tables import LONG, SLOW, assert_same, names, table
from hypothesis import given, settings
from hypothesis import strategies as st

from pl2d_ppl.data import (
    Annotated,
    from_dataset,
    read_data,
    read_table,
    to_dataset,
    write_data,
    write_table,
)
from pl2d_ppl.data.tables.column_names import is_taken


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
