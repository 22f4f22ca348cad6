"""What the library changes in NumPyro while it reads a program: each test fails when something of it moves."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer import TraceEnum_ELBO
from numpyro.primitives import Messenger
from programs import ENUMERATE

from pl2d_ppl.engine._numpyro import given_masks, unwrap
from pl2d_ppl.engine.marginals import log_evidence
from pl2d_ppl.guides.exact import exact


def program(valid):
    """Two items, of which some are masked."""
    with numpyro.plate("item", 2), numpyro.handlers.mask(mask=jnp.array(valid)):
        z = numpyro.sample("z", dist.Categorical(jnp.array([0.3, 0.7])), infer=dict(ENUMERATE))
        numpyro.sample("y", dist.Bernoulli(jnp.array([0.1, 0.6])[z]), obs=jnp.ones(2))


EVIDENCE = np.log(0.3 * 0.1 + 0.7 * 0.6)


def test_numpyro_is_as_before_when_a_program_has_been_read_or_refused():
    before = type(numpyro.plate("item", 2)), dist.MaskedDistribution.__init__
    np.testing.assert_allclose(log_evidence(program)((True, False)), EVIDENCE, rtol=1e-5)
    with pytest.raises(ValueError, match="without a value"):
        log_evidence(lambda: numpyro.sample("w", dist.Normal()))()
    assert (type(numpyro.plate("item", 2)), dist.MaskedDistribution.__init__) == before


def test_a_guide_may_read_the_program_inside_numpyros_enumeration():
    before = type(numpyro.plate("item", 2))
    guide = exact(program)
    elbo, key = TraceEnum_ELBO(max_plate_nesting=1), jax.random.key(0)
    loss = jax.jit(lambda valid: elbo.loss(key, {}, program, guide, valid))(jnp.array([True, True]))
    np.testing.assert_allclose(loss, -2 * EVIDENCE, rtol=1e-5)
    assert type(numpyro.plate("item", 2)) is before


def test_masks_are_read_as_they_were_given():
    """NumPyro's stack holds the mask handlers; a masked distribution holds the mask as broadcast."""
    given, seen = jnp.array([True, False]), {}

    class look(Messenger):
        def process_message(self, msg):
            if msg["type"] == "sample":
                seen["given"], (seen["core"], seen["broadcast"]) = given_masks(msg["fn"], self), unwrap(msg["fn"])

    core = dist.Normal(jnp.zeros((3, 1, 2)), 1.0)
    with look(), numpyro.plate("item", 2), numpyro.handlers.mask(mask=given):
        numpyro.sample("y", core, obs=jnp.zeros((3, 1, 2)))
    assert seen["core"].loc.shape == (3, 1, 2)
    assert [m.shape for m in seen["broadcast"]] == [(3, 1, 2)]
    assert len(seen["given"]) == 1
    assert seen["given"][0] is given
