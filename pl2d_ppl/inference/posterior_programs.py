"""The programs of a posterior, compiled: draws and marginals of a guide's sites and of those that it sums out."""

import copy
import dataclasses
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpyro
from jax import Array
from numpyro.handlers import block, seed, substitute
from numpyro.handlers import trace as plain_trace
from numpyro.primitives import Messenger

from pl2d_ppl.engine.enumeration import Dimensions, Enumerate
from pl2d_ppl.engine.factors import LatentSite
from pl2d_ppl.engine.program import Program, read_program
from pl2d_ppl.engine.workload import workload
from pl2d_ppl.inference.chunks import smallest_integer
from pl2d_ppl.inference.compiled import CompiledFit
from pl2d_ppl.inference.conditionals import Kept
from pl2d_ppl.inference.evidence import log_evidence_of_items
from pl2d_ppl.networks import evaluation

__all__ = [
    "Dims",
    "Facts",
    "PosteriorPrograms",
    "SiteShape",
    "bounds_of",
    "dims_of_deterministic",
    "dims_of_sample",
    "posterior_programs",
]

Dims = tuple[str | None, ...]  # a plate for every axis, or None where it is in none


class SiteShape(NamedTuple):
    """Facts about a latent site that are not arrays; its plates with their sizes, outermost first."""

    plates: tuple[tuple[str, int], ...]
    size: int
    kind: str


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Facts:
    """Results of a trace that are not arrays.

    Attributes
    ----------
    dims : tuple of (str, tuple of str or None)
        Names of the axes of every result.
    lengths : tuple of (str, int)
        Lengths of the plates.
    sites : tuple of (str, SiteShape)
        The items' sites.
    left_out : str
        The reason for a missing log likelihood.
    divisible : bool
        Whether items do not depend on each other, so that chunks of them give what all together would.
    """

    dims: tuple[tuple[str, Dims], ...] = ()
    lengths: tuple[tuple[str, int], ...] = ()
    sites: tuple[tuple[str, SiteShape], ...] = ()
    left_out: str = ""
    divisible: bool = True


