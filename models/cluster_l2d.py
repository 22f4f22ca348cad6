"""Learning to defer to clusters of people (paper B, section 3.3)."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from flax import nnx
from jax import Array
from numpyro.handlers import mask
from numpyro.ops.indexing import Vindex

from pl2d_ppl.checks.declared import declares, labels, memberships, truth
from pl2d_ppl.checks.models import check_cluster_deferral
from pl2d_ppl.distributions.answers import ABSENT, EXACT, answer_logits, label_channel
from pl2d_ppl.distributions.empirical import Empirical
from pl2d_ppl.networks import Frozen, apply_network

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
    experts: nnx.Module | Callable[..., nnx.Module] | None = None,
    label_noise: float = 1e-3,
    gate_trains_classifier: bool = False,
    latent_annotations: bool = True,
    num_items: int | None = None,
) -> None:
    """Generate which cluster of people, or the AI, decides an item, which person of the cluster, and the truth.

    Let Omega be the given membership, and Omega+ be Omega with one more row for the AI alone. For every item i::

        v_i       ~ Categorical(gating(x_i))                    which cluster, or K for the AI
        w_i       ~ Categorical(row v_i of Omega+, normalised)  who: a person, or M for the AI
        t_im      ~ Categorical(experts(x_i)_m)                 what person m would say, m < M
        t_iM      ~ Categorical(classifier(x_i))                what the AI says
        annotation_im = t_im                                    where person m has annotated
        y_i       ~ (1 - label_noise) [y_i = t_iw] + label_noise / C
        y_ai_i    ~ Categorical(classifier(x_i)), observed as y_i: it trains an AI that is not frozen

    Without ``experts`` there is no model of people's annotations, and no t: y is read off the annotation of the person
    who decides, at a cost linear in people. People who did not annotate an item cannot decide it. Rows of Omega+ are
    normalised over the people who annotated the item, and the gate over clusters with such people.

    The guide is the exact q(w) q(v | w), ``exact(model, ["w", "v"])``: ``workload`` on ``w`` bounds people, the AI
    last. ``exact(model, ["v", "w"])`` is the same posterior, where ``workload`` on ``v`` bounds clusters.

    Sites: plates ``item`` (dim -2) and ``expert`` (dim -1, the AI last); latent ``v``, ``w``, ``t``, and with draws
    ``membership`` (K, M), whose guide is :func:`~pl2d_ppl.distributions.empirical.membership_draws`; observed
    ``annotation``, ``y``, ``y_ai``; deterministic ``gate_logits`` (N, K+1), ``ai_logits`` (N, C), and with experts
    ``belief_logits`` (N, M+1, C).

    Parameters
    ----------
    x : array, shape (N, ...)
        Inputs.
    annotations : array of int, shape (N, M), optional
        Annotations of people, -1 where missing. Without this argument, as in prediction, everybody may be asked.
    y : array of int, shape (N,), optional
        Truth, -1 where unknown. Without this argument all truth is unknown.
    membership : array, shape (K, M) or (S, K, M)
        Omega, whose columns sum to one: memberships of people in clusters, soft, or hard (one-hot). Or draws from their
        posterior: each step then uses one draw, so that the gate learns under uncertain memberships. Passed in
        ``fit(..., arguments=...)``, another Omega needs no new compilation.
    gating : nnx.Module or callable
        Network from x to logits of shape (N, K+1); see :func:`~pl2d_ppl.networks.instantiate`.
    classifier : nnx.Module, callable or Frozen
        Network from x to logits of shape (N, C): the AI. A :class:`~pl2d_ppl.networks.Frozen` one was trained first, as
        in paper B; any other is trained together with the gate.
    experts : nnx.Module or callable, optional
        Network from x to logits of shape (N, M, C).
    label_noise : float
        Probability that the truth is drawn at random instead of read off the decision-maker.
    gate_trains_classifier : bool
        Whether the term of y also trains the AI.
    latent_annotations : bool
        Whether t is a site, if there are experts. If not, t is summed out within the distribution of y given w:
        evidence and posterior of v and w are the same, at a cost linear in people.
    num_items : int, optional
        Size of the whole data set when x is a mini-batch of it.

    References
    ----------
    Learning to Defer on Anonymously-Annotated Data, section 3.3 and equation B.4. The model of missing annotations
    comes from Nguyen, Do, Carneiro (2025).
    """
    gate_logits = numpyro.deterministic("gate_logits", apply_network("gating", gating, x))
    ai_logits = numpyro.deterministic("ai_logits", apply_network("classifier", classifier, x))
    expert_logits = None if experts is None else apply_network("experts", experts, x)
    check_cluster_deferral(gate_logits, ai_logits, annotations, membership, expert_logits)
    num_batch, num_categories = ai_logits.shape
    num_people = jnp.shape(membership)[-1]
    said = jnp.full((num_batch, num_people), -1) if annotations is None else annotations
    ai_belief = ai_logits if gate_trains_classifier else jax.lax.stop_gradient(ai_logits)
    if expert_logits is None:  # all answers of people without annotation are equally likely, but they are not asked
        belief_logits = jnp.pad(ai_belief[:, None], ((0, 0), (num_people, 0), (0, 0)))
    else:
        belief_logits = jnp.concatenate([expert_logits, ai_belief[:, None]], axis=1)
        belief_logits = numpyro.deterministic("belief_logits", belief_logits)
    said = jnp.pad(said, ((0, 0), (0, 1)), constant_values=-1)  # the AI is never observed
    if jnp.ndim(membership) == 3:
        membership = numpyro.sample("membership", Empirical(membership))
    may_decide = None if annotations is None or expert_logits is not None else said >= 0
    share_logits, nobody = _shares(jnp.asarray(membership), may_decide)
    truth = jnp.full((num_batch, 1), -1) if y is None else y[:, None]
    known = truth >= 0

    with numpyro.plate("item", max(num_items or 0, num_batch), subsample_size=num_batch, dim=-2):
        asked = (gate_logits + ABSENT * nobody)[:, None]
        v = numpyro.sample("v", dist.Categorical(logits=asked), infer={"enumerate": "parallel"})
        shares = dist.Categorical(logits=Vindex(share_logits[:, None])[..., v, :])
        w = numpyro.sample("w", shares, infer={"enumerate": "parallel"})
        if expert_logits is not None and latent_annotations:
            with numpyro.plate("expert", num_people + 1, dim=-1):
                t = numpyro.sample("t", dist.Categorical(logits=belief_logits), infer={"enumerate": "parallel"})
                with mask(mask=said >= 0):
                    recorded = dist.Categorical(logits=label_channel(num_categories, EXACT)[t])
                    numpyro.sample("annotation", recorded, obs=jnp.maximum(said, 0))
                with mask(mask=known & (w == jnp.arange(num_people + 1))):
                    decided = dist.Categorical(logits=label_channel(num_categories, label_noise)[t])
                    numpyro.sample("y", decided, obs=jnp.maximum(truth, 0))
        else:
            if expert_logits is not None:
                with numpyro.plate("expert", num_people + 1, dim=-1), mask(mask=said >= 0):
                    numpyro.sample("annotation", dist.Categorical(logits=belief_logits), obs=jnp.maximum(said, 0))
            answers = answer_logits(said, belief_logits, label_noise)
            with mask(mask=known):
                decided = dist.Categorical(logits=Vindex(answers[:, None])[..., w, :])
                numpyro.sample("y", decided, obs=jnp.maximum(truth, 0))
        with mask(mask=known):
            numpyro.sample("y_ai", dist.Categorical(logits=ai_logits[:, None]), obs=jnp.maximum(truth, 0))


def _shares(membership: Array, may_decide: Array | None) -> tuple[Array, Array]:
    """Logits of who decides per cluster, (N or 1, K+1, M+1), and a mask of empty clusters, (N or 1, K+1)."""
    num_clusters, num_people = membership.shape
    staff = jnp.zeros((num_clusters + 1, num_people + 1)).at[:-1, :-1].set(membership).at[-1, -1].set(1.0)[None]
    if may_decide is not None:
        staff = staff * may_decide.at[:, -1].set(True)[:, None]
    nobody = staff.sum(-1) <= 0
    return jnp.where(staff > 0, jnp.log(jnp.where(staff > 0, staff, 1.0)), ABSENT), nobody
