"""Problems, the program in numpy, and fitted people, for the tests of partially pooled people."""

import dataclasses
from contextlib import contextmanager
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from numpyro.handlers import seed, trace
from programs import Table, table
from scipy.special import expit, softmax
from scipy.stats import halfnorm, norm

from pl2d_ppl import fit
from pl2d_ppl.experiments.methods import POOLED_SCHEDULE
from pl2d_ppl.guides.exact import exact
from pl2d_ppl.guides.normal import normal
from pl2d_ppl.models.pooled_l2d import pooled_l2d
from pl2d_ppl.networks import Frozen
from pl2d_ppl.people.pooled import PooledPeople

KEY = jax.random.key(0)
CATEGORIES = 3


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


def given(case, values):
    sites = {name: table(value) for name, value in values.sites(np.float64(case.membership)).items()}
    return case.networks, table(case.membership), sites


def guide_of(model):
    """The guide of the docstring."""
    return exact(model, ["z"], continuous=normal(model))


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
    return pooled.values("right_probs", x)


def cluster_p_right(pooled, x=X):
    """Posterior means of P(right) of a person at the mean of their cluster, (K,)."""
    phi = with_one(belief_features(softmax(np.float64(x), 1)))
    return expit(pooled.values("cluster_mean", x[:1]) @ phi.T).mean((0, 2))


NEW = DATA | {"annotations": DATA["annotations"][:, OLD:]}
ONE_EACH = hard(0, 1)
