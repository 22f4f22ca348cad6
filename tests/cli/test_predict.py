"""``pl2d predict``: predictions of a fit that was kept."""

import gc
import json
import re

import numpy as np
import pytest
from cases.command import pl2d, refused, toy
from scipy.special import softmax

from pl2d_ppl import standardise
from pl2d_ppl.cli.predict import load_saved
from pl2d_ppl.data import read_npz


@pytest.fixture(scope="module")
def predicted(folder, fitted):
    """Output and arrays of predictions of the training items."""
    result = pl2d("predict", fitted[1], folder / "data.npz", "--out", folder / "predictions.npz")
    assert result.exit_code == 0, result.output
    with np.load(folder / "predictions.npz", allow_pickle=False) as arrays:
        return result.output, dict(arrays)


def forward(params, name, x):
    """An MLP, in double precision."""
    weights = params[f"{name}$params"]
    for index in sorted(weights["hidden"]):
        layer = weights["hidden"][index]
        x = np.maximum(x @ np.asarray(layer["kernel"], float) + np.asarray(layer["bias"]), 0)
    return x @ np.asarray(weights["readout"]["kernel"], float) + np.asarray(weights["readout"]["bias"])


def test_predictions_are_those_of_the_saved_networks(fitted, predicted, data):
    _, arrays = predicted
    settings = json.loads((fitted[1] / "settings.json").read_text())
    (scaled,) = standardise(read_npz(data)[0])
    result = load_saved(fitted[1] / "fit", settings, scaled.x)
    assert {n: a.shape for n, a in arrays.items()} == {
        "decision": (48,),
        "gate": (48, 3),
        "ai": (48, 3),
        "belief": (48, 3, 3),
        "deciders": (3,),
        "classes": (3,),
    }
    gate = softmax(forward(result.params, "gating", scaled.x), -1)
    np.testing.assert_allclose(arrays["gate"], gate, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(
        arrays["ai"], softmax(forward(result.params, "classifier", scaled.x), -1), rtol=1e-3, atol=1e-5
    )
    np.testing.assert_allclose(arrays["belief"].sum(-1), 1, rtol=1e-5)
    np.testing.assert_allclose(arrays["belief"][:, 2], arrays["ai"], rtol=1e-5)
    expected = (np.log(arrays["gate"]) + settings["policy"]["offsets"]).argmax(-1)
    np.testing.assert_array_equal(arrays["decision"], expected)
    assert arrays["decision"].dtype == np.int32
    assert list(arrays["deciders"]) == ["Ada", "Bob", "AI"]
    assert list(arrays["classes"]) == ["cat", "dog", "owl"]


def test_predictions_of_the_training_items_have_the_shares_of_the_fit(fitted, predicted):
    share = lambda text, name: float(re.search(rf"\b{name}\s+([\d.]+)", text).group(1))  # noqa: E731
    for name in ("Ada", "Bob", "AI"):
        assert share(predicted[0], name) == pytest.approx(share(fitted[0], name), abs=1e-3)


@pytest.mark.slow
def test_new_values_of_a_constant_feature_do_not_explode(fitted, predicted, folder):
    """A feature that was constant in training is centred only, in the fit and so in predictions."""
    x = toy().x.copy()
    x[:, 3] += 1e-3
    np.savez(folder / "shifted.npz", x=x)
    assert pl2d("predict", fitted[1], folder / "shifted.npz", "--out", folder / "shifted_out.npz").exit_code == 0
    with np.load(folder / "shifted_out.npz") as arrays:
        np.testing.assert_allclose(arrays["gate"], predicted[1]["gate"], atol=0.01)


@pytest.mark.slow
def test_predictions_need_no_labels_and_one_item_is_enough(fitted, predicted, folder):
    np.savez(folder / "one.npz", x=toy().x[:1])
    result = pl2d("predict", fitted[1], folder / "one.npz", "--out", folder / "new" / "one_out.npz")
    assert result.exit_code == 0, result.output
    with np.load(folder / "new" / "one_out.npz") as arrays:
        np.testing.assert_allclose(arrays["gate"], predicted[1]["gate"][:1], rtol=1e-4)


def test_predict_refuses_what_is_no_fit(data, tmp_path):
    refused(pl2d("predict", tmp_path / "none", data, "--out", tmp_path / "out.npz"), "pl2d fit")
    for content in ("{", "[1]", "{}"):
        (tmp_path / "fit").mkdir(exist_ok=True)
        (tmp_path / "fit" / "settings.json").write_text(content)
        refused(pl2d("predict", tmp_path / "fit", data, "--out", tmp_path / "out.npz"), "pl2d fit")
    assert [p.name for p in tmp_path.iterdir()] == ["fit"]


def test_predictions_are_an_npz_by_name_too(fitted, data, tmp_path):
    refused(pl2d("predict", fitted[1], data, "--out", tmp_path / "out.csv"), "Expected an .npz file", "out.csv")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["missing", "truncated", "nan", "narrow"])
def test_predict_refuses_bad_inputs(fitted, folder, tmp_path, name):
    refused(
        pl2d("predict", fitted[1], folder / f"{name}.npz", "--out", tmp_path / "out.npz"), f"{name}.npz", "Expected"
    )
    assert list(tmp_path.iterdir()) == []
    gc.collect()  # a file that was left open shows here, and not in a later test


def test_predict_refuses_an_unwritable_place(fitted, data, tmp_path):
    (tmp_path / "file").write_text("kept")
    refused(pl2d("predict", fitted[1], data, "--out", tmp_path / "file" / "out.npz"), "Expected a folder")
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "thesis.txt").write_text("years of work")
    refused(pl2d("predict", fitted[1], data, "--out", tmp_path / "results"), "Expected")
    assert (tmp_path / "results" / "thesis.txt").exists()
