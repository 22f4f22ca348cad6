"""Evidence, posterior and gradients: against sums over who decides and what they say."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases.cluster_l2d import (
    CATEGORIES,
    CLUSTERS,
    ITEMS,
    KEY,
    PEOPLE,
    TINY,
    Case,
    arguments,
    by_enumeration,
    inferred,
    posterior,
    program,
    random_case,
    random_membership,
)
from flax import nnx
from numpyro.infer import SVI, TraceEnum_ELBO
from oracles.cluster_l2d import enumerate_cluster_l2d
from oracles.prob_l2d import label_channel
from programs import Table, table
from scipy.special import softmax

from pl2d_ppl import EnumELBO, marginals
from pl2d_ppl.guides.exact import exact
from pl2d_ppl.networks import Frozen

ORDERS = (("w", "v"), ("v", "w"), ("w",))
MODES = [pytest.param(True, id="experts"), pytest.param(False, id="masked")]
KINDS = {
    "soft": {},
    "hard": {"hard": True},
    "complete": {"complete": True},
    "hard, complete": {"hard": True, "complete": True},
}


def test_the_oracle_by_hand():
    """Two people in one cluster, an AI; the first said 1, and it is right. The channel is exact."""
    item = [0.5, 0.5], [[0.2, 0.8], [0.7, 0.3], [0.4, 0.6]], [[1.0, 1.0]], [1, -1], 1, 0.0
    latent, masked = (enumerate_cluster_l2d(*item, modelled=modelled) for modelled in (True, False))
    np.testing.assert_allclose(np.exp(latent["log_evidence"]), 0.8 * 0.6 * (0.25 + 0.25 * 0.3 + 0.5 * 0.6))
    np.testing.assert_allclose(latent["w"], np.array([0.25, 0.075, 0.3]) / 0.625)
    np.testing.assert_allclose(latent["t"][1], np.array([0.55 * 0.7, 0.55 * 0.3 + 0.075]) / 0.625)
    np.testing.assert_allclose(np.exp(masked["log_evidence"]), 0.6 * (0.5 + 0.5 * 0.6))
    np.testing.assert_allclose(masked["vw"], np.array([[0.5, 0, 0], [0, 0, 0.3]]) / 0.8)
    assert np.isnan(masked["t"][1]).all()
    nobody = enumerate_cluster_l2d(*item[:3], [-1, -1], 1, 0.0, modelled=False)
    np.testing.assert_allclose(np.exp(nobody["log_evidence"]), 0.6 * 0.6)
    np.testing.assert_allclose(nobody["v"], [0, 1])


@pytest.mark.parametrize("modelled", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_evidence_and_marginals_equal_enumeration(precision, modelled):
    for number, (kind, options) in enumerate(KINDS.items()):
        case = random_case(number, modelled=modelled, **options)
        expected = by_enumeration(case, modelled)
        evidence, found = posterior(*arguments(case, modelled))
        close = partial(np.testing.assert_allclose, rtol=precision.rtol, atol=TINY, err_msg=kind)
        assert found["w"].dtype == precision.name
        close(evidence, expected["log_evidence"].sum())
        close(found["v"][:, 0], expected["v"])
        close(found["w"][:, 0], expected["w"])
        assert ("t" in found) == modelled
        if modelled:
            close(found["t"], expected["t"])


@pytest.mark.parametrize(
    ("order", "modelled"),
    [
        (ORDERS[0], False),
        *(pytest.param(*c, marks=pytest.mark.slow) for c in [(ORDERS[0], True), (ORDERS[1], True)]),
        pytest.param(ORDERS[2], True, marks=pytest.mark.slow),
    ],
)
def test_exact_guides_are_the_posterior_and_attain_the_evidence(float64, order, modelled):
    exact_guides_are_exact(1e-9, order, modelled)


@pytest.mark.slow
def test_exact_guides_in_float32():
    exact_guides_are_exact(1e-4, ORDERS[0], True)


def exact_guides_are_exact(rtol, order, modelled):
    close = partial(np.testing.assert_allclose, rtol=rtol, atol=TINY)
    for number, (kind, options) in enumerate(KINDS.items()):
        case = random_case(10 + number, modelled=modelled, **options)
        expected = by_enumeration(case, modelled)
        elbo, own, joint = inferred(*arguments(case, modelled), order)
        close(elbo, expected["log_evidence"].sum(), err_msg=kind)
        close(own, expected[order[0]], err_msg=kind)
        if joint is not None:
            close(joint, expected["vw"], err_msg=kind)


@pytest.mark.slow
@pytest.mark.parametrize(("sizes", "modelled"), [((1, 1, 1, 2), False), ((3, 2, 2, 3), True)])
def test_axes_of_size_one_and_of_equal_size(float64, sizes, modelled):
    """Items, clusters, people, categories: the engine drops axes of size one, and may mix up equal ones."""
    rng = np.random.default_rng(0)
    num_items, num_clusters, num_people, num_categories = sizes
    beliefs = rng.standard_normal((num_items, num_people + 1, num_categories))
    annotations = rng.integers(0, num_categories, (num_items, num_people))
    y = rng.integers(0, num_categories, num_items)
    gate = rng.standard_normal((num_items, num_clusters + 1))
    case = Case(gate, beliefs, random_membership(rng, num_clusters, num_people), annotations, y)
    expected = by_enumeration(case, modelled)
    elbo, _, joint = inferred(*arguments(case, modelled), ORDERS[0])
    np.testing.assert_allclose(elbo, expected["log_evidence"].sum(), rtol=1e-9)
    np.testing.assert_allclose(joint, expected["vw"], rtol=1e-9, atol=TINY)


def test_nobody_decides_on_what_nobody_annotated(float64):
    """Of a cluster of which nobody annotated an item the posterior is zero; the others are as likely as before."""
    case = random_case(0, modelled=False, hard=True)
    annotations = case.annotations.copy()
    annotations[0], annotations[1, [1, 2]], annotations[2, [0, 3]] = -1, -1, -1
    case = case._replace(annotations=annotations)
    expected = by_enumeration(case, False)
    assert np.all((expected["v"][:3] == 0).sum(1) == [3, 2, 1])
    _, found = posterior(*arguments(case, False))
    for site in ("v", "w"):
        np.testing.assert_allclose(found[site][:, 0], expected[site], rtol=1e-9, atol=TINY)


def test_without_truth_the_gate_learns_nothing_from_who_annotated(float64):
    case = random_case(0, modelled=False, hard=True)
    annotations = case.annotations.copy()
    annotations[1, 1] = -1  # cluster 1 is that person alone
    evidence, _ = posterior(*arguments(case._replace(annotations=annotations, y=np.full(ITEMS, -1)), False))
    np.testing.assert_allclose(evidence, 0.0, atol=1e-12)


@pytest.mark.slow
def test_the_gate_prefers_the_better_cluster_though_it_annotated_less(float64):
    """Cluster 0 annotates all items, and errs on a tenth; cluster 1 annotates half of them, and does not err."""
    y = np.zeros(20, int)
    annotations = np.stack([np.arange(20) % 10 == 0, np.where(np.arange(20) < 10, -1, 0)], 1).astype(int)
    found, expected = np.zeros(2), np.zeros(2)
    for preferred in (0, 1):
        gate = np.where(np.arange(3) == preferred, 2.0, [0.0, 0.0, -9.0]) * np.ones((20, 1))
        case = Case(gate, np.zeros((20, 3, 2)), np.eye(2), annotations, y)
        found[preferred] = posterior(*arguments(case, False))[0]
        expected[preferred] = by_enumeration(case, False)["log_evidence"].sum()
    assert expected[1] > expected[0] + 0.1
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.slow
def test_everybody_may_be_asked_where_nothing_is_known(float64):
    case = random_case(3)
    for modelled in (True, False):
        model = program(case.networks(modelled), membership=case.membership)
        found = jax.jit(marginals(model))(case.data["x"])
        gate, omega = softmax(np.float64(case.gate), -1), np.float64(case.membership)
        w = np.append(gate[:, :-1] @ (omega / omega.sum(1, keepdims=True)), gate[:, -1:], 1)
        np.testing.assert_allclose(found["v"][:, 0], gate, rtol=1e-9)
        np.testing.assert_allclose(found["w"][:, 0], w, rtol=1e-9)


@pytest.mark.slow
def test_label_noise_and_size_of_the_data_set(float64):
    case = random_case(4)
    networks, membership, data = arguments(case, True)
    model = program(networks, membership=membership, label_noise=0.3, num_items=3 * ITEMS)
    loss = jax.jit(lambda: EnumELBO().loss(KEY, {}, model, exact(model, ["w"]), **data))()
    np.testing.assert_allclose(-loss, 3 * by_enumeration(case, True, eps=0.3)["log_evidence"].sum(), rtol=1e-9)


@partial(jax.jit, static_argnames="through_gate")
def gradient_of_all(logits, membership, data, through_gate):
    def loss(logits):
        networks = {name: Table(a) for name, a in logits.items()}
        model = program(networks, membership=membership, gate_trains_classifier=through_gate)
        params = {f"{name}$params": {"logits": a} for name, a in logits.items()}
        return -EnumELBO().loss(KEY, params, model, exact(model, ["w", "v"]), **data)

    return jax.grad(loss)(logits)


@pytest.mark.slow
@pytest.mark.parametrize("through_gate", [False, True])
def test_gradients_are_posterior_minus_prior(float64, through_gate):
    """By Fisher's identity: of every network that is trained, in its logits."""
    case = random_case(5)
    expected = by_enumeration(case, True)
    gate, beliefs = softmax(np.float64(case.gate), -1), softmax(np.float64(case.beliefs), -1)
    known = case.y >= 0
    ai = known[:, None] * (np.eye(CATEGORIES)[case.y] - beliefs[:, -1])
    if through_gate:
        ai = ai + expected["t"][:, -1] - beliefs[:, -1]
    assert not through_gate or np.abs(expected["t"][:, -1] - beliefs[:, -1]).max() > 0.01
    logits = {"gating": case.gate, "experts": case.beliefs[:, :-1], "classifier": case.beliefs[:, -1]}
    found = gradient_of_all(jax.tree.map(table, logits), table(case.membership), case.data, through_gate)
    np.testing.assert_allclose(found["gating"], expected["v"] - gate, rtol=1e-9, atol=TINY)
    np.testing.assert_allclose(found["experts"], (expected["t"] - beliefs)[:, :-1], rtol=1e-9, atol=TINY)
    np.testing.assert_allclose(found["classifier"], ai, rtol=1e-9, atol=TINY)


