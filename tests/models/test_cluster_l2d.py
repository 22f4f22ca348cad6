"""Deferral to clusters: against sums over who decides and what they say, convex programs, and its neighbours."""

import logging
from functools import cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from flax import nnx
from numpyro.handlers import mask, seed
from numpyro.infer import SVI, TraceEnum_ELBO
from numpyro.ops.indexing import Vindex
from oracles.cluster_l2d import enumerate_cluster_l2d
from oracles.discrete import brute_force
from oracles.prob_l2d import label_channel
from oracles.projection import project_joint_cvxpy
from programs import ENUMERATE, Table, table, table_model, tree_allclose
from scipy.special import log_softmax, softmax, xlogy
from scipy.stats import chisquare

from pl2d_ppl import MLP, EnumELBO, FitResult, fit, log_evidence, marginals, to_datatree, workload
from pl2d_ppl.distributions.empirical import membership_draws
from pl2d_ppl.guides.exact import exact
from pl2d_ppl.inference.compiled import PerRun, compile_fit
from pl2d_ppl.models.cluster_l2d import cluster_l2d
from pl2d_ppl.networks import Frozen

KEY = jax.random.key(0)
SLOW = pytest.mark.slow
TINY = 1e-9
ITEMS, CLUSTERS, PEOPLE, CATEGORIES = 6, 3, 4, 3
ORDERS = (("w", "v"), ("v", "w"), ("w",))
MODES = [pytest.param(True, id="experts"), pytest.param(False, id="masked")]
HARD = np.array([[1, 0, 0, 1], [0, 1, 0, 0], [0, 0, 1, 0]], np.float32)


# --- Problems ---------------------------------------------------------------------------------------------


class Case(NamedTuple):
    """Data and logits of N items: gate (N, K + 1), beliefs (N, M + 1, C) with the AI last, Omega (K, M)."""

    gate: np.ndarray
    beliefs: np.ndarray
    membership: np.ndarray
    annotations: np.ndarray
    y: np.ndarray

    @property
    def data(self):
        said, y = jnp.asarray(self.annotations), jnp.asarray(self.y)
        return {"x": jnp.zeros((len(self.y), 1)), "annotations": said, "y": y}

    def networks(self, modelled):
        experts = Frozen.of(Table(table(self.beliefs[:, :-1]))) if modelled else None
        classifier = Frozen.of(Table(table(self.beliefs[:, -1])))
        return {"gating": Frozen.of(Table(table(self.gate))), "classifier": classifier, "experts": experts}


def random_membership(rng, num_clusters=CLUSTERS, num_people=PEOPLE):
    return rng.dirichlet(np.ones(num_clusters), num_people).T.astype(np.float32)


def heard(membership, annotations, y):
    """Let somebody of every cluster annotate every item: the first of those who belong to it, who is then wrong."""
    annotations = annotations.copy()
    for said, truth in zip(annotations, y, strict=True):
        for row in membership:
            if not np.any((row > 0) & (said >= 0)):
                said[np.argmax(row > 0)] = (truth + 1) % CATEGORIES
    return annotations


def random_case(seed, *, modelled=True, hard=False, complete=False, sizes=(ITEMS, CLUSTERS, PEOPLE, CATEGORIES)):
    """Items of every kind: all annotated, none or some missing; known and unknown truth."""
    num_items, num_clusters, num_people, num_categories = sizes
    rng = np.random.default_rng(seed)
    gate = 1.5 * rng.standard_normal((num_items, num_clusters + 1))
    beliefs = 1.5 * rng.standard_normal((num_items, num_people + 1, num_categories))
    membership = HARD if hard else random_membership(rng, num_clusters, num_people)
    y = rng.integers(0, num_categories, num_items)
    y[2:4] = -1
    annotations = rng.integers(0, num_categories, (num_items, num_people))
    if not complete:
        annotations[rng.random(annotations.shape) < 0.4] = -1
        annotations[0], annotations[3:5] = -1, np.maximum(annotations[3:5], 0)
        annotations = annotations if modelled else heard(membership, annotations, y)
    # Logits that float32 holds exactly: the oracle and the program then have the same problem.
    return Case(gate.astype(np.float32), beliefs.astype(np.float32), membership, annotations, y)


def by_enumeration(case, modelled, **options):
    """What the oracle says of every item, stacked."""
    gate, beliefs = softmax(np.float64(case.gate), -1), softmax(np.float64(case.beliefs), -1)
    omega = np.float64(case.membership)
    rows = zip(gate, beliefs, case.annotations, case.y, strict=True)
    items = [enumerate_cluster_l2d(g, b, omega, said, y, modelled=modelled, **options) for g, b, said, y in rows]
    return {name: np.stack([item[name] for item in items]) for name in items[0]}


KINDS = {
    "soft": {},
    "hard": {"hard": True},
    "complete": {"complete": True},
    "hard, complete": {"hard": True, "complete": True},
}


