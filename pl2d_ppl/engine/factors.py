"""Sample sites as factors: log-probabilities with named dimensions.

NumPyro's enumeration gives every discrete latent site its own tensor dimension, and records which dimension belongs to
which site or plate. The engine needs nothing else: exact marginals (:mod:`~pl2d_ppl.engine.marginals`),
mean-field updates (:mod:`~pl2d_ppl.engine.coordinate_ascent`) and the evidence lower bound
(:mod:`~pl2d_ppl.engine.elbo`) are sums and products of factors (:mod:`~pl2d_ppl.engine.elimination`).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.special import digamma
from numpyro.distributions import (
    CategoricalLogits,
    CategoricalProbs,
    Dirichlet,
    Distribution,
    ExpandedDistribution,
    MaskedDistribution,
)
from numpyro.ops.indexing import Vindex

from pl2d_ppl.engine._numpyro import given_mask

__all__ = ["Factor", "LatentSite", "Named", "latent_site", "site_factor"]

NAMELESS = "_pyro_dim_"  # NumPyro's name for a dimension that belongs to no plate and no site
LEAST_LOG_MEAN = -80.0  # exp of it is still a normal float32


class Named(NamedTuple):
    """An array whose axes have names: plates and enumerated sites."""

    dims: tuple[str, ...]
    data: Array


class Factor(NamedTuple):
    """The log-probability of one sample site.

    Attributes
    ----------
    name : str
        The site.
    log_prob : Named
        Log-probability; an axis is missing where the value does not vary along it.
    mask : Named or None
        If given, the factor is ``mask * log_prob``. The two stay separate when the mask depends on an enumerated site
        that ``log_prob`` does not depend on: "y through expert m, masked to z == m" is then
        O(M C + M^2) instead of O(M^2 C).
    scale : float or Array
        Weight of the site, from subsampled plates and :func:`numpyro.handlers.scale`.
    plates : dict of str to int
        The plates that the site lies in, and their sizes.
    """

    name: str
    log_prob: Named
    mask: Named | None
    scale: Any
    plates: dict[str, int]

    @property
    def variables(self) -> tuple[str, ...]:
        """Names of the enumerated sites that the factor touches."""
        dims = self.log_prob.dims + (self.mask.dims if self.mask else ())
        return tuple(dict.fromkeys(d for d in dims if d not in self.plates))


class LatentSite(NamedTuple):
    """A latent site that the engine handles: discrete (enumerated) or Dirichlet.

    Attributes
    ----------
    name : str
        The site.
    kind : {"discrete", "dirichlet"}
        Kind of the site.
    size : int
        Number of values, or of components.
    plates : dict of str to int
        Its plates, outermost first, and their sizes.
    shape : tuple of int
        Its batch shape, by position: the shape that ``sample`` returns, without the event.
    scale : float or Array
        Its weight.
    fn : Distribution
        Its prior, conditional on the enumerated values of its parents.
    """

    name: str
    kind: str
    size: int
    plates: dict[str, int]
    shape: tuple[int, ...]
    scale: Any
    fn: Distribution

    @property
    def dims(self) -> tuple[str, ...]:
        """Axes of its variational factor: plates first, the site itself last."""
        return (*self.plates, self.name)


def site_factor(site: dict) -> Factor | None:
    """Convert a traced sample site to a factor; None if it is masked out entirely."""
    core, masks = unwrap(site["fn"])
    if any(mask is False for mask in masks):
        return None
    masks = [mask for mask in masks if mask is not True]
    mask = None
    for m in masks:
        mask = jnp.asarray(m) if mask is None else mask & m
    value = site["value"]
    if site["is_observed"] and mask is not None:
        value = _feasible_where_masked(core, value, mask)
    log_prob = _log_prob(core, value, site)
    plates = {f.name: f.size for f in sorted(site["cond_indep_stack"], key=lambda f: f.dim)}
    scale = 1.0 if site["scale"] is None else site["scale"]
    lp = pack(log_prob, site)
    if mask is None:
        return Factor(site["name"], lp, None, scale, plates)
    packed = pack(mask, site)
    enumerated = site["infer"].get("enumerate") == "parallel" and not site["is_observed"]
    if set(packed.dims) - set(lp.dims) - set(plates) and not enumerated:
        return Factor(site["name"], lp, packed, scale, plates)
    # A masked latent element gets a uniform distribution: it sums to one and adds nothing to an ELBO.
    off = -jnp.log(core.enumerate_support(expand=False).shape[0]) if enumerated else 0.0
    return Factor(site["name"], pack(jnp.where(mask, log_prob, off), site), None, scale, plates)


def latent_site(site: dict) -> LatentSite:
    """Describe a traced latent site."""
    frames = sorted(site["cond_indep_stack"], key=lambda f: f.dim)
    depth = max((-f.dim for f in frames), default=0)
    shape = [1] * depth
    for frame in frames:
        shape[frame.dim] = frame.size
    dirichlet = site["infer"].get("dirichlet", False)
    size = site["fn"].event_shape[-1] if dirichlet else site["fn"].enumerate_support(expand=False).shape[0]
    scale = 1.0 if site["scale"] is None else site["scale"]
    plates = {f.name: f.size for f in frames}
    kind = "dirichlet" if dirichlet else "discrete"
    return LatentSite(site["name"], kind, size, plates, tuple(shape), scale, site["fn"])


def unwrap(fn: Distribution) -> tuple[Distribution, list]:
    """Strip masks and expansions from a distribution: return its core, and the masks."""
    masks = []
    while isinstance(fn, MaskedDistribution | ExpandedDistribution):
        if isinstance(fn, MaskedDistribution):
            masks.append(given_mask(fn))
        fn = fn.base_dist
    return fn, masks


def is_dirichlet(fn: Distribution) -> bool:
    """Whether a site is Dirichlet, inside or outside a plate."""
    return isinstance(unwrap(fn)[0], Dirichlet)


def concentration_of(fn: Distribution) -> Array:
    """Concentration of a Dirichlet site, broadcast to its batch shape."""
    return jnp.broadcast_to(unwrap(fn)[0].concentration, fn.batch_shape + fn.event_shape)


def log_mean(concentration: Array) -> Array:
    """E[ln u] of a Dirichlet, its mean parameter: digamma(rho) - digamma(sum rho)."""
    return digamma(concentration) - digamma(concentration.sum(-1, keepdims=True))


def exp_log_mean(log_means: Array) -> Array:
    """exp(E[ln u]), floored against underflow; its logarithm passes gradients as if without the floor."""
    kept = jax.lax.stop_gradient(jnp.maximum(log_means, LEAST_LOG_MEAN) - log_means)
    return jnp.exp(log_means + kept)


def pack(array: Array, site: dict) -> Named:
    """Name the axes of an array that broadcasts against the site's batch shape; axes of size one are dropped."""
    names = site["infer"]["dim_to_name"]
    axes = [d for d in range(-jnp.ndim(array), 0) if jnp.shape(array)[d] > 1]
    nameless = [d for d in axes if names.get(d, NAMELESS).startswith(NAMELESS)]
    if nameless:
        raise ValueError(
            f"Expected every batch dimension of site {site['name']!r} to belong to a plate or an enumerated site, "
            f"found dimension {nameless[0]} of size {jnp.shape(array)[nameless[0]]} that does not. "
            "Put the site into a plate, or call .to_event on its distribution."
        )
    return Named(tuple(names[d] for d in axes), jnp.reshape(array, [jnp.shape(array)[d] for d in axes]))


