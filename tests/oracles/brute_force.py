"""Oracle of discrete inference: the plain program, run at every assignment of its discrete latent sites.

It knows nothing of the engine. No handler of enumeration is used: values are put into the program one assignment at a
time, and the log density is read off its trace. Program runs are in float64, and sums are NumPy's.

A Dirichlet over two or three components is integrated by Gauss and Legendre's rule, as if it had as many values as
nodes.
"""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro.distributions.distribution import validation_enabled
from numpyro.handlers import seed, substitute, trace
from numpyro.primitives import Messenger
from scipy.special import logsumexp

NODES = {2: 20, 3: 8}  # of Gauss and Legendre's rule along an axis: exact for polynomials of degree 39, 15
MOST_RUNS = 200_000  # of the program


class Assign(Messenger):
    """Give values to the latent sites of a program, and note which sites are latent."""

    def __init__(self, fn, values=None):
        self.values, self.latent = values or {}, []
        super().__init__(fn)

    def process_message(self, msg):
        if msg["type"] == "sample" and not msg["is_observed"] and msg["value"] is None:
            self.latent.append(msg["name"])
            if msg["name"] in self.values:
                msg["value"] = self.values[msg["name"]]


@dataclass(frozen=True)
class Latent:
    """Latent site: its values (values, *batch, *event), the logarithms of their weights, its scale and its depth."""

    name: str
    nodes: np.ndarray
    log_weights: np.ndarray
    batch: tuple
    scale: np.ndarray
    depth: int
    discrete: bool

    @property
    def size(self):
        """Number of elements."""
        return math.prod(self.batch)


class BruteForce:
    """Evidence, marginals and bounds of a program by running it at every assignment.

    Parameters
    ----------
    model : callable
        NumPyro program.
    args, kwargs : tuple, dict
        Its arguments.
    params : dict
        Values of its `numpyro.param` sites; those that are missing keep their initial values.
    """

    def __init__(self, model, args=(), kwargs=None, params=None):
        self.model, self.params = model, {} if params is None else params
        with jax.enable_x64(True), validation_enabled(is_validate=False):
            self.args, self.kwargs = _double((tuple(args), kwargs or {}))
            latents = self._latents()
        # sorted() is stable: the outermost plates first, ties in program order
        self.latents = sorted(latents, key=lambda latent: latent.depth)
        self.named = {latent.name: latent for latent in self.latents}
        self.discrete = [latent.name for latent in self.latents if latent.discrete]
        self.elements = [(latent, at) for latent in self.latents for at in range(latent.size)]
        self.shape = tuple(len(latent.nodes) for latent, _ in self.elements)
        if math.prod(self.shape) > MOST_RUNS:
            raise ValueError(f"{math.prod(self.shape)} assignments are too many")
        self._densities = jax.jit(jax.vmap(self._density, (None, 0)))
        self._solved = None

    def _latents(self):
        """Latent sites in program order; compiling the whole trace is faster than an operation after the other."""
        described = {}

        def look():
            names, sites = self._trace(_double(self.params))
            described.update({name: _describe(sites[name]) for name in names if name in sites})
            return {name: (support, scale) for name, (support, scale, _) in described.items()}

        arrays = jax.jit(look)()
        return [_latent(name, *arrays[name], *about) for name, (_, _, about) in described.items()]

    def _trace(self, params, values=None):
        assign = Assign(substitute(self.model, data=params), values)
        sites = trace(seed(assign, 0)).get_trace(*self.args, **self.kwargs)
        return assign.latent, sites

    def _density(self, params, assignment):
        """Scaled log density of the program at one assignment: one number of a node for each element."""
        values, indices, start = {}, {}, 0
        for latent in self.latents:
            index = assignment[start : start + latent.size]
            flat = jnp.asarray(latent.nodes).reshape((len(latent.nodes), latent.size, -1))
            value = flat[index, jnp.arange(latent.size)]
            values[latent.name] = value.reshape(latent.nodes.shape[1:])
            indices[latent.name] = index
            start += latent.size
        total = jnp.zeros(())
        for name, site in self._trace(params, values)[1].items():
            if site["type"] == "sample":
                total += jnp.sum(_log_prob(site, self.named.get(name), indices.get(name)))
        return total

    def log_densities(self, params=None):
        """Scaled log density at every assignment, an axis for each latent element in the guide's order."""
        assignments = np.indices(self.shape).reshape(len(self.shape), math.prod(self.shape)).T
        with jax.enable_x64(True), validation_enabled(is_validate=False):
            densities = self._densities(_double(self.params if params is None else params), assignments)
        return np.asarray(densities, float).reshape(self.shape)

    def log_evidence(self, params=None):
        """Log evidence at other parameters."""
        return self._backwards(self.log_densities(params))[0]

    def _scale(self, element):
        latent, at = element
        return float(latent.scale.reshape(-1)[at])

    def _backwards(self, densities):
        """V(prefix) = c ln sum_v exp(V(prefix, v) / c), from the last element to the first, and ln q(v | prefix)."""
        value, conditionals = densities, []
        for element in reversed(self.elements):
            scale, weights = self._scale(element), element[0].log_weights
            before = scale * logsumexp(value / scale + weights, axis=-1)
            with np.errstate(invalid="ignore"):
                conditional = (value - before[..., None]) / scale + weights
            conditionals.append(np.where(np.isneginf(value), -np.inf, conditional))
            value = before
        return float(value), conditionals[::-1]

    def _solve(self):
        if self._solved is None:
            densities = self.log_densities()
            evidence, conditionals = self._backwards(densities)
            log_q = np.zeros(())
            for conditional in conditionals:
                log_q = log_q[..., None] + conditional
            self._solved = densities, evidence, np.exp(log_q)
        return self._solved

    @property
    def evidence(self):
        """Log evidence: the greatest ELBO over chains of conditionals in the guide's order."""
        return self._solve()[1]

    def _axis(self, name, at):
        latent = self.named[name]
        return next(axis for axis, (other, element) in enumerate(self.elements) if other is latent and element == at)

    def joint(self, site, parents=()):
        """Probabilities (*batch, parents' values..., values) of each element of a site and its parents' elements."""
        latent = self.named[site]
        tables = []
        for at in range(latent.size):
            axes = [self._axis(parent, self._aligned(latent, at, self.named[parent])) for parent in parents]
            axes.append(self._axis(site, at))
            kept = self._solve()[2].sum(tuple(axis for axis in range(len(self.shape)) if axis not in axes))
            order = np.argsort(np.argsort(axes))  # the sum leaves axes in increasing order
            tables.append(np.transpose(kept, order))
        return np.stack(tables).reshape(latent.batch + tables[0].shape)

    @staticmethod
    def _aligned(latent, at, parent):
        """Number of the parent's element that belongs to an element, by broadcasting."""
        numbers = np.broadcast_to(np.arange(parent.size).reshape(parent.batch), latent.batch)
        return int(numbers.reshape(-1)[at])

    def marginal(self, site):
        """Probabilities (*batch, values) of a site, in the order of its support."""
        return self.joint(site)

    def conditional(self, site, parents):
        """Probabilities (*batch, parents' values..., values) of a site, given its parents."""
        joint = self.joint(site, parents)
        return joint / joint.sum(-1, keepdims=True)

    def elbo(self, q):
        """Bound of a factorised q: site -> probabilities (*batch, values)."""
        densities = self._solve()[0]
        weights, entropy = np.ones(()), 0.0
        for latent, at in self.elements:
            probabilities = np.asarray(q[latent.name], float).reshape(latent.size, -1)[at]
            used = probabilities[probabilities > 0]
            entropy -= self._scale((latent, at)) * np.sum(used * np.log(used))
            weights = weights[..., None] * probabilities
        with np.errstate(invalid="ignore"):  # what is impossible does not count where q has no weight
            expected = np.where(weights > 0, weights * densities, 0)
        return float(np.sum(expected)) + float(entropy)