@jax.jit
def posterior(networks, membership, data):
    model = partial(cluster_l2d, **networks, membership=membership)
    return log_evidence(model)(**data), marginals(model)(**data)


@partial(jax.jit, static_argnames="order")
def inferred(networks, membership, data, order, bounds=None):
    """ELBO of an exact guide; what it says of its first site, (N, values), and of both, (N, K + 1, M + 1)."""
    model = partial(cluster_l2d, **networks, membership=membership)
    guide = exact(model, order)
    if bounds is not None:
        guide = workload(guide, order[0], *bounds, tolerance=1e-10)
    return says(model, guide, order, data)


def says(model, guide, order, data):
    """ELBO of a guide, and its tables, as they enter it."""
    terms, (_, tr) = EnumELBO().site_terms(KEY, {}, model, guide, **data)
    first, *others = order
    own = jax.nn.softmax(tr[first]["fn"].logits)[:, 0]
    if not others:
        return sum(terms.values()), own, None
    given = jax.nn.softmax(tr[others[0]]["fn"].logits)[:, :, 0]  # values of the first, items, values
    return sum(terms.values()), own, jnp.einsum("na,anb->nab" if first == "v" else "na,anb->nba", own, given)


def arguments(case, modelled):
    return case.networks(modelled), table(case.membership), case.data


# --- The oracle -------------------------------------------------------------------------------------------


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


# --- Evidence and posterior -------------------------------------------------------------------------------


@pytest.mark.parametrize("modelled", [True, pytest.param(False, marks=SLOW)])
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


@SLOW
def test_annotations_summed_out_leave_evidence_and_posterior(float64):
    for number, (kind, options) in enumerate(KINDS.items()):
        case = random_case(40 + number, modelled=True, **options)
        expected = by_enumeration(case, True)
        model = partial(cluster_l2d, latent_annotations=False)
        given = {"membership": jnp.asarray(case.membership), **case.networks(True), **case.data}
        close = partial(np.testing.assert_allclose, rtol=1e-9, atol=TINY, err_msg=kind)
        close(log_evidence(model)(**given), expected["log_evidence"].sum())
        found = marginals(model)(**given)
        assert set(found) == {"v", "w"}
        close(found["v"][:, 0], expected["v"])
        close(found["w"][:, 0], expected["w"])


@pytest.mark.parametrize(
    ("order", "modelled"),
    [
        (ORDERS[0], False),
        *(pytest.param(*c, marks=SLOW) for c in [(ORDERS[0], True), (ORDERS[1], False), (ORDERS[1], True)]),
        pytest.param(ORDERS[2], True, marks=SLOW),
    ],
)
def test_exact_guides_are_the_posterior_and_attain_the_evidence(float64, order, modelled):
    exact_guides_are_exact(1e-9, order, modelled)


@SLOW
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


@SLOW
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


@SLOW
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


@SLOW
def test_everybody_may_be_asked_where_nothing_is_known(float64):
    case = random_case(3)
    for modelled in (True, False):
        model = partial(cluster_l2d, **case.networks(modelled), membership=case.membership)
        found = jax.jit(marginals(model))(case.data["x"])
        gate, omega = softmax(np.float64(case.gate), -1), np.float64(case.membership)
        w = np.append(gate[:, :-1] @ (omega / omega.sum(1, keepdims=True)), gate[:, -1:], 1)
        np.testing.assert_allclose(found["v"][:, 0], gate, rtol=1e-9)
        np.testing.assert_allclose(found["w"][:, 0], w, rtol=1e-9)


@SLOW
def test_label_noise_and_size_of_the_data_set(float64):
    case = random_case(4)
    networks, membership, data = arguments(case, True)
    model = partial(cluster_l2d, **networks, membership=membership, label_noise=0.3, num_items=3 * ITEMS)
    loss = jax.jit(lambda: EnumELBO().loss(KEY, {}, model, exact(model, ["w"]), **data))()
    np.testing.assert_allclose(-loss, 3 * by_enumeration(case, True, eps=0.3)["log_evidence"].sum(), rtol=1e-9)


# --- Gradients --------------------------------------------------------------------------------------------


@partial(jax.jit, static_argnames="through_gate")
def gradient_of_all(logits, membership, data, through_gate):
    def loss(logits):
        networks = {name: Table(a) for name, a in logits.items()}
        model = partial(cluster_l2d, **networks, membership=membership, gate_trains_classifier=through_gate)
        params = {f"{name}$params": {"logits": a} for name, a in logits.items()}
        return -EnumELBO().loss(KEY, params, model, exact(model, ["w", "v"]), **data)

    return jax.grad(loss)(logits)


@SLOW
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


# --- Plain NumPyro ----------------------------------------------------------------------------------------


def nothing(*args, **kwargs):
    """A guide that leaves all to enumeration."""


