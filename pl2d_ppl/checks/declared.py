"""Checks of data and arguments that a program declares: nothing follows from the name of an argument alone."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np

from pl2d_ppl.checks.concentration import check_concentration
from pl2d_ppl.checks.labels import check_labels
from pl2d_ppl.checks.membership import check_membership

__all__ = [
    "Given",
    "check_declared",
    "concentration",
    "declared_checks",
    "declares",
    "indices",
    "labels",
    "memberships",
    "needs_truth",
    "truth",
    "vote_counts",
    "votes",
]

DECLARED = "declared_checks"  # attribute of a program

Program = TypeVar("Program", bound=Callable)


class Given(NamedTuple):
    """Values that a program is given, before anything is compiled.

    Attributes
    ----------
    name : str
        Name of the data, for messages.
    data : mapping of str to array, shape (N, ...)
        The data.
    arguments : mapping of str to pytree of array
        The other arguments.
    outputs : mapping of str to jax.ShapeDtypeStruct
        Shapes of the deterministic sites, such as ``ai_logits``; empty until the program has been traced.
    """

    name: str
    data: Mapping[str, Any]
    arguments: Mapping[str, Any] = {}
    outputs: Mapping[str, Any] = {}

    def array(self, name: str) -> np.ndarray | None:
        """Return an entry of the data on the host, or None if there is none."""
        return np.asarray(self.data[name]) if name in self.data else None

    def label(self, name: str) -> str:
        """Name an entry of the data, for messages."""
        return f"{self.name}[{name!r}]"


Check = Callable[[Given], None]


# --- Declare and call -------------------------------------------------------------------------------------------


def declares(*checks: Check) -> Callable[[Program], Program]:
    """Attach checks to a program, which ``fit`` and ``to_datatree`` call before anything is compiled.

    Checks within a program see traced arrays, of which only shapes are known; these see the values::

        def positive(given):
            if (given.data["time"] <= 0).any():
                raise ValueError("Expected positive times in data, found others. Drop these rows.")

        @declares(positive, truth("y", categories="ai_logits"))
        def model(x, time, y=None): ...

    Checks are found through ``functools.partial``, handlers and ``functools.wraps``.

    Parameters
    ----------
    *checks : callable
        Functions of a :class:`Given`, which raise a ValueError.

    Returns
    -------
    callable
        A decorator, which returns the program itself.
    """

    def attach(program: Program) -> Program:
        setattr(program, DECLARED, checks)
        return program

    return attach


def check_declared(program: Callable, given: Given) -> None:
    """Call the checks that a program declares.

    Parameters
    ----------
    program : callable
        The program.
    given : Given
        Its data and arguments.

    Raises
    ------
    ValueError
        If a check does not hold.
    """
    for check in declared_checks(program):
        check(given)


def declared_checks(program: Callable) -> tuple[Check, ...]:
    """Return the checks that a program declares, or the program that it wraps, for another program to declare them."""
    return next((getattr(p, DECLARED) for p in _inwards(program) if hasattr(p, DECLARED)), ())


def _inwards(program: Any) -> Iterator[Any]:
    """Yield a program, then the one that it wraps, and so on."""
    while program is not None:
        yield program
        inner = program.func if isinstance(program, partial) else getattr(program, "fn", None)
        program = getattr(program, "__wrapped__", None) if inner is None else inner


# --- Checks of data ---------------------------------------------------------------------------------------------


def labels(name: str, categories: str | None = None, shape: tuple[int | str, ...] | None = None) -> Check:
    """Check an entry of the data as labels: integers, -1 where missing.

    Parameters
    ----------
    name : str
        Name of the entry, which may be left out of the data.
    categories : str, optional
        Deterministic site whose last axis is that of the categories.
    shape : tuple of int or str, optional
        Shape of the entry; a letter stands for any length, such as ``("N", "M")``.

    Returns
    -------
    callable
        The check.
    """

    def check(given: Given) -> None:
        array = given.array(name)
        if array is not None:
            site = given.outputs.get(categories) if categories else None
            check_labels(given.label(name), array, shape, None if site is None else site.shape[-1])

    return check


@dataclasses.dataclass(frozen=True)
class Truth:
    """Check of an entry of the data as truth, shape (N,), of which a program needs some; made by :func:`truth`."""

    name: str
    categories: str | None

    def __call__(self, given: Given) -> None:
        """Refuse labels that are none, and truth that is unknown everywhere."""
        labels(self.name, self.categories, ("N",))(given)
        array = given.array(self.name)
        if array is not None and (array < 0).all():
            raise ValueError(
                f"Expected some truth in {given.label(self.name)}, found none. Add labels, or fit crowd_l2d, which "
                "infers the truth from what people say: without truth, this program can judge nobody."
            )


def truth(name: str = "y", categories: str | None = None) -> Check:
    """Check an entry of the data as truth, shape (N,): labels of which some are known; see :func:`labels`."""
    return Truth(name, categories)


def needs_truth(program: Callable) -> bool:
    """Whether a program declares that it learns from known truth only."""
    return any(isinstance(check, Truth) for check in declared_checks(program))


def votes(name: str = "votes", categories: str | None = None) -> Check:
    """Check an entry of the data as votes: labels of which some are there; see :func:`labels`."""

    def check(given: Given) -> None:
        labels(name, categories)(given)
        array = given.array(name)
        if array is not None and (array < 0).all():
            raise ValueError(
                f"Expected some votes in {given.label(name)}, found only -1. Check how missing votes are coded."
            )

    return check


def vote_counts(name: str = "counts") -> Check:
    """Check an entry of the data as numbers of votes for each category."""

    def check(given: Given) -> None:
        array = given.array(name)
        if array is not None:
            _check_counts(given.label(name), array)

    return check


def _check_counts(label: str, array: np.ndarray) -> None:
    if not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"Expected integer counts in {label}, found {array.dtype}. Count votes; do not pass shares.")
    if array.ndim != 2 or array.min() < 0:
        found = f"shape {array.shape}" if array.ndim != 2 else f"a count of {array.min()}"
        raise ValueError(f"Expected counts of votes, (N, C) and not negative, in {label}, found {found}.")
    if not array.any():
        raise ValueError(f"Expected some votes in {label}, found counts of zero only.")


# --- Checks of arguments ----------------------------------------------------------------------------------------


def concentration(name: str = "alpha") -> Check:
    """Check an argument as the concentration of a Dirichlet."""

    def check(given: Given) -> None:
        if name in given.arguments:
            alphas = np.concatenate([leaf.ravel() for leaf in _leaves(given.arguments[name])])
            check_concentration(alphas, alphas.size)

    return check


def indices(name: str, below: str) -> Check:
    """Check an entry of the data as indices of people, who are the last axis of the argument ``below``."""

    def check(given: Given) -> None:
        array, of_people = given.array(name), _leaves(given.arguments.get(below))
        if array is None:
            return
        number = min((leaf.shape[-1] for leaf in of_people), default=np.inf)
        if not np.issubdtype(array.dtype, np.integer) or (array.size and not 0 <= array.min() <= array.max() < number):
            found = array.dtype if not np.issubdtype(array.dtype, np.integer) else f"{array.min()} to {array.max()}"
            raise ValueError(
                f"Expected indices of people in {given.label(name)}, from 0 and below {number}, the number of people "
                f"in {below}, found {found}. Mark missing annotations by -1 in annotations, and by any person here."
            )

    return check


def memberships(name: str = "membership") -> Check:
    """Check an argument as memberships of people in clusters, or draws of them."""

    def check(given: Given) -> None:
        for leaf in _leaves(given.arguments.get(name)):
            for each in leaf if leaf.ndim == 4 else [leaf]:  # draws, of runs
                check_membership(each, may_be_empty=False)

    return check


def _leaves(argument: Any) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(argument)]
