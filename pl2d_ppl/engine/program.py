"""Programs whose networks have been evaluated, and their factors: the inputs of an E-step."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
from jax import Array
from numpyro.handlers import block, seed, substitute
from numpyro.handlers import trace as plain_trace
from numpyro.primitives import Messenger

from pl2d_ppl.engine.enumeration import Limits, NamedTrace, enumeration
from pl2d_ppl.engine.factors import (
    Factor,
    LatentSite,
    concentration_of,
    exp_log_mean,
    is_dirichlet,
    latent_site,
    log_mean,
    site_factor,
)
from pl2d_ppl.networks import MODE_MESSAGE

__all__ = ["FactorGraph", "FrozenProgram", "PlateInfo", "freeze", "trace_factors"]


class PlateInfo(NamedTuple):
    """Arguments of a plate statement, and the indices that it drew."""

    size: int
    subsample_size: int
    dim: int
    indices: Array


class FrozenProgram(NamedTuple):
    """A program whose networks have been evaluated: running it again does not evaluate them again.

    Attributes
    ----------
    model : callable
        The program with parameters, plates, given values and network outputs substituted, detached from gradients.
    args, kwargs : tuple, dict
        Arguments of the program.
    plates : dict of str to PlateInfo
        Its plates.
    max_plate_nesting : int
        Number of batch dimensions that plates may use.
    """

    model: Callable
    args: tuple
    kwargs: dict
    plates: dict[str, PlateInfo]
    max_plate_nesting: int


class FactorGraph(NamedTuple):
    """Factors of all sample sites, and the latent sites that they depend on, in program order."""

    factors: list[Factor]
    latents: dict[str, LatentSite]


def freeze(
    model: Callable,
    args: tuple,
    kwargs: dict,
    values: Mapping[str, Array] | None = None,
    max_plate_nesting: int = 2,
    detach: bool = True,
) -> FrozenProgram:
    """Evaluate a program's networks once, and return a program that reuses their outputs.

    Parameters, mutable state, plates and the deterministic sites that come before the first latent site remain
    visible to the handlers outside, so that a guide which calls this function registers them as its own. A later
    deterministic site may depend on a latent value, and is evaluated each time: declare network outputs first.

    Parameters
    ----------
    model : callable
        A NumPyro program.
    args, kwargs : tuple, dict
        Arguments of the program.
    values : mapping of str to Array, optional
        Values of latent sites that are conditioned on, such as network weights drawn by another guide.
    max_plate_nesting : int
        Number of batch dimensions that plates may use.

    detach : bool
        Whether to detach everything from gradients, as for an E-step.

    Returns
    -------
    FrozenProgram
        Program for :func:`trace_factors`.
    """
    watch = _Watch(values or {})
    with block(hide_fn=watch.hides), plain_trace() as tr, watch, Limits(max_plate_nesting):
        model(*args, **kwargs)
    reused = {
        name: site["value"]
        for name, site in tr.items()
        if site["type"] in ("param", "mutable", "plate") or name in watch.shared
    }
    given = dict(values or {})
    if detach:
        reused, given, args, kwargs = jax.tree.map(_detached, (reused, given, args, kwargs))
    plates = {
        frame.name: _plate_info(tr[frame.name], frame.dim)
        for site in tr.values()
        for frame in site.get("cond_indep_stack", ())
        if frame.name in tr
    }
    return FrozenProgram(substitute(model, data={**reused, **given}), args, kwargs, plates, max_plate_nesting)


def trace_factors(
    program: FrozenProgram,
    values: Mapping[str, Array] | None = None,
    log_means: Mapping[str, Array] | None = None,
    wrap: Callable[[Callable], Callable] | None = None,
) -> FactorGraph:
    """Run a program under enumeration and read off its factors.

    Parameters
    ----------
    program : FrozenProgram
        Program from :func:`freeze`.
    values : mapping of str to Array, optional
        Values of latent sites that are conditioned on.
    log_means : mapping of str to Array, optional
        E[ln u] of Dirichlet sites; by default those of the prior.
    wrap : callable, optional
        A handler to wrap around the program, such as a :class:`~pl2d_ppl.engine.tilt.tilt`.

    Returns
    -------
    FactorGraph
        Factors and latent sites.

    Raises
    ------
    ValueError
        If a latent site is not discrete, Dirichlet or given, or a plate lies outside ``max_plate_nesting``.
    """
    resolved = _Resolve(program.model, values or {}, log_means or {})
    model = wrap(resolved) if wrap else resolved
    with block(), enumeration(program.max_plate_nesting):
        tr = NamedTrace(seed(model, jax.random.key(0))).get_trace(*program.args, **program.kwargs)
        sites = [site for site in tr.values() if site["type"] == "sample"]
        factors = [f for f in map(site_factor, sites) if f is not None]
    handled = [s for s in sites if s["infer"].get("enumerate") == "parallel" or s["infer"].get("dirichlet")]
    return FactorGraph(factors, {s["name"]: latent_site(s) for s in handled if not s["is_observed"]})


class _Watch(Messenger):
    """Set given values, and record which deterministic sites come before the first latent site."""

    def __init__(self, values: Mapping[str, Array]):
        self.values, self.latent_seen = values, False
        self.shared: set[str] = set()
        super().__init__()

    def process_message(self, msg: dict) -> None:
        if msg["type"] == "sample" and not msg["is_observed"]:
            if msg["name"] in self.values:
                msg["value"] = self.values[msg["name"]]
            elif msg["value"] is None:
                self.latent_seen = True
        if msg["type"] == "deterministic" and not self.latent_seen:
            self.shared.add(msg["name"])

    def hides(self, msg: dict) -> bool:
        """Whether a message is hidden from outer handlers."""
        if msg["type"] == "deterministic":
            return msg["name"] not in self.shared
        return msg["type"] not in ("param", "mutable", "plate", "prng_key", MODE_MESSAGE)


class _Resolve(Messenger):
    """Give every latent site a value without sampling: a given one, its support, or a mean parameter."""

    def __init__(self, fn: Callable, values: Mapping[str, Array], log_means: Mapping[str, Array]):
        self.values, self.log_means = values, log_means
        super().__init__(fn)

    def process_message(self, msg: dict) -> None:
        if msg["type"] != "sample" or msg["is_observed"]:
            return
        name, fn = msg["name"], msg["fn"]
        msg["value"] = self.values.get(name, msg["value"])
        msg["infer"] = {**msg["infer"], "enumerate": None}
        if msg["value"] is not None:
            return
        if is_dirichlet(fn):
            means = self.log_means[name] if name in self.log_means else log_mean(concentration_of(fn))
            msg["value"] = exp_log_mean(means)
            msg["infer"]["dirichlet"] = True
        elif fn.has_enumerate_support:
            msg["infer"]["enumerate"] = "parallel"
        else:
            raise ValueError(
                f"Expected discrete or Dirichlet latent sites, found {name!r} ~ {type(fn).__name__} without a value. "
                "Give the guide a guide of the continuous sites: "
                "continuous=normal(model), of pl2d_ppl.guides.normal."
            )


def _plate_info(site: dict, dim: int) -> PlateInfo:
    return PlateInfo(site["args"][0], site["value"].shape[0], dim, site["value"])


def _detached(leaf: Any) -> Any:
    return jax.lax.stop_gradient(leaf) if isinstance(leaf, Array) else leaf
