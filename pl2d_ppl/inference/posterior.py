"""Draws and marginals of a fitted posterior, items and network weights alike."""

import copy
import dataclasses
import math
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
from pl2d_ppl.engine.elimination import aligned, eliminate, named_einsum, with_parents
from pl2d_ppl.engine.enumeration import NamedTrace, enumeration
from pl2d_ppl.engine.factors import Factor, LatentSite, Named, latent_site, site_factor
from pl2d_ppl.engine.guide_tools import at_values
from pl2d_ppl.engine.marginals import program_marginals
from pl2d_ppl.engine.program import FrozenProgram, freeze, trace_factors
from pl2d_ppl.engine.workload import workload
from pl2d_ppl.inference.compiled import CompiledFit
from pl2d_ppl.inference.result import FitResult
from pl2d_ppl.networks import evaluation

__all__ = ["Found", "SiteShape", "draw_continuous", "draw_posterior"]

ITEM = "item"


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
        self.nesting = compiled.max_plate_nesting
        self.weights, self.outputs = jax.jit(self._weights), jax.jit(self._outputs)
        self.items = jax.jit(self._items, static_argnums=0)

    def run(
        self, rng_key: Array, result: FitResult, data: dict[str, Array], num_samples: int, batch_size: int
    ) -> Found:
        """Draw weights, where they have a posterior; then draw everything else once for every draw of the weights."""
        leaves, params = result.leaves, result.params
        weight_key, item_key = jax.random.split(rng_key)
        has_weights = jax.eval_shape(self._weights, leaves, params, data, weight_key[None])
        weight_keys = jax.random.split(weight_key, num_samples)
        weights = self.weights(leaves, params, data, weight_keys) if has_weights else {}
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
            drawn, local, rest, facts = self.items(left_out, leaves, params, values, outputs, data, group)
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

    def _weights(self, leaves: tuple, params: dict, data: dict, keys: Array) -> dict[str, Array]:
        """Draw the continuous sites of the guide, except those of mean field; shape (S, ...)."""
        guide = self.compiled.guide(leaves)

        def draw(key: Array) -> dict[str, Array]:
            with evaluation():
                seeded = seed(substitute(guide, data=params), key)
                tr = plain_trace(seeded).get_trace(**self.compiled.call(leaves, data))
            return {name: site["value"] for name, site in tr.items() if _is_continuous(site)}

        return jax.lax.map(draw, keys)

    def _frozen(self, given: dict, data: dict) -> FrozenProgram:
        # The key builds networks whose weights are then replaced.
        return freeze(seed(substitute(self.model, data=given), jax.random.key(0)), (), data, None, self.nesting)

    def _outputs(self, leaves: tuple, params: dict, values: dict, data: dict) -> dict[str, Array]:
        """Logits of the trained networks."""
        with evaluation(), plain_trace() as tr:
            self._frozen({**params, **values}, self.compiled.call(leaves, data))
        return {n: s["value"] for n, s in tr.items() if s["type"] == "deterministic" and n.endswith("_logits")}

    def _items(
        self, left_out: str, leaves: tuple, params: dict, values: dict, outputs: dict, data: dict, keys: Array
    ) -> tuple[dict, dict, tuple, _Facts]:
        """Return draws of the items' sites, one per key; ln evidence of every item; marginals and workload.

        The draws share the E-step. Networks are in the trace, but are not evaluated: their outputs are given, so that
        no result depends on them.
        """
        given = {**params, **values, **outputs}
        data = self.compiled.call(leaves, data)
        program_guide, bounds = _over_all(self.compiled.guide(leaves))
        with evaluation(), numpyro.validation_enabled(False):
            with enumeration(self.nesting):
                seeded = seed(substitute(program_guide, data=given), jax.random.key(0))
                guide = NamedTrace(seeded).get_trace(**data)
            program = self._frozen(given, data)
            factors, latents = trace_factors(program, values)
            own = _Kept(guide)
            left = {n: s for n, s in latents.items() if n not in guide}
            left = dict(sorted(left.items(), key=lambda pair: len(pair[1].plates)))
            draws = jax.lax.map(lambda key: _draw(key, own, left, program, values), keys)
            probs = own.marginals()
            if not own.means:
                probs |= {n: _marginal_left_out(program, values, own, s) for n, s in left.items()}
            evidence, left_out = ({}, left_out) if left_out else _log_evidence(factors, latents, values)
        sites = {**own.sites, **own.means, **left}
        facts = tuple((n, SiteShape(tuple(s.plates.items()), s.size, s.kind)) for n, s in sites.items())
        return draws, evidence, (probs, _bounds(guide, bounds)), _Facts(facts, left_out)


@lru_cache(maxsize=64)
def _inference(compiled: CompiledFit) -> _Inference:
    return _Inference(compiled)