def nothing(*args, **kwargs):
    """A guide that leaves all to enumeration."""


@pytest.mark.slow
@pytest.mark.parametrize("modelled", MODES)
def test_plain_numpyro_fits_the_model(modelled):
    """SVI with TraceEnum_ELBO, and nothing of ours but Frozen: its loss, and its step, are those of enumeration."""
    rng, rngs = np.random.default_rng(0), nnx.Rngs(0)
    case = random_case(6, modelled=modelled)
    x = jnp.asarray(rng.standard_normal((ITEMS, 2)), np.float32)
    gating, classifier = nnx.Linear(2, CLUSTERS + 1, rngs=rngs), nnx.Linear(2, CATEGORIES, rngs=rngs)
    experts = nnx.LinearGeneral(2, (PEOPLE, CATEGORIES), rngs=rngs)
    networks = {"gating": gating, "classifier": Frozen.of(classifier)}
    networks |= {"experts": Frozen.of(experts)} if modelled else {}
    model = program(networks, membership=case.membership)
    data = case.data | {"x": x}
    svi = SVI(model, nothing, optax.sgd(0.1), TraceEnum_ELBO(max_plate_nesting=2))
    state = jax.jit(lambda data: svi.init(KEY, **data))(data)
    before = svi.get_params(state)
    state, loss = jax.jit(svi.update)(state, **data)
    after = svi.get_params(state)
    beliefs = np.concatenate([experts(x), classifier(x)[:, None]], 1)
    expected = by_enumeration(case._replace(gate=np.asarray(gating(x)), beliefs=beliefs), modelled)
    np.testing.assert_allclose(loss, -expected["log_evidence"].sum(), rtol=1e-4)
    assert list(before) == ["gating$params"]
    step = x.T @ (expected["v"] - softmax(np.float64(gating(x)), -1))
    moved = after["gating$params"]["kernel"] - before["gating$params"]["kernel"]
    np.testing.assert_allclose(moved, 0.1 * step, rtol=1e-4, atol=1e-6)


