"""Evidence, posterior and gradients: against sums over who decides."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases.pooled_l2d import CATEGORIES, KEY, Case, Values, given, latent_sites, random_case
from numpyro.handlers import block, condition, seed, trace
from programs import Table, table
from scipy.special import softmax
from scipy.stats import halfnorm

from pl2d_ppl import EnumELBO, log_evidence, marginals, workload
from pl2d_ppl.guides.exact import exact
from pl2d_ppl.models.pooled_l2d import pooled_l2d

TINY = 1e-9


def by_hand_of_items(case, values, sharpness=20.0):
    """Log evidence of every item, and the gate, by loops over items and people."""
    right, ai = values.p_right(case.ai_probs, case.phi), case.ai_probs
    evidence = np.zeros(len(case.y))
    for i, (said, y) in enumerate(zip(case.annotations, case.y, strict=True)):
        if y < 0:
            continue
        answers = [*said, ai[i].argmax()]
        judged = [
            np.log(p if answer == y else 1 - p) for p, answer in zip(right[i], answers, strict=True) if answer >= 0
        ]
        evidence[i] = np.log(ai[i, y]) + sum(judged)
    return evidence, softmax(sharpness * right, -1)


class Found(NamedTuple):
    """What the program says, given values."""

    evidence: Any
    z: Any
    gate: Any
    right: Any
    person: Any


@jax.jit
def inferred(networks, membership, sites, options, data):
    return says(partial(pooled_l2d, **networks, membership=membership, **options), sites, data)


def says(model, sites, data):
    evidence, z = log_evidence(model, params=sites)(**data), marginals(model, params=sites)(**data)["z"][:, 0]
    tr = trace(seed(condition(model, sites), KEY)).get_trace(**data)
    right = getattr(tr["right"]["fn"], "base_dist", tr["right"]["fn"]).probs  # masked, where it is observed
    return Found(evidence, z, tr["gate_logits"]["value"], right, tr["person"]["value"])


def log_prior(case, values):
    return values.log_prior(np.float64(case.membership), latent_sites()[1])


OPTIONS = {"sharpness": 20.0}


def test_the_oracle_by_hand():
    """A person who is right with probability 3/4, an AI with 2/3; the person said 1, the AI's first choice is 0."""
    ai = np.log([[0.5, 0.3, 0.2]] * 2)
    values = Values(0.0, 1.0, np.zeros(1), np.ones(2), np.array([np.log(2), 0.0]), 1.0, np.zeros(1), None, None)
    values = values._replace(cluster_mean=np.zeros((1, 2)), person=np.array([[np.log(3), 0.0]]))
    case = Case(ai, np.zeros((2, 1)), np.ones((1, 1)), np.array([[1], [-1]]), np.array([1, 1]))
    np.testing.assert_allclose(values.p_right(case.ai_probs, case.phi), [[3 / 4, 2 / 3]] * 2)
    evidence, gate = by_hand_of_items(case, values, sharpness=12.0)
    np.testing.assert_allclose(np.exp(evidence), [0.3 * 3 / 4 / 3, 0.3 / 3])
    np.testing.assert_allclose(gate, [np.exp([9.0, 8.0]) / (np.exp(9.0) + np.exp(8.0))] * 2)


def evidence_and_posterior_are_right(rtol, features, num_clusters):
    close = partial(np.testing.assert_allclose, rtol=rtol, atol=TINY if rtol < 1e-6 else 1e-5)
    for number, options in enumerate([OPTIONS, {"sharpness": 3.0}]):
        case, values = random_case(number, num_clusters, features=features)
        found = inferred(*given(case, values), options, case.data)
        evidence, z = by_hand_of_items(case, values, *options.values())
        right = values.p_right(case.ai_probs, case.phi)
        close(found.evidence, evidence.sum() + log_prior(case, values))
        close(found.z, z)
        close(found.right, right)
        close(found.gate, options["sharpness"] * right)
        close(found.person, values.person)


