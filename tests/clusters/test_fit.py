"""Fits of clusters, held-out votes, and the command that runs them."""

import json
from functools import partial

import jax
import numpy as np
import pytest
import xarray as xr
from typer.testing import CliRunner

from pl2d_ppl.cli.app import app
from pl2d_ppl.clusters.fit import CLUSTER_SCHEDULE, equal_sizes, fit_clusters, held_out
from pl2d_ppl.clusters.lda_evidence import lda_evidence
from pl2d_ppl.data import read_npz
from pl2d_ppl.data.votes import votes_of_counts
from pl2d_ppl.plots import plot_heatmap, plot_perplexity

QUICK = {"hidden": (8,), "schedule": CLUSTER_SCHEDULE.replace(steps=6, batch_size=32)}


def votes_data(num_items=80, num_votes=4, num_categories=3, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((num_items, 5)).astype(np.float32)
    truth = x[:, :num_categories].argmax(1)
    votes = np.where(rng.random((num_items, num_votes)) < 0.7, truth[:, None], rng.integers(num_categories, size=(1,)))
    votes[rng.random(votes.shape) < 0.1] = -1
    return x, votes.astype(np.int32), np.stack([(votes == c).sum(1) for c in range(num_categories)], 1)


@pytest.fixture(scope="module")
def lda_runs():
    x, _, counts = votes_data()
    return fit_clusters(
        jax.random.key(0), x, counts, [1, 3], vote_model="lda", alphas=(2.0, 50.0), seeds=2, **QUICK, progress=False
    )


@pytest.mark.slow
def test_lda_runs_are_all_of_one_batch(lda_runs):
    assert [(r.num_clusters, r.alpha, r.seed) for r in lda_runs] == [
        (k, a, s) for k in (1, 3) for a in (2.0, 50.0) for s in (0, 1)
    ]
    assert len({id(r.fits) for r in lda_runs}) == 1


@pytest.mark.slow
def test_an_inactive_cluster_changes_nothing(lda_runs):
    # One cluster among three networks: its bound is that of a plain product of votes.
    x, _, counts = votes_data(seed=1)
    run = next(r for r in lda_runs if (r.num_clusters, r.alpha) == (1, 50.0))
    rows = held_out([run], x, counts)
    log_h = np.log(run.cluster_probs(x)[:, 0])
    expected = (counts * log_h).sum()
    assert rows[0]["elbo"] == pytest.approx(expected, rel=1e-4)
    assert rows[0]["evidence"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.slow
def test_held_out_bound_lies_below_the_evidence_of_the_votes_in_order(lda_runs):
    x, _, counts = votes_data(seed=1)
    run = next(r for r in lda_runs if (r.num_clusters, r.alpha) == (3, 2.0))
    (row,) = held_out([run], x, counts, batch_size=30)
    evidence = lda_evidence(votes_of_counts(counts), np.log(run.cluster_probs(x)), 2.0).sum()
    assert row["evidence"] == pytest.approx(float(evidence), rel=1e-5)
    assert row["elbo"] < row["evidence"]
    assert row["elbo"] > 1.2 * row["evidence"]  # negative: not by far


@pytest.mark.exhaustive
@pytest.mark.slow
def test_the_urns_bound_is_the_evidence_and_votes_of_others_tell_of_the_truth():
    x, _, counts = votes_data(num_votes=6)
    runs = fit_clusters(jax.random.key(1), x, counts, [2], vote_model="urn", num_people=6, **QUICK, progress=False)
    (row,) = held_out(runs, x, counts)
    assert row["elbo"] == row["evidence"] < 0
    unanimous = np.zeros_like(counts)
    unanimous[:, 1] = 5
    alone, informed = runs[0].cluster_probs(x), runs[0].cluster_probs(x, unanimous)
    np.testing.assert_allclose(alone.sum(-1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(informed.sum(-1), 1.0, rtol=1e-5)
    assert (informed[:, :, 1] > alone[:, :, 1]).mean() > 0.95


@pytest.mark.parametrize(("people", "clusters", "sizes"), [(6, 3, (2, 2, 2)), (6, 4, (2, 2, 1, 1)), (5, 5, (1,) * 5)])
def test_sizes_differ_by_one_at_most(people, clusters, sizes):
    assert equal_sizes(people, clusters) == sizes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_clusters": []}, "distinct numbers of clusters"),
        ({"num_clusters": [0, 2]}, "from 1 up"),
        ({"num_clusters": [2, 2]}, "distinct"),
        ({"num_clusters": [7], "vote_model": "urn", "num_people": 6}, "between 1 and 6 clusters.*found 7"),
        ({"vote_model": "urn", "num_people": 2}, "nobody votes twice, found 2 people and an item with 4"),
        ({"vote_model": "hdp"}, "'hdp'"),
        ({"seeds": 0}, "at least one seed"),
        ({"vote_model": "lda", "alphas": (0.0,)}, "positive concentration alpha"),
    ],
)
def test_bad_requests(changes, message):
    x, _, counts = votes_data()
    arguments = {"num_clusters": [2], **QUICK, "progress": False} | changes
    with pytest.raises(ValueError, match=message):
        fit_clusters(jax.random.key(0), x, counts, **arguments)


# --- Reading --------------------------------------------------------------------------------------


def test_votes_and_counts_are_read_alike(tmp_path):
    x, votes, counts = votes_data()
    np.savez(tmp_path / "votes.npz", x=x, votes=votes, annotations=votes[:, :2], annotators=["a", "b"])
    np.savez(tmp_path / "counts.npz", x=x, counts=counts, classes=["u", "v", "w"])
    first, second = (read_npz(tmp_path / name)[0] for name in ("votes.npz", "counts.npz"))
    np.testing.assert_array_equal(first.counts, counts)
    np.testing.assert_array_equal(second.counts, counts)
    assert (first.classes, second.classes) == (("0", "1", "2"), ("u", "v", "w"))
    assert first.annotators == ("a", "b")
    assert second.annotations.shape == (80, 0)


X = np.zeros((3, 2), np.float32)
COUNTS = np.ones((3, 2), int)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": X}, "keys x, and y or votes or counts, in .*, found x. Add truth or votes"),
        ({"x": X, "votes": COUNTS, "counts": COUNTS}, "either votes or counts"),
        ({"x": X, "votes": np.full((3, 4), -1)}, "votes in counts, found none"),
        ({"x": X, "votes": np.ones((3, 4))}, "integer"),
        ({"x": X, "votes": np.ones((2, 4), int)}, r"votes of shape \(3, L\), .* found \(2, 4\)"),
        ({"x": X, "counts": -COUNTS}, "numbers of votes from 0 up in counts, found -1 at item 0, column 0"),
        ({"x": X, "counts": COUNTS / 2}, "integer numbers of votes in counts, found float64"),
        ({"x": X, "counts": 0 * COUNTS}, "votes in counts, found none"),
        (
            {"x": X, "votes": COUNTS, "classes": ["a", "b"], "annotations": np.full((3, 1), 2)},
            "in annotations, found 2 at item 0",
        ),
        ({"x": X * np.nan, "votes": COUNTS}, "x that is finite"),
    ],
)
def test_bad_files(tmp_path, arrays, message):
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        read_npz(tmp_path / "bad.npz")


