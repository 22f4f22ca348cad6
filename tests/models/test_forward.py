"""Every model run forward: draws occur as often as the conditioned program says, at every value of its data."""

import itertools
import pkgutil
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro.handlers import seed, substitute, trace
from numpyro.infer import Predictive
from oracles.brute_force import BruteForce
from programs import Table
from scipy.stats import chisquare

import pl2d_ppl.models
from pl2d_ppl.models.annotator_lda import annotator_lda
from pl2d_ppl.models.annotator_urn import annotator_urn
from pl2d_ppl.models.classification import classification
from pl2d_ppl.models.cluster_l2d import cluster_l2d
from pl2d_ppl.models.crowd_l2d import crowd_l2d
from pl2d_ppl.models.membership import membership
from pl2d_ppl.models.pooled_l2d import pooled_l2d
from pl2d_ppl.models.prob_cluster_l2d import prob_cluster_l2d
from pl2d_ppl.models.prob_l2d import prob_l2d

DRAWS = 100_000
KEY = jax.random.key(0)
PEOPLE, CATEGORIES, CLUSTERS = 2, 2, 2
OMEGA = jnp.array([[0.9, 0.3], [0.1, 0.7]])
X = jnp.zeros((1, 2))


def logits(*shape, number=0):
    return Table(np.random.default_rng(number).standard_normal((1, *shape)).astype(np.float32))


NETWORKS = {"classifier": logits(CATEGORIES, number=1)}
GATE = {"gating": logits(PEOPLE + 1, number=2)}  # or of as many clusters
EXPERTS = {"experts": logits(PEOPLE, CATEGORIES, number=3)}


class Case(NamedTuple):
    """A program, its input, and every value of its data, with the draws that are equal to it."""

    model: object
    inputs: dict
    values: list  # of dicts of data
    observed: object  # takes data, returns the sites' values
    forward: dict | None = None  # options of the program where it runs forward
    continuous: tuple = ()  # latent sites that are fixed, since the oracle does not integrate them


def labelled(model, inputs=None, people=True):
    inputs = {"x": X} if inputs is None else inputs
    said = list(itertools.product(range(CATEGORIES), repeat=PEOPLE)) if people else [None]
    values = [
        {"y": np.array([y])} | ({} if a is None else {"annotations": np.array([a])})
        for a, y in itertools.product(said, range(CATEGORIES))
    ]

    def observed(data):
        sites = {"y": data["y"][:, None], "y_ai": data["y"][:, None]}
        return sites | ({"annotation": data["annotations"]} if "annotations" in data else {})

    return Case(model, inputs, values, observed)


def of_classifier():
    case = labelled(partial(classification, **NETWORKS), people=False)
    return case._replace(observed=lambda data: {"y_ai": data["y"][:, None]})


def of_placement():
    probs = np.random.default_rng(4).dirichlet(np.ones(3), (2, CLUSTERS)).astype(np.float32)
    values = [{"annotations": np.array(said)} for said in itertools.product(range(3), repeat=2)]
    return Case(membership, {"cluster_probs": probs}, values, lambda data: {"annotation": data["annotations"]})


def of_lda():
    model = partial(annotator_lda, clusters=logits(CLUSTERS, 3, number=5), alpha=2.0)
    values = [{"votes": np.array([said])} for said in itertools.product(range(3), repeat=2)]
    return Case(model, {"x": X}, values, lambda data: dict(data), {"num_votes": 2})


def of_urn():
    model = partial(annotator_urn, truth=logits(3, number=6), sizes=(2, 1))
    values = [{"counts": np.array([c])} for c in itertools.product(range(3), repeat=3) if sum(c) == 2]
    continuous = ("skill_mean", "skill", "errors")
    return Case(model, {"x": X}, values, lambda data: {"counts": data["counts"][:, None]}, {"num_votes": 2}, continuous)


