"""Results of a fit on items, as a tree of labelled arrays for ArviZ."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np
import numpyro
from jax import Array

from pl2d_ppl.checks.data import check_data
from pl2d_ppl.checks.declared import Given, check_declared
from pl2d_ppl.checks.keys import check_key
from pl2d_ppl.inference.posterior import Found, SiteShape, draw_posterior
from pl2d_ppl.inference.result import FitResult

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["to_datatree"]

EXPERT, CATEGORY, CLUSTER, VOTE, OPTION = "expert", "category", "cluster", "vote", "option"
AI = "AI"
ITEM = "item"
OUTPUT_DIMS = {
    "gate_probs": [ITEM, EXPERT],
    "ai_probs": [ITEM, CATEGORY],
    "belief_probs": [ITEM, EXPERT, CATEGORY],
    "truth_probs": [ITEM, CATEGORY],
    "cluster_probs": [ITEM, CLUSTER, CATEGORY],
}
# Dimension of the values of a site: the first of these that has its size.
VALUE_DIMS = {
    "z": (EXPERT, CLUSTER),
    "v": (OPTION,),
    "w": (EXPERT,),
    "t": (CATEGORY,),
    "y": (CATEGORY,),
    "u": (CLUSTER,),
}
OBSERVED_DIMS = {"annotations": [ITEM, EXPERT], "votes": [ITEM, VOTE], "counts": [ITEM, CATEGORY]}


def to_datatree(
    rng_key: Array,
    result: FitResult,
    data: Mapping[str, Any],
    *,
    num_samples: int = 200,
    coords: Mapping[str, Sequence] | None = None,
    dims: Mapping[str, Sequence[str]] | None = None,
    batch_size: int = 4096,
    index: Any = None,
) -> "xr.DataTree":
    """Return posterior, network outputs and workload of a fit on some items, for ArviZ.

    The guide is evaluated once on all items together, with networks in evaluation mode, so that a workload holds on
    average over just these items; a ``window`` over earlier mini-batches is left out. Latent sites that the guide keeps
    are drawn from it, in its order. Latent sites that it sums out are then drawn from their exact posterior given the
    former. Each draw is thus from the joint posterior, which under a workload is the projected one.

    Parameters
    ----------
    rng_key : Array
        A typed key.
    result : FitResult
        A fit of one run; choose one run of a batch by ``result.run(i)``.
    data : mapping of str to array, shape (N, ...)
        Items as for :func:`~pl2d_ppl.inference.fit.fit`: ``x``, ``annotations``, ``y``, or part of them; the posterior
        is not conditioned on those left out.
    num_samples : int
        Number of draws, S.
    coords : mapping of str to sequence, optional
        Names of items under ``item``, of the M experts (the AI's may be added) under ``expert``, of categories under
        ``category``, and of clusters under ``cluster``. By default 0.., ``expert_0`` .. and ``AI``, 0... A gate over
        clusters and the AI, as in ``cluster_l2d``, has the dimension ``option``.
    dims : mapping of str to sequence of str, optional
        Names of the dimensions of a variable, without ``chain`` and ``draw``, to replace the default ones.
    batch_size : int
        Number of items passed through the networks at a time.
    index : array of int, shape (N,), optional
        Rows of the training data that the items are. Needed for latent sites of single items that the guide has learned
        parameters of; without it such sites of new items are drawn from their priors.

    Returns
    -------
    xarray.DataTree
        Groups, with M + 1 deciders along ``expert``, the AI last:

        - ``posterior``: draws of the latent sites, with dimensions ``chain`` (1) and ``draw`` (S): ``z``
          (item), ``t`` (item, expert), and network weights that have a posterior, with "." for "/" in their names.
        - ``marginals``: posterior probabilities of the discrete sites, ``z_probs`` (item, expert) and
          ``t_probs`` (item, expert, category), of the projected posterior under a workload.
        - ``network_outputs``: ``gate_probs`` (item, expert), ``ai_probs`` (item, category) and
          ``belief_probs`` (item, expert, category).
        - ``workload``, where the guide is a :class:`~pl2d_ppl.engine.workload.workload`: ``z_multipliers``,
          ``z_mean``, ``z_lower``, ``z_upper`` (expert), and ``z_violation``.
        - ``log_likelihood``, for ``az.loo``: ``log_evidence`` (chain, draw, item); see the notes.
        - ``observed_data``: ``annotations`` (item, expert: the M experts), ``y`` (item). ``constant_data``:
          ``x``.

        Where network weights have a posterior, variables without a dimension ``draw`` are means over its draws. Write
        the tree by ``tree.to_netcdf(path, engine="h5netcdf")`` and read it by ``xarray.open_datatree``.

    Raises
    ------
    ValueError
        If the fit is a batch of runs, the data are not of the form that it was trained on, or names do not
        fit.

    Notes
    -----
    Leave-one-out cross-validation weighs draws of the parameters that items share by the inverse likelihood of
    an item. Networks as point estimates have no such draws. The sites of an item are no substitute: they have already
    seen the item that a likelihood given them predicts, and once they are summed out, nothing is left to draw. There is
    then no group ``log_likelihood``, and the attribute ``log_likelihood_left_out`` of the tree
    says why. With a posterior over weights w the group holds ln p(observed sites of item i | x_i, w), with everything
    local to the item summed out: in ``prob_l2d``, the evidence of annotations, y and y_ai. Under a workload the group
    is left out too: the constraints of the posterior make items depend on one another. The draws come from the guide:
    if the guide approximates the posterior poorly, the estimate is poor (Magnusson et al. 2019,
    Bayesian leave-one-out cross-validation for large data. ICML).
    """
    arrays = _checked(rng_key, result, data, num_samples, batch_size)
    rows = None if index is None else _check_index(index, arrays, result.compiled.num_rows)
    found = draw_posterior(rng_key, result, arrays, num_samples, batch_size, rows)
    labels = _Labels(found, arrays, coords or {}, dims or {})
    groups = {
        "posterior": _posterior(found, labels),
        "marginals": _marginals(found, labels),
        "network_outputs": labels.dataset(found.outputs, labels.output_dims, default=[ITEM]),
        "workload": labels.dataset(found.workload, {n: [EXPERT] for n in found.workload}),
        "log_likelihood": labels.dataset(found.evidence, {"log_evidence": [ITEM]}, draws=True),
        "observed_data": labels.observed(arrays),
        "constant_data": labels.dataset({n: a for n, a in arrays.items() if n == "x"}, {"x": [ITEM]}),
    }
    return _tree({name: group for name, group in groups.items() if group.data_vars}, result, found)


def _checked(
    rng_key: Array, result: FitResult, data: Mapping[str, Any], num_samples: int, batch_size: int
) -> dict[str, Array]:
    """Check the arguments, and return the arrays in the types that the programs were compiled for."""
    check_key(rng_key)
    if result.compiled.batched:
        raise ValueError("Expected a single run, found a batch of runs. Choose one by result.run(i).")
    for name, number in {"num_samples": num_samples, "batch_size": batch_size}.items():
        if number < 1:
            raise ValueError(f"Expected at least one as {name}, found {number}.")
    check_data(data, 1, "data")
    check_declared(result.model, Given("data", data))
    unknown = sorted(set(data) - set(result.example))
    if unknown:
        raise ValueError(f"Expected entries of data among {sorted(result.example)}, found {unknown} besides.")
    for name, array in data.items():
        trained = result.example[name].shape[1:]
        if np.shape(array)[1:] != trained:
            raise ValueError(
                f"Expected data[{name!r}] of shape {('N', *trained)} as in training, found {np.shape(array)}."
            )
    return {name: jnp.asarray(a, result.example[name].dtype) for name, a in data.items()}


def _check_index(index: Any, arrays: Mapping[str, Array], num_rows: int) -> Array:
    rows, length = np.asarray(index), len(next(iter(arrays.values())))
    fits = rows.shape == (length,) and np.issubdtype(rows.dtype, np.integer)
    if not fits or rows.min() < 0 or rows.max() >= num_rows:
        raise ValueError(
            f"Expected index as the {length} items' rows of the training data, integers from 0 to {num_rows - 1}, "
            f"found {rows.dtype} of shape {rows.shape}. Leave it out for new items."
        )
    return jnp.asarray(rows)


class _Labels:
    """Names of dimensions and coordinates."""

    def __init__(
        self,
        found: Found,
        data: Mapping[str, Array],
        coords: Mapping[str, Sequence],
        dims: Mapping[str, Sequence[str]],
    ):
        self.sizes = {plate: size for site in found.sites.values() for plate, size in site.plates}
        self.sizes[ITEM] = len(next(iter(data.values())))
        self.has_ai = "ai_probs" in found.outputs
        if "v" in found.sites:  # a gate over clusters of people, and the AI
            self.sizes[OPTION] = found.sites["v"].size
        if "w" in found.sites:
            self.sizes[EXPERT] = found.sites["w"].size
        if self.has_ai:
            self.sizes[CATEGORY] = found.outputs["ai_probs"].shape[-1]
        elif "cluster_probs" in found.outputs:
            self.sizes[CLUSTER], self.sizes[CATEGORY] = found.outputs["cluster_probs"].shape[1:]
        if "gate_probs" in found.outputs and OPTION not in self.sizes:
            self.sizes.setdefault(EXPERT, found.outputs["gate_probs"].shape[-1])
        elif "annotations" in data:
            self.sizes.setdefault(EXPERT, data["annotations"].shape[1] + self.has_ai)
        self.dims = dims
        self.coords = {**{name: list(values) for name, values in coords.items()}, **dict(self._names(coords))}

    def _names(self, coords: Mapping[str, Sequence]) -> Iterator[tuple[str, list]]:
        for name in (ITEM, EXPERT, CATEGORY, CLUSTER, OPTION):
            if name not in self.sizes:
                continue
            size, given = self.sizes[name], list(coords.get(name, coords.get(CLUSTER, ()) if name == OPTION else ()))
            with_ai = self.has_ai and name in (EXPERT, OPTION)
            if not given and with_ai:
                given = [f"{'cluster' if name == OPTION else name}_{i}" for i in range(size - 1)]
            given = given or list(range(size))
            if with_ai and len(given) == size - 1:
                given = [*given, AI]
            if len(given) != size:
                raise ValueError(f"Expected {size} names in coords[{name!r}], found {len(given)}.")
            if len(set(given)) < size:
                raise ValueError(f"Expected distinct names in coords[{name!r}], found {given}. Rename some.")
            yield name, given

    @property
    def output_dims(self) -> dict[str, list[str]]:
        """Dimensions of the networks' outputs; the gate is over options where options are not people."""
        return {**OUTPUT_DIMS, "gate_probs": [ITEM, OPTION]} if OPTION in self.sizes else OUTPUT_DIMS

    def values_of(self, name: str, site: SiteShape) -> str:
        """Name the dimension of the values of a site."""
        fitting = (dim for dim in VALUE_DIMS.get(name, ()) if self.sizes.get(dim) == site.size)
        return next(fitting, f"{name}_value")

    def dataset(
        self,
        arrays: Mapping[str, Any],
        dims: Mapping[str, Sequence[str]],
        *,
        default: Sequence[str] = (),
        draws: bool = False,
    ) -> "xr.Dataset":
        """Label arrays; those in ``draws`` have a leading axis of length S."""
        from arviz_base import dict_to_dataset

        named: dict[Any, Any] = {}
        axes: dict[Any, Any] = {}
        for site, array in arrays.items():
            name, array = site.replace("/", "."), np.asarray(array)
            named[name] = array[None] if draws else array
            proposed = zip(dims.get(site, default), array.shape[int(draws) :], strict=False)
            fitting = [d if self.sizes.get(d, size) == size else None for d, size in proposed]
            axes[name] = list(self.dims.get(name, fitting))
        coords: dict[Any, Any] = dict(self.coords)
        sample_dims = ["chain", "draw"] if draws else []
        return dict_to_dataset(named, inference_library=numpyro, coords=coords, dims=axes, sample_dims=sample_dims)

    def observed(self, data: Mapping[str, Array]) -> "xr.Dataset":
        """Label the observed data; the AI annotates nothing."""
        arrays = {n: a for n, a in data.items() if n != "x"}
        people = copy.copy(self)
        if "annotations" in arrays and self.sizes[EXPERT] == arrays["annotations"].shape[1] + 1:
            people.sizes = {**self.sizes, EXPERT: self.sizes[EXPERT] - 1}
            people.coords = {**self.coords, EXPERT: self.coords[EXPERT][:-1]}
        return people.dataset(arrays, OBSERVED_DIMS, default=[ITEM])


def _posterior(found: Found, labels: _Labels) -> "xr.Dataset":
    dims = {n: [plate for plate, _ in s.plates] for n, s in found.sites.items()}
    for name, site in found.sites.items():
        if site.kind == "dirichlet":
            dims[name].append(labels.values_of(name, site))
    return labels.dataset({**found.draws, **found.weights}, dims, draws=True)


def _marginals(found: Found, labels: _Labels) -> "xr.Dataset":
    probs = {f"{n}_probs": a for n, a in found.probs.items()}
    sites = {f"{n}_probs": (n, found.sites[n]) for n in found.probs}
    dims = {name: [*(p for p, _ in s.plates), labels.values_of(n, s)] for name, (n, s) in sites.items()}
    return labels.dataset(probs, dims)


def _tree(groups: dict[str, "xr.Dataset"], result: FitResult, found: Found) -> "xr.DataTree":
    import xarray as xr

    about = {"inference_name": "SVI", "epochs": result.epoch, "status": result.status}
    for group in groups.values():
        group.attrs.pop("sample_dims", None)  # some plots of arviz-plots mistake it for an argument of their own
    groups["posterior"].attrs.update(about)
    tree = xr.DataTree.from_dict(groups)
    tree.attrs.update(about)
    if not found.evidence:
        tree.attrs["log_likelihood_left_out"] = found.left_out
    return tree
