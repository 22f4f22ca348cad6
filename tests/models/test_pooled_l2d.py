"""Partially pooled people: against sums over who decides, quadrature, NUTS, and refits with the newcomers."""

import dataclasses
import inspect
import logging
import types
from contextlib import contextmanager
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from numpyro.handlers import block, condition, seed, trace
from numpyro.infer import MCMC, NUTS, SVI, TraceEnum_ELBO
from numpyro.infer.svi import SVIState
from programs import Table, table
from scipy.special import expit, softmax
from scipy.stats import halfnorm, norm

from pl2d_ppl import MLP, EnumELBO, FitResult, fit, log_evidence, marginals, workload
from pl2d_ppl.experiments.methods import POOLED_SCHEDULE
from pl2d_ppl.guides.exact import exact
from pl2d_ppl.guides.normal import normal
from pl2d_ppl.inference.compiled import compile_fit
from pl2d_ppl.models.pooled_l2d import pooled_l2d
from pl2d_ppl.networks import Frozen
from pl2d_ppl.people.pooled import PooledPeople

KEY = jax.random.key(0)
SLOW = pytest.mark.slow
TINY = 1e-9
CATEGORIES = 3


# --- The program in numpy ---------------------------------------------------------------------------------


def belief_features(ai_probs):
    """Features by default: the AI's probabilities less 1 / C, and the largest of them less one half."""
    return np.concatenate([ai_probs - 1 / ai_probs.shape[1], ai_probs.max(1, keepdims=True) - 0.5], 1)


def with_one(phi):
    return np.concatenate([np.ones((len(phi), 1)), phi], 1)


class Values(NamedTuple):
    """What the program draws besides z, as its docstring writes it; vectors of clusters and people (..., 1+D)."""

    ability: Any
    slope_scale: Any
    slope: Any
    spread: Any
    ai_skill: Any
    ai_slope_scale: Any
    ai_slope: Any
    cluster_mean: Any
    person: Any

    @classmethod
    def of(cls, draw, omega):
        """From a draw of the program's sites, in units of their spread."""
        draw = {name: np.asarray(a, float) for name, a in draw.items()}
        slopes = {
            name: draw.get(name, draw[f"{name}_scale"] * draw.get(f"{name}_decentered", np.nan))
            for name in ("slope", "ai_slope")
        }
        plain = {name: draw[name] for name in cls._fields[:-2] if name in draw} | slopes
        new = cls(**plain, cluster_mean=None, person=None)
        mean = new.center + new.scale * draw["cluster_mean_decentered"]
        return new._replace(cluster_mean=mean, person=omega.T @ mean + new.spreads * draw["person_decentered"])

    @property
    def center(self):
        return np.append(self.ability, self.slope)

    @property
    def scale(self):
        return np.append(1.0, np.full(len(self.slope), self.slope_scale))

    @property
    def spreads(self):
        return np.append(self.spread[0], np.full(len(self.slope), self.spread[1]))

    def sites(self, omega):
        """What to give to the program; of the slopes both, as they are and in units of their spread."""
        plain = {name: getattr(self, name) for name in self._fields[:-2]}
        units = {
            "slope": self.slope / self.slope_scale,
            "ai_slope": self.ai_slope / self.ai_slope_scale,
            "cluster_mean": (self.cluster_mean - self.center) / self.scale,
            "person": (self.person - omega.T @ self.cluster_mean) / self.spreads,
        }
        return plain | {f"{name}_decentered": value for name, value in units.items()}

    def log_prior(self, omega, in_units):
        """Of the program's sites, some of which are in units of their spread."""
        given = self.sites(omega)
        priors = {
            "ability": norm(1, 1),
            "slope_scale": halfnorm(scale=0.5),
            "slope": norm(0, self.slope_scale),
            "spread": halfnorm(scale=np.array([1, 0.5])),
            "ai_skill": norm([0, 1], 1),
            "ai_slope_scale": halfnorm(scale=0.5),
            "ai_slope": norm(0, self.ai_slope_scale),
        }
        for name in in_units:
            priors.pop(name, None)
            priors[f"{name}_decentered"] = norm(0, 1)
        return sum(np.sum(prior.logpdf(given[name])) for name, prior in priors.items())

    def p_right(self, ai_probs, phi=None):
        """Probability that everybody is right, the AI last, (N, M+1)."""
        phi = belief_features(ai_probs) if phi is None else phi
        top = ai_probs.max(1)
        ai = self.ai_skill[0] + self.ai_skill[1] * np.log(top / (1 - top)) + phi @ self.ai_slope
        return expit(np.append(with_one(phi) @ self.person.T, ai[:, None], 1))


class Case(NamedTuple):
    """Data and logits of N items; phi (N, D), or None for the AI's belief; Omega (K, M)."""

    ai_logits: np.ndarray
    phi: np.ndarray | None
    membership: np.ndarray
    annotations: np.ndarray
    y: np.ndarray

    @property
    def data(self):
        said, y = jnp.asarray(self.annotations), jnp.asarray(self.y)
        return {"x": jnp.zeros((len(self.y), 1)), "annotations": said, "y": y}

    @property
    def networks(self):
        tables = {"classifier": self.ai_logits} | ({} if self.phi is None else {"features": self.phi})
        return {name: Frozen.of(Table(table(values))) for name, values in tables.items()}

    @property
    def ai_probs(self):
        return softmax(np.float64(self.ai_logits), -1)


