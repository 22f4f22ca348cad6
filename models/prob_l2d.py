"""Probabilistic learning to defer: missing annotations and bounded workloads (paper A)."""

from collections.abc import Callable

import numpyro
import numpyro.distributions as dist
from flax import nnx
from jax import Array

from pl2d_ppl.checks.declared import declares, labels, truth
from pl2d_ppl.checks.models import check_deferral
from pl2d_ppl.networks import Frozen
from pl2d_ppl.primitives import ENUMERATE, answers, items, network, observe, with_ai

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
    num_items: int | None = None,
) -> None:
    """Generate who decides an item, what everybody would say, and the truth that the decision-maker gets right.

    For every item i::

        z_i       ~ Categorical(gating(x_i))                    who decides: an expert, or M for the AI
        t_im      ~ Categorical(experts(x_i)_m)                 what expert m would say, m < M
        t_iM      ~ Categorical(classifier(x_i))                what the AI says
        annotation_im = t_im                                    observed where expert m has annotated
        y_i       ~ (1 - label_noise) [y_i = t_iz] + label_noise / C
        y_ai_i    ~ Categorical(classifier(x_i)), observed as y_i: it trains the AI

    The AI's own t is never clamped to y, since the gate would then see a perfect AI. For a prior on the weights of a
    network, write it where the network stands: ``network("gating", gating, x, output="gate_logits",
    prior=dist.Normal(0.0, 1.0))``.

    Sites: plates ``item`` (dim -2) and ``expert`` (dim -1, the AI last); latent ``z``, ``t``; observed
    ``annotation``, ``y``, ``y_ai``; deterministic ``gate_logits`` (N, M+1), ``ai_logits`` (N, C),
    ``belief_logits`` (N, M+1, C). Plate diagram: docs/models/prob_l2d.

    Parameters
    ----------
    x : array, shape (N, ...)
        Inputs.
    annotations : array of int, shape (N, M), optional
        Annotations of the experts, -1 where missing. Without this argument they are generated.
    y : array of int, shape (N,), optional
        Truth, -1 where unknown: such an item still trains the experts' networks. Without this argument it is generated.
    gating, experts, classifier : nnx.Module or callable
        Networks from x to logits of shape (N, M+1), (N, M, C) and (N, C); see
        :func:`~pl2d_ppl.networks.instantiate`. A Frozen classifier is not trained.
    label_noise : float
        Probability that the truth is drawn at random instead of read off the decision-maker (epsilon of paper A).
    gate_trains_classifier : bool
        Whether the term of y also trains the AI; in paper A's algorithm it does not.
    num_items : int, optional
        Size of the whole data set when x is a mini-batch of it: weighs the items against priors on weights.

    References
    ----------
    Nguyen, Do, Carneiro (2025). Probabilistic Learning to Defer: Handling Missing Expert's Annotations and
    Controlling Workload Distribution. ICLR.
    """
    gate_logits = network("gating", gating, x, output="gate_logits")
    ai_logits = network("classifier", classifier, x, output="ai_logits")
    expert_logits = network("experts", experts, x)
    check_deferral(gate_logits, ai_logits, annotations, expert_logits)
    beliefs = with_ai(expert_logits, ai_logits, trains_ai=gate_trains_classifier)

    with items(x, num_items):
        z = numpyro.sample("z", dist.Categorical(logits=gate_logits[:, None]), infer=dict(ENUMERATE))
        answers(z, beliefs, annotations, y, label_noise=label_noise)
        observe("y_ai", dist.Categorical(logits=ai_logits[:, None]), y)
