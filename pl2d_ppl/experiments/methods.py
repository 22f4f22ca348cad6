"""The methods that can be compared by name, all with the same networks, data and optimisation."""

import dataclasses
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pl2d_ppl.baselines.l2d_pop import train_l2d_pop
from pl2d_ppl.baselines.naive_l2d import naive_l2d
from pl2d_ppl.baselines.one_stage import one_stage
from pl2d_ppl.baselines.two_stage import two_stage
from pl2d_ppl.checks.membership import check_membership
from pl2d_ppl.data import Annotated
from pl2d_ppl.engine.guide_tools import no_guide
from pl2d_ppl.engine.per_run import PerRun
from pl2d_ppl.engine.workload import workload
from pl2d_ppl.experiments.learned import (
    GateLearned,
    Learned,
    PooledLearned,
    PopulationLearned,
    View,
    heard_people,
    representations,
)
from pl2d_ppl.guides.exact import exact
from pl2d_ppl.guides.mean_field import mean_field
from pl2d_ppl.guides.normal import normal
from pl2d_ppl.inference.fit import fit
from pl2d_ppl.inference.result import FitResult
from pl2d_ppl.inference.schedule import Schedule
from pl2d_ppl.models.cluster_l2d import cluster_l2d
from pl2d_ppl.models.pooled_l2d import pooled_l2d
from pl2d_ppl.models.prob_cluster_l2d import prob_cluster_l2d
from pl2d_ppl.models.prob_l2d import prob_l2d
from pl2d_ppl.networks import Ensemble, Frozen, network_for
from pl2d_ppl.people.crowd import CROWD_SCHEDULE, fit_crowd
from pl2d_ppl.people.pooled import PooledPeople

__all__ = [
    "GATE_SCHEDULE",
    "METHODS",
    "NEED_MEMBERSHIP",
    "POOLED_SCHEDULE",
    "Task",
    "build_method",
    "coverage_bounds",
    "learn",
]

GuideName = Literal["exact", "mean-field"]
ALL_ITEMS = 2**31  # per step
GATE_SCHEDULE = Schedule()
POOLED_SCHEDULE = Schedule(1000, ALL_ITEMS, "adamw", 0.05, weight_decay=0.0, clip=None)
MOST_NETWORKS = 16  # up to this many experts have a network each; more share the hidden layers of one


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """Data and settings that a method learns from.

    Attributes
    ----------
    train : Annotated
        Items, annotations and truth.
    coverages : tuple of float
        Shares of the items that the AI is to decide. A method that can be steered is trained for each of them.
    schedule : Schedule
        Steps and optimiser.
    hidden : tuple of int
        Widths of the hidden layers; for images, channels of the convolutions.
    window : int, optional
        Window of the workload, in items; by default every mini-batch meets the bounds, as in paper A.
    pooled_schedule : Schedule
        Steps and optimiser of partially pooled people, which are not a network.
    crowd_schedule : Schedule
        Steps and optimiser of a crowd with its classifier.
    classifier : Frozen, optional
        The AI, trained first on other items. Without it, the AI is trained together with the method.
    membership : array, shape (K, M), optional
        Memberships of people in clusters, for the methods that use them.
    guide : {"exact", "mean-field"}
        Posterior of the discrete sites, for ``prob-l2d``.
    """

    train: Annotated
    coverages: tuple[float, ...]
    schedule: Schedule = GATE_SCHEDULE
    hidden: tuple[int, ...] = (128, 128)
    window: int | None = None
    pooled_schedule: Schedule = POOLED_SCHEDULE
    crowd_schedule: Schedule = CROWD_SCHEDULE
    classifier: Frozen | None = None
    membership: np.ndarray | None = None
    guide: GuideName = "exact"