def random_case(seed, num_clusters=2, num_people=3, features=False):
    """Items of every kind, and values: complete; missing some annotations, or all; known and unknown truth."""
    rng = np.random.default_rng(seed)
    ai_logits = rng.standard_normal((8, CATEGORIES)).astype(np.float32)
    phi = rng.standard_normal((8, 2)).astype(np.float32) if features else None
    omega = rng.dirichlet(np.ones(num_clusters), num_people).T.astype(np.float32)
    y = rng.integers(0, CATEGORIES, 8)
    annotations = np.where(rng.random((8, num_people)) < 0.6, y[:, None], (y[:, None] + 1) % CATEGORIES)
    annotations[rng.random(annotations.shape) < 0.4] = -1
    annotations[0], annotations[1], annotations[2] = y[0], (y[1] + 1) % CATEGORIES, -1
    y[5:7] = -1
    annotations[5] = np.arange(num_people) % CATEGORIES
    size = 2 if features else CATEGORIES + 1
    scales = rng.uniform(0.3, 0.9, 4)
    shape = num_people, size + 1
    values = Values(
        ability=rng.normal(),
        slope_scale=scales[0],
        slope=rng.normal(size=size),
        spread=scales[1:3],
        ai_skill=rng.normal(size=2),
        ai_slope_scale=scales[3],
        ai_slope=rng.normal(size=size),
        cluster_mean=rng.normal(size=(num_clusters, size + 1)),
        person=rng.normal(size=shape),
    )
    return Case(ai_logits, phi, omega, annotations, y), values


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


@cache
def latent_sites():
    """Names of the program's continuous latent sites, and which sites are in units of their spread."""
    case, _ = random_case(0)
    names: list[str] = []

    def sites():
        tr = trace(seed(partial(pooled_l2d, **case.networks, membership=case.membership), KEY)).get_trace(**case.data)
        names.extend(n for n, s in tr.items() if s["type"] == "sample" and not s["is_observed"])

    jax.eval_shape(sites)
    names.remove("z")
    return names, [name.removesuffix("_decentered") for name in names if name.endswith("_decentered")]


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
    right = tr["right"]["fn"].base_dist.probs
    return Found(evidence, z, tr["gate_logits"]["value"], right, tr["person"]["value"])


def given(case, values):
    sites = {name: table(value) for name, value in values.sites(np.float64(case.membership)).items()}
    return case.networks, table(case.membership), sites


def log_prior(case, values):
    return values.log_prior(np.float64(case.membership), latent_sites()[1])


OPTIONS = {"sharpness": 20.0}


# --- Evidence and posterior -------------------------------------------------------------------------------


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


@SLOW
@pytest.mark.parametrize(("num_clusters", "features"), [(1, False), (3, False), (1, True), (3, True)])
def test_evidence_posterior_and_scores_of_any_features_and_clusters(float64, num_clusters, features):
    evidence_and_posterior_are_right(1e-9, features, num_clusters)


@SLOW
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


@SLOW
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


@SLOW
def test_everybody_may_be_asked_where_nothing_is_given(float64):
    case, values = random_case(3)
    found = inferred(*given(case, values), OPTIONS, {"x": case.data["x"]})
    np.testing.assert_allclose(found.z, softmax(20 * values.p_right(case.ai_probs), 1), rtol=1e-9)
    np.testing.assert_allclose(found.evidence, log_prior(case, values), rtol=1e-9)


@SLOW
def test_truth_without_annotations_says_nothing_of_people(float64):
    """Categories 1 and 2 differ in nothing, where the AI's first choice is 0."""
    case, values = random_case(3)
    case = case._replace(ai_logits=np.log([[0.6, 0.2, 0.2]] * 8))
    evidence = []
    for truth in (1, 2):
        data = {"x": case.data["x"], "y": jnp.full(8, truth)}
        evidence.append(inferred(*given(case, values), OPTIONS, data).evidence)
    np.testing.assert_allclose(*evidence, rtol=1e-9)


@SLOW
def test_number_of_items_weighs_items_against_priors(float64):
    case, values = random_case(4)
    networks, membership, sites = given(case, values)
    model = partial(pooled_l2d, **networks, membership=membership, num_items=3 * len(case.y))
    found = jax.jit(lambda sites, data: log_evidence(model, params=sites)(**data))(sites, case.data)
    expected = 3 * by_hand_of_items(case, values)[0].sum() + log_prior(case, values)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@SLOW
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


@SLOW
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


# --- Sites ------------------------------------------------------------------------------------------------


def test_sites_are_those_of_the_docstring():
    names, in_units = latent_sites()
    plain = {name.removesuffix("_decentered") for name in names}
    assert plain == set(Values._fields)
    assert set(in_units) == {"slope", "ai_slope", "cluster_mean", "person"}


def guide_of(model):
    """The guide of the docstring."""
    return exact(model, ["z"], continuous=normal(model))


# --- Spread -----------------------------------------------------------------------------------------------


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


class Columns(nnx.Module):
    """Some columns of the inputs."""

    def __init__(self, start, stop):
        self.start, self.stop = start, stop

    def __call__(self, x):
        return x[:, self.start : self.stop]


SMALL_AI, PHI = Frozen.of(Columns(0, 2)), Frozen.of(Columns(2, 3))
FIXED = {"slope_scale": jnp.array(0.5), "ai_slope_scale": jnp.array(0.5)}


def fixed(spread, **data):
    """The program with given scales, of two people in one cluster, and a feature."""
    networks = {"classifier": SMALL_AI, "features": PHI, "membership": jnp.ones((1, 2))}
    condition(partial(pooled_l2d, **networks), {**FIXED, "spread": spread})(**data)


