"""Mean-field guide: one free categorical or Dirichlet factor per site, by coordinate ascent on the program."""

from collections.abc import Callable, Sequence

import numpyro
import numpyro.distributions as dist
from jax.nn import log_softmax

from pl2d_ppl.engine.coordinate_ascent import coordinate_ascent
from pl2d_ppl.engine.guide_tools import plates_of, prepare

__all__ = ["mean_field"]


def mean_field(
    model: Callable,
    sites: Sequence[str] | None = None,
    *,
    continuous: Callable | None = None,
    tolerance: float = 1e-4,
    max_sweeps: int = 50,
    max_plate_nesting: int = 2,
) -> Callable:
    """Build the guide q = prod_s q_s, every factor at its optimum given the others.

    For ``prob_l2d`` this is paper A's family, for ``annotator_lda`` paper B's (B.13, B.16). No update is written by
    hand, so that an edit of the model also changes the guide.

    Parameters
    ----------
    model : callable
        The program.
    sites : sequence of str, optional
        Sites of the guide; by default all discrete and Dirichlet latent sites. A discrete site left out is summed out
        exactly.
    continuous : callable, optional
        A guide of the other latent sites, such as ``normal(model)`` for priors on network weights; it runs first.
    tolerance, max_sweeps : float, int
        When coordinate ascent stops; see :func:`~pl2d_ppl.engine.coordinate_ascent.coordinate_ascent`.
    max_plate_nesting : int
        Number of batch dimensions that plates may use.

    Returns
    -------
    callable
        A guide that takes the model's arguments.
    """

    def guide(*args, **kwargs) -> None:
        program = prepare(model, args, kwargs, continuous, max_plate_nesting)
        q = coordinate_ascent(program, sites, tolerance=tolerance, max_sweeps=max_sweeps)
        for name, site in q.latents.items():
            with plates_of(program, site):
                if site.kind == "dirichlet":
                    numpyro.sample(name, dist.Dirichlet(q.concentrations[name]), infer={"log_mean": True})
                else:
                    factor = dist.Categorical(logits=log_softmax(q.log_probs[name], -1))
                    numpyro.sample(name, factor, infer={"enumerate": "parallel"})

    guide.continuous = continuous  # type: ignore[attr-defined]
    return guide
