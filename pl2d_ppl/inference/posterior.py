"""Draws and marginals of a fitted posterior, items and network weights alike."""

import copy
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from jax import Array
from numpyro.handlers import seed, substitute
from numpyro.handlers import trace as plain_trace
from numpyro.primitives import Messenger

from pl2d_ppl.checks.declared import Given, check_declared
from pl2d_ppl.engine.elimination import Conditional, eliminate, expectation, with_parents
from pl2d_ppl.engine.enumeration import Dimensions, Enumerate, is_latent
from pl2d_ppl.engine.factors import ONE, Factor, LatentSite, latent_site, site_factor
from pl2d_ppl.engine.guide_tools import logits_at
from pl2d_ppl.engine.named import Named, aligned, named_einsum
from pl2d_ppl.engine.program import Program, read_program
from pl2d_ppl.engine.workload import workload
from pl2d_ppl.inference.compiled import CompiledFit
from pl2d_ppl.inference.result import FitResult
from pl2d_ppl.networks import evaluation

__all__ = ["Found", "SiteShape", "draw_continuous", "draw_posterior"]


class SiteShape(NamedTuple):
    """Facts about a latent site that are not arrays; its plates with their sizes, outermost first."""

    plates: tuple[tuple[str, int], ...]
    size: int
    kind: str


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class _Facts:
    """Results of a trace that are not arrays: the sites, and the reason for a missing log likelihood."""

    sites: tuple[tuple[str, SiteShape], ...]
    left_out: str


class Found(NamedTuple):
    """Results of inference; draws have a leading axis of length S."""

    draws: dict[str, Array]
    probs: dict[str, Array]
    outputs: dict[str, Array]
    workload: dict[str, Array]
    evidence: dict[str, Array]
    weights: dict[str, Array]
    sites: dict[str, SiteShape]
    left_out: str