@cache
def small():
    """Forty items; somebody good, and somebody bad."""
    rng = np.random.default_rng(0)
    phi, y = rng.standard_normal((40, 1)), rng.integers(0, 2, 40)
    is_right = rng.random((40, 2)) < expit(np.array([2.0, -0.5]) + phi * [1.0, -0.5])
    ai = np.eye(2)[y] + rng.standard_normal((40, 2))
    annotations = np.where(is_right, y[:, None], 1 - y[:, None])
    return {"x": np.append(ai, phi, 1).astype(np.float32), "annotations": annotations, "y": y}


@cache
def sampler():
    return MCMC(NUTS(fixed), num_warmup=200, num_samples=400, progress_bar=False, jit_model_args=True)


def by_nuts(spread):
    """Posterior means of everybody's P(right), (N, M+1), by NumPyro alone."""
    data = {name: jnp.asarray(a) for name, a in small().items()}
    sampler().run(KEY, jnp.asarray(spread), **data)
    samples = {name: np.asarray(a, float) for name, a in sampler().get_samples().items()}
    samples |= {name: np.full(400, value) for name, value in FIXED.items()} | {"spread": np.tile(spread, (400, 1))}
    x = np.float64(small()["x"])
    draws = [Values.of({n: a[s] for n, a in samples.items()}, np.ones((1, 2))) for s in range(400)]
    return np.mean([values.p_right(softmax(x[:, :2], 1), x[:, 2:]) for values in draws], 0)


FIXED_GUIDE = guide_of(fixed)
FIXED_OPTIMIZER = optax.adam(optax.cosine_decay_schedule(0.05, 800))


def by_svi(spread):
    given = {"spread": np.float32(spread), "membership": np.ones((1, 2))}
    options = {"epochs": 800, "batch_size": 40, "arguments": given, "progress": False}
    result = fit(KEY, fixed, FIXED_GUIDE, small(), FIXED_OPTIMIZER, **options)
    return PooledPeople.of(jax.random.key(1), result, num_samples=200)


def alone(phi, is_right, center, sd):
    """Posterior mean of P(right) on every item of a person by themselves, by quadrature over both log-odds."""
    a, b = np.meshgrid(np.linspace(-12, 12, 161), np.linspace(-12, 12, 161), indexing="ij")
    log_p = norm(center[0], sd[0]).logpdf(a) + norm(center[1], sd[1]).logpdf(b)
    for one, right in zip(phi, is_right, strict=True):
        log_p -= np.log1p(np.exp(-(a + b * one) * (1 if right else -1)))
    weights = softmax(log_p)
    return np.array([np.sum(weights * expit(a + b * one)) for one in phi])


@pytest.mark.exhaustive
@SLOW
def test_with_a_large_spread_people_are_by_themselves():
    data = small()
    is_right = data["annotations"] == data["y"][:, None]
    sd = np.sqrt([1 + 1 + 4**2, 0.5**2 + 0.5**2 + 4**2])  # of everybody's mean, of the cluster's, and of the person
    expected = np.stack([alone(data["x"][:, 2], right, (1.0, 0.0), sd) for right in is_right.T], 1)
    np.testing.assert_allclose(by_nuts([4.0, 4.0])[:, :2], expected, atol=0.03)


@SLOW
def test_a_fit_agrees_with_nuts():
    found = by_svi([0.7, 0.3]).values("gate_logits", small()["x"]).mean(0) / 20
    np.testing.assert_allclose(found, by_nuts([0.7, 0.3]), atol=0.05)


@pytest.mark.exhaustive
@SLOW
def test_plain_numpyro_fits_the_model():
    """SVI with TraceEnum_ELBO and the same guide: a loss that falls, and is ours."""
    data = {name: jnp.asarray(a) for name, a in small().items()}
    data |= {"spread": jnp.array([0.7, 0.3]), "membership": jnp.ones((1, 2))}
    svi = SVI(fixed, FIXED_GUIDE, optax.adam(0.05), TraceEnum_ELBO(max_plate_nesting=2))
    update = jax.jit(lambda state: svi.update(state, **data))
    state, losses = svi.init(KEY, **data), []
    for _ in range(100):
        params, key = svi.get_params(state), jax.random.split(state.rng_key)[1]
        state, loss = update(state)
        losses.append(loss)
    assert np.mean(losses[-10:]) < np.mean(losses[:10]) - 5
    ours = jax.jit(lambda key, params: EnumELBO().loss(key, params, fixed, FIXED_GUIDE, **data))(key, params)
    np.testing.assert_allclose(ours, loss, rtol=1e-4)


@SLOW
def test_a_fit_without_spread_is_of_one_person():
    """Who is right as often as both together."""
    data = small()
    found = by_svi([1e-6, 1e-6]).values("gate_logits", data["x"]).mean(0) / 20
    np.testing.assert_allclose(found[:, 0], found[:, 1], atol=1e-4)
    shares = (data["annotations"] == data["y"][:, None]).mean(0)
    assert shares[0] - shares[1] > 0.3
    np.testing.assert_allclose(found[:, 0].mean(), shares.mean(), atol=0.05)


# --- People and fits --------------------------------------------------------------------------------------


class Logits(nnx.Module):
    """An AI whose logits are the inputs."""

    def __call__(self, x):
        return 1.0 * x


AI = Frozen.of(Logits())
DRAWS = 300


def annotate(rng, y, accuracy, count):
    """Annotate so many items, a share of them rightly."""
    rows = rng.permutation(len(y))[:count]
    is_right = np.arange(count) < round(accuracy * count)
    said = np.full(len(y), -1)
    said[rows] = np.where(is_right, y[rows], (y[rows] + rng.integers(1, CATEGORIES, count)) % CATEGORIES)
    return said