class PosteriorPrograms:
    """Draws and marginals of a guide's sites and of those that it sums out; compiled once for all bounds."""

    def __init__(self, compiled: CompiledFit):
        self.compiled, self.model = compiled, compiled.model
        self.weights, self.outputs = jax.jit(self._weights), jax.jit(self._outputs)
        self.rows, self.projected = jax.jit(self._rows), jax.jit(self._projected)
        self.items = jax.jit(self._items, static_argnums=0)

    def sites_of_weights(self, *arguments: Any) -> tuple[tuple[str, Dims], ...]:
        """Continuous sites of the guide, with the names of their axes."""

        def traced(*arguments: Any) -> Facts:
            sites = self._continuous(*arguments)
            return Facts(dims=tuple((name, dims_of_sample(site)) for name, site in sites.items()))

        return jax.eval_shape(traced, *arguments).dims

    def _continuous(self, leaves: tuple, params: dict, data: dict, key: Array, index: Array | None) -> dict[str, dict]:
        """Draw the continuous sites of the guide, except those of mean field."""
        guide = self.compiled.guide(leaves)
        with evaluation(), self.compiled.seen(data, index):
            seeded = seed(substitute(guide, data=params), key)
            tr = plain_trace(seeded).get_trace(**self.compiled.call(leaves, data))
        return {name: site for name, site in tr.items() if _is_continuous(site)}

    def _weights(
        self, leaves: tuple, params: dict, data: dict, keys: Array, index: Array | None = None
    ) -> dict[str, Array]:
        """Draw the continuous sites of the guide; shape (S, ...)."""

        def draw(key: Array) -> dict[str, Array]:
            return {n: s["value"] for n, s in self._continuous(leaves, params, data, key, index).items()}

        return jax.lax.map(draw, keys)

    def _read(self, given: dict, data: dict, values: dict) -> Program:
        # The key builds networks whose weights are then replaced.
        return read_program(seed(substitute(self.model, data=given), jax.random.key(0)), (), data, values)

    def _outputs(
        self, leaves: tuple, params: dict, values: dict, data: dict, index: Array | None
    ) -> tuple[dict[str, Array], Facts]:
        """Deterministic sites that no latent site of the items decides, such as logits of the trained networks."""
        with evaluation(), self.compiled.seen(data, index), plain_trace() as tr:
            self._read({**params, **values}, self.compiled.call(leaves, data), {})
        sites = {n: s for n, s in tr.items() if s["type"] == "deterministic"}
        lengths = tuple((n, len(s["value"])) for n, s in tr.items() if s["type"] == "plate")
        dims = tuple((n, dims_of_deterministic(s)) for n, s in sites.items())
        facts = Facts(dims, lengths, divisible=not _has_params(tr, self.compiled.plate, index))
        return {n: jnp.asarray(s["value"]) for n, s in sites.items()}, facts

    def _traced_guide(self, leaves: tuple, given: dict, data: dict, dimensions: Dimensions) -> tuple[dict, list]:
        """Trace the guide without its bounds, under enumeration; return the bounds, too."""
        guide, bounds = _unbounded(self.compiled.guide(leaves))
        seeded = seed(substitute(guide, data=given), jax.random.key(0))
        return dict(plain_trace(Enumerate(seeded, dimensions)).get_trace(**data)), bounds

    def _rows(
        self, leaves: tuple, params: dict, values: dict, outputs: dict, data: dict, index: Array | None
    ) -> dict[str, tuple[Array, Array]]:
        """Marginals of bounded sites before they are projected, shape (n, rows, values), and which rows count."""
        given, seen = {**params, **values, **outputs}, self.compiled.seen(data, index)
        found = {}
        with evaluation(), seen, numpyro.validation_enabled(False):
            guide, bounds = self._traced_guide(leaves, given, self.compiled.call(leaves, data), Dimensions())
            for handler in bounds:
                log_q, counted, _ = handler.read(guide[handler.site])
                counted = jnp.broadcast_to(counted, log_q.shape[:-1])
                axis = self._axis_of_items(guide[handler.site])
                log_q, counted = (jnp.moveaxis(a, counted.ndim + axis, 0) for a in (log_q, counted))
                counted = counted.reshape(len(counted), -1)
                found[handler.site] = log_q.reshape(*counted.shape, -1), counted
        return found

    def _axis_of_items(self, site: dict) -> int:
        dims = [f.dim for f in site["cond_indep_stack"] if f.name == self.compiled.plate]
        return dims[0] if dims else min((f.dim for f in site["cond_indep_stack"]), default=-1)

    def _projected(
        self, leaves: tuple, rows: dict[str, Array], counted: dict[str, Array]
    ) -> dict[str, dict[str, Array]]:
        """Project the marginals of bounded sites over all items."""
        found = {}
        for handler in _unbounded(self.compiled.guide(leaves))[1]:
            log_q = rows[handler.site]
            projection = handler.project(log_q.reshape(-1, log_q.shape[-1]), counted[handler.site].ravel())
            bounds = {"lower": handler.lower, "upper": handler.upper}
            found[handler.site] = {n: getattr(projection, n) for n in ("multipliers", "mean", "violation")} | bounds
        return found

    def _items(
        self,
        left_out: str,
        leaves: tuple,
        params: dict,
        values: dict,
        outputs: dict,
        multipliers: dict,
        data: dict,
        keys: Array,
        index: Array | None,
    ) -> tuple[dict, dict, dict, Facts]:
        """Return draws of the items' sites, one per key; ln evidence of every item; and marginals.

        The draws share the E-step. Networks are in the trace, but are not evaluated: their outputs are given, so that
        no result depends on them.
        """
        given, plate = {**params, **values, **outputs}, self.compiled.plate
        seen = self.compiled.seen(data, index)
        data = self.compiled.call(leaves, data)
        dimensions = Dimensions()
        late: dict[str, Dims] = {}
        with evaluation(), seen, numpyro.validation_enabled(False):
            guide, bounds = self._traced_guide(leaves, given, data, dimensions)
            for handler in bounds:
                site = guide[handler.site]
                guide[handler.site] = {**site, "fn": handler.shifted(site, multipliers[handler.site])}
            program = self._read(given, data, values)
            own = Kept(guide, dimensions)
            everything = own if own.means else own.given(program)

            def draw(key: Array) -> dict[str, Array]:
                mean_key, own_key = jax.random.split(key)
                means = own.draw_means(mean_key) if own.means else {}
                drawn = everything.draw(own_key, {})
                kept = own.given(self._read(given, data, {**values, **means})) if own.means else everything
                drawn = kept.draw(own_key, drawn)
                decided = self._decided({**given, **means, **drawn}, data, outputs)
                late.update({n: dims_of_deterministic(s) for n, s in decided.items()})
                sites = {**kept.sites, **own.means}
                return _stored({**drawn, **means}, sites) | {n: jnp.asarray(s["value"]) for n, s in decided.items()}

            draws = jax.lax.map(draw, keys)
            evidence: Mapping[str, tuple[Dims, Array]] = {}
            if not left_out:
                evidence, left_out = log_evidence_of_items(program.factors, program.latents, values, plate)
        sites = {**own.sites, **own.means, **program.latents}
        dims = {n: (*s.plates, *[None] * (s.kind == "dirichlet")) for n, s in sites.items()}
        dims |= late | {n: d for n, (d, _) in evidence.items()}
        facts = Facts(
            dims=tuple(dims.items()),
            sites=tuple((n, SiteShape(tuple(s.plates.items()), s.size, s.kind)) for n, s in sites.items()),
            left_out=left_out,
            divisible=all(plate in s.plates for s in sites.values()) and not _has_params(guide, plate, index),
        )
        return draws, {n: a for n, (_, a) in evidence.items()}, everything.marginals(), facts

    def _decided(self, values: dict, data: dict, outputs: dict) -> dict[str, dict]:
        """Deterministic sites that draws of the items' sites decide."""
        with block(), plain_trace() as tr:
            seed(substitute(self.model, data=values), jax.random.key(0))(**data)
        return {n: s for n, s in tr.items() if s["type"] == "deterministic" and n not in outputs}