@SLOW
@pytest.mark.parametrize("modelled", MODES)
def test_plain_numpyro_fits_the_model(modelled):
    """SVI with TraceEnum_ELBO, and nothing of ours but Frozen: its loss, and its step, are those of enumeration."""
    rng, rngs = np.random.default_rng(0), nnx.Rngs(0)
    case = random_case(6, modelled=modelled)
    x = jnp.asarray(rng.standard_normal((ITEMS, 2)), np.float32)
    gating, classifier = nnx.Linear(2, CLUSTERS + 1, rngs=rngs), nnx.Linear(2, CATEGORIES, rngs=rngs)
    experts = nnx.LinearGeneral(2, (PEOPLE, CATEGORIES), rngs=rngs)
    model = partial(
        cluster_l2d,
        membership=case.membership,
        gating=gating,
        classifier=Frozen.of(classifier),
        experts=Frozen.of(experts) if modelled else None,
    )
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


# --- Workload ---------------------------------------------------------------------------------------------

FREE = (0.0, 1.0)
BOUNDS = {
    "w": {
        "the AI alone": [FREE, FREE, FREE, FREE, (0.6, 0.6)],
        "the AI, from above": [FREE, FREE, FREE, FREE, (0.0, 0.1)],
        "everybody": [(0.1, 0.15), (0.3, 1.0), (0.05, 0.2), FREE, (0.05, 0.25)],
        "as much for everybody": [(0.2, 0.2)] * 4 + [FREE],
        "slack": [FREE] * 5,
    },
    "v": {
        "the AI alone": [FREE, FREE, FREE, (0.6, 0.6)],
        "every cluster": [(0.1, 0.15), (0.4, 1.0), FREE, (0.0, 0.3)],
        "slack": [FREE] * 4,
    },
}


@SLOW
@pytest.mark.parametrize(
    ("site", "modelled"), [("w", True), *(pytest.param(*c, marks=SLOW) for c in [("w", False), ("v", True)])]
)
def test_workload_projects_the_joint(float64, site, modelled):
    """Of who and which cluster, at once: by a convex program over the joint."""
    order = {"w": ("w", "v"), "v": ("v", "w")}[site]
    axis = 1 if site == "v" else 2
    for number, (kind, bounds) in enumerate(BOUNDS[site].items()):
        case = random_case(20 + number, modelled=modelled)
        lower, upper = np.array(bounds).T
        q = by_enumeration(case, modelled)["vw"]
        expected = project_joint_cvxpy(q, axis, lower, upper)
        elbo, own, joint = inferred(*arguments(case, modelled), order, (table(lower), table(upper)))
        np.testing.assert_allclose(joint, expected, atol=2e-5, err_msg=kind)
        assert np.all((own.mean(0) > lower - 1e-6) & (own.mean(0) < upper + 1e-6))
        gap = np.sum(xlogy(expected, expected) - xlogy(expected, q))  # of the bound: what the projection costs
        evidence = by_enumeration(case, modelled)["log_evidence"].sum()
        np.testing.assert_allclose(elbo, evidence - gap, atol=1e-5, err_msg=kind)
        assert (np.abs(expected - q).max() > 0.02) == (kind != "slack")  # the bounds bite


# --- Draws of the membership ------------------------------------------------------------------------------

NUM_DRAWS, NUM_KEYS = 3, 2000


@jax.jit
def by_draw(keys, gate, networks, draws, data):
    """ELBO of one step, and its gradient in the gate, with every key."""
    rest = {name: network for name, network in networks.items() if name != "gating"}
    model = partial(cluster_l2d, gating=Table(jnp.zeros_like(gate)), **rest)
    guide = exact(model, ["w", "v"], continuous=membership_draws)

    def elbo(key, gate):
        params = {"gating$params": {"logits": gate}}
        return -EnumELBO().loss(key, params, model, guide, **data, membership=draws)

    return jax.vmap(jax.value_and_grad(elbo, argnums=1), (0, None))(keys, gate)


@SLOW
def test_every_step_has_one_of_the_draws(float64):
    case = random_case(30)
    draws = np.stack([random_membership(np.random.default_rng(s)) for s in range(NUM_DRAWS)])
    networks, _, data = arguments(case, True)
    keys = jax.random.split(KEY, NUM_KEYS)
    elbos, gradients = (np.asarray(a) for a in by_draw(keys, table(case.gate), networks, table(draws), data))
    expected = [by_enumeration(case._replace(membership=draw), True) for draw in draws]
    evidences = np.array([e["log_evidence"].sum() for e in expected])
    gate = softmax(np.float64(case.gate), -1)
    of_draws = np.array([e["v"] - gate for e in expected])
    assert np.abs(np.subtract.outer(evidences, evidences))[np.triu_indices(3, 1)].min() > 1e-4
    chosen = np.abs(elbos[:, None] - evidences).argmin(1)
    np.testing.assert_allclose(elbos, evidences[chosen], rtol=1e-9)
    np.testing.assert_allclose(gradients, of_draws[chosen], rtol=1e-7, atol=TINY)
    assert chisquare(np.bincount(chosen, minlength=NUM_DRAWS)).pvalue > 1e-3
    error = 5 * evidences.std() / np.sqrt(NUM_KEYS)
    np.testing.assert_allclose(elbos.mean(), evidences.mean(), rtol=0, atol=error)
    error = 5 * of_draws.std(0).max() / np.sqrt(NUM_KEYS)
    np.testing.assert_allclose(gradients.mean(0), of_draws.mean(0), rtol=0, atol=error)