def simulate(people, num_items=400, seed=0):
    """Items whose truth is as likely as a calibrated AI says, and annotations of people: (accuracy, count)."""
    rng = np.random.default_rng(seed)
    x = (1.5 * rng.standard_normal((num_items, CATEGORIES))).astype(np.float32)
    y = (softmax(np.float64(x), 1).cumsum(1) > rng.random((num_items, 1))).argmax(1)
    return {"x": x, "annotations": np.stack([annotate(rng, y, *person) for person in people], 1), "y": y}


def hard(*clusters):
    return np.eye(max(clusters) + 1, dtype=np.float32)[:, list(clusters)]


class Person(NamedTuple):
    """How often somebody is right, on how many items, and in which cluster."""

    accuracy: float
    count: int
    cluster: int


FULL = [Person(0.9, 400, 0), Person(0.7, 400, 0), Person(0.5, 400, 0), Person(0.8, 400, 1), Person(0.8, 400, 1)]
CROWD = [*FULL, Person(1.0, 5, 0), Person(0.2, 5, 1), Person(0.6, 150, 0)]
NAMES = tuple("abcdefgh")
BY_NUTS = [0.73, 0.69]  # posterior means of P(right) at the mean of either cluster, of 600 draws
OLD = 6  # of the crowd; two others join later
DATA = simulate([person[:2] for person in CROWD])
OMEGA = hard(*(person.cluster for person in CROWD))
X = DATA["x"]


STEPS = POOLED_SCHEDULE.steps
GUIDE = exact(pooled_l2d, ["z"], continuous=normal(pooled_l2d))  # those of the method
OPTIMIZER = POOLED_SCHEDULE.optimizer(len(X))


@contextmanager
def thorough():
    """Compile for speed: thousands of steps."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


def run(data, membership=OMEGA, key=KEY, **options):
    options = {"epochs": STEPS, "batch_size": len(data["y"]), "progress": False} | options
    arguments = {"membership": membership, "classifier": AI}
    with thorough():
        return fit(key, pooled_l2d, GUIDE, data, OPTIMIZER, arguments=arguments, **options)


@cache
def fitted(joined=True):
    """Everybody; or the old ones, and two of whom nothing is known, so that one compilation does."""
    is_old = np.arange(len(CROWD)) < OLD
    return run(DATA | {"annotations": np.where(is_old | joined, DATA["annotations"], -1)})


def draws_of(result):
    return PooledPeople.of(jax.random.key(1), result, num_samples=DRAWS, people=NAMES)


@cache
def crowd():
    return draws_of(fitted())


@cache
def old():
    """The old ones alone."""
    everybody = draws_of(fitted(joined=False))
    draws = everybody.draws | {"person_decentered": everybody.draws["person_decentered"][:, :OLD]}
    arguments = everybody.arguments | {"membership": OMEGA[:, :OLD]}
    return dataclasses.replace(everybody, draws=draws, arguments=arguments, people=NAMES[:OLD])


def by_hand(membership=OMEGA[:, :OLD], num_draws=600, **fields):
    """People with a posterior that nobody has fitted."""
    rng = np.random.default_rng(0)
    (num_clusters, num_people), size = np.shape(membership), CATEGORIES + 1
    shapes = {"ability": (), "slope": (size,), "ai_skill": (2,), "ai_slope": (size,)}
    shapes |= {"cluster_mean": (num_clusters, size + 1), "person": (num_people, size + 1)}
    draws = {}
    for name, shape in shapes.items():
        normal = 0.7 * rng.standard_normal(shape) + 0.4 * rng.standard_normal((num_draws, *shape))
        draws[f"{name}_decentered" if name in latent_sites()[1] else name] = normal
    for name, shape in {"slope_scale": (), "ai_slope_scale": (), "spread": (2,)}.items():
        draws[name] = 0.6 * np.exp(0.1 * rng.standard_normal((num_draws, *shape)))
    draws = {name: jnp.asarray(a, jnp.float32) for name, a in draws.items()}
    arguments = {"membership": jnp.asarray(membership), "classifier": AI}
    return dataclasses.replace(PooledPeople(pooled_l2d, {}, arguments, draws, NAMES[:num_people]), **fields)


def values_of(pooled):
    """Values under every draw."""
    omega = np.asarray(pooled.arguments["membership"], float)
    return [
        Values.of({name: a[s] for name, a in pooled.draws.items()}, omega) for s in range(len(pooled.draws["ability"]))
    ]


def p_right(pooled, x=X):
    """Draws of everybody's P(right), (S, N, M+1)."""
    return pooled.values("gate_logits", x) / 20.0


def cluster_p_right(pooled, x=X):
    """Posterior means of P(right) of a person at the mean of their cluster, (K,)."""
    phi = with_one(belief_features(softmax(np.float64(x), 1)))
    return expit(pooled.values("cluster_mean", x[:1]) @ phi.T).mean((0, 2))


# --- Fits -------------------------------------------------------------------------------------------------


@SLOW
def test_skills_are_recovered():
    mean = p_right(crowd()).mean((0, 1))
    accuracies = np.array([person.accuracy for person in FULL])
    np.testing.assert_allclose(mean[: len(FULL)], accuracies, atol=0.02)
    np.testing.assert_allclose(mean[-1], np.mean(X.argmax(1) == DATA["y"]), atol=0.02)
    np.testing.assert_allclose(cluster_p_right(crowd()), BY_NUTS, atol=0.06)


