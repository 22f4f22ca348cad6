"""Prior and posterior predictive draws of a fit: what its program generates, beside what was observed."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import jax
import numpy as np
from jax import Array
from numpyro.primitives import Messenger

from pl2d_ppl.inference.arviz import checked_items
from pl2d_ppl.inference.chunks import Chunk, Whole, chunks_of, smallest_integer
from pl2d_ppl.inference.forward import Forward, ForwardFacts
from pl2d_ppl.inference.labels import Labels
from pl2d_ppl.inference.posterior import draw_posterior
from pl2d_ppl.inference.posterior_programs import Dims, SiteShape, posterior_programs
from pl2d_ppl.inference.result import FitResult

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["predictive"]

MISSING = -1


def predictive(
    rng_key: Array,
    result: FitResult,
    data: Mapping[str, Any],
    *,
    num_samples: int = 200,
    given: Sequence[str] = (),
    missing: Literal["drop", "mark"] = "drop",
    arguments: Mapping[str, Any] | None = None,
    coords: Mapping[str, Sequence] | None = None,
    dims: Mapping[str, Sequence[str]] | None = None,
    batch_size: int = 1024,
) -> "xr.DataTree":
    """Draw what the program of a fit generates for some items, a priori and a posteriori, for ArviZ.

    Entries of the data whose parameter has the default None, such as ``annotations`` and ``y``, are left out, so that
    the program generates them; all others, such as ``x``, are inputs. Posterior draws take sites that items share, such
    as people or network weights, from the guide, and networks as point estimates from the fit, in evaluation mode;
    sites of single items are drawn anew from the program, without bounds on workload. They thus are new answers to the
    same items. Prior draws take all sites from the program; parameters without a prior are those of the fit.

    Parameters
    ----------
    rng_key : Array
        A typed key.
    result : FitResult
        A fit of one run.
    data : mapping of str to array, shape (N, ...)
        Items as for :func:`~pl2d_ppl.inference.fit.fit`. What is observed is for comparison; it may be left out.
    num_samples : int
        Number of draws, S.
    given : sequence of str
        Entries of the data to condition on instead of generating them: discrete sites of the items are then drawn from
        their exact posterior given these, as the program says, and there are no prior draws.
    missing : {"drop", "mark"}
        What to do about entries that the data lack, in observed and in generated values alike, so that plots compare
        like with like. By default they are left out: a variable with some has one dimension of entries,
        ``{site}_entry``, with the names of its plates as coordinates. ``"mark"`` keeps all dimensions, with -1 (or NaN)
        in their places.
    arguments : mapping of str, optional
        Further arguments of the program, such as ``num_votes`` where votes are generated.
    coords, dims : mapping, optional
        Names of coordinates and dimensions, as for :func:`~pl2d_ppl.inference.arviz.to_datatree`.
    batch_size : int
        Number of items at a time.

    Returns
    -------
    xarray.DataTree
        Groups ``posterior_predictive`` and ``prior_predictive``, with dimensions ``chain`` (1), ``draw`` (S) and
        plates, and ``observed_data``: all by the name of the site, such as ``annotation`` for ``annotations``.

    Raises
    ------
    ValueError
        If the fit is a batch of runs, the data are not of the form that it was trained on, ``given`` names what the
        program does not generate, nothing is left to generate, or it is not of the shape of the data.

    Examples
    --------
    Are answers as frequent as they should be::

        tree = predictive(rng_key, result, data)
        az.plot_ppc_rootogram(tree, var_names=["annotation"])
    """
    arrays = checked_items(rng_key, result, data, num_samples, batch_size)
    if missing not in ("drop", "mark"):
        raise ValueError(f"Expected missing to be 'drop' or 'mark', found {missing!r}.")
    left_out = _left_out(result.model, given)
    run = _Predictive(result, arrays, left_out, num_samples, batch_size, arguments or {})
    prior_key, posterior_key, observed_key = jax.random.split(rng_key, 3)
    observed = run.observed(observed_key)
    groups = {"posterior_predictive": run.generate(posterior_key, run.posterior(posterior_key))}
    if not run.is_conditioned:
        groups["prior_predictive"] = run.generate(prior_key, {})
    pairs = {n: _fitted(n, *observed[n], groups["posterior_predictive"]) for n in observed}
    groups["observed_data"] = {n: values for n, (values, _) in pairs.items()}
    absent = {n: lacking for n, (_, lacking) in pairs.items() if lacking.any()}
    return _tree(result, groups, absent, run.labels(coords, dims), run.dims, missing)


def _left_out(model: Callable, given: Sequence[str]) -> list[str]:
    """Names of data that the program generates where they are left out."""
    while isinstance(model, Messenger):
        model = model.fn
    parameters = inspect.signature(model, follow_wrapped=False).parameters.values()
    optional = [p.name for p in parameters if p.default is None]
    unknown = sorted(set(given) - set(optional))
    if unknown:
        raise ValueError(
            f"Expected given to name data that the program may generate, {optional}, found {unknown}. All other data "
            "are given anyway."
        )
    return [name for name in optional if name not in given]


class _Predictive:
    """The program of a fit, run forward on chunks of the items."""

    def __init__(
        self,
        result: FitResult,
        data: dict[str, Array],
        left_out: Sequence[str],
        num_samples: int,
        batch_size: int,
        arguments: Mapping[str, Any],
    ):
        model = partial(result.model, **arguments) if arguments else result.model
        self.result, self.data, self.left_out, self.num_samples = result, data, left_out, num_samples
        self.forward = Forward(result.compiled, model, result.leaves)
        self.plain = Forward(result.compiled, result.model, result.leaves)
        self.inputs = {n: a for n, a in data.items() if n not in left_out}
        self.num_items = len(next(iter(data.values())))
        self.chunks = list(chunks_of(self.num_items, batch_size))
        self.dims: dict[str, Dims] = {}
        self.facts: ForwardFacts | None = None
        self.is_conditioned = False
        self.names: tuple[str, ...] = ()

    def observed(self, key: Array) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Return what is observed of that which is generated: values, and where they are missing."""
        params, length = self.result.params, len(self.chunks[0].rows)
        example = {n: np.zeros((length, *a.shape[1:]), a.dtype) for n, a in self.result.example.items()}
        trained = jax.eval_shape(self.plain._observed, params, example, key)[1].observed
        facts = self._facts(key)
        sites = {n for n, _ in facts.dims} - set(facts.observed)
        self.is_conditioned = bool(facts.observed)
        self.names = tuple(n for n in dict.fromkeys([*trained, *self.left_out]) if n in sites)
        if not self.names:
            raise ValueError(
                f"Expected something that the program generates, found everything given: {sorted(self.inputs)}. Give "
                "less, and write the default None for arguments that the program can generate."
            )
        if not set(self.data) - set(self.inputs):
            return {}
        values, absent = Whole(self.num_items), Whole(self.num_items)
        for chunk in self.chunks:
            found, facts = self.plain.observed(params, self._take(chunk, self.data), key)
            own = [n for n in self.names if n in found]
            values.put({n: found[n][0] for n in own}, self._axes(facts), chunk)
            absent.put({n: found[n][1] for n in own}, self._axes(facts), chunk)
        self.dims |= {n: d for n, d in facts.dims if n in own}
        known = {n: np.asarray(self.data[n]) for n in self.names if n in self.data and n not in own}
        both = {n: (self._squeezed(n, values.arrays[n]), self._squeezed(n, absent.arrays[n])) for n in own}
        return both | {n: (a, a < 0) for n, a in known.items()}  # such as truth that is latent where it is unknown

    def _facts(self, key: Array) -> ForwardFacts:
        if self.facts is None:
            chunk = self._take(self.chunks[0], self.inputs)
            self.facts = jax.eval_shape(self.forward._observed, self.result.params, chunk, key)[1]
        return self.facts

    def posterior(self, key: Array) -> dict[str, Array]:
        """Draw the sites that items share from the guide, shape (S, ...)."""
        programs, data = posterior_programs(self.result.compiled), self._take(self.chunks[0], self.data)
        fixed = self.result.leaves, self.result.params
        sites = dict(programs.sites_of_weights(*fixed, data, key, None))
        keys = jax.random.split(key, self.num_samples)
        drawn = programs.weights(*fixed, data, keys) if sites else {}
        drawn = {n: a for n, a in drawn.items() if self.result.compiled.plate not in sites[n]}
        others = [n for n, is_summed in self._facts(key).shared if is_summed and n not in drawn]
        if others:
            found = draw_posterior(key, self.result, self.data, self.num_samples, len(self.chunks[0].rows))
            drawn |= {n: found.draws[n] for n in others if n in found.draws}
        return drawn

    def generate(self, key: Array, shared: dict[str, Array]) -> dict[str, np.ndarray]:
        """Generate sites given the posterior of sites that items share; what has none is drawn from the program."""
        own_key, key = jax.random.split(key)
        rest = tuple(n for n, _ in self._facts(key).shared if n not in shared)
        keys = jax.random.split(own_key, self.num_samples)
        if rest:
            first = self._take(self.chunks[0], self.inputs)
            shared = {**shared, **self.forward.draw(rest, self.result.params, shared, first, keys)[0]}
        keys, whole = jax.random.split(key, self.num_samples), Whole(self.num_items, self.num_samples)
        for chunk in self.chunks:
            own = jax.vmap(jax.random.fold_in, (0, None))(keys, chunk.start)
            data = self._take(chunk, self.inputs)
            found, facts = self.forward.draw(self.names, self.result.params, shared, data, own)
            sizes, dims = dict(facts.sizes), dict(facts.dims)
            self.dims |= {n: dims[n] for n in found}
            small = {n: np.asarray(a).astype(smallest_integer(sizes[n])) if n in sizes else a for n, a in found.items()}
            whole.put(small, self._axes(facts), chunk)
        return {n: self._squeezed(n, a, 1) for n, a in whole.arrays.items()}

    def _take(self, chunk: Chunk, data: Mapping[str, Array]) -> dict[str, Array]:
        return {n: chunk.take(a) for n, a in data.items()}

    def _axes(self, facts: ForwardFacts) -> dict[str, int | None]:
        plate = self.result.compiled.plate
        return {n: d.index(plate) if plate in d else None for n, d in facts.dims}

    def _squeezed(self, name: str, array: np.ndarray, first: int = 0) -> np.ndarray:
        """Drop axes of length one that are in no plate."""
        lone = (i for i, d in enumerate(self.dims[name], first) if not d and array.shape[i] == 1)
        return array.squeeze(tuple(lone))

    def labels(self, coords: Mapping[str, Sequence] | None, dims: Mapping[str, Sequence[str]] | None) -> Labels:
        """Names of dimensions."""
        facts = self._facts(jax.random.key(0))
        plate, length = self.result.compiled.plate, len(self.chunks[0].rows)
        lengths = {n: self.num_items if n == plate and size == length else size for n, size in facts.lengths}
        sites = {n: SiteShape((), size, "discrete") for n, size in facts.sizes}
        outputs = {n.replace("_logits", "_probs"): np.broadcast_to(0.0, shape) for n, shape in facts.outputs}
        return Labels(lengths, plate, sites, outputs, self.data, coords, dims)


