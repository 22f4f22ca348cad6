"""Checks of the engine's public functions on one random program, against the oracle by brute force.

Numbers in float32 are compared within `TOLERANCE`, relative to 1 + their size. A log density here is a sum of at most
some hundred terms, each with a relative error of some 1e-6 where it takes a log-gamma function, and 1e-7 elsewhere:
2e-4 is some ten times the worst error that is honest. Tables have two decimals, so that an error of meaning, as a
factor that is left out or a scale that is not applied, is 1e-2 or more.
"""

import pickle
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np
from engine.random_programs import build, parameters
from engine.random_specs import features
from numpyro.handlers import seed, substitute, trace
from oracles.brute_force import BruteForce

from pl2d_ppl import EnumELBO, log_evidence, marginals, workload
from pl2d_ppl.guides.exact import exact
from pl2d_ppl.guides.mean_field import mean_field

TOLERANCE = 2e-4
DRAWS = 2_000
SWEEPS = (1, 4, 20)
WORKLOAD_TOLERANCE = 1e-3
KEY = 0


class Case:
    """A program, its arguments and what the oracle says of it."""

    def __init__(self, program):
        self.program, self.params = program, parameters(program)
        self.model, self.kwargs = build(program)
        self.features = features(program)

    @cached_property
    def oracle(self):
        return BruteForce(self.model, kwargs=self.kwargs, params=self.params)

    @property
    def latent(self):
        """Names of the discrete latent sites on which something depends, in the guide's order."""
        cut = self.program.handler[1] if self.program.handler and self.program.handler[0] == "do" else None
        return [name for name in self.oracle.discrete if name != cut]

    @property
    def equal_scales(self):
        """Whether all scales are one."""
        scaled = any(site.scale for site in self.program.sites) or any(plate.full for plate in self.program.plates)
        return not scaled and not self.program.weights

    def elbo(self, guide):
        """The engine's ELBO of a guide."""

        @jax.jit
        def elbo(params, kwargs):
            return -EnumELBO().loss(jax.random.key(KEY), params, self.model, guide, **kwargs)

        return float(elbo(self.params, self.kwargs))

    @staticmethod
    def guide_sites(guide, params, kwargs):
        """Trace of a guide."""
        return trace(seed(substitute(guide, data=params), 0)).get_trace(**kwargs)


def assert_close(found, expected, what, tolerance=TOLERANCE):
    """Compare numbers by their size."""
    found, expected = np.asarray(found, float), np.asarray(expected, float)
    assert found.shape == expected.shape, f"{what}: shape {found.shape}, not {expected.shape}"
    with np.errstate(invalid="ignore"):  # both may be minus infinity
        far = ~((found == expected) | (np.abs(found - expected) <= tolerance * (1 + np.abs(expected))))
    assert not far.any(), f"{what}: the engine says {found}, the oracle {expected}"


def check_inference(case):
    """Evidence, its gradient, marginals and the ELBO of the exact guide."""

    @jax.jit
    def everything(params, kwargs):
        def of(params):
            return log_evidence(case.model, params=params)(**kwargs)

        bound = EnumELBO().loss(jax.random.key(KEY), params, case.model, exact(case.model), **kwargs)
        return jax.value_and_grad(of)(params), marginals(case.model, params=params)(**kwargs), -bound

    (evidence, gradient), found, bound = everything(case.params, case.kwargs)
    assert_close(evidence, case.oracle.evidence, "evidence")
    assert set(case.latent) <= set(found) <= set(case.oracle.discrete), f"marginals of {set(found)}"
    for name, marginal in found.items():
        assert_close(marginal, case.oracle.marginal(name), f"marginal of {name}")
    for name, value in case.params.items():
        step = 1e-4
        ends = [case.oracle.log_evidence({**case.params, name: value + sign * step}) for sign in (1, -1)]
        assert_close(gradient[name], (ends[0] - ends[1]) / (2 * step), f"gradient in {name}", 1e-3)
    if case.latent:
        assert_close(bound, case.oracle.evidence, "ELBO of the exact guide")


def check_kept(case):
    """A guide of some sites has the evidence as its ELBO, if those left out are no farther out than those kept."""
    if not case.equal_scales or len(case.latent) < 2:
        return
    rng = np.random.default_rng(case.program.seed)
    dropped = str(rng.choice(case.latent))
    depth = case.oracle.named[dropped].depth
    kept = [name for name in case.latent if name != dropped and case.oracle.named[name].depth <= depth]
    if kept:
        assert_close(case.elbo(exact(case.model, sites=kept)), case.oracle.evidence, f"ELBO of exact(sites={kept})")


def check_draws(case):
    """Draws of the exact guide have the oracle's marginals, and pairs of a site and its parent the oracle's joint.

    Of DRAWS draws, the share of a value with probability p has standard deviation sqrt(p (1 - p) / DRAWS). Five of them
    are exceeded once in 1.7 million; ten draws are allowed for where p is so small that the share is not normal.
    """
    if not case.latent:
        return
    guide = substitute(exact(case.model), data=case.params)

    @jax.jit
    def draw(keys, kwargs):
        def one(key):
            sites = trace(seed(guide, key)).get_trace(**kwargs)
            return {name: sites[name]["value"] for name in case.latent}

        return jax.vmap(one)(keys)

    draws = draw(jax.random.split(jax.random.key(1), DRAWS), case.kwargs)
    hits = {}
    for name in case.latent:
        nodes = case.oracle.named[name].nodes
        hits[name] = np.asarray(draws[name])[..., None] == np.moveaxis(nodes, 0, -1)
        _assert_shares(hits[name].mean(0), case.oracle.marginal(name), name)
    for child, parent in zip(case.latent[1:], case.latent, strict=False):
        if _within(case, child, parent):
            batch, above = case.oracle.named[child].batch, hits[parent]
            missing = len(batch) - len(case.oracle.named[parent].batch)
            above = above.reshape(DRAWS, *(1,) * missing, *above.shape[1:])
            above = np.broadcast_to(above, (DRAWS, *batch, above.shape[-1]))
            pairs = (above[..., :, None] & hits[child][..., None, :]).mean(0)
            _assert_shares(pairs, case.oracle.joint(child, [parent]), f"{parent} and {child}")


