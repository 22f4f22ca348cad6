"""Predictive draws: as frequent as the program says, in the shape of the data, and as ArviZ plots them."""

import arviz as az
import jax.numpy as jnp
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from cases.fits import KEY, quiet
from numpyro.handlers import mask
from oracles.prob_l2d import label_channel
from programs import mlp_model, random_batch
from scipy.special import expit, softmax
from scipy.stats import chisquare

from pl2d_ppl import workload
from pl2d_ppl.guides.exact import exact
from pl2d_ppl.guides.normal import normal
from pl2d_ppl.inference.predictive import predictive

mpl.use("Agg")
DRAWS = 4000
ENUMERATE = {"enumerate": "parallel"}


def fitted(model, guide, data, epochs=2, rate=0.1):
    return quiet(KEY, model, guide, data, optax.adam(rate), epochs=epochs, batch_size=len(data["x"]))


def observe(name, fn, values):
    if values is None:
        return numpyro.sample(name, fn, infer=ENUMERATE)
    with mask(mask=values >= 0):
        return numpyro.sample(name, fn, obs=values)


def crowd(x, said=None, *, people=3):
    """A kind of each item, which people report; they are alike, but for a skill that all share."""
    skill = numpyro.sample("skill", dist.Normal(0.0, 1.5))
    bias = numpyro.param("bias", jnp.array(0.5))
    with numpyro.plate("picture", len(x), dim=-2):
        kind = numpyro.sample("kind", dist.Bernoulli(logits=x[:, None] + bias), infer=ENUMERATE)
        with numpyro.plate("person", people, dim=-1):
            observe("said", dist.Bernoulli(logits=skill * (2 * kind - 1)), said)


X = np.array([-1.0, 0.0, 2.0], np.float32)
SAID = np.array([[1, -1, 0], [-1, -1, 1], [1, 1, 1]])


@pytest.fixture(scope="module")
def of_crowd():
    data = {"x": X, "said": SAID}
    guide = exact(crowd, ["kind"], continuous=normal(crowd, init_scale=0.3))
    result = fitted(crowd, guide, data, epochs=50)
    return result, data, predictive(KEY, result, data, num_samples=DRAWS, missing="mark", batch_size=2)


def chance(bias, skill):
    """Of each item, that one person says 1, that two do, and that one says it of this item and of the last one."""
    kind = expit(X + bias)[:, None]
    right = expit(skill)
    one = kind * right + (1 - kind) * (1 - right)
    both = kind * right**2 + (1 - kind) * (1 - right) ** 2
    return one.mean(1), both.mean(1), (one * one[-1]).mean(1)


@pytest.mark.parametrize("group", ["prior_predictive", "posterior_predictive"])
def test_draws_are_as_frequent_as_the_program_says(of_crowd, group):
    result = of_crowd[0]
    tree = predictive(KEY, result, {"x": X}, num_samples=DRAWS, batch_size=2)
    loc, scale = (float(result.params[f"skill_{n}"]) for n in ("loc", "scale"))
    loc, scale = (0.0, 1.5) if group == "prior_predictive" else (loc, scale)
    skill = loc + scale * np.random.default_rng(0).standard_normal(200_000)
    one, both, across = chance(float(result.params["bias"]), skill)
    said = tree[group]["said"].values[0]
    assert said.shape == (DRAWS, 3, 3)
    np.testing.assert_allclose(said.mean(0), np.repeat(one[:, None], 3, 1), atol=0.04)  # five standard errors
    np.testing.assert_allclose((said[..., 0] & said[..., 2]).mean(0), both, atol=0.04)
    assert (said[:, 0, 0] & said[:, 2, 1]).mean() == pytest.approx(across[0], abs=0.04)  # of another chunk
    assert set(tree.children) == {"prior_predictive", "posterior_predictive"}


def test_what_is_missing_is_missing_in_both_and_left_out_by_default(of_crowd):
    result, data, marked = of_crowd
    np.testing.assert_array_equal(marked["observed_data"]["said"], SAID)
    for group in ("prior_predictive", "posterior_predictive"):
        np.testing.assert_array_equal((marked[group]["said"].values == -1).all((0, 1)), SAID < 0)
        np.testing.assert_array_equal((marked[group]["said"].values >= 0).all((0, 1)), SAID >= 0)
    assert marked["observed_data"]["said"].dims == ("picture", "person")
    names = {"person": ["ann", "bob", "cid"], "picture": ["a", "b", "c"]}
    tree = predictive(KEY, result, data, num_samples=20, coords=names)
    for group in ("prior_predictive", "posterior_predictive", "observed_data"):
        said = tree[group]["said"]
        assert said.dims[-1] == "said_entry"
        assert said.sizes["said_entry"] == 6
        assert list(said["said_person"].values) == ["ann", "cid", "cid", "ann", "bob", "cid"]
        assert list(said["said_picture"].values) == ["a", "a", "b", "c", "c", "c"]
    np.testing.assert_array_equal(tree["observed_data"]["said"], SAID[SAID >= 0])


