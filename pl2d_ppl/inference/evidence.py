"""Log-likelihoods of items, for leave-one-out cross-validation."""

from collections.abc import Mapping, Sequence

import numpy as np
from jax import Array

from pl2d_ppl.engine.elimination import eliminate, expectation
from pl2d_ppl.engine.factors import ONE, Factor, LatentSite

__all__ = ["log_evidence_of_items", "why_no_evidence"]


def why_no_evidence(weights: Mapping[str, Array], bounded: bool) -> str:
    """Say why draws of the parameters that items share give no log-likelihood to weigh; empty where they do.

    Parameters
    ----------
    weights : mapping of str to Array, shape (S, ...)
        The draws.
    bounded : bool
        Whether the posterior is under a workload.

    Returns
    -------
    str
        The reason.
    """
    if not any(len(a) == 1 or np.ptp(a, axis=0).any() for a in weights.values()):
        return "The parameters that items share are point estimates: there are no draws of them to weigh."
    if len(next(iter(weights.values()))) == 1:
        return "There is one draw of the parameters that items share: nothing to weigh. Raise num_samples."
    if bounded:
        return "Under a workload the draws are of a posterior under constraints, through which items depend."
    return ""


def log_evidence_of_items(
    factors: Sequence[Factor], latents: Mapping[str, LatentSite], values: Mapping[str, Array], plate: str | None
) -> tuple[dict[str, tuple[tuple[str, ...], Array]], str]:
    """Log evidence of every item given the values of shared sites, and of observed sites that no latent site decides.

    Parameters
    ----------
    factors : sequence of Factor
        The program's factors.
    latents : mapping of str to LatentSite
        Its discrete and Dirichlet sites.
    values : mapping of str to Array
        Sites that are given.
    plate : str or None
        The plate of the items.

    Returns
    -------
    dict of str to (tuple of str, Array), str
        Plates of the axes, the items first, and values: ``log_evidence`` (N,), and observed sites by name; or none of
        them, and the reason why they would be incomplete.
    """
    others = [n for n, site in latents.items() if site.kind != "discrete"]
    own = eliminate(factors, latents).factors if not others else []
    priors = [f.name for f in own if f.name in values and plate not in f.plates]
    others += [f.name for f in own if f.name not in priors and (f.name in values or plate not in f.plates)]
    if others or plate is None:
        return {}, f"Sites {others} are continuous in an item, or items share them, observed or discrete."
    of_items = [_over_plates(factor, [plate]) for factor in own if factor.name not in priors]
    if not of_items:
        return {}, "Nothing is observed of an item."
    found: dict[str, tuple[tuple[str, ...], Array]] = {}
    found["log_evidence"] = (plate,), sum(of_items[1:], start=of_items[0])
    for factor in factors:
        if factor.name not in priors and not factor.variables:
            plates = (plate, *(p for p in factor.plates if p != plate))
            found[factor.name] = plates, _over_plates(factor, plates)
    return found, ""


def _over_plates(factor: Factor, plates: Sequence[str]) -> Array:
    """Sum a factor over all other plates, without the weight of its part of the data."""
    return expectation(factor._replace(scale=ONE), {}, plates)