@SLOW
def test_one_draw_is_that_membership(float64):
    case = random_case(31)
    networks, membership, data = arguments(case, True)
    elbos, gradients = by_draw(KEY[None], table(case.gate), networks, membership[None], data)
    expected = by_enumeration(case, True)
    np.testing.assert_allclose(elbos[0], expected["log_evidence"].sum(), rtol=1e-9)
    gate = softmax(np.float64(case.gate), -1)
    np.testing.assert_allclose(gradients[0], expected["v"] - gate, rtol=1e-9, atol=TINY)


def test_draws_need_their_guide():
    case = random_case(32)
    model = partial(cluster_l2d, **case.networks(True), membership=np.stack([case.membership] * 2))
    with pytest.raises(ValueError, match=r"'membership' ~ Empirical without a value.*(\n.*)*continuous="):
        jax.eval_shape(lambda data: seed(exact(model, ["w"]), KEY)(**data), case.data)


# --- Neighbours -------------------------------------------------------------------------------------------


@SLOW
def test_a_cluster_for_everybody_is_probabilistic_l2d(float64):
    """With everybody a cluster, v is the z of prob_l2d."""
    case = random_case(40, sizes=(ITEMS, 3, 3, CATEGORIES), complete=True)
    case = case._replace(membership=np.eye(3))
    missing = case._replace(annotations=np.where(np.arange(3) == np.arange(ITEMS)[:, None] % 3, -1, case.annotations))
    model = table_model(*(table(a) for a in (case.gate, case.beliefs)))
    found = jax.jit(lambda data: (log_evidence(model)(**data), marginals(model)(**data)))
    for latent in (case, missing):
        evidence, expected = found(latent.data)
        own, given = posterior(*arguments(latent, True))
        np.testing.assert_allclose(own, evidence, rtol=1e-9)
        np.testing.assert_allclose(given["v"], expected["z"], rtol=1e-9, atol=TINY)
        np.testing.assert_allclose(given["w"], expected["z"], rtol=1e-9, atol=TINY)
        np.testing.assert_allclose(given["t"], expected["t"], rtol=1e-9, atol=TINY)
    evidence, expected = found(case.data)
    log_beliefs = log_softmax(np.float64(case.beliefs[:, :-1]), -1)
    of_annotations = np.take_along_axis(log_beliefs, case.annotations[..., None], -1).sum()
    own, given = posterior(*arguments(case, False))
    np.testing.assert_allclose(own, evidence - of_annotations, rtol=1e-9)
    np.testing.assert_allclose(given["v"], expected["z"], rtol=1e-9, atol=TINY)


@SLOW
@pytest.mark.parametrize("complete", [True, False])
def test_one_cluster_defers_to_a_uniformly_drawn_person(float64, complete):
    """With one cluster of all, the truth is read off the AI or off anybody, as in LECODU."""
    case = random_case(41, sizes=(ITEMS, 1, PEOPLE, CATEGORIES), complete=complete, modelled=False)
    case = case._replace(membership=np.ones((1, PEOPLE)))
    gate, ai = softmax(np.float64(case.gate), -1), softmax(np.float64(case.beliefs[:, -1]), -1)
    expected = 0.0
    for i in np.flatnonzero(case.y >= 0):
        said = case.annotations[i][case.annotations[i] >= 0]
        right = label_channel(CATEGORIES, 1e-3)[:, case.y[i]]
        expected += np.log(gate[i] @ [right[said].mean(), ai[i] @ right]) + np.log(ai[i, case.y[i]])
    np.testing.assert_allclose(posterior(*arguments(case, False))[0], expected, rtol=1e-9)


# --- A modeller's edit ------------------------------------------------------------------------------------


def edited_cluster_l2d(x, annotations, y, *, membership, gating, classifier, experts, channel, taste):
    """`cluster_l2d` as a modeller would edit it: everybody's errors differ, and some pairs of (v, w) are preferred."""
    gate_logits = numpyro.deterministic("gate_logits", gating(x))
    belief_logits = numpyro.deterministic("belief_logits", jnp.concatenate([experts(x), classifier(x)[:, None]], 1))
    num_items, num_deciders, _ = belief_logits.shape
    num_clusters = len(membership)
    said = jnp.pad(annotations, ((0, 0), (0, 1)), constant_values=-1)
    staff = jnp.zeros((num_clusters + 1, num_deciders)).at[:-1, :-1].set(membership).at[-1, -1].set(1.0)
    with numpyro.plate("item", num_items, dim=-2):
        v = numpyro.sample("v", dist.Categorical(logits=gate_logits[:, None]), infer=dict(ENUMERATE))
        shares = Vindex(staff / staff.sum(1, keepdims=True))[v]
        w = numpyro.sample("w", dist.Categorical(shares), infer=dict(ENUMERATE))
        numpyro.factor("taste", Vindex(taste)[v, w])
        with numpyro.plate("expert", num_deciders, dim=-1):
            t = numpyro.sample("t", dist.Categorical(logits=belief_logits), infer=dict(ENUMERATE))
            with mask(mask=said >= 0):
                numpyro.sample("annotation", dist.Delta(t), obs=jnp.maximum(said, 0))
            with mask(mask=(y >= 0)[:, None] & (w == jnp.arange(num_deciders))):
                decided = dist.Categorical(Vindex(channel)[jnp.arange(num_deciders), t])
                numpyro.sample("y", decided, obs=jnp.maximum(y, 0)[:, None])


