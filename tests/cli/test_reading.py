"""Options of reading, which all commands take; what they took for what; features by name."""

import json

import numpy as np
import pytest
from cases.command import pl2d, plain, refused
from cases.exports import SAID, label_studio

from pl2d_ppl.cli.reading import ReadingOptions, read_inputs, read_with_features

COMMANDS = ("fit", "curve", "clusters", "onboard", "crowd")
SHARED = ["--layout", "--column", "--classes", "--person", "--truth", "--features", "--duplicates", "--missing-label"]
SHARED += [
    "--abstained",
    "--encoding",
    "--delimiter",
    "--names",
    "--header",
    "--quotes",
    "--feature-prefix",
    "--question",
]


def done(result):
    assert result.exit_code == 0, result.output
    return plain(result.stdout)


def write(path, *lines):
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_takes_the_options_of_reading(command):
    out = done(pl2d(command, "--help"))
    for option in SHARED:
        assert option[:20] in out, option


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_says_what_it_took(tmp_path, command):
    path = write(tmp_path / "d.csv", "picture,annotator,label", "a,m,0", "a,n,1", "b,m,NULL", "b,n,1")
    options = ["--column", "item=picture"]
    # Without truth or features nothing is trained.
    result = pl2d(command, path, "--out", tmp_path / "out", *options)
    assert result.exit_code == 2
    assert "--features FILE" in plain(result.stderr) or "--truth FILE" in plain(result.stderr)
    assert "columns=" not in result.output
    features = write(tmp_path / "x.csv", "picture,size", "a,1", "b,2")
    truth = write(tmp_path / "y.csv", "picture,truth", "a,1", "b,0")
    data, _ = read_with_features(path, ReadingOptions(columns=("item=picture",), features=features, truth=truth))
    assert data.features == ("size",)


def test_the_line_is_on_stderr_and_in_the_description(tmp_path, capfd):
    path = write(tmp_path / "d.csv", "item,ann,bob,truth,x_0", "a,0,1,0,.5", "b,1,NULL,1,.7")
    read_with_features(path)
    line = "wide table: item = item, people = 'ann', 'bob', truth = truth, missing = 'NULL' (1)"
    assert line in capfd.readouterr().err
    assert pl2d("data", "describe", path).stdout.splitlines()[0] == line
    assert json.loads(pl2d("data", "describe", path, "--json").stdout)["taken"] == line


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (("item,ann,bob", "a,1,3", "b,2,0"), ["--layout wide or --layout counts"]),
        (("item,worker,label,answer", "a,m,1,2"), ["--column label=label --column truth=answer"]),
        (("item,worker,mood", "a,m,1"), ["--column label=...", "--layout wide"]),
        (("a,m,1", "a,n,2", "b,m,1"), ["--names item,annotator,label", "--header"]),
        (("item,worker,label", "a,m,1", "a,m,2"), ["--duplicates first, last, newest or majority"]),
        (("item,ann,bob", "a,-1,0", "b,1,0"), ["--missing-label=-1", "--classes=-1,0,1"]),
        (("item,worker,label", 'a,m,"he', "b,m,x"), ["--no-quotes", "--quotes"]),
        (("item,ann,note", "a,1,fine", "b,0,dark"), ["--people A,B"]),
    ],
)
def test_advice_is_in_the_syntax_of_the_command_line(tmp_path, lines, words):
    result = pl2d("data", "describe", write(tmp_path / "d.csv", *lines))
    refused(result, *words)
    for python in ("columns=", "layout=", "missing=[", "people=[", "names=[", 'duplicates="', "quotes="):
        assert python not in result.output


def test_names_that_hold_commas(tmp_path):
    rows = ["item,annotator,label", 'a,"Doe, J.",0', 'a,"Roe, R.",1', 'b,"Doe, J.",1', 'b,Poe,"yes, surely"']
    path = write(tmp_path / "d.csv", *rows)
    for options in (
        ["--people", "Doe, J."],
        ["--people", '"Doe, J."'],
        ["--person", "Doe, J.", "--missing-label", "x,y"],
    ):
        assert "1 people" in done(pl2d("data", "describe", path, *options)), options
    both = done(pl2d("data", "describe", path, "--person", '"Doe, J.",Poe'))
    assert "2 people" in both
    assert "3 people" in done(pl2d("data", "describe", path, "--classes", '0,1,"yes, surely"'))
    repeated = ["--classes", "0", "--classes", "1", "--classes", '"yes, surely"']
    assert "3 people" in done(pl2d("data", "describe", path, *repeated))
    refused(pl2d("data", "describe", path, "--classes", "0,1,yes, surely"), "in double quotes, or the option repeated")
    refused(pl2d("data", "describe", path, "--classes", '0,"1'), "Correct the quotes")