def _log_prob(core: Distribution, value: Array, site: dict) -> Array:
    """Log-probability; for a categorical, avoids the table (values x batch x categories) that NumPyro gathers from."""
    if not isinstance(core, CategoricalLogits | CategoricalProbs):
        return core.log_prob(value, *([site["intermediates"]] if site["intermediates"] else []))
    log_pmf = core.logits
    if isinstance(core, CategoricalLogits):
        log_pmf = jax.nn.log_softmax(log_pmf, -1)
    batch = log_pmf.shape[:-1]
    is_own_support = site["infer"].get("enumerate") == "parallel" and not site["is_observed"]
    if not is_own_support or jnp.ndim(value) <= len(batch):  # a parent enumerated later lies further left
        return Vindex(log_pmf)[..., value]
    table = jnp.moveaxis(log_pmf, -1, 0)
    return table.reshape(table.shape[0], *[1] * (jnp.ndim(value) - 1 - len(batch)), *batch)


def _feasible_where_masked(core: Distribution, value: Array, mask: Array) -> Array:
    """Replace observed values that no enumerated value unmasks: a label of -1 must not reach log_prob."""
    ndim = jnp.ndim(value) - core.event_dim
    shape = jnp.shape(value)[:ndim]
    used = jnp.any(mask, axis=tuple(range(mask.ndim - ndim)))
    axes = tuple(i for i in range(ndim) if shape[i] == 1 and used.ndim == ndim and used.shape[i] > 1)
    used = jnp.any(used, axis=axes, keepdims=True)
    used = used.reshape(used.shape + (1,) * core.event_dim)
    return jnp.where(used, value, core.support.feasible_like(value))
