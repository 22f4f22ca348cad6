"""Programs that index, sum or reshape values by position are refused, and programs that broadcast them are not."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from engine.positional_programs import LOCS, POSITIONAL, THREE, by_length, first_item, in_a_guide, of_the_guide
from oracles.brute_force import BruteForce

from pl2d_ppl import MLP, EnumELBO, fit, log_evidence, marginals
from pl2d_ppl.guides.exact import exact
from pl2d_ppl.guides.normal import normal
from pl2d_ppl.primitives import network

KEY = jax.random.key(0)
DATA = np.zeros(3, np.float32)


@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize("model", POSITIONAL, ids=lambda model: model.__name__)
def test_a_program_that_takes_values_by_position_is_right_or_refused(model, size):
    """With three items there are as many as there are values, so that no shape tells."""
    try:
        found = log_evidence(model)(size)
    except ValueError as error:
        assert error.args[0].startswith("Expected")  # noqa: PT017 -- right is right, too
        return
    np.testing.assert_allclose(found, BruteForce(model, (size,)).evidence, rtol=1e-5)


def test_the_message_names_the_site_and_what_to_do():
    with pytest.raises(ValueError, match=r"Expected site 'y' to use values of 'z' .* found .* table\[z\]"):
        marginals(first_item)(3)


def test_a_length_that_is_right_by_chance_is_refused_at_another():
    log_evidence(by_length)(3)
    with pytest.raises(ValueError, match="'y'"):
        log_evidence(by_length)(4)


def test_traced_arguments_are_no_excuse():
    def model(data, loc):
        with numpyro.plate("N", len(data)):
            z = numpyro.sample("z", dist.Categorical(probs=THREE))
            numpyro.sample("y", dist.Normal(loc[z[0]], 1.0), obs=data)

    with pytest.raises(ValueError, match="'y'"):
        jax.jit(lambda data, loc: log_evidence(model)(data, loc))(jnp.zeros(3), LOCS)
    with pytest.raises(ValueError, match="'y'"):
        jax.grad(lambda loc: log_evidence(partial(model, loc=loc))(jnp.zeros(3)))(LOCS)


def test_a_parameter_that_starts_equal_at_all_values_is_no_excuse():
    def model(data):
        loc = numpyro.param("loc", jnp.zeros(3))
        with numpyro.plate("N", len(data)):
            z = numpyro.sample("z", dist.Categorical(probs=THREE))
            numpyro.sample("y", dist.Normal(loc[z[0]], 1.0), obs=data)

    with pytest.raises(ValueError, match="'y'"):
        fit(KEY, model, exact(model), {"data": DATA}, optax.adam(0.1), epochs=1, batch_size=3, progress=False)


def test_a_guide_that_was_written_by_hand_is_asked_too():
    with pytest.raises(ValueError, match=r"site 'w' to use values of 'z'"):
        EnumELBO().loss(KEY, {}, of_the_guide, in_a_guide, 3)


@pytest.mark.parametrize("traced", [False, True])
def test_draws_of_the_program_are_the_same_in_both_runs(traced):
    """Plates that draw their indices, keys, and continuous sites that are given: nothing differs but values of z."""

    def model(data):
        shift = numpyro.sample("shift", dist.Normal(0.0, 3.0))
        noise = jax.random.normal(numpyro.prng_key(), (3,))
        with numpyro.plate("N", 9, subsample_size=3) as index:
            z = numpyro.sample("z", dist.Categorical(probs=THREE))
            numpyro.sample("y", dist.Normal(LOCS[z] + noise + shift, 1.0), obs=data[index])

    def evidence(data):
        return log_evidence(model, params={"shift": 0.5})(data)

    assert jnp.isfinite((jax.jit(evidence) if traced else evidence)(jnp.linspace(0.0, 3.0, 9)))


def test_networks_that_come_after_latent_sites_are_the_same_in_both_runs():
    """One with a prior on its weights, then one whose weights are drawn from the seed."""

    def model(x, y):
        scores = network("scores", partial(MLP, 2, (), 3), x, prior=dist.Normal(0.0, 1.0))
        with numpyro.plate("N", len(x)):
            z = numpyro.sample("z", dist.Categorical(logits=scores))
            shift = network("shift", partial(MLP, 2, (4,), 1), x)[:, 0]
            numpyro.sample("y", dist.Normal(LOCS[z] + shift, 1.0), obs=y)

    guide = exact(model, continuous=normal(model))
    data = {"x": np.random.default_rng(0).normal(size=(4, 2)).astype(np.float32), "y": np.zeros(4, np.float32)}
    result = fit(KEY, model, guide, data, optax.adam(0.1), epochs=1, batch_size=4, progress=False)
    assert np.isfinite(result.history["loss"]).all()


def test_a_program_that_is_right_is_asked_once():
    runs = []

    def model(data):
        runs.append(len(data))
        with numpyro.plate("N", len(data)):
            z = numpyro.sample("z", dist.Categorical(probs=THREE))
            numpyro.sample("y", dist.Normal(LOCS[z], 1.0), obs=data)

    for count in (1, 2):
        log_evidence(model)(jnp.full(4, float(count)))
        runs.append("evidence")
    assert runs == [4, 4, 4, "evidence", 4, "evidence"]
