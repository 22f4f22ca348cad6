"""Results of a fit on items, as a tree of labelled arrays for ArviZ."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from pl2d_ppl.checks.data import check_data
from pl2d_ppl.checks.declared import Given, check_declared
from pl2d_ppl.checks.keys import check_key
from pl2d_ppl.inference.labels import Labels
from pl2d_ppl.inference.posterior import Found, draw_posterior
from pl2d_ppl.inference.result import FitResult

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["checked_items", "to_datatree"]


def to_datatree(
    rng_key: Array,
    result: FitResult,
    data: Mapping[str, Any],
    *,
    num_samples: int = 200,
    coords: Mapping[str, Sequence] | None = None,
    dims: Mapping[str, Sequence[str]] | None = None,
    batch_size: int = 1024,
    index: Any = None,
) -> "xr.DataTree":
    """Return posterior, network outputs and workload of a fit on some items, for ArviZ.

    The guide is evaluated on chunks of the items, with networks in evaluation mode; its bounds on workload hold on
    average over all of just these items, and a ``window`` over earlier mini-batches is left out. Latent sites that the
    guide keeps are drawn from it, in its order. Latent sites that it sums out are then drawn from their exact posterior
    given the former. Each draw is thus from the joint posterior, which under a workload is the projected one.

    Memory is that of the tree, and of one chunk. Discrete draws are of the smallest type of integers that holds their
    values. Items that share a latent site which the guide does not draw first, such as one coin of all items, and
    programs of a fixed number of items, are not cut into chunks.

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
        Number of items at a time.
    index : array of int, shape (N,), optional
        Rows of the training data that the items are. Needed for latent sites of single items that the guide has learned
        parameters of; without it such sites of new items are drawn from their priors.

    Returns
    -------
    xarray.DataTree
        Groups, with M + 1 deciders along ``expert``, the AI last:

        - ``posterior``: draws of the latent sites, with dimensions ``chain`` (1) and ``draw`` (S), and plates: ``z``
          (item), ``t`` (item, expert), and network weights and other continuous sites that have a posterior, with "."
          for "/" in their names. Deterministic sites that they decide: those that all items share, such as ``person``
          of ``pooled_l2d``, and those that come after a discrete site.
        - ``marginals``: posterior probabilities of the discrete sites, ``z_probs`` (item, expert) and
          ``t_probs`` (item, expert, category), of the projected posterior under a workload.
        - ``network_outputs``: the other deterministic sites. Logits become probabilities: ``gate_probs`` (item,
          expert), ``ai_probs`` (item, category) and ``belief_probs`` (item, expert, category). Others keep name and
          values, such as ``right_probs``.
        - ``workload``, where the guide is a :class:`~pl2d_ppl.engine.workload.workload`: ``z_multipliers``,
          ``z_mean``, ``z_lower``, ``z_upper`` (expert), and ``z_violation``.
        - ``log_likelihood``, for ``az.loo``: ``log_evidence`` (chain, draw, item), and each observed site that no
          discrete site decides, such as ``right`` (chain, draw, item, expert); see the notes.
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
    local to the item summed out: in ``prob_l2d``, the evidence of annotations, y and y_ai. An observed site has a
    variable of its own where no discrete latent site decides it; elsewhere, only all observations of an item together
    have a likelihood once that site is summed out. It is NaN where data are missing. Where there are several variables,
    pass ``az.loo(tree, var_name="log_evidence")``. Under a workload the group is left out too: the constraints of the
    posterior make items depend on one another. The draws come from the guide:
    if the guide approximates the posterior poorly, the estimate is poor (Magnusson et al. 2019,
    Bayesian leave-one-out cross-validation for large data. ICML).
    """
    arrays = checked_items(rng_key, result, data, num_samples, batch_size)
    rows = None if index is None else _check_index(index, arrays, result.compiled.num_rows)
    found = draw_posterior(rng_key, result, arrays, num_samples, batch_size, rows)
    plate = result.compiled.plate
    labels = Labels(found.sizes, plate, found.sites, found.outputs, arrays, coords, dims)
    groups = {
        "posterior": _posterior(found, labels),
        "marginals": _marginals(found, labels),
        "network_outputs": labels.dataset(
            found.outputs, {n: labels.of_output(n, found.dims[n]) for n in found.outputs}
        ),
        "workload": _workload(found, labels),
        "log_likelihood": labels.dataset(found.evidence, found.dims, draws=True),
        "observed_data": labels.data({n: a for n, a in arrays.items() if n != "x"}),
        "constant_data": labels.data({n: a for n, a in arrays.items() if n == "x"}),
    }
    return _tree({name: group for name, group in groups.items() if group.data_vars}, result, found)


def checked_items(
    rng_key: Array, result: FitResult, data: Mapping[str, Any], num_samples: int, batch_size: int
) -> dict[str, Array]:
    """Check the arguments, and return the arrays in the types that the programs were compiled for.

    Parameters
    ----------
    rng_key : Array
        A typed key.
    result : FitResult
        The fit.
    data : mapping of str to array, shape (N, ...)
        Items.
    num_samples, batch_size : int
        Positive numbers.

    Returns
    -------
    dict of str to Array
        The data.

    Raises
    ------
    ValueError
        If they are not as they should be.
    """
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


def _posterior(found: Found, labels: Labels) -> "xr.Dataset":
    dims = {n: list(found.dims[n]) for n in found.draws}
    for name, site in found.sites.items():
        if site.kind == "dirichlet":
            dims[name] = [*dims[name][:-1], labels.of_values(name, site)]
    return labels.dataset(found.draws, dims, draws=True)


def _marginals(found: Found, labels: Labels) -> "xr.Dataset":
    probs = {f"{n}_probs": a for n, a in found.probs.items()}
    sites = {f"{n}_probs": (n, found.sites[n]) for n in found.probs}
    dims = {name: [*(p for p, _ in s.plates), labels.of_values(n, s)] for name, (n, s) in sites.items()}
    return labels.dataset(probs, dims)


def _workload(found: Found, labels: Labels) -> "xr.Dataset":
    dims = {n: [labels.of_values(site, found.sites[site])] for n in found.workload for site in [n.rpartition("_")[0]]}
    return labels.dataset(found.workload, dims)


def _tree(groups: dict[str, "xr.Dataset"], result: FitResult, found: Found) -> "xr.DataTree":
    import xarray as xr

    about = {"inference_name": "SVI", "epochs": result.epoch, "status": result.status}
    for group in groups.values():
        group.attrs.pop("sample_dims", None)  # some plots of arviz-plots mistake it for an argument of their own
    if "posterior" in groups:
        groups["posterior"].attrs.update(about)
    tree = xr.DataTree.from_dict(groups)
    tree.attrs.update(about)
    if not found.evidence:
        tree.attrs["log_likelihood_left_out"] = found.left_out
    return tree