def draw_posterior(
    rng_key: Array, result: FitResult, data: dict[str, Array], num_samples: int, batch_size: int
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

    Returns
    -------
    Found
        Everything, without labels.
    """
    return _inference(result.compiled).run(rng_key, result, data, num_samples, batch_size)


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
    factors: list[Factor], latents: Mapping[str, LatentSite], values: dict
) -> tuple[dict[str, Array], str]:
    """Return the log evidence of every item given the values, shape (N,), or the reason why it would be incomplete."""
    others = [n for n, site in latents.items() if site.kind != "discrete"]
    own = eliminate(factors, latents) if not others else []
    priors = [f.name for f in own if f.name in values and ITEM not in f.plates]
    others += [f.name for f in own if f.name not in priors and (f.name in values or ITEM not in f.plates)]
    if others:
        return {}, f"Sites {others} are continuous in an item, or items share them, observed or discrete."
    of_items = [_over_other_plates(factor) for factor in own if factor.name not in priors]
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
    """The sites that a guide keeps: tables of its discrete ones, Dirichlet factors of a mean field."""

    def __init__(self, guide: Mapping[str, dict]):
        self.sites: dict[str, LatentSite] = {}
        self.means: dict[str, LatentSite] = {}
        self.log_q: dict[str, Named] = {}
        for name, traced in guide.items():
            if traced["type"] != "sample" or traced["is_observed"]:
                continue
            if traced["infer"].get("log_mean"):
                traced["infer"]["dirichlet"] = True
                self.means[name] = latent_site(traced)
            elif traced["fn"].has_enumerate_support:
                self.sites[name] = latent_site(traced)
                self.log_q[name] = self._table(traced)

    def _table(self, traced: dict) -> Named:
        """Log-probabilities with all axes: parents, plates, and the site itself."""
        factor, name = site_factor(traced), traced["name"]
        assert factor is not None
        assert factor.mask is None
        parents = [d for d in factor.variables if d != name]
        sizes = {p: self.sites[p].size for p in parents} | self.sites[name].plates | {name: self.sites[name].size}
        return Named(tuple(sizes), jnp.broadcast_to(aligned(factor.log_prob, tuple(sizes)), tuple(sizes.values())))

    def draw(self, key: Array) -> dict[str, Array]:
        """Draw the sites one after the other."""
        drawn: dict[str, Array] = {}
        for name, table in self.log_q.items():
            key, own_key = jax.random.split(key)
            site = self.sites[name]
            parents = [d for d in table.dims if d in self.sites and d != name]
            shape = (*(self.sites[p].size for p in parents), *site.shape, site.size)
            logits = at_values(table.data.reshape(shape), [drawn[p] for p in parents], site)
            drawn[name] = jax.random.categorical(own_key, logits)
        for name, site in self.means.items():
            key, own_key = jax.random.split(key)
            drawn[name] = site.fn.expand(site.shape).sample(own_key)
        return drawn

    def marginals(self) -> dict[str, Array]:
        """Probabilities, shape (plates ..., values)."""
        q = {n: table._replace(data=jnp.exp(table.data)) for n, table in self.log_q.items()}
        return {n: named_einsum([q[m] for m in with_parents([n], q)], self.sites[n].dims) for n in q}

    def joint(self, plates: Sequence[str]) -> Array:
        """Joint probabilities of all discrete sites; one axis for every plate, then one for every site."""
        q = [table._replace(data=jnp.exp(table.data)) for table in self.log_q.values()]
        kept = [p for p in plates if any(p in s.plates for s in self.sites.values())]
        dims = (*kept, *self.sites)
        return aligned(Named(dims, named_einsum(q, dims)), (*plates, *self.sites))


def _draw(
    key: Array, own: _Kept, left: dict[str, LatentSite], program: FrozenProgram, values: dict
) -> dict[str, Array]:
    """Draw the guide's sites, then those that it sums out: outer plates first, each site given all earlier ones."""
    key, own_key = jax.random.split(key)
    drawn = own.draw(own_key)
    for name in left:
        key, own_key = jax.random.split(key)
        probs = program_marginals(program, [name], {**values, **drawn})[name]
        drawn[name] = jax.random.categorical(own_key, jnp.log(jnp.maximum(probs, 0.0)))
    discrete = {n: drawn[n].reshape(*s.plates.values()) for n, s in (own.sites | left).items()}
    return discrete | {n: drawn[n].reshape(*s.plates.values(), s.size) for n, s in own.means.items()}


def _marginal_left_out(program: FrozenProgram, values: dict, own: _Kept, site: LatentSite) -> Array:
    """Probabilities of a site that the guide sums out: its posterior averaged over the guide's sites."""
    shape = (*site.plates.values(), site.size)
    if not own.sites:
        return program_marginals(program, [site.name], values)[site.name].reshape(shape)
    joint = own.joint(tuple(site.plates))
    sizes = [s.size for s in own.sites.values()]
    combinations = jnp.stack(jnp.unravel_index(jnp.arange(math.prod(sizes)), sizes), -1)

    def add(total: Array, combination: Array) -> tuple[Array, None]:
        given = {s.name: jnp.full(s.shape, v) for s, v in zip(own.sites.values(), combination, strict=True)}
        probs = program_marginals(program, [site.name], {**values, **given})[site.name].reshape(shape)
        return total + joint[(..., *combination)][..., None] * probs, None

    return jax.lax.scan(add, jnp.zeros(shape, joint.dtype), combinations)[0]


def _over_other_plates(factor: Factor) -> Array:
    """Sum a factor over all plates except that of the items; shape (N,)."""
    lp = factor.log_prob
    repeats = math.prod(size for plate, size in factor.plates.items() if plate not in (*lp.dims, ITEM))
    summed = lp.data.sum([i for i, d in enumerate(lp.dims) if d != ITEM])
    return repeats * jnp.broadcast_to(summed, (factor.plates[ITEM],))
