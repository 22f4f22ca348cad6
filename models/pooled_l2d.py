"""Learning to defer with people partially pooled by their clusters."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from flax import nnx
from jax import Array
from numpyro.handlers import mask, reparam
from numpyro.infer.reparam import LocScaleReparam

from pl2d_ppl.checks.models import check_pooling
from pl2d_ppl.networks import Frozen, apply_network

__all__ = ["pooled_l2d"]


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

    A person m is a vector: the log-odds that they are right on an average item, and slopes on features phi of an
    item; so is a cluster. With Omega the given membership::

        mean_k     ~ Normal([ability, slope], [1, slope_scale])   a cluster
        person_m   ~ Normal(sum_k Omega_km mean_k, spread)        a person, spread around their cluster
        score_im   = person_m . [1, phi(x_i)]
        score_iM   = ai_skill . [1, log-odds of the classifier's first choice] + ai_slope . phi(x_i)
        right_im   ~ Bernoulli(sigmoid(score_im))                 observed where annotation and truth are, and of the AI
        y_ai_i     ~ Categorical(classifier(x_i))                 observed as the truth
        z_i        ~ Categorical(softmax_m(sharpness sigmoid(score_im)))       who should decide, or M for the AI

    Spread 0 is a model of clusters, a large spread one of persons without anything in common; in between people
    borrow from one another as much as the data say, each the less, the more they have annotated. Fix the spread by
    ``numpyro.handlers.condition(model, {"spread": ...})``, at a small number in the place of 0.

    Who decides is a decision, and no cause of the truth: nothing hangs on z, so that people are known from what they
    were right in, and neither a gate nor a bound on anybody's workload changes what is believed of them. (If y were
    read off the decider, the softmax would be asked to be calibrated as well as sharp, and would pull probabilities of
    being right towards one another.) The gate compares probabilities of being right, so that an offset to the AI's is
    a threshold on a difference of them, and one fit serves every coverage.

    Sites: plates ``item`` (dim -2) and ``expert`` (dim -1, the AI last); latent ``ability``, ``slope_scale``,
    ``ai_slope_scale``, ``spread`` (2,), of the constant and of the slopes, ``ai_skill`` (2,), and, in units of their
    spread, hence ``_decentered``, ``slope`` (D,), ``ai_slope`` (D,), ``cluster_mean`` (K, 1+D), ``person`` (M, 1+D);
    ``z``; observed ``right``, ``y_ai``; deterministic ``ai_logits`` (N, C), ``gate_logits`` (N, M+1). The guide is
    ``exact(model, ["z"], continuous=normal(model))``, and newcomers are added by
    :class:`~pl2d_ppl.people.pooled.PooledPeople`. It is a mean field: people are about as sure as by MCMC, the means of
    clusters of few people are taken for surer than they are.

    Parameters
    ----------
    x : array, shape (N, ...)
        Inputs.
    annotations : array of int, shape (N, M), optional
        What people said, -1 where missing.
    y : array of int, shape (N,), optional
        Truth, -1 where unknown: such an item says nothing here.
    membership : array, shape (K, M)
        Omega, whose columns sum to one; ones of shape (1, M) where there are no clusters.
    classifier : nnx.Module, callable or Frozen
        Network from x to logits of shape (N, C): the AI. It should be trained on other items than these, since how
        often it is right is learned from them.
    features : nnx.Module, callable or Frozen, optional
        Network phi from x to (N, D), of order 1. By default what the AI believes: its C probabilities, less
        1 / C, and the largest of them, less one half.
    sharpness : float
        Inverse temperature of the gate: how sure it is that the likelier to be right should decide.
    num_items : int, optional
        Size of the whole data set when x is a mini-batch of it: weighs the items against the priors.
    """
    ai_logits = numpyro.deterministic("ai_logits", apply_network("classifier", classifier, x))
    phi = None if features is None else apply_network("features", features, x)
    check_pooling(ai_logits, phi, annotations, membership)
    ai_probs = jax.nn.softmax(jax.lax.stop_gradient(ai_logits), -1)
    phi = _belief(ai_probs) if phi is None else phi
    (num_batch, num_features), (num_clusters, num_people) = phi.shape, jnp.shape(membership)

    # What has a scale of its own is sampled in units of it, since a mean field would else distort both.
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
    gate_logits = numpyro.deterministic("gate_logits", sharpness * jax.nn.sigmoid(scores))

    said = jnp.full((num_batch, num_people), -1) if annotations is None else annotations
    truth = jnp.full((num_batch, 1), -1) if y is None else y[:, None]
    known = truth >= 0
    judged = known & jnp.pad(said >= 0, ((0, 0), (0, 1)), constant_values=True)
    answers = jnp.concatenate([said, ai_logits.argmax(-1, keepdims=True)], axis=1)

    with numpyro.plate("item", max(num_items or 0, num_batch), subsample_size=num_batch, dim=-2):
        # Without a gradient, which would move what is believed of people towards the bounds of a workload.
        decision = dist.Categorical(logits=jax.lax.stop_gradient(gate_logits)[:, None])
        numpyro.sample("z", decision, infer={"enumerate": "parallel"})
        with mask(mask=known):
            numpyro.sample("y_ai", dist.Categorical(logits=ai_logits[:, None]), obs=jnp.maximum(truth, 0))
        with numpyro.plate("expert", num_people + 1, dim=-1):
            with mask(mask=judged):
                numpyro.sample("right", dist.Bernoulli(logits=scores), obs=(answers == truth).astype(scores.dtype))


def _belief(ai_probs: Array) -> Array:
    """Features of what the AI believes, (N, C+1)."""
    uniform = 1.0 / ai_probs.shape[1]
    return jnp.concatenate([ai_probs - uniform, ai_probs.max(-1, keepdims=True) - 0.5], axis=1)


def _log_odds(prob: Array) -> Array:
    """Log-odds of a probability, which float32 may have rounded to one."""
    return jnp.log(prob) - jnp.log(jnp.maximum(1.0 - prob, 1e-6))
