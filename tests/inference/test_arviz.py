"""The tree of draws, marginals and network outputs of a fit, against enumeration and against ArviZ."""

import subprocess
import sys
from functools import partial

import arviz as az
import jax
import jax.numpy as jnp
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
import xarray as xr
from flax import nnx
from numpyro.contrib.module import nnx_module, random_nnx_module
from numpyro.handlers import block
from numpyro.infer.autoguide import AutoDelta, AutoNormal
from oracles.prob_l2d import enumerate_prob_l2d
from oracles.projection import project_reference
from programs import mlp_model, random_batch, random_l2d, table_model
from scipy.special import log_softmax, logsumexp

from pl2d_ppl.engine.workload import workload
from pl2d_ppl.guides.exact import exact
from pl2d_ppl.guides.mean_field import mean_field
from pl2d_ppl.inference.arviz import to_datatree
from pl2d_ppl.inference.compiled import compile_fit
from pl2d_ppl.inference.fit import fit
from pl2d_ppl.inference.result import FitResult
from pl2d_ppl.models.cluster_l2d import cluster_l2d
from pl2d_ppl.models.prob_l2d import prob_l2d
from pl2d_ppl.networks import MLP, instantiate

pytestmark = pytest.mark.slow  # every test compiles a posterior of its own

mpl.use("Agg")

NUM_DRAWS = 4000
OPTIMIZER = optax.sgd(0.0)  # one object, so that compiled programs are found again
LOWER, UPPER = (0.0, 0.0, 0.6), (1.0, 0.3, 1.0)


def fitted(model, guide, data, epochs=1, **kwargs):
    options = dict(epochs=epochs, batch_size=len(data["y"]), progress=False) | kwargs
    return fit(jax.random.key(0), model, guide, data, optax.adam(0.05), **options)


def unfitted(model, guide, data, key=None):
    """A fit of no epochs, which compiles little; of a batch of runs for an array of keys."""
    key = jax.random.key(0) if key is None else key
    arrays = {name: jnp.asarray(a) for name, a in data.items()}
    compiled, leaves = compile_fit(model, guide, OPTIMIZER, key.ndim == 1, len(next(iter(arrays.values()))))
    compiled.probe(leaves, key, arrays)
    return FitResult.start(compiled, leaves, compiled.init(leaves, key, arrays), arrays)


def of_tables(guide_of, seed=3):
    """A problem with given logits, its data, and a fit of no epochs."""
    problem = random_l2d(seed, num_items=6)
    data = {"x": problem.x, "annotations": problem.annotations, "y": problem.y}
    model = table_model(problem.gate, problem.beliefs)
    return problem, data, unfitted(model, guide_of(model), data)


def by_enumeration(problem):
    items = zip(problem.gate_probs, problem.belief_probs, problem.said, problem.y, strict=True)
    return [enumerate_prob_l2d(*item) for item in items]


def joint_of(posteriors, z):
    """P(z = k, t_j = c) of every item, shape (N, k, j, c), for given probabilities of z."""
    zt = np.stack([p["zt"] for p in posteriors])  # item, j, k, c
    return np.einsum("ik,ijkc->ikjc", z, zt)


def frequencies(tree):
    """Shares of the draws with z = k and t_j = c, shape (N, k, j, c)."""
    z, t = tree["posterior"]["z"].values[0], tree["posterior"]["t"].values[0]
    return np.einsum("sik,sijc->ikjc", np.eye(3)[z], np.eye(3)[t]) / len(z)


GUIDES = {
    "exact z": lambda model: exact(model, ["z"]),
    "exact all": exact,
    "exact z, workload": lambda model: workload(exact(model, ["z"]), "z", LOWER, UPPER),
    "exact all, workload": lambda model: workload(exact(model), "z", LOWER, UPPER),
}


@pytest.mark.parametrize("kind", GUIDES)
def test_joint_draws_and_marginals_are_those_of_enumeration(kind):
    problem, data, result = of_tables(GUIDES[kind])
    tree = to_datatree(jax.random.key(1), result, data, num_samples=NUM_DRAWS)
    posteriors = by_enumeration(problem)
    z = np.stack([p["z"] for p in posteriors])
    if "workload" in kind:
        z, _ = project_reference(z, np.array(LOWER), np.array(UPPER))
    joint = joint_of(posteriors, z)
    marginals = tree["marginals"]
    np.testing.assert_allclose(marginals["z_probs"], z, atol=2e-4)
    np.testing.assert_allclose(marginals["t_probs"].transpose("item", "expert", "category"), joint.sum(1), atol=2e-4)
    # Six standard errors, and the marginals' own tolerance.
    error = 6 * np.sqrt(joint * (1 - joint) / NUM_DRAWS) + 1e-3
    assert (np.abs(frequencies(tree) - joint) < error).all()