@SLOW
def test_who_has_annotated_little_is_shrunk_to_their_cluster():
    draws, clusters = p_right(crowd()).mean(1), cluster_p_right(crowd())
    for number in (5, 6):
        raw, _, cluster = CROWD[number]
        found, target = draws[:, number].mean(), clusters[cluster]
        assert abs(found - target) < abs(raw - target) - 0.05
        assert (found - raw) * (target - raw) > 0
        assert draws[:, number].std() > 1.5 * draws[:, : len(FULL)].std(0).max()


@SLOW
def test_a_fit_does_not_depend_on_those_before():
    """Nor on the key, but for noise."""
    again = run(DATA)
    np.testing.assert_array_equal(again.params["person_decentered_loc"], fitted().params["person_decentered_loc"])
    other = run(DATA, key=jax.random.key(9))
    np.testing.assert_allclose(p_right(draws_of(other)).mean((0, 1)), p_right(crowd()).mean((0, 1)), atol=0.03)


@SLOW
def test_another_membership_is_not_another_compilation():
    result = fitted()
    other = run(DATA, hard(*(1 - person.cluster for person in CROWD)), epochs=2)
    soft = run(DATA, np.full((2, 8), 0.5), epochs=2)
    assert other.compiled is soft.compiled is result.compiled
    assert result.compiled.epoch._cache_size() == result.compiled.init._cache_size() == 1
    assert abs(other.history["loss"][-1] - soft.history["loss"][-1]) > 1e-3


# --- Draws ------------------------------------------------------------------------------------------------


@SLOW
def test_draws_have_the_moments_of_the_guide():
    result, pooled = fitted(), crowd()
    names, _ = latent_sites()
    assert set(pooled.draws) == set(names)
    for name, draws in pooled.draws.items():
        mean, sd = (np.asarray(result.params[f"{name}_{part}"]) for part in ("loc", "scale"))
        normal = np.log(draws) if name.removeprefix("ai_") in ("slope_scale", "spread") else np.asarray(draws)
        assert normal.shape == (DRAWS, *mean.shape)
        np.testing.assert_array_less(np.abs(normal.mean(0) - mean), 5 * sd / np.sqrt(DRAWS))
        np.testing.assert_allclose(normal.std(0), sd, rtol=5 / np.sqrt(2 * DRAWS))
    assert pooled.people == NAMES
    np.testing.assert_array_equal(pooled.arguments["membership"], OMEGA)


