"""Programs that treat a value as if it had its batch shape: enumeration would change their meaning."""

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax import lax

TWO = jnp.array([0.3, 0.7])
THREE = jnp.array([0.2, 0.3, 0.5])
LOCS = jnp.array([-1.0, 0.5, 2.0])


def labels(size, probs=THREE):
    """Latent sites of the items."""
    with numpyro.plate("N", size):
        return numpyro.sample("z", dist.Categorical(probs=probs))


def observe(size, loc):
    """An observation of every item."""
    with numpyro.plate("N", size):
        numpyro.sample("y", dist.Normal(loc, 1.0), obs=jnp.linspace(-1.0, 2.0, size))


def first_item(size):
    observe(size, LOCS[labels(size)[0]])


def last_item_of_all(size):
    observe(size, LOCS[labels(size)[-1]])


def total(size):
    observe(size, LOCS[labels(size, TWO).sum() % 3])


def mean(size):
    observe(size, labels(size).mean())


def in_order(size):
    observe(size, LOCS[jnp.sort(labels(size))])


def from_the_end(size):
    observe(size, LOCS[labels(size)[::-1]])


def shifted(size):
    z = labels(size)
    observe(size, LOCS[jnp.concatenate([z[:1], z[:-1]])])


def shifted_from_the_right(size):
    z = labels(size)
    observe(size, LOCS[jnp.concatenate([z[..., :1], z[..., :-1]], -1)])


def rolled(size):
    observe(size, LOCS[jnp.roll(labels(size), 1)])


def running(size):
    observe(size, 0.3 * jnp.cumsum(labels(size)))


def flat(size):
    observe(size, LOCS[labels(size).reshape(-1)[:size]])


def by_length(size):
    z = labels(size)
    observe(size, LOCS[z] / len(z))


def standardised(size):
    z = labels(size).astype(float)
    observe(size, z - z.max())


def most_common(size):
    observe(size, LOCS[jnp.argmax(jnp.bincount(labels(size).ravel(), length=3))])


def any_of_them(size):
    observe(size, jnp.where((labels(size) == 1).any(), 2.0, 0.0))


def branches_on_all(size):
    z = labels(size)
    observe(size, lax.cond((z == 0).all(), lambda: 0.0, lambda: 1.0))


def flat_parents(size):
    """Of two sites without a plate, a vector whose axis is that of the first site's values."""
    a = numpyro.sample("a", dist.Categorical(probs=THREE))
    b = numpyro.sample("b", dist.Categorical(probs=THREE))
    numpyro.sample("y", dist.Normal(jnp.sum(LOCS[a] * LOCS[b]), 1.0), obs=0.3)


def table_by_position(size):
    """The table's first axis is the item's, its second the value."""
    z = labels(size)
    table = jnp.linspace(-1.0, 1.0, 3 * size).reshape(size, 3)
    observe(size, table[:, z].mean(-1))


def crossed_from_the_left(size):
    """Values of items as a column, for people along the right."""
    z = labels(size)
    with numpyro.plate("M", size, dim=-1):
        numpyro.sample("y", dist.Normal(LOCS[z[:, None] * 0 + z], 1.0).to_event(1), obs=jnp.zeros((size, size)))


def in_a_guide(size):
    """A guide whose second site looks at the first item's value of the first."""
    parallel = {"enumerate": "parallel"}
    with numpyro.plate("N", size):
        z = numpyro.sample("z", dist.Categorical(probs=THREE), infer=parallel)
        numpyro.sample("w", dist.Bernoulli(logits=LOCS[z[0]]), infer=dict(parallel))


def of_the_guide(size):
    """The model of `in_a_guide`."""
    with numpyro.plate("N", size):
        z = numpyro.sample("z", dist.Categorical(probs=THREE))
        w = numpyro.sample("w", dist.Bernoulli(0.4))
        numpyro.sample("y", dist.Normal(LOCS[z] + w, 1.0), obs=jnp.zeros(size))


POSITIONAL = [
    first_item, last_item_of_all, total, mean, in_order, from_the_end, shifted, shifted_from_the_right, rolled, running,
    flat, by_length, standardised, most_common, any_of_them, branches_on_all, flat_parents, table_by_position,
    crossed_from_the_left,
]  # fmt: skip
