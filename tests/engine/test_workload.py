"""Workload bounds on a guide: against a certified projection."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import optax
import pytest
from numpyro.handlers import seed, trace
from numpyro.infer import SVI
from oracles.projection import project_reference
from programs import given_params, mlp_model, random_batch, random_l2d, table_model

from pl2d_ppl.engine.elbo import EnumELBO
from pl2d_ppl.engine.marginals import log_evidence
from pl2d_ppl.engine.tilt import tilt
from pl2d_ppl.engine.workload import workload
from pl2d_ppl.guides.exact import exact
from pl2d_ppl.guides.mean_field import mean_field

LOWER, UPPER = np.array([0.1, 0.0, 0.45]), np.array([0.3, 1.0, 0.5])


@pytest.fixture(scope="module")
def problem():
    return random_l2d(7, 12)


@pytest.fixture(scope="module")
def model(problem):
    return table_model(problem.gate, problem.beliefs)


@pytest.fixture(scope="module")
def data(problem):
    return problem.arrays()[2:]


def probs(tr, site):
    return jnp.exp(jax.nn.log_softmax(tr[site]["fn"].logits))


@partial(jax.jit, static_argnums=0)
def run(guide, data):
    """What a guide records: q(z), and its deterministic sites."""
    with trace() as tr:
        seed(guide, jax.random.key(0))(*data)
    recorded = {n: s["value"] for n, s in tr.items() if s["type"] == "deterministic"}
    return probs(tr, "z")[:, 0], recorded


@pytest.mark.parametrize(
    "guide", [pytest.param(mean_field, marks=pytest.mark.slow), exact, partial(exact, sites=["z"])]
)
def test_workload_projects_the_guide(model, data, guide):
    q, recorded = run(guide(model), data)
    q_tilde, bounded = run(workload(guide(model), "z", LOWER, UPPER), data)
    mean = q_tilde.mean(0)
    assert np.all(mean >= LOWER - 1e-4)
    assert np.all(mean <= UPPER + 1e-4)
    q = np.float64(q)
    np.testing.assert_allclose(q_tilde, project_reference(q / q.sum(1, keepdims=True), LOWER, UPPER)[0], atol=2e-4)
    assert set(bounded) - set(recorded) >= {"z_multipliers", "z_violation"}
    assert bounded["z_violation"] <= 1e-4
    weighted = q * np.exp(-np.float64(bounded["z_multipliers"]))
    np.testing.assert_allclose(q_tilde, weighted / weighted.sum(1, keepdims=True), rtol=1e-4)


def test_workload_leaves_conditionals_alone(model, data):
    """The I-projection of the joint q(z, t) changes q(z) only: with z given, t is distributed as before."""

    @jax.jit
    def given(z):
        tables = []
        for guide in (exact(model), workload(exact(model), "z", LOWER, UPPER)):
            fixed = numpyro.handlers.substitute(guide, data={"z": jnp.full((12, 1), z)})
            with trace() as tr:
                seed(fixed, jax.random.key(0))(*data)
            tables.append(probs(tr, "t"))
        return tables

    for z in range(3):
        free, bounded = given(z)
        np.testing.assert_allclose(free, bounded, rtol=1e-6)


@pytest.mark.slow
def test_slack_bounds_change_nothing(model, data):
    q, _ = run(exact(model, ["z"]), data)
    q_tilde, recorded = run(workload(exact(model, ["z"]), "z", np.zeros(3), np.ones(3)), data)
    np.testing.assert_allclose(q, q_tilde, atol=1e-6)
    np.testing.assert_allclose(recorded["z_multipliers"], 0.0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("site", "lower", "upper", "message"),
    [
        ("zz", [0, 0, 0], [1, 1, 1], r"site 'zz', found none .*spelling"),
        ("z", [0, 0], [1, 1], r"each of the 3 values of site 'z'.* found 2 and 2"),
        ("t", [0, 0, 0], [1, 1, 1], "'t' to come first in its guide"),
    ],
)
def test_a_workload_that_does_not_fit_is_refused(model, data, site, lower, upper, message):
    guide = workload(exact(model), site, lower, upper)
    with pytest.raises(ValueError, match=message):
        EnumELBO().loss(jax.random.key(0), {}, model, guide, *data)


@pytest.mark.parametrize(
    ("lower", "upper", "message"),
    [
        ([0.6, 0.6, 0.0], [1, 1, 1], "sum to at most 1"),
        ([0.6, 0.0, 0.0], [0.5, 1, 1], "lower <= upper"),
        ([0.0, 0.0, 0.0], [0.2, 0.2, 0.2], "sum to at least 1"),
    ],
)
def test_impossible_bounds_are_refused_before_anything_runs(lower, upper, message):
    with pytest.raises(ValueError, match=message):
        workload(pytest.fail, "z", lower, upper)


def test_a_window_of_nothing_is_refused(model):
    with pytest.raises(ValueError, match="at least one item, found 0"):
        workload(mean_field(model), "z", LOWER, UPPER, window=0)


@pytest.mark.slow
def test_bounds_are_leaves_and_share_a_compilation(problem, model, data):
    traced = []

    @jax.jit
    def multipliers(guide):
        traced.append(guide)
        with trace() as tr:
            seed(guide, jax.random.key(0))(*data)
        return tr["z_multipliers"]["value"], probs(tr, "z").mean((0, 1))

    guide = exact(model, ["z"])
    shares = (0.2, 0.5, 0.8)
    guides = [workload(guide, "z", [0, 0, s], [1, 1, s]) for s in shares]
    singly = [multipliers(g) for g in guides]
    assert len(traced) == 1
    batch = jax.tree.map(lambda *bounds: jnp.stack(bounds), *guides)
    nu, mean = jax.vmap(multipliers)(batch)
    for i, share in enumerate(shares):
        np.testing.assert_allclose(singly[i][1][2], share, atol=1e-4)
        np.testing.assert_allclose(mean[i], singly[i][1], atol=1e-4)
        np.testing.assert_allclose(nu[i], singly[i][0], atol=1e-2)


@pytest.mark.slow
def test_a_window_remembers_batches():
    """Five fixed batches: with networks that rest, the bounds hold on the mean over the window."""
    model = mlp_model(3, 2, 3)
    guide = workload(exact(model, ["z"]), "z", [0, 0, 0.6], [1, 1, 0.6], window=40)
    batches = [random_batch(s, 12) for s in range(5)]
    svi = SVI(model, guide, optax.sgd(0.0), EnumELBO())
    state = svi.init(jax.random.key(0), **batches[0])
    update = jax.jit(svi.update)
    filled = []
    for batch in batches[1:]:
        state, loss = update(state, **batch)
        assert np.isfinite(loss)
        filled.append(float(state.mutable_state["z_window"]["filled"].sum()))
    assert filled == [24, 36, 40, 40]
    # The window now holds the last 40 of 60 items; the last batch took the multipliers of all of them.
    kept = state.mutable_state["z_window"]
    free = exact(model, ["z"])

    @jax.jit
    def q_of(batch):
        with trace() as tr:
            seed(numpyro.handlers.substitute(free, data=svi.get_params(state)), jax.random.key(0))(**batch)
        return probs(tr, "z")[:, 0]

    expected = np.concatenate([q_of(b) for b in batches[:0:-1]])[:40]
    np.testing.assert_allclose(np.exp(kept["log_q"]), expected, rtol=1e-4, atol=1e-6)
    params = {**svi.get_params(state), **state.mutable_state}
    again = EnumELBO().site_terms(jax.random.key(0), params, model, guide, **batches[-1])[1][1]
    nu = np.float64(again["z_multipliers"]["value"])
    window = np.exp(np.float64(again["z_window"]["value"]["log_q"]))
    weighted = window * np.exp(-nu)
    np.testing.assert_allclose((weighted / weighted.sum(1, keepdims=True)).mean(0)[2], 0.6, atol=1e-4)


@pytest.mark.slow
def test_a_window_as_long_as_the_batch_is_none(problem, model, data):
    q, _ = run(workload(exact(model, ["z"]), "z", LOWER, UPPER), data)
    windowed, _ = run(workload(exact(model, ["z"]), "z", LOWER, UPPER, window=12), data)
    np.testing.assert_allclose(q, windowed, rtol=1e-5)


@pytest.mark.slow
def test_the_posterior_at_the_multipliers_meets_the_bounds(float64, problem):
    """Fisher's identity on values: at fixed nu the mean of the tilted posterior meets the bounds."""
    gate, beliefs, *data = problem.arrays()
    model = table_model(gate, beliefs)
    params = given_params(gate, beliefs)
    _, recorded = run(workload(exact(model, ["z"]), "z", LOWER, UPPER), tuple(data))
    nu = recorded["z_multipliers"]

    def evidence(weight):
        return log_evidence(tilt(model, "z", weight), params=params)(*data)

    mean = jax.jit(jax.grad(evidence))(-nu) / 12
    assert np.all(mean >= LOWER - 1e-4)
    assert np.all(mean <= UPPER + 1e-4)
