"""What a crowd of named people knows: the truth of items, how good everybody is, and a classifier."""

import dataclasses
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import jax
import numpy as np
from jax import Array
from numpy.typing import ArrayLike, NDArray

from pl2d_ppl.checks.names import listed
from pl2d_ppl.checks.warn import warn
from pl2d_ppl.data import Annotated
from pl2d_ppl.data.listed import list_annotations
from pl2d_ppl.guides.exact import exact
from pl2d_ppl.guides.normal import normal
from pl2d_ppl.inference.arviz import to_datatree
from pl2d_ppl.inference.fit import fit
from pl2d_ppl.inference.result import FitResult
from pl2d_ppl.inference.schedule import Schedule
from pl2d_ppl.models.crowd_l2d import crowd_l2d
from pl2d_ppl.networks import Frozen, network_for
from pl2d_ppl.people.pooled import PooledPeople

__all__ = ["CROWD_SCHEDULE", "Crowd", "fit_crowd"]

CROWD_SCHEDULE = Schedule(500, 2**31, "adamw", 0.01, weight_decay=0.5, clip=None)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Crowd:
    """A fit of ``crowd_l2d``, and what it says about items and people.

    Attributes
    ----------
    result : FitResult
        The fit.
    people : PooledPeople
        Everybody, for deferral and newcomers.
    truth_probs : array, shape (N, C)
        Posterior probabilities of the truth of the items that were learned from.
    confusion : array, shape (S, M, C, C)
        Posterior draws: in row y, the probabilities of what a person says where the truth is y.
    classes : tuple of str, length C
        Names of the categories.
    tree : xarray.DataTree
        Everything for ArviZ; see :func:`~pl2d_ppl.inference.arviz.to_datatree`.
    """

    result: FitResult
    people: PooledPeople
    truth_probs: NDArray
    confusion: NDArray
    classes: tuple[str, ...]
    tree: Any

    def __repr__(self) -> str:
        return f"Crowd(items={len(self.truth_probs)}, people={len(self.people.people)}, categories={len(self.classes)})"

    @property
    def truth(self) -> NDArray[np.integer]:
        """The most likely truth of each item, shape (N,)."""
        return self.truth_probs.argmax(1)

    def skill(self, level: float = 0.9) -> NDArray:
        """Compute the probability that each person is right, by true category, with its posterior interval.

        Parameters
        ----------
        level : float
            Probability of the interval.

        Returns
        -------
        array, shape (M, C, 3)
            Mean, lower and upper end.
        """
        return _with_interval(np.diagonal(self.confusion, axis1=2, axis2=3), level)

    def accuracy(self, level: float = 0.9) -> NDArray:
        """Compute the probability that each person is right on the items that were learned from, with its interval.

        Parameters
        ----------
        level : float
            Probability of the interval.

        Returns
        -------
        array, shape (M, 3)
            Mean, lower and upper end; categories are as frequent as the inferred truth says.
        """
        return _with_interval(np.diagonal(self.confusion, axis1=2, axis2=3) @ self.truth_probs.mean(0), level)

    def doubtful(self, number: int) -> NDArray[np.integer]:
        """Return the items to look at again: those whose most likely truth is least certain, the worst first.

        Parameters
        ----------
        number : int
            How many, at most.

        Returns
        -------
        array of int
            Rows of the data.
        """
        return np.argsort(self.truth_probs.max(1), kind="stable")[:number]