def _within(case, child, parent):
    """Whether the parent's plates are among the child's."""
    if case.oracle.named[parent].depth == 0:
        return True
    paths = []
    for name in (child, parent):
        site = case.program.site(name.removesuffix("_unobserved").removeprefix("s/"))
        paths.append({plate.name for plate in case.program.path(site.plate)})
    return paths[1] <= paths[0]


def _assert_shares(found, expected, what):
    bound = 5 * np.sqrt(np.clip(expected * (1 - expected), 0, None) / DRAWS) + 10 / DRAWS
    assert found.shape == expected.shape, f"draws of {what}: shape {found.shape}, not {expected.shape}"
    assert np.all(np.abs(found - expected) <= bound), f"draws of {what}: shares {found}, the oracle says {expected}"


def check_mean_field(case):
    """ELBOs of mean field: what the oracle says of the same q, not above the evidence, not falling with sweeps."""
    if not case.latent:
        return
    discrete = set(case.oracle.named) == set(case.latent)

    @jax.jit
    def everything(params, kwargs):
        guides = [mean_field(case.model, max_sweeps=sweeps) for sweeps in SWEEPS]
        bounds = [-EnumELBO().loss(jax.random.key(KEY), params, case.model, guide, **kwargs) for guide in guides]
        return bounds, guide_probabilities(case, case.guide_sites(guides[-1], params, kwargs)) if discrete else {}

    bounds, q = everything(case.params, case.kwargs)
    before = -np.inf
    for found, sweeps in zip(bounds, SWEEPS, strict=True):
        slack = TOLERANCE * (1 + abs(case.oracle.evidence))
        assert found <= case.oracle.evidence + slack, f"mean field: {found} > evidence {case.oracle.evidence}"
        assert found >= before - slack, f"mean field: {found} after {sweeps} sweeps, {before} before"
        before = found
    if discrete:
        assert_close(bounds[-1], case.oracle.elbo(q), "ELBO of mean field, by its own probabilities")


def guide_probabilities(case, sites):
    """Probabilities (*batch, values) of each latent in a guide's trace."""
    q = {}
    for name in case.latent:
        nodes = case.oracle.named[name].nodes
        q[name] = jnp.stack([jnp.exp(sites[name]["fn"].log_prob(node)) for node in nodes], -1)
        q[name] = jnp.broadcast_to(q[name], (*case.oracle.named[name].batch, len(nodes)))
        total = q[name].sum(-1, keepdims=True)  # a masked element has log-probability zero at every value
        q[name] = q[name] / total
    return q


def check_workload(case):
    """The mean of the projected marginal, over rows that are not masked, keeps to its bounds."""
    if not case.latent or case.program.weights or case.program.handler:
        return
    site = case.program.site(case.latent[0].removesuffix("_unobserved"))
    if site.scale or site.parents or site.obs_mask or site.mask not in (None, "array"):
        return
    if len(case.program.path(site.plate)) != 1:
        return
    name, count = site.name, case.oracle.named[site.name].batch
    counts = np.broadcast_to(case.kwargs.get(f"{name}_mask", np.ones(count, bool)), count)
    if not counts.any():
        return
    share = case.oracle.marginal(name)[counts].mean(0)[0]
    values = len(case.oracle.named[name].nodes)
    target = 0.5 * share + 0.25
    lower, upper = np.zeros(values, np.float32), np.ones(values, np.float32)
    lower[0] = upper[0] = target
    guide = workload(exact(case.model), name, lower, upper)

    @jax.jit
    def everything(params, kwargs):
        sites = case.guide_sites(guide, params, kwargs)
        noted = {what: sites[f"{name}_{what}"]["value"] for what in ("mean", "violation")}
        return guide_probabilities(case, sites)[name], noted

    probabilities, noted = everything(case.params, case.kwargs)
    mean = np.asarray(probabilities)[counts].mean(0)
    low, high = mean.min(initial=1, where=mean < lower - WORKLOAD_TOLERANCE), mean - upper
    assert low == 1, f"workload: mean {mean} below {lower}"
    assert np.all(high <= WORKLOAD_TOLERANCE), f"workload: mean {mean} above {upper}"
    recorded = np.asarray(noted["mean"]).reshape(-1)
    assert_close(recorded, mean, f"{name}_mean", WORKLOAD_TOLERANCE)
    assert np.all(np.asarray(noted["violation"]) <= WORKLOAD_TOLERANCE), f"{name}_violation"


def check_eager(case):
    """Evidence and marginals are the same outside jit."""
    assert_close(log_evidence(case.model, params=case.params)(**case.kwargs), case.oracle.evidence, "eager evidence")
    for name, marginal in marginals(case.model, params=case.params)(**case.kwargs).items():
        assert_close(marginal, case.oracle.marginal(name), f"eager marginal of {name}")


def check_pickled(case):
    """The exact guide survives pickling where the program does."""
    if case.program.handler is None and case.latent:
        guide = pickle.loads(pickle.dumps(exact(case.model)))
        assert_close(case.elbo(guide), case.oracle.evidence, "ELBO of the pickled guide")


EXTRAS = {
    "kept": check_kept,
    "draws": check_draws,
    "mean_field": check_mean_field,
    "workload": check_workload,
    "eager": check_eager,
    "pickled": check_pickled,
}
