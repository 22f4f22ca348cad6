"""Sample sites as factors: log-probabilities with named dimensions.

Enumeration (:mod:`~pl2d_ppl.engine.enumeration`) gives every discrete latent site its own tensor dimension. The engine
needs nothing else: exact marginals (:mod:`~pl2d_ppl.engine.marginals`), mean-field updates
(:mod:`~pl2d_ppl.engine.coordinate_ascent`) and the evidence lower bound (:mod:`~pl2d_ppl.engine.elbo`) are sums and
products of factors (:mod:`~pl2d_ppl.engine.elimination`).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from numpyro.distributions import CategoricalLogits, CategoricalProbs, Distribution
from numpyro.ops.indexing import Vindex

from pl2d_ppl.engine._numpyro import Choice, unwrap
from pl2d_ppl.engine.enumeration import Dimensions, is_positions, positions_of, values_at
from pl2d_ppl.engine.named import Named, OneHot, aligned

__all__ = ["Factor", "LatentSite", "latent_site", "site_factor"]

LEAST_SCALE = 1e-20  # a weight of zero; its quotient with another weight is still a float32
ONE = Named((), 1.0)
NAMELESS = "dimension "  # begins the name of a batch dimension that is in no plate


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
    scale : Named
        Weight of the site, from subsampled plates and :func:`numpyro.handlers.scale`; over plates only.
    plates : dict of str to int
        The plates that the site lies in, and their sizes.
    """

    name: str
    log_prob: Named
    mask: Named | None
    scale: Named
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
    positions : dict of str to int
        The dimensions of its plates, counted from the right.
    shape : tuple of int
        Its batch shape, by position: the shape that ``sample`` returns, without the event.
    scale : Named
        Its weight, over plates.
    mask : Array or None
        Which of its elements count, if a mask is known that depends on no other site.
    support : Array or None
        Its values, shape (values, batch shape or ones); None if they are 0, 1, 2 ...
    fn : Distribution
        Its prior, conditional on the enumerated values of its parents.
    """

    name: str
    kind: str
    size: int
    plates: dict[str, int]
    positions: dict[str, int]
    shape: tuple[int, ...]
    scale: Named
    mask: Any
    support: Any
    fn: Distribution

    @property
    def long_plates(self) -> dict[str, int]:
        """Plates of more than one element."""
        return {p: n for p, n in self.plates.items() if n > 1}

    @property
    def depth(self) -> tuple[int, int]:
        """How deep it lies: deeper sites are summed out first, in plates of one element as in longer ones."""
        return len(self.long_plates), len(self.plates)

    @property
    def dims(self) -> tuple[str, ...]:
        """Axes of its variational factor: plates first, the site itself last."""
        return (*self.plates, self.name)

    @property
    def nameless_shape(self) -> tuple[int, ...]:
        """Its batch shape without plates, which are of size one here."""
        sizes = {self.positions[p]: n for p, n in self.plates.items() if p.startswith(NAMELESS)}
        return tuple(sizes.get(d, 1) for d in range(-len(self.shape), 0))

    @property
    def weight(self) -> Array:
        """Its weight as an array that broadcasts against the batch shape."""
        scale = aligned(self.scale, tuple(self.plates))
        sizes = dict(zip(self.positions.values(), scale.shape, strict=True))
        return scale.reshape([sizes.get(d, 1) for d in range(-len(self.shape), 0)])

    def by_plates(self, array: Array) -> Array:
        """Drop the batch dimensions that belong to no plate."""
        return array.reshape(*self.plates.values(), self.size)

    def by_position(self, array: Array) -> Array:
        """Put the batch dimensions that belong to no plate back."""
        return array.reshape(*self.shape, self.size)

    def position_of(self, value: Array) -> Array:
        """Index of values in the support."""
        return value if self.support is None else positions_of(self.support, value)

    def value_at(self, position: Array) -> Array:
        """Values of the support at an index, shape by position."""
        return position if self.support is None else values_at(self.support, position)


def site_factor(site: dict, dimensions: Dimensions) -> Factor:
    """Convert a traced sample site to a factor."""
    core = unwrap(site["fn"])[0]
    value, enumerated = site["value"], "support" in site
    # What another site chooses is left out here: each element may be chosen.
    others = _conjunction([m for m in site["masks"] if not isinstance(m, Choice)])
    if site["is_observed"] and others is not None:
        value = _feasible_where_masked(core, value, others)
    log_prob = _log_prob(core, value, site)
    names = _Names(site, dimensions)
    lp, scale = names.pack(log_prob), _scale(site, names)
    if (choice := _choice(site, others, names, lp)) is not None:
        lp = lp if others is None else names.pack(jnp.where(others, log_prob, 0.0))
        return Factor(site["name"], lp, choice, scale, names.plates())
    mask = _conjunction(site["masks"])
    if mask is None:
        return Factor(site["name"], lp, None, scale, names.plates())
    packed = names.pack(mask)
    plates = names.plates()
    if not enumerated and set(packed.dims) - set(lp.dims) - set(plates):
        return Factor(site["name"], lp, packed, scale, plates)
    # A masked latent element gets a uniform distribution: it sums to one and adds nothing to an ELBO.
    count = len(site["support"]) if enumerated else site.get("num_values", 1)
    off = -jnp.log(count) if count > 1 else 0.0
    return Factor(site["name"], names.pack(jnp.where(mask, log_prob, off)), None, scale, plates)


def _choice(site: dict, others: Any, names: "_Names", lp: Named) -> OneHot | None:
    """Return the mask of an observed site that leaves the element which another site chooses, if it is that simple."""
    choices = [m.mask for m in site["masks"] if isinstance(m, Choice)]
    if len(choices) != 1 or "support" in site:
        return None
    mask = names.pack(choices[0])
    plates = names.plates()
    chooser, within = ([d for d in mask.dims if (d in plates) == flag] for flag in (False, True))
    by_others = () if others is None else names.pack(others).dims
    simple = len(chooser) == len(within) == 1 and mask.sizes[chooser[0]] == mask.sizes[within[0]]
    if not simple or chooser[0] in lp.dims or not set(by_others) <= {*lp.dims, *plates}:
        return None
    return OneHot((chooser[0], within[0]), aligned(mask, (chooser[0], within[0])))


def latent_site(site: dict, dimensions: Dimensions) -> LatentSite:
    """Describe a traced latent site."""
    name, fn, support = site["name"], site["fn"], site.get("support")
    shape = tuple(fn.batch_shape)[-dimensions.depth :]
    names = _Names(site, dimensions)
    frames = names.frames
    positions = {frames.get(d, _nameless(d, n)): d for d, n in zip(range(-len(shape), 0), shape, strict=True)}
    positions = {p: d for p, d in positions.items() if d in frames or shape[d] > 1}
    depth = max((-d for d in positions.values()), default=0)
    shape = shape[len(shape) - depth :]
    size = len(support) if support is not None else fn.event_shape[-1]
    mask = _conjunction(site["masks"])
    if mask is not None and jnp.ndim(mask) > dimensions.depth:  # by another site's value
        mask = None
    known = support is None or is_positions(support)
    if support is not None and not known and any(n > 1 for n in support.shape[1 : -dimensions.depth]):
        raise ValueError(
            f"Expected a support of site {name!r} that no other latent site decides, found one that differs. Write "
            "values that cannot occur as probabilities of zero."
        )
    if support is not None:  # the axes of other sites are of size one
        batch = support.shape[1:]
        support = support.reshape(size, *batch[len(batch) - min(len(batch), len(shape)) :])
    return LatentSite(
        name,
        "dirichlet" if support is None else "discrete",
        size,
        {p: shape[d] for p, d in positions.items()},
        positions,
        shape,
        _scale(site, names),
        mask,
        None if known else support,
        fn,
    )


class _Names:
    """Names of the dimensions of one site."""

    def __init__(self, site: dict, dimensions: Dimensions):
        self.site, self.dimensions = site["name"], dimensions
        self.frames = {f.dim: f.name for f in site["cond_indep_stack"]}
        self._plates = {f.name: f.size for f in site["cond_indep_stack"]}

    def plates(self) -> dict[str, int]:
        """Sizes of the plates, and of nameless dimensions that were packed."""
        return dict(self._plates)

    def pack(self, array: Any) -> Named:
        """Name the axes of an array that broadcasts against the site's batch shape; axes of size one are dropped."""
        shape = jnp.shape(array)
        axes = [d for d in range(-len(shape), 0) if shape[d] > 1]
        names = tuple(self._name(d, shape[d]) for d in axes)
        return Named(names, jnp.reshape(array, [shape[d] for d in axes]))

    def _name(self, dim: int, size: int) -> str:
        site = self.dimensions.site_at(dim)
        if site is not None:
            self._check_size(
                f"of {self.dimensions.sizes[site]} values of site {site!r}", self.dimensions.sizes[site], size
            )
            return site
        if dim in self.frames:
            plate = self.frames[dim]
            self._check_size(f"of the {self._plates[plate]} elements of plate {plate!r}", self._plates[plate], size)
            return plate
        if -dim > self.dimensions.depth:
            raise ValueError(
                f"Expected the dimensions of site {self.site!r} to belong to plates and enumerated sites, found "
                f"dimension {dim} of size {size} that does not. Values of discrete sites may have dimensions further "
                "left: index with [..., i], not by position, and put event dimensions last."
            )
        name = _nameless(dim, size)
        self._plates[name] = size
        return name

    def _check_size(self, what: str, expected: int, found: int) -> None:
        if expected != found:
            raise ValueError(
                f"Expected site {self.site!r} to have a dimension {what}, found {found}. Values of discrete sites have "
                "dimensions further left: index from the right, x[..., i], and do not cut them."
            )


