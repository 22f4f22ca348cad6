"""Exact guide: the posterior of discrete sites, from the elimination of the program's variables."""

from collections.abc import Callable, Sequence
from typing import Any

import numpyro

from pl2d_ppl.engine.elbo import ExactSite
from pl2d_ppl.engine.elimination import eliminate
from pl2d_ppl.engine.guide_tools import DerivedGuide, context_of, enumerated, logits_at, over_values
from pl2d_ppl.engine.marginals import require_discrete, require_sites
from pl2d_ppl.engine.program import Program

__all__ = ["exact"]


def exact(model: Callable, sites: Sequence[str] | None = None, *, continuous: Callable | None = None) -> Callable:
    """Build the guide q(s_1) q(s_2 | s_1) ..., each factor the exact posterior of the program.

    Summing sites out from the last to the first leaves, at each sum, the posterior of the site given those that come
    before it and that it depends on.

    Parameters
    ----------
    model : callable
        The program.
    sites : sequence of str, optional
        Sites of the guide; by default all discrete latent sites, in program order. Sites in outer plates come first. A
        site left out is summed out of the model exactly, which gives the same evidence.
    continuous : callable, optional
        A guide of the other latent sites, such as ``normal(model)`` for priors on network weights; it runs first.

    Returns
    -------
    callable
        A guide that takes the model's arguments. With it the ELBO is the log evidence.
    """
    names = None if sites is None else tuple(sites)
    return DerivedGuide(_sample, model, continuous, sites=names)


def _sample(model: Callable, program: Program, args: tuple, kwargs: dict, sites: tuple[str, ...] | None) -> None:
    latents = require_discrete(program.latents)
    require_sites(list(latents if sites is None else sites), latents)
    names = sorted(latents if sites is None else sites, key=lambda name: latents[name].depth)
    inner = eliminate(program.factors, {n: s for n, s in latents.items() if n not in names})
    conditionals = eliminate(inner.factors, {n: latents[n] for n in names}, order=names[::-1]).conditionals
    mark = ExactSite(model, args, kwargs, tuple(names))
    drawn: dict[str, Any] = {}
    for name in names:
        site = latents[name]
        with context_of(program, site):
            factor = over_values(logits_at(conditionals[name], site, latents, drawn), site)
            infer = {**enumerated(site), "exact": mark.of(factor)}
            drawn[name] = numpyro.sample(name, factor, infer=infer)
