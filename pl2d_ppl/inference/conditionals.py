"""Conditionals of the items' sites: those of a guide, and those that it sums out, to draw from and for marginals."""

import copy
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from jax import Array

from pl2d_ppl.engine.elimination import Conditional, eliminate, with_parents
from pl2d_ppl.engine.enumeration import Dimensions, is_latent
from pl2d_ppl.engine.factors import LatentSite, latent_site, site_factor
from pl2d_ppl.engine.guide_tools import logits_at
from pl2d_ppl.engine.named import Named, aligned, named_einsum
from pl2d_ppl.engine.program import Program

__all__ = ["Kept"]


class Kept:
    """Conditionals of discrete sites, the parents first, and Dirichlet factors of a mean field."""

    def __init__(self, guide: Mapping[str, dict], dimensions: Dimensions):
        self.sites: dict[str, LatentSite] = {}
        self.means: dict[str, LatentSite] = {}
        self.conditionals: dict[str, Conditional] = {}
        for name, traced in guide.items():
            if not is_latent(traced):
                continue
            if traced["infer"].get("log_mean"):
                self.means[name] = latent_site(traced, dimensions)
            elif "support" in traced:
                table = site_factor(traced, dimensions).log_prob
                dims = (*(d for d in table.dims if d != name), name)
                self.add(latent_site(traced, dimensions), Conditional(Named(dims, aligned(table, dims)), {}))

    def add(self, site: LatentSite, conditional: Conditional) -> None:
        """Add a site that depends only on those before it."""
        self.sites[site.name], self.conditionals[site.name] = site, conditional

    def given(self, program: Program) -> "Kept":
        """Return these sites, and those of the program that they sum out: each given the sites before it."""
        everything = copy.copy(self)
        everything.sites, everything.conditionals = dict(self.sites), dict(self.conditionals)
        left = {n: s for n, s in program.latents.items() if n not in self.sites and n not in self.means}
        found = eliminate(program.factors, left).conditionals
        for name in reversed(found):
            everything.add(left[name], found[name])
        return everything

    def draw(self, key: Array, drawn: Mapping[str, Array]) -> dict[str, Array]:
        """Draw the sites that are not drawn yet, one after the other; shape by position."""
        values = dict(drawn)
        for name, site in self.sites.items():
            key, own_key = jax.random.split(key)
            if name not in values:
                logits = logits_at(self.conditionals[name], site, self.sites, values)
                logits = jnp.broadcast_to(logits, (*site.shape, site.size))
                values[name] = site.value_at(jax.random.categorical(own_key, logits))
        return values

    def draw_means(self, key: Array) -> dict[str, Array]:
        """Draw the Dirichlet sites."""
        keys = jax.random.split(key, len(self.means))
        pairs = zip(keys, self.means.items(), strict=True)
        return {name: site.fn.expand(site.shape).sample(k) for k, (name, site) in pairs}

    def marginals(self) -> dict[str, Array]:
        """Probabilities, shape (plates ..., values)."""
        q: dict[str, Named] = {}
        for name, (table, branches) in self.conditionals.items():
            q |= {b: Named((*m.dims, b), jnp.stack([~m.data, m.data], -1).astype(float)) for b, m in branches.items()}
            q[name] = table._replace(data=jnp.exp(table.data))
        return {
            name: self._marginal(site, [q[m] for m in with_parents([name], q)]) for name, site in self.sites.items()
        }

    def _marginal(self, site: LatentSite, tables: Sequence[Named]) -> Array:
        present = {d for t in tables for d in t.dims}
        keep = tuple(d for d in site.dims if d in present)
        return jnp.broadcast_to(
            aligned(Named(keep, named_einsum(tables, keep)), site.dims), (*site.plates.values(), site.size)
        )
