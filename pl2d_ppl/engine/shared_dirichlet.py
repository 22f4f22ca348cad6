"""Dirichlet sites that mini-batches share: stochastic variational inference with natural parameters as state."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpyro
from jax import Array

from pl2d_ppl.engine.coordinate_ascent import Ascent, MeanField, State
from pl2d_ppl.engine.dirichlet import concentration_of
from pl2d_ppl.engine.factors import LatentSite
from pl2d_ppl.engine.items import items_here
from pl2d_ppl.engine.program import Program
from pl2d_ppl.networks.mode import is_evaluation

__all__ = ["SharedDirichlet", "shared_dirichlets"]


def shared_dirichlets(program: Program, sites: Sequence[str] | None) -> list[str]:
    """Return the Dirichlet sites outside a plate of which each step of the program sees a part."""
    parts = {name for name, plate in program.plates.items() if plate.subsample_size < plate.size}
    which = items_here()
    if which is not None and which.plate is not None and which.in_parts:
        parts.add(which.plate)
    return [
        name
        for name, site in program.latents.items()
        if site.kind == "dirichlet" and parts - set(site.plates) and (sites is None or name in sites)
    ]


class SharedDirichlet(NamedTuple):
    """Steps (t + delay)^-forgetting of a shared concentration (Hoffman et al. 2013, equation 26)."""

    delay: float
    forgetting: float

    def state(self, site: LatentSite, start: Mapping[str, Any] | None) -> dict[str, Array]:
        """Return the mutable state: the concentration, shape (batch shape, components), and the number of steps."""
        shape = (*site.shape, site.size)
        rho = jnp.asarray((start or {}).get(site.name, concentration_of(site.fn)), float)
        first = {"concentration": jnp.broadcast_to(rho, shape), "steps": jnp.zeros(())}
        state = numpyro.primitives.mutable(f"{site.name}_shared", first)
        return dict(first) if state is first else state  # the first run, such as that of SVI.init, is no step

    def step(self, program: Program, q: MeanField, name: str, state: dict[str, Array]) -> Array:
        """Move the concentration towards the optimum of the mini-batch; in evaluation it stays."""
        if is_evaluation():
            return state["concentration"]
        ascent = Ascent(program, list(q.latents))
        log_probs = {n: ascent.sites[n].by_plates(a) for n, a in q.log_probs.items()}
        swept = ascent.sweep(State.of(log_probs, q.concentrations))
        rate = (state["steps"] + self.delay) ** -self.forgetting
        moved = (1.0 - rate) * state["concentration"] + rate * swept.concentrations[name]
        state["concentration"], state["steps"] = moved, state["steps"] + 1.0
        return moved
