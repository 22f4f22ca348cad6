"""Mean field read off the program, against updates derived by hand and by sums over the joint."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.handlers import mask, seed, trace
from oracles.lda import lda_elbo, lda_mean_field
from oracles.prob_l2d import enumerate_prob_l2d, mean_field_elbo, mean_field_fixed_point
from programs import random_l2d, table_model
from scipy.special import log_softmax

from pl2d_ppl.engine._numpyro import unwrap
from pl2d_ppl.engine.coordinate_ascent import coordinate_ascent
from pl2d_ppl.engine.elbo import EnumELBO
from pl2d_ppl.engine.program import read_program
from pl2d_ppl.guides.mean_field import mean_field

TINY = 1e-9


@partial(jax.jit, static_argnames=("sites", "options"))
def guide_probs(gate, beliefs, x, annotations, y, sites=None, options=()):
    """Probabilities at the sites of the mean-field guide, and the model's terms of its ELBO."""
    model = table_model(gate, beliefs)
    guide = mean_field(model, sites, **dict(options))
    with trace() as tr:
        seed(guide, jax.random.key(0))(x, annotations, y)
    q = {n: jnp.exp(jax.nn.log_softmax(s["fn"].logits)) for n, s in tr.items() if s["type"] == "sample"}
    return q, -EnumELBO().loss(jax.random.key(0), {}, model, guide, x, annotations, y)


@partial(jax.jit, static_argnames="max_sweeps")
def ascend(gate, beliefs, x, annotations, y, max_sweeps):
    """Exactly so many sweeps of coordinate ascent."""
    model = seed(table_model(gate, beliefs), jax.random.key(0))
    q = coordinate_ascent(read_program(model, (x, annotations, y), {}), tolerance=0.0, max_sweeps=max_sweeps)
    return jax.tree.map(jnp.exp, q.log_probs), q.num_sweeps


def items(problem):
    """Arguments of the oracles, item by item."""
    return zip(problem.gate_probs, problem.belief_probs, problem.said, problem.y, strict=True)


@pytest.mark.parametrize(("num_experts", "num_categories"), [(2, 3), pytest.param(4, 4, marks=pytest.mark.slow)])
def test_guide_equals_the_hand_written_updates(precision, num_experts, num_categories):
    problem = random_l2d(10 + num_experts, 8, num_experts, num_categories)
    q, elbo = guide_probs(*problem.arrays(), options=(("tolerance", 0.0), ("max_sweeps", 300)))
    assert q["z"].dtype == precision.name
    total = 0.0
    for i, item in enumerate(items(problem)):
        rho, phi, _ = mean_field_fixed_point(*item, sweeps=300, track_elbo=False)
        np.testing.assert_allclose(q["z"][i, 0], rho, rtol=precision.rtol, atol=TINY)
        np.testing.assert_allclose(q["t"][i], phi, rtol=precision.rtol, atol=TINY)
        ai = np.log(item[1][-1, item[3]]) if item[3] >= 0 else 0.0
        if num_experts == 2:
            total += mean_field_elbo(rho, phi, *item) + ai
    if num_experts == 2:
        np.testing.assert_allclose(elbo, total, rtol=precision.rtol)


def test_sweeps_follow_the_oracle_and_never_lower_the_bound(float64):
    problem = random_l2d(20, 8)
    previous = np.full(8, -np.inf)
    for sweeps in (1, 2, 3, 6):
        q, num_sweeps = ascend(*problem.arrays(), max_sweeps=sweeps)
        assert num_sweeps == sweeps
        bounds = []
        for i, item in enumerate(items(problem)):
            bounds.append(mean_field_elbo(np.asarray(q["z"][i, 0]), np.asarray(q["t"][i]), *item))
            if sweeps <= 3:  # later ones start from an extrapolation
                rho, phi, elbos = mean_field_fixed_point(*item, sweeps=sweeps)
                np.testing.assert_allclose(q["z"][i, 0], rho, rtol=1e-9)
                np.testing.assert_allclose(q["t"][i], phi, rtol=1e-9, atol=TINY)
                np.testing.assert_allclose(bounds[-1], elbos[-1], rtol=1e-9, atol=1e-12)
            evidence = enumerate_prob_l2d(*item)["log_evidence"]
            assert bounds[-1] <= evidence + 1e-9
        assert np.all(np.asarray(bounds) >= previous - 1e-12)
        previous = np.asarray(bounds)


@pytest.mark.slow
def test_sweeps_stop_at_the_tolerance(float64):
    problem = random_l2d(21, 8)
    model = seed(table_model(*problem.arrays()[:2]), jax.random.key(0))
    program = read_program(model, problem.arrays()[2:], {})
    loose = coordinate_ascent(program, tolerance=1e-2)
    tight = coordinate_ascent(program, tolerance=1e-8, max_sweeps=1000)
    assert loose.change <= 1e-2
    assert tight.change <= 1e-8
    assert 1 <= loose.num_sweeps < tight.num_sweeps < 1000
    with pytest.raises(ValueError, match="at least one sweep, found max_sweeps=0"):
        coordinate_ascent(program, max_sweeps=0)


