"""What NumPyro does wrong, as docs/upstream.md reports it: a test fails when NumPyro mends it, and names the entry."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from flax import nnx
from numpyro.contrib.funsor import config_kl, enum, enum_messenger, plate_to_enum_plate
from numpyro.contrib.funsor.infer_util import log_density
from numpyro.contrib.module import nnx_module
from numpyro.handlers import block, mask, scale, seed, trace
from numpyro.infer import SVI, Predictive, Trace_ELBO, TraceEnum_ELBO
from numpyro.infer.autoguide import AutoDiagonalNormal, AutoNormal
from programs import ENUMERATE

pytestmark = pytest.mark.skipif(numpyro.__version__ < "0.22", reason="The entries are about NumPyro 0.22 and later.")

KEY = jax.random.key(0)
HALVES = jnp.array([0.5, 0.5])
NET = {"net$params": {"w": jnp.array(3.0)}}


def nothing(*args):
    """Guide without sites: the model's discrete sites are summed out."""


def loss(model, guide=nothing, *args, nesting=1, key=KEY):
    return float(TraceEnum_ELBO(max_plate_nesting=nesting).loss(key, {}, model, guide, *args))


def expect(found, wrong, title, **tolerance):
    """Assert today's wrong value."""
    tolerance = tolerance or {"rtol": 1e-4}
    np.testing.assert_allclose(found, wrong, **tolerance, err_msg=mended(title))


def mended(title):
    return f'NumPyro may have mended "{title}": remove the entry from docs/upstream.md, its remedies and this test.'


def refused(title, error, call, match=""):
    """Assert today's error."""
    message = None
    try:
        call()
    except error as raised:
        message = str(raised)
    assert message is not None, mended(title)
    assert match in message, mended(title)


@pytest.mark.filterwarnings("ignore:Out-of-support values")
def test_support_is_enumerated_from_zero():
    def model():
        k = numpyro.sample("k", dist.DiscreteUniform(1, 5), infer=dict(ENUMERATE))
        numpyro.sample("o", dist.Poisson(1.0 * k), obs=2.0)

    def summed_over(values):
        return -np.log(np.mean([k**2 * np.exp(-k) / 2 for k in values]))

    assert abs(summed_over(range(1, 6)) - summed_over(range(5))) > 0.05
    expect(loss(model, nesting=0), summed_over(range(5)), "A support is enumerated from 0")


def test_a_plate_draws_other_indices_in_the_model_than_in_the_guide():
    x = jnp.array([0.0, 10.0, 0.0, 10.0])
    table = jnp.array([[1.0, 0.0], [0.0, 1.0]]).clip(1e-6, 1 - 1e-6)

    def model():
        with numpyro.plate("i", 4, subsample_size=2) as rows:
            z = numpyro.sample("z", dist.Categorical(HALVES), infer=dict(ENUMERATE))
            numpyro.sample("o", dist.Normal(10.0 * z, 1.0), obs=x[rows])

    def guide():
        with numpyro.plate("i", 4, subsample_size=2) as rows:
            numpyro.sample("z", dist.Categorical(table[(x[rows] > 5).astype(int)]), infer=dict(ENUMERATE))

    right = 4 * (np.log(2) + 0.5 * np.log(2 * np.pi))
    title = "A subsampled plate has other rows in the model than in the guide"
    expect([Trace_ELBO().loss(k, {}, model, guide) for k in jax.random.split(KEY)], right, title)  # it replays them
    expect([loss(model, guide, key=k) for k in jax.random.split(KEY)], [right + 200, right + 100], title)


def test_indices_of_a_plate_of_one_have_no_axis():
    def model():
        with numpyro.plate("i", 1) as rows:
            shapes.append(jnp.shape(rows))
            numpyro.sample("z", dist.Categorical(HALVES), infer=dict(ENUMERATE))

    shapes = []
    seed(model, 0)()
    with plate_to_enum_plate(), enum(first_available_dim=-2):
        seed(model, 0)()
    assert shapes == [(1,), ()], mended("Indices of a plate of one item lose their axis")


def test_an_analytic_kl_that_the_model_asks_for_is_ignored():
    def model():
        numpyro.sample("x", dist.Normal(3.0, 2.0))

    def guide():
        numpyro.sample("x", dist.Normal(1.0, 0.5))

    right = float(dist.kl_divergence(dist.Normal(1.0, 0.5), dist.Normal(3.0, 2.0)))
    expect(loss(model, config_kl(guide), nesting=0), right, "The model's request for an analytic KL is lost")
    sampled = loss(model, guide, nesting=0)
    assert abs(sampled - right) > 0.01
    expect(loss(config_kl(model), guide, nesting=0), sampled, "The model's request for an analytic KL is lost")