class TaskShape(NamedTuple):
    """Sizes that networks are built for.

    Attributes
    ----------
    item : tuple of int
        Shape of an item.
    num_experts, num_categories, num_clusters : int
        M, C and K, 0 without clusters.
    hidden : tuple of int
        Widths of the hidden layers.
    complete : bool
        Whether everybody annotated everything.
    """

    item: tuple[int, ...]
    num_experts: int
    num_categories: int
    hidden: tuple[int, ...]
    num_clusters: int = 0
    complete: bool = True

    def network(self, outputs: int | tuple[int, ...]) -> Callable:
        """Return a network that suits the items."""
        return network_for(self.item, self.hidden, outputs)

    @property
    def classifier(self) -> Callable:
        """Network of the AI."""
        return self.network(self.num_categories)

    @property
    def experts(self) -> Callable:
        """Network of everybody's annotations."""
        if self.num_experts > MOST_NETWORKS:
            return self.network((self.num_experts, self.num_categories))
        return partial(Ensemble, self.network(self.num_categories), self.num_experts)


ModelAndGuide = tuple[Callable, Callable]


def _prob_l2d(shape: TaskShape, guide: GuideName) -> ModelAndGuide:
    model = partial(
        prob_l2d,
        gating=shape.network(shape.num_experts + 1),
        experts=shape.experts,
        classifier=shape.classifier,
    )
    return model, exact(model, ["z"]) if guide == "exact" else mean_field(model)


def _naive(shape: TaskShape, guide: GuideName) -> ModelAndGuide:
    del guide  # only z is latent: both are the same
    model = partial(naive_l2d, gating=shape.network(shape.num_experts + 1), classifier=shape.classifier)
    return model, exact(model)


def _cluster_l2d(shape: TaskShape, guide: GuideName) -> ModelAndGuide:
    del guide
    networks = {"gating": shape.network(shape.num_clusters + 1), "classifier": shape.classifier}
    if shape.complete:
        model = partial(cluster_l2d, **networks)
    else:
        model = partial(prob_cluster_l2d, **networks, experts=shape.experts)
    return model, exact(model, ["v"])


def _one_stage(shape: TaskShape, guide: GuideName, *, surrogate: Literal["softmax", "ova"]) -> ModelAndGuide:
    del guide
    gating = shape.network(shape.num_experts)
    return partial(one_stage, gating=gating, classifier=shape.classifier, surrogate=surrogate), no_guide


def _two_stage(shape: TaskShape, guide: GuideName) -> ModelAndGuide:
    del guide
    return partial(two_stage, gating=shape.network(shape.num_experts + 1), classifier=shape.classifier), no_guide


class MethodSpec(NamedTuple):
    """A method that is a program: its builder, and the site (if any) where a workload fixes the AI's share."""

    build: Callable[[TaskShape, GuideName], ModelAndGuide]
    site: str | None


SPECS = {
    "prob-l2d": MethodSpec(_prob_l2d, "z"),
    "naive": MethodSpec(_naive, "z"),
    "one-stage": MethodSpec(partial(_one_stage, surrogate="softmax"), None),
    "one-vs-all": MethodSpec(partial(_one_stage, surrogate="ova"), None),
    "two-stage": MethodSpec(_two_stage, None),
    "lecodu": MethodSpec(_cluster_l2d, "v"),
    "cluster-soft": MethodSpec(_cluster_l2d, "v"),
    "cluster-hard": MethodSpec(_cluster_l2d, "v"),
}
TRAINED_ON = ("one-stage", "one-vs-all")  # methods whose classifier is trained further, with the gate
METHODS = (*SPECS, "l2d-pop", "pooled", "crowd")
NEED_MEMBERSHIP = ("cluster-soft", "cluster-hard")


def learn(name: str, rng_key: jax.Array, task: Task, *, on_fit: Callable[[], None] = lambda: None) -> Learned:
    """Train a method.

    Parameters
    ----------
    name : str
        One of ``METHODS``.
    rng_key : Array
        A typed key, for networks and mini-batches.
    task : Task
        Data and settings that the method learns from.
    on_fit : callable
        Called after every coverage that needs its own fit, for a progress bar.

    Returns
    -------
    Learned
        The trained method.

    Raises
    ------
    ValueError
        If the method is unknown, or the task lacks something that it needs.
    """
    _check(name, task)
    if name == "l2d-pop":
        return _learn_population(rng_key, task)
    if name == "pooled":
        return _learn_pooled(rng_key, task)
    if name == "crowd":
        return _learn_crowd(rng_key, task)
    return _learn_gate(name, rng_key, task, on_fit)