class _Inference:
    """Draws and marginals of a guide's sites and of those that it sums out; compiled once for all bounds."""

    def __init__(self, compiled: CompiledFit):
        self.compiled, self.model = compiled, compiled.model
        self.weights, self.outputs = jax.jit(self._weights), jax.jit(self._outputs)
        self.items = jax.jit(self._items, static_argnums=0)
        self._of_items = False  # whether continuous sites of single items are drawn, as the trace of the guide shows

    def run(
        self,
        rng_key: Array,
        result: FitResult,
        data: dict[str, Array],
        num_samples: int,
        batch_size: int,
        index: Array | None = None,
    ) -> Found:
        """Draw weights, where they have a posterior; then draw everything else once for every draw of the weights."""
        leaves, params = result.leaves, result.params
        weight_key, item_key = jax.random.split(rng_key)
        has_weights = jax.eval_shape(self._weights, leaves, params, data, weight_key[None], index)
        weight_keys = jax.random.split(weight_key, num_samples)
        weights = self.weights(leaves, params, data, weight_keys, index) if has_weights else {}
        if self._of_items:  # their draws are not cut into chunks
            batch_size = len(next(iter(data.values())))
        keys = jax.random.split(item_key, num_samples)
        keys = keys[:, None] if weights else keys[None]
        left_out = _why_no_evidence(weights, bool(_over_all(result.guide)[1]))
        draws: list[dict] = []
        likelihood: list[dict] = []
        sums: Any = None
        for i, group in enumerate(keys):
            values = {name: a[i] for name, a in weights.items()}
            outputs = self._by_chunks(leaves, params, values, data, batch_size)
            if i == 0:
                check_declared(self.model, Given("data", data, outputs=outputs))
            drawn, local, rest, facts = self.items(left_out, leaves, params, values, outputs, data, group, index)
            draws.append(drawn)
            likelihood.append(local)
            means = rest, {n.replace("_logits", "_probs"): jax.nn.softmax(a, -1) for n, a in outputs.items()}
            sums = means if sums is None else jax.tree.map(jnp.add, sums, means)
        (probs, bounded), shown = jax.tree.map(lambda a: a / len(keys), sums)
        stacked = {n: jnp.concatenate([d[n] for d in draws]) for n in draws[0]}
        evidence = {n: jnp.stack([e[n] for e in likelihood]) for n in likelihood[0]}
        return Found(stacked, probs, shown, bounded, evidence, weights, dict(facts.sites), facts.left_out)

    def _by_chunks(
        self, leaves: tuple, params: dict, values: dict, data: dict[str, Array], batch_size: int
    ) -> dict[str, Array]:
        num_items = len(next(iter(data.values())))
        starts = range(0, num_items, batch_size)
        chunks = [
            self.outputs(leaves, params, values, {n: a[i : i + batch_size] for n, a in data.items()}) for i in starts
        ]
        return {n: jnp.concatenate([c[n] for c in chunks]) for n in chunks[0]}

    def _weights(
        self, leaves: tuple, params: dict, data: dict, keys: Array, index: Array | None = None
    ) -> dict[str, Array]:
        """Draw the continuous sites of the guide, except those of mean field; shape (S, ...)."""
        guide = self.compiled.guide(leaves)

        def draw(key: Array) -> dict[str, Array]:
            with evaluation(), self.compiled.seen(data, index):
                seeded = seed(substitute(guide, data=params), key)
                tr = plain_trace(seeded).get_trace(**self.compiled.call(leaves, data))
            plate = self.compiled.plate
            self._of_items = any(
                plate in (f.name for f in s["cond_indep_stack"]) for s in tr.values() if _is_continuous(s)
            )
            return {name: site["value"] for name, site in tr.items() if _is_continuous(site)}

        return jax.lax.map(draw, keys)

    def _read(self, given: dict, data: dict, values: dict) -> Program:
        # The key builds networks whose weights are then replaced.
        return read_program(seed(substitute(self.model, data=given), jax.random.key(0)), (), data, values)

    def _outputs(self, leaves: tuple, params: dict, values: dict, data: dict) -> dict[str, Array]:
        """Logits of the trained networks."""
        with evaluation(), self.compiled.seen(data, None), plain_trace() as tr:
            self._read({**params, **values}, self.compiled.call(leaves, data), {})
        return {n: s["value"] for n, s in tr.items() if s["type"] == "deterministic" and n.endswith("_logits")}

    def _items(
        self,
        left_out: str,
        leaves: tuple,
        params: dict,
        values: dict,
        outputs: dict,
        data: dict,
        keys: Array,
        index: Array | None,
    ) -> tuple[dict, dict, tuple, _Facts]:
        """Return draws of the items' sites, one per key; ln evidence of every item; marginals and workload.

        The draws share the E-step. Networks are in the trace, but are not evaluated: their outputs are given, so that
        no result depends on them.
        """
        given = {**params, **values, **outputs}
        seen = self.compiled.seen(data, index)
        data = self.compiled.call(leaves, data)
        program_guide, bounds = _over_all(self.compiled.guide(leaves))
        dimensions = Dimensions()
        with evaluation(), seen, numpyro.validation_enabled(False):
            seeded = seed(substitute(program_guide, data=given), jax.random.key(0))
            guide = plain_trace(Enumerate(seeded, dimensions)).get_trace(**data)
            program = self._read(given, data, values)
            own = _Kept(guide, dimensions)
            everything = own if own.means else own.given(program)

            def draw(key: Array) -> dict[str, Array]:
                mean_key, own_key = jax.random.split(key)
                means = own.draw_means(mean_key) if own.means else {}
                drawn = everything.draw(own_key, {})
                kept = own.given(self._read(given, data, {**values, **means})) if own.means else everything
                return _by_plates(kept.draw(own_key, drawn), kept.sites) | _by_plates(means, own.means)

            draws = jax.lax.map(draw, keys)
            factors, latents = program.factors, program.latents
            if not left_out:
                evidence, left_out = _log_evidence(factors, latents, values, self.compiled.plate)
            else:
                evidence = {}
        sites = {**own.sites, **own.means, **latents}
        facts = tuple((n, SiteShape(tuple(s.plates.items()), s.size, s.kind)) for n, s in sites.items())
        return draws, evidence, (everything.marginals(), _bounds(guide, bounds)), _Facts(facts, left_out)