# --- Pictures -------------------------------------------------------------------------------------


def test_pictures_show_what_they_are_given():
    rows = [{"num_clusters": k, "perplexity_elbo": 3.0 - k / 10, "perplexity_evidence": None} for k in (1, 1, 2)]
    ax = plot_perplexity(rows, chosen=2)
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == ["bound", "chosen: K = 2"]
    values = np.array([[0.2, 1.0], [0.8, 0.0]])
    ax = plot_heatmap(values, ["r", "s"], ["a", "b"], label="share", spread=np.stack([values, values], -1))
    assert ax.texts[0].get_text() == "0.20\n0.20–0.20"
    np.testing.assert_array_equal(ax.images[0].get_array(), values)


# --- The command ----------------------------------------------------------------------------------

run = partial(CliRunner().invoke, app)


@pytest.mark.slow
@pytest.mark.filterwarnings("default::UserWarning")  # the command prints it
@pytest.mark.parametrize("vote_model", [pytest.param("urn", marks=pytest.mark.exhaustive), "lda"])
def test_command_writes_what_it_prints(tmp_path, vote_model):
    x, votes, _ = votes_data(num_items=120)
    annotations = np.pad(votes[:, :2], ((0, 0), (0, 1)), constant_values=-1)
    np.savez(tmp_path / "votes.npz", x=x, votes=votes, annotations=annotations, annotators=["Ann", "Bo", "Gus"])
    out = tmp_path / "out"
    options = ["--k", "1,2", "--seeds", "2", "--steps", "6", "--vote-model", vote_model, "--out", str(out)]
    result = run(["clusters", str(tmp_path / "votes.npz"), *options])
    assert result.exit_code == 0, result.output
    report = json.loads((out / "clusters.json").read_text())
    assert len(report["fits"]) == 4
    assert report["chosen"] == 2
    assert f"K = {report['chosen']}" in result.output
    assert "none of 'Gus'" in result.output
    np.testing.assert_allclose(np.sum(report["membership"]["soft"], 0), 1.0, rtol=1e-4)
    assert report["membership"]["annotations"][2] == 0
    for name in ("perplexity.png", "clusters.png", "membership.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")
    with xr.open_datatree(out / "posterior.nc", engine="h5netcdf") as tree:
        assert tree["membership/posterior"]["membership"].dims == ("chain", "draw", "cluster", "person")
        site = {"urn": "y", "lda": "u"}[vote_model]
        assert tree["posterior"][site].dims[:3] == ("chain", "draw", "item")
        assert tree["network_outputs"]["cluster_probs"].dims == ("item", "cluster", "category")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--k", "2"], "two or more increasing numbers of clusters"),
        (["--k", "3,2"], "increasing"),
        (["--k", "a"], "whole numbers"),
        pytest.param(["--test-share", "1"], "between 0 and 1", marks=pytest.mark.slow),
    ],
)
def test_command_refuses_before_the_work(tmp_path, options, message):
    x, votes, _ = votes_data()
    np.savez(tmp_path / "votes.npz", x=x, votes=votes)
    result = run(["clusters", str(tmp_path / "votes.npz"), "--out", str(tmp_path / "out"), *options])
    assert result.exit_code == 2
    assert message in result.output
    assert not (tmp_path / "out").exists()
