"""``pl2d data``, and data of every format for the other commands."""

import json

import numpy as np
import pytest
from cases.command import pl2d, plain, read, refused

from pl2d_ppl.cli.reading import read_inputs
from pl2d_ppl.data import Annotated, read_data, write_data
from pl2d_ppl.data.files.formats import digest

LONG = "item,rater,label,gold\na,ann,cat,cat\na,bob,dog,cat\nb,ann,dog,dog\nc,bob,,cat\n"
FIELDS = ("x", "y", "annotations", "group", "coarse", "counts", "items", "classes", "annotators")


def done(result):
    assert result.exit_code == 0, result.output
    return plain(result.stdout)


def toy(num_items=30):
    rng = np.random.default_rng(0)
    y = np.arange(num_items) % 3
    said = np.stack([y, rng.integers(0, 3, num_items)], 1)
    said[rng.random(said.shape) < 0.3] = -1
    x = np.eye(3)[y] + 0.1 * rng.normal(size=(num_items, 3))
    return Annotated(
        x, y, said, items=[f"i{n}" for n in range(num_items)], classes=tuple("abc"), annotators=("Ada", "Bob")
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    (folder / "long.csv").write_text(LONG)
    data = toy()
    write_data(folder / "toy.npz", data)
    write_data(folder / "toy.nc", data)
    write_data(folder / "toy.csv", data, layout="wide")
    write_data(folder / "toy.parquet", data, layout="wide")
    write_data(folder / "json", data, features=folder / "x.npz")
    return folder


def assert_same(left, right):
    for field in FIELDS:
        np.testing.assert_array_equal(getattr(left, field), getattr(right, field), err_msg=field)


# --- describe ---


def test_describe(folder):
    result = pl2d("data", "describe", folder / "long.csv")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [
        "long table: item = item, person = rater, label = label, truth = gold, missing = empty (1)",
        "categories: cat, dog; features: none",
        "3 items, 3 of known truth; 2 categories; 2 people",
        "person   annotations    right",
        "ann                2   100.0%",
        "bob                1     0.0%",
        "missing 50.0%; pairs that agree 0.0%; plurality right 75.0%",
        "items by number of annotations: 0: 1, 1: 1, 2: 1",
        "most frequent, who annotated together: nobody: 1; ann: 1; ann, bob: 1",
        "beyond chance: Fleiss' kappa -1.000; Krippendorff's alpha 0.000 (nominal)",
        "Cohen's kappa: 0.000 (ann and bob, 1 items)",
    ]


@pytest.mark.parametrize("name", ["toy.npz", "toy.nc", "toy.csv", "toy.parquet", "json"])
def test_every_format_is_described(folder, name):
    out = done(pl2d("data", "describe", folder / name))
    assert "categories: a, b, c; features: " + ("none" if name == "json" else "3") in out
    assert "30 items, 30 of known truth; 3 categories; 2 people" in out


def test_describe_as_json_and_with_a_picture(folder, tmp_path):
    write_data(tmp_path / "parts.npz", toy().take(range(20)), toy().take([20, 21]))
    result = pl2d("data", "describe", tmp_path / "parts.npz", "--json", "--plot", tmp_path / "who.png")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert (told["train"]["items"], told["test"]["items"]) == (20, 2)
    assert told["train"]["classes"] == ["a", "b", "c"]
    assert sum(pattern["items"] for pattern in told["train"]["patterns"]) == 20
    assert (tmp_path / "who.png").read_bytes().startswith(b"\x89PNG")
    assert f"Written: {tmp_path / 'who.png'}" in pl2d(
        "data", "describe", tmp_path / "parts.npz", "--plot", tmp_path / "who.png"
    ).stdout.replace("\n", " ")


def test_what_cannot_be_told_is_null(tmp_path):
    (tmp_path / "silent.csv").write_text("item,rater,label\na,ann,cat\nb,ann,dog\nb,bob,\n")
    told = json.loads(pl2d("data", "describe", tmp_path / "silent.csv", "--json").stdout)["train"]
    assert told["accuracy"] == {"ann": None, "bob": None}
    assert told["agreement"] is None


# --- convert ---


def test_convert_there_and_back(folder, tmp_path):
    """Through all formats, with features in a file of their own where the format has none."""
    steps = [
        ("long.csv", ["--features-out", tmp_path / "x.npz"], []),
        ("a.nc", [], ["--features", tmp_path / "x.npz"]),
        ("wide.parquet", ["--to-layout", "wide"], []),
        ("json", ["--features-out", tmp_path / "y.npz"], []),
        ("last.npz", [], ["--features", tmp_path / "y.npz"]),
    ]
    before = folder / "toy.npz"
    for name, writing, reading in steps:
        out = done(pl2d("data", "convert", before, tmp_path / name, *writing, *reading))
        assert "30 items" in out
        assert name in out
        before = tmp_path / name
    assert_same(read_data(before)[0], toy())


def test_convert_with_every_option(tmp_path):
    (tmp_path / "in.csv").write_bytes(
        "bild;arzt;befund\nä;Zoë;gut\nä;Zoë;schlecht\nb;Zoë;unklar\nb;Jan;schlecht\nb;Udo;gut\n".encode("latin-1")
    )
    (tmp_path / "truth.csv").write_bytes("bild;y\nä;gut\nb;schlecht\n".encode("latin-1"))
    (tmp_path / "x.csv").write_text("image,f\nb,2\nä,1\n")
    options = {
        "--truth": tmp_path / "truth.csv",
        "--features": tmp_path / "x.csv",
        "--classes": "schlecht, gut",
        "--people": "Zoë,Jan",
        "--duplicates": "last",
        "--missing": "unklar",
        "--encoding": "latin-1",
        "--layout": "long",
    }
    columns = [part for pair in ("item=bild", "annotator=arzt", "label=befund") for part in ("--column", pair)]
    flat = [part for pair in options.items() for part in pair]
    done(pl2d("data", "convert", tmp_path / "in.csv", tmp_path / "out.npz", *flat, *columns))
    data, _ = read_data(tmp_path / "out.npz")
    assert data.items.tolist() == ["ä", "b"]
    assert data.classes == ("schlecht", "gut")
    assert data.annotators == ("Zoë", "Jan")
    assert data.annotations.tolist() == [[0, -1], [-1, 0]]
    assert data.y.tolist() == [1, 0]
    assert data.x.tolist() == [[1], [2]]


def test_convert_reads_images_for_formats_that_hold_them(tmp_path):
    from PIL import Image

    (tmp_path / "images").mkdir()
    for name, grey in zip("abc", (1, 2, 3), strict=True):
        Image.new("RGB", (2, 2), (grey,) * 3).save(tmp_path / "images" / f"{name}.png")
    (tmp_path / "long.csv").write_text(LONG)
    done(pl2d("data", "convert", tmp_path / "long.csv", tmp_path / "d.npz", "--features", tmp_path / "images"))
    assert read_data(tmp_path / "d.npz")[0].x.shape == (3, 2, 2, 3)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["describe", "none.csv"], ["a file at none.csv, found none. Check"]),
        (["describe", "long.csv", "--column", "label"], ["--column ROLE=NAME", "found 'label'"]),
        (["describe", "long.csv", "--column", "label=dx"], ["a column 'dx'", "found item, rater, label, gold"]),
        (["describe", "long.csv", "--plot", "who.txt"], ["Expected a picture", "who.txt"]),
        (["describe", "long.csv", "--layout", "tall"], ["--layout", "tall"]),
        (
            ["describe", "long.csv", "--variant", "0.5"],
            ["the options --layout, --column", "for the format of long.csv, found --variant"],
        ),
        (
            ["describe", "toy.npz", "--classes", "a,b"],
            ["the options (none) for the format of toy.npz, found --classes"],
        ),
        (["describe", "long.csv", "--classes", "a,b"], ["'cat' 4, 'dog' 3. Correct them"]),
        (["convert", "long.csv", "long.csv"], ["another file to write than the one that is read"]),
        (["convert", "long.csv", "out.xlsx"], ["Expected .npz, .nc, a table", "out.xlsx"]),
        (["convert", "long.csv", "out.csv", "--to-layout", "counts"], ["votes only for layout"]),
        (
            ["convert", "long.csv", "out.npz", "--to-layout", "long"],
            ["the options (none) for the format of out.npz, found --to-layout"],
        ),
        (["convert", "long.csv", "out.csv", "--features-out", "x.npz"], ["features in memory, found none"]),
    ],
)
def test_what_is_refused(tmp_path, monkeypatch, folder, args, words):
    monkeypatch.chdir(tmp_path)
    for name in ("long.csv", "toy.npz"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    refused(pl2d("data", *args), *words)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["long.csv", "toy.npz"]


def test_nothing_is_plotted_without_people(tmp_path):
    (tmp_path / "d.csv").write_text("item,truth\na,0\nb,1\n")
    refused(pl2d("data", "describe", tmp_path / "d.csv", "--plot", tmp_path / "p.png"), "Expected annotations to plot")
    assert not (tmp_path / "p.png").exists()


def test_help():
    assert {"describe", "convert"} <= set(done(pl2d("data", "--help")).split())
    for command in ("describe", "convert"):
        out = done(pl2d("data", command, "--help"))
        for option in ("--layout", "--column", "--classes", "--people", "--truth", "--features", "--duplicates"):
            assert option in out
    assert "table (.csv, .tsv, .parquet, .xlsx)" in done(pl2d("curve", "--help"))


# --- the other commands ---


@pytest.mark.slow
def test_a_table_is_fitted_and_predicted(folder, tmp_path):
    done(pl2d("fit", folder / "toy.csv", "--out", tmp_path / "fit", "--epochs", 1))
    (tmp_path / "new.csv").write_text("item,x_0,x_1,x_2\nu,1,0,0\nv,0,0,1\n")
    done(pl2d("predict", tmp_path / "fit", tmp_path / "new.csv", "--out", tmp_path / "p.npz"))
    with np.load(tmp_path / "p.npz") as arrays:
        assert arrays["decision"].shape == (2,)


def test_inputs_of_predictions_need_no_labels(folder, tmp_path):
    (tmp_path / "new.csv").write_text("item,f,g\nu,1,0\nv,0,-1\n")
    assert read_inputs(tmp_path / "new.csv").x.tolist() == [[1, 0], [0, -1]]
    for name in ("toy.npz", "toy.nc", "toy.csv", "toy.parquet"):
        np.testing.assert_array_equal(read_inputs(folder / name).x, toy().x)
    (tmp_path / "new.csv").write_text("item,x_0\nu,1\nv,\n")
    with pytest.raises(ValueError, match=r"Expected finite inputs in .*, found NaN"):
        read_inputs(tmp_path / "new.csv")
    with pytest.raises(ValueError, match=r"Expected features in .*json, found annotations only"):
        read_inputs(folder / "json")


@pytest.mark.filterwarnings("default:.*of the decisions can be judged")
def test_reports_are_of_the_file(folder, tmp_path):
    tiny = ["--steps", 2, "--batch-size", 8, "--coverages", ".5", "--method", "two-stage"]
    for name in ("toy.npz", "toy.parquet", "toy.nc", "toy.csv"):
        done(pl2d("curve", folder / name, *tiny, "--out", tmp_path / name))
        report = read(tmp_path / name)
        assert (report["data"], report["sha256"]) == (name, digest(folder / name))


def test_digest(folder, tmp_path):
    before = digest(folder / "json")
    assert before == digest(folder / "json") != digest(folder / "toy.csv")
    write_data(tmp_path / "json", toy().take(range(3)), features=tmp_path / "x.npz")
    assert digest(tmp_path / "json") != before


@pytest.mark.parametrize("command", ["curve", "fit", "clusters", "onboard"])
def test_features_are_asked_for_before_anything_else(folder, tmp_path, command):
    result = pl2d(command, folder / "json", "--out", tmp_path / "out")
    refused(result, "Expected features in", "found annotations only", "pl2d data convert", "--features FILE")
    refused(pl2d(command, folder / "none.csv", "--out", tmp_path / "out"), "none.csv, found none")
    assert list(tmp_path.iterdir()) == []
