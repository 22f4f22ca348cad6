"""Any small discrete program: sums over the table of its joint."""

import itertools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from scipy.special import logsumexp, softmax, xlogy

Array = np.ndarray
LogJoint = Callable[[dict[str, int]], float]


def _log_joint_table(sites: Mapping[str, int], log_joint: LogJoint) -> Array:
    """Evaluate `log_joint` at every assignment; axes in the order of `sites`."""
    table = np.empty(tuple(sites.values()))
    for index in itertools.product(*map(range, table.shape)):
        table[index] = log_joint(dict(zip(sites, index, strict=True)))
    return table


def brute_force(sites: Mapping[str, int], log_joint: LogJoint) -> tuple[float, dict[str, Array], Array]:
    """Exact posterior of a program with discrete latent sites.

    Parameters
    ----------
    sites : mapping of str to int
        Latent sites and the sizes of their supports.
    log_joint : callable
        From ``{site: value}`` to ln p(latents, data), with the data closed over; -inf is allowed.

    Returns
    -------
    log_evidence : float
    marginals : dict of str to array of float
        p(site | data), shape (support,).
    joint : array of float
        p(latents | data), normalised, axes in the order of `sites`.

    Raises
    ------
    ValueError
        If the data have probability zero.
    """
    table = _log_joint_table(sites, log_joint)
    log_evidence = float(logsumexp(table))
    if not np.isfinite(log_evidence):
        raise ValueError(f"the log evidence must be finite, got {log_evidence}")
    joint = np.exp(table - log_evidence)
    marginals = {}
    for axis, name in enumerate(sites):
        marginals[name] = joint.sum(axis=tuple(a for a in range(joint.ndim) if a != axis))
    return log_evidence, marginals, joint


def _product(factors: Sequence[Array]) -> Array:
    """Outer product of the factors, one axis each."""
    table = np.ones(())
    for factor in factors:
        table = table[..., None] * factor
    return table


def _expectation(weights: Array, values: Array) -> Array:
    """Elementwise ``weights * values`` with 0 * -inf = 0."""
    return np.multiply(weights, values, out=np.zeros(values.shape), where=np.broadcast_to(weights > 0, values.shape))


def generic_elbo(sites: Mapping[str, int], log_joint: LogJoint, q: Mapping[str, Array]) -> float:
    """Evidence lower bound of a fully factorised q, summed over the full joint table.

    Parameters
    ----------
    sites, log_joint
        As in `brute_force`.
    q : mapping of str to array of float, shape (support,)
    """
    weights = _product([np.asarray(q[name], np.float64) for name in sites])
    table = _log_joint_table(sites, log_joint)
    return float(_expectation(weights, table).sum() - xlogy(weights, weights).sum())


def generic_mean_field(
    sites: Mapping[str, int],
    log_joint: LogJoint,
    init: Mapping[str, Array],
    order: Sequence[str],
    sweeps: int,
) -> dict[str, Array]:
    """Coordinate ascent ``ln q_s <- E_{q without s}[ln p] + const`` by expectation over the full joint table.

    Parameters
    ----------
    sites, log_joint
        As in `brute_force`.
    init : mapping of str to array of float, shape (support,)
        Start, one distribution a site.
    order : sequence of str
        Sites updated in one sweep, in turn; a site left out stays at its start.
    sweeps : int

    Returns
    -------
    dict of str to array of float, shape (support,)

    Raises
    ------
    ValueError
        If an update would have no mass anywhere.
    """
    names = list(sites)
    table = _log_joint_table(sites, log_joint)
    q = {name: np.array(init[name], np.float64) for name in names}
    for _ in range(sweeps):
        for name in order:
            axis = names.index(name)
            weights = _product([np.ones(1) if other == name else q[other] for other in names])
            others = tuple(a for a in range(table.ndim) if a != axis)
            log_q = _expectation(weights, table).sum(axis=others)
            if np.all(np.isneginf(log_q)):
                raise ValueError(f"the update of {name!r} has no mass: every value meets p = 0")
            q[name] = softmax(log_q)
    return q