def test_log_density_counts_masked_elements():
    def model(kept):
        with numpyro.plate("i", 3), mask(mask=kept):
            z = numpyro.sample("z", dist.Categorical(jnp.ones(4) / 4), infer=dict(ENUMERATE))
            numpyro.sample("o", dist.Bernoulli(jnp.array([0.1, 0.2, 0.3, 0.4])[z]), obs=jnp.ones(3))

    kept = jnp.array([True, False, False])
    found, _ = log_density(enum(model, first_available_dim=-2), (kept,), {}, {})
    expect(loss(model, nothing, kept), -np.log(0.25), "log_density adds ln C for a masked element")
    expect(found, np.log(0.25) + 2 * np.log(4), "log_density adds ln C for a masked element")


def test_obs_mask_is_off_or_refused():
    seen = jnp.array([True, False])

    def model():
        with numpyro.plate("i", 2):
            prior = dist.Categorical(jnp.ones(4) / 4)
            t = numpyro.sample("t", prior, obs=jnp.zeros(2, int), obs_mask=seen, infer=dict(ENUMERATE))
            numpyro.sample("o", dist.Bernoulli(jnp.array([0.1, 0.2, 0.3, 0.4])[t]), obs=jnp.ones(2))

    title = "obs_mask of an enumerated site"
    found, _ = log_density(enum(model, first_available_dim=-2), (), {}, {})
    expect(found, np.log(0.25 * 0.1) + np.log(0.25) + np.log(4), title)
    refused(title, KeyError, lambda: loss(model), "t_observed")


def test_the_gradient_of_what_a_mask_leaves_out_is_nan():
    def model(p, kept):
        with mask(mask=kept):
            numpyro.factor("f", jnp.log(p))

    def gradient(kept):
        value, slope = jax.value_and_grad(
            lambda p: TraceEnum_ELBO(max_plate_nesting=0).loss(KEY, {}, model, nothing, p, kept)
        )(0.0)
        return float(value), float(slope)

    title = "The gradient of a masked -inf is NaN"
    expect(gradient(False), (0.0, 0.0), title)
    expect(gradient(jnp.array(False)), (0.0, np.nan), title)


def test_nothing_times_minus_infinity_is_nan():
    def model():
        z = numpyro.sample("z", dist.Categorical(HALVES), infer=dict(ENUMERATE))
        numpyro.factor("f", jnp.where(z == 0, 0.0, -jnp.inf))

    def guide():
        numpyro.sample("z", dist.Categorical(logits=jnp.array([0.0, -1e3])), infer=dict(ENUMERATE))

    title = "0 times ln 0 is NaN"
    expect(loss(model, nesting=0), np.log(2), title)
    expect(loss(model, guide, nesting=0), np.nan, title)


def test_one_infer_dict_for_two_sites_is_changed_in_place():
    def model(of_a, of_b):
        with numpyro.plate("i", 2):
            a = numpyro.sample("a", dist.Categorical(HALVES), infer=of_a)
            b = numpyro.sample("b", dist.Categorical(jnp.array([0.3, 0.7])), infer=of_b)
            numpyro.sample("o", dist.Bernoulli(jnp.array([[0.1, 0.2], [0.3, 0.4]])[a, b]), obs=jnp.ones(2))

    title, shared = "One infer dict for several sites is changed in place", {"enumerate": "parallel"}
    expect(loss(model, nothing, dict(ENUMERATE), dict(ENUMERATE)), -2 * np.log(0.27), title)
    refused(title, TypeError, lambda: loss(model, nothing, shared, shared), "cannot reshape")
    assert set(shared) == {"enumerate", "dim_to_name", "name_to_dim"}, mended(title)


def test_a_scale_of_the_model_does_not_reach_the_guide():
    def model():
        z = numpyro.sample("z", dist.Categorical(HALVES), infer=dict(ENUMERATE))
        numpyro.sample("o", dist.Bernoulli(jnp.array([0.2, 0.8])[z]), obs=1.0)

    def guide():
        numpyro.sample("z", dist.Categorical(jnp.array([0.2, 0.8])), infer=dict(ENUMERATE))

    title = "scale and mask of the model do not reach the guide"
    tenth, entropy = scale(model, scale=0.1), -0.2 * np.log(0.2) - 0.8 * np.log(0.8)
    expect(loss(tenth, scale(guide, scale=0.1), nesting=0), 0.1 * np.log(2), title)
    expect(loss(tenth, guide, nesting=0), 0.1 * np.log(2) - 0.9 * entropy, title)


def test_a_mask_of_the_model_does_not_reach_the_guide():
    def model():
        with numpyro.plate("i", 2), mask(mask=jnp.array([True, False])):
            z = numpyro.sample("z", dist.Categorical(HALVES), infer=dict(ENUMERATE))
            numpyro.sample("o", dist.Bernoulli(jnp.array([0.2, 0.8])[z]), obs=jnp.ones(2))

    def guide():
        with numpyro.plate("i", 2):
            numpyro.sample("z", dist.Categorical(jnp.array([0.2, 0.8])), infer=dict(ENUMERATE))

    entropy = -0.2 * np.log(0.2) - 0.8 * np.log(0.8)
    expect(loss(model, guide), np.log(2) - entropy, "scale and mask of the model do not reach the guide")


