"""Probabilistic learning to defer with missing annotations (paper A)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from flax import nnx
from jax import Array
from numpyro.handlers import mask
from numpyro.ops.indexing import Vindex

from pl2d_ppl.checks.declared import declares, labels, truth
from pl2d_ppl.checks.models import check_deferral
from pl2d_ppl.distributions.answers import EXACT, answer_logits, label_channel
from pl2d_ppl.networks import Frozen, apply_network

__all__ = ["prob_l2d"]


@declares(labels("annotations", categories="ai_logits"), truth("y", categories="ai_logits"))
def prob_l2d(
    x: Array,
    annotations: Array | None = None,
    y: Array | None = None,
    *,
    gating: nnx.Module | Callable[..., nnx.Module],
    experts: nnx.Module | Callable[..., nnx.Module],
    classifier: nnx.Module | Callable[..., nnx.Module] | Frozen,
    label_noise: float = 1e-3,
    gate_trains_classifier: bool = False,
    latent_annotations: bool = True,
    num_items: int | None = None,
) -> None:
    """Generate who decides an item, what everybody would say, and the truth that the decision-maker gets right.

    For every item i::

        z_i       ~ Categorical(gating(x_i))                    who decides: an expert, or M for the AI
        t_im      ~ Categorical(experts(x_i)_m)                 what expert m would say, m < M
        t_iM      ~ Categorical(classifier(x_i))                what the AI says
        annotation_im = t_im                                    where expert m has annotated
        y_i       ~ (1 - label_noise) [y_i = t_iz] + label_noise / C
        y_ai_i    ~ Categorical(classifier(x_i)), observed as y_i: it trains the AI

    The truth is written "y through expert m, where z = m", inside the plate of experts: if y came from ``t[z]`` outside
    the plate, enumeration would be silently wrong. The AI's own t is never clamped to y, since the gate would then see
    a perfect AI.

    Sites: plates ``item`` (dim -2) and ``expert`` (dim -1, the AI last); latent ``z``, ``t``; observed
    ``annotation``, ``y``, ``y_ai``; deterministic ``gate_logits`` (N, M+1), ``ai_logits`` (N, C),
    ``belief_logits`` (N, M+1, C).

    Parameters
    ----------
    x : array, shape (N, ...)
        Inputs.
    annotations : array of int, shape (N, M), optional
        Annotations of the experts, -1 where missing. Without this argument all are missing.
    y : array of int, shape (N,), optional
        Truth, -1 where unknown: such an item still trains the experts' networks. Without this argument all truth is
        unknown.
    gating, experts, classifier : nnx.Module or callable
        Networks from x to logits of shape (N, M+1), (N, M, C) and (N, C); see
        :func:`~pl2d_ppl.networks.instantiate`. A Frozen classifier is not trained.
    label_noise : float
        Probability that the truth is drawn at random instead of read off the decision-maker (epsilon of paper A).
    gate_trains_classifier : bool
        Whether the term of y also trains the AI; in paper A's algorithm it does not.
    latent_annotations : bool
        Whether t is a site. If not, t is summed out within the distribution of y given z: evidence and posterior of z
        are the same, at O(M C) per item instead of O(M^2), but ``belief_logits`` is all that is known about t. Choose
        this for many experts.
    num_items : int, optional
        Size of the whole data set when x is a mini-batch of it: weighs the items against priors on weights.

    References
    ----------
    Nguyen, Do, Carneiro (2025). Probabilistic Learning to Defer: Handling Missing Expert's Annotations and
    Controlling Workload Distribution. ICLR.
    """
    gate_logits = numpyro.deterministic("gate_logits", apply_network("gating", gating, x))
    ai_logits = numpyro.deterministic("ai_logits", apply_network("classifier", classifier, x))
    expert_logits = apply_network("experts", experts, x)
    check_deferral(gate_logits, ai_logits, annotations, expert_logits)
    ai_belief = ai_logits if gate_trains_classifier else jax.lax.stop_gradient(ai_logits)
    belief_logits = numpyro.deterministic("belief_logits", jnp.concatenate([expert_logits, ai_belief[:, None]], axis=1))
    num_batch, num_deciders, num_categories = belief_logits.shape
    if annotations is None:
        annotations = jnp.full((num_batch, num_deciders - 1), -1)
    said = jnp.pad(annotations, ((0, 0), (0, 1)), constant_values=-1)  # the AI is never observed
    truth = jnp.full((num_batch, 1), -1) if y is None else y[:, None]
    known = truth >= 0

    with numpyro.plate("item", max(num_items or 0, num_batch), subsample_size=num_batch, dim=-2):
        z = numpyro.sample("z", dist.Categorical(logits=gate_logits[:, None]), infer={"enumerate": "parallel"})
        if latent_annotations:
            with numpyro.plate("expert", num_deciders, dim=-1):
                t = numpyro.sample("t", dist.Categorical(logits=belief_logits), infer={"enumerate": "parallel"})
                with mask(mask=said >= 0):
                    recorded = dist.Categorical(logits=label_channel(num_categories, EXACT)[t])
                    numpyro.sample("annotation", recorded, obs=jnp.maximum(said, 0))
                with mask(mask=known & (z == jnp.arange(num_deciders))):
                    decided = dist.Categorical(logits=label_channel(num_categories, label_noise)[t])
                    numpyro.sample("y", decided, obs=jnp.maximum(truth, 0))
        else:
            with numpyro.plate("expert", num_deciders, dim=-1), mask(mask=said >= 0):
                numpyro.sample("annotation", dist.Categorical(logits=belief_logits), obs=jnp.maximum(said, 0))
            answers = answer_logits(said, belief_logits, label_noise)
            with mask(mask=known):
                decided = dist.Categorical(logits=Vindex(answers[:, None])[..., z, :])
                numpyro.sample("y", decided, obs=jnp.maximum(truth, 0))
        with mask(mask=known):
            numpyro.sample("y_ai", dist.Categorical(logits=ai_logits[:, None]), obs=jnp.maximum(truth, 0))