def _learn_gate(name: str, rng_key: jax.Array, task: Task, on_fit: Callable[[], None]) -> GateLearned:
    data, schedule = task.train, task.schedule
    view = _view(name, task)
    everybody = np.ones((1, data.num_experts)) if task.membership is None else np.asarray(task.membership)
    membership = None if view is None else view(everybody)
    model, free_guide = build_method(name, data, task.hidden, task.guide, membership)
    arguments: dict = {} if membership is None else {"membership": np.asarray(membership, np.float32)}
    if task.classifier is not None:
        arguments["classifier"] = task.classifier.module if name in TRAINED_ON else task.classifier
    site = SPECS[name].site
    size = (data.num_experts if membership is None else len(membership)) + 1

    def train(key: jax.Array, guide: Callable) -> FitResult:
        return fit(
            key,
            model,
            guide,
            data.batch(),
            schedule.optimizer(data.num_items),
            epochs=schedule.epochs(data.num_items),
            batch_size=schedule.batch(data.num_items),
            arguments=arguments,
            progress=False,
        )

    bounds = [coverage_bounds(c, size - 1) for c in task.coverages]
    if site is None:
        fits = [train(rng_key, free_guide)]
    elif data.x.ndim == 2:  # all coverages at once; not for images, since vectorised convolutions are slow
        lower, upper = map(np.stack, zip(*bounds, strict=True))
        keys = jnp.stack([rng_key] * len(bounds))
        fits = [train(keys, workload(free_guide, site, PerRun(lower), PerRun(upper), window=task.window))]
    else:
        fits = []
        for pair in bounds:
            fits.append(train(rng_key, workload(free_guide, site, *pair, window=task.window)))
            on_fit()
    num_clusters = len(everybody) if name in NEED_MEMBERSHIP else None
    return GateLearned(fits, data.annotators, site is not None, membership, view, num_clusters)


def coverage_bounds(coverage: float, num_experts: int) -> tuple[np.ndarray, np.ndarray]:
    """Return bounds that fix the AI's share and leave all other shares free.

    Parameters
    ----------
    coverage : float
        Share of the items that the AI decides.
    num_experts : int
        M, or the number of clusters.

    Returns
    -------
    tuple of array, shape (M+1,)
        Lower and upper bounds, the AI last.

    Raises
    ------
    ValueError
        If the coverage is not between 0 and 1.
    """
    if not 0.0 <= coverage <= 1.0:
        raise ValueError(f"Expected coverages between 0 and 1, shares of the items, found {coverage}.")
    return np.append(np.zeros(num_experts), coverage), np.append(np.ones(num_experts), coverage)


def _view(name: str, task: Task) -> View | None:
    """How a method sees memberships: as one cluster of all people without weights (LECODU), rounded, or unchanged."""
    if name == "lecodu":
        return lambda membership: np.ones((1, membership.shape[1]))
    if name == "cluster-soft":
        return lambda membership: membership
    if name == "cluster-hard":
        used = np.unique(np.asarray(task.membership).argmax(0))  # rounding may leave clusters empty; drop these
        return lambda membership: np.eye(len(used))[membership[used].argmax(0)].T
    return None


def _learn_population(rng_key: jax.Array, task: Task) -> PopulationLearned:
    data, ai = task.train, task.classifier
    heard = heard_people(data)
    if not heard.any():
        raise ValueError("Expected somebody with annotations of items of known truth for l2d-pop, found nobody.")
    trained = train_l2d_pop(
        rng_key,
        data.x,
        data.annotations[:, heard],
        data.y,
        data.num_categories,
        hidden=task.hidden,
        steps=task.schedule.steps,
        batch_size=task.schedule.batch(data.num_items),
        class_logits=None if ai is None else ai(jnp.asarray(data.x)),
    )
    psi, heard = representations(trained, data)
    return PopulationLearned(trained, psi, data.annotators, heard, trained.class_logits if ai is None else ai)