@lru_cache(maxsize=64)
def _inference(compiled: CompiledFit) -> _Inference:
    return _Inference(compiled)


def draw_posterior(
    rng_key: Array,
    result: FitResult,
    data: dict[str, Array],
    num_samples: int,
    batch_size: int,
    index: Array | None = None,
) -> Found:
    """Draws, marginals, network outputs and workload of a fit of one run.

    Parameters
    ----------
    rng_key : Array
        A typed key.
    result : FitResult
        The fit.
    data : dict of str to Array, shape (N, ...)
        Items.
    num_samples : int
        Number of draws, S.
    batch_size : int
        Number of items passed through the networks at a time.
    index : Array, optional
        Rows of the training data that the items are.

    Returns
    -------
    Found
        Everything, without labels.
    """
    return _inference(result.compiled).run(rng_key, result, data, num_samples, batch_size, index)


def draw_continuous(rng_key: Array, result: FitResult, num_samples: int) -> dict[str, Array]:
    """Draws of the continuous sites of a guide that items share; compiled once for a fit's programs.

    Parameters
    ----------
    rng_key : Array
        A typed key.
    result : FitResult
        The fit, of one run.
    num_samples : int
        Number of draws, S.

    Returns
    -------
    dict of str to Array, shape (S, ...)
        The draws, by site.
    """
    batch = {name: jnp.zeros(a.shape, a.dtype) for name, a in result.example.items()}  # the values do not matter
    keys = jax.random.split(rng_key, num_samples)
    return _inference(result.compiled).weights(result.leaves, result.params, batch, keys)


def _why_no_evidence(weights: dict[str, Array], bounded: bool) -> str:
    if not any(len(a) == 1 or np.ptp(a, axis=0).any() for a in weights.values()):
        return "The parameters that items share are point estimates: there are no draws of them to weigh."
    if len(next(iter(weights.values()))) == 1:
        return "There is one draw of the parameters that items share: nothing to weigh. Raise num_samples."
    if bounded:
        return "Under a workload the draws are of a posterior under constraints, through which items depend."
    return ""


def _log_evidence(
    factors: list[Factor], latents: Mapping[str, LatentSite], values: dict, plate: str | None
) -> tuple[dict[str, Array], str]:
    """Return the log evidence of every item given the values, shape (N,), or the reason why it would be incomplete."""
    others = [n for n, site in latents.items() if site.kind != "discrete"]
    own = eliminate(factors, latents).factors if not others else []
    priors = [f.name for f in own if f.name in values and plate not in f.plates]
    others += [f.name for f in own if f.name not in priors and (f.name in values or plate not in f.plates)]
    if others:
        return {}, f"Sites {others} are continuous in an item, or items share them, observed or discrete."
    of_items = [_over_other_plates(factor, plate) for factor in own if factor.name not in priors]
    if not of_items:
        return {}, "Nothing is observed of an item."
    return {"log_evidence": sum(of_items[1:], start=of_items[0])}, ""


def _bounds(guide: Mapping[str, dict], bounds: Sequence[workload]) -> dict[str, Array]:
    found = {}
    for handler in bounds:
        for name in ("multipliers", "mean", "violation"):
            found[f"{handler.site}_{name}"] = guide[f"{handler.site}_{name}"]["value"]
        found |= {f"{handler.site}_lower": handler.lower, f"{handler.site}_upper": handler.upper}
    return found


def _over_all(guide: Any) -> tuple[Callable, list[workload]]:
    """Return the guide with bounds over the items at hand only, and its bounds."""
    if not isinstance(guide, Messenger):
        return guide, []
    inner, bounded = _over_all(guide.fn)
    guide = copy.copy(guide)
    guide.fn = inner
    if isinstance(guide, workload):
        guide.window = None
        bounded = [*bounded, guide]
    return guide, bounded