def test_experts_and_decider_are_independent_in_mean_field():
    _, data, result = of_tables(mean_field)
    tree = to_datatree(jax.random.key(1), result, data, num_samples=NUM_DRAWS)
    z, t = (tree["marginals"][n].values for n in ("z_probs", "t_probs"))
    joint = np.einsum("ik,ijc->ikjc", z, t)
    assert (np.abs(frequencies(tree) - joint) < 6 * np.sqrt(joint * (1 - joint) / NUM_DRAWS) + 1e-3).all()


def test_annotated_experts_say_what_they_said():
    problem, data, result = of_tables(GUIDES["exact z"])
    t = to_datatree(jax.random.key(1), result, data)["posterior"]["t"].values[0]
    assert (t == problem.said)[:, problem.said >= 0].all()


def test_given_key_gives_given_draws():
    _, data, result = of_tables(GUIDES["exact z"])
    first, second, other = (to_datatree(jax.random.key(k), result, data)["posterior"] for k in (1, 1, 2))
    assert first.equals(second)
    assert not first["t"].equals(other["t"])


def test_workload_holds_over_the_data_passed():
    data = random_batch(0, num_items=24)
    model = mlp_model(3, 2, 3)
    # The window keeps rows of the data it began with; the tree's projection is of these items alone.
    guide = workload(exact(model, ["z"]), "z", LOWER, UPPER, window=64)
    result = unfitted(model, guide, data)
    assert result.params["z_window"]["filled"].sum() > 10
    tree = to_datatree(jax.random.key(1), result, {n: a[:10] for n, a in data.items()})
    bounds = tree["workload"]
    np.testing.assert_allclose(bounds["z_mean"], tree["marginals"]["z_probs"].mean("item"), atol=1e-6)
    np.testing.assert_allclose(bounds["z_lower"], LOWER)
    np.testing.assert_allclose(bounds["z_upper"], UPPER)
    assert bounds["z_multipliers"].dims == ("expert",)
    assert bounds["z_violation"].dims == ()
    assert (bounds["z_mean"] >= bounds["z_lower"] - 1e-4).all()
    assert (bounds["z_mean"] <= bounds["z_upper"] + 1e-4).all()
    assert float(bounds["z_violation"]) < 1e-4


