"""Memberships: soft, hard, intervals, joining and trees."""

import arviz as az
import numpy as np
import pytest
import xarray as xr
from cases.people import drawn

from pl2d_ppl.people.membership import Membership

pytestmark = pytest.mark.exhaustive  # a compilation for nearly every test: `make check` is to take three minutes


def test_soft_hard_and_intervals():
    placed = drawn("abcd")
    np.testing.assert_array_equal(placed.soft, placed.probs)
    assert placed.hard.shape == (3, 4)
    np.testing.assert_array_equal(placed.hard.sum(0), 1)
    np.testing.assert_array_equal(placed.hard.argmax(0), placed.assignment)
    np.testing.assert_array_equal(placed.assignment, placed.soft.argmax(0))
    interval = placed.interval(0.5)
    assert interval.shape == (3, 4, 2)
    np.testing.assert_allclose(interval[1, 2], np.quantile(placed.draws[2, ..., 1], [0.25, 0.75]))
    for probability in (0.0, 1.0, np.nan):
        with pytest.raises(ValueError, match="between 0 and 1"):
            placed.interval(probability)


def test_estimates_have_no_intervals():
    placed = Membership(np.eye(3)[:, :2], np.array([3, 4]), ("a", "b"), ("x", "y", "z"), "em", gap=np.zeros(2))
    for ask in (placed.interval, lambda: placed.r_hat, lambda: placed.ess_bulk):
        with pytest.raises(ValueError, match=r"Expected draws, found none: .* by em\. Use sample_membership"):
            ask()
    assert set(placed.to_datatree().children) == {"point"}


def test_a_new_person_joins():
    both = drawn("ab").join(drawn("c", seed=51))
    assert both.people == ("a", "b", "c")
    np.testing.assert_array_equal(both.probs, np.concatenate([drawn("ab").probs, drawn("c", seed=51).probs], 1))
    assert both.draws.shape == (3, 2, 40, 3)
    assert both.num_annotations.tolist() == [10, 11, 10]
    assert both.num_divergences.tolist() == [0, 1, 0]
    assert both.gap is None
    em = Membership(np.eye(3)[:, :1], np.array([3]), ("c",), ("x", "y", "z"), "em", gap=np.zeros(1))
    other_clusters = Membership(np.eye(2)[:, :1], np.array([3]), ("c",), ("x", "y"), "nuts")
    for other, message in [
        (drawn("b"), r"distinct names, one a person, found \['b'\]"),
        (drawn("c", num_draws=30), r"as many chains and draws, found \(2, 40\) and \(2, 30\)"),
        (em, "the same method, found 'nuts' and 'em'"),
        (other_clusters, "the same clusters"),
    ]:
        with pytest.raises(ValueError, match=message):
            drawn("ab").join(other)


def test_tree_is_for_arviz_and_disk(tmp_path):
    placed = drawn("abc")
    tree = placed.to_datatree()
    tree.to_netcdf(tmp_path / "membership.nc", engine="h5netcdf")
    with xr.open_datatree(tmp_path / "membership.nc", engine="h5netcdf") as read:
        for group in ("posterior", "point"):
            assert tree[group].dataset.equals(read[group].dataset.load())
        assert read.attrs["method"] == read["posterior"].attrs["method"] == "nuts"
        of_b = read["posterior"]["membership"].sel(person="b", cluster="z")
        np.testing.assert_array_equal(of_b, placed.draws[1, ..., 2])
    summary = az.summary(tree, round_to="none")
    np.testing.assert_allclose(summary.loc["membership[y, c]", "mean"], placed.probs[1, 2])
    np.testing.assert_allclose(summary["r_hat"].to_numpy().reshape(3, 3), placed.r_hat)
    np.testing.assert_allclose(summary["ess_bulk"].to_numpy().reshape(3, 3), placed.ess_bulk)
