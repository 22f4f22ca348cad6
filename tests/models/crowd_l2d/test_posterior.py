"""Posterior of people's confusion: the guide against NUTS."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpyro.handlers import block
from numpyro.infer import MCMC, NUTS
from programs import Table

from pl2d_ppl import fit
from pl2d_ppl.guides.exact import exact
from pl2d_ppl.guides.normal import normal
from pl2d_ppl.models.crowd_l2d import crowd_l2d
from pl2d_ppl.networks import Frozen
from pl2d_ppl.people.pooled import PooledPeople

ITEMS, RATES = 90, (0.05, 0.15, 0.3, 0.45)


@pytest.mark.exhaustive
def test_the_guide_is_close_to_nuts():
    """Two categories, an uninformed classifier, and people from careful to careless."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, ITEMS)
    said = np.stack([np.where(rng.random(ITEMS) < rate, 1 - y, y) for rate in RATES], 1)
    said[rng.random(said.shape) < 0.2] = -1
    arguments = {"membership": np.ones((1, 4)), "classifier": Frozen.of(Table(jnp.zeros((ITEMS, 2))))}
    data = {"x": np.zeros((ITEMS, 1), np.float32), "annotations": said}
    model = partial(crowd_l2d, **arguments)
    sampler = MCMC(NUTS(block(model, hide=["z"])), num_warmup=500, num_samples=1500, progress_bar=False)
    sampler.run(jax.random.key(0), **{name: jnp.asarray(a) for name, a in data.items()})
    expected = np.diagonal(sampler.get_samples()["confusion"], axis1=2, axis2=3)
    guide = exact(crowd_l2d, ["z"], continuous=normal(crowd_l2d))
    optimizer = optax.adam(optax.cosine_decay_schedule(0.03, 3000))
    options = {"epochs": 3000, "batch_size": ITEMS, "arguments": arguments, "progress": False}
    result = fit(jax.random.key(1), crowd_l2d, guide, data, optimizer, **options)
    people = PooledPeople.of(jax.random.key(2), result, num_samples=500)
    found = np.diagonal(people.values("confusion", data["x"]), axis1=2, axis2=3)
    np.testing.assert_allclose(found.mean(0), expected.mean(0), atol=0.05)
    ratio = found.std(0) / expected.std(0)
    # Units and their scales are independent in the guide, but not in the posterior: their product is wider.
    assert np.all((ratio > 0.8) & (ratio < 1.5)), ratio
