"""Effect handler that bounds how often a guide's discrete site takes its values."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from jax import Array
from numpyro.distributions import Distribution

from pl2d_ppl.checks.bounds import check_bounds
from pl2d_ppl.distributions.finite import over_support
from pl2d_ppl.engine._numpyro import unwrap
from pl2d_ppl.engine.enumeration import is_positions, support_of
from pl2d_ppl.engine.per_run import PerRun, guide_of, tree_of_guide
from pl2d_ppl.engine.projection import Projection, log_floor, project, shift
from pl2d_ppl.engine.site_handler import SiteHandler

__all__ = ["workload"]


@jax.tree_util.register_pytree_node_class
class workload(SiteHandler):
    r"""Bound how often a guide's discrete site takes its values, on average over its plate.

    The distribution q at the site becomes its I-projection onto
    :math:`l_k \le \frac1N \sum_i \tilde q_{ik} \le u_k` (paper A, equations A.7 to A.10),

    .. math:: \tilde q_{ik} \propto q_{ik} e^{-\nu_k},

    with one signed multiplier per value: :math:`\nu_k > 0` where the upper bound lowers the mean and :math:`\nu_k < 0`
    where the lower bound raises it. It is the shadow price of that person's time. Deterministic sites record the
    multipliers, ``{site}_multipliers``, the resulting mean, ``{site}_mean``, and the largest remaining violation of a
    bound, ``{site}_violation``. Conditionals of other sites given this one do not change, so that the projection is
    exact on the joint.

    The handler is a pytree whose leaves are the bounds, and those of a workload that it wraps: it can be passed through
    ``jit`` and batched with ``vmap``, and one compiled program serves all bounds.

    Parameters
    ----------
    fn : callable
        A guide. The site's distribution must not depend on another enumerated site.
    site : str
        Name of a discrete latent site, such as ``"z"``: the experts in order, then the AI.
    lower, upper : array_like, shape (number of values,), or PerRun of shape (R, number of values)
        Bounds on the mean over the plate, between 0 and 1. In a batch of R fits,
        :class:`~pl2d_ppl.engine.per_run.PerRun` gives each run its own.
    window : int, optional
        By default every mini-batch meets the bounds by itself, as in paper A. Small batches then force decisions that
        the whole data set would not need. With a window, the bounds hold on average over about this many of the last
        items: their ln q is kept as mutable state, and the batch uses the multipliers of the whole window. If the
        window is long compared to the pace of learning, it holds items of an older posterior.
    tolerance : float
        Largest violation of a bound, and of complementary slackness, at which the projection stops.
    max_steps : int
        Largest number of steps of the projection.

    Raises
    ------
    ValueError
        If the bounds are crossed, outside [0, 1], infeasible, or a matrix that is not PerRun, raised before anything is
        traced. If the guide has no such site, the length of the bounds differs from its number of values, or bounds of
        several runs are used outside of a batch, raised at the first call.
    """

    def __init__(
        self,
        fn: Callable | None = None,
        site: str = "",
        lower: Any = 0.0,
        upper: Any = 1.0,
        *,
        window: int | None = None,
        tolerance: float = 1e-5,
        max_steps: int = 100,
    ):
        if window is not None and window < 1:
            raise ValueError(f"Expected a window of at least one item, found {window}. Leave it out for no window.")
        self.lower, self.upper = _checked(lower, upper)
        self.window, self.tolerance, self.max_steps = window, tolerance, max_steps
        super().__init__(fn, site)

    def tree_flatten(self):
        """Split the handler into the guide and the bounds, which have leaves, and everything else."""
        leaves = (tree_of_guide(self.fn), self.lower, self.upper)
        return leaves, (self.site, self.window, self.tolerance, self.max_steps)

    @classmethod
    def tree_unflatten(cls, static, leaves):
        """Rebuild the handler without checks: the bounds may be traced."""
        handler = cls.__new__(cls)
        site, handler.window, handler.tolerance, handler.max_steps = static
        guide, handler.lower, handler.upper = leaves
        SiteHandler.__init__(handler, guide_of(guide), site)
        return handler

    def __enter__(self):
        if isinstance(self.lower, PerRun) or isinstance(self.upper, PerRun):
            raise ValueError(
                f"Expected the bounds of one run on site {self.site!r}, found those of several (PerRun). Pass the "
                "workload itself as the guide of a fit, outside of other handlers, with a key for each run."
            )
        return super().__enter__()

    def process_message(self, msg: dict) -> None:
        """Replace the site's distribution by its projection."""
        if not self.is_site(msg):
            return
        log_q, counted, _ = self.read(msg)
        rows = log_q.reshape(-1, log_q.shape[-1])
        projection = self.project(*self._remember(jax.lax.stop_gradient(rows), counted.reshape(-1)))
        msg["fn"] = self.shifted(msg, projection.multipliers)
        share = counted.reshape(-1) / jnp.maximum(counted.sum(), 1.0)
        projected = shift(rows, projection.multipliers)
        numpyro.deterministic(f"{self.site}_multipliers", projection.multipliers)
        numpyro.deterministic(f"{self.site}_mean", share @ jnp.exp(projected))
        numpyro.deterministic(f"{self.site}_violation", projection.violation)

    def project(self, rows: Array, counted: Array) -> Projection:
        """Bring the mean of rows of log-probabilities, shape (N, K), within the bounds; rows may count, shape (N,)."""
        return project(
            rows, self.lower, self.upper, weights=counted, tolerance=self.tolerance, max_steps=self.max_steps
        )

    def shifted(self, msg: dict, multipliers: Array) -> Distribution:
        """Return the distribution of the site, a message, under given multipliers."""
        log_q, counted, support = self.read(msg)
        # A row that does not count keeps its distribution: it would pay for the bounds of others.
        projected = jnp.where(counted[..., None] > 0, shift(log_q, multipliers), log_q)
        return _masked(over_support(projected, support), msg["fn"])

    def read(self, msg: dict) -> tuple[Array, Array, Array | None]:
        """Return ln q of every element, whether it counts, and the values of the site if they are not 0, 1, 2 ..."""
        core, masks = unwrap(msg["fn"])
        support = support_of(self.site, msg["fn"])
        log_q = jnp.moveaxis(core.log_prob(support), 0, -1)
        log_q = log_floor(jnp.broadcast_to(log_q, (*msg["fn"].batch_shape, log_q.shape[-1])))
        self._check_site(msg, log_q)
        counted = jnp.ones(log_q.shape[:-1], log_q.dtype)
        for mask in [*masks, msg["infer"].get("counted", True)]:
            counted = counted * mask
        return log_q, counted, None if is_positions(support) else support.ravel()

    def _check_site(self, msg: dict, log_q: Array) -> None:
        depth = max((-f.dim for f in msg["cond_indep_stack"]), default=0)
        if log_q.ndim - 1 > depth:
            raise ValueError(
                f"Expected site {self.site!r} to come first in its guide, found a distribution of shape "
                f"{log_q.shape} that depends on another enumerated site. Write the guide as q({self.site}) times the "
                "rest given it."
            )
        lengths = jnp.shape(self.lower)[-1], jnp.shape(self.upper)[-1]
        if lengths != (log_q.shape[-1],) * 2:
            raise ValueError(
                f"Expected one lower and one upper bound for each of the {log_q.shape[-1]} values of site "
                f"{self.site!r} (the experts in order, then the AI), found {lengths[0]} and {lengths[1]}."
            )

    def _remember(self, rows: Array, counted: Array) -> tuple[Array, Array]:
        """Overwrite the oldest rows of the window by the batch; return the rows to project, and their weights."""
        if self.window is None:
            return rows, counted
        length = max(self.window, rows.shape[0])
        empty = {
            "log_q": jnp.zeros((length, rows.shape[1]), rows.dtype),
            "filled": jnp.zeros(length, rows.dtype),
        }
        state = numpyro.primitives.mutable(f"{self.site}_window", empty)
        log_q = jnp.concatenate([rows, state["log_q"][: length - rows.shape[0]]])
        filled = jnp.concatenate([counted, state["filled"][: length - rows.shape[0]]])
        state["log_q"], state["filled"] = log_q, filled
        return log_q, filled