def test_evidence_posterior_and_scores_equal_enumeration(float64):
    evidence_and_posterior_are_right(1e-9, features=False, num_clusters=2)


@pytest.mark.slow
@pytest.mark.parametrize(("num_clusters", "features"), [(1, False), (3, True)])
def test_evidence_posterior_and_scores_of_any_features_and_clusters(float64, num_clusters, features):
    evidence_and_posterior_are_right(1e-9, features, num_clusters)


@pytest.mark.slow
def test_evidence_posterior_and_scores_in_float32():
    evidence_and_posterior_are_right(1e-4, features=True, num_clusters=2)


def test_what_is_missing_says_nothing(float64):
    case, values = random_case(7)
    says = partial(inferred, options=OPTIONS)
    unknown = case.y < 0
    annotations = np.where(unknown[:, None] | (np.arange(3) != 0), case.annotations, -1)
    case = case._replace(annotations=annotations)  # person 0 has annotated only where the truth is unknown
    before = says(*given(case, values), data=case.data)
    close = partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-12)
    # Where the truth is unknown, it does not matter what was said, or whether.
    for said in (np.full(3, -1), np.array([2, 0, 1])):
        other = case._replace(annotations=np.where(unknown[:, None], said, annotations))
        found = says(*given(other, values), data=other.data)
        close(found.evidence, before.evidence)
    # Of who has annotated nothing else, items say nothing.
    moved = values._replace(person=values.person + np.array([3.0, 0.0, 0.0])[:, None])
    found = says(*given(case, moved), data=case.data)
    close(found.evidence - log_prior(case, moved), before.evidence - log_prior(case, values))
    assert np.abs(found.z - before.z).max() > 0.1  # but they may be asked


@pytest.mark.slow
def test_a_workload_does_not_change_what_is_believed_of_people(float64):
    """Nor does the gate at all: the ELBO has the gradient of the model without z."""
    case, values = random_case(2)
    networks, membership, sites = given(case, values)
    model = partial(pooled_l2d, **networks, membership=membership)
    lower, upper = np.array([0.0, 0.0, 0.0, 0.7]), np.array([0.1, 1.0, 1.0, 1.0])
    names, _ = latent_sites()

    def gradient(loss_of):
        return jax.jit(jax.grad(lambda drawn: loss_of(condition(model, drawn))))({n: sites[n] for n in names})

    def elbo(model, guide):
        return EnumELBO().loss(KEY, {}, model, guide, **case.data)

    plain = gradient(lambda model: elbo(block(model, hide=["z"]), lambda *args, **kwargs: None))
    for bound in (lambda guide: guide, lambda guide: workload(guide, "z", lower, upper)):
        found = gradient(lambda model, bound=bound: elbo(model, bound(exact(model))))
        for name in names:
            np.testing.assert_allclose(found[name], plain[name], rtol=1e-9, atol=1e-12, err_msg=name)
    assert max(np.abs(plain[name]).max() for name in names) > 0.1


@pytest.mark.slow
def test_everybody_may_be_asked_where_nothing_is_given(float64):
    case, values = random_case(3)
    found = inferred(*given(case, values), OPTIONS, {"x": case.data["x"]})
    np.testing.assert_allclose(found.z, softmax(20 * values.p_right(case.ai_probs), 1), rtol=1e-9)
    np.testing.assert_allclose(found.evidence, log_prior(case, values), rtol=1e-9)


@pytest.mark.slow
def test_truth_without_annotations_says_nothing_of_people(float64):
    """Categories 1 and 2 differ in nothing, where the AI's first choice is 0."""
    case, values = random_case(3)
    case = case._replace(ai_logits=np.log([[0.6, 0.2, 0.2]] * 8))
    evidence = []
    for truth in (1, 2):
        data = {"x": case.data["x"], "y": jnp.full(8, truth)}
        evidence.append(inferred(*given(case, values), OPTIONS, data).evidence)
    np.testing.assert_allclose(*evidence, rtol=1e-9)