def fit_crowd(
    rng_key: Array,
    data: Annotated,
    *,
    hidden: tuple[int, ...] = (),
    classifier: Frozen | None = None,
    membership: ArrayLike | None = None,
    schedule: Schedule = CROWD_SCHEDULE,
    num_samples: int = 64,
    progress: bool = False,
) -> Crowd:
    """Learn the truth, the people and a classifier from annotations, with the truth known of none, some or all items.

    Parameters
    ----------
    rng_key : Array
        A typed key.
    data : Annotated
        Items with features, standardised, and annotations of named people; truth is used where it is known.
    hidden : tuple of int
        Widths of the classifier's hidden layers; for images, channels of its convolutions.
    classifier : Frozen, optional
        An AI that was trained before, instead of one that is trained here.
    membership : array, shape (K, M), optional
        Memberships of people in clusters; by default one cluster of all.
    schedule : Schedule
        Steps and optimiser.
    num_samples : int
        Number of posterior draws, S.
    progress : bool
        Whether to show a progress bar.

    Returns
    -------
    Crowd
        Posterior of truth and people.

    Raises
    ------
    ValueError
        If there are no people, or no annotations.

    Warns
    -----
    UserWarning
        If nobody ever says a category, or somebody is surely right less often than by chance.
    """
    _check_heard(data)
    model, guide = _programs(data.x.shape[1:], tuple(hidden), data.num_categories, classifier is not None)
    arrays = {"x": data.x, **list_annotations(data.annotations)}
    if (data.y >= 0).any():
        arrays["y"] = data.y
    omega = np.ones((1, data.num_experts)) if membership is None else np.asarray(membership)
    arguments: dict[str, Any] = {"membership": omega.astype(np.float32)}
    if classifier is not None:
        arguments["classifier"] = classifier
    fit_key, people_key, tree_key = jax.random.split(rng_key, 3)
    result = fit(
        fit_key,
        model,
        guide,
        arrays,
        schedule.optimizer(data.num_items),
        epochs=schedule.epochs(data.num_items),
        batch_size=schedule.batch(data.num_items),
        arguments=arguments,
        progress=progress,
    )
    people = PooledPeople.of(people_key, result, num_samples=num_samples, people=data.annotators)
    items = () if data.items is None else tuple(map(str, data.items))
    coords = {"expert": data.annotators, "category": data.classes} | ({"item": items} if items else {})
    coords |= {"person": data.annotators, "true_category": data.classes}
    tables = {name: ["person", "true_category", "category"] for name in ("person", "person_decentered", "confusion")}
    tree = to_datatree(tree_key, result, arrays, num_samples=num_samples, coords=coords, dims=tables)
    found = Crowd(
        result,
        people,
        np.asarray(tree["marginals"]["y_probs"]),
        people.values("confusion", data.x[:1]),
        data.classes,
        tree,
    )
    _warn_of_contradiction(found, data)
    return found


def _with_interval(draws: NDArray, level: float) -> NDArray:
    """Mean of draws (S, ...), and the ends of their interval, along a new last axis."""
    tail = (1 - level) / 2
    return np.stack([draws.mean(0), *np.quantile(draws, [tail, 1 - tail], axis=0)], axis=-1)


def _check_heard(data: Annotated) -> None:
    if data.num_experts == 0 or not (data.annotations >= 0).any():
        raise ValueError("Expected annotations of named people, found none. For anonymous votes use pl2d clusters.")
    said = np.unique(data.annotations[data.annotations >= 0])
    silent = [name for c, name in enumerate(data.classes) if c not in said]
    if silent:
        warn(
            f"Expected every category to be named by somebody, found none who says {listed(silent)}: only the prior "
            "speaks for it. Leave it out of the classes if it does not occur."
        )


def _warn_of_contradiction(found: Crowd, data: Annotated) -> None:
    """Name those who contradict the inferred truth; what they say still counts, as evidence for something else."""
    below = found.accuracy()[:, 2] < 1 / len(found.classes)
    often = [name for name, flag in zip(data.annotators, below, strict=True) if flag]
    if often:
        warn(
            f"Expected people who are right more often than by chance, found {listed(often)} surely below it: they "
            "contradict the others. Check how their annotations are coded."
        )


@lru_cache(maxsize=32)
def _programs(item: tuple[int, ...], hidden: tuple[int, ...], num_categories: int, frozen: bool) -> tuple:
    """Return the same programs for the same shapes, so that fits share a compilation."""
    model: Callable = crowd_l2d
    if not frozen:
        model = partial(crowd_l2d, classifier=network_for(item, hidden, num_categories))
    return model, exact(model, ["z"], continuous=normal(model))
