"""Guides that do not fit a program are refused, with the name of the site."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from engine.running import bound, nothing
from numpyro.handlers import block
from numpyro.infer.autoguide import AutoDiagonalNormal
from programs import ENUMERATE

from pl2d_ppl.guides.exact import exact
from pl2d_ppl.guides.mean_field import mean_field
from pl2d_ppl.guides.normal import normal

X = np.array([0.1, 2.0, 1.4])


def mixture(x):
    """A latent a row, a continuous site a row."""
    with numpyro.plate("item", 3):
        effect = numpyro.sample("effect", dist.Normal(0.0, 1.0))
        z = numpyro.sample("z", dist.Categorical(jnp.array([0.2, 0.3, 0.5])), infer=dict(ENUMERATE))
        numpyro.sample("x", dist.Normal(effect + z, 1.0), obs=x)


def effects():
    with numpyro.plate("item", 3):
        numpyro.sample("effect", dist.Normal(0.0, 1.0))


def outside(x):
    effects()
    numpyro.sample("z", dist.Categorical(jnp.ones(3) / 3), infer=dict(ENUMERATE))


def other_plate(x):
    effects()
    with numpyro.plate("row", 3):
        numpyro.sample("z", dist.Categorical(jnp.ones(3) / 3), infer=dict(ENUMERATE))


def fewer_values(x):
    effects()
    with numpyro.plate("item", 3):
        numpyro.sample("z", dist.Categorical(jnp.ones(2) / 2), infer=dict(ENUMERATE))


def other_values(x):
    effects()
    with numpyro.plate("item", 3):
        numpyro.sample("z", dist.DiscreteUniform(1, 3), infer=dict(ENUMERATE))


def not_enumerated(x):
    effects()
    with numpyro.plate("item", 3):
        numpyro.sample("z", dist.Categorical(jnp.ones(3) / 3))


def scalar(x):
    numpyro.sample("effect", dist.Normal(0.0, 1.0))


def of_nothing(x):
    effects()
    numpyro.sample("absent", dist.Normal(0.0, 1.0))


@pytest.mark.parametrize(
    ("guide", "site"),
    [
        (outside, "z"),
        (other_plate, "z"),
        (fewer_values, "z"),
        (other_values, "z"),
        (not_enumerated, "z"),
        (scalar, "effect"),
        (of_nothing, "absent"),
        (nothing, "effect"),
        (exact(mixture), "effect"),
        (mean_field(mixture), "effect"),
        (exact(mixture, continuous=scalar), "effect"),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_a_guide_that_does_not_fit(guide, site):
    with pytest.raises(ValueError, match=f"'{site}'"):
        bound(mixture, guide, X)


@pytest.mark.parametrize("guide", [exact, mean_field])
def test_one_that_fits(guide):
    assert np.isfinite(bound(mixture, guide(mixture, continuous=normal(mixture)), X))


@pytest.mark.parametrize("guide", [exact, mean_field])
def test_a_joint_normal_guide_beside_discrete_sites(guide):
    """Its auxiliary site is no site of the model."""

    def program(x):
        w, v = numpyro.sample("w", dist.Normal()), numpyro.sample("v", dist.Normal())
        with numpyro.plate("item", 3):
            z = numpyro.sample("z", dist.Categorical(jnp.ones(2) / 2), infer=dict(ENUMERATE))
            numpyro.sample("x", dist.Normal(w + v + z, 1.0), obs=x)

    auto = AutoDiagonalNormal(block(program, hide=["z"]))
    with numpyro.handlers.trace() as tr:
        numpyro.handlers.seed(auto, jax.random.key(0))(X)
    params = {name: site["value"] for name, site in tr.items() if site["type"] == "param"}
    assert np.isfinite(bound(program, guide(program, continuous=auto), X, params=params))
