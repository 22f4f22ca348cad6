"""Evidence lower bound with enumeration, where model and guide share one pass through the networks."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
from jax import Array
from numpyro.handlers import infer_config, replay, seed, substitute
from numpyro.infer.elbo import ELBO
from numpyro.primitives import Messenger

from pl2d_ppl.engine.elimination import eliminate, expectation
from pl2d_ppl.engine.enumeration import NamedTrace, enumeration
from pl2d_ppl.engine.factors import (
    Factor,
    concentration_of,
    exp_log_mean,
    is_dirichlet,
    latent_site,
    log_mean,
    site_factor,
)

__all__ = ["EnumELBO"]


class EnumELBO(ELBO):
    """ELBO of programs with discrete latent sites, for :class:`numpyro.infer.SVI`.

    Like :class:`numpyro.infer.TraceEnum_ELBO`, it takes exact expectations over the guide's discrete sites and sums out
    the model's other discrete sites exactly. In addition,

    - mutable state survives (running statistics of BatchNorm, keys of Dropout, windows of ``workload``);
    - the model reuses deterministic sites that the guide recorded: if a guide runs the model's networks for its E-step,
      the model does not evaluate them again;
    - masks over enumerated sites stay factorised, which makes a step linear in the number of experts;
    - Dirichlet sites of a mean-field guide enter through E[ln u], without sampling.

    Parameters
    ----------
    max_plate_nesting : int
        Number of batch dimensions that plates may use.
    """

    can_infer_discrete = True

    def __init__(self, max_plate_nesting: int = 2):
        self.max_plate_nesting = max_plate_nesting
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
        self, rng_key: Array, param_map: dict, model: Callable, guide: Callable, *args, **kwargs
    ) -> tuple[dict[str, Array], tuple[dict, dict]]:
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
            Expected log-probability under ``name``, minus that of the guide under ``q(name)``.
        traces : tuple of dict
            Model, then guide.

        Raises
        ------
        ValueError
            If guide and model do not fit together.
        """
        model_trace, guide_trace = self._traces(rng_key, param_map, model, guide, args, kwargs)
        with numpyro.validation_enabled(False):
            guide_factors, model_factors = _factors(guide_trace), _factors(model_trace)
        q = {
            name: guide_factors[name].log_prob._replace(data=jnp.exp(guide_factors[name].log_prob.data))
            for name, site in guide_trace.items()
            if name in guide_factors and name in guide_factors[name].variables
        }
        summed_out = {
            name: latent_site(site)
            for name, site in model_trace.items()
            if site["type"] == "sample" and site["infer"].get("enumerate") == "parallel" and name not in guide_trace
        }
        terms: dict[str, Array] = {}
        for factor in eliminate(list(model_factors.values()), summed_out):
            terms[factor.name] = terms.get(factor.name, jnp.zeros(())) + expectation(factor, q)
        for name, factor in guide_factors.items():
            terms[f"q({name})"] = -expectation(factor, q)
        return terms, (model_trace, guide_trace)

    def _traces(
        self, rng_key: Array, param_map: dict, model: Callable, guide: Callable, args: tuple, kwargs: dict
    ) -> tuple[dict, dict]:
        model_key, guide_key = jax.random.split(rng_key)
        with enumeration(self.max_plate_nesting):
            seeded = _DirichletMeans(substitute(seed(guide, guide_key), data=param_map))
            guide_trace = NamedTrace(seeded).get_trace(*args, **kwargs)
            shared = {n: s["value"] for n, s in guide_trace.items() if s["type"] == "deterministic"}
            replayed = substitute(replay(seed(model, model_key), guide_trace), data={**param_map, **shared})
            model_trace = NamedTrace(infer_config(replayed, _enumerate)).get_trace(*args, **kwargs)
        _check_match(model_trace, guide_trace)
        return model_trace, guide_trace


class _DirichletMeans(Messenger):
    """Replace a sample by E[ln u] where a guide asks for it."""

    def process_message(self, msg: dict) -> None:
        if msg["type"] == "sample" and msg["infer"].get("log_mean") and msg["value"] is None:
            msg["value"] = exp_log_mean(log_mean(concentration_of(msg["fn"])))


def _enumerate(site: dict) -> dict:
    """Enumerate every discrete latent site of the model, as ``config_enumerate`` does."""
    latent = site["type"] == "sample" and not site["is_observed"]
    return {"enumerate": "parallel"} if latent and site["fn"].has_enumerate_support else {}


def _factors(tr: Mapping[str, dict]) -> dict[str, Factor]:
    read = ((name, site_factor(site)) for name, site in tr.items() if site["type"] == "sample")
    return {name: factor for name, factor in read if factor is not None}


def _check_match(model_trace: Mapping[str, dict], guide_trace: Mapping[str, dict]) -> None:
    def latent(tr: Mapping[str, dict]) -> dict[str, dict]:
        return {n: s for n, s in tr.items() if s["type"] == "sample" and not s["is_observed"]}

    ours, theirs = latent(guide_trace), latent(model_trace)
    extra = [n for n in ours if n not in theirs and not ours[n]["infer"].get("is_auxiliary")]
    if extra:
        raise ValueError(
            f"Expected every site of the guide to be a latent site of the model, {sorted(theirs)}, found {extra}."
        )
    missing = [n for n in theirs if n not in ours and not theirs[n]["fn"].has_enumerate_support]
    if missing:
        raise ValueError(
            f"Expected a guide of the continuous latent sites {missing}, found none: they would be drawn from their "
            "priors. Pass continuous=normal(model), of pl2d_ppl.guides.normal, to the guide."
        )
    for name, site in ours.items():
        if site["infer"].get("enumerate") != "parallel" and not (is_dirichlet(site["fn"]) or site["fn"].has_rsample):
            raise ValueError(
                f"Expected the guide's site {name!r} to be enumerated or reparametrised, found "
                f"{type(site['fn']).__name__}. Mark it infer={{'enumerate': 'parallel'}}."
            )