def _double(tree):
    """Arrays of numbers as JAX's arrays of 64 bits; all else as it is.

    NumPy's arrays of float64 in a program that also runs in float32 would confuse JAX's cache of compiled functions,
    and functions of an int32 are float32.
    """

    def convert(leaf):
        if not isinstance(leaf, np.ndarray | np.generic | jax.Array):
            return leaf
        if np.issubdtype(leaf.dtype, np.floating):
            return jnp.asarray(leaf, jnp.float64)
        return jnp.asarray(leaf, jnp.int64) if np.issubdtype(leaf.dtype, np.integer) else leaf

    return jax.tree.map(convert, tree)


def _log_prob(site, latent, index):
    """Scaled log-probabilities of a site's elements; an element of a latent that is masked is uniform."""
    fn, value = site["fn"], site["value"]
    if latent is not None and latent.discrete:
        of_all = jax.vmap(fn.log_prob)(jnp.asarray(latent.nodes))
        # Whatever holds the mask, only a masked element has all log-probabilities zero.
        of_all = jnp.where(jnp.all(of_all == 0, axis=0), -math.log(len(latent.nodes)), of_all)
        log_prob = jnp.take_along_axis(of_all, index.reshape(1, *latent.batch), axis=0)[0]
    else:
        log_prob = fn.log_prob(value, site["intermediates"]) if site["intermediates"] else fn.log_prob(value)
    return log_prob if site["scale"] is None else log_prob * site["scale"]


def _describe(site):
    """Support (None for a Dirichlet) and scale of a latent site, and what else the oracle must know of it."""
    fn, batch, support = site["fn"], tuple(site["fn"].batch_shape), None
    scale = jnp.broadcast_to(jnp.asarray(1.0 if site["scale"] is None else site["scale"], float), batch)
    if fn.has_enumerate_support and not fn.event_shape:
        support = jnp.asarray(fn.enumerate_support(expand=False)).reshape(-1)
    elif fn.support is not dist.constraints.simplex or fn.event_shape[0] not in NODES:
        raise NotImplementedError(
            f"site {site['name']}: neither discrete and finite nor a Dirichlet of 2 or 3 components"
        )
    return support, scale, (batch, len(site["cond_indep_stack"]), *fn.event_shape)


def _simplex(size):
    """Points of a simplex, and the logarithms of their weights in an integral over it."""
    points, weights = np.polynomial.legendre.leggauss(NODES[size])
    points, weights = (points + 1) / 2, weights / 2
    if size == 2:
        return np.stack([points, 1 - points], -1), np.log(weights)
    one, share = np.meshgrid(points, points, indexing="ij")  # the share of the second component in what is left
    values = np.stack([one, (1 - one) * share, (1 - one) * (1 - share)], -1)
    return values.reshape(-1, 3), np.log(np.outer(weights * (1 - points), weights)).reshape(-1)


def _latent(name, support, scale, batch, depth, size=None):
    """What the oracle must know of a latent site."""
    if support is None:
        values, weights = _simplex(size)
        nodes = np.broadcast_to(values.reshape(-1, *(1 for _ in batch), size), (len(values), *batch, size))
    else:
        values = np.asarray(support).astype(np.int64)
        nodes = np.broadcast_to(values.reshape(-1, *(1 for _ in batch)), (len(values), *batch))
        weights = np.zeros(len(values))
    return Latent(name, nodes, weights, batch, np.asarray(scale), depth, support is not None)
