"""Memberships as averages of the items' Dirichlet posteriors: appendix B.F of paper B, for comparison."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray
from numpyro.distributions import CategoricalLogits, CategoricalProbs
from numpyro.handlers import seed, substitute, trace

from pl2d_ppl.checks.names import listed, names_of
from pl2d_ppl.checks.warn import warn
from pl2d_ppl.engine._numpyro import unwrap
from pl2d_ppl.engine.coordinate_ascent import coordinate_ascent
from pl2d_ppl.engine.dirichlet import is_dirichlet
from pl2d_ppl.engine.program import read_program
from pl2d_ppl.engine.program_key import ProgramKey
from pl2d_ppl.networks import evaluation
from pl2d_ppl.people.annotations import check_annotations, padded_length
from pl2d_ppl.people.membership import Membership

__all__ = ["average_dirichlet"]

SITE = "u"


def average_dirichlet(
    model: Callable,
    params: Mapping[str, Any],
    x: Any,
    annotations: Any,
    *,
    tolerance: float = 1e-5,
    max_sweeps: int = 100,
    batch_size: int = 4096,
    people: Sequence[Any] | None = None,
    clusters: Sequence[Any] | None = None,
) -> Membership:
    """Average the Dirichlet posteriors of each person's items, given only the person's own vote on each item.

    For every item i that person m annotated, the program of anonymous votes observes only that vote, and mean field
    gives q(u_i) = Dirichlet(rho_i) (B.13, B.16). The membership is the mean of rho over the person's items, normalised
    (B.F). One vote adds 1 to a concentration of sum(alpha): with alpha = 50 all memberships are nearly equal, even with
    many annotations. :func:`~pl2d_ppl.people.place.sample_membership` learns from all annotations at once.

    Parameters
    ----------
    model : callable
        Program of votes, such as ``partial(annotator_lda, clusters=...)``, called as ``model(x, votes=votes)`` with
        votes (n, 1), with a Dirichlet site ``u``, one per item.
    params : mapping of str to pytree
        Parameters of the program, such as ``result.params``; networks are in evaluation mode.
    x : array, shape (N, ...)
        Inputs.
    annotations : array of int, shape (N, M)
        Annotations of each of M people, -1 where missing.
    tolerance, max_sweeps : float, int
        Arguments of :func:`~pl2d_ppl.engine.coordinate_ascent.coordinate_ascent`.
    batch_size : int
        Number of annotations passed through the networks at a time.
    people, clusters : sequence, optional
        Names; by default person_0 .., cluster_0 ...

    Returns
    -------
    Membership
        Estimated memberships, without draws.

    Warns
    -----
    UserWarning
        If a person has no annotation, and so gets the mean of the prior.

    Raises
    ------
    ValueError
        If arguments do not have this form.
    """
    x = np.asarray(x)
    if x.ndim == 0 or len(x) == 0:
        raise ValueError(f"Expected x of shape (N, ...), found {x.shape}.")
    if np.issubdtype(x.dtype, np.floating) and not np.isfinite(x).all():
        raise ValueError("Expected finite values in x, found NaN or infinity. Impute or leave those rows out.")
    for name, number in {"max_sweeps": max_sweeps, "batch_size": batch_size}.items():
        if number < 1:
            raise ValueError(f"Expected at least one as {name}, found {number}.")
    program = ProgramKey(model)
    num_clusters, num_categories = _sizes(model, params, jnp.asarray(x[:1]))
    said, names = check_annotations(annotations, len(x), people, num_categories)
    cluster_names = names_of(clusters, num_clusters, "cluster")

    person, item = np.nonzero(said.T >= 0)
    votes = said[item, person]
    num_annotations = np.bincount(person, minlength=len(names))
    silent = np.flatnonzero(num_annotations == 0)
    if silent.size:  # the posterior of an item without a vote is the prior
        warn(
            f"Expected annotations of everybody, found none of {listed([names[m] for m in silent])}: their membership "
            "is the mean of the prior. Drop them if they do not belong here."
        )
        person, item = np.append(person, silent), np.append(item, 0 * silent)
        votes = np.append(votes, 0 * silent - 1)
    rho = _batches(program, params, x, item, votes, (tolerance, max_sweeps), batch_size)
    total = np.zeros((len(names), num_clusters))
    np.add.at(total, person, rho)
    probs = (total / total.sum(1, keepdims=True)).T.astype(rho.dtype)
    return Membership(probs, num_annotations, names, cluster_names, "average-dirichlet")


def _sizes(model: Callable, params: Mapping[str, Any], x: Array) -> tuple[int, int | None]:
    """Run a program abstractly on one item; return the number of clusters, and that of categories if known."""
    sites: dict[str, dict] = {}

    def run(params: Mapping[str, Any], x: Array, votes: Array) -> None:
        sites.update(trace(substitute(seed(model, jax.random.key(0)), data=dict(params))).get_trace(x, votes=votes))

    with evaluation():
        jax.eval_shape(run, params, x, jax.ShapeDtypeStruct((1, 1), np.int32))
    site = sites.get(SITE)
    if site is None or site["type"] != "sample" or not is_dirichlet(site["fn"]) or site["fn"].batch_shape != (1, 1):
        raise ValueError(
            f"Expected a program of votes with a Dirichlet site {SITE!r} in a plate of items (dim -2), found sites "
            f"{list(sites)}. Pass partial(annotator_lda, ...)."
        )
    observed = [unwrap(s["fn"])[0] for s in sites.values() if s["type"] == "sample" and s["is_observed"]]
    votes_of = [fn for fn in observed if isinstance(fn, CategoricalLogits | CategoricalProbs)]
    tables = [fn.logits if isinstance(fn, CategoricalLogits) else fn.probs for fn in votes_of]
    return site["fn"].event_shape[0], jnp.shape(tables[0])[-1] if tables else None


def _batches(
    program: ProgramKey,
    params: Mapping[str, Any],
    x: NDArray,
    item: NDArray,
    votes: NDArray,
    options: tuple[float, int],
    batch_size: int,
) -> NDArray[np.floating]:
    """Compute concentrations of items given one vote each, (votes, K), batch by batch."""
    size = min(batch_size, padded_length(len(item)))
    found = []
    for start in range(0, len(item), size):
        rows, said = item[start : start + size], votes[start : start + size]
        padding = size - len(rows)
        padded = jnp.asarray(x[np.pad(rows, (0, padding))])
        vote = jnp.asarray(np.pad(said, (0, padding), constant_values=-1), jnp.int32)[:, None]
        found.append(np.asarray(_concentrations(program, options, params, padded, vote))[: len(rows)])
    return np.concatenate(found)


@partial(jax.jit, static_argnums=(0, 1))
def _concentrations(
    program: ProgramKey, options: tuple[float, int], params: Mapping[str, Any], x: Array, votes: Array
) -> Array:
    """Concentrations of q(u) of items with one vote each, (n, K)."""
    tolerance, max_sweeps = options
    with evaluation():
        model = substitute(seed(program.model, jax.random.key(0)), data=dict(params))
        q = coordinate_ascent(read_program(model, (x,), {"votes": votes}), tolerance=tolerance, max_sweeps=max_sweeps)
    return q.concentrations[SITE].reshape(len(x), -1)
