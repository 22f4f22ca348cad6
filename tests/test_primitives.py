"""Primitives of models: what is generated, observed, missing; priors on networks; what a site chooses."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from flax import nnx
from numpyro.handlers import mask, seed, trace
from numpyro.infer import Predictive
from numpyro.infer.util import log_density
from programs import random_l2d

from pl2d_ppl import MLP, EnumELBO, Frozen, log_evidence, marginals
from pl2d_ppl.distributions.answers import label_channel
from pl2d_ppl.engine.chosen import chosen
from pl2d_ppl.guides.exact import exact
from pl2d_ppl.guides.mean_field import mean_field
from pl2d_ppl.primitives import ENUMERATE, items, network, observe, partly_known

KEY = jax.random.key(0)
LOGITS = jnp.log(jnp.array([[0.1, 0.2, 0.7], [0.5, 0.3, 0.2], [0.3, 0.3, 0.4]]))


def said(values=None):
    with items(LOGITS):
        return observe("said", dist.Categorical(logits=LOGITS[:, None]), values)


def test_what_is_left_out_is_generated_and_what_is_missing_stays_missing():
    drawn = Predictive(said, num_samples=4000)(KEY)["said"]
    shares = (drawn[..., None] == jnp.arange(3)).mean(0)[:, 0]
    np.testing.assert_allclose(shares, jnp.exp(LOGITS), atol=0.04)
    given = jnp.array([2, -1, 0])
    site = trace(said).get_trace(given)["said"]
    assert site["is_observed"]
    np.testing.assert_array_equal(site["value"][:, 0], given)
    np.testing.assert_allclose(log_density(said, (given,), {}, {})[0], LOGITS[0, 2] + LOGITS[2, 0], rtol=1e-6)


def known(values=None):
    with items(LOGITS):
        value = partly_known("y", LOGITS[:, None], None if values is None else values[:, None], observed="gold")
        observe("copy", dist.Categorical(logits=label_channel(3, 0.3)[value]), jnp.array([2, 1, 1]))


def test_a_category_that_is_known_at_some_places():
    values = jnp.array([1, -1, -1])
    found = marginals(known)(values)["y"][:, 0]
    np.testing.assert_allclose(found[0], [0, 1, 0], atol=1e-6)
    channel = 0.7 * np.eye(3) + 0.1
    joint = np.exp(LOGITS[1:]) * channel[:, [1, 1]].T
    np.testing.assert_allclose(found[1:], joint / joint.sum(1, keepdims=True), rtol=1e-5)
    expected = np.log(np.exp(LOGITS)[0, 1] * channel[1, 2] * joint.sum(1).prod())
    np.testing.assert_allclose(log_evidence(known)(values), expected, rtol=1e-5)
    drawn = Predictive(known, num_samples=20)(KEY, values)["y"]
    assert (drawn[:, 0] == 1).all()


def gated(x, *, prior=None, net=None):
    return network("gate", net or partial(MLP, 2, (), 3), x, output="gate_logits", prior=prior)


def test_a_prior_on_a_network_stands_where_the_network_does():
    x = jnp.ones((4, 2))
    tr = trace(seed(gated, KEY)).get_trace(x)
    assert [n for n, s in tr.items() if s["type"] == "param"] == ["gate$params"]
    tr = trace(seed(partial(gated, prior=dist.Normal(0.0, 3.0)), KEY)).get_trace(x)
    weights = [s["value"] for s in tr.values() if s["type"] == "sample"]
    assert sum(w.size for w in weights) == 2 * 3 + 3
    kernel, bias = tr["gate.readout.kernel"]["value"], tr["gate.readout.bias"]["value"]
    np.testing.assert_allclose(tr["gate_logits"]["value"], x @ kernel + bias, rtol=1e-5)


def test_a_frozen_network_has_no_prior():
    frozen = Frozen.of(MLP(2, (), 3, rngs=nnx.Rngs(0)))
    with pytest.raises(ValueError, match=r"to train under a prior, found a Frozen one as 'gate'"):
        seed(gated, KEY)(jnp.ones((4, 2)), prior=dist.Normal(0.0, 1.0), net=frozen)


def decided(gate, beliefs, y, *, handler):
    """The truth through person m, where z is m, masked by one handler or another."""
    num_deciders, num_categories = beliefs.shape[1:]
    with items(gate):
        z = numpyro.sample("z", dist.Categorical(logits=gate[:, None]), infer=dict(ENUMERATE))
        with numpyro.plate("expert", num_deciders, dim=-1):
            t = numpyro.sample("t", dist.Categorical(logits=beliefs), infer=dict(ENUMERATE))
            with handler(z, num_deciders):
                observe("y", dist.Categorical(logits=label_channel(num_categories, 0.1)[t]), y)


HANDLERS = {
    "chosen": lambda z, size: chosen(index=z, size=size),
    "mask": lambda z, size: mask(mask=z == jnp.arange(size)),
}


@pytest.mark.parametrize("family", [partial(exact, sites=["z"]), exact, mean_field], ids=["z", "z and t", "mean field"])
def test_what_a_site_chooses_is_a_mask(float64, family):
    problem = random_l2d(3, 5, 2, 3)
    data = problem.gate.astype(float), problem.beliefs.astype(float), problem.y
    found = []
    for handler in HANDLERS.values():
        model = partial(decided, handler=handler)
        elbo = jax.jit(lambda *data, m=model: -EnumELBO().loss(KEY, {}, m, family(m), *data))(*map(jnp.asarray, data))
        found.append((elbo, log_evidence(model)(*data), *marginals(model)(*data).values()))
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)


def memory(handler, num_people, num_items=16, num_categories=3):
    """Bytes that the log evidence takes."""
    shapes = [(num_items, num_people), (num_items, num_people, num_categories)]
    arrays = [jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes] + [jax.ShapeDtypeStruct((num_items,), jnp.int32)]
    compiled = jax.jit(log_evidence(partial(decided, handler=handler))).lower(*arrays).compile()
    return compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.usefixtures("thorough_compilation")
def test_what_a_site_chooses_costs_no_square_of_the_people():
    few, many = (memory(HANDLERS["chosen"], number) for number in (500, 1000))
    assert many < 2.5 * few
    assert memory(HANDLERS["mask"], 1000) > 5 * many  # what is measured: a table of people times people
