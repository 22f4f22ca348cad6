"""Programs as factors: the networks are evaluated once, and discrete sites are enumerated."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpyro
from jax import Array
from numpyro.handlers import block, seed, substitute
from numpyro.handlers import trace as plain_trace
from numpyro.primitives import Messenger

from pl2d_ppl.engine.dirichlet import concentration_of, exp_log_mean, is_dirichlet, log_mean
from pl2d_ppl.engine.enumeration import Dimensions, Enumerate, TooDeep, is_latent
from pl2d_ppl.engine.factors import Factor, LatentSite, latent_site, site_factor
from pl2d_ppl.engine.items import ITEMS_MESSAGE, Items, items, items_here
from pl2d_ppl.networks import MODE_MESSAGE

__all__ = ["PlateInfo", "Program", "read_program"]


class PlateInfo(NamedTuple):
    """Arguments of a plate statement, and the indices that it drew."""

    size: int
    subsample_size: int
    dim: int
    indices: Array


class Program(NamedTuple):
    """The factors of all sample sites of a program, and the latent sites that they depend on, in program order.

    Attributes
    ----------
    factors : list of Factor
        Log-probabilities of all sample sites.
    latents : dict of str to LatentSite
        Discrete sites, and Dirichlet sites without a given value.
    plates : dict of str to PlateInfo
        The plates.
    again : callable
        Takes E[ln u] of Dirichlet sites, and returns the factors at these, without evaluating the networks again.
    """

    factors: list[Factor]
    latents: dict[str, LatentSite]
    plates: dict[str, PlateInfo]
    again: Callable[[Mapping[str, Array]], list[Factor]]


def read_program(
    model: Callable, args: tuple, kwargs: dict, values: Mapping[str, Any] | None = None, detach: bool = True
) -> Program:
    """Run a program under enumeration, and read its factors.

    Parameters, mutable state, plates and the deterministic sites that come before the first latent site remain
    visible to the handlers outside, so that a guide which calls this function registers them as its own. A later
    deterministic site may depend on a latent value: declare network outputs first.

    Parameters
    ----------
    model : callable
        A NumPyro program.
    args, kwargs : tuple, dict
        Arguments of the program.
    values : mapping of str to Array, optional
        Values of latent sites that are conditioned on, such as network weights drawn by another guide.
    detach : bool
        Whether to detach everything from gradients, as for an E-step.

    Returns
    -------
    Program
        Factors and latent sites.

    Raises
    ------
    ValueError
        If a latent site is not discrete, Dirichlet or given, or a site depends on another one outside its plates.
    """
    given = dict(values or {})
    dimensions = Dimensions()
    while True:
        try:
            return _read(model, args, kwargs, given, detach, dimensions)
        except TooDeep as error:
            if error.dimensions is not dimensions:  # of an enumeration around this one
                raise
            dimensions = Dimensions(error.depth)


def _read(model: Callable, args: tuple, kwargs: dict, values: dict, detach: bool, dimensions: Dimensions) -> Program:
    watch = _Watch(_Resolve(model, values, {}))
    which = items_here()
    with block(hide_fn=watch.hides), plain_trace() as tr, numpyro.validation_enabled(False):
        Enumerate(items(watch, which), dimensions)(*args, **kwargs)
        factors, latents = _factors(tr, dimensions)
    plates = {
        frame.name: _plate_info(tr[frame.name], frame.dim, which)
        for site in tr.values()
        for frame in site.get("cond_indep_stack", ())
        if frame.name in tr
    }
    reused = {
        name: site["value"]
        for name, site in tr.items()
        if site["type"] in ("param", "mutable", "plate") or name in watch.shared
    }
    if detach:
        reused, given, args, kwargs = jax.tree.map(_detached, (reused, values, args, kwargs))
        factors = [_detached_factor(f) for f in factors]
        latents = {n: _detached_site(s) for n, s in latents.items()}
    else:
        given = values

    def again(log_means: Mapping[str, Array]) -> list[Factor]:
        sites = Dimensions(dimensions.depth)
        frozen = _Resolve(seed(substitute(model, data=reused), jax.random.key(0)), given, log_means)
        frozen = items(frozen, which)
        with block(), plain_trace() as tr, numpyro.validation_enabled(False):
            Enumerate(frozen, sites)(*args, **kwargs)
            return _factors(tr, sites)[0]

    return Program(factors, latents, plates, again)


def _plate_info(site: dict, dim: int, which: Items | None) -> PlateInfo:
    size, indices = site["args"][0], site["value"]
    whole = which.size if which is not None and which.is_part(site["name"], size) else size
    return PlateInfo(whole, indices.shape[0], dim, indices)


def _factors(tr: Mapping[str, dict], dimensions: Dimensions) -> tuple[list[Factor], dict[str, LatentSite]]:
    sites = [site for site in tr.values() if site["type"] == "sample"]
    latents = {s["name"]: latent_site(s, dimensions) for s in sites if "support" in s or s.get("log_mean")}
    factors = [site_factor(site, dimensions) for site in sites]
    check_plates(factors, latents)
    return factors, latents


def check_plates(factors: list[Factor], latents: Mapping[str, LatentSite]) -> None:
    """Refuse sites that depend on another one outside its plates.

    Raises
    ------
    ValueError
        If there is one.
    """
    for factor in factors:
        for name in factor.variables:
            left = [p for p in latents[name].long_plates if p not in factor.plates] if name in latents else []
            if left:
                raise ValueError(
                    f"Expected site {factor.name!r} in all plates of {name!r}, on which it depends, found it outside "
                    f"{left[0]!r}. Sample it inside the plate; where it depends on one element of it, mask the others "
                    f"there: mask(mask=index == jnp.arange(size))."
                )


class _Watch(Messenger):
    """Record which deterministic sites come before the first latent site."""

    def __init__(self, fn: Callable):
        self.latent_seen = False
        self.shared: set[str] = set()
        super().__init__(fn)

    def process_message(self, msg: dict) -> None:
        if is_latent(msg) and (msg["value"] is None or msg.get("log_mean")):
            self.latent_seen = True
        if msg["type"] == "deterministic" and not self.latent_seen:
            self.shared.add(msg["name"])

    def hides(self, msg: dict) -> bool:
        """Whether a message is hidden from outer handlers."""
        if msg["type"] == "deterministic":
            return msg["name"] not in self.shared
        return msg["type"] not in ("param", "mutable", "plate", "prng_key", MODE_MESSAGE, ITEMS_MESSAGE)


class _Resolve(Messenger):
    """Give latent sites that are not enumerated a value without sampling: a given one, or a mean parameter."""

    def __init__(self, fn: Callable, values: Mapping[str, Any], log_means: Mapping[str, Array]):
        self.values, self.log_means = values, log_means
        super().__init__(fn)

    def process_message(self, msg: dict) -> None:
        if not is_latent(msg):
            return
        name, fn = msg["name"], msg["fn"]
        msg["value"] = self.values.get(name, msg["value"])
        if msg["value"] is not None or fn.has_enumerate_support:
            return
        if not is_dirichlet(fn):
            raise ValueError(
                f"Expected discrete or Dirichlet latent sites, found {name!r} ~ {type(fn).__name__} without a value. "
                "Give the guide a guide of the continuous sites: "
                "continuous=normal(model), of pl2d_ppl.guides.normal."
            )
        means = self.log_means[name] if name in self.log_means else log_mean(concentration_of(fn))
        msg["value"], msg["log_mean"] = exp_log_mean(means), True


def _detached(leaf: Any) -> Any:
    return jax.lax.stop_gradient(leaf) if isinstance(leaf, Array) else leaf


def _detached_factor(factor: Factor) -> Factor:
    return factor._replace(log_prob=_cut(factor.log_prob), mask=_cut(factor.mask), scale=_cut(factor.scale))


def _detached_site(site: LatentSite) -> LatentSite:
    fn = jax.tree.map(_detached, site.fn) if site.kind == "dirichlet" else site.fn
    return site._replace(fn=fn, scale=_cut(site.scale))


def _cut(named: Any) -> Any:
    return None if named is None else named._replace(data=_detached(named.data))