@pytest.mark.parametrize(("guide", "error"), [(AutoNormal, None), (AutoDiagonalNormal, KeyError)])
def test_autodiagonalnormal_fails_beside_enumeration(guide, error):
    def model():
        w = numpyro.sample("w", dist.Normal())
        v = numpyro.sample("v", dist.Normal())
        with numpyro.plate("i", 3):
            z = numpyro.sample("z", dist.Categorical(HALVES), infer=dict(ENUMERATE))
            numpyro.sample("o", dist.Normal(w + v + z, 1.0), obs=jnp.zeros(3))

    svi = SVI(model, guide(block(model, hide=["z"])), optax.sgd(0.01), TraceEnum_ELBO(max_plate_nesting=1))
    if error is None:
        assert np.isfinite(svi.update(svi.init(KEY))[1])
    else:
        refused("AutoDiagonalNormal beside an enumerated site", error, lambda: svi.update(svi.init(KEY)))


def test_an_axis_of_a_prior_that_a_plate_claims_later_is_an_error():
    def programs(event_dims):
        def guide():
            return numpyro.sample("w", dist.Normal().expand([3]).to_event(event_dims))

        def model():
            w = guide()
            with numpyro.plate("i", 3):
                z = numpyro.sample("z", dist.Categorical(HALVES), infer=dict(ENUMERATE))
                numpyro.sample("o", dist.Normal(w + z, 1.0), obs=jnp.zeros(3))

        return model, guide

    title = "A batch axis that a plate claims later"
    assert np.isfinite(loss(*programs(1)))
    refused(title, KeyError, lambda: loss(*programs(0)), "i")


def counting():
    """A program that counts its calls, and whose log-probability is the count."""
    state = numpyro.primitives.mutable("calls", {"n": jnp.zeros(())})
    numpyro.factor("f", state["n"])
    state["n"] = state["n"] + 1.0
    numpyro.param("p", 0.0)


def test_traceenum_elbo_refuses_mutable_state():
    svi = SVI(counting, nothing, optax.sgd(0.0), TraceEnum_ELBO(max_plate_nesting=0))
    state = svi.init(KEY)
    refused("TraceEnum_ELBO and mutable state", NotImplementedError, lambda: svi.update(state), "mutable state")


def test_svi_evaluate_ignores_mutable_state():
    svi = SVI(counting, nothing, optax.sgd(0.0), Trace_ELBO())
    state, first = svi.update(svi.init(KEY))
    expect((first, svi.update(state)[1]), (-1.0, -2.0), "SVI.evaluate starts from the initial mutable state")
    expect(svi.evaluate(state), 0.0, "SVI.evaluate starts from the initial mutable state")


class Slope(nnx.Module):
    def __init__(self):
        self.w = nnx.Param(jnp.zeros(()))

    def __call__(self, x):
        return self.w[...] * x


def test_sample_posterior_has_the_network_as_initialised():
    def model():
        b = numpyro.sample("b", dist.Normal())
        f = numpyro.deterministic("f", nnx_module("net", Slope())(1.0))
        numpyro.sample("o", dist.Normal(f + b, 1.0), obs=3.0)

    guide = AutoNormal(model)
    seed(guide, 0)()
    fitted = {**NET, "b_auto_loc": 0.0, "b_auto_scale": 0.1}
    title = "Deterministic sites of sample_posterior have the initial network"
    expect(Predictive(model, {"b": jnp.zeros(1)}, params=fitted)(KEY)["f"], [3.0], title)
    expect(guide.sample_posterior(KEY, fitted)["f"], 0.0, title)


def test_a_mask_is_broadcast_to_the_enumerated_shape():
    answers = dist.Normal(jnp.zeros((10, 1, 1, 6)), 1.0)  # categories of t, z, items, people
    decides = jnp.eye(6, dtype=bool)[:, None]  # z, items, people
    expect(answers.mask(decides)._mask.shape, (10, 6, 1, 6), "A mask is broadcast to the enumerated shape")


def test_plates_are_replaced_for_every_thread_and_never_quite_put_back():
    seen, title = [], "Enumeration changes NumPyro for the whole process"
    with plate_to_enum_plate():
        other = threading.Thread(target=lambda: seen.append(type(numpyro.plate("i", 2)).__module__))
        other.start()
        other.join()
    assert seen == ["numpyro.contrib.funsor.enum_messenger"], mended(title)
    assert numpyro.plate.__dict__["__new__"] is not object.__new__, mended(title)


def test_two_threads_share_their_handlers_and_dimensions():
    def elsewhere():
        seen.append(enum_messenger._DIM_STACK._first_available_dim)
        numpyro.sample("elsewhere", dist.Normal())

    seen, title = [], "Two threads share their handlers and dimensions"
    with trace() as tr, seed(rng_seed=0), enum(first_available_dim=-3):
        other = threading.Thread(target=elsewhere)
        other.start()
        other.join()
    assert list(tr) == ["elsewhere"], mended(title)
    assert seen == [-3], mended(title)