PLOTS = {
    "plot_ppc_dist": {"kind": "ecdf"},
    "plot_ppc_tstat": {"t_stat": "mean"},
    "plot_ppc_rootogram": {},
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning:arviz_plots", "ignore::UserWarning:arviz_stats")
@pytest.mark.filterwarnings("ignore:Found chain:UserWarning")
@pytest.mark.parametrize("plot", PLOTS)
def test_arviz_plots(of_l2d, plot, tmp_path):
    *_, tree = of_l2d
    collection = getattr(az, plot)(tree, var_names=["annotation", "y"], **PLOTS[plot])
    collection.savefig(tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000
    plt.close("all")


MODEL = mlp_model(3, 2, 3)


@pytest.fixture(scope="module")
def of_l2d():
    data = random_batch(3, num_items=12)
    result = fitted(MODEL, workload(exact(MODEL, ["z"]), "z", [0, 0, 0.6], [1, 1, 1]), data)
    return result, data, predictive(KEY, result, data, num_samples=DRAWS)


@pytest.mark.slow
def test_answers_of_prob_l2d_are_new_ones(of_l2d):
    result, data, tree = of_l2d
    outputs = {n: a[0] for n, a in result.outputs(data["x"]).items()}
    gate, belief = (softmax(outputs[n].astype(float), -1) for n in ("gate_logits", "belief_logits"))
    y = np.einsum("nm,nmc,cd->nd", gate, belief, label_channel(3, 1e-3))  # not under the bounds of the guide
    known = np.asarray(data["y"]) >= 0
    drawn = tree["posterior_predictive"]
    counts = (drawn["y"].values[0][..., None] == np.arange(3)).sum(0)
    for found, expected in zip(counts, y[known], strict=True):
        assert chisquare(found, DRAWS * expected / expected.sum()).pvalue > 1e-4
    there = np.asarray(data["annotations"]) >= 0
    counts = (drawn["annotation"].values[0][..., None] == np.arange(3)).sum(0)
    for found, expected in zip(counts, belief[:, :-1][there], strict=True):
        assert chisquare(found, DRAWS * expected / expected.sum()).pvalue > 1e-4
    assert set(drawn.data_vars) == {"annotation", "y", "y_ai"}
    names = tree["observed_data"]["annotation"]["annotation_expert"].values
    assert list(names) == [f"expert_{m}" for m in np.nonzero(there)[1]]


@pytest.mark.slow
def test_given_answers_are_conditioned_on():
    def full(x, said=None, kind=None):
        with numpyro.plate("picture", len(x), dim=-2):
            logits = x[:, None] + numpyro.param("bias", jnp.array(0.5))
            kind = observe("kind", dist.Bernoulli(logits=logits), None if kind is None else kind[:, None])
            with numpyro.plate("person", 3, dim=-1):
                observe("said", dist.Bernoulli(jnp.array([0.3, 0.8])[kind]), said)

    data = {"x": X, "said": SAID, "kind": np.array([1, 0, 1])}
    result = fitted(full, exact(full), data)
    tree = predictive(KEY, result, data, num_samples=DRAWS, given=["said"])
    likelihood = [np.prod(np.where(SAID < 0, 1, np.where(SAID == 1, p, 1 - p)), -1) for p in (0.3, 0.8)]
    prior = expit(X + float(result.params["bias"]))
    expected = prior * likelihood[1] / (prior * likelihood[1] + (1 - prior) * likelihood[0])
    np.testing.assert_allclose(tree["posterior_predictive"]["kind"].mean(("chain", "draw")), expected, atol=0.04)
    assert set(tree.children) == {"posterior_predictive", "observed_data"}
    assert set(tree["observed_data"].data_vars) == {"kind"}


def coin(x, heads=None):
    """One coin of all items is fair or not."""
    unfair = numpyro.sample("unfair", dist.Bernoulli(0.5), infer=ENUMERATE)
    with numpyro.plate("item", len(x)):
        observe("heads", dist.Bernoulli(jnp.array([0.5, 0.9])[unfair]), heads)


def test_discrete_sites_that_items_share_have_their_posterior():
    heads = np.array([1, 1, 0, 1, 1])
    data = {"x": np.zeros(5, np.float32), "heads": heads}
    tree = predictive(KEY, fitted(coin, exact(coin), data), data, num_samples=DRAWS)
    odds = 0.9**4 * 0.1 / 0.5**5
    unfair = odds / (1 + odds)
    for group, p in (("posterior_predictive", unfair), ("prior_predictive", 0.5)):
        drawn = tree[group]["heads"].values[0]
        total = p * 0.9**5 + (1 - p) * 0.5**5  # all five heads: they are of one coin
        assert drawn.all(1).mean() == pytest.approx(total, abs=0.04)


def test_bad_input(of_crowd):
    result, data, _ = of_crowd
    with pytest.raises(ValueError, match=r"given to name data .* \['said'\], found \['x'\]"):
        predictive(KEY, result, data, given=["x"])
    with pytest.raises(ValueError, match="'drop' or 'mark', found 'keep'"):
        predictive(KEY, result, data, missing="keep")
    with pytest.raises(ValueError, match="something that the program generates"):
        predictive(KEY, result, data, given=["said"])
    with pytest.raises(ValueError, match=r"'said' .* shape of the data, \(3, 3\), found \(3, 2\)"):
        predictive(KEY, result, data, arguments={"people": 2})
    with pytest.raises(ValueError, match="typed key"):
        predictive(0, result, data)
