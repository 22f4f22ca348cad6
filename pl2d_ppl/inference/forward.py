"""A program run forward: what it generates, given parameters, and what of the data it observes."""

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpyro
from jax import Array
from numpyro.handlers import seed, substitute, trace

from pl2d_ppl.engine._numpyro import unwrap
from pl2d_ppl.engine.dirichlet import is_dirichlet
from pl2d_ppl.engine.enumeration import Dimensions, is_latent
from pl2d_ppl.engine.program import read_program
from pl2d_ppl.inference.compiled import CompiledFit
from pl2d_ppl.inference.conditionals import Kept
from pl2d_ppl.inference.posterior_programs import Dims, dims_of_deterministic, dims_of_sample
from pl2d_ppl.networks import evaluation

__all__ = ["Forward", "ForwardFacts"]


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class ForwardFacts:
    """What a trace tells of a program.

    Attributes
    ----------
    dims : tuple of (str, tuple of str or None)
        Plates of the axes of every site; "" for one of length one in none, None for any other.
    lengths, sizes : tuple of (str, int)
        Lengths of the plates, and numbers of values of discrete sites.
    outputs : tuple of (str, tuple of int)
        Shapes of deterministic sites.
    shared : tuple of (str, bool)
        Latent sites outside the plate of the items, and whether they are discrete or Dirichlet.
    observed : tuple of str
        Observed sites.
    """

    dims: tuple[tuple[str, Dims], ...]
    lengths: tuple[tuple[str, int], ...]
    sizes: tuple[tuple[str, int], ...]
    outputs: tuple[tuple[str, tuple[int, ...]], ...]
    shared: tuple[tuple[str, bool], ...]
    observed: tuple[str, ...]


class Forward:
    """A model with parameters and latent sites that are given, run on items.

    Parameters
    ----------
    compiled : CompiledFit
        The programs of a fit.
    model : callable
        The model, with all arguments that are not data.
    leaves : tuple of Array
        Leaves of the fit, for the arguments that are data of all items.
    """

    def __init__(self, compiled: CompiledFit, model: Callable, leaves: tuple):
        self.compiled, self.model, self.leaves = compiled, model, leaves
        self.draw, self.observed = jax.jit(self._draw, static_argnums=0), jax.jit(self._observed)

    def _trace(self, values: dict, data: dict, key: Array) -> dict[str, dict]:
        with evaluation(), self.compiled.seen(data, None), numpyro.validation_enabled(False):
            program = seed(substitute(self.model, data=values), key)
            return dict(trace(program).get_trace(**self.compiled.call(self.leaves, data)))

    def _draw(
        self, names: tuple[str, ...], values: dict, shared: dict, data: dict, keys: Array
    ) -> tuple[dict[str, Array], ForwardFacts]:
        """Draw sites, once for each key, given values of parameters and, for each key, of latent sites.

        Where something is observed, the discrete sites are drawn from their exact posterior given it.
        """
        facts = self._facts(self._trace({**values, **jax.tree.map(lambda a: a[0], shared)}, data, keys[0]))

        def draw(step: tuple[Array, dict]) -> dict[str, Array]:
            key, own = step[0], {**values, **step[1]}
            if facts.observed:
                own |= self._posterior(own, data, key)
            sites = self._trace(own, data, key)
            return {n: jnp.asarray(sites[n]["value"]) for n in names if n in sites and n not in facts.observed}

        return jax.lax.map(draw, (keys, shared)), facts

    def _posterior(self, values: dict, data: dict, key: Array) -> dict[str, Array]:
        with evaluation(), self.compiled.seen(data, None), numpyro.validation_enabled(False):
            program = seed(substitute(self.model, data=values), jax.random.key(0))
            read = read_program(program, (), self.compiled.call(self.leaves, data), values)
            return Kept({}, Dimensions()).given(read).draw(key, {})

    def _observed(self, values: dict, data: dict, key: Array) -> tuple[dict[str, tuple[Array, Array]], ForwardFacts]:
        """Return observed sites: their values, and where they are missing."""
        sites = self._trace(values, data, key)
        facts = self._facts(sites)
        return {n: (jnp.asarray(sites[n]["value"]), _missing(sites[n])) for n in facts.observed}, facts

    def _facts(self, sites: Mapping[str, dict]) -> ForwardFacts:
        shown = {n: s for n, s in sites.items() if s["type"] in ("sample", "deterministic")}
        latent = {n: s for n, s in shown.items() if is_latent(s)}
        sizes = {n: len(_support(s)) for n, s in latent.items() if s["fn"].has_enumerate_support}
        shared = {n: n in sizes or is_dirichlet(s["fn"]) for n, s in latent.items() if not self._of_items(s)}
        observed = (n for n, s in shown.items() if s["type"] == "sample" and s["is_observed"] and jnp.size(s["value"]))
        return ForwardFacts(
            tuple((n, _dims(s)) for n, s in shown.items()),
            tuple((n, len(s["value"])) for n, s in sites.items() if s["type"] == "plate"),
            tuple(sizes.items()),
            tuple((n, jnp.shape(s["value"])) for n, s in shown.items() if s["type"] == "deterministic"),
            tuple(shared.items()),
            tuple(observed),
        )

    def _of_items(self, site: dict) -> bool:
        return any(f.name == self.compiled.plate for f in site["cond_indep_stack"])


def _support(site: dict) -> Array:
    return unwrap(site["fn"])[0].enumerate_support(expand=False)


def _dims(site: dict) -> Dims:
    return dims_of_sample(site) if site["type"] == "sample" else dims_of_deterministic(site)


def _missing(site: dict) -> Array:
    """Where an observed site is masked, whatever the values of other sites; in the shape of its value."""
    value, fn = jnp.asarray(site["value"]), site["fn"]
    shape = value.shape[: value.ndim - fn.event_dim]
    used = jnp.ones(shape, bool)
    for mask in unwrap(fn)[1]:
        used = used & mask
    used = used.any(tuple(range(used.ndim - len(shape))))
    repeated = tuple(i for i, n in enumerate(shape) if used.shape[i] != n)  # one value for all elements of a plate
    used = used.any(repeated, keepdims=True)
    return ~jnp.broadcast_to(used.reshape(shape + (1,) * fn.event_dim), value.shape)
