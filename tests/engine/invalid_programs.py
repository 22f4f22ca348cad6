"""Programs of which inference makes no sense, each with the name of the site that a refusal must name."""

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan

HALF = jnp.array([0.5, 0.5])


def outside(size):
    """A latent of a plate is used outside it."""
    with numpyro.plate("N", size):
        z = numpyro.sample("z", dist.Categorical(probs=HALF))
    numpyro.sample("x", dist.Normal(z, 1.0), obs=jnp.zeros(size))


def in_a_sibling(size):
    """A latent of a plate is used in another plate of the same size."""
    with numpyro.plate("N", size):
        z = numpyro.sample("z", dist.Categorical(probs=HALF))
    with numpyro.plate("M", size):
        numpyro.sample("x", dist.Normal(z, 1.0), obs=jnp.zeros(size))


def continuous(size):
    """A continuous site is latent."""
    z = numpyro.sample("z", dist.Normal(0.0, 1.0))
    with numpyro.plate("N", size):
        numpyro.sample("w", dist.Bernoulli(logits=z))


def endless(size):
    """A site has infinitely many values."""
    with numpyro.plate("N", size):
        numpyro.sample("z", dist.Poisson(2.0))


def vector(size):
    """A site's value is a vector."""
    with numpyro.plate("N", size):
        numpyro.sample("z", dist.Bernoulli(probs=HALF).to_event(1))


def scanned(size):
    """A latent is in a scan."""

    def step(before, _):
        z = numpyro.sample("z", dist.Categorical(probs=jnp.eye(2)[before] * 0.4 + 0.3))
        numpyro.sample("x", dist.Normal(z, 1.0), obs=0.0)
        return z, None

    scan(step, 0, None, length=size)


def same_name(size):
    """Two sites have one name."""
    with numpyro.plate("N", size):
        numpyro.sample("z", dist.Bernoulli(0.3))
    numpyro.sample("z", dist.Bernoulli(0.4))


def two_dims(size):
    """One plate is in two dimensions."""
    with numpyro.plate("N", size, dim=-1):
        numpyro.sample("z", dist.Bernoulli(0.3))
    with numpyro.plate("N", size, dim=-2):
        numpyro.sample("w", dist.Bernoulli(0.4))


INVALID = {
    outside: "zx",
    in_a_sibling: "zx",
    continuous: "z",
    endless: "z",
    vector: "z",
    scanned: "zx",
    same_name: "z",
    two_dims: "zwN",
}