@jax.jit
def edited_posterior(networks, membership, data, channel, taste):
    model = partial(edited_cluster_l2d, **networks, membership=membership, channel=channel, taste=taste)
    found = says(model, exact(model, ["w", "v"]), ("w", "v"), data)
    return *found, marginals(model, ["t"])(**data)["t"]


@SLOW
@pytest.mark.parametrize("edit", ["none", "channel", "factor"])
def test_an_edited_model_has_its_own_posterior(float64, edit):
    case = random_case(50)
    rng = np.random.default_rng(1)
    channel = np.broadcast_to(label_channel(CATEGORIES, 1e-3), (PEOPLE + 1, CATEGORIES, CATEGORIES))
    taste = np.zeros((CLUSTERS + 1, PEOPLE + 1))
    if edit == "channel":
        channel = rng.dirichlet(np.ones(CATEGORIES), (PEOPLE + 1, CATEGORIES))
    if edit == "factor":
        taste = rng.standard_normal(taste.shape)
    gate, beliefs = log_softmax(np.float64(case.gate), -1), log_softmax(np.float64(case.beliefs), -1)
    omega = np.float64(case.membership)
    shares = np.zeros(taste.shape)
    shares[:-1, :-1], shares[-1, -1] = omega / omega.sum(1, keepdims=True), 1.0
    sites = {"v": CLUSTERS + 1, "w": PEOPLE + 1} | {f"t{m}": CATEGORIES for m in range(PEOPLE + 1)}
    evidence, joints, says = 0.0, [], []
    for i in range(ITEMS):

        def log_joint(values, i=i):
            v, w = values["v"], values["w"]
            t = [values[f"t{m}"] for m in range(PEOPLE + 1)]
            said = case.annotations[i]
            if shares[v, w] == 0 or any(a not in (-1, c) for a, c in zip(said, t[:-1], strict=True)):
                return -np.inf
            lp = gate[i, v] + np.log(shares[v, w]) + taste[v, w] + sum(beliefs[i, m, c] for m, c in enumerate(t))
            return lp + (np.log(channel[w, t[w], case.y[i]]) if case.y[i] >= 0 else 0.0)

        log_p, of_sites, joint = brute_force(sites, log_joint)
        evidence += log_p
        joints.append(joint.sum(tuple(range(2, joint.ndim))))
        says.append([of_sites[f"t{m}"] for m in range(PEOPLE + 1)])
    elbo, w, joint, t = edited_posterior(*arguments(case, True), table(channel), table(taste))
    np.testing.assert_allclose(elbo, evidence, rtol=1e-9)
    np.testing.assert_allclose(joint, joints, rtol=1e-9, atol=TINY)
    np.testing.assert_allclose(w, np.sum(joints, 1), rtol=1e-9, atol=TINY)
    np.testing.assert_allclose(t, says, rtol=1e-9, atol=TINY)
    unedited = by_enumeration(case, True)["vw"]
    assert (np.abs(unedited - joint).max() < 1e-9) == (edit == "none")
    assert edit == "none" or np.abs(unedited - joint).max() > 0.05


# --- Fits -------------------------------------------------------------------------------------------------


def blobs(num_items=24, modelled=False):
    """Three blobs; people of two clusters, whose annotations are missing now and then but not of all of a cluster."""
    rng = np.random.default_rng(0)
    y = rng.permutation(np.arange(num_items) % CATEGORIES)
    x = 3 * np.eye(CATEGORIES)[y] + 0.5 * rng.standard_normal((num_items, CATEGORIES))
    shape = num_items, PEOPLE
    annotations = np.where(rng.random(shape) < 0.3, rng.integers(0, CATEGORIES, shape), y[:, None])
    annotations[rng.random(shape) < 0.3] = -1
    annotations = annotations if modelled else heard(HARD, annotations, y)
    return {"x": x.astype(np.float32), "annotations": annotations, "y": y}


