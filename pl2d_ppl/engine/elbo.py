"""Evidence lower bound with enumeration, where model and guide share one pass through the networks."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from jax import Array
from numpyro.distributions import Distribution
from numpyro.handlers import seed, substitute
from numpyro.handlers import trace as plain_trace
from numpyro.infer.elbo import ELBO
from numpyro.primitives import Messenger

from pl2d_ppl.engine._numpyro import unwrap
from pl2d_ppl.engine.alike import check_alike
from pl2d_ppl.engine.dirichlet import concentration_of, exp_log_mean, is_dirichlet, log_mean
from pl2d_ppl.engine.elimination import eliminate, expectation
from pl2d_ppl.engine.enumeration import Dimensions, Enumerate, TooDeep, is_latent, support_of
from pl2d_ppl.engine.factors import Factor, LatentSite, latent_site, site_factor
from pl2d_ppl.engine.program import check_plates

__all__ = ["EnumELBO", "ExactSite"]

Terms = dict[str, Array]


class ExactSite:
    """Mark of a guide's site that is exact: its distribution is the posterior of a program given the sites before it.

    The ELBO sums such a site out of that program instead of taking an expectation: value and gradient are the same, and
    the sum costs less. A handler that replaces the distribution takes the mark off.

    Parameters
    ----------
    model : callable
        The program.
    args, kwargs : tuple, dict
        Its arguments.
    sites : tuple of str
        All discrete sites of the guide.
    fn : Distribution, optional
        The distribution of the marked site.
    """

    def __init__(self, model: Callable, args: tuple, kwargs: dict, sites: tuple[str, ...], fn: Any = None):
        self.model, self.args, self.kwargs, self.sites, self.fn = model, args, kwargs, sites, fn

    def of(self, fn: Distribution) -> "ExactSite":
        """Mark a distribution."""
        return ExactSite(self.model, self.args, self.kwargs, self.sites, fn)

    def holds(self, site: dict, model: Callable, args: tuple, kwargs: dict, names: Sequence[str]) -> bool:
        """Whether a traced site still has its distribution, and the program and the discrete sites are the same."""
        ours, theirs = jax.tree.leaves((self.args, self.kwargs)), jax.tree.leaves((args, kwargs))
        same = len(ours) == len(theirs) and all(a is b for a, b in zip(ours, theirs, strict=True))
        return self.model is model and same and unwrap(site["fn"])[0] is self.fn and set(names) <= set(self.sites)


class EnumELBO(ELBO):
    """ELBO of programs with discrete latent sites, for :class:`numpyro.infer.SVI`.

    Like :class:`numpyro.infer.TraceEnum_ELBO`, it takes exact expectations over the guide's discrete sites and sums out
    the model's other discrete sites exactly. In addition,

    - mutable state survives (running statistics of BatchNorm, keys of Dropout, windows of ``workload``);
    - the model reuses deterministic sites that the guide recorded: if a guide runs the model's networks for its E-step,
      the model does not evaluate them again;
    - masks over enumerated sites stay factorised, which makes a step linear in the number of experts;
    - Dirichlet sites of a mean-field guide enter through E[ln u], without sampling;
    - supports that do not begin at 0, unrelated plates, and weights by :func:`numpyro.handlers.scale` are right.

    Parameters
    ----------
    keep_plate : str, optional
        A plate that :meth:`site_terms` does not sum over: contributions of sites in it have shape (size,). The loss is
        then not defined.
    """

    can_infer_discrete = True

    def __init__(self, keep_plate: str | None = None):
        self.keep_plate = keep_plate
        super().__init__(num_particles=1)

    def loss(self, rng_key: Array, param_map: dict, model: Callable, guide: Callable, *args, **kwargs) -> Array:
        """Negative ELBO; see :meth:`loss_with_mutable_state`."""
        return self.loss_with_mutable_state(rng_key, param_map, model, guide, *args, **kwargs)["loss"]

    def loss_with_mutable_state(
        self, rng_key: Array, param_map: dict, model: Callable, guide: Callable, *args, **kwargs
    ) -> dict[str, Any]:
        """Compute the negative ELBO, summed over items, and the other results of one evaluation of the networks.

        Returns
        -------
        dict
            ``loss``; ``mutable_state``, or None; ``diagnostics``, the deterministic sites that occur only in the guide,
            such as the multipliers of a workload.
        """
        terms, traces = self.site_terms(rng_key, param_map, model, guide, *args, **kwargs)
        state = {name: s["value"] for tr in traces for name, s in tr.items() if s["type"] == "mutable"}
        noted = {n: s["value"] for n, s in traces[1].items() if s["type"] == "deterministic" and n not in traces[0]}
        loss = -sum(terms.values(), start=jnp.zeros(()))
        return {"loss": loss, "mutable_state": state or None, "diagnostics": noted}

    def site_terms(
        self,
        rng_key: Array,
        param_map: dict,
        model: Callable,
        guide: Callable,
        *args,
        **kwargs,
    ) -> tuple[Terms, tuple[dict, dict]]:
        """Return contributions to the ELBO by site, and the traces of model and guide.

        Parameters
        ----------
        rng_key : Array
            Key of both programs.
        param_map : dict
            Parameters, constrained, and mutable state.
        model, guide : callable
            The programs.
        *args, **kwargs
            Their arguments.

        Returns
        -------
        terms : dict of str to Array
            Expected log-probability under ``name``, minus that of the guide under ``q(name)``. A site that is summed
            out contributes under its name, together with all that depends on it.
        traces : tuple of dict
            Model, then guide.

        Raises
        ------
        ValueError
            If guide and model do not fit together.
        """
        check_alike(model, args, kwargs, param_map)
        dimensions = Dimensions()
        while True:
            try:
                traces = self._traces(dimensions, rng_key, param_map, model, guide, args, kwargs)
                break
            except TooDeep as error:
                if error.dimensions is not dimensions:
                    raise
                dimensions = Dimensions(error.depth)
        if any("support" in s and not s["infer"].get("derived") for s in traces[1].values()):
            check_alike(guide, args, kwargs, param_map)  # a guide that was written by hand
        keep = () if self.keep_plate is None else (self.keep_plate,)
        with numpyro.validation_enabled(False):
            return _terms(*traces, dimensions, _Exact(model, args, kwargs), keep), traces

    def _traces(
        self,
        dimensions: Dimensions,
        rng_key: Array,
        param_map: dict,
        model: Callable,
        guide: Callable,
        args: tuple,
        kwargs: dict,
    ) -> tuple[dict, dict]:
        model_key, guide_key = jax.random.split(rng_key)
        with numpyro.validation_enabled(False):
            seeded = _DirichletMeans(substitute(seed(guide, guide_key), data=param_map))
            marked = Enumerate(seeded, dimensions, lambda msg: msg["infer"].get("enumerate") == "parallel")
            guide_trace = plain_trace(marked).get_trace(*args, **kwargs)
            shared = {n: s["value"] for n, s in guide_trace.items() if s["type"] == "deterministic"}
            given = substitute(seed(model, model_key), data={**param_map, **shared})
            replayed = Enumerate(_Replay(given, guide_trace), dimensions)
            model_trace = plain_trace(replayed).get_trace(*args, **kwargs)
        _check_match(model_trace, guide_trace, dimensions.depth)
        return model_trace, guide_trace


class _Exact:
    """Knows which sites of a guide are exact for a model and its arguments."""

    def __init__(self, model: Callable, args: tuple, kwargs: dict):
        self._call = model, args, kwargs

    def names(self, model_trace: Mapping[str, dict], guide_trace: Mapping[str, dict]) -> list[str]:
        """Names of exact sites."""
        discrete = [n for n, s in guide_trace.items() if "support" in s]
        marks = {n: guide_trace[n]["infer"].get("exact") for n in discrete}
        return [
            n
            for n, mark in marks.items()
            if mark is not None
            and mark.holds(guide_trace[n], *self._call, discrete)
            and _same_weight(guide_trace[n]["scale"], model_trace[n]["scale"])
        ]


def _same_weight(one: Any, other: Any) -> bool:
    one, other = (1.0 if scale is None else scale for scale in (one, other))
    return isinstance(one, float | int) and isinstance(other, float | int) and one == other


def _terms(
    model_trace: Mapping[str, dict],
    guide_trace: Mapping[str, dict],
    dimensions: Dimensions,
    exact: _Exact,
    keep: Sequence[str],
) -> Terms:
    """Contributions to the ELBO by site."""
    model_factors, guide_factors = (_factors(tr, dimensions) for tr in (model_trace, guide_trace))
    for name in _unneeded(exact.names(model_trace, guide_trace), guide_factors):
        del guide_factors[name]
    q = {
        name: guide_factors[name].log_prob._replace(data=jnp.exp(guide_factors[name].log_prob.data))
        for name, site in guide_trace.items()
        if name in guide_factors and "support" in site
    }
    latents = {n: latent_site(s, dimensions) for n, s in model_trace.items() if "support" in s}
    for name, site in guide_trace.items():
        if "support" in site:
            _check_plates_equal(latents[name], latent_site(site, dimensions))
    check_plates(list(model_factors.values()), latents)
    left = {n: latents[n] for n in model_trace if n in latents and n not in q}
    terms: Terms = {}
    for factor in eliminate(list(model_factors.values()), left).factors:
        terms[factor.name] = terms.get(factor.name, jnp.zeros(())) + expectation(factor, q, keep)
    for name, factor in guide_factors.items():
        terms[f"q({name})"] = -expectation(factor, q, keep)
    return terms


def _unneeded(names: Sequence[str], factors: Mapping[str, Factor]) -> set[str]:
    """Those of some sites on which none of the others depends."""
    unneeded = set(names)
    while True:
        needed = {v for name, f in factors.items() if name not in unneeded for v in f.variables}
        if not needed & unneeded:
            return unneeded
        unneeded -= needed


def _check_plates_equal(modelled: LatentSite, guided: LatentSite) -> None:
    if modelled.long_plates != guided.long_plates:
        raise ValueError(
            f"Expected site {guided.name!r} of the guide in the plates of the model's, {modelled.long_plates}, found "
            f"it in {guided.long_plates}. Sample it inside plates of the same names and sizes."
        )


class _DirichletMeans(Messenger):
    """Replace a sample by E[ln u] where a guide asks for it."""

    def process_message(self, msg: dict) -> None:
        if msg["type"] == "sample" and msg["infer"].get("log_mean") and msg["value"] is None:
            msg["value"] = exp_log_mean(log_mean(concentration_of(msg["fn"])))


class _Replay(Messenger):
    """Give the model's latent sites and plates the guide's values; refuse a site that both give a value."""

    def __init__(self, fn: Callable, guide_trace: Mapping[str, dict]):
        self.guide_trace = guide_trace
        super().__init__(fn)

    def process_message(self, msg: dict) -> None:
        ours = self.guide_trace.get(msg.get("name") or "")
        if ours is None or msg["type"] not in ("sample", "plate"):
            return
        if msg["type"] == "plate" and ours["type"] == "plate":
            msg["value"] = ours["value"]
        if not is_latent(msg) or not is_latent(ours):
            return
        if msg["value"] is not None:
            raise ValueError(
                f"Expected a value of site {msg['name']!r} from the guide or from the model, found both: the model "
                "substitutes it. Build the guide from the program that substitutes it, or leave the site out of the "
                "guide."
            )
        msg["value"] = ours["value"]
        if "support" in ours:
            msg["support"] = ours["support"]
            _check_support(msg)


def _check_support(msg: dict) -> None:
    """Refuse a guide whose values are not those of the model's site."""
    support, own = msg["support"], support_of(msg["name"], msg["fn"])
    known = not any(isinstance(a, jax.core.Tracer) for a in (support, own))
    if len(support) != len(own) or (known and not np.array_equal(np.ravel(support), np.ravel(own))):
        raise ValueError(
            f"Expected a guide of site {msg['name']!r} over the values of the model's site, {_told(own)}, found one "
            f"over {_told(support)}. Give both the same distribution family and sizes."
        )


