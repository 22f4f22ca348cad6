"""Problems, what enumeration says of them, and fits, for the tests of deferral to clusters."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from oracles.cluster_l2d import enumerate_cluster_l2d
from programs import Table, table
from scipy.special import softmax

from pl2d_ppl import MLP, EnumELBO, fit, log_evidence, marginals, workload
from pl2d_ppl.guides.exact import exact
from pl2d_ppl.models.cluster_l2d import cluster_l2d
from pl2d_ppl.models.prob_cluster_l2d import prob_cluster_l2d
from pl2d_ppl.networks import Frozen

KEY = jax.random.key(0)
TINY = 1e-9
ITEMS, CLUSTERS, PEOPLE, CATEGORIES = 6, 3, 4, 3
HARD = np.array([[1, 0, 0, 1], [0, 1, 0, 0], [0, 0, 1, 0]], np.float32)


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
        experts = {"experts": Frozen.of(Table(table(self.beliefs[:, :-1])))} if modelled else {}
        classifier = Frozen.of(Table(table(self.beliefs[:, -1])))
        return {"gating": Frozen.of(Table(table(self.gate))), "classifier": classifier, **experts}


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


def program(networks, **options):
    """The program with a model of people's annotations, if there are networks of it, or the one without."""
    return partial(prob_cluster_l2d if "experts" in networks else cluster_l2d, **networks, **options)


@jax.jit
def posterior(networks, membership, data):
    model = program(networks, membership=membership)
    return log_evidence(model)(**data), marginals(model)(**data)


@partial(jax.jit, static_argnames="order")
def inferred(networks, membership, data, order, bounds=None):
    """ELBO of an exact guide; what it says of its first site, (N, values), and of both, (N, K + 1, M + 1)."""
    model = program(networks, membership=membership)
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
    given = jax.nn.softmax(tr[others[0]]["fn"].logits)
    shape = own.shape[1], *[1] * (given.ndim - 4), len(own), 1, given.shape[-1]  # values of the first, items, values
    given = jnp.broadcast_to(given, shape).reshape(own.shape[1], len(own), -1)
    return sum(terms.values()), own, jnp.einsum("na,anb->nab" if first == "v" else "na,anb->nba", own, given)


def arguments(case, modelled):
    return case.networks(modelled), table(case.membership), case.data


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
run = partial(fit, optimizer=OPTIMIZER, epochs=4, batch_size=12, progress=False)