BATCH = blobs()
OMEGA = random_membership(np.random.default_rng(1))
AI, OTHER_AI = (Frozen.of(MLP(CATEGORIES, (4,), CATEGORIES, rngs=nnx.Rngs(number))) for number in (1, 2))
MODEL = partial(cluster_l2d, gating=partial(MLP, CATEGORIES, (), CLUSTERS + 1))
GUIDE = exact(MODEL, ["w", "v"])
OPTIMIZER = optax.adam(0.1)
KEYS = jax.random.split(KEY, 2)
run = partial(fit, optimizer=OPTIMIZER, epochs=4, batch_size=12, progress=False)


@cache
def fitted():
    return run(KEY, MODEL, GUIDE, BATCH, arguments={"membership": OMEGA, "classifier": AI})


def ai_probs(classifier):
    return softmax(np.asarray(classifier(jnp.asarray(BATCH["x"]))), -1)


@SLOW
def test_a_frozen_classifier_stays_as_it_is():
    result = fitted()
    assert list(result.params) == ["gating$params"]
    prediction = result.predict(BATCH["x"])
    assert prediction.gate.shape == (24, CLUSTERS + 1)
    np.testing.assert_allclose(prediction.gate.sum(1), 1.0, rtol=1e-5)
    np.testing.assert_array_equal(prediction.decision, prediction.gate.argmax(1))
    np.testing.assert_allclose(prediction.ai, ai_probs(AI), rtol=1e-5, atol=1e-6)
    assert np.all(np.diff(result.history["loss"]) < -1e-3)


@SLOW
def test_another_membership_and_another_classifier_are_not_another_compilation():
    result = fitted()
    other = run(KEY, MODEL, GUIDE, BATCH, arguments={"membership": HARD, "classifier": OTHER_AI})
    assert other.compiled is result.compiled
    assert other.compiled.epoch._cache_size() == other.compiled.init._cache_size() == 1
    np.testing.assert_allclose(other.predict(BATCH["x"]).ai, ai_probs(OTHER_AI), rtol=1e-5, atol=1e-6)
    assert np.all(np.abs(other.history["loss"] - result.history["loss"]) > 1e-3)


@SLOW
def test_a_classifier_that_is_not_frozen_is_trained():
    model = partial(MODEL, classifier=partial(MLP, CATEGORIES, (), CATEGORIES))
    result = run(KEY, model, exact(model, ["w", "v"]), BATCH, arguments={"membership": OMEGA}, epochs=20)
    assert sorted(result.params) == ["classifier$params", "gating$params"]
    right = result.predict(BATCH["x"]).ai[np.arange(24), BATCH["y"]]
    assert np.log(right).mean() > -0.3  # by chance: -1.1


@SLOW
def test_runs_with_their_own_membership_and_classifier_equal_single_runs():
    memberships, ais = (OMEGA, HARD), (AI, OTHER_AI)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *ais)
    own = {"membership": PerRun(np.stack(memberships)), "classifier": PerRun(stacked)}
    batch = run(KEYS, MODEL, GUIDE, BATCH, arguments=own)
    for i in range(2):
        single = run(KEYS[i], MODEL, GUIDE, BATCH, arguments={"membership": memberships[i], "classifier": ais[i]})
        one = batch.run(i)
        np.testing.assert_allclose(single.history["loss"], batch.history["loss"][:, i], rtol=1e-4)
        tree_allclose(one.params, single.params, rtol=1e-3, atol=1e-4)
        assert one.compiled is single.compiled
        np.testing.assert_allclose(one.predict(BATCH["x"]).ai, ai_probs(ais[i]), rtol=1e-4, atol=1e-5)
    assert np.abs(np.diff(batch.history["loss"], axis=1)).min() > 1e-3  # the runs differ


# --- Trees ------------------------------------------------------------------------------------------------


def unfitted(model, guide, data, given):
    """A fit of no epochs, which compiles little."""
    compiled, leaves = compile_fit(model, guide, OPTIMIZER, False, 2, given)
    arrays = {name: jnp.asarray(a) for name, a in data.items()}
    return FitResult.start(compiled, leaves, compiled.init(leaves, KEY, arrays), arrays)


def case_of(tree, data, membership, beliefs):
    gate = np.log(np.maximum(tree["network_outputs"]["gate_probs"].values, 1e-30))
    return Case(gate, beliefs, membership, data["annotations"], data["y"])


