"""The annotator LDA in a fit: runs with arguments, trees, checkpoints, plain NumPyro."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases.annotator_lda import (
    ALPHAS,
    FORMS,
    GUIDE,
    KEY,
    KEYS,
    MODEL,
    OPTIMIZER,
    concentrations,
    counts_of,
    random_data,
    random_votes,
    run,
)
from flax import nnx
from numpyro.handlers import seed, trace
from numpyro.infer import TraceEnum_ELBO
from programs import Table, tree_allclose

from pl2d_ppl import EnumELBO, FitResult, load, to_datatree
from pl2d_ppl.engine.per_run import PerRun
from pl2d_ppl.guides.mean_field import mean_field
from pl2d_ppl.inference.compiled import compile_fit
from pl2d_ppl.models.annotator_lda import annotator_lda


class Heads(nnx.Module):
    """K linear networks with given weights, shape (K, inputs, C)."""

    def __init__(self, weights):
        self.weights = nnx.Param(jnp.asarray(weights, jnp.float32))

    def __call__(self, x):
        return jnp.einsum("nd,kdc->nkc", x, self.weights[...])


@cache
def batched():
    """A fit of three runs, each with an alpha of its own."""
    return run(KEYS, MODEL, GUIDE, random_data(), arguments={"alpha": PerRun(ALPHAS)})


@pytest.mark.slow
def test_runs_may_share_an_alpha():
    shared = run(KEYS[:2], MODEL, GUIDE, random_data(), arguments={"alpha": [5, 5]})  # integers are as good
    np.testing.assert_allclose(shared.history["loss"][:, 0], batched().history["loss"][:, 0], rtol=1e-5)
    assert shared.run(1).leaves[0].shape == (2,)


@pytest.mark.slow
def test_a_cluster_that_is_switched_off():
    """alpha_k = 1e-3 leaves the fit of a model without cluster k."""
    data = random_data(12)
    data = {"x": data["x"], "counts": counts_of(data["votes"], 3)}
    weights = np.random.default_rng(1).standard_normal((3, 2, 3))
    options = {"optimizer": optax.adam(0.02), "epochs": 10}
    two, three = (partial(annotator_lda, clusters=Heads(w)) for w in (weights[:2], weights))
    expected = run(KEY, two, mean_field(two), data, arguments={"alpha": [5.0, 5.0]}, **options)
    alphas = {"alpha": PerRun([[5.0, 5.0, 1e-3], [5.0, 5.0, 5.0]])}
    keys = jnp.stack([KEY, KEY])
    found = run(keys, three, mean_field(three), data, arguments=alphas, **options)
    off, on = (found.run(i).params["clusters$params"]["weights"] for i in range(2))
    np.testing.assert_allclose(off[:2], expected.params["clusters$params"]["weights"], atol=2e-3)
    np.testing.assert_allclose(off[2], weights[2], atol=1e-6)  # nothing has reached it
    np.testing.assert_allclose(found.history["loss"][:, 0], expected.history["loss"], atol=2e-3)
    assert np.abs(on[2] - weights[2]).max() > 0.02
    assert np.abs(found.history["loss"][:, 1] - expected.history["loss"]).max() > 0.01


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_posterior_as_a_tree(form):
    data = random_data()
    if form == "votes":
        result = batched().run(0)
    else:
        data = {"x": data["x"], "counts": counts_of(data["votes"], 3)}
        arrays = {name: jnp.asarray(a) for name, a in data.items()}
        compiled, leaves = compile_fit(MODEL, GUIDE, OPTIMIZER, False, len(arrays["x"]), None, {"alpha": ALPHAS[0]})
        compiled.probe(leaves, KEY, arrays)
        result = FitResult.start(compiled, leaves, compiled.init(leaves, KEY, arrays), arrays)  # of no epochs
    tree = to_datatree(KEY, result, data, num_samples=2000)
    u = tree["posterior"]["u"]
    assert u.dims[:3] == ("chain", "draw", "item")
    assert u.shape == (1, 2000, 10, 2)
    np.testing.assert_allclose(u.sum(u.dims[-1]), 1.0, rtol=1e-5)
    same = partial(MODEL, clusters=Table(result.outputs(data["x"])["cluster_logits"][0]), alpha=result.leaves[0])
    with trace() as tr:
        seed(mean_field(same), KEY)(**{name: jnp.asarray(a) for name, a in data.items()})
    rho = concentrations(tr)
    np.testing.assert_allclose(u.mean(("chain", "draw")), rho / rho.sum(-1, keepdims=True), atol=0.02)
    outputs = tree["network_outputs"]["cluster_probs"]
    assert outputs.shape == (10, 2, 3)
    assert outputs.dims[:2] == ("item", u.dims[-1])  # clusters have one name everywhere
    np.testing.assert_allclose(outputs.sum(outputs.dims[-1]), 1.0, rtol=1e-5)
    np.testing.assert_array_equal(tree["observed_data"][form], data[form])
    assert ("z" in tree["posterior"]) == (form == "votes")
    if form == "votes":
        z, probs = tree["posterior"]["z"], tree["marginals"]["z_probs"]
        assert z.dims == ("chain", "draw", "item", "vote")
        assert probs.dims == ("item", "vote", u.dims[-1])
        assert tree["observed_data"]["votes"].dims == ("item", "vote")
        np.testing.assert_allclose((z == 1).mean(("chain", "draw")), probs[..., 1], atol=0.05)
        np.testing.assert_allclose(probs.values[data["votes"] < 0], 0.5)  # nothing is known of a vote that is none
        # rho = alpha + sum of q(z) over the votes: the tree tells one story.
        shares = probs.values * (data["votes"] >= 0)[..., None]
        np.testing.assert_allclose(rho - np.asarray(result.leaves[0]), shares.sum(1), atol=2e-3)


@pytest.mark.slow
def test_posterior_given_inputs_alone_is_the_prior():
    tree = to_datatree(KEY, batched().run(1), {"x": random_data()["x"]}, num_samples=4000)
    assert set(tree["posterior"].data_vars) == {"u"}
    np.testing.assert_allclose(
        tree["posterior"]["u"].mean(("chain", "draw")), np.tile([2 / 9, 7 / 9], (10, 1)), atol=0.02
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_checkpoint_of_a_fit_with_arguments(tmp_path):
    path = tmp_path / "fit"
    whole, arguments = batched(), {"alpha": PerRun(ALPHAS)}
    run(KEYS, MODEL, GUIDE, random_data(), arguments=arguments, epochs=1).save(path)
    found = load(path, MODEL, GUIDE, OPTIMIZER, arguments=arguments)
    np.testing.assert_array_equal(found.leaves[0], np.float32(ALPHAS))
    resumed = run(KEYS, MODEL, GUIDE, random_data(), arguments=arguments, resume=found)
    np.testing.assert_array_equal(resumed.history["loss"], whole.history["loss"])
    tree_allclose(resumed.params, whole.params, rtol=0, atol=0)
    with pytest.raises(ValueError, match=r"arguments of 3 runs, one for each key, found \[2\]"):
        load(path, MODEL, GUIDE, OPTIMIZER, arguments={"alpha": PerRun(ALPHAS[:2])})
    with pytest.raises(ValueError, match="resume a fit of the same model"):
        run(KEYS, MODEL, GUIDE, random_data(), resume=found, epochs=4)
    without = load(path, MODEL, GUIDE, OPTIMIZER)  # programs are code: alpha is that of the model then
    np.testing.assert_array_equal(
        without.outputs(random_data()["x"])["cluster_logits"], found.outputs(random_data()["x"])["cluster_logits"]
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "padding",
    [
        0,
        pytest.param(2, marks=pytest.mark.xfail(strict=True, reason="the guide's z is not masked: ln K a padded vote")),
    ],
)
def test_plain_numpyro_estimates_the_same_elbo(padding):
    """NumPyro draws u, and takes the mean over z: on average the ELBO of E[ln u]."""
    logits, votes = random_votes(12)
    votes = np.where(votes < 0, 1, votes)
    votes = np.pad(votes, ((0, 0), (0, padding)), constant_values=-1)
    model = partial(annotator_lda, clusters=Table(logits), alpha=3.0)
    guide, data = mean_field(model), {"x": jnp.zeros((7, 1)), "votes": jnp.asarray(votes)}
    estimates = (TraceEnum_ELBO(num_particles=2000), EnumELBO())
    drawn, exact = jax.jit(lambda key: [e.loss(key, {}, model, guide, **data) for e in estimates])(KEY)
    np.testing.assert_allclose(drawn, exact, atol=0.1)
