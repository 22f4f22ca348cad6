"""Surrogate losses of learning to defer: against the published formulas, at known optima, and with a Frozen AI."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from numpyro.handlers import seed, trace
from numpyro.infer.util import log_density
from oracles.prob_l2d import prob_l2d_closed_form
from programs import Table, random_l2d
from scipy.special import expit, logit, logsumexp, softmax

from pl2d_ppl import MLP, Deferral, fit
from pl2d_ppl.baselines.naive_l2d import naive_l2d
from pl2d_ppl.baselines.one_stage import one_stage
from pl2d_ppl.baselines.two_stage import two_stage
from pl2d_ppl.engine.guide_tools import no_guide
from pl2d_ppl.engine.marginals import log_evidence, marginals
from pl2d_ppl.engine.per_run import PerRun
from pl2d_ppl.guides.exact import exact
from pl2d_ppl.guides.mean_field import mean_field
from pl2d_ppl.models.prob_l2d import prob_l2d
from pl2d_ppl.networks import Frozen

KEY = jax.random.key(0)
M, C = 2, 3


# Oracles: the published losses, item by item, in float64


def softmax_loss(class_logits, deferral_logits, annotations, y):
    p = softmax([*class_logits, *deferral_logits])
    loss = -np.log(p[y])
    for m, said in enumerate(annotations):
        if said >= 0 and said == y:
            loss -= np.log(p[len(class_logits) + m])
    return loss


def binary_cross_entropy(score, label):
    return -label * np.log(expit(score)) - (1 - label) * np.log(expit(-score))


def ova_loss(class_logits, deferral_logits, annotations, y):
    loss = sum(binary_cross_entropy(score, float(c == y)) for c, score in enumerate(class_logits))
    for score, said in zip(deferral_logits, annotations, strict=True):
        if said >= 0:
            loss += binary_cross_entropy(score, float(said == y))
    return loss


def two_stage_loss(class_logits, gate_logits, annotations, y):
    """The loss of the gate, and the cross-entropy of the AI."""
    g = softmax(gate_logits)
    loss = -np.log(softmax(class_logits)[y])
    if np.argmax(class_logits) == y:
        loss -= np.log(g[-1])
    for m, said in enumerate(annotations):
        if said >= 0 and said == y:
            loss -= np.log(g[m])
    return loss


class Case(NamedTuple):
    program: partial
    outputs: int  # of gating, for two experts
    loss: callable

    def total(self, gate, ai, annotations, y):
        """Loss of all items; those without truth are left out."""
        gate, ai = (np.asarray(a, np.float64) for a in (gate, ai))
        return sum(self.loss(ai[i], gate[i], annotations[i], y[i]) for i in range(len(y)) if y[i] >= 0)

    def linear(self, num_inputs, num_categories, **options):
        """The program with linear networks; the classifier is left out if it is an argument."""
        networks = {"classifier": partial(MLP, num_inputs, (), num_categories)} | options
        given = {name: network for name, network in networks.items() if network is not None}
        return partial(self.program, gating=partial(MLP, num_inputs, (), self.outputs), **given)


CASES = {
    "softmax": Case(partial(one_stage, surrogate="softmax"), M, softmax_loss),
    "ova": Case(partial(one_stage, surrogate="ova"), M, ova_loss),
    "two-stage": Case(partial(two_stage), M + 1, two_stage_loss),
}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def tables(case, seed=0):
    """Logits of gate and AI, and the data."""
    problem = random_l2d(seed, 10, M, C)
    logits = problem.gate[:, : case.outputs], problem.beliefs[:, -1]
    return *logits, {"x": problem.x, "annotations": problem.annotations, "y": problem.y}


def density(case, gate, ai, data, **options):
    """Log density of the program with given logits in the place of networks."""
    gate, ai = jnp.asarray(gate, float), jnp.asarray(ai, float)
    program = seed(partial(case.program, gating=Table(gate), classifier=Table(ai), **options), 0)
    given = {"gating$params": {"logits": gate}, "classifier$params": {"logits": ai}}
    return log_density(program, (), {name: jnp.asarray(a) for name, a in data.items()}, given)[0]


@every_case
def test_log_density_is_minus_the_published_loss(case, precision):
    for draw in range(3):
        gate, ai, data = tables(case, draw)
        expected = -case.total(gate, ai, data["annotations"], data["y"])
        np.testing.assert_allclose(density(case, gate, ai, data), expected, rtol=precision.rtol)


@every_case
def test_gradient_agrees_with_differences_of_the_published_loss(case, float64):
    gate, ai, data = tables(case)
    gradient = jax.grad(lambda logits: density(case, *logits, data))((gate, ai))
    step = 1e-6
    for which, logits in enumerate((gate, ai)):
        for i in np.ndindex(logits.shape):
            moved = [np.array([gate, ai][which], float) for _ in range(2)]
            moved[0][i] += step
            moved[1][i] -= step
            pairs = [(m, ai) if which == 0 else (gate, m) for m in moved]
            up, down = (case.total(*pair, data["annotations"], data["y"]) for pair in pairs)
            np.testing.assert_allclose(gradient[which][i], (down - up) / (2 * step), rtol=1e-5, atol=1e-7)


@every_case
def test_an_item_without_truth_counts_for_nothing(case):
    gate, ai, data = tables(case)
    unknown = data["y"] < 0
    assert unknown.any()
    gradients = jax.grad(lambda logits: density(case, *logits, data))((jnp.asarray(gate), jnp.asarray(ai)))
    of_gate, of_ai = ((np.asarray(gradient) != 0).any(1) for gradient in gradients)
    np.testing.assert_array_equal(of_ai, ~unknown)
    assert of_gate.any()
    assert not of_gate[unknown].any()
    other = data | {"annotations": np.where(unknown[:, None], 2 - data["annotations"], data["annotations"])}
    np.testing.assert_array_equal(density(case, gate, ai, other), density(case, gate, ai, data))
    assert density(case, gate, ai, {"x": data["x"], "annotations": data["annotations"]}) == 0


@every_case
def test_a_missing_annotation_gives_no_term(case):
    gate, ai, data = tables(case)
    nobody = data | {"annotations": np.full_like(data["annotations"], -1)}
    alone = density(case, gate, ai, {"x": data["x"], "y": data["y"]})
    np.testing.assert_array_equal(density(case, gate, ai, nobody), alone)
    wrong = data | {"annotations": np.where(data["annotations"] < 0, (data["y"][:, None] + 1) % C, data["annotations"])}
    if case is CASES["ova"]:  # the logit of whoever is missing is not in the loss
        gradient = jax.grad(lambda gate: density(case, gate, ai, data))(jnp.asarray(gate))
        used = (data["annotations"] >= 0) & (data["y"] >= 0)[:, None]
        np.testing.assert_array_equal(np.asarray(gradient) != 0, used)
        assert density(case, gate, ai, wrong) < density(case, gate, ai, data)
    else:  # as documented: a wrong annotation gives none either
        np.testing.assert_allclose(density(case, gate, ai, wrong), density(case, gate, ai, data), rtol=1e-6)


@every_case
def test_large_logits_are_borne(case):
    gate, ai, data = tables(case)
    value, gradient = jax.value_and_grad(lambda gate: density(case, gate, 1e4 * ai, data))(1e4 * jnp.asarray(gate))
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


@every_case
def test_a_mini_batch_stands_for_all_items(case):
    gate, ai, data = tables(case)
    whole = density(case, gate, ai, data)
    np.testing.assert_allclose(density(case, gate, ai, data, num_items=30), 3 * whole, rtol=1e-5)


@every_case
def test_sites_are_those_of_the_documentation(case):
    gate, ai, data = tables(case)
    program = seed(partial(case.program, gating=Table(gate), classifier=Table(ai)), 0)
    sites = trace(program).get_trace(**{name: jnp.asarray(a) for name, a in data.items()})
    loss = {"deferral", "y_ai"} if case is CASES["two-stage"] else {"deferral", "categories"}
    assert {n for n, s in sites.items() if s["type"] == "sample"} == loss
    assert {n for n, s in sites.items() if s["type"] == "plate"} == {"item", "expert"}
    np.testing.assert_array_equal(sites["ai_logits"]["value"], ai)
    scores = np.asarray(sites["gate_logits"]["value"])
    np.testing.assert_array_equal(scores[:, : case.outputs], gate)
    if case is not CASES["two-stage"]:  # the argmax of everything, categories first
        winner = np.concatenate([ai, gate], 1).argmax(1)
        np.testing.assert_array_equal(scores.argmax(1), np.where(winner < C, M, winner - C))


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("softmax", {"surrogate": "hinge"}, "out of softmax, ova, found 'hinge'"),
        ("softmax", {"gating": Table(np.zeros((4, M, 1)))}, r"gating \(N, M\).*found \(4, 2, 1\)"),
        ("softmax", {"classifier": Table(np.zeros(4))}, r"classifier \(N, C\).*found \(4, 2\) and \(4,\)"),
        ("ova", {"gating": Table(np.zeros((4, 0)))}, r"found \(4, 0\)"),
        ("ova", {"gating": Table(np.zeros((4, M + 1)))}, r"annotations of shape \(4, 3\).*found \(4, 2\)"),
        ("two-stage", {"gating": Table(np.zeros((4, M)))}, r"annotations of shape \(4, 1\).*found \(4, 2\)"),
        ("two-stage", {"classifier": Table(np.zeros((4, C, 1)))}, r"classifier \(N, C\)"),
        ("softmax", {"annotations": np.zeros(4, int)}, r"annotations of shape \(4, 2\)"),
        ("two-stage", {"annotations": np.zeros(4, int)}, r"annotations of shape \(4, 2\)"),
        ("softmax", {"y": np.zeros((4, 1), int)}, r"y of shape \(4,\).*found \(4, 1\)"),
        ("two-stage", {"y": np.zeros((4, 1), int)}, r"y of shape \(4,\).*found \(4, 1\)"),
    ],
)
def test_what_does_not_fit_together(name, changes, message):
    case = CASES[name]
    data = {"x": np.zeros((4, 1)), "annotations": np.zeros((4, M), int), "y": np.zeros(4, int)}
    networks = {"gating": Table(np.zeros((4, case.outputs))), "classifier": Table(np.zeros((4, C)))}
    with pytest.raises(ValueError, match=message):
        case.program(**(data | networks | changes))


# Training


quiet = partial(fit, progress=False)
ADAM = optax.adam(0.1)


def half_experts(y, right):
    """Inputs -1 and 1, evenly; expert 0 is right with a frequency on -1, else wrong with it, expert 1 the reverse."""
    x = np.repeat([-1.0, 1.0], len(y) // 2)
    rank = np.tile(np.arange(len(y) // 2) % 5 / 5, 2)
    accuracy = np.stack([np.where(x < 0, right, 1 - right), np.where(x > 0, right, 1 - right)], 1)
    annotations = np.where(rank[:, None] < accuracy - 1e-6, y[:, None], 1 - y[:, None])
    return {"x": x[:, None].astype(np.float32), "annotations": annotations.astype(np.int32), "y": y.astype(np.int32)}


def scaled(slope):
    """A linear classifier of the sign of x, with logits -slope x and slope x."""
    network = MLP(1, (), 2, rngs=nnx.Rngs(0))
    network.readout.kernel[...] = jnp.array([[-slope, slope]])
    return network


@pytest.mark.slow
@every_case
def test_a_gate_on_a_frozen_classifier_reaches_the_optimum(case):
    """Two runs: an AI right everywhere, of confidence .95, and one right nowhere, of .6; experts right on .8 or .2."""
    data = half_experts(np.repeat([0, 1], 20), 0.8)
    slopes = np.array([1.5, -0.2])
    both = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(Frozen.of(scaled(slope)) for slope in slopes))
    arguments = {"classifier": PerRun(both)}
    model = case.linear(1, 2, classifier=None)
    keys = jax.random.split(KEY, 2)
    result = quiet(keys, model, no_guide, data, ADAM, epochs=600, batch_size=40, arguments=arguments)
    x = np.array([[-1.0], [1.0]], np.float32)
    logits = result.outputs(x)["gate_logits"][:, 0]  # (runs, items, deciders)
    accuracy = np.array([[0.8, 0.2], [0.2, 0.8]])
    for run, slope in enumerate(slopes):
        if case is CASES["two-stage"]:
            shares = np.concatenate([accuracy, np.full((2, 1), float(slope > 0))], 1)
            np.testing.assert_allclose(softmax(logits[run], -1), shares / shares.sum(1, keepdims=True), atol=2e-3)
            continue
        frozen = np.array([[slope, -slope], [-slope, slope]])
        sum_of_classes = logsumexp(frozen, 1, keepdims=True)
        expected = logit(accuracy) if case is CASES["ova"] else np.log(accuracy) + sum_of_classes
        np.testing.assert_allclose(logits[run, :, :M], expected, atol=2e-3)
        np.testing.assert_allclose(logits[run, :, M], frozen.max(1), rtol=1e-6)
    np.testing.assert_array_equal(result.predict(x).decision, [[2, 2], [0, 1]])
    # Coverage can be shifted afterwards.
    for run in range(2):
        bounded = Deferral.of(*result.run(run).predict(x)).bounded([0, 0, 0], [1, 1, 0])
        np.testing.assert_array_equal(bounded.decision, [0, 1])


@pytest.mark.slow
@every_case
def test_a_classifier_is_trained_along(case):
    """An AI that can be right everywhere, then one that can be right by chance only; the experts know their half."""
    model, decisions = case.linear(1, 2), []
    for y, right in ((np.repeat([0, 1], 20), 0.6), (np.tile([0, 1], 20), 1.0)):
        data = half_experts(y, right)
        result = quiet(KEY, model, no_guide, data, ADAM, epochs=300, batch_size=20)
        prediction = result.predict(data["x"])
        assert prediction.gate.shape == (40, M + 1)
        assert result.history["loss"][-1] < result.history["loss"][0]
        decisions.append(prediction.decision)
        if right < 1:
            np.testing.assert_array_equal(prediction.ai.argmax(1), y)
    np.testing.assert_array_equal(decisions[0], M)
    np.testing.assert_array_equal(decisions[1], np.repeat([0, 1], 20))


def random_data(num_items=24):
    """Three inputs an item; annotations and truth are missing now and then."""
    problem = random_l2d(3, num_items, M, C)
    x = np.random.default_rng(3).standard_normal((num_items, 3)).astype(np.float32)
    return {"x": x, "annotations": problem.annotations.astype(np.int32), "y": problem.y.astype(np.int32)}


def dense_probs(network, x):
    """Probabilities of a perceptron, in float64 and without dropout."""
    rows = np.asarray(x, float)
    for layer in network.hidden:
        rows = np.maximum(rows @ np.asarray(layer.kernel[...], float) + np.asarray(layer.bias[...], float), 0)
    readout = network.readout
    return softmax(rows @ np.asarray(readout.kernel[...], float) + np.asarray(readout.bias[...], float), -1)


@pytest.mark.slow
@every_case
def test_fit_reports_the_published_loss_an_item(case):
    data, model = random_data(), case.linear(3, C, num_items=24)
    result = quiet(KEY, model, no_guide, data, optax.sgd(0.0), epochs=1, batch_size=8)
    gate, ai = (result.outputs(data["x"])[name][0] for name in ("gate_logits", "ai_logits"))
    total = case.total(gate[:, : case.outputs], ai, data["annotations"], data["y"])
    np.testing.assert_allclose(result.history["loss"], [total / 24], rtol=1e-5)


@pytest.mark.slow
@every_case
def test_a_batch_of_runs_on_a_frozen_classifier_equals_single_runs(case):
    data, model = random_data(), case.linear(3, C, classifier=None)
    networks = [MLP(3, (4,), C, dropout=0.5, rngs=nnx.Rngs(s)) for s in range(2)]
    before = jax.tree.map(np.array, nnx.state(networks[0], nnx.Param))
    ai = dense_probs(networks[0], data["x"])
    frozen = [Frozen.of(network) for network in networks]
    run = partial(quiet, model=model, guide=no_guide, data=data, optimizer=ADAM, epochs=3, batch_size=8)
    keys = jax.random.split(KEY, 2)
    batch = run(keys, arguments={"classifier": frozen[0]})
    assert set(batch.params) == {"gating$params"}
    assert batch.predict(data["x"]).decision.shape == (2, 24)
    for r in range(2):
        single = run(keys[r], arguments={"classifier": frozen[0]})
        np.testing.assert_allclose(batch.history["loss"][:, r], single.history["loss"], rtol=1e-4)
        for mine, alone in zip(jax.tree.leaves(batch.run(r).params), jax.tree.leaves(single.params), strict=True):
            np.testing.assert_allclose(mine, alone, rtol=1e-4, atol=1e-5)
        prediction = single.predict(data["x"])
        np.testing.assert_allclose(batch.predict(data["x"]).gate[r], prediction.gate, rtol=1e-4)
        np.testing.assert_allclose(prediction.ai, ai, rtol=1e-4)
    jax.tree.map(np.testing.assert_array_equal, nnx.state(networks[0], nnx.Param), before)
    other = run(keys[0], arguments={"classifier": frozen[1]})
    assert other.compiled is single.compiled  # another network is not another compilation
    assert other.compiled.epoch._cache_size() == 1
    assert not np.array_equal(other.predict(data["x"]).ai, prediction.ai)


# The naive baseline


@pytest.mark.slow
def test_naive_is_the_posterior_of_a_gate_without_those_who_are_missing(float64):
    problem = random_l2d(3, num_items=24, num_experts=3)
    gate, beliefs, *data = problem.arrays()
    model = partial(naive_l2d, gating=Table(gate), classifier=Table(beliefs[:, -1]))
    evidence = log_evidence(model)(*data)
    q = marginals(model, ["z"])(*data)["z"][:, 0]
    assert (problem.said[:, :-1] < 0).any()
    expected = 0.0
    for i, said in enumerate(problem.said):
        g = problem.gate_probs[i] * (np.append(said[:-1], 0) >= 0)
        item = prob_l2d_closed_form(g, problem.belief_probs[i], said, problem.y[i], 1e-3, problem.belief_probs[i, -1])
        np.testing.assert_allclose(q[i], item["z"], rtol=float64.rtol, atol=1e-12)
        observed = said >= 0
        expected += item["log_evidence"] - np.log(problem.belief_probs[i][observed, said[observed]]).sum()
    np.testing.assert_allclose(evidence, expected, rtol=float64.rtol)


# A Frozen classifier in the programs with latent sites


def program_of(name, classifier):
    if name == "naive":
        return partial(naive_l2d, gating=partial(MLP, 3, (), M + 1), classifier=classifier)
    return partial(
        prob_l2d,
        gating=partial(MLP, 3, (), M + 1),
        experts=partial(MLP, 3, (), (M, C)),
        classifier=classifier,
        gate_trains_classifier=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize(("name", "guide"), [("naive", exact), ("prob", exact), ("prob", mean_field)])
def test_a_frozen_classifier_in_a_program_with_latent_sites(name, guide):
    data, network = random_data(), MLP(3, (4,), C, rngs=nnx.Rngs(0))
    frozen = Frozen.of(network)
    model, before = program_of(name, frozen), jax.tree.map(np.array, frozen)
    result = quiet(KEY, model, guide(model), data, optax.sgd(0.1), epochs=2, batch_size=24)
    assert set(result.params) == {"naive": {"gating$params"}, "prob": {"gating$params", "experts$params"}}[name]
    assert result.history["loss"][1] < result.history["loss"][0]
    np.testing.assert_allclose(result.predict(data["x"]).ai, dense_probs(network, data["x"]), rtol=1e-4)
    jax.tree.map(np.testing.assert_array_equal, frozen, before)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["prob", *CASES])
def test_no_gradient_reaches_a_frozen_classifier(name):
    data = {n: jnp.asarray(a) for n, a in random_data().items()}
    network = MLP(3, (4,), C, rngs=nnx.Rngs(0))
    latent = {"z": jnp.full((24, 1), M)} if name == "prob" else {}
    if name == "prob":
        latent["t"] = jnp.maximum(data["y"], 0)[:, None] * jnp.ones((1, M + 1), int)

    def log_joint(frozen):
        model = CASES[name].linear(3, C, classifier=frozen) if name in CASES else program_of(name, frozen)
        with seed(rng_seed=0):
            return log_density(model, (), data, latent)[0]

    gradient = jax.grad(log_joint)(Frozen.of(network))
    assert all(not np.any(g) for g in jax.tree.leaves(gradient))
