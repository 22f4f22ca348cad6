"""``pl2d crowd``: the truth, the people, and files whole or not at all."""

import json

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from cases.command import pl2d, plain, refused, toy
from PIL import Image

from pl2d_ppl.data import write_npz


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Output and folder of a crowd without truth."""
    folder = tmp_path_factory.mktemp("crowd")
    data = toy()
    np.savez(folder / "data.npz", x=data.x, annotations=data.annotations, y=np.full(data.num_items, -1))
    result = pl2d("crowd", folder / "data.npz", "--steps", 100, "--again", 5, "--out", folder / "out")
    assert result.exit_code == 0, result.output
    return plain(result.output), folder / "out"


@pytest.mark.slow
def test_the_truth_is_a_table(found):
    _, out = found
    table = pd.read_csv(out / "truth.csv", dtype={"truth": str})
    probs = table[["p_0", "p_1", "p_2"]].to_numpy()
    np.testing.assert_allclose(probs.sum(1), 1, atol=1e-5)
    np.testing.assert_array_equal(table["truth"].astype(int), probs.argmax(1))
    assert table["gold"].isna().all()
    assert np.mean(probs.argmax(1) == np.arange(48) % 3) > 0.8


@pytest.mark.slow
def test_the_report_names_people_and_items(found):
    output, out = found
    report = json.loads((out / "crowd.json").read_text())
    assert report["people"]["expert_0"]["accuracy"][0] > report["people"]["expert_1"]["accuracy"][0]
    assert len(report["look_again"]) == 5
    assert report["gold"] == 0
    assert "expert_0" in output
    assert "Look again" in output


@pytest.mark.slow
def test_the_posterior_and_the_picture(found):
    _, out = found
    tree = xr.open_datatree(out / "posterior.nc", engine="h5netcdf")
    assert tree["marginals"]["y_probs"].shape == (48, 3)
    confusion = tree["posterior"]["confusion"]
    assert confusion.dims[2:] == ("person", "true_category", "category")
    assert confusion["person"].values.tolist() == ["expert_0", "expert_1"]
    np.testing.assert_allclose(confusion.sum("category"), 1, rtol=1e-5)
    assert np.asarray(Image.open(out / "people.png")).std() > 10  # not blank


def test_votes_without_names_are_refused(tmp_path):
    data = toy()
    np.savez(tmp_path / "votes.npz", x=data.x, y=data.y, counts=np.ones((48, 3), int))
    refused(pl2d("crowd", tmp_path / "votes.npz", "--out", tmp_path / "out"), "named people", "pl2d clusters")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_curve_of_a_crowd(tmp_path):
    """The truth of the training part is gold; the test part scores."""
    data = toy()
    write_npz(tmp_path / "data.npz", data.replace_annotations(np.maximum(data.annotations, 0)))
    options = ["--method", "crowd", "--steps", 50, "--coverages", "0,1", "--out", tmp_path / "out"]
    result = pl2d("curve", tmp_path / "data.npz", *options)
    assert result.exit_code == 0, result.output
    assert "crowd" in result.output


def test_what_needs_truth_names_the_command_that_infers_it(tmp_path):
    data = toy()
    path = tmp_path / "data.npz"
    np.savez(path, x=data.x, annotations=data.annotations, y=np.full(data.num_items, -1))
    for command in (("fit",), ("curve", "--steps", 2)):
        refused(pl2d(*command[:1], path, *command[1:], "--out", tmp_path / "out"), "some truth", "pl2d crowd")
    assert "pl2d crowd" in pl2d("data", "describe", path).stdout
    write_npz(path, data)
    assert "pl2d crowd" not in pl2d("data", "describe", path).stdout