@SLOW
@pytest.mark.parametrize("order", [("w", "v"), ("w",)])
def test_tree_has_the_marginals_of_enumeration(order):
    modelled = order == ("w",)  # where v and t are left to the tree, and else v is the guide's
    data = {name: a[:9] for name, a in blobs(modelled=modelled).items()}
    experts = nnx.LinearGeneral(CATEGORIES, (PEOPLE, CATEGORIES), rngs=nnx.Rngs(3))
    model = partial(MODEL, experts=Frozen.of(experts) if modelled else None)
    result = unfitted(model, exact(model, order), data, {"membership": OMEGA, "classifier": AI})
    tree = to_datatree(jax.random.key(1), result, data, num_samples=1000)
    beliefs = np.concatenate([experts(data["x"]), AI(jnp.asarray(data["x"]))[:, None]], 1)
    expected = by_enumeration(case_of(tree, data, OMEGA, beliefs), modelled)
    found = tree["marginals"]
    np.testing.assert_allclose(found["v_probs"], expected["v"], rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(found["w_probs"], expected["w"], rtol=1e-3, atol=1e-5)
    assert found["w_probs"].dims == ("item", "expert")
    assert ("t_probs" in found) == modelled
    if modelled:
        np.testing.assert_allclose(found["t_probs"], expected["t"], rtol=1e-3, atol=1e-5)
    # Draws: jointly, within six standard errors.
    v, w = (tree["posterior"][site].values[0] for site in ("v", "w"))
    share = np.einsum("siv,siw->ivw", np.eye(CLUSTERS + 1)[v], np.eye(PEOPLE + 1)[w]) / len(v)
    error = 6 * np.sqrt(expected["vw"] * (1 - expected["vw"]) / len(v)) + 1e-4
    assert np.all(np.abs(share - expected["vw"]) < error)


@SLOW
def test_tree_of_draws_of_the_membership():
    """Marginals are means over the draws that were drawn; ln p of every item is of every draw."""
    data = {name: a[:9] for name, a in BATCH.items()}
    draws = np.stack([random_membership(np.random.default_rng(number)) for number in range(3)])
    guide = exact(MODEL, ["w", "v"], continuous=membership_draws)
    result = unfitted(MODEL, guide, data, {"membership": draws, "classifier": AI})
    tree = to_datatree(jax.random.key(1), result, data, num_samples=8)
    chosen = tree["posterior"]["membership"].values[0]
    beliefs = np.zeros((9, PEOPLE + 1, CATEGORIES))
    beliefs[:, -1] = AI(jnp.asarray(data["x"]))
    expected = [by_enumeration(case_of(tree, data, membership, beliefs), False) for membership in chosen]
    assert len(np.unique(chosen, axis=0)) == 3
    for site in ("v", "w"):
        mean = np.mean([e[site] for e in expected], 0)
        np.testing.assert_allclose(tree["marginals"][f"{site}_probs"], mean, rtol=1e-3, atol=1e-5)
    evidence = tree["log_likelihood"]["log_evidence"].values[0]
    np.testing.assert_allclose(evidence, [e["log_evidence"] for e in expected], rtol=1e-3, atol=1e-5)


# --- Bad input --------------------------------------------------------------------------------------------


@pytest.fixture
def compiled():
    """Names of the functions that are compiled meanwhile."""
    names = []

    class Record(logging.Handler):
        def emit(self, record):
            names.append(record.getMessage())

    handler = Record()
    logger = logging.getLogger("jax._src.interpreters.pxla")
    level, logger.level = logger.level, logging.DEBUG
    logger.addHandler(handler)
    yield names
    logger.removeHandler(handler)
    logger.setLevel(level)


def refused(compiled, message, data=BATCH, model=MODEL, guide=None, **options):
    with pytest.raises(ValueError, match=message):
        run(KEY, model, guide or exact(model, ["w", "v"]), data, epochs=1, **options)
    parts = ("_init", "_epoch", "lambda", "_evaluate", "_outputs")
    assert not [name for name in compiled if any(p in name.split(" with ")[0] for p in parts)]


def with_column(*column):
    """Memberships of which the first person has these."""
    membership = OMEGA.copy()
    membership[:, 0] = column
    return membership


ONE_CLUSTER = np.eye(CLUSTERS, dtype=np.float32)[:, [0, 0, 0, 1]]
VALUES = {
    "negative": (
        with_column(1.5, -0.5, 0.0),
        r"membership as .* not negative, .* and least -0.5 at (S = 1, )?'person_0'",
    ),
    "NaN": (with_column(0.5, np.nan, 0.5), r"(found|with sum) (nan|NaN)"),
    "infinite": (with_column(0.5, np.inf, 0.5), r"(with sum inf|found NaN or infinity)"),
    "too much": (with_column(0.5, 0.5, 0.5), r"sum to one over K, .* with sum 1.5 at (S = 1, )?'person_0'"),
    "too little": (with_column(0.0, 0.0, 0.0), r"with sum 0 at (S = 1, )?'person_0'"),
    "transposed": (
        np.full((CLUSTERS, PEOPLE), 0.25),
        r"with sum 0.75 at (S = 1, )?'person_0'. Transpose them, as they sum to one over M",
    ),
    "empty": (ONE_CLUSTER, r"somebody in every cluster, found nobody in cluster 2. Drop that row"),
}


@SLOW
def test_the_good_input_is_accepted():
    """What the refused differ from; shown by the shapes of its outputs, for which nothing is compiled."""
    compiled, leaves = compile_fit(MODEL, GUIDE, OPTIMIZER, False, 2, {"membership": OMEGA, "classifier": AI})
    sites = compiled.probe(leaves, KEY, {name: jnp.asarray(a[:12]) for name, a in BATCH.items()})
    assert sites["gate_logits"].shape == (12, CLUSTERS + 1)


@pytest.mark.parametrize("kind", VALUES)
def test_bad_memberships(compiled, kind):
    membership, message = VALUES[kind]
    refused(compiled, message, model=partial(MODEL, membership=membership, classifier=AI))
    if kind != "empty":
        draws = np.stack([OMEGA, membership])
        model = partial(MODEL, membership=draws, classifier=AI)
        of_draws = partial(membership_draws, membership=draws)
        refused(compiled, message, model=model, guide=exact(model, ["w", "v"], continuous=of_draws))


@pytest.mark.parametrize("kind", VALUES)
def test_bad_memberships_as_arguments(compiled, kind):
    membership, message = VALUES[kind]
    refused(compiled, message, guide=GUIDE, arguments={"membership": membership, "classifier": AI})


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((PEOPLE,), r"membership of shape \(K, M\), or \(S, K, M\) of draws.*found \(4,\)"),
        ((1, 1, CLUSTERS, PEOPLE), r"found \(1, 1, 3, 4\)"),
        ((CLUSTERS - 1, PEOPLE), r"outputs \(N, K\+1\), found \(2, 4\) and \(12, 4\). The last output is the AI"),
        ((CLUSTERS + 1, PEOPLE), r"found \(4, 4\) and \(12, 4\)"),
        ((CLUSTERS, PEOPLE + 1), r"annotations of shape \(12, 5\).*found \(12, 4\)"),
        ((CLUSTERS, PEOPLE - 1), r"annotations of shape \(12, 3\).*found \(12, 4\)"),
    ],
)
def test_memberships_of_bad_shape(compiled, shape, message):
    membership = np.full(shape, 1 / shape[-2] if len(shape) > 1 else 1.0, np.float32)
    refused(compiled, message, guide=GUIDE, arguments={"membership": membership, "classifier": AI})


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"annotations": BATCH["annotations"][:, :3]}, r"annotations of shape \(12, 4\).*found \(12, 3\)"),
        ({"annotations": BATCH["annotations"][:, 0]}, r"annotations of shape \(12, 4\).*found \(12,\)"),
        ({"annotations": BATCH["annotations"][..., None]}, r"found \(12, 4, 1\)"),
        ({"annotations": BATCH["annotations"][:9]}, "arrays of one length"),
        pytest.param(
            {"annotations": BATCH["annotations"] + 1}, r"in -1..2, .* in data\['annotations'\], found 3", marks=SLOW
        ),
        (
            {"annotations": BATCH["annotations"] - 1},
            r"from -1 up, -1 where missing, in data\['annotations'\], found -2",
        ),
        ({"annotations": BATCH["annotations"].astype(float)}, r"integer labels in data\['annotations'\]"),
        pytest.param({"y": BATCH["y"] + 1}, r"labels in -1..2, .* in data\['y'\], found 3", marks=SLOW),
        ({"y": np.full(24, -1)}, r"some truth in data\['y'\], found none"),
    ],
)
def test_bad_labels(compiled, labels, message):
    refused(compiled, message, BATCH | labels, guide=GUIDE, arguments={"membership": OMEGA, "classifier": AI})