@cache
def large_step(num_people, num_items=64, num_clusters=8, num_categories=10):
    """The gate's gradient, and the bytes that it takes meanwhile."""
    rng = np.random.default_rng(0)
    gate = rng.standard_normal((num_items, num_clusters + 1)).astype(np.float32)
    beliefs = rng.standard_normal((num_items, num_people + 1, num_categories)).astype(np.float32)
    annotations = rng.integers(-1, num_categories, (num_items, num_people))
    y = rng.integers(0, num_categories, num_items)
    case = Case(gate, beliefs, random_membership(rng, num_clusters, num_people), annotations, y)
    networks, membership, data = arguments(case, False)
    model = program(networks | {"gating": Table(jnp.zeros_like(gate))}, membership=membership)
    guide = exact(model, ["w", "v"])

    def elbo(gate):
        return -EnumELBO().loss(KEY, {"gating$params": {"logits": gate}}, model, guide, **data)

    step = jax.jit(jax.grad(elbo)).lower(table(gate)).compile()
    memory = step.memory_analysis()
    assert memory is not None
    return case, np.asarray(step(table(gate))), memory.temp_size_in_bytes


def large_posterior(case):
    """The posterior of v, in closed form: y through the mean over a cluster of who annotated."""
    said, num_categories = case.annotations, case.beliefs.shape[-1]
    channel = label_channel(num_categories, 1e-3)
    weights = case.membership[None] * (said >= 0)[:, None]
    right = np.where(said >= 0, channel[said, case.y[:, None]], 0.0)
    of_clusters = np.einsum("nkm,nm->nk", weights, right) / weights.sum(-1)
    ai = np.einsum("nc,cn->n", softmax(np.float64(case.beliefs[:, -1]), -1), channel[:, case.y])
    gate = softmax(np.float64(case.gate), -1)
    joint = gate * np.append(of_clusters, ai[:, None], 1)
    return joint / joint.sum(1, keepdims=True), gate


@pytest.mark.slow
@pytest.mark.usefixtures("thorough_compilation")
def test_three_hundred_people():
    case, gradient, _ = large_step(300)
    posterior, gate = large_posterior(case)
    np.testing.assert_allclose(gradient, posterior - gate, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("thorough_compilation")
def test_memory_is_linear_in_people():
    assert large_step(300)[2] < 2.5 * large_step(150)[2]