def _nameless(dim: int, size: int) -> str:
    """Name of a batch dimension of a distribution that is in no plate: elements at equal positions belong together."""
    return f"{NAMELESS}{dim} of size {size}"


def _scale(site: dict, names: _Names) -> Named:
    scale = site["scale"]
    if scale is None:
        return ONE
    if jnp.ndim(scale) == 0:
        return Named((), scale if isinstance(scale, float | int) else jnp.maximum(scale, LEAST_SCALE))
    packed = names.pack(jnp.maximum(scale, LEAST_SCALE))
    extra = [d for d in packed.dims if d not in names.plates()]
    if extra:
        raise ValueError(f"Expected a scale of site {site['name']!r} that no latent site decides, found {extra}.")
    return packed


def _conjunction(masks: list) -> Any:
    """All masks at once; None if nothing is masked."""
    mask = None
    for each in masks:
        each = each.mask if isinstance(each, Choice) else each
        if each is not True:
            mask = jnp.asarray(each) if mask is None else mask & each
    return mask


def _log_prob(core: Distribution, value: Array, site: dict) -> Array:
    """Log-probability; for a categorical, avoids the table (values x batch x categories) that NumPyro gathers from."""
    if not isinstance(core, CategoricalLogits | CategoricalProbs):
        log_prob = core.log_prob(value, *([site["intermediates"]] if site["intermediates"] else []))
        return _inside(core, value, log_prob) if site["is_observed"] else log_prob
    log_pmf = core.logits
    if isinstance(core, CategoricalLogits):
        log_pmf = jax.nn.log_softmax(log_pmf, -1)
    batch = log_pmf.shape[:-1]
    if "support" not in site or jnp.ndim(value) <= len(batch):  # a parent enumerated later lies further left
        log_prob = Vindex(log_pmf)[..., value]
        return _inside(core, value, log_prob) if site["is_observed"] else log_prob
    table = jnp.moveaxis(log_pmf, -1, 0)
    return table.reshape(table.shape[0], *[1] * (jnp.ndim(value) - 1 - len(batch)), *batch)


def _inside(core: Distribution, value: Array, log_prob: Array) -> Array:
    """Make a count or category outside the support impossible: distributions do not check without validation."""
    return jnp.where(core.support(value), log_prob, -jnp.inf) if core.support.is_discrete else log_prob


def _feasible_where_masked(core: Distribution, value: Array, mask: Array) -> Array:
    """Replace observed values that no enumerated value unmasks: a label of -1 must not reach log_prob."""
    ndim = jnp.ndim(value) - core.event_dim
    shape = jnp.shape(value)[:ndim]
    used = jnp.any(mask, axis=tuple(range(mask.ndim - ndim)))
    axes = tuple(i for i in range(ndim) if shape[i] == 1 and used.ndim == ndim and used.shape[i] > 1)
    used = jnp.any(used, axis=axes, keepdims=True)
    used = used.reshape(used.shape + (1,) * core.event_dim)
    return jnp.where(used, value, core.support.feasible_like(value))
