"""What the library changes in NumPyro while it reads a program: each test fails when something of it moves."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.funsor import enum, plate_to_enum_plate
from programs import ENUMERATE

from pl2d_ppl.engine.marginals import log_evidence


def program():
    """Two items, the second of which is masked."""
    with numpyro.plate("item", 2), numpyro.handlers.mask(mask=jnp.array([True, False])):
        z = numpyro.sample("z", dist.Categorical(jnp.array([0.3, 0.7])), infer=dict(ENUMERATE))
        numpyro.sample("y", dist.Bernoulli(jnp.array([0.1, 0.6])[z]), obs=jnp.ones(2))


EVIDENCE = np.log(0.3 * 0.1 + 0.7 * 0.6)


def test_numpyro_is_as_before_when_a_program_has_been_read_or_refused():
    before = type(numpyro.plate("item", 2)), dist.MaskedDistribution.__init__
    np.testing.assert_allclose(log_evidence(program)(), EVIDENCE, rtol=1e-5)
    with pytest.raises(ValueError, match="without a value"):
        log_evidence(lambda: numpyro.sample("w", dist.Normal()))()
    assert (type(numpyro.plate("item", 2)), dist.MaskedDistribution.__init__) == before


def test_a_program_may_be_read_inside_an_enumeration():
    with plate_to_enum_plate():
        outer = type(numpyro.plate("item", 2))
        with numpyro.handlers.seed(rng_seed=0), enum(first_available_dim=-1):
            z = numpyro.sample("z", dist.Categorical(jnp.ones(3) / 3), infer=dict(ENUMERATE))
            np.testing.assert_allclose(log_evidence(program)(), EVIDENCE, rtol=1e-5)
            w = numpyro.sample("w", dist.Categorical(jnp.ones(3) / 3), infer=dict(ENUMERATE))
        assert z.shape == (3,)
        assert w.shape == (3, 1)  # behind z: the program has left no dimensions
        assert type(numpyro.plate("item", 2)) is outer


def test_numpyros_own_context_may_still_not_be_nested():
    """When it may, the library's own can go."""
    with plate_to_enum_plate():
        with plate_to_enum_plate():
            pass
        assert type(numpyro.plate("item", 2)).__module__ == "numpyro.primitives"
