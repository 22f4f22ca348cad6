"""All private names of NumPyro that the library uses; `tests/engine/test_numpyro.py` fails when one moves."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpyro
from numpyro.contrib.funsor import enum_messenger, plate_to_enum_plate
from numpyro.distributions import Distribution, MaskedDistribution

__all__ = ["enumerated_plates", "given_mask", "given_masks", "own_dimensions"]


@contextmanager
def enumerated_plates() -> Iterator[None]:
    """Make ``numpyro.plate`` known to the enumeration; unlike NumPyro's own context, this one may be nested."""
    outer = numpyro.plate.__dict__.get("__new__")
    try:
        with plate_to_enum_plate():
            yield
    finally:
        if outer is not None:
            numpyro.plate.__new__ = outer


@contextmanager
def given_masks() -> Iterator[None]:
    """Let masked distributions remember their mask as it was given.

    NumPyro broadcasts it to the batch shape, including enumerated dimensions. This would make "y through expert m,
    masked to z == m" quadratic in the number of experts, for every category of t.
    """
    init = MaskedDistribution.__init__

    def remember(self: MaskedDistribution, base_dist: Distribution, mask: Any) -> None:
        self.given_mask = mask  # type: ignore[attr-defined]
        init(self, base_dist, mask)

    MaskedDistribution.__init__ = remember  # type: ignore[method-assign]
    try:
        yield
    finally:
        MaskedDistribution.__init__ = init  # type: ignore[method-assign]


@contextmanager
def own_dimensions() -> Iterator[None]:
    """Allocate dimensions afresh: a guide traces the model inside an enumeration that has its own names."""
    stack = enum_messenger._DIM_STACK
    outer = dict(vars(stack))
    vars(stack).update(vars(enum_messenger.DimStack()))
    try:
        yield
    finally:
        vars(stack).update(outer)


def given_mask(fn: MaskedDistribution) -> Any:
    """Return the mask of a distribution as given, before broadcasting, if :func:`given_masks` recorded it."""
    return getattr(fn, "given_mask", fn._mask)
