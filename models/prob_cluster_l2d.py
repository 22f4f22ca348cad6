"""Learning to defer to clusters of people whose annotations are missing (papers A and B)."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from flax import nnx
from jax import Array

from pl2d_ppl.checks.declared import declares, labels, memberships, truth
from pl2d_ppl.checks.models import check_cluster_deferral
from pl2d_ppl.distributions.empirical import Empirical
from pl2d_ppl.networks import Frozen
from pl2d_ppl.primitives import answers, cluster_member, items, network, observe, with_ai

__all__ = ["prob_cluster_l2d"]


@declares(labels("annotations", categories="ai_logits"), truth("y", categories="ai_logits"), memberships("membership"))
def prob_cluster_l2d(
    x: Array,
    annotations: Array | None = None,
    y: Array | None = None,
    *,
    membership: Any,
    gating: nnx.Module | Callable[..., nnx.Module],
    experts: nnx.Module | Callable[..., nnx.Module],
    classifier: nnx.Module | Callable[..., nnx.Module] | Frozen,
    label_noise: float = 1e-3,
    gate_trains_classifier: bool = False,
    num_items: int | None = None,
) -> None:
    """Generate which cluster of people, or the AI, decides an item, what everybody would say, and the truth.

    This is :func:`~pl2d_ppl.models.cluster_l2d.cluster_l2d` with paper A's model of missing annotations. Let Omega be
    the given membership, and Omega+ be Omega with one more row for the AI alone. For every item i::

        v_i       ~ Categorical(gating(x_i))                    which cluster, or K for the AI
        w_i       ~ Categorical(row v_i of Omega+, normalised)  who: a person, or M for the AI
        t_im      ~ Categorical(experts(x_i)_m)                 what person m would say, m < M
        t_iM      ~ Categorical(classifier(x_i))                what the AI says
        annotation_im = t_im                                    observed where person m has annotated
        y_i       ~ (1 - label_noise) [y_i = t_iw] + label_noise / C
        y_ai_i    ~ Categorical(classifier(x_i)), observed as y_i: it trains an AI that is not frozen

    The guide is the exact q(w) q(v | w), ``exact(model, ["w", "v"])``: ``workload`` on ``w`` bounds people, the AI
    last. ``exact(model, ["v", "w"])`` is the same posterior, where ``workload`` on ``v`` bounds clusters.

    Sites: plates ``item`` (dim -2) and ``expert`` (dim -1, the AI last); latent ``v``, ``w``, ``t``, and with draws
    ``membership`` (K, M), whose guide is :func:`~pl2d_ppl.distributions.empirical.membership_draws`; observed
    ``annotation``, ``y``, ``y_ai``; deterministic ``gate_logits`` (N, K+1), ``ai_logits`` (N, C), ``belief_logits``
    (N, M+1, C). Plate diagram: docs/models/prob_cluster_l2d.

    Parameters
    ----------
    x : array, shape (N, ...)
        Inputs.
    annotations : array of int, shape (N, M), optional
        Annotations of people, -1 where missing. Without this argument they are generated.
    y : array of int, shape (N,), optional
        Truth, -1 where unknown. Without this argument it is generated.
    membership : array, shape (K, M) or (S, K, M)
        Omega, whose columns sum to one: memberships of people in clusters, soft, or hard (one-hot). Or draws from their
        posterior: each step then uses one draw, so that the gate learns under uncertain memberships. Passed in
        ``fit(..., arguments=...)``, another Omega needs no new compilation.
    gating : nnx.Module or callable
        Network from x to logits of shape (N, K+1); see :func:`~pl2d_ppl.networks.instantiate`.
    experts : nnx.Module or callable
        Network from x to logits of shape (N, M, C).
    classifier : nnx.Module, callable or Frozen
        Network from x to logits of shape (N, C): the AI. A :class:`~pl2d_ppl.networks.Frozen` one was trained first, as
        in paper B; any other is trained together with the gate.
    label_noise : float
        Probability that the truth is drawn at random instead of read off the decision-maker.
    gate_trains_classifier : bool
        Whether the term of y also trains the AI.
    num_items : int, optional
        Size of the whole data set when x is a mini-batch of it.

    References
    ----------
    Learning to Defer on Anonymously-Annotated Data, section 3.3 and equation B.4. The model of missing annotations
    comes from Nguyen, Do, Carneiro (2025).
    """
    gate_logits = network("gating", gating, x, output="gate_logits")
    ai_logits = network("classifier", classifier, x, output="ai_logits")
    expert_logits = network("experts", experts, x)
    check_cluster_deferral(gate_logits, ai_logits, annotations, membership, expert_logits)
    beliefs = with_ai(expert_logits, ai_logits, trains_ai=gate_trains_classifier)
    if jnp.ndim(membership) == 3:
        membership = numpyro.sample("membership", Empirical(membership))

    with items(x, num_items):
        w = cluster_member(gate_logits, jnp.asarray(membership))
        answers(w, beliefs, annotations, y, label_noise=label_noise)
        observe("y_ai", dist.Categorical(logits=ai_logits[:, None]), y)