def _told(support: Array) -> str:
    return f"{len(support)} values" if isinstance(support, jax.core.Tracer) else str(np.ravel(support)[:10])


def _factors(tr: Mapping[str, dict], dimensions: Dimensions) -> dict[str, Factor]:
    return {name: site_factor(site, dimensions) for name, site in tr.items() if site["type"] == "sample"}


def _check_match(model_trace: Mapping[str, dict], guide_trace: Mapping[str, dict], depth: int) -> None:
    ours, theirs = ({n: s for n, s in tr.items() if is_latent(s)} for tr in (guide_trace, model_trace))
    extra = [n for n in ours if n not in theirs and not ours[n]["infer"].get("is_auxiliary")]
    if extra:
        raise ValueError(
            f"Expected every site of the guide to be a latent site of the model, {sorted(theirs)}, found {extra}."
        )
    drawn = [n for n in theirs if n not in ours and "support" not in theirs[n] and theirs[n]["drawn"]]
    if drawn:
        raise ValueError(
            f"Expected a guide of the continuous latent sites {drawn}, found none: they would be drawn from their "
            "priors. Pass continuous=normal(model), of pl2d_ppl.guides.normal, to the guide."
        )
    for name, site in ours.items():
        if name in theirs and "support" not in site:
            _check_shape(name, site["value"], theirs[name]["fn"], depth)
        if "support" not in site and not (is_dirichlet(site["fn"]) or site["fn"].has_rsample):
            raise ValueError(
                f"Expected the guide's site {name!r} to be enumerated or reparametrised, found "
                f"{type(site['fn']).__name__}. Mark it infer={{'enumerate': 'parallel'}}."
            )


def _check_shape(name: str, value: Array, fn: Distribution, depth: int) -> None:
    """Refuse a guide that draws fewer elements of a continuous site than the model has: they would share one draw."""
    found, expected = jnp.shape(value), (*fn.batch_shape[-depth:], *fn.event_shape)  # without enumerated sites
    rank = max(len(found), len(expected))
    found, expected = ((1,) * (rank - len(shape)) + shape for shape in (found, expected))
    if any(n == 1 < m for n, m in zip(found, expected, strict=True)):
        raise ValueError(
            f"Expected a guide of site {name!r} of shape {tuple(fn.shape())}, as in the model, found draws of shape "
            f"{jnp.shape(value)}. Sample it inside the plates that it has in the model."
        )