def _learn_pooled(rng_key: jax.Array, task: Task) -> PooledLearned:
    data = task.train
    membership = np.ones((1, data.num_experts)) if task.membership is None else task.membership
    model, guide = _pooled()
    schedule = task.pooled_schedule
    fit_key, draw_key = jax.random.split(rng_key)
    result = fit(
        fit_key,
        model,
        guide,
        data.batch(),
        schedule.optimizer(data.num_items),
        epochs=schedule.epochs(data.num_items),
        batch_size=schedule.batch(data.num_items),
        arguments={"membership": np.asarray(membership, np.float32), "classifier": task.classifier},
        progress=False,
    )
    return PooledLearned(PooledPeople.of(draw_key, result, people=data.annotators))


def _learn_crowd(rng_key: jax.Array, task: Task) -> PooledLearned:
    crowd = fit_crowd(
        rng_key,
        task.train,
        hidden=task.hidden,
        classifier=task.classifier,
        membership=task.membership,
        schedule=task.crowd_schedule,
    )
    return PooledLearned(crowd.people)


@lru_cache(maxsize=32)
def _pooled() -> ModelAndGuide:
    """Return the same program and guide every time, so that fits share a compilation."""
    guide = exact(pooled_l2d, ["z"], continuous=normal(pooled_l2d))
    return pooled_l2d, guide


def _check(name: str, task: Task) -> None:
    if name not in METHODS:
        raise ValueError(f"Expected a method out of {', '.join(METHODS)}, found {name!r}.")
    _check_experts(task.train)
    if name in NEED_MEMBERSHIP and task.membership is None:
        raise ValueError(f"Expected memberships of people in clusters for {name}, found none. See pl2d clusters.")
    if name == "pooled" and task.classifier is None:
        raise ValueError(
            "Expected a classifier that was trained on other items for pooled, which learns from these how often it is "
            "right, found none. See pl2d onboard."
        )
    if not len(task.coverages):
        raise ValueError("Expected at least one coverage in the task, found none.")
    if task.membership is not None:
        if np.ndim(task.membership) != 2:
            raise ValueError(
                f"Expected memberships of shape (K, M), found {np.shape(task.membership)}. Pass the mean of draws, or "
                "fit cluster_l2d itself."
            )
        check_membership(task.membership, num_people=task.train.num_experts, people=task.train.annotators)


def _check_experts(data: Annotated) -> None:
    if data.num_experts == 0:
        raise ValueError("Expected annotations of at least one expert, found none. Simulate some: pl2d_ppl.simulate.")


def build_method(
    name: str,
    data: Annotated,
    hidden: tuple[int, ...],
    guide: GuideName = "exact",
    membership: np.ndarray | None = None,
) -> ModelAndGuide:
    """Build the model and the guide of a method that is a program, for a data set.

    Parameters
    ----------
    name : str
        One of ``SPECS``.
    data : Annotated
        Training data, which decides the sizes of the networks.
    hidden : tuple of int
        Widths of the hidden layers.
    guide : {"exact", "mean-field"}
        Posterior of the discrete sites.
    membership : array, shape (K, M), optional
        Memberships of people, which decide the number of clusters.

    Returns
    -------
    tuple of callable
        Model and guide; the guide has no workload yet.

    Raises
    ------
    ValueError
        If the method or the guide is unknown, or there is no expert.
    """
    if name not in SPECS:
        raise ValueError(f"Expected a method out of {', '.join(SPECS)}, found {name!r}.")
    if guide not in ("exact", "mean-field"):
        raise ValueError(f"Expected guide exact or mean-field, found {guide!r}.")
    _check_experts(data)
    num_clusters = 0 if membership is None else len(membership)
    complete = bool((data.annotations >= 0).all())
    sizes = (data.x.shape[1:], data.num_experts, data.num_categories)
    return _build(name, TaskShape(*sizes, tuple(hidden), num_clusters, complete), guide)


@lru_cache(maxsize=32)
def _build(name: str, shape: TaskShape, guide: GuideName) -> ModelAndGuide:
    """Return the same objects for the same shapes: data sets of one shape share a compilation."""
    return SPECS[name].build(shape, guide)
