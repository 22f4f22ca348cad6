"""Deterministic and continuous sites of a fit in the tree: their units, their places, and the names of their axes."""

from functools import partial

import arviz as az
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from cases.fits import KEY, quiet
from numpyro.infer.reparam import LocScaleReparam
from scipy.special import expit, log_expit, softmax

from pl2d_ppl import MLP, to_datatree
from pl2d_ppl.guides.exact import exact
from pl2d_ppl.guides.normal import normal
from pl2d_ppl.models.pooled_l2d import pooled_l2d

pytestmark = pytest.mark.slow  # every test compiles a posterior of its own


def skills(image, right=None, dull=None):
    """People around a common mean: probabilities, logits, and a number of all; plates of other names than ours."""
    scale = numpyro.sample("scale", dist.HalfNormal(1.0))
    numpyro.deterministic("variance", scale**2)
    with numpyro.plate("person", 3), numpyro.handlers.reparam(config={"skill": LocScaleReparam(0.0)}):
        skill = numpyro.sample("skill", dist.Normal(jnp.zeros(2), scale).to_event(1))
    score = image[:, None] * skill[:, 0] + skill[:, 1]
    numpyro.deterministic("success_probs", jax.nn.sigmoid(score))
    numpyro.deterministic("choice_logits", 2.0 * score)
    numpyro.deterministic("twice_logits", score)
    numpyro.deterministic("twice_probs", 2.0 * score)  # a name that the other one cannot take
    with numpyro.plate("picture", len(image), dim=-2):
        shown = jnp.zeros((len(image), 1)) if dull is None else jnp.maximum(dull, 0)[:, None]
        with numpyro.handlers.mask(mask=False if dull is None else (dull >= 0)[:, None]):
            numpyro.sample("dull", dist.Bernoulli(0.5), obs=shown)
        with numpyro.plate("person", 3, dim=-1), numpyro.handlers.mask(mask=right >= 0):
            numpyro.sample("right", dist.Bernoulli(logits=score), obs=jnp.maximum(right, 0))


@pytest.fixture(scope="module")
def tree():
    rng = np.random.default_rng(0)
    right = rng.integers(-1, 2, (7, 3))
    right[:, 0] = rng.integers(0, 2, 7)  # something of every item
    data = {"image": rng.standard_normal(7).astype(np.float32), "right": right}
    guide = exact(skills, [], continuous=normal(skills, init_scale=0.4))
    result = quiet(KEY, skills, guide, data, optax.adam(0.05), epochs=20, batch_size=7)
    return data, to_datatree(KEY, result, data, num_samples=60, batch_size=3)


def test_every_deterministic_site_is_there_in_its_own_units(tree):
    data, tree = tree
    drawn, outputs = tree["posterior"].dataset, tree["network_outputs"].dataset
    skill = (drawn["scale"].values[0, :, None, None] * drawn["skill_decentered"].values[0]).astype(float)
    np.testing.assert_allclose(drawn["skill"][0], skill, rtol=1e-5)
    np.testing.assert_allclose(drawn["variance"], drawn["scale"] ** 2, rtol=1e-5)
    score = data["image"][:, None] * skill[:, None, :, 0] + skill[:, None, :, 1]
    np.testing.assert_allclose(outputs["success_probs"], expit(score).mean(0), rtol=1e-4)
    np.testing.assert_allclose(outputs["choice_probs"], softmax(2 * score, -1).mean(0), rtol=1e-4)
    np.testing.assert_allclose(outputs["twice_logits"], score.mean(0), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(outputs["twice_probs"], 2 * score.mean(0), rtol=1e-3, atol=1e-5)
    assert set(outputs) == {"success_probs", "choice_probs", "twice_logits", "twice_probs"}


def test_axes_are_named_by_plates(tree):
    _, tree = tree
    drawn = tree["posterior"].dataset
    assert drawn["skill_decentered"].dims == ("chain", "draw", "person", "skill_decentered_dim_0")
    assert drawn["skill"].dims == ("chain", "draw", "person", "skill_dim_0")
    assert drawn["scale"].dims == ("chain", "draw")
    assert tree["network_outputs"]["success_probs"].dims[0] == "picture"
    assert tree["observed_data"]["right"].dims[0] == "picture"


def test_observed_sites_have_likelihoods_of_their_own(tree):
    data, tree = tree
    likelihood, skill = tree["log_likelihood"].dataset, tree["posterior"]["skill"].values[0].astype(float)
    score = data["image"][:, None] * skill[:, None, :, 0] + skill[:, None, :, 1]
    by_hand = np.where(data["right"] < 0, np.nan, log_expit(np.where(data["right"] == 1, score, -score)))
    assert likelihood["right"].dims == ("chain", "draw", "picture", "person")
    np.testing.assert_allclose(likelihood["right"][0], by_hand, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(likelihood["log_evidence"][0], np.nansum(by_hand, -1), rtol=1e-4, atol=1e-5)
    with pytest.warns(UserWarning, match="Pareto"):  # of seven items and a posterior that has not been learned
        loo = az.loo(tree, var_name="log_evidence")
    assert loo.n_data_points == 7
    assert loo.elpd < np.nansum(by_hand, -1).mean(0).sum()


def test_people_of_the_pooled_model_are_in_their_own_units():
    rng = np.random.default_rng(0)
    data = {"x": rng.standard_normal((9, 2)).astype(np.float32), "annotations": rng.integers(-1, 3, (9, 4))}
    data["y"] = rng.integers(0, 3, 9)
    model = partial(pooled_l2d, classifier=partial(MLP, 2, (), 3), membership=np.ones((1, 4), np.float32))
    guide = exact(model, ["z"], continuous=normal(model))
    result = quiet(KEY, model, guide, data, optax.adam(0.05), epochs=2, batch_size=9)
    tree = to_datatree(KEY, result, data, num_samples=5, batch_size=4, coords={"category": ["cat", "dog", "emu"]})
    drawn, outputs = tree["posterior"].dataset, tree["network_outputs"].dataset
    spread = drawn["spread"].values[0][:, [0, 1, 1, 1, 1]]
    person = drawn["cluster_mean"].values[0] + spread[:, None] * drawn["person_decentered"].values[0]
    np.testing.assert_allclose(drawn["person"][0], person, rtol=1e-4)
    assert outputs["right_probs"].dims == ("item", "expert")
    assert list(outputs["expert"].values)[-1] == "AI"
    assert (outputs["right_probs"] < 1).all()
    assert float(abs(outputs["gate_probs"].sum("expert") - 1).max()) < 1e-5
    likelihood = tree["log_likelihood"].dataset
    assert likelihood["right"].dims == ("chain", "draw", "item", "expert")
    both = likelihood["right"].sum("expert") + likelihood["y_ai"]
    np.testing.assert_allclose(likelihood["log_evidence"], both.transpose("chain", "draw", "item"), rtol=1e-4)
