"""Simulated people who annotate a data set."""

import inspect
from collections.abc import Callable, Iterable
from typing import Any, Literal, get_args

import numpy as np
from jax.typing import ArrayLike as JaxArrayLike
from numpy.typing import ArrayLike, NDArray

from pl2d_ppl.checks.values import check_choice, check_count
from pl2d_ppl.data.annotated import Annotated
from pl2d_ppl.simulate.instance import instance_dependent_experts
from pl2d_ppl.simulate.superclass import superclass_experts

__all__ = ["simulate_people"]

Kind = Literal["instance", "superclass"]


def simulate_people(
    rng_key: JaxArrayLike,
    data: Annotated,
    kind: Kind = "instance",
    *,
    num_people: int = 2,
    features: ArrayLike | None = None,
    annotators: Iterable[str] | None = None,
    **settings: Any,
) -> Annotated:
    """Let simulated people annotate a data set, instead of its own annotators.

    Parameters
    ----------
    rng_key : PRNG key
        Typed key, from `jax.random.key`.
    data : Annotated
        Items of known truth.
    kind : {"instance", "superclass"}, default "instance"
        `instance_dependent_experts`, whose mistakes depend on the features of an item, or `superclass_experts`, who
        know some superclasses.
    num_people : int, default 2
        Only for ``"superclass"`` without `expertise`: this many people divide the superclasses, in order, as evenly as
        possible. Otherwise `rates` or `expertise` determine the number of people.
    features : array, shape (N, ...), optional
        Features of the items, for ``"instance"``; by default `data.x`. They are flattened. Lazy images are all read
        into memory, and converted to 8-byte numbers: 1.5 GB for CIFAR-100. Features of a network are smaller, and
        reflect better what people confuse.
    annotators : iterable of str, length M, optional
        Names, by default ``expert_0``, ``expert_1``, ...
    **settings
        Arguments of the simulator: `rates` (required), `groups`, `pattern`, `mode` and `spread`, or `expertise`,
        `error` and `confusion`.

    Returns
    -------
    Annotated
        The same items, with annotations of the simulated people, none missing.

    Raises
    ------
    ValueError
        If the truth of an item is unknown, superclasses or features are missing, or an argument is malformed.

    Examples
    --------
    ::

        data = simulate_people(jax.random.key(0), data, rates=[0.1, 0.3], mode="nominal")
    """
    check_choice("kind", kind, get_args(Kind))
    unknown = np.flatnonzero(data.y < 0)
    if unknown.size:
        raise ValueError(
            f"Expected known truth in data, found {unknown.size} items without, first in row {unknown[0]}. Simulate on "
            "data.take(data.y >= 0)."
        )
    if kind == "instance":
        _check_settings(instance_dependent_experts, settings, required=("rates",))
        said = instance_dependent_experts(rng_key, _flat(data, features), data.y, data.num_categories, **settings)
    else:
        _check_settings(superclass_experts, settings)
        coarse = _coarse(data)
        check_count("num_people", num_people)
        settings.setdefault("expertise", [own.tolist() for own in np.array_split(np.unique(coarse), num_people)])
        said = superclass_experts(rng_key, data.y, coarse, data.num_categories, **settings)
    names = tuple(f"expert_{m}" for m in range(said.shape[1])) if annotators is None else annotators
    return data.replace_annotations(said, names)


def _check_settings(simulator: Callable, settings: dict[str, Any], required: tuple[str, ...] = ()) -> None:
    own = ("rng_key", "x", "y", "coarse", "num_categories")
    known = [name for name in inspect.signature(simulator).parameters if name not in own]
    wrong = [name for name in settings if name not in known]
    missing = [name for name in required if name not in settings]
    if wrong or missing:
        found = f"{wrong[0]}" if wrong else f"no {missing[0]}"
        raise ValueError(
            f"Expected arguments out of {', '.join(known)} for {simulator.__name__}, found {found}. Correct it, or add "
            "it."
        )


def _coarse(data: Annotated) -> NDArray:
    if data.coarse is None:
        raise ValueError(
            "Expected superclasses, coarse, in data for kind='superclass', found none. Add them, or take 'instance'."
        )
    return data.coarse


def _flat(data: Annotated, features: ArrayLike | None) -> NDArray:
    x = np.asarray(data.read().x if features is None else features)
    if len(x) != data.num_items or x.size == 0:
        raise ValueError(
            f"Expected features of shape ({data.num_items}, ...), one row an item, found {x.shape}. Pass as many rows "
            "as data has items."
        )
    return x.reshape(len(x), -1)
