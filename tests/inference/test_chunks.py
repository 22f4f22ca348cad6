"""Items in chunks: the posterior of all of them at once, whatever couples them."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
import xarray as xr
from cases.fits import quiet
from oracles.prob_l2d import enumerate_prob_l2d
from oracles.projection import project_reference
from programs import ENUMERATE, mlp_model, random_batch

from pl2d_ppl import to_datatree, workload
from pl2d_ppl.guides.exact import exact
from pl2d_ppl.guides.mean_field import mean_field
from pl2d_ppl.guides.normal import normal

pytestmark = pytest.mark.slow  # every test compiles a posterior of its own

KEY = jax.random.key(0)
LOWER, UPPER = (0.0, 0.0, 0.6), (1.0, 0.1, 1.0)
MODEL = mlp_model(3, 2, 3)
NUM_DRAWS = 3000


def fitted(model, guide, data, **options):
    size = len(next(iter(data.values())))
    return quiet(KEY, model, guide, data, optax.adam(0.1), **({"epochs": 3, "batch_size": size} | options))


@pytest.mark.parametrize("sites", [["z"], None])
def test_a_workload_holds_over_all_chunks_together(sites):
    data = random_batch(1, num_items=11)
    result = fitted(MODEL, workload(exact(MODEL, sites), "z", LOWER, UPPER), data)
    tree = to_datatree(KEY, result, data, num_samples=NUM_DRAWS, batch_size=4)
    outputs, said = tree["network_outputs"], np.pad(data["annotations"], ((0, 0), (0, 1)), constant_values=-1)
    given = outputs["gate_probs"].values, outputs["belief_probs"].values, said, np.asarray(data["y"])
    posteriors = [enumerate_prob_l2d(*item) for item in zip(*given, strict=True)]
    z, _ = project_reference(np.stack([p["z"] for p in posteriors]), np.array(LOWER), np.array(UPPER))
    joint = np.einsum("ik,ijkc->ikjc", z, np.stack([p["zt"] for p in posteriors]))
    np.testing.assert_allclose(tree["marginals"]["z_probs"], z, atol=2e-4)
    np.testing.assert_allclose(tree["marginals"]["t_probs"], joint.sum(1), atol=2e-4)
    np.testing.assert_allclose(tree["workload"]["z_mean"], z.mean(0), atol=2e-4)
    values = (tree["posterior"][site].values[0] for site in ("z", "t"))
    drawn = np.einsum("sik,sijc->ikjc", *(np.eye(3)[value] for value in values)) / NUM_DRAWS
    assert (np.abs(drawn - joint) < 6 * np.sqrt(joint * (1 - joint) / NUM_DRAWS) + 1e-3).all()


def test_two_workloads_hold_over_all_chunks():
    data = random_batch(1, num_items=11)
    guide = workload(mean_field(MODEL, ["z", "t"]), "z", LOWER, UPPER)
    result = fitted(MODEL, workload(guide, "t", [0, 0, 0.4], [1, 1, 0.4]), data)
    trees = [to_datatree(KEY, result, data, num_samples=2, batch_size=size) for size in (4, 11)]
    for name in ("z_mean", "t_mean", "z_multipliers", "t_multipliers"):
        np.testing.assert_allclose(*(tree["workload"][name] for tree in trees), atol=2e-3)  # of coordinate ascent
    assert float(trees[0]["workload"]["t_mean"][2]) == pytest.approx(0.4, abs=1e-4)
    np.testing.assert_allclose(trees[0]["workload"]["z_mean"], trees[0]["marginals"]["z_probs"].mean("item"), atol=1e-6)


def coin(x, heads=None):
    """All items show whether one shared coin, which is latent, is fair."""
    bias = numpyro.sample("bias", dist.Categorical(jnp.array([0.5, 0.5])), infer=ENUMERATE)
    with numpyro.plate("toss", len(x)):
        numpyro.sample("heads", dist.Bernoulli(jnp.array([0.5, 0.8])[bias]), obs=heads)


def test_items_that_share_a_latent_site_are_not_cut():
    heads = np.array([1, 1, 1, 0, 1, 1, 0, 1])
    data = {"x": np.zeros(8, np.float32), "heads": heads}
    tree = to_datatree(KEY, fitted(coin, exact(coin), data), data, num_samples=2, batch_size=3)
    odds = np.prod(np.where(heads, 0.8, 0.2) / 0.5)
    np.testing.assert_allclose(tree["marginals"]["bias_probs"], [1 / (1 + odds), odds / (1 + odds)], rtol=1e-5)


def difficult(x, y=None):
    """Items have a difficulty each, which has a posterior; what they show depends on it."""
    ability = numpyro.sample("ability", dist.Normal(0.0, 1.0))
    with numpyro.plate("image", len(x), dim=-2):
        hard = numpyro.sample("hard", dist.Normal(0.0, 1.0))
        score = numpyro.deterministic("score", x[:, None] + ability - hard)
        with numpyro.plate("repeat", 2, dim=-1):
            numpyro.sample("y", dist.Bernoulli(logits=score), obs=None if y is None else y)


def of_difficulty():
    rng = np.random.default_rng(0)
    data = {"x": rng.standard_normal(9).astype(np.float32), "y": rng.integers(0, 2, (9, 2))}
    guide = exact(difficult, [], continuous=normal(difficult, init_scale=0.5))
    return data, fitted(difficult, guide, data, epochs=30)


def test_draws_of_single_items_are_cut_with_them():
    data, result = of_difficulty()
    rows = np.array([5, 1, 8, 0, 2])
    part = {name: array[rows] for name, array in data.items()}
    for size in (5, 2):
        tree = to_datatree(KEY, result, part, num_samples=400, batch_size=size, index=rows)
        drawn = tree["posterior"].dataset
        assert drawn["hard"].dims == ("chain", "draw", "image")
        np.testing.assert_allclose(drawn["hard"].mean(("chain", "draw")), result.params["hard_loc"][rows, 0], atol=0.15)
        score = part["x"] + drawn["ability"].values[0, :, None] - drawn["hard"].values[0]
        np.testing.assert_allclose(tree["network_outputs"]["score"].values[:, 0], score.mean(0), atol=1e-5)


def test_the_smallest_integers_that_hold_the_values_are_stored():
    def many(x):
        with numpyro.plate("item", len(x)):
            numpyro.sample("few", dist.Categorical(jnp.full(128, 1 / 128)), infer=ENUMERATE)
            numpyro.sample("many", dist.Categorical(jnp.full(129, 1 / 129)), infer=ENUMERATE)

    data = {"x": np.zeros(400, np.float32)}
    drawn = to_datatree(KEY, fitted(many, exact(many), data, epochs=1), data, num_samples=20)["posterior"]
    assert (drawn["few"].dtype, drawn["many"].dtype) == (np.int8, np.int16)
    assert (int(drawn["few"].max()), int(drawn["many"].max())) == (127, 128)
    assert int(drawn["few"].min()) == int(drawn["many"].min()) == 0


@pytest.mark.parametrize("size", [1, 3, 4, 7, 12])
def test_chunks_of_any_length_give_the_same(size):
    data = random_batch(2, num_items=12)
    result = fitted(MODEL, exact(MODEL, ["z"]), data)
    trees = [to_datatree(KEY, result, data, num_samples=2, batch_size=b) for b in (size, 12)]
    for group in ("marginals", "network_outputs"):
        xr.testing.assert_allclose(*(tree[group].to_dataset() for tree in trees), rtol=1e-5, atol=1e-6)


def late(x, y=None):
    """What a latent site of the items decides, and what all items share."""
    shift = numpyro.deterministic("shift", 3.0 * numpyro.sample("step", dist.Normal(0.0, 1.0)))
    with numpyro.plate("item", len(x)):
        kind = numpyro.sample("kind", dist.Categorical(jnp.array([0.3, 0.7])), infer=ENUMERATE)
        mean = numpyro.deterministic("mean", 10.0 * kind + shift + x)
        numpyro.sample("y", dist.Normal(mean, 1.0), obs=y)


def test_deterministic_sites_of_draws_are_with_the_draws():
    x = np.arange(5, dtype=np.float32)
    data = {"x": x, "y": x + 10}
    guide = exact(late, ["kind"], continuous=normal(late))
    tree = to_datatree(KEY, fitted(late, guide, data), data, num_samples=50, batch_size=2)
    drawn = tree["posterior"].dataset
    np.testing.assert_allclose(drawn["shift"], 3.0 * drawn["step"], rtol=1e-5)
    np.testing.assert_allclose(drawn["mean"], 10.0 * drawn["kind"] + drawn["shift"] + x, rtol=1e-4)
    assert drawn["mean"].dims == ("chain", "draw", "item")
