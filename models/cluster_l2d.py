"""Learning to defer to clusters of people (paper B, section 3.3)."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from flax import nnx
from jax import Array
from numpyro.ops.indexing import Vindex

from pl2d_ppl.checks.declared import declares, labels, memberships, truth
from pl2d_ppl.checks.models import check_cluster_deferral
from pl2d_ppl.distributions.answers import answer_logits
from pl2d_ppl.distributions.empirical import Empirical
from pl2d_ppl.networks import Frozen
from pl2d_ppl.primitives import MISSING, cluster_member, items, network, observe

__all__ = ["cluster_l2d"]


@declares(labels("annotations", categories="ai_logits"), truth("y", categories="ai_logits"), memberships("membership"))
def cluster_l2d(
    x: Array,
    annotations: Array | None = None,
    y: Array | None = None,
    *,
    membership: Any,
    gating: nnx.Module | Callable[..., nnx.Module],
    classifier: nnx.Module | Callable[..., nnx.Module] | Frozen,
    label_noise: float = 1e-3,
    num_items: int | None = None,
) -> None:
    """Generate which cluster of people, or the AI, decides an item, which person of the cluster, and the truth.

    Let Omega be the given membership, and Omega+ be Omega with one more row for the AI alone. For every item i::

        v_i       ~ Categorical(gating(x_i))                    which cluster, or K for the AI
        w_i       ~ Categorical(row v_i of Omega+, normalised)  who: a person, or M for the AI
        y_i       ~ (1 - label_noise) [y_i = t_iw] + label_noise / C
        y_ai_i    ~ Categorical(classifier(x_i)), observed as y_i: it trains an AI that is not frozen

    Here t_im is the given annotation of person m, and of the AI Categorical(classifier(x_i)): what people say is not
    modelled. People who did not annotate an item cannot decide it: rows of Omega+ are normalised over the people who
    annotated it, and the gate over clusters with such people. Where people's annotations are missing, and are to be
    filled in, use :func:`~pl2d_ppl.models.prob_cluster_l2d.prob_cluster_l2d`.

    The guide is the exact q(w) q(v | w), ``exact(model, ["w", "v"])``: ``workload`` on ``w`` bounds people, the AI
    last. ``exact(model, ["v", "w"])`` is the same posterior, where ``workload`` on ``v`` bounds clusters.

    Sites: plate ``item`` (dim -2); latent ``v``, ``w``, and with draws ``membership`` (K, M), whose guide is
    :func:`~pl2d_ppl.distributions.empirical.membership_draws`; observed ``y``, ``y_ai``; deterministic ``gate_logits``
    (N, K+1), ``ai_logits`` (N, C). Plate diagram: docs/models/cluster_l2d.

    Parameters
    ----------
    x : array, shape (N, ...)
        Inputs.
    annotations : array of int, shape (N, M), optional
        Annotations of people, -1 where missing. Without this argument, as in prediction, everybody may be asked, and
        says anything.
    y : array of int, shape (N,), optional
        Truth, -1 where unknown. Without this argument it is generated.
    membership : array, shape (K, M) or (S, K, M)
        Omega, whose columns sum to one: memberships of people in clusters, soft, or hard (one-hot). Or draws from their
        posterior: each step then uses one draw, so that the gate learns under uncertain memberships. Passed in
        ``fit(..., arguments=...)``, another Omega needs no new compilation.
    gating : nnx.Module or callable
        Network from x to logits of shape (N, K+1); see :func:`~pl2d_ppl.networks.instantiate`.
    classifier : nnx.Module, callable or Frozen
        Network from x to logits of shape (N, C): the AI. A :class:`~pl2d_ppl.networks.Frozen` one was trained first, as
        in paper B; any other is trained together with the gate.
    label_noise : float
        Probability that the truth is drawn at random instead of read off the decision-maker.
    num_items : int, optional
        Size of the whole data set when x is a mini-batch of it.

    References
    ----------
    Learning to Defer on Anonymously-Annotated Data, section 3.3 and equation B.4.
    """
    gate_logits = network("gating", gating, x, output="gate_logits")
    ai_logits = network("classifier", classifier, x, output="ai_logits")
    check_cluster_deferral(gate_logits, ai_logits, annotations, membership)
    if jnp.ndim(membership) == 3:
        membership = numpyro.sample("membership", Empirical(membership))
    num_people = jnp.shape(membership)[-1]
    said = jnp.full((len(x), num_people), MISSING) if annotations is None else annotations
    said = jnp.pad(said, ((0, 0), (0, 1)), constant_values=MISSING)  # the AI is never observed
    may_decide = None if annotations is None else annotations >= 0
    # Whoever has no annotation is not asked; without any annotations, all answers are equally likely.
    beliefs = jnp.pad(jax.lax.stop_gradient(ai_logits)[:, None], ((0, 0), (num_people, 0), (0, 0)))
    truth_logits = answer_logits(said, beliefs, label_noise)

    with items(x, num_items):
        w = cluster_member(gate_logits, jnp.asarray(membership), may_decide)
        observe("y", dist.Categorical(logits=Vindex(truth_logits[:, None])[..., w, :]), y)
        observe("y_ai", dist.Categorical(logits=ai_logits[:, None]), y)