def of_pooled():
    case = labelled(partial(pooled_l2d, membership=OMEGA, **NETWORKS))
    first = int(NETWORKS["classifier"].logits[...].argmax())

    def observed(data):
        right = np.append(data["annotations"], [[first]], 1) == data["y"][:, None]
        return {"right": right, "y_ai": data["y"][:, None]}

    sites = ("ability", "slope_scale", "ai_slope_scale", "spread", "ai_skill")
    units = tuple(f"{n}_decentered" for n in ("slope", "ai_slope", "cluster_mean", "person"))
    # Other data may make the same people right: one of each is enough.
    distinct = {tuple(np.append(*(np.ravel(a) for a in observed(v).values()))): v for v in case.values}
    return case._replace(values=list(distinct.values()), observed=observed, continuous=(*sites, *units))


def of_crowd():
    """The truth is observed as gold in the conditioned program, and generated as y."""
    case = labelled(partial(crowd_l2d, membership=OMEGA, **NETWORKS))
    units = ("cluster_mean_decentered", "person_decentered")
    return case._replace(
        observed=lambda data: {"y": data["y"][:, None], "annotation": data["annotations"]},
        continuous=("ability", "scale", "spread", *units),
    )


CASES = {
    "annotator_lda": of_lda,
    "annotator_urn": of_urn,
    "classification": of_classifier,
    "cluster_l2d": lambda: labelled(
        partial(cluster_l2d, membership=OMEGA, **NETWORKS, **GATE),
        {"x": X, "annotations": np.array([[1, -1]])},
        people=False,
    ),
    "crowd_l2d": of_crowd,
    "membership": of_placement,
    "pooled_l2d": of_pooled,
    "prob_cluster_l2d": lambda: labelled(partial(prob_cluster_l2d, membership=OMEGA, **NETWORKS, **GATE, **EXPERTS)),
    "prob_l2d": lambda: labelled(partial(prob_l2d, **NETWORKS, **GATE, **EXPERTS)),
    "prob_l2d, annotations given": lambda: labelled(
        partial(prob_l2d, **NETWORKS, **GATE, **EXPERTS), {"x": X, "annotations": np.array([[0, 1]])}, people=False
    ),
    "prob_l2d, one person given": lambda: labelled(
        partial(prob_l2d, **NETWORKS, **GATE, **EXPERTS), {"x": X, "annotations": np.array([[1, -1]])}, people=False
    ),
}


def names():
    """The cases, and models without one, whose test fails."""
    of_models = [module.name for module in pkgutil.iter_modules(pl2d_ppl.models.__path__)]
    return sorted({*CASES, *of_models})


def evidence(model, data):
    return np.exp(BruteForce(seed(model, KEY), (), data).log_evidence())


@pytest.mark.slow
@pytest.mark.parametrize("name", names())
def test_draws_are_as_frequent_as_the_conditioned_program_says(name):
    case = CASES[name]()
    forward, model = partial(case.model, **(case.forward or {})), case.model
    tr = trace(seed(forward, jax.random.key(1))).get_trace(**case.inputs)
    fixed = {site: tr[site]["value"] for site in case.continuous}
    forward, model = substitute(forward, data=fixed), substitute(model, data=fixed)
    drawn = Predictive(forward, num_samples=DRAWS, parallel=True)(KEY, **case.inputs)
    unknown = {"y": np.array([-1])} if "y" in case.values[0] else {}
    given = evidence(model, {**case.inputs, **unknown})  # of annotations, and of the sites that are fixed
    expected = np.array([evidence(model, {**case.inputs, **data}) / given for data in case.values])
    equal = [
        np.all([(drawn[n] == v).reshape(DRAWS, -1).all(1) for n, v in case.observed(data).items()], 0)
        for data in case.values
    ]
    counts = np.sum(equal, 1)
    assert np.sum(equal, 0).max() == 1  # no draw is counted twice
    others = max(1 - expected.sum(), 0.0)
    cells = np.append(counts, DRAWS - counts.sum()), np.append(expected, others) * DRAWS
    if others * DRAWS < 1:
        cells = cells[0][:-1], cells[1][:-1]
        assert cells[0].sum() == DRAWS
    assert chisquare(*cells, sum_check=False).pvalue > 1e-3, np.stack(cells)