@SLOW
def test_values_and_deferral_equal_the_formulas():
    """Under soft memberships, in pieces as in one."""
    omega = np.random.default_rng(1).dirichlet(np.ones(2), OLD).T.astype(np.float32)
    pooled, x = by_hand(omega, num_draws=5), X[:10]
    ai_probs = softmax(np.float64(x), 1)
    values = values_of(pooled)
    people, right = pooled.values("person", x[:1]), p_right(pooled, x)
    expected = np.array([one.p_right(ai_probs) for one in values])
    np.testing.assert_allclose(people, [one.person for one in values], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(right, expected, rtol=1e-4)
    for deferral in (pooled.defer(x), pooled.defer(x, batch_size=4)):
        np.testing.assert_allclose(np.exp(deferral.log_gate), softmax(20 * expected.mean(0), -1), rtol=1e-3, atol=1e-6)
        np.testing.assert_allclose(deferral.ai, ai_probs, rtol=1e-4)
        assert deferral.people == NAMES[:OLD]
        np.testing.assert_array_equal(deferral.people_probs, np.eye(OLD + 1))


@SLOW
def test_a_trained_classifier_is_that_of_the_fit():
    network = MLP(CATEGORIES, (), CATEGORIES, rngs=nnx.Rngs(3))
    params = {"classifier$params": nnx.to_pure_dict(nnx.state(network, nnx.Param))}
    model, arguments = partial(pooled_l2d, classifier=partial(MLP, CATEGORIES, (), CATEGORIES)), {"membership": OMEGA}
    pooled = by_hand(OMEGA, num_draws=5, model=model, params=params, arguments=arguments)
    deferral, expected = pooled.defer(X[:10]), softmax(np.float64(network(X[:10])), 1)
    np.testing.assert_allclose(deferral.ai, expected, rtol=1e-4)
    gate = softmax(20 * np.mean([one.p_right(expected) for one in values_of(pooled)], 0), -1)
    np.testing.assert_allclose(np.exp(deferral.log_gate), gate, rtol=1e-3, atol=1e-6)


def test_draws_of_a_batch_are_refused():
    compiled, leaves = compile_fit(pooled_l2d, GUIDE, OPTIMIZER, True, 2, {"membership": OMEGA})
    result = FitResult.start(compiled, leaves, SVIState(None, None, KEY[None]), {})
    with pytest.raises(
        ValueError, match=r"Expected a single run, found a batch of runs. Choose one by result.run\(i\)"
    ):
        PooledPeople.of(KEY, result)


@SLOW
def test_draws_need_a_fit_of_people(monkeypatch):
    refuses = partial(pytest.raises, ValueError)
    with refuses(
        match=r"each of the 8 people, found 'person' not to be one. Pass site=, one of \['person_decentered'\]"
    ):
        PooledPeople.of(KEY, fitted(), site="person")
    with refuses(match="Expected 8 names, one a person, found 1"):
        PooledPeople.of(KEY, fitted(), people=["a"])
    with refuses(match="at least one draw, found num_samples=0"):
        PooledPeople.of(KEY, fitted(), num_samples=0)
    with refuses(match="Expected a typed key"):
        PooledPeople.of(0, fitted())
    given = {"membership": OMEGA, "classifier": AI}
    compiled, leaves = compile_fit(pooled_l2d, exact(pooled_l2d, ["z"]), OPTIMIZER, False, 2, given)
    with refuses(match="found no guide of the continuous sites to draw from"):
        PooledPeople.of(KEY, fitted().replace(compiled=compiled, leaves=leaves))
    monkeypatch.setattr(fitted().compiled, "call", lambda leaves, batch: {"classifier": AI})
    with refuses(match=r"with arguments=\{'membership': ...\}, found no membership in it"):
        PooledPeople.of(KEY, fitted())


# --- Newcomers --------------------------------------------------------------------------------------------

SITE = "person_decentered"
NEW = DATA | {"annotations": DATA["annotations"][:, OLD:]}
SILENT = DATA | {"annotations": np.full((len(X), 2), -1)}
ONE_EACH = hard(0, 1)


@SLOW
def test_without_annotations_newcomers_are_drawn_around_their_clusters():
    before = by_hand()
    joined = before.join(jax.random.key(2), SILENT, ONE_EACH, people=["new", "newer"])
    rows = np.asarray(joined.draws[SITE])[:, OLD:]
    assert rows.shape == (600, 2, CATEGORIES + 2)
    np.testing.assert_allclose(rows.mean(0), 0.0, atol=0.1 + 5 / np.sqrt(600))
    np.testing.assert_allclose(rows.std(0), 1.0, atol=0.12)
    away = joined.values("person", X[:1])[:, OLD:] - joined.values("cluster_mean", X[:1])
    spreads = np.array([one.spreads for one in values_of(before)])
    error = 5 * away.std(0) / np.sqrt(600)
    np.testing.assert_array_less(np.abs(away.mean(0)), error + 0.1 * spreads.mean(0))
    np.testing.assert_allclose(away.std(0), np.sqrt(np.mean(spreads**2, 0)) * np.ones((2, 1)), rtol=0.15)
    # The others, and what everybody shares, are as before.
    for name, draws in before.draws.items():
        np.testing.assert_array_equal(joined.draws[name][:, :OLD] if name == SITE else joined.draws[name], draws)
    np.testing.assert_array_equal(joined.arguments["membership"], np.append(OMEGA[:, :OLD], ONE_EACH, 1))
    assert joined.people == (*NAMES[:OLD], "new", "newer")
    np.testing.assert_array_equal(p_right(joined, X[:5])[..., :OLD], p_right(before, X[:5])[..., :OLD])


@SLOW
@pytest.mark.parametrize("size", [len(X), 0])
def test_newcomers_of_unknown_truth_or_without_items_are_as_without_annotations(size):
    data = NEW | {"x": X[:size], "y": np.full(size, -1)}
    data["annotations"] = data["annotations"][: len(data["x"])]
    rows, silent = (
        np.asarray(by_hand().join(jax.random.key(2), each, ONE_EACH).draws[SITE])[:, OLD:] for each in (data, SILENT)
    )
    np.testing.assert_allclose(rows.mean(0), silent.mean(0), atol=0.01)
    np.testing.assert_allclose(rows.std(0), silent.std(0), rtol=0.01)


@SLOW
def test_draws_of_newcomers_are_not_those_of_the_others():
    """Though the key of both is the same."""
    joined = PooledPeople.of(KEY, fitted(), num_samples=200).join(KEY, SILENT, ONE_EACH)
    new = np.asarray(joined.draws[SITE])[:, len(NAMES) :].reshape(200, -1)
    others = [np.asarray(a).reshape(200, -1) for name, a in joined.draws.items() if name != SITE]
    correlations = np.corrcoef(np.concatenate([new, *others], 1).T)[: new.shape[1], new.shape[1] :]
    assert np.abs(correlations).max() < 0.4


@SLOW
def test_with_annotations_newcomers_are_as_often_right_as_in_them():
    annotations = simulate([*((person.accuracy, person.count) for person in CROWD), (0.95, 400), (0.35, 400)])
    np.testing.assert_array_equal(annotations["annotations"][:, :8], DATA["annotations"])
    joined = old().join(KEY, annotations | {"annotations": annotations["annotations"][:, 8:]}, ONE_EACH[:, ::-1])
    found = p_right(joined).mean((0, 1))
    np.testing.assert_allclose(found[OLD:-1], [0.95, 0.35], atol=0.02)
    np.testing.assert_allclose(found[:OLD], p_right(old()).mean((0, 1))[:OLD], rtol=1e-6)


@pytest.mark.exhaustive
@SLOW
def test_newcomers_may_be_far_from_their_cluster():
    """Who is almost always wrong, though others of the cluster are right half of the time and differ by little."""
    pooled = by_hand(num_draws=20)
    pooled = dataclasses.replace(pooled, draws=pooled.draws | {"spread": 0.3 * pooled.draws["spread"]})
    said = np.stack([annotate(np.random.default_rng(0), DATA["y"], 0.05, 400)] * 2, 1)
    joined = pooled.join(KEY, DATA | {"annotations": said}, ONE_EACH)
    np.testing.assert_array_less(p_right(joined).mean((0, 1))[OLD:-1], 0.15)


@SLOW
def test_joining_is_as_fitting_everybody_anew():
    joined = old().join(KEY, NEW, OMEGA[:, OLD:], people=NAMES[OLD:])
    assert joined.people == crowd().people
    found, refitted = p_right(joined).mean(0), p_right(crowd()).mean(0)
    np.testing.assert_allclose(found.mean(0), refitted.mean(0), atol=0.1)
    assert abs(refitted.mean(0)[OLD:-1] - cluster_p_right(old())[[1, 0]]).max() > 0.1  # they did move
    deferral = joined.defer(X[:20])
    assert deferral.people == NAMES
    assert deferral.log_gate.shape == (20, 9)


@pytest.mark.exhaustive
@SLOW
def test_joining_one_after_the_other():
    once = by_hand(num_draws=20).join(KEY, SILENT, ONE_EACH)
    numbers = [f"person_{i}" for i in range(OLD, OLD + 4)]
    assert once.people == (*NAMES[:OLD], *numbers[:2])
    twice = once.join(jax.random.key(1), NEW, OMEGA[:, OLD:])
    assert twice.people == (*NAMES[:OLD], *numbers)
    assert twice.draws[SITE].shape == (20, OLD + 4, CATEGORIES + 2)
    np.testing.assert_array_equal(twice.draws[SITE][:, : OLD + 2], once.draws[SITE])
    again = by_hand(num_draws=20).join(KEY, SILENT, ONE_EACH)
    np.testing.assert_array_equal(again.draws[SITE], once.draws[SITE])  # the key decides


# --- A modeller's edit ------------------------------------------------------------------------------------


def edited(*changes):
    """`pooled_l2d` as in a copy of its file, some of whose text was changed."""
    copy = types.ModuleType("edited_pooled_l2d")
    source = inspect.getsource(inspect.getmodule(pooled_l2d))
    for old, new in changes:
        assert source.count(old) == 1
        source = source.replace(old, new)
    exec(compile(source, copy.__name__, "exec"), copy.__dict__)
    return copy.pooled_l2d


@SLOW
def test_an_edited_prior_of_people_is_that_of_newcomers():
    """Who is worse than their cluster by two in log-odds, and spread half as much; not in units of it."""
    model = edited(
        ("dist.Normal(mean, spreads)", "dist.Normal(mean - 2.0, 0.5 * spreads)"),
        ('"cluster_mean", "person"', '"cluster_mean"'),
    )
    pooled = by_hand()
    vectors = jnp.asarray(pooled.values("person", X[:1]))
    draws = {name: a for name, a in pooled.draws.items() if name != SITE} | {"person": vectors}
    joined = dataclasses.replace(pooled, model=model, draws=draws, site="person").join(KEY, SILENT, ONE_EACH)
    new = np.asarray(joined.draws["person"])[:, OLD:]
    mean = Values.of({name: a.mean(0) for name, a in pooled.draws.items()}, OMEGA[:, :OLD])
    np.testing.assert_allclose(new.mean(0), mean.cluster_mean - 2.0, atol=0.15)
    np.testing.assert_allclose(new.std(0), 0.5 * mean.spreads * np.ones((2, 1)), rtol=0.15)
    np.testing.assert_array_equal(joined.draws["person"][:, :OLD], vectors)


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


def nothing_compiled(names):
    compiled = ("_init", "_epoch", "lambda", "_evaluate", "_outputs")
    assert not [name for name in names if any(p in name.split(" with ")[0] for p in compiled)]


LABELS = DATA["annotations"][:, :2]
NEWCOMERS = {
    "one cluster": ({}, np.ones((1, 2)), {}, r"memberships of shape \(2, M'\), in the same clusters, found \(1, 2\)"),
    "three clusters": ({}, np.full((3, 2), 1 / 3), {}, r"found \(3, 2\)"),
    "no axis": ({}, np.ones(2), {}, r"found \(2,\)"),
    "draws": ({}, np.full((2, 2, 2), 0.5), {}, r"found \(2, 2, 2\)"),
    "too much": ({}, np.array([[1.0, 0.5], [0.5, 0.5]]), {}, "sum to one over K, .* with sum 1.5 at 'person_0'"),
    "negative": ({}, np.array([[1.5, 0.5], [-0.5, 0.5]]), {}, "not negative.* and least -0.5 at 'person_0'"),
    "the same names": ({}, ONE_EACH, {"people": ["x", "x"]}, r"distinct names, one a person, found \['x'\]"),
    "too many names": ({}, ONE_EACH, {"people": ["x", "y", "z"]}, "Expected 2 names, one a person, found 3"),
    "more columns": (
        {"annotations": DATA["annotations"][:, :3]},
        ONE_EACH,
        {},
        r"of shape \(400, 2\).*found \(400, 3\)",
    ),
    "fewer rows": ({"annotations": LABELS[:9]}, ONE_EACH, {}, "arrays of one length"),
    "no integers": ({"annotations": LABELS.astype(float)}, ONE_EACH, {}, "integer labels"),
    "no steps": ({}, ONE_EACH, {"steps": 0}, "at least one step, found steps=0"),
}


@pytest.mark.parametrize("kind", NEWCOMERS)
def test_bad_newcomers(compiled, kind):
    data, membership, options, message = NEWCOMERS[kind]
    pooled = by_hand(num_draws=2)
    compiled.clear()
    with pytest.raises(ValueError, match=message):
        pooled.join(KEY, NEW | data, membership, **options)
    nothing_compiled(compiled)


def test_newcomers_with_the_names_of_others(compiled):
    pooled = by_hand(num_draws=2)
    compiled.clear()
    with pytest.raises(ValueError, match=rf"distinct names, one a person, found \['{NAMES[0]}'\]"):
        pooled.join(KEY, NEW, ONE_EACH, people=["x", NAMES[0]])
    nothing_compiled(compiled)


def test_deferral_and_values_of_what_is_not_there():
    pooled = by_hand(num_draws=2)
    with pytest.raises(ValueError, match=r"at least one item, found \(0, 3\)"):
        pooled.defer(X[:0])
    with pytest.raises(ValueError, match="a site of the program, found no 'persons'"):
        pooled.values("persons", X[:1])


def test_newcomers_without_a_column():
    with pytest.raises(ValueError, match="annotations"):
        by_hand(num_draws=2).join(KEY, {"x": X, "y": DATA["y"]}, ONE_EACH)


@SLOW
def test_newcomers_may_all_be_of_one_cluster():
    joined = by_hand(num_draws=20).join(KEY, NEW, np.array([[0, 0], [1, 1]]))
    np.testing.assert_array_equal(joined.arguments["membership"][:, OLD:], [[0, 0], [1, 1]])


class StopError(Exception):
    """In the place of a fit."""


@pytest.fixture
def fits(monkeypatch):
    """Arguments of the fits that newcomers ask for, none of which is made."""
    calls = []

    def noted(rng_key, model, guide, data, optimizer, *, arguments, **options):
        calls.append((model, guide, data | arguments))
        raise StopError

    monkeypatch.setattr("pl2d_ppl.people.pooled.fit", noted)
    return calls


@SLOW
def test_newcomers_share_a_program_of_any_shapes(fits):
    """So that the same shapes are not compiled again, and other ones are fitted all the same."""
    pooled = by_hand(num_draws=2)
    wider = {n: jnp.pad(a, [(0, 0)] * (a.ndim - 1) + [(0, 1)]) for n, a in pooled.draws.items() if a.shape[-1] > 3}
    other = dataclasses.replace(pooled, draws=pooled.draws | wider), NEW | {"x": np.pad(X, ((0, 0), (0, 1)))}
    for people, data in ((pooled, NEW), other):
        with pytest.raises(StopError):
            people.join(KEY, data, ONE_EACH)
    (first, guide, given), (second, same_guide, given_wider) = fits
    assert second is first
    assert same_guide is guide
    for batch, size in ((given, CATEGORIES + 2), (given_wider, CATEGORIES + 3)):
        assert trace(seed(guide.continuous, KEY)).get_trace(**batch)[SITE]["value"].shape == (2, size)


@SLOW
def test_newcomers_leave_a_trained_classifier_as_it_is(fits):
    network = MLP(CATEGORIES, (), CATEGORIES, rngs=nnx.Rngs(3))
    params = {"classifier$params": nnx.to_pure_dict(nnx.state(network, nnx.Param))}
    model = partial(pooled_l2d, classifier=partial(MLP, CATEGORIES, (), CATEGORIES))
    pooled = by_hand(num_draws=2, model=model, params=params, arguments={"membership": jnp.asarray(OMEGA[:, :OLD])})
    with pytest.raises(StopError):
        pooled.join(KEY, NEW, ONE_EACH)
    [(newcomers, _, data)] = fits
    sites = trace(seed(newcomers, KEY)).get_trace(**data)
    assert not [name for name, site in sites.items() if site["type"] == "param"]
    np.testing.assert_allclose(sites["ai_logits"]["value"], network(X), rtol=1e-4, atol=1e-5)


def refused(compiled, message, data=NEW, model=None, **networks):
    model = model or partial(pooled_l2d, **networks)
    with pytest.raises(ValueError, match=message):
        fit(KEY, model, guide_of(model), data, OPTIMIZER, epochs=1, batch_size=400, progress=False)
    nothing_compiled(compiled)


@pytest.mark.parametrize(
    ("membership", "message"),
    [
        (np.ones(2), r"Expected a membership of shape \(K, M\), found \(2,\)"),
        (np.stack([ONE_EACH] * 3), r"found \(3, 2, 2\). Pass the mean of draws"),
        (np.full((2, 3), 0.5), r"annotations of shape \(400, 3\), one column for each person.*found \(400, 2\)"),
        (np.full((2, 2), 0.6), "sum to one over K, .* with sum 1.2 at 'person_0'"),
        (np.array([[1.5, 0.5], [-0.5, 0.5]]), "not negative.* and least -0.5 at 'person_0'"),
        (
            np.array([[np.nan, 0.5], [0.5, 0.5]]),
            r"found \[nan, 0.5\] with sum nan at 'person_0'. Correct NaN and infinite numbers",
        ),
    ],
)
def test_bad_memberships(compiled, membership, message):
    refused(compiled, message, membership=membership, classifier=AI)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("classifier", (400, 1, 3), r"classifier \(N, C\) and features \(N, D\), found \(400, 1, 3\)"),
        ("features", (400,), r"found \(400, 3\) and \(400,\)"),
        ("features", (400, 1, 3), r"found \(400, 3\) and \(400, 1, 3\)"),
    ],
)
def test_bad_networks(compiled, name, shape, message):
    networks = {"classifier": AI, "features": AI, name: Frozen.of(Table(np.zeros(shape, np.float32)))}
    refused(compiled, message, membership=ONE_EACH, **networks)


def test_bad_classifier_without_features(compiled):
    classifier = Frozen.of(Table(np.zeros((400, 1, 3), np.float32)))
    refused(compiled, r"classifier \(N, C\)", membership=ONE_EACH, classifier=classifier)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"annotations": NEW["annotations"][:, :1]}, r"annotations of shape \(400, 2\).*found \(400, 1\)"),
        ({"annotations": NEW["annotations"][:, 0]}, r"found \(400,\)"),
        ({"annotations": NEW["annotations"] - 1}, r"labels from -1 up, .* in data\['annotations'\], found -2"),
        ({"y": DATA["y"][:9]}, "arrays of one length"),
    ],
)
def test_bad_labels(compiled, labels, message):
    refused(compiled, message, NEW | labels, membership=ONE_EACH, classifier=AI)


@SLOW
def test_labels_beyond_the_categories():
    with pytest.raises(ValueError, match=r"labels in -1..2, .* in data\['annotations'\], found 3"):
        run(DATA | {"annotations": DATA["annotations"] + 1})