def _masked(factor: Distribution, like: Distribution) -> Distribution:
    """Mask a distribution as another one is."""
    for mask in unwrap(like)[1]:
        factor = factor.mask(mask)
    return factor


def _checked(lower: Any, upper: Any) -> tuple[Any, Any]:
    """Check bounds, and return them as arrays; those of runs stay PerRun."""
    _check_axes(lower, upper)
    bounds = [b.value if isinstance(b, PerRun) else b for b in (lower, upper)]
    if any(isinstance(b, jax.core.Tracer) for b in bounds):
        return lower, upper
    shapes = [np.shape(b) for b in bounds]
    if shapes[0][-1:] == shapes[1][-1:]:  # a bound that all runs share meets the bounds of each
        bounds = list(np.broadcast_arrays(*bounds)) if {len(s) for s in shapes} == {1, 2} else bounds
    low, high = check_bounds(*bounds)
    return _as_given(lower, low), _as_given(upper, high)


def _as_given(bound: Any, array: Any) -> Any:
    return PerRun(array) if isinstance(bound, PerRun) else array.reshape(-1, array.shape[-1])[0]


def _check_axes(lower: Any, upper: Any) -> None:
    for name, bound in (("lower", lower), ("upper", upper)):
        shape = np.shape(bound.value if isinstance(bound, PerRun) else bound)
        if isinstance(bound, PerRun) and len(shape) != 2:
            raise ValueError(
                f"Expected {name} bounds of runs of shape (R, K), found PerRun of shape {shape}. Pass a row for each "
                "run, or bounds of shape (K,) that all runs share."
            )
        if not isinstance(bound, PerRun) and len(shape) > 1:
            raise ValueError(
                f"Expected {name} bounds of shape (K,), found {shape}. If its rows are the bounds of the runs of a "
                f"batch, say so: workload(..., {name}=PerRun({name}))."
            )
