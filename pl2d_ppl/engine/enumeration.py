"""NumPyro's enumeration, made fit for use inside a guide: nested, and with every dimension named."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpyro
from numpyro.contrib.funsor import enum, enum_messenger, plate_to_enum_plate
from numpyro.contrib.funsor import trace as packed_trace
from numpyro.distributions import Distribution, MaskedDistribution
from numpyro.handlers import trace as plain_trace
from numpyro.primitives import Messenger

__all__ = ["Limits", "NamedTrace", "enumeration"]


@contextmanager
def enumeration(max_plate_nesting: int) -> Iterator[None]:
    """Enumerate discrete sites to the left of the plates' dimensions, and read log-probabilities off the simplex.

    Validation is off because exp(E[ln u]) of a Dirichlet, which mean field puts in the place of u, does not sum to one.
    """
    with (
        _own_dimensions(),
        enumerated_plates(),
        _narrow_masks(),
        enum(first_available_dim=-1 - max_plate_nesting),
        Limits(max_plate_nesting),
        numpyro.validation_enabled(False),
    ):
        try:
            yield
        except ValueError as error:
            if "Ran out of free dims" not in str(error):
                raise
            raise ValueError(_too_deep(max_plate_nesting, str(error).split()[-1])) from error


@contextmanager
def enumerated_plates() -> Iterator[None]:
    """Make ``numpyro.plate`` known to the enumeration; unlike NumPyro's own context it may be nested."""
    outer = numpyro.plate.__dict__.get("__new__")
    try:
        with plate_to_enum_plate():
            yield
    finally:
        if outer is not None:
            numpyro.plate.__new__ = outer


@contextmanager
def _narrow_masks() -> Iterator[None]:
    """Let masked distributions remember their mask as it was given.

    NumPyro broadcasts it to the batch shape, enumerated dimensions and all, which would make "y through expert m,
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
def _own_dimensions() -> Iterator[None]:
    """Allocate dimensions afresh: a guide traces the model inside an enumeration that has names of its own."""
    stack = enum_messenger._DIM_STACK
    outer = dict(vars(stack))
    vars(stack).update(vars(enum_messenger.DimStack()))
    try:
        yield
    finally:
        vars(stack).update(outer)


class Limits(Messenger):
    """Refuse what the engine cannot enumerate: plates in the dimensions of enumerated sites, and scans."""

    def __init__(self, max_plate_nesting: int):
        self.max_plate_nesting = max_plate_nesting
        super().__init__()

    def process_message(self, msg: dict) -> None:
        """Look at the message before it takes effect."""
        if msg["type"] == "control_flow":
            raise ValueError(
                "Expected a program without control flow, found a scan. The engine does not look into its body: "
                "write the loop out, or put the sites into a plate."
            )
        for frame in msg.get("cond_indep_stack", ()):
            if frame.dim is not None and -frame.dim > self.max_plate_nesting:
                raise ValueError(_too_deep(self.max_plate_nesting, frame.name))


def _too_deep(max_plate_nesting: int, plate: str) -> str:
    return (
        f"Expected plates in the last {max_plate_nesting} dimensions, found plate {plate!r} in one further left. "
        f"Pass max_plate_nesting={max_plate_nesting + 1}, or more, to the guide, and to fit or EnumELBO."
    )


class NamedTrace(packed_trace):
    """A trace that names the dimensions of sample sites, and records every other type of site too."""

    def postprocess_message(self, msg: dict) -> None:
        """Record the message."""
        if msg["type"] == "sample" and msg.get("name") in self.trace:
            raise ValueError(f"Expected every site to have its own name, found {msg['name']!r} twice. Rename one.")
        if msg["type"] in ("sample", "param"):
            super().postprocess_message(msg)
        else:
            plain_trace.postprocess_message(self, msg)
