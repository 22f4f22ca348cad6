"""Learning to defer with people partially pooled by their clusters."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from flax import nnx
from jax import Array
from numpyro.handlers import reparam
from numpyro.infer.reparam import LocScaleReparam

from pl2d_ppl.checks.declared import declares, labels, memberships, truth
from pl2d_ppl.checks.models import check_pooling
from pl2d_ppl.networks import Frozen
from pl2d_ppl.primitives import ENUMERATE, MISSING, items, network, observe

__all__ = ["pooled_l2d"]


@declares(labels("annotations", categories="ai_logits"), truth("y", categories="ai_logits"), memberships("membership"))
def pooled_l2d(
    x: Array,
    annotations: Array | None = None,
    y: Array | None = None,
    *,
    membership: Any,
    classifier: nnx.Module | Callable[..., nnx.Module] | Frozen,
    features: nnx.Module | Callable[..., nnx.Module] | Frozen | None = None,
    sharpness: float = 20.0,
    num_items: int | None = None,
) -> None:
    """Generate people around the means of their clusters, whether they are right, and who decides.

    A person m is a vector: the log-odds that they are right on an average item, and slopes on features phi of an item.
    So is a cluster. With Omega the given membership::

        mean_k     ~ Normal([ability, slope], [1, slope_scale])   a cluster
        person_m   ~ Normal(sum_k Omega_km mean_k, spread)        a person, spread around their cluster
        score_im   = person_m . [1, phi(x_i)]
        score_iM   = ai_skill . [1, log-odds of the classifier's first choice] + ai_slope . phi(x_i)
        right_im   ~ Bernoulli(sigmoid(score_im))                 observed where annotation and truth are, and of the AI
        y_ai_i     ~ Categorical(classifier(x_i))                 observed as the truth
        z_i        ~ Categorical(softmax_m(sharpness sigmoid(score_im)))       who should decide, or M for the AI

    With spread 0 this is a model of clusters; with a large spread, a model of people who have nothing in common. In
    between, people share as much information as the data support; the more a person has annotated, the less they
    borrow. Fix the spread by ``numpyro.handlers.condition(model, {"spread": ...})``; use a small number instead of 0.

    Who decides is a decision, not a cause of the truth: nothing depends on z. What the model learns about people
    therefore comes only from where they were right, and neither a gate nor a workload bound changes it. (If y were read
    off the decision-maker, the softmax would have to be both calibrated and sharp, and would pull probabilities of
    being right together.) The gate compares probabilities of being right, so that an offset to the AI is a threshold on
    their difference, and one fit serves every coverage.

    Sites: plates ``item`` (dim -2) and ``expert`` (dim -1, the AI last); latent ``ability``, ``slope_scale``,
    ``ai_slope_scale``, ``spread`` (2,), of the constant and of the slopes, ``ai_skill`` (2,), and, in units of their
    spread (hence ``_decentered``), ``slope`` (D,), ``ai_slope`` (D,), ``cluster_mean`` (K, 1+D), ``person`` (M, 1+D);
    ``z``; observed ``right``, ``y_ai``; deterministic ``ai_logits`` (N, C), ``right_probs`` and
    ``gate_logits`` (N, M+1). Plate diagram: docs/models/pooled_l2d. The guide is
    ``exact(model, ["z"], continuous=normal(model))``, and :class:`~pl2d_ppl.people.pooled.PooledPeople` adds newcomers.
    The guide is a mean field: its uncertainty of people is close to that of MCMC, but it underestimates the uncertainty
    of means of clusters with few people.

    Parameters
    ----------
    x : array, shape (N, ...)
        Inputs.
    annotations : array of int, shape (N, M), optional
        Annotations of people, -1 where missing.
    y : array of int, shape (N,), optional
        Truth, -1 where unknown: such an item has no effect here. Without this argument ``right`` and ``y_ai`` are
        generated, independently of one another.
    membership : array, shape (K, M)
        Omega, whose columns sum to one; pass ones of shape (1, M) if there are no clusters.
    classifier : nnx.Module, callable or Frozen
        Network from x to logits of shape (N, C): the AI. Train it on other items than these, since the model learns
        from these how often the AI is right.
    features : nnx.Module, callable or Frozen, optional
        Network phi from x to (N, D), of order 1. By default the AI's C probabilities minus 1 / C, and the largest of
        them minus one half.
    sharpness : float
        Inverse temperature of the gate: how strongly it prefers those who are more likely to be right.
    num_items : int, optional
        Size of the whole data set when x is a mini-batch of it: weighs the items against the priors.
    """
    ai_logits = network("classifier", classifier, x, output="ai_logits")
    phi = None if features is None else network("features", features, x)
    check_pooling(ai_logits, phi, annotations, membership)
    ai_probs = jax.nn.softmax(jax.lax.stop_gradient(ai_logits), -1)
    phi = _belief(ai_probs) if phi is None else phi
    num_features, (num_clusters, num_people) = phi.shape[1], jnp.shape(membership)

    # Sites with their own scale are sampled in units of it, since a mean field would otherwise distort both.
    with reparam(config={name: LocScaleReparam(0.0) for name in ("slope", "cluster_mean", "person", "ai_slope")}):
        ability = numpyro.sample("ability", dist.Normal(1.0, 1.0))
        slope_scale = numpyro.sample("slope_scale", dist.HalfNormal(0.5))
        slope = numpyro.sample("slope", dist.Normal(jnp.zeros(num_features), slope_scale).to_event(1))
        center = jnp.concatenate([ability[None], slope])
        scale = jnp.concatenate([jnp.ones(1), jnp.full(num_features, slope_scale)])
        clusters = dist.Normal(center, scale).expand([num_clusters, num_features + 1]).to_event(2)
        cluster_mean = numpyro.sample("cluster_mean", clusters)
        spread = numpyro.sample("spread", dist.HalfNormal(jnp.array([1.0, 0.5])).to_event(1))
        spreads = jnp.concatenate([spread[:1], jnp.broadcast_to(spread[1:], (num_features,))])
        mean = jnp.asarray(membership).T @ cluster_mean
        person = numpyro.sample("person", dist.Normal(mean, spreads).to_event(2))
        ai_skill = numpyro.sample("ai_skill", dist.Normal(jnp.array([0.0, 1.0]), 1.0).to_event(1))
        ai_slope_scale = numpyro.sample("ai_slope_scale", dist.HalfNormal(0.5))
        ai_slope = numpyro.sample("ai_slope", dist.Normal(jnp.zeros(num_features), ai_slope_scale).to_event(1))

    confidence = _log_odds(ai_probs.max(-1))
    ai_score = ai_skill[0] + ai_skill[1] * confidence + phi @ ai_slope
    scores = jnp.concatenate([person[:, 0] + phi @ person[:, 1:].T, ai_score[:, None]], axis=1)
    right_probs = numpyro.deterministic("right_probs", jax.nn.sigmoid(scores))
    gate_logits = numpyro.deterministic("gate_logits", sharpness * right_probs)

    with items(x, num_items):
        # Without a gradient, which would move the posterior of people towards the bounds of a workload.
        decision = dist.Categorical(logits=jax.lax.stop_gradient(gate_logits)[:, None])
        numpyro.sample("z", decision, infer=dict(ENUMERATE))
        observe("y_ai", dist.Categorical(logits=ai_logits[:, None]), y)
        with numpyro.plate("expert", num_people + 1, dim=-1):
            observe("right", dist.Bernoulli(logits=scores), _right(annotations, ai_logits, y, num_people))


def _right(annotations: Array | None, ai_logits: Array, y: Array | None, num_people: int) -> Array | None:
    """Whether everybody is right, (N, M+1): -1 where annotation or truth is missing; None without any truth."""
    if y is None:
        return None
    said = jnp.full((len(y), num_people), MISSING) if annotations is None else annotations
    said = jnp.concatenate([said, ai_logits.argmax(-1, keepdims=True)], axis=1)
    return jnp.where((said >= 0) & (y[:, None] >= 0), said == y[:, None], MISSING)


def _belief(ai_probs: Array) -> Array:
    """Features from the AI's probabilities, (N, C+1)."""
    uniform = 1.0 / ai_probs.shape[1]
    return jnp.concatenate([ai_probs - uniform, ai_probs.max(-1, keepdims=True) - 0.5], axis=1)


def _log_odds(prob: Array) -> Array:
    """Log-odds of a probability that float32 may have rounded to one."""
    return jnp.log(prob) - jnp.log(jnp.maximum(1.0 - prob, 1e-6))
