"""NumPyro's enumeration, adapted for use inside a guide: nested, and with every dimension named."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpyro
from numpyro.contrib.funsor import enum
from numpyro.contrib.funsor import trace as packed_trace
from numpyro.handlers import trace as plain_trace
from numpyro.primitives import Messenger

from pl2d_ppl.engine._numpyro import enumerated_plates, given_masks, own_dimensions

__all__ = ["Limits", "NamedTrace", "enumeration"]


@contextmanager
def enumeration(max_plate_nesting: int) -> Iterator[None]:
    """Enumerate discrete sites to the left of the plates' dimensions, and read log-probabilities off the simplex.

    Validation is off because mean field replaces u by exp(E[ln u]) of a Dirichlet, which does not sum to one.
    """
    with (
        own_dimensions(),
        enumerated_plates(),
        given_masks(),
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
