"""Draws and marginals of a fitted posterior, items and network weights alike."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy.special import softmax

from pl2d_ppl.checks.declared import Given, check_declared
from pl2d_ppl.inference.chunks import Chunk, Whole, chunks_of
from pl2d_ppl.inference.evidence import why_no_evidence
from pl2d_ppl.inference.posterior_programs import Dims, Facts, SiteShape, bounds_of, posterior_programs
from pl2d_ppl.inference.result import FitResult

__all__ = ["Found", "draw_continuous", "draw_posterior"]


class Found(NamedTuple):
    """Results of inference, on the host.

    Attributes
    ----------
    draws, evidence : dict of str to array, shape (S, ...)
        Draws of sites, and log-likelihoods for each draw.
    probs, outputs, workload : dict of str to array
        Marginals, deterministic sites, and the multipliers of bounds; means over the draws of weights.
    dims : dict of str to tuple
        Plates of the axes of everything but probs and workload, without draws; None where an axis is in none.
    sizes : dict of str to int
        Lengths of the plates.
    sites : dict of str to SiteShape
        The items' sites.
    left_out : str
        The reason for missing evidence.
    """

    draws: dict[str, np.ndarray]
    probs: dict[str, np.ndarray]
    outputs: dict[str, np.ndarray]
    workload: dict[str, np.ndarray]
    evidence: dict[str, np.ndarray]
    dims: dict[str, Dims]
    sizes: dict[str, int]
    sites: dict[str, SiteShape]
    left_out: str


class _Inference:
    """One call of the programs: on chunks of the items, once for every draw of the weights."""

    def __init__(
        self, result: FitResult, data: dict[str, Array], num_samples: int, batch_size: int, index: Array | None
    ):
        self.programs = posterior_programs(result.compiled)
        self.fixed, self.data, self.index = (result.leaves, result.params), data, index
        self.plate, self.num_samples = result.compiled.plate, num_samples
        self.num_items = len(next(iter(data.values())))
        self.bounds = bounds_of(result.compiled.guide(result.leaves))
        self.chunks = list(chunks_of(self.num_items, batch_size))
        self.dims: dict[str, Dims] = {}
        self.axes: dict[str, int | None] = {}  # of the items, in every array

    def run(self, rng_key: Array) -> Found:
        """Draw weights, where they have a posterior; then draw everything else once for every draw of the weights."""
        weight_key, item_key = jax.random.split(rng_key)
        weights = self._weights(weight_key)
        keys = jax.random.split(item_key, self.num_samples)
        keys = keys[:, None] if weights else keys[None]
        left_out = why_no_evidence(weights, bool(self.bounds))
        lengths = self._survey({n: a[0] for n, a in weights.items()}, keys[0], left_out)
        draws, evidence = (Whole(self.num_items, self.num_samples) for _ in range(2))
        probs, shown, bounded = (_Means() for _ in range(3))
        facts = Facts()
        for i, group in enumerate(keys):
            values, first = {name: a[i] for name, a in weights.items()}, i * len(group)
            outputs = self._outputs(values)
            projections = self._project(values, outputs)
            multipliers = {site: p["multipliers"] for site, p in projections.items()}
            marginals = Whole(self.num_items)
            for chunk in self.chunks:
                drawn, local, own, facts = self._items(chunk, values, outputs, multipliers, group, left_out)
                self._note(facts.dims)
                draws.put(drawn, self.axes, chunk, first)
                evidence.put({n: a[None] for n, a in local.items()}, self.axes, chunk, first)
                marginals.put(own, self.axes, chunk)
                self._to_probs(outputs, chunk)  # in place: memory is for one array of all items
            shared = [n for n in outputs if weights and self.axes[n] is None]
            draws.put({n: outputs.pop(n)[None] for n in shared}, self.axes, self.chunks[0], first)
            probs.add(marginals.arrays)
            shown.add(outputs)
            bounded.add({f"{site}_{n}": np.asarray(a) for site, p in projections.items() for n, a in p.items()})
        drawn = {name: np.asarray(a).squeeze(self._nameless(name)) for name, a in weights.items()} | draws.arrays
        return self._found(drawn, probs.means(), shown.means(), bounded.means(), evidence.arrays, lengths, facts)

    def _found(
        self, drawn: dict, probs: dict, shown: dict, bounded: dict, evidence: dict, lengths: dict, facts: Facts
    ) -> Found:
        named = {name: name.replace("_logits", "_probs") for name in self._logits(self.axes)}
        dims = {named.get(name, name): tuple(d for d in dims if d != "") for name, dims in self.dims.items()}
        drawn, shown = ({named.get(name, name): a for name, a in arrays.items()} for arrays in (drawn, shown))
        for name in evidence.keys() - {"log_evidence"}:
            unseen = (evidence[name] == 0).all(0)  # a mask has no likelihood, and no name among the factors
            evidence[name] = np.where(unseen, np.nan, evidence[name])
        return Found(drawn, probs, shown, bounded, evidence, dims, lengths, dict(facts.sites), facts.left_out)

    def _nameless(self, name: str) -> tuple[int, ...]:
        """Axes of draws that are of length one and in no plate."""
        return tuple(axis for axis, dim in enumerate(self.dims[name], 1) if dim == "")

    def _note(self, dims: Iterable[tuple[str, Dims]]) -> None:
        """Note the names of axes, and which one is of the items."""
        for name, own in dims:
            self.dims[name] = own
            self.axes[name] = own.index(self.plate) if self.plate is not None and self.plate in own else None

    def _weights(self, key: Array) -> dict[str, Array]:
        """Draw the continuous sites: on the first items, of which sites that all share know nothing, or else on all."""
        data, index = self._data(self.chunks[0])
        self._note(self.programs.sites_of_weights(*self.fixed, data, key, index))
        if any(axis is not None for axis in self.axes.values()):
            data, index = self.data, self.index
        keys = jax.random.split(key, self.num_samples)
        return self.programs.weights(*self.fixed, data, keys, index) if self.axes else {}

    def _survey(self, values: dict[str, Array], keys: Array, left_out: str) -> dict[str, int]:
        """Find the axes of the items in deterministic sites, and whether items can be cut into chunks.

        Returns the lengths of the plates.
        """
        chunk = self.chunks[0]
        shapes, facts = self.programs.outputs.eval_shape(*self._given(chunk, values))
        longer, lengths = self._of_one_more(chunk, values), dict(facts.lengths)
        for name, dims in facts.dims:
            own, shape = list(self._dims_of_base(name, len(dims)) or dims), shapes[name].shape
            grown = [axis for axis, length in enumerate(shape) if length != longer.get(name, shape)[axis]]
            if not longer and shape[:1] == chunk.rows.shape:
                grown = [0]
            if grown and self.plate not in dims:
                own[grown[0]] = self.plate
            self._note([(name, tuple(own))])
        follows = bool(longer) and facts.divisible
        if len(self.chunks) > 1 and not (follows and self._is_divisible(values, shapes, keys, left_out)):
            self.chunks = list(chunks_of(self.num_items, self.num_items))
            return self._survey(values, keys, left_out)
        check_declared(self.programs.model, Given("data", self.data, outputs=shapes))
        return {name: self.num_items if name == self.plate else length for name, length in lengths.items()}

    def _dims_of_base(self, name: str, rank: int) -> Dims | None:
        """Names of the axes of a site that a reparametrisation computes from another one, whose events are known."""
        bases = (self.dims.get(f"{name}_{ending}", ()) for ending in ("decentered", "base"))
        return next((tuple(d or None for d in dims) for dims in bases if len(dims) == rank > 0), None)

    def _of_one_more(self, chunk: Chunk, values: dict[str, Array]) -> dict[str, tuple[int, ...]]:
        """Shapes of deterministic sites of one more item; empty for a program of a fixed number of items."""
        more = Chunk(0, len(chunk.rows), np.append(chunk.rows, chunk.rows[-1]))
        try:
            shapes, facts = self.programs.outputs.eval_shape(*self._given(more, values))
        except Exception:  # whatever such a program raises
            return {}
        follows = dict(facts.lengths).get(self.plate) == len(more.rows)
        return {name: a.shape for name, a in shapes.items()} if follows else {}

    def _is_divisible(self, values: dict[str, Array], outputs: dict, keys: Array, left_out: str) -> bool:
        multipliers = {h.site: jax.ShapeDtypeStruct(h.lower.shape, jnp.result_type(float)) for h in self.bounds}
        fixed, own, data, index = self._split(self.chunks[0], values)
        return self.programs.items.eval_shape(left_out, *fixed, own, outputs, multipliers, data, keys, index)[
            -1
        ].divisible

    def _data(self, chunk: Chunk) -> tuple[dict[str, Array], Array | None]:
        data = {n: chunk.take(a) for n, a in self.data.items()}
        return data, None if self.index is None else chunk.take(self.index)

    def _split(self, chunk: Chunk, values: dict[str, Array]) -> tuple:
        """Return leaves and parameters; and values, data and rows of a chunk."""
        return self.fixed, {n: chunk.take(a, self.axes[n]) for n, a in values.items()}, *self._data(chunk)

    def _given(self, chunk: Chunk, values: dict[str, Array]) -> tuple:
        fixed, *rest = self._split(chunk, values)
        return (*fixed, *rest)

    def _outputs(self, values: dict[str, Array]) -> dict[str, np.ndarray]:
        """Deterministic sites of all items."""
        whole = Whole(self.num_items)
        for chunk in self.chunks:
            whole.put(self.programs.outputs(*self._given(chunk, values))[0], self.axes, chunk)
        return whole.arrays

    def _project(self, values: dict[str, Array], outputs: dict[str, np.ndarray]) -> dict[str, dict[str, Array]]:
        """Find multipliers of bounds, over the marginals of all items."""
        if not self.bounds:
            return {}
        sites = [h.site for h in self.bounds]
        log_q, counted = Whole(self.num_items), Whole(self.num_items)
        for chunk in self.chunks:
            fixed, own, data, index = self._split(chunk, values)
            rows = self.programs.rows(*fixed, own, self._of(chunk, outputs), data, index)
            axes = {s: 0 if len(rows[s][1]) == len(chunk.rows) else None for s in sites}
            log_q.put({s: rows[s][0] for s in sites}, axes, chunk)
            counted.put({s: rows[s][1] for s in sites}, axes, chunk)
        return self.programs.projected(self.fixed[0], log_q.arrays, counted.arrays)

    def _of(self, chunk: Chunk, outputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {n: chunk.take(a, self.axes[n]) for n, a in outputs.items()}

    def _items(
        self, chunk: Chunk, values: dict, outputs: dict, multipliers: dict, keys: Array, left_out: str
    ) -> tuple[dict, dict, dict, Facts]:
        fixed, own, data, index = self._split(chunk, values)
        keys = jax.vmap(jax.random.fold_in, (0, None))(keys, chunk.start)
        given = own, self._of(chunk, outputs), multipliers, data, keys, index
        return self.programs.items(left_out, *fixed, *given)

    def _logits(self, names: Iterable[str]) -> list[str]:
        """Names of logits, unless the program has a site of their probabilities."""
        return [n for n in names if n.endswith("_logits") and n.replace("_logits", "_probs") not in self.axes]

    def _to_probs(self, outputs: dict[str, np.ndarray], chunk: Chunk) -> None:
        for name in self._logits(outputs):
            axis = self.axes[name]
            if axis is not None or chunk.start == 0:
                place = (slice(None),) * (axis or 0) + (slice(chunk.start, chunk.start + chunk.length),)
                part = outputs[name] if axis is None else outputs[name][place]
                part[...] = softmax(part, -1)


class _Means:
    """Means of arrays over the draws of weights."""

    def __init__(self):
        self._sums: dict[str, np.ndarray] = {}
        self._number = 0

    def add(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Add those of a draw."""
        self._sums = {n: a + self._sums[n] for n, a in arrays.items()} if self._number else dict(arrays)
        self._number += 1

    def means(self) -> dict[str, np.ndarray]:
        """Return the means."""
        return {n: a / self._number for n, a in self._sums.items()} if self._number > 1 else self._sums


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
        Number of items at a time.
    index : Array, optional
        Rows of the training data that the items are.

    Returns
    -------
    Found
        Everything, without labels.
    """
    return _Inference(result, data, num_samples, batch_size, index).run(rng_key)


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
    return posterior_programs(result.compiled).weights(result.leaves, result.params, batch, keys)
