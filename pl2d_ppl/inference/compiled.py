"""A model and a guide, compiled: initial state, an epoch, an evaluation, network outputs."""

import pickle
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array
from numpyro.handlers import block, seed, trace
from numpyro.infer import SVI
from numpyro.infer.svi import SVIState

from pl2d_ppl.engine.alike import check_alike
from pl2d_ppl.engine.elbo import EnumELBO
from pl2d_ppl.engine.items import Items, items, plate_of_items
from pl2d_ppl.engine.per_run import PerRun, guide_of, tree_of_guide
from pl2d_ppl.engine.program_key import ProgramKey
from pl2d_ppl.inference.dependence import depending
from pl2d_ppl.inference.explained import check_signature, explained
from pl2d_ppl.networks import evaluation

__all__ = ["CompiledFit", "compile_fit"]

Batch = Mapping[str, Array]
ROWS = 17  # items in a trace that looks at shapes only: outputs of this length are those of items


def compile_fit(
    model: Callable,
    guide: Callable,
    optimizer: optax.GradientTransformation,
    batched: bool,
    num_rows: int,
    item_plate: str | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> tuple["CompiledFit", tuple[Array, ...]]:
    """Return compiled programs and their traced leaves: those of the guide, such as bounds, and the arguments.

    Compiled programs are cached: the same model, guide and optimizer with other bounds are not compiled again.
    """
    given = {name: _arrays(value) for name, value in (arguments or {}).items()}
    tree = jax.tree.map(
        lambda n: _arrays(n) if _is_per_run(n) else n, (tree_of_guide(guide), given), is_leaf=_is_per_run
    )
    leaves, structure = jax.tree.flatten(tree)
    nodes = jax.tree.leaves(tree, is_leaf=_is_per_run)
    has_runs = tuple(_is_per_run(node) for node in nodes for _ in jax.tree.leaves(node))
    if any(has_runs) and not batched:
        raise ValueError(
            "Expected bounds, and arguments that are not PerRun, with a single key, found some of several runs. Pass "
            "as many keys: jax.random.split(rng_key, runs)."
        )
    key = ProgramKey(model), structure, has_runs, ProgramKey(optimizer), batched, num_rows, item_plate
    return _cached(*key), tuple(leaves)


def one_run(argument: Any, index: int = 0) -> Any:
    """Return the value of an argument for one run."""
    argument = _arrays(argument)
    return jax.tree.map(lambda a: a[index], argument.value) if isinstance(argument, PerRun) else argument


def _arrays(argument: Any) -> Any:
    """Convert the leaves of an argument to arrays; a list of numbers becomes one array."""
    if isinstance(argument, PerRun):
        return PerRun(_arrays(argument.value))
    return jnp.asarray(argument) if isinstance(argument, list | tuple) else jax.tree.map(jnp.asarray, argument)


def _is_per_run(node: Any) -> bool:
    return isinstance(node, PerRun)


def _of_one_run(tree: Any) -> Any:
    """Unwrap what was PerRun, once its axis of runs is gone."""
    return jax.tree.map(lambda n: n.value if _is_per_run(n) else n, tree, is_leaf=_is_per_run)


@lru_cache(maxsize=64)
def _cached(*args) -> "CompiledFit":
    return CompiledFit(*args)


class CompiledFit:
    """Compiled functions of a model and a guide, for one run or, vectorised, for a batch of runs.

    Parameters
    ----------
    model : ProgramKey
        The model.
    structure : PyTreeDef
        The guide, and the arguments of both programs other than data, without their traced leaves.
    has_runs : tuple of bool
        Which leaves have an axis of runs.
    optimizer : ProgramKey
        The optimizer.
    batched : bool
        Whether every state has an axis of runs.
    num_rows : int
        Number of items of the whole data set, N.
    item_plate : str, optional
        The plate of the items.
    """

    def __init__(
        self,
        model: ProgramKey,
        structure: Any,
        has_runs: tuple[bool, ...],
        optimizer: ProgramKey,
        batched: bool,
        num_rows: int,
        item_plate: str | None = None,
    ):
        self.model, self.batched = model.model, batched
        self.signature = (model, structure, has_runs, optimizer, batched, num_rows, item_plate)
        self.num_rows, self.item_plate = num_rows, item_plate
        self._structure, self._has_runs, self._optimizer = structure, has_runs, optimizer.model
        self._elbo = EnumELBO()
        self._constrain: Callable = dict
        self._optim: Any = None  # the first trace of _init also sets _constrain
        self.num_items, self.continuous = num_rows, False
        self._plate: str | None = item_plate
        self._in_parts = False
        self._drawn: frozenset[str] | None = None
        self._probed: dict[tuple, tuple] = {}
        runs = (tuple(0 if r else None for r in has_runs), 0)

        def over_runs(function: Callable, *axes: int | None) -> Callable:
            return jax.vmap(function, (*runs, *axes)) if batched else function

        self.init = jax.jit(over_runs(self._init, None))
        self.evaluate = jax.jit(over_runs(self._evaluate, None, None))
        self.local_loss = jax.jit(over_runs(self._local_loss, None, None))
        self.diagnose = jax.jit(over_runs(self._diagnose, None, None))
        self.outputs = jax.jit(over_runs(self._outputs, None, None))
        self.params = jax.jit(jax.vmap(self._params) if batched else self._params)
        self.epoch = jax.jit(
            lambda leaves, state, key, data, size: over_runs(partial(self._epoch, size), 0, None)(
                leaves, state, key, data
            ),
            static_argnums=4,
        )

    def programs(self, leaves: tuple[Array, ...]) -> tuple[Callable, dict[str, Any]]:
        """Rebuild the guide and the arguments, as they were given: PerRun where the runs of a batch differ."""
        guide, arguments = jax.tree.unflatten(self._structure, leaves)
        return guide_of(guide), arguments

    def guide(self, leaves: tuple[Array, ...]) -> Callable:
        """Rebuild the guide of one run from its leaves."""
        return guide_of(_of_one_run(jax.tree.unflatten(self._structure, leaves)[0]))

    def call(self, leaves: tuple[Array, ...], batch: Batch) -> dict[str, Array]:
        """Rebuild the arguments of both programs, of one run."""
        return {**batch, **_of_one_run(jax.tree.unflatten(self._structure, leaves)[1])}

    def _of_run(self, leaves: tuple[Array, ...], index: int) -> tuple[Array, ...]:
        return tuple(leaf[index] if own else leaf for leaf, own in zip(leaves, self._has_runs, strict=True))

    def single(self, leaves: tuple[Array, ...], index: int) -> tuple["CompiledFit", tuple[Array, ...]]:
        """Return the programs of one run of a batch."""
        leaves = self._of_run(leaves, index)
        compiled, leaves = compile_fit(
            self.model,
            self.guide(leaves),
            self._optimizer,
            False,
            self.num_rows,
            self.item_plate,
            self.call(leaves, {}),
        )
        compiled._constrain, compiled._optim = self._constrain, self._optim
        compiled.num_items, compiled.continuous, compiled._plate = self.num_items, self.continuous, self._plate
        compiled._in_parts = self._in_parts
        return compiled, leaves

    def __reduce__(self) -> tuple:
        """Pickle the programs: compiled functions are built anew, once for each process."""
        try:
            pickle.dumps(self.signature)
        except Exception as error:  # whatever an object raises that does not pickle
            raise pickle.PicklingError(
                f"Expected a model, guide and optimizer that pickle, found one that does not: {error}. Functions "
                "within functions do not, such as those of optax. Use result.save(path), and load(path, model, guide, "
                "optimizer)."
            ) from error
        return _cached, self.signature

    def __deepcopy__(self, memo: dict) -> "CompiledFit":
        return self

    def probe(self, leaves: tuple[Array, ...], keys: Array, batch: Batch) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes of the deterministic sites of one run; errors of the programs are raised here, before compilation."""
        check_signature(self.model, self.call(leaves, batch))

        runs = {leaf.shape[0] for leaf, own in zip(leaves, self._has_runs, strict=True) if own}
        if self.batched and runs and runs != {len(keys)}:
            raise ValueError(
                f"Expected bounds and arguments of {len(keys)} runs, one for each key, found {sorted(runs)}."
            )
        shapes = tuple((jax.tree.structure(a), *_shapes(a)) for a in (leaves, keys, dict(batch)))
        if shapes not in self._probed:
            arguments = self.call(self._of_run(leaves, 0), batch)

            def sites(leaves: tuple[Array, ...], keys: Array, batch: Batch) -> dict[str, Array]:
                first, key = self._of_run(leaves, 0), keys[0] if self.batched else keys
                self._find_plate(first, key, batch)
                self._in_parts = _length(batch) < self.num_rows
                check_alike(self.model, (), arguments)  # of numbers, not of traced arrays
                state = self.init(leaves, keys, batch)  # compiled later from the same trace
                state = jax.tree.map(lambda a: a[0], state) if self.batched else state
                return self._trace(first, state, key, batch, jnp.arange(_length(batch)))[0]

            with explained(self.model, batch):
                found = jax.eval_shape(sites, leaves, keys, dict(batch))
            self._probed[shapes] = found, self.num_items, self.continuous, self._plate, self._in_parts
        found, self.num_items, self.continuous, self._plate, self._in_parts = self._probed[shapes]
        return found

    def start_on(
        self, leaves: tuple[Array, ...], example: Mapping[str, jax.ShapeDtypeStruct], runs: tuple[int, ...]
    ) -> tuple[Array, Batch]:
        """Trace the programs of a fit that was read from elsewhere; return keys and data of the shapes of the fit."""
        key = jax.random.key(0)
        keys = jax.random.split(key, runs[0]) if self.batched else key
        zeros = {name: jnp.zeros(a.shape, a.dtype) for name, a in example.items()}
        self.probe(leaves, keys, zeros)
        return keys, zeros

    def drawn_outputs(self, leaves: tuple[Array, ...], state: SVIState, x: Array) -> frozenset[str]:
        """Names of the items' outputs that depend on draws of continuous latent sites, such as network weights."""
        if not self.continuous:
            return frozenset()
        if self._drawn is None:
            first = self._of_run(leaves, 0), jax.tree.map(lambda a: a[0], state) if self.batched else state
            rows = jnp.zeros((ROWS, *x.shape[1:]), x.dtype)

            def outputs(key: Array) -> dict[str, Array]:
                found = self._outputs(*first, key, {"x": rows})
                return {n: a for n, a in found.items() if a.shape[:1] == (ROWS,)}

            flags = depending(outputs, jax.random.key(0))
            self._drawn = frozenset(name for name, flag in flags.items() if flag)
        return self._drawn

    def _find_plate(self, leaves: tuple[Array, ...], key: Array, batch: Batch) -> None:
        """Find the plate of the items, and the number of items that the loss stands for."""

        def plates(batch: Batch) -> dict[str, tuple[int, int]]:
            with block(), trace() as tr:
                seed(self.model, key)(**self.call(leaves, batch))
            return {n: (s["args"][0], len(s["value"])) for n, s in tr.items() if s["type"] == "plate"}

        def longer() -> dict[str, int]:
            rows = jnp.arange(_length(batch) + 1) % _length(batch)
            try:
                return {n: length for n, (_, length) in plates({k: a[rows] for k, a in batch.items()}).items()}
            except Exception:  # a program of a fixed number of items, or a guess that does not fit it
                return {}

        found = plates(batch)
        self._plate = plate_of_items(self.item_plate, {n: length for n, (_, length) in found.items()}, longer)
        declared = 0 if self._plate is None else found[self._plate][0]
        self.num_items = self.num_rows if declared in (0, _length(batch)) else declared

    @property
    def plate(self) -> str | None:
        """The plate of the items."""
        return self._plate

    def seen(self, batch: Batch, index: Array | None) -> items:
        """Tell programs which items they see: rows of the data set, or other items."""
        return items(which=Items(self._plate, self.num_rows, _length(batch), index, self._in_parts))

    def _init(self, leaves: tuple[Array, ...], key: Array, batch: Batch) -> SVIState:
        svi = SVI(self.model, self.guide(leaves), self._optimizer, self._elbo)
        with self.seen(batch, jnp.arange(_length(batch))):
            state = svi.init(key, **self.call(leaves, batch))
        self._constrain, self._optim = svi.constrain_fn, svi.optim
        return state

    def _params(self, state: SVIState) -> dict[str, Any]:
        """Parameters, constrained, and mutable state."""
        return {**self._constrain(self._optim.get_params(state.optim_state)), **(state.mutable_state or {})}

    def _trace(
        self, leaves: tuple[Array, ...], state: SVIState, key: Array, batch: Batch, index: Array | None = None
    ) -> tuple[dict[str, Array], tuple[dict, dict]]:
        """Network outputs of the trained programs, and the traces of model and guide."""
        _, traces = self._terms(leaves, state, key, batch, index)
        self.continuous = any(_is_continuous(site) for site in traces[1].values())
        return {n: s["value"] for n, s in traces[0].items() if s["type"] == "deterministic"}, traces

    def _terms(
        self,
        leaves: tuple[Array, ...],
        state: SVIState,
        key: Array,
        batch: Batch,
        index: Array | None,
        keep_plate: str | None = None,
    ) -> tuple[dict[str, Array], tuple[dict, dict]]:
        """Contributions to the ELBO by site, and the traces of model and guide."""
        arguments = self.call(leaves, batch)
        with self.seen(batch, index):
            return EnumELBO(keep_plate).site_terms(
                key, self._params(state), self.model, self.guide(leaves), **arguments
            )

    def _update(self, leaves: tuple[Array, ...], state: SVIState, batch: Batch, index: Array) -> tuple[SVIState, tuple]:
        """Take one step: the loss is the negative ELBO per item."""
        key, step_key = jax.random.split(state.rng_key)
        guide, arguments = self.guide(leaves), self.call(leaves, batch)

        def loss(unconstrained: Any) -> tuple[Array, tuple]:
            params = {**self._constrain(unconstrained), **(state.mutable_state or {})}
            with self.seen(batch, index):
                result = self._elbo.loss_with_mutable_state(step_key, params, self.model, guide, **arguments)
            return result["loss"] / self.num_items, (result["mutable_state"], result["diagnostics"])

        (value, (mutable, diagnostics)), optim_state = self._optim.eval_and_update(loss, state.optim_state)
        new = SVIState(optim_state, mutable, key)
        finite = jnp.isfinite(value) & jnp.isfinite(optax.tree.sum(self._optim.get_params(optim_state)))
        return new, ({"loss": value, **diagnostics}, finite)

    def _epoch(
        self, batch_size: int, leaves: tuple[Array, ...], state: SVIState, key: Array, data: Batch
    ) -> tuple[SVIState, dict[str, Array], Array, Array]:
        """Pass once over shuffled mini-batches; the state stops changing at the first step that is not finite.

        Returns the state, the history (means over the steps), whether all was finite, and the rows of the batches.
        """
        num_items = len(next(iter(data.values())))
        steps = num_items // batch_size
        rows = jax.random.permutation(key, num_items)[: steps * batch_size].reshape(steps, batch_size)

        def step(carry: tuple, rows: Array) -> tuple[tuple, tuple]:
            state, good = carry
            new, (record, finite) = self._update(leaves, state, {n: a[rows] for n, a in data.items()}, rows)
            good = good & finite
            return (jax.tree.map(lambda a, b: jnp.where(good, a, b), new, state), good), (record, good)

        (state, _), (records, finite) = jax.lax.scan(step, (state, jnp.array(True)), rows)
        return state, jax.tree.map(lambda a: a.mean(0), records), finite, rows

    def _evaluate(self, leaves: tuple[Array, ...], state: SVIState, key: Array, batch: Batch) -> Array:
        """Return the mean loss per item of a batch, with networks in evaluation mode; no state changes."""
        with evaluation():
            terms, _ = self._terms(leaves, state, key, batch, None)
        return -sum(terms.values(), start=jnp.zeros(())) / self.num_items

    def _local_loss(self, leaves: tuple[Array, ...], state: SVIState, key: Array, batch: Batch) -> Array:
        """Return the mean loss per item of a batch, without the sites that items share, such as a prior on weights."""
        with evaluation():
            terms, traces = self._terms(leaves, state, key, batch, None)
        shared = {
            (name, f"q({name})")[side]
            for side, tr in enumerate(traces)
            for name, site in tr.items()
            if self._plate is not None and self._plate not in (f.name for f in site.get("cond_indep_stack", ()))
        }
        return -sum((terms[n] for n in terms if n not in shared), start=jnp.zeros(())) / self.num_items

    def _diagnose(self, leaves: tuple[Array, ...], state: SVIState, batch: Batch, index: Array) -> dict[str, Array]:
        """Contributions to the ELBO by site, and by item where a site has them, at the step that follows a state."""
        _, key = jax.random.split(state.rng_key)
        return self._terms(leaves, state, key, batch, index, keep_plate=self._plate)[0]

    def _outputs(self, leaves: tuple[Array, ...], state: SVIState, key: Array, batch: Batch) -> dict[str, Array]:
        """Network outputs, the networks in evaluation mode."""
        with evaluation():
            return self._trace(leaves, state, key, batch)[0]


def _length(batch: Batch) -> int:
    """Number of items of a batch."""
    return len(next(iter(batch.values())))


def _shapes(tree: Any) -> Iterator[tuple]:
    """Shapes and types of the leaves of a tree."""
    return ((jnp.shape(a), jnp.result_type(a)) for a in jax.tree.leaves(tree))


def _is_continuous(site: Mapping[str, Any]) -> bool:
    """Whether a site is latent, and is drawn, not enumerated."""
    return site["type"] == "sample" and not site["is_observed"] and not site["fn"].has_enumerate_support
