"""Normal guide: against conjugate posteriors, NumPyro's own automatic guide, and changes of variables."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from numpyro.handlers import block, seed, substitute, trace
from numpyro.infer.autoguide import AutoNormal

from pl2d_ppl import EnumELBO, fit
from pl2d_ppl.distributions.empirical import Empirical
from pl2d_ppl.guides.exact import exact
from pl2d_ppl.guides.normal import normal

KEY = jax.random.key(0)


def sites(function, params=None, **data):
    return trace(seed(substitute(function, data=params or {}), KEY)).get_trace(**data)


def everything(x):
    """Sites of many supports, some under a plate, and a discrete one."""
    numpyro.sample("real", dist.Normal(2.0, 3.0))
    scale = numpyro.sample("positive", dist.HalfNormal(2.0))
    numpyro.sample("vector", dist.Normal(jnp.arange(3.0), scale).to_event(1))
    numpyro.sample("heavy", dist.HalfCauchy(1.0))
    numpyro.sample("part", dist.Beta(2.0, 6.0))
    with numpyro.plate("cluster", 2):
        numpyro.sample("shares", dist.Dirichlet(jnp.array([1.0, 2.0, 5.0])))
    with numpyro.plate("item", len(x)):
        numpyro.sample("z", dist.Categorical(logits=jnp.zeros(2)), infer={"enumerate": "parallel"})
        numpyro.sample("y", dist.Normal(0.0, 1.0), obs=x)


X = jnp.array([0.5, -1.0])


@pytest.mark.slow
def test_it_starts_at_the_means_of_priors():
    tr = sites(normal(everything, init_scale=1e-6), x=X)
    means = {name: site["value"] for name, site in tr.items() if site["type"] == "sample"}
    assert list(means) == ["real", "positive", "vector", "heavy", "part", "shares"]
    expected = {
        "real": 2.0,
        "positive": 2 * np.sqrt(2 / np.pi),
        "vector": [0, 1, 2],
        "heavy": 1.0,  # which has no mean
        "part": 0.25,
        "shares": [[1 / 8, 2 / 8, 5 / 8]] * 2,
    }
    for name, mean in expected.items():
        np.testing.assert_allclose(means[name], mean, atol=1e-4, err_msg=name)


def test_a_posterior_that_is_carried_on_stays_as_it_is():
    """Its draws are drawn from, though its log-probability would let a normal be anywhere."""
    draws = np.random.default_rng(0).dirichlet(np.ones(2), (5, 3)).transpose(0, 2, 1).astype(np.float32)

    def model(x):
        share = numpyro.sample("membership", Empirical(draws))
        numpyro.sample("level", dist.Normal(share[0, 0], 1.0))

    params = [site for site in sites(normal(model), x=X).values() if site["type"] == "param"]
    assert {site["name"] for site in params} == {"level_loc", "level_scale"}
    for number in range(5):
        tr = trace(seed(normal(model), jax.random.key(number))).get_trace(X)
        assert (np.asarray(tr["membership"]["value"]) == draws).all((1, 2)).any()


@pytest.mark.slow
def test_densities_are_those_of_the_automatic_guide():
    """Of NumPyro, at the same parameters and draws."""
    theirs = AutoNormal(block(everything, hide=["z"]), init_loc_fn=numpyro.infer.init_to_median)
    with block(), seed(rng_seed=0):
        theirs(x=X)
    ours = sites(normal(everything), x=X)
    rng = np.random.default_rng(0)
    params = {}
    for name, site in ours.items():
        if site["type"] == "param":
            value = rng.normal(size=site["value"].shape)
            params[name] = jnp.asarray(np.exp(value) if name.endswith("_scale") else value, jnp.float32)
    renamed = {f"{name.rsplit('_', 1)[0]}_auto_{name.rsplit('_', 1)[1]}": a for name, a in params.items()}
    drawn = sites(theirs, renamed, x=X)
    values = {name: site["value"] for name, site in drawn.items() if site["type"] == "sample" and "auto" not in name}
    found = sites(substitute(normal(everything), data=values), params, x=X)
    for name, site in found.items():
        if site["type"] != "sample":
            continue
        density = site["fn"].log_prob(values[name]).sum()
        auxiliary = drawn.get(f"{name}_unconstrained")
        expected = drawn[name]["fn"].log_prob(values[name]).sum()
        if auxiliary is not None:
            expected += auxiliary["fn"].log_prob(auxiliary["value"]).sum()
        np.testing.assert_allclose(density, expected, rtol=1e-4, err_msg=name)


def test_it_takes_the_shapes_of_the_arguments_at_hand():
    def model(x):
        numpyro.sample("w", dist.Normal(jnp.zeros(x.shape[1]), 1.0).to_event(1))

    guide = normal(model)
    for size in (2, 5, 2):
        assert sites(guide, x=jnp.zeros((3, size)))["w_loc"]["value"].shape == (size,)


def regression(x, response):
    """A conjugate posterior, beside a mixture that knows nothing of it."""
    mean = numpyro.sample("mean", dist.Normal(1.0, 2.0))
    with numpyro.plate("item", len(x)):
        z = numpyro.sample("z", dist.Categorical(probs=jnp.array([0.3, 0.7])), infer={"enumerate": "parallel"})
        numpyro.sample("side", dist.Normal(z.astype(float), 1.0), obs=x)
        numpyro.sample("said", dist.Normal(mean, 0.5), obs=response)


@pytest.mark.slow
def test_a_fit_is_the_conjugate_posterior():
    y = np.random.default_rng(0).normal(3.0, 0.5, 20).astype(np.float32)
    data = {"x": np.zeros(20, np.float32), "response": y}
    guide = exact(regression, continuous=normal(regression))
    optimizer = optax.adam(optax.cosine_decay_schedule(0.05, 1500))
    result = fit(KEY, regression, guide, data, optimizer, epochs=1500, batch_size=20, progress=False)
    precision = 1 / 2**2 + 20 / 0.5**2
    np.testing.assert_allclose(result.params["mean_loc"], (1 / 2**2 + y.sum() / 0.5**2) / precision, atol=0.01)
    np.testing.assert_allclose(result.params["mean_scale"], precision**-0.5, rtol=0.1)


@pytest.mark.parametrize("told", [True, False])
def test_a_site_of_every_item_follows_its_item_through_shuffling(told):
    """Conjugate: skill_i ~ N(0, 1), x_i ~ N(skill_i, 1), so that skill_i is N(x_i / 2, 1/2)."""
    x = np.linspace(-3.0, 3.0, 12)

    def model(x):
        with numpyro.plate("item", 12 if told else len(x), subsample_size=len(x)):
            skill = numpyro.sample("skill", dist.Normal(0.0, 1.0))
            numpyro.sample("x", dist.Normal(skill, 1.0), obs=x)

    rates = optax.cosine_decay_schedule(0.05, 9000)
    result = fit(KEY, model, normal(model), {"x": x}, optax.adam(rates), epochs=3000, batch_size=4, progress=False)
    np.testing.assert_allclose(result.params["skill_loc"], x / 2, atol=0.1)  # noise of one draw a step
    np.testing.assert_allclose(result.params["skill_scale"], np.sqrt(0.5), atol=0.1)


@pytest.mark.slow
def test_it_is_a_guide_of_the_elbo():
    loss = EnumELBO().loss(KEY, {}, everything, exact(everything, continuous=normal(everything)), x=X)
    assert np.isfinite(loss)