@pytest.mark.parametrize(
    ("network", "shape", "message"),
    [
        ("gating", (12, 3), r"found \(3, 4\) and \(12, 3\)"),
        ("gating", (12, 1, 4), r"found \(3, 4\) and \(12, 1, 4\)"),
        ("classifier", (12, 1, 3), r"classifier \(N, C\).*\(12, 1, 3\)"),
        ("experts", (12, 5, 3), r"experts \(N, M, C\).*'experts': \(12, 5, 3\)"),
        ("experts", (12, 4, 2), r"experts \(N, M, C\).*'experts': \(12, 4, 2\)"),
        ("experts", (12, 4), r"experts \(N, M, C\).*'experts': \(12, 4\)"),
    ],
)
def test_bad_networks(compiled, network, shape, message):
    good = {"gating": (12, 4), "classifier": (12, 3), "experts": (12, 4, 3)} | {network: shape}
    tables = {name: Frozen.of(Table(np.zeros(s, np.float32))) for name, s in good.items()}
    refused(compiled, message, model=partial(cluster_l2d, membership=OMEGA, **tables))


# --- Scale ------------------------------------------------------------------------------------------------


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
    model = partial(cluster_l2d, **networks | {"gating": Table(jnp.zeros_like(gate))}, membership=membership)
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


@SLOW
@pytest.mark.usefixtures("thorough_compilation")
def test_three_hundred_people():
    case, gradient, _ = large_step(300)
    posterior, gate = large_posterior(case)
    np.testing.assert_allclose(gradient, posterior - gate, rtol=1e-3, atol=1e-5)


@SLOW
@pytest.mark.usefixtures("thorough_compilation")
def test_memory_is_linear_in_people():
    assert large_step(300)[2] < 2.5 * large_step(150)[2]
