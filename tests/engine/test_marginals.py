"""Log evidence and exact posteriors, against sums over every assignment."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.handlers import mask, seed
from oracles.discrete import brute_force, generic_mean_field
from oracles.prob_l2d import enumerate_prob_l2d
from programs import EDIT_SITES, edited_l2d, edited_log_joint, edited_start, random_l2d, table_model
from scipy.special import softmax

from pl2d_ppl.engine.elbo import EnumELBO
from pl2d_ppl.engine.elimination import eliminate
from pl2d_ppl.engine.guide_tools import logits_at
from pl2d_ppl.engine.marginals import log_evidence, marginals
from pl2d_ppl.engine.program import read_program
from pl2d_ppl.engine.tilt import tilt
from pl2d_ppl.guides.exact import exact
from pl2d_ppl.guides.mean_field import mean_field

KEY = 0
TINY = 1e-9  # probabilities of an annotation that was not made are about 1e-30 instead of 0


@jax.jit
def posterior(gate, beliefs, x, annotations, y):
    """Evidence of each item by itself, and the marginals and conditionals of all."""

    def evidence(*item):
        gate, beliefs, *data = (a[None] for a in item)
        return log_evidence(table_model(gate, beliefs))(*data)

    model = table_model(gate, beliefs)
    program = read_program(seed(model, jax.random.key(KEY)), (x, annotations, y), {})
    latents = program.latents
    given = eliminate(program.factors, {"t": latents["t"]}).conditionals["t"]
    every_z = jnp.arange(latents["z"].size).reshape(-1, 1, 1)
    return (
        jax.vmap(evidence)(gate, beliefs, x, annotations, y),
        log_evidence(model)(x, annotations, y),
        marginals(model)(x, annotations, y),
        jnp.exp(logits_at(given, latents["t"], latents, {"z": every_z})),
    )


@pytest.mark.parametrize(
    ("num_experts", "num_categories"),
    [(2, 3), pytest.param(1, 2, marks=pytest.mark.slow), pytest.param(4, 4, marks=pytest.mark.slow)],
)
def test_posterior_of_prob_l2d_equals_enumeration(precision, num_experts, num_categories):
    problem = random_l2d(num_experts, 8, num_experts, num_categories)
    evidence, total, probs, given_z = posterior(*problem.arrays())
    assert probs["z"].dtype == precision.name
    expected = [
        enumerate_prob_l2d(gate, beliefs, said, y, 1e-3, beliefs[-1])
        for gate, beliefs, said, y in zip(
            problem.gate_probs, problem.belief_probs, problem.said, problem.y, strict=True
        )
    ]
    close = partial(np.testing.assert_allclose, rtol=precision.rtol, atol=TINY)
    close(evidence, [e["log_evidence"] for e in expected], atol=1e-2 * precision.rtol)
    close(total, sum(e["log_evidence"] for e in expected))
    close(probs["z"][:, 0], [e["z"] for e in expected])
    close(probs["t"], [e["t"] for e in expected])
    # given_z: (Z, N, M + 1, C); the oracle's zt: (M + 1, Z, C) an item.
    close(given_z, np.stack([e["zt"] for e in expected]).transpose(2, 0, 1, 3))


@pytest.mark.parametrize("y", [None, -1])
def test_without_annotations_and_truth_the_evidence_is_one(float64, y):
    problem = random_l2d(0)
    model = table_model(problem.gate.astype(float), problem.beliefs.astype(float))
    annotations = None if y is None else np.full_like(problem.annotations, -1)
    truth = None if y is None else np.full_like(problem.y, -1)

    @jax.jit
    def run(x):
        return log_evidence(model)(x, annotations, truth), marginals(model)(x, annotations, truth)

    evidence, probs = run(problem.x)
    assert abs(evidence) < 1e-12
    np.testing.assert_allclose(probs["z"][:, 0], problem.gate_probs, rtol=1e-12)
    np.testing.assert_allclose(probs["t"], problem.belief_probs, rtol=1e-12)


def test_an_unknown_truth_of_one_item_changes_no_other(float64):
    problem = random_l2d(1)
    gate, beliefs, x, annotations, y = problem.arrays()
    before = posterior(gate, beliefs, x, annotations, y)[2]
    after = posterior(gate, beliefs, x, annotations, y.at[6].set(-1))[2]
    others = np.arange(8) != 6
    np.testing.assert_allclose(before["z"][others], after["z"][others], rtol=1e-12)
    assert np.abs(before["z"][6] - after["z"][6]).max() > 1e-3


@pytest.fixture(scope="module")
def edited():
    """Two items, an expert and the AI, two categories: the edited program and its brute force."""
    problem = random_l2d(3, 2, 1, 2)
    problem = problem._replace(annotations=np.array([[1], [-1]]), y=np.array([0, 1]))
    log_joint = edited_log_joint(problem)
    return problem, log_joint, brute_force(EDIT_SITES, log_joint)


def edited_case(problem):
    gate, beliefs, *data = problem.arrays()
    return table_model(gate, beliefs, edited_l2d), tuple(data)


def stack(posterior, site):
    """Oracle's per-item sites as one array in the shape of the program's site."""
    rows = {"g": [["g"]], "d": [["d0"], ["d1"]], "z": [["z0"], ["z1"]], "t": [["t00", "t01"], ["t10", "t11"]]}
    table = np.array([[posterior[name] for name in row] for row in rows[site]])
    return table[0, 0] if site == "g" else table


def test_edited_program_equals_brute_force(precision, edited):
    problem, _, (evidence, probs, _) = edited
    model, data = edited_case(problem)
    close = partial(np.testing.assert_allclose, rtol=precision.rtol, atol=TINY)
    close(jax.jit(log_evidence(model))(*data), evidence)
    found = jax.jit(marginals(model))(*data)
    assert set(found) == {"g", "d", "z", "t"}
    for site in found:
        close(found[site], stack(probs, site), err_msg=site)


@pytest.mark.slow
@pytest.mark.parametrize("sites", [None, ["g", "z"]])
def test_exact_guide_of_the_edited_program_attains_the_evidence(float64, edited, sites):
    problem, _, (evidence, _, _) = edited
    model, data = edited_case(problem)
    guide = exact(model, sites)
    loss = jax.jit(lambda *data: EnumELBO().loss(jax.random.key(1), {}, model, guide, *data))(*data)
    np.testing.assert_allclose(-loss, evidence, rtol=1e-9)


@pytest.mark.slow
def test_edited_program_has_its_own_mean_field(precision, edited):
    problem, log_joint, _ = edited
    model, data = edited_case(problem)
    order = [s for block in "tzdg" for s in EDIT_SITES if s.startswith(block)]
    expected = generic_mean_field(EDIT_SITES, log_joint, edited_start(problem), order, 2000)
    guide = mean_field(model, tolerance=0.0, max_sweeps=2000)

    def q(*data):
        with numpyro.handlers.trace() as tr:
            seed(guide, jax.random.key(KEY))(*data)
        return {name: jnp.exp(jax.nn.log_softmax(tr[name]["fn"].logits)) for name in ("g", "d", "z", "t")}

    found = jax.jit(q)(*data)
    for site in found:
        table = np.broadcast_to(found[site], stack(expected, site).shape)
        np.testing.assert_allclose(table, stack(expected, site), rtol=precision.rtol, atol=TINY, err_msg=site)


def test_a_masked_latent_site_does_not_count(float64):
    def program(valid):
        with numpyro.plate("vote", 3), mask(mask=valid):
            z = numpyro.sample("z", dist.Categorical(logits=jnp.arange(2.0)), infer={"enumerate": "parallel"})
            numpyro.sample("y", dist.Bernoulli(logits=jnp.array([-1.0, 2.0])[z]), obs=jnp.ones(3))

    prior = softmax([0.0, 1.0])
    one_vote = np.log(prior @ (1 / (1 + np.exp([1.0, -2.0]))))
    found = jax.jit(lambda valid: (log_evidence(program)(valid), marginals(program)(valid)["z"]))
    for valid in (
        np.array([True, True, True]),
        np.array([True, False, True]),
        np.array([False, False, False]),
    ):
        evidence, probs = found(jnp.asarray(valid))
        np.testing.assert_allclose(evidence, valid.sum() * one_vote, atol=1e-12)
        np.testing.assert_allclose(probs.sum(-1), 1.0, rtol=1e-12)


@pytest.mark.slow
def test_the_evidence_is_differentiable_in_the_parameters(float64):
    problem = random_l2d(2)
    gate, beliefs, *data = problem.arrays()
    model = table_model(gate, beliefs)

    def evidence(logits):
        return log_evidence(model, params={"gating$params": {"logits": logits}})(*data)

    step = np.random.default_rng(0).standard_normal(gate.shape)
    slope = (evidence(gate + 1e-5 * step) - evidence(gate - 1e-5 * step)) / 2e-5
    np.testing.assert_allclose(jnp.vdot(jax.grad(evidence)(gate), step), slope, rtol=1e-7)


@pytest.mark.slow
def test_conditioning_on_a_latent_site_gives_the_conditional(float64):
    problem = random_l2d(4)
    gate, beliefs, *data = problem.arrays()
    given_z = posterior(gate, beliefs, *data)[3]
    z = jnp.array([0, 1, 2, 0, 1, 2, 0, 1])
    probs = marginals(table_model(gate, beliefs), ["t"], params={"z": z[:, None]})(*data)
    np.testing.assert_allclose(probs["t"], given_z[z, jnp.arange(8)], rtol=1e-9, atol=TINY)


def test_tilted_evidence_equals_the_sum_over_z(float64):
    problem = random_l2d(5)
    gate, beliefs, *data = problem.arrays()
    evidence, _, probs, _ = posterior(gate, beliefs, *data)
    weight = jnp.array([0.3, -2.0, 1.0])
    tilted = jax.jit(log_evidence(tilt(table_model(gate, beliefs), "z", weight)))(*data)
    expected = np.sum(evidence) + np.log(np.asarray(probs["z"][:, 0]) @ np.exp(weight)).sum()
    np.testing.assert_allclose(tilted, expected, rtol=1e-9)


def test_unknown_and_unsuitable_sites_are_refused():
    problem = random_l2d(0)
    model = table_model(problem.gate, problem.beliefs)
    with pytest.raises(ValueError, match=r"latent sites .*'t', 'z'.* found \['zz'\]"):
        marginals(model, ["zz"])(problem.x, problem.annotations, problem.y)

    def mixture():
        u = numpyro.sample("u", dist.Dirichlet(jnp.ones(2)))
        numpyro.sample("z", dist.Categorical(u), infer={"enumerate": "parallel"})

    with pytest.raises(ValueError, match=r"discrete latent sites .* found Dirichlet sites \['u'\]"):
        log_evidence(mixture)()
