"""Exact guide: the posterior of discrete sites, from the elimination of the program's variables."""

from collections.abc import Callable, Sequence
from typing import Any

import numpyro

from pl2d_ppl.engine.elbo import ExactSite
from pl2d_ppl.engine.elimination import eliminate
from pl2d_ppl.engine.guide_tools import context_of, logits_at, over_values, prepare
from pl2d_ppl.engine.marginals import require_discrete, require_sites

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

    def guide(*args: Any, **kwargs: Any) -> None:
        program = prepare(model, args, kwargs, continuous)
        latents = require_discrete(program.latents)
        names = list(latents) if sites is None else list(sites)
        require_sites(names, latents)
        names = sorted(names, key=lambda name: len(latents[name].long_plates))
        left = {n: s for n, s in latents.items() if n not in names}
        inner = eliminate(program.factors, left)
        kept = {n: latents[n] for n in names}
        conditionals = eliminate(inner.factors, kept, order=names[::-1]).conditionals
        mark = ExactSite(model, args, kwargs, tuple(names))
        drawn: dict[str, Any] = {}
        for name in names:
            with context_of(program, latents[name]):
                factor = over_values(logits_at(conditionals[name], latents[name], latents, drawn), latents[name])
                infer = {"enumerate": "parallel", "exact": mark.of(factor)}
                drawn[name] = numpyro.sample(name, factor, infer=infer)

    guide.continuous = continuous  # type: ignore[attr-defined]
    return guide