@lru_cache(maxsize=64)
def posterior_programs(compiled: CompiledFit) -> PosteriorPrograms:
    """Return the programs of the posterior of a fit; the same ones for the same fit."""
    return PosteriorPrograms(compiled)


def bounds_of(guide: Any) -> list[workload]:
    """Return the bounds of a guide, the innermost first."""
    return _unbounded(guide)[1]


def _unbounded(guide: Any) -> tuple[Callable, list[workload]]:
    """Return the guide without its bounds, and these."""
    if not isinstance(guide, Messenger):
        return guide, []
    inner, bounds = _unbounded(guide.fn)
    if isinstance(guide, workload):
        return inner, [*bounds, guide]
    guide = copy.copy(guide)
    guide.fn = inner
    return guide, bounds


def _has_params(sites: Mapping[str, dict], plate: str | None, index: Array | None) -> bool:
    """Whether there are parameters of single items, without the rows of the data that the items are."""
    return index is None and any(s["type"] == "param" and plate in _plates_of(s) for s in sites.values())


def _stored(values: Mapping[str, Array], sites: Mapping[str, LatentSite]) -> dict[str, Array]:
    """Drop the batch dimensions of draws that belong to no plate; take the smallest type of integers."""
    found = {}
    for name, array in values.items():
        site = sites[name]
        array = array.reshape(*site.plates.values(), *array.shape[len(site.shape) :])
        counts = site.kind == "discrete" and site.support is None
        found[name] = array.astype(smallest_integer(site.size)) if counts else array
    return found


def _is_continuous(site: dict) -> bool:
    """Whether a guide's site is drawn before the items' sites, which may depend on it."""
    latent = site["type"] == "sample" and not site["is_observed"] and not site["fn"].has_enumerate_support
    return latent and not any(site["infer"].get(flag) for flag in ("is_auxiliary", "log_mean"))


def _plates_of(site: Mapping[str, Any]) -> list[str]:
    return [f.name for f in site.get("cond_indep_stack", ())]


def dims_of_sample(site: dict) -> Dims:
    """Name the axes of a continuous site: plates, "" for a dimension of length one in no plate, None for any other."""
    event, shape = site["fn"].event_dim, jnp.shape(site["value"])
    frames = {f.dim - event: f for f in site["cond_indep_stack"]}
    plates = {d: f.name for d, f in frames.items() if -d <= len(shape) and shape[d] == f.size}
    return tuple(plates.get(d, "" if d < -event and shape[d] == 1 else None) for d in range(-len(shape), 0))


def dims_of_deterministic(site: dict) -> Dims:
    """Name the axes of a deterministic site by the plates that it is in, where lengths agree."""
    shape = jnp.shape(site["value"])
    frames = {f.dim: f for f in site.get("cond_indep_stack", ())}
    axes = range(-len(shape), 0)
    return tuple(frames[d].name if d in frames and shape[d] == frames[d].size else None for d in axes)
