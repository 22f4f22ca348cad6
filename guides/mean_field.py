"""Mean-field guide: one free categorical or Dirichlet factor per site, by coordinate ascent on the program."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpyro
import numpyro.distributions as dist

from pl2d_ppl.engine.coordinate_ascent import coordinate_ascent
from pl2d_ppl.engine.guide_tools import DerivedGuide, context_of, enumerated, over_values
from pl2d_ppl.engine.program import Program
from pl2d_ppl.engine.shared_dirichlet import SharedDirichlet, shared_dirichlets

__all__ = ["mean_field"]


def mean_field(
    model: Callable,
    sites: Sequence[str] | None = None,
    *,
    continuous: Callable | None = None,
    start: Mapping[str, Any] | None = None,
    tolerance: float = 1e-4,
    max_sweeps: int = 50,
    delay: float = 1.0,
    forgetting: float = 0.7,
) -> Callable:
    """Build the guide q = prod_s q_s, every factor at its optimum given the others.

    For ``prob_l2d`` this is paper A's family, for ``annotator_lda`` paper B's (B.13, B.16). No update is written by
    hand, so that an edit of the model also changes the guide.

    A Dirichlet site that mini-batches share is learned over the steps by stochastic variational inference (Hoffman et
    al. 2013): its concentration is mutable state, and step t moves it by (t + delay)^-forgetting towards the optimum of
    the mini-batch, weighed up to the whole data set.

    Parameters
    ----------
    model : callable
        The program.
    sites : sequence of str, optional
        Sites of the guide; by default all discrete and Dirichlet latent sites. A discrete site left out is summed out
        exactly.
    continuous : callable, optional
        A guide of the other latent sites, such as ``normal(model)`` for priors on network weights; it runs first.
    start : mapping of str to array, optional
        Where coordinate ascent starts: probabilities of a discrete site, concentrations of a Dirichlet site, which
        broadcast to the shape of the site. By default the prior; where that leaves all values of a site alike, the
        guide's key breaks the tie.
    tolerance, max_sweeps : float, int
        When coordinate ascent stops; see :func:`~pl2d_ppl.engine.coordinate_ascent.coordinate_ascent`.
    delay, forgetting : float
        Steps of shared Dirichlet sites; forgetting is in (.5, 1].

    Returns
    -------
    callable
        A guide that takes the model's arguments.
    """
    return DerivedGuide(
        _sample,
        model,
        continuous,
        sites=None if sites is None else tuple(sites),
        start=tuple((start or {}).items()),
        steps=SharedDirichlet(delay, forgetting),
        tolerance=tolerance,
        max_sweeps=max_sweeps,
    )


def _sample(
    model: Callable,
    program: Program,
    args: tuple,
    kwargs: dict,
    sites: tuple[str, ...] | None,
    start: tuple[tuple[str, Any], ...],
    steps: SharedDirichlet,
    tolerance: float,
    max_sweeps: int,
) -> None:
    shared = {n: steps.state(program.latents[n], dict(start)) for n in shared_dirichlets(program, sites)}
    q = coordinate_ascent(
        program,
        sites,
        rng_key=numpyro.prng_key(),
        start={**dict(start), **{name: state["concentration"] for name, state in shared.items()}},
        fixed=list(shared),
        tolerance=tolerance,
        max_sweeps=max_sweeps,
    )
    for name, site in q.latents.items():
        with context_of(program, site):
            if site.kind == "discrete":
                numpyro.sample(name, over_values(q.log_probs[name], site), infer=enumerated(site))
            else:
                known = q.concentrations[name]
                rho = steps.step(program, q, name, shared[name]) if name in shared else known
                numpyro.sample(name, dist.Dirichlet(rho), infer={"log_mean": True})
