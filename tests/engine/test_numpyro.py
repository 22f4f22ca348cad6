"""Private names of NumPyro that the library touches: each test fails when one of them moves."""

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.funsor import enum, plate_to_enum_plate

from pl2d_ppl.engine._numpyro import enumerated_plates, given_mask, given_masks, own_dimensions


def test_plates_may_be_nested_and_are_restored():
    plain = numpyro.plate("item", 2)
    with enumerated_plates():
        with enumerated_plates():
            assert type(numpyro.plate("item", 2)) is not type(plain)
        assert type(numpyro.plate("item", 2)) is not type(plain)
    assert type(numpyro.plate("item", 2)) is type(plain)


def test_numpyros_own_context_may_still_not_be_nested():
    """When it may, `enumerated_plates` can go."""
    with plate_to_enum_plate():
        with plate_to_enum_plate():
            pass
        assert type(numpyro.plate("item", 2)).__module__ == "numpyro.primitives"


def test_masks_are_kept_as_they_were_given():
    narrow = jnp.array([True, False])
    wide = dist.Normal(jnp.zeros((3, 2)), 1.0)
    with given_masks():
        assert given_mask(dist.MaskedDistribution(wide, narrow)) is narrow
    assert given_mask(wide.mask(narrow)).shape == (3, 2)  # as NumPyro broadcasts it: else `given_masks` can go


def test_an_inner_enumeration_has_dimensions_of_its_own():
    def program():
        with numpyro.handlers.seed(rng_seed=0), enum(first_available_dim=-1):
            return numpyro.sample("z", dist.Categorical(jnp.ones(3) / 3), infer={"enumerate": "parallel"})

    with own_dimensions():
        outer = program()
        with own_dimensions():
            inner = program()
        assert inner.shape == outer.shape == (3,)