def test_sites_that_are_left_out_are_summed_out_exactly(precision):
    problem = random_l2d(22, 8, 3, 3)
    q, elbo = guide_probs(*problem.arrays(), sites=("z",))
    exact = [enumerate_prob_l2d(*item, ai_probs=item[1][-1]) for item in items(problem)]
    assert set(q) == {"z"}
    np.testing.assert_allclose(q["z"][:, 0], [e["z"] for e in exact], rtol=precision.rtol, atol=TINY)
    np.testing.assert_allclose(elbo, sum(e["log_evidence"] for e in exact), rtol=precision.rtol)


def test_a_site_outside_the_plate_of_one_that_is_kept_cannot_be_left_out():
    problem = random_l2d(23)
    with pytest.raises(ValueError, match=r"'z'.*'t' depends on other plates too, or is kept"):
        guide_probs(*problem.arrays(), sites=("t",))


# --- Annotator LDA --------------------------------------------------------------------------------


def lda(votes, log_h, alpha):
    """Votes of annotators in K clusters; -1 pads. log_h: (N, K, C)."""
    num_items, num_votes = votes.shape
    with numpyro.plate("item", num_items, dim=-2):
        u = numpyro.sample("u", dist.Dirichlet(alpha))
        with numpyro.plate("vote", num_votes, dim=-1), mask(mask=votes >= 0):
            z = numpyro.sample("z", dist.Categorical(u), infer={"enumerate": "parallel"})
            given = dist.Categorical(logits=log_h[jnp.arange(num_items)[:, None], z])
            numpyro.sample("vote_value", given, obs=jnp.maximum(votes, 0))


@partial(jax.jit, static_argnames="validate")
def lda_guide(votes, log_h, alpha, validate=True):
    with numpyro.validation_enabled(validate):
        guide = mean_field(lda, tolerance=0.0, max_sweeps=400)
        with trace() as tr:
            seed(guide, jax.random.key(0))(votes, log_h, alpha)
        elbo = -EnumELBO().loss(jax.random.key(0), {}, lda, guide, votes, log_h, alpha)
    concentration = tr["u"]["fn"].base_dist if hasattr(tr["u"]["fn"], "base_dist") else tr["u"]["fn"]
    return concentration.concentration, jnp.exp(jax.nn.log_softmax(unwrap(tr["z"]["fn"])[0].logits)), elbo


def lda_data(padded, num_items=3, num_votes=4, num_clusters=2, num_categories=3):
    rng = np.random.default_rng(0)
    log_h = 1.5 * rng.standard_normal((num_items, num_clusters, num_categories))
    log_h = np.float32(log_h - np.log(np.exp(log_h).sum(-1, keepdims=True)))
    votes = rng.integers(0, num_categories, (num_items, num_votes))
    if padded:
        votes = np.pad(votes, ((0, 0), (0, 2)), constant_values=-1)
        votes[1, 1:] = -1
        votes[2, 0] = -1
    return votes, log_h


def lda_arrays(votes, log_h, alpha):
    float_type = jnp.result_type(float)
    return jnp.asarray(votes), jnp.asarray(log_h, float_type), jnp.asarray(alpha, float_type)


def lda_is_right(precision, padded, validate):
    """Concentrations, responsibilities and bound, against updates by hand; one compilation for all alpha."""
    votes, log_h = lda_data(padded)
    for alpha in [(2.0, 3.0), (0.5, 3.0), (0.004, 0.004), (50.0, 50.0)]:
        rho, zeta, elbo = lda_guide(*lda_arrays(votes, log_h, alpha), validate=validate)
        rho, bound = np.broadcast_to(rho, (3, 1, 2)), 0.0
        alpha_i = np.float64(np.asarray(alpha, precision.name))
        for i, row in enumerate(votes):
            log_hi = log_softmax(np.float64(log_h[i]), -1)[:, row[row >= 0]].T
            expected = lda_mean_field(log_hi, alpha_i, 400, rho_init=alpha_i)
            np.testing.assert_allclose(zeta[i][row >= 0], expected[0], rtol=precision.rtol, atol=TINY)
            np.testing.assert_allclose(rho[i, 0], expected[1], rtol=precision.rtol)
            bound += lda_elbo(log_hi, alpha_i, *expected)
        if alpha == (2.0, 3.0):
            np.testing.assert_allclose(elbo, bound, rtol=precision.rtol)


def test_lda_equals_the_hand_written_updates_and_bound(precision):
    lda_is_right(precision, padded=True, validate=True)


@pytest.mark.slow
@pytest.mark.parametrize(("padded", "validate"), [(False, True), (True, False)])
def test_lda_without_padding_and_without_validation(precision, padded, validate):
    lda_is_right(precision, padded, validate)


def test_bound_of_lda_is_stationary_in_the_networks(float64):
    """The gradient at fixed q is that of the bound, since q is at its optimum."""
    votes, log_h = lda_data(padded=False)
    votes, log_h, alpha = lda_arrays(votes, log_h, [2.0, 3.0])

    def program(votes):
        lda(votes, numpyro.param("log_h", jnp.zeros_like(log_h)), alpha)

    guide = mean_field(program, tolerance=0.0, max_sweeps=400)

    @jax.jit
    def loss(log_h):
        return EnumELBO().loss(jax.random.key(0), {"log_h": log_h}, program, guide, votes)

    step = np.random.default_rng(1).standard_normal(log_h.shape)
    slope = (loss(log_h + 1e-5 * step) - loss(log_h - 1e-5 * step)) / 2e-5
    np.testing.assert_allclose(jnp.vdot(jax.jit(jax.grad(loss))(log_h), step), slope, rtol=1e-7)
