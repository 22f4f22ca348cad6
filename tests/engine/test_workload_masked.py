"""A workload holds on the rows that count: padding is masked, and is in no mean."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from engine.running import bound, double, probs, traced
from numpyro.handlers import mask
from oracles.projection import project_reference
from programs import ENUMERATE

from pl2d_ppl.engine.workload import workload
from pl2d_ppl.guides.exact import exact
from pl2d_ppl.guides.mean_field import mean_field

LOGITS = np.random.default_rng(0).normal(size=(6, 3))
PRIOR = np.exp(LOGITS) / np.exp(LOGITS).sum(1, keepdims=True)
RIGHT = np.array(
    [[0.9, 0.5, 0.7], [0.2, 0.8, 0.7], [0.6, 0.6, 0.1], [0.3, 0.5, 0.9], [0.99, 0.01, 0.01], [0.9, 0.1, 0.1]]
)
KEPT = np.array([True, True, True, True, False, False])
LOWER, UPPER = np.array([0.0, 0.1, 0.5]), np.array([0.2, 1.0, 0.5])


def padded(kept):
    """The items that do not count are masked as a whole."""
    with numpyro.plate("item", 6, dim=-2), mask(mask=kept[:, None]):
        z = numpyro.sample("z", dist.Categorical(logits=double(LOGITS)[:, None]), infer=dict(ENUMERATE))
        numpyro.factor("right", jnp.log(double(RIGHT))[jnp.arange(6)[:, None], z])


def amortised(kept):
    """A guide of the user's own, with the mask of the program."""
    logits = double(LOGITS) + jnp.log(double(RIGHT))
    with numpyro.plate("item", 6, dim=-2), mask(mask=kept[:, None]):
        numpyro.sample("z", dist.Categorical(logits=logits[:, None]), infer=dict(ENUMERATE))


def posterior():
    joint = (PRIOR * RIGHT)[KEPT]
    return joint / joint.sum(1, keepdims=True)


@pytest.mark.parametrize("guide", [exact(padded), mean_field(padded), amortised], ids=["exact", "mean_field", "own"])
def test_the_bounds_hold_on_the_rows_that_count(float64, guide):
    kept = jnp.asarray(KEPT)
    tr = traced(workload(guide, "z", LOWER, UPPER, tolerance=1e-9), kept)
    q = project_reference(posterior(), LOWER, UPPER)[0]
    np.testing.assert_allclose(probs(tr, "z")[KEPT, 0], q, atol=1e-5)
    np.testing.assert_allclose(tr["z_mean"]["value"], q.mean(0), atol=1e-6)
    assert tr["z_violation"]["value"] < 1e-6


@pytest.mark.parametrize(
    "guide",
    [exact(padded), mean_field(padded), amortised],
    ids=["exact", "mean_field", "own"],
)
def test_the_loss_is_that_of_the_rows_that_count(float64, guide):
    kept, q = jnp.asarray(KEPT), project_reference(posterior(), LOWER, UPPER)[0]
    value = (q * (np.log(PRIOR * RIGHT)[KEPT] - np.log(q))).sum()
    np.testing.assert_allclose(
        bound(padded, workload(guide, "z", LOWER, UPPER, tolerance=1e-9), kept), value, rtol=1e-6
    )


@pytest.mark.parametrize("guide", [exact, mean_field])
def test_a_mask_around_the_program(float64, guide):
    """The handler stands outside of the whole program."""

    def program(kept):
        return padded(jnp.ones(6, bool))

    def outside(kept):
        with mask(mask=kept[:, None]):
            program(kept)

    tr = traced(workload(guide(outside), "z", LOWER, UPPER, tolerance=1e-9), jnp.asarray(KEPT))
    np.testing.assert_allclose(probs(tr, "z")[KEPT, 0], project_reference(posterior(), LOWER, UPPER)[0], atol=1e-5)


def test_a_window_counts_rows_too(float64):
    guide = workload(exact(padded), "z", LOWER, UPPER, tolerance=1e-9, window=12)
    tr = traced(guide, jnp.asarray(KEPT))
    assert tr["z_window"]["value"]["filled"].sum() == 4
    np.testing.assert_allclose(
        tr["z_mean"]["value"], project_reference(posterior(), LOWER, UPPER)[0].mean(0), atol=1e-6
    )


def test_no_row_that_counts(float64):
    """There is nothing to bound, and the loss is that of no data."""
    nobody = jnp.zeros(6, bool)
    guide = workload(exact(padded), "z", LOWER, UPPER)
    np.testing.assert_allclose(bound(padded, guide, nobody), 0.0, atol=1e-9)
    assert np.isfinite(jax.jit(lambda kept: traced(guide, kept)["z_mean"]["value"])(nobody)).all()