@pytest.mark.slow
def test_number_of_items_weighs_items_against_priors(float64):
    case, values = random_case(4)
    networks, membership, sites = given(case, values)
    model = partial(pooled_l2d, **networks, membership=membership, num_items=3 * len(case.y))
    found = jax.jit(lambda sites, data: log_evidence(model, params=sites)(**data))(sites, case.data)
    expected = 3 * by_hand_of_items(case, values)[0].sum() + log_prior(case, values)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.slow
def test_gradients_are_those_of_enumeration(float64):
    """In everything that is drawn, by central differences; what a guide and NUTS learn by."""
    case, values = random_case(5)
    omega = np.float64(case.membership)
    networks, membership, sites = given(case, values)
    names, _ = latent_sites()
    draw = {name: sites[name] for name in names}

    @jax.jit
    @jax.grad
    def gradient(draw):
        return log_evidence(partial(pooled_l2d, **networks, membership=membership), params=draw)(**case.data)

    def expected(draw):
        moved = Values.of(draw, omega)
        return by_hand_of_items(case, moved)[0].sum() + log_prior(case, moved)

    found = gradient(draw)
    rng = np.random.default_rng(0)
    for name in names:
        direction = rng.standard_normal(draw[name].shape)
        ends = [expected({**draw, name: draw[name] + step * direction}) for step in (-1e-5, 1e-5)]
        slope = (ends[1] - ends[0]) / 2e-5
        assert abs(slope) > 1e-3
        np.testing.assert_allclose(np.sum(found[name] * direction), slope, rtol=1e-6, err_msg=name)


@pytest.mark.slow
def test_a_classifier_that_is_trained_along_learns_from_the_truth_alone(float64):
    case, values = random_case(6)
    _, membership, sites = given(case, values)
    model = partial(pooled_l2d, classifier=Table(table(case.ai_logits)), membership=membership)

    @jax.jit
    @jax.grad
    def gradient(logits):
        params = {**sites, "classifier$params": {"logits": logits}}
        return log_evidence(model, params=params)(**case.data)

    known = case.y >= 0
    expected = known[:, None] * (np.eye(CATEGORIES)[case.y] - case.ai_probs)
    np.testing.assert_allclose(gradient(table(case.ai_logits)), expected, rtol=1e-9, atol=TINY)


def test_sites_are_those_of_the_docstring():
    names, in_units = latent_sites()
    plain = {name.removesuffix("_decentered") for name in names}
    assert plain == set(Values._fields)
    assert set(in_units) == {"slope", "ai_slope", "cluster_mean", "person"}


@jax.jit
def without_spread(networks, membership, sites, data):
    model = condition(partial(pooled_l2d, **networks, membership=membership), {"spread": jnp.full(2, TINY)})
    return says(model, {name: value for name, value in sites.items() if name != "spread"}, data)


def test_without_spread_people_are_their_clusters(float64):
    case, values = random_case(8)
    for omega in (np.array([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]]), np.float64(case.membership)):
        case = case._replace(membership=omega)
        found = without_spread(*given(case, values), case.data)
        clusters = values._replace(person=omega.T @ values.cluster_mean, spread=np.full(2, TINY))
        np.testing.assert_allclose(found.person, clusters.person, atol=1e-7)
        evidence, z = by_hand_of_items(case, clusters)
        of_spread = halfnorm(scale=[1, 0.5])
        prior = values.log_prior(omega, latent_sites()[1]) + np.sum(
            of_spread.logpdf(0) - of_spread.logpdf(values.spread)
        )
        np.testing.assert_allclose(found.evidence, evidence.sum() + prior, rtol=1e-7)
        np.testing.assert_allclose(found.z, z, atol=1e-6)
        if (omega == 1).sum() == 3:
            np.testing.assert_allclose(found.person[0], found.person[2], atol=1e-7)
            np.testing.assert_allclose(found.gate[:, 0], found.gate[:, 2], atol=1e-6)
            assert np.abs(found.gate[:, 0] - found.gate[:, 1]).max() > 0.1