class Normed(nnx.Module):
    """Linear network behind batch normalisation and dropout: it has state, and a mode."""

    def __init__(self, outputs, *, rngs):
        self.norm = nnx.BatchNorm(3, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.linear = MLP(3, (), outputs, rngs=rngs)

    def __call__(self, x):
        return self.linear(self.dropout(self.norm(x)))


@pytest.mark.slow
def test_networks_are_the_trained_ones_in_evaluation_mode():
    data = {**weights_data(), "annotations": np.full((30, 2), -1)}
    model = partial(
        prob_l2d,
        gating=partial(Normed, 3),
        experts=partial(Normed, (2, 3)),
        classifier=partial(Normed, 3),
    )
    guide = exact(model, ["z"])
    start, end = unfitted(model, guide, data), fitted(model, guide, data, epochs=60)
    first, tree = (to_datatree(jax.random.key(1), r, data) for r in (start, end))
    outputs, prediction = tree["network_outputs"], end.predict(data["x"])
    np.testing.assert_allclose(outputs["gate_probs"], prediction.gate, rtol=1e-5)
    np.testing.assert_allclose(outputs["ai_probs"], prediction.ai, rtol=1e-5)
    np.testing.assert_allclose(outputs["belief_probs"].sel(expert="AI"), prediction.ai, rtol=1e-5)
    of_truth = [t["network_outputs"]["ai_probs"].values[np.arange(30), data["y"]] for t in (first, tree)]
    assert np.log(of_truth[1]).mean() > np.log(of_truth[0]).mean() + 0.5
    chunked = to_datatree(jax.random.key(1), end, data, batch_size=20)
    xr.testing.assert_allclose(chunked["marginals"].to_dataset(), tree["marginals"].to_dataset())


@pytest.mark.slow
def test_without_truth_the_posterior_is_the_gate():
    data = random_batch(0)
    model = mlp_model(3, 2, 3)
    result = unfitted(model, exact(model, ["z"]), data)
    tree = to_datatree(jax.random.key(1), result, {"x": data["x"]})
    np.testing.assert_allclose(tree["marginals"]["z_probs"], result.predict(data["x"]).gate, rtol=1e-4)
    np.testing.assert_allclose(tree["marginals"]["t_probs"], tree["network_outputs"]["belief_probs"], rtol=1e-4)
    assert "observed_data" not in tree.children


@pytest.fixture(scope="module")
def small():
    data = random_batch(0)
    model = mlp_model(3, 2, 3)
    result = unfitted(model, workload(exact(model, ["z"]), "z", LOWER, UPPER), data)
    names = {"expert": ["Ann", "Bob"], "category": ["cat", "dog", "emu"], "item": [f"image {i}" for i in range(12)]}
    return data, result, to_datatree(jax.random.key(1), result, data, num_samples=100, coords=names)


def test_dimensions_and_names(small):
    _, _, tree = small
    assert set(tree.children) == {
        "posterior",
        "marginals",
        "network_outputs",
        "workload",
        "observed_data",
        "constant_data",
    }
    assert tree["posterior"]["z"].dims == ("chain", "draw", "item")
    assert tree["posterior"]["t"].dims == ("chain", "draw", "item", "expert")
    assert tree["posterior"]["t"].shape == (1, 100, 12, 3)
    assert np.issubdtype(tree["posterior"]["z"].dtype, np.integer)
    assert tree["marginals"]["z_probs"].dims == ("item", "expert")
    assert tree["marginals"]["t_probs"].dims == ("item", "expert", "category")
    assert list(tree["marginals"]["expert"].values) == ["Ann", "Bob", "AI"]
    assert list(tree["observed_data"]["expert"].values) == ["Ann", "Bob"]
    assert list(tree["marginals"]["category"].values) == ["cat", "dog", "emu"]
    assert tree["network_outputs"]["gate_probs"].sel(item="image 3", expert="AI").ndim == 0
    assert tree["observed_data"]["y"].dims == ("item",)
    assert tree["posterior"].attrs["inference_library"] == "numpyro"
    assert tree.attrs["inference_name"] == "SVI"
    assert all("sample_dims" not in group.attrs for group in tree.subtree)


@pytest.mark.slow
def test_default_names_and_other_dimensions(small):
    data, result, _ = small
    tree = to_datatree(jax.random.key(1), result, data, num_samples=2, dims={"z_probs": ["item", "decider"]})
    assert list(tree["posterior"]["expert"].values) == ["expert_0", "expert_1", "AI"]
    assert tree["marginals"]["z_probs"].dims == ("item", "decider")


def test_round_trip_on_disk(small, tmp_path):
    _, _, tree = small
    path = tmp_path / "tree.nc"
    tree.to_netcdf(path, engine="h5netcdf")
    with xr.open_datatree(path, engine="h5netcdf") as read:
        xr.testing.assert_identical(read.load(), tree)


# One chain has no between-chain variance, and a site whose draws are all alike has none at all.
@pytest.mark.filterwarnings("ignore::RuntimeWarning:arviz_stats")
def test_arviz_summarises_and_plots(small, tmp_path):
    _, _, tree = small
    summary = az.summary(tree, var_names=["z"])
    assert len(summary) == 12
    assert len(az.summary(tree)) == 12 + 36
    collection = az.plot_forest(tree, var_names=["z", "t"])
    collection.savefig(tmp_path / "forest.png")
    assert (tmp_path / "forest.png").stat().st_size > 1000
    plt.close("all")


def weights_model(x, annotations=None, y=None, *, num_items=None, random=True):
    """The gate is a table for all items; the classifier's weights have a prior; one expert is a coin."""
    num_batch, prior = x.shape[0], dist.Normal(0.0, 1.0)
    build = partial(random_nnx_module, prior=prior, scope_divider=".") if random else nnx_module
    ai_logits = numpyro.deterministic("ai_logits", build("classifier", instantiate(partial(MLP, 3, (), 3)))(x))
    gate_logits = numpyro.deterministic("gate_logits", jnp.zeros((num_batch, 2)))
    beliefs = jnp.stack([jnp.zeros((num_batch, 3)), ai_logits], 1)
    with numpyro.plate("item", num_items or num_batch, subsample_size=num_batch, dim=-2):
        z = numpyro.sample("z", dist.Categorical(logits=gate_logits[:, None]), infer={"enumerate": "parallel"})
        with numpyro.plate("expert", 2, dim=-1), numpyro.handlers.mask(mask=z == jnp.arange(2)):
            numpyro.sample("y", dist.Categorical(logits=beliefs), obs=y[:, None])


def weights_data(num_items=30):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((num_items, 3)).astype(np.float32)
    return {"x": x, "y": x.argmax(-1)}


def ready(guide, data):
    """Set an autoguide up outside of any compiled function, which would leak tracers into it."""
    with numpyro.handlers.seed(rng_seed=0), block():
        guide(**data)
    return guide


def by_hand_guide(data):
    """A normal posterior of the weights, and the exact one of z given them."""
    normal = ready(AutoNormal(block(weights_model, hide=["z"]), init_scale=1.0), data)

    def guide(x, y):
        weights = normal(x, y)
        log_ai = jax.nn.log_softmax(x @ weights["classifier.readout.kernel"] + weights["classifier.readout.bias"])
        log_ai = jnp.take_along_axis(log_ai, y[:, None], -1)
        logits = jnp.concatenate([jnp.full_like(log_ai, -np.log(3)), log_ai], -1)
        with numpyro.plate("item", len(x), dim=-2):
            numpyro.sample("z", dist.Categorical(logits=logits[:, None]), infer={"enumerate": "parallel"})

    return guide


def exact_guide(data):
    normal = ready(AutoNormal(block(weights_model, hide=["z"]), init_scale=1.0), data)
    return exact(weights_model, ["z"], continuous=normal)


def of_weights(tree, data):
    """Log evidence of every draw and item, by hand: an expert's coin or the AI, each with probability one half."""
    kernel, bias = (tree["posterior"][f"classifier.readout.{n}"].values[0] for n in ("kernel", "bias"))
    log_ai = log_softmax(data["x"] @ kernel + bias[:, None], -1)
    items = np.arange(len(data["y"]))
    terms = np.stack([np.full(log_ai.shape[:2], -np.log(3)), log_ai[:, items, data["y"]]])
    return logsumexp(terms, axis=0) - np.log(2)


@pytest.mark.exhaustive
@pytest.mark.slow
def test_loo_with_a_posterior_over_weights():
    data = weights_data()
    guide = ready(AutoNormal(block(weights_model, hide=["z"]), init_scale=0.3), data)
    result = fitted(weights_model, guide, data, epochs=100)
    tree = to_datatree(jax.random.key(1), result, data, num_samples=400)
    evidence = tree["log_likelihood"]["log_evidence"]
    assert evidence.dims == ("chain", "draw", "item")
    by_hand = of_weights(tree, data)
    np.testing.assert_allclose(evidence[0], by_hand, rtol=1e-4, atol=1e-5)
    loo = az.loo(tree)
    # Leaving an item out cannot help by much, and every item counts once.
    in_sample = (logsumexp(by_hand, axis=0) - np.log(400)).sum()
    assert in_sample - 15 < loo.elpd < in_sample
    assert loo.n_data_points == 30
    assert "log_likelihood_left_out" not in tree.attrs


@pytest.mark.slow
def test_subsampled_plates_do_not_weigh_the_log_likelihood():
    data = weights_data()
    model = partial(weights_model, num_items=90)
    result = unfitted(model, ready(AutoNormal(block(model, hide=["z"])), data), data)
    tree = to_datatree(jax.random.key(1), result, data, num_samples=5)
    np.testing.assert_allclose(tree["log_likelihood"]["log_evidence"][0], of_weights(tree, data), rtol=1e-4)


@pytest.mark.parametrize("guide_of", [by_hand_guide, exact_guide])
def test_each_draw_of_weights_has_its_own_posterior_of_items(guide_of):
    data = weights_data()
    result = unfitted(weights_model, guide_of(data), data)
    tree = to_datatree(jax.random.key(1), result, data, num_samples=300)
    right = np.exp(of_weights(tree, data))  # the mean of 1/3 and the AI's probability of the truth
    by_ai = 1 - (1 / 6) / right
    np.testing.assert_allclose(tree["marginals"]["z_probs"][:, 1], by_ai.mean(0), rtol=1e-4)
    z = tree["posterior"]["z"].values[0]
    slope = ((z - by_ai) * (by_ai - by_ai.mean())).mean()
    assert abs((z - by_ai).mean()) < 6 * 0.5 / np.sqrt(z.size)
    assert abs(slope) < 6 * 0.5 * by_ai.std() / np.sqrt(z.size)


@pytest.mark.slow
def test_no_log_likelihood_of_point_estimates():
    data = weights_data()
    delta = ready(AutoDelta(block(weights_model, hide=["z"])), data)
    fixed = partial(weights_model, random=False)
    for model, guide in ((weights_model, delta), (fixed, exact(fixed, ["z"]))):
        tree = to_datatree(jax.random.key(1), unfitted(model, guide, data), data, num_samples=3)
        assert "log_likelihood" not in tree.children
        assert "point estimates" in tree.attrs["log_likelihood_left_out"]


@pytest.mark.slow
def test_no_log_likelihood_under_a_workload():
    data = weights_data()
    guide = workload(by_hand_guide(data), "z", [0, 0.6], [1, 1])
    tree = to_datatree(jax.random.key(1), unfitted(weights_model, guide, data), data, num_samples=3)
    assert "log_likelihood" not in tree.children
    assert "workload" in tree.attrs["log_likelihood_left_out"]
    assert float(tree["marginals"]["z_probs"][:, 1].mean()) == pytest.approx(0.6, abs=0.01)


@pytest.mark.slow
def test_refusals():
    data = random_batch(0)
    model = mlp_model(3, 2, 3)
    guide = exact(model, ["z"])
    result = fitted(model, guide, data)
    key = jax.random.key(1)
    batch = unfitted(model, guide, data, jax.random.split(key))
    with pytest.raises(ValueError, match=r"result\.run\(i\)"):
        to_datatree(key, batch, data)
    assert "posterior" in to_datatree(key, batch.run(1), data, num_samples=2).children
    with pytest.raises(ValueError, match="typed key"):
        to_datatree(0, result, data)
    with pytest.raises(ValueError, match="one key"):
        to_datatree(jax.random.split(key), result, data)
    with pytest.raises(ValueError, match="num_samples"):
        to_datatree(key, result, data, num_samples=0)
    with pytest.raises(ValueError, match="'votes'"):
        to_datatree(key, result, {**data, "votes": data["y"]})
    with pytest.raises(ValueError, match="shape"):
        to_datatree(key, result, {**data, "x": data["x"][:, :2]})
    with pytest.raises(ValueError, match=r"labels in -1..2, .* in data\['y'\], found 3"):
        to_datatree(key, result, {**data, "y": data["y"] + 1})
    with pytest.raises(ValueError, match=r"coords\['item'\]"):
        to_datatree(key, result, data, coords={"item": ["one"]}, num_samples=2)
    with pytest.raises(ValueError, match="distinct"):
        to_datatree(key, result, data, coords={"expert": ["Ann", "AI"]}, num_samples=2)


@pytest.mark.slow
def test_import_needs_no_arviz():
    unwanted = "('arviz', 'arviz_base', 'xarray')"
    code = f"import sys, pl2d_ppl.inference.arviz; sys.exit(any(m in sys.modules for m in {unwanted}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.exhaustive
@pytest.mark.slow
@pytest.mark.parametrize("people", [2, 4])
def test_clusters_and_people_are_told_apart(people):
    """The gate of cluster_l2d is over clusters, also where there are as many of them as people."""
    rng = np.random.default_rng(0)
    data = {"x": rng.normal(size=(6, 3)).astype(np.float32), "y": rng.integers(0, 2, 6)}
    data["annotations"] = rng.integers(0, 2, (6, people))
    omega = np.full((2, people), 0.5, np.float32)
    model = partial(cluster_l2d, gating=partial(MLP, 3, (), 3), classifier=partial(MLP, 3, (), 2), membership=omega)
    result = fit(jax.random.key(0), model, exact(model), data, optax.adam(0.01), epochs=1, batch_size=6, progress=False)
    for given in (data, {"x": data["x"]}):
        tree = to_datatree(jax.random.key(0), result, given, num_samples=3, coords={"cluster": ["a", "b"]})
        assert tree["network_outputs"].dataset["gate_probs"].dims == ("item", "option")
        assert tree["marginals"].dataset["v_probs"].coords["option"].values.tolist() == ["a", "b", "AI"]
        assert tree["marginals"].dataset["w_probs"].dims == ("item", "expert")
        assert tree["marginals"].sizes["expert"] == people + 1