def _is_continuous(site: dict) -> bool:
    """Whether a guide's site is drawn before the items' sites, which may depend on it."""
    latent = site["type"] == "sample" and not site["is_observed"] and not site["fn"].has_enumerate_support
    return latent and not any(site["infer"].get(flag) for flag in ("is_auxiliary", "log_mean"))


class _Kept:
    """Conditionals of discrete sites, the parents first, and Dirichlet factors of a mean field."""

    def __init__(self, guide: Mapping[str, dict], dimensions: Dimensions):
        self.sites: dict[str, LatentSite] = {}
        self.means: dict[str, LatentSite] = {}
        self.conditionals: dict[str, Conditional] = {}
        for name, traced in guide.items():
            if not is_latent(traced):
                continue
            if traced["infer"].get("log_mean"):
                self.means[name] = latent_site(traced, dimensions)
            elif "support" in traced:
                table = site_factor(traced, dimensions).log_prob
                dims = (*(d for d in table.dims if d != name), name)
                self.add(latent_site(traced, dimensions), Conditional(Named(dims, aligned(table, dims)), {}))

    def add(self, site: LatentSite, conditional: Conditional) -> None:
        """Add a site that depends only on those before it."""
        self.sites[site.name], self.conditionals[site.name] = site, conditional

    def given(self, program: Program) -> "_Kept":
        """Return these sites, and those of the program that they sum out: each given the sites before it."""
        everything = copy.copy(self)
        everything.sites, everything.conditionals = dict(self.sites), dict(self.conditionals)
        left = {n: s for n, s in program.latents.items() if n not in self.sites and n not in self.means}
        found = eliminate(program.factors, left).conditionals
        for name in reversed(found):
            everything.add(left[name], found[name])
        return everything

    def draw(self, key: Array, drawn: Mapping[str, Array]) -> dict[str, Array]:
        """Draw the sites that are not drawn yet, one after the other; shape by position."""
        values = dict(drawn)
        for name, site in self.sites.items():
            key, own_key = jax.random.split(key)
            if name not in values:
                logits = logits_at(self.conditionals[name], site, self.sites, values)
                logits = jnp.broadcast_to(logits, (*site.shape, site.size))
                values[name] = site.value_at(jax.random.categorical(own_key, logits))
        return values

    def draw_means(self, key: Array) -> dict[str, Array]:
        """Draw the Dirichlet sites."""
        keys = jax.random.split(key, len(self.means))
        pairs = zip(keys, self.means.items(), strict=True)
        return {name: site.fn.expand(site.shape).sample(k) for k, (name, site) in pairs}

    def marginals(self) -> dict[str, Array]:
        """Probabilities, shape (plates ..., values)."""
        q: dict[str, Named] = {}
        for name, (table, branches) in self.conditionals.items():
            q |= {b: Named((*m.dims, b), jnp.stack([~m.data, m.data], -1).astype(float)) for b, m in branches.items()}
            q[name] = table._replace(data=jnp.exp(table.data))
        return {
            name: self._marginal(site, [q[m] for m in with_parents([name], q)]) for name, site in self.sites.items()
        }

    def _marginal(self, site: LatentSite, tables: Sequence[Named]) -> Array:
        present = {d for t in tables for d in t.dims}
        keep = tuple(d for d in site.dims if d in present)
        return jnp.broadcast_to(
            aligned(Named(keep, named_einsum(tables, keep)), site.dims), (*site.plates.values(), site.size)
        )


def _by_plates(values: Mapping[str, Array], sites: Mapping[str, LatentSite]) -> dict[str, Array]:
    """Drop the batch dimensions of draws that belong to no plate."""
    return {n: a.reshape(*sites[n].plates.values(), *a.shape[len(sites[n].shape) :]) for n, a in values.items()}


def _over_other_plates(factor: Factor, plate: str | None) -> Array:
    """Sum a factor over all plates except that of the items, without the weight of its part of the data; shape (N,)."""
    assert plate is not None
    return expectation(factor._replace(scale=ONE), {}, [plate])