def test_a_workbook_is_no_npz(tmp_path):
    import zipfile

    with zipfile.ZipFile(tmp_path / "d.xlsx", "w") as archive:
        archive.writestr("xl/workbook.xml", "<workbook/>")
    result = pl2d("data", "describe", tmp_path / "d.xlsx")
    refused(result, "workbook")
    assert "key" not in result.output


def test_a_workbook_is_a_table(tmp_path):
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    for row in (("item", "annotator", "label"), (1, "m", "cat"), (1, "n", None), (2, "m", "dog"), (2, "n", "#N/A")):
        book.active.append(row)
    book.save(tmp_path / "d.xlsx")
    out = done(pl2d("data", "describe", tmp_path / "d.xlsx"))
    assert "missing = empty (2)" in out
    assert "2 items" in out


def test_features_are_found_by_name(tmp_path):
    fitted = ("area", "x_b")
    there = write(tmp_path / "a.csv", "file,x_b,other,area", "u,1,9,2", "v,3,9,4")
    found = read_inputs(there, fitted, ["item=file"])
    assert found.x.tolist() == [[2, 1], [4, 3]]
    assert list(found.items) == ["u", "v"]
    with pytest.raises(
        ValueError, match=r"features of the fit, area, x_b, in .*b.csv, found x_c, and none of area, x_b"
    ):
        read_inputs(write(tmp_path / "b.csv", "item,x_c", "u,1"), fitted)
    np.savez(tmp_path / "c.npz", x=[[1.0, 2.0]], features=["x_b", "area"])
    assert read_inputs(tmp_path / "c.npz", fitted).x.tolist() == [[2, 1]]


@pytest.mark.slow
def test_an_export_is_fitted_and_predictions_carry_names(tmp_path):
    (tmp_path / "export").write_bytes(label_studio())
    features = write(tmp_path / "x.csv", "item,size,weight", *(f"{item},{n},{-n}" for n, item in enumerate(SAID)))
    options = ["--epochs", 1, "--batch-size", 2, "--features", features, "--out", tmp_path / "fit"]
    done(pl2d("fit", tmp_path / "export", *options))
    settings = json.loads((tmp_path / "fit" / "settings.json").read_text())
    assert settings["features"] == ["size", "weight"]
    new = {}
    for header in ("item,size,weight", "item,weight,size"):
        rows = {"size": (1, 2), "weight": (-1, -2)}
        names = header.split(",")[1:]
        path = write(tmp_path / "new.csv", header, *(f"n{i},{rows[names[0]][i]},{rows[names[1]][i]}" for i in (0, 1)))
        done(pl2d("predict", tmp_path / "fit", path, "--out", tmp_path / "p.npz"))
        with np.load(tmp_path / "p.npz") as arrays:
            assert arrays["items"].tolist() == ["n0", "n1"]
            new[header] = arrays["ai"]
    np.testing.assert_array_equal(*new.values())
    refused(
        pl2d("predict", tmp_path / "fit", write(tmp_path / "o.csv", "item,a,b", "u,1,2"), "--out", tmp_path / "p.npz"),
        "size",
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("default:.*they are counted as votes")
def test_clusters_of_annotations_need_no_truth(tmp_path):
    rows = [f"i{n},{who},{(n + m // 2) % 2}" for n in range(24) for m, who in enumerate(("ann", "bo", "cy"))]
    path = write(tmp_path / "long.csv", "item,annotator,label", *rows)
    features = write(tmp_path / "x.csv", "item,size", *(f"i{n},{n % 2}" for n in range(24)))
    options = ["--k", "1,2", "--steps", 2, "--seeds", 1, "--batch-size", 8, "--features", features]
    result = pl2d("clusters", path, *options, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "annotations of 3 people: they are counted as votes" in plain(result.stderr)
    assert json.loads((tmp_path / "out" / "clusters.json").read_text())["votes"] == 72