def _fitted(
    name: str, values: np.ndarray, absent: np.ndarray, generated: Mapping[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Check that observed values are of the shape of generated ones, but for a last column that the AI leaves empty."""
    shape = generated[name].shape[1:]
    if values.ndim and values.shape == (*shape[:-1], shape[-1] + 1) and absent[..., -1].all():
        values, absent = values[..., :-1], absent[..., :-1]
    if values.shape != shape:
        raise ValueError(
            f"Expected {name!r} to be generated in the shape of the data, {values.shape}, found {shape}. Condition on "
            "the data that say its shape by given=..., or pass arguments=... of the program that do."
        )
    return values, absent


def _tree(
    result: FitResult,
    groups: dict[str, dict[str, np.ndarray]],
    absent: dict[str, np.ndarray],
    labels: Labels,
    dims: Mapping[str, Dims],
    missing: str,
) -> "xr.DataTree":
    import xarray as xr

    named = {n: labels.of_output(n, tuple(d or None for d in own if d != "")) for n, own in dims.items()}
    datasets = {}
    for group, arrays in groups.items():
        draws = group != "observed_data"
        found = labels.dataset({n: a for n, a in arrays.items() if n not in absent}, named, draws=draws)
        for name in absent.keys() & arrays.keys():
            own = labels.dataset({name: arrays[name]}, named, draws=draws)[name]
            own = _dropped(own, absent[name]) if missing == "drop" else _marked(own, absent[name])
            found = found.merge(own.to_dataset(name=name))
        found.attrs.pop("sample_dims", None)
        datasets[group] = found
    tree = xr.DataTree.from_dict({group: found for group, found in datasets.items() if found.data_vars})
    tree.attrs.update({"inference_name": "SVI", "epochs": result.epoch, "status": result.status})
    return tree


def _dropped(array: "xr.DataArray", absent: np.ndarray) -> "xr.DataArray":
    """Leave out what is missing: one dimension of entries takes the place of those of the data."""
    import xarray as xr

    dims, entry = array.dims[array.ndim - absent.ndim :], f"{array.name}_entry"
    leading = array.dims[: array.ndim - absent.ndim]
    places = np.nonzero(~absent)
    coords: dict[Any, Any] = {d: array[d] for d in leading}
    coords |= {f"{array.name}_{d}": (entry, array[d].values[i]) for d, i in zip(dims, places, strict=True)}
    return xr.DataArray(array.values[(..., *places)], dims=(*leading, entry), coords=coords, name=array.name)


def _marked(array: "xr.DataArray", absent: np.ndarray) -> "xr.DataArray":
    """Mark what is missing."""
    mark = MISSING if np.issubdtype(array.dtype, np.integer) else np.nan
    return array.copy(data=np.where(absent, mark, array.values).astype(np.result_type(array.dtype, mark)))
