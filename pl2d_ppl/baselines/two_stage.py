"""Learning to defer in two stages: a gate learns who is right, given the AI."""

from collections.abc import Callable

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from flax import nnx
from jax import Array
from jax.nn import log_softmax
from numpyro.handlers import mask

from pl2d_ppl.baselines.one_stage import truth_column
from pl2d_ppl.checks.declared import declares, labels, truth
from pl2d_ppl.checks.models import check_deferral
from pl2d_ppl.networks import Frozen
from pl2d_ppl.primitives import network

__all__ = ["two_stage"]


@declares(labels("annotations", categories="ai_logits"), truth("y", categories="ai_logits"))
def two_stage(
    x: Array,
    annotations: Array | None = None,
    y: Array | None = None,
    *,
    gating: nnx.Module | Callable[..., nnx.Module],
    classifier: nnx.Module | Callable[..., nnx.Module] | Frozen,
    num_items: int | None = None,
) -> None:
    r"""Raise the gate of everybody who is right, including the AI.

    With r = gating(x), whose last of M+1 entries is the AI's, and :math:`\ell(r, m) = -\ln \mathrm{softmax}(r)_m`, the
    loss is

    .. math:: 1[\mathrm{AI\ right}] \, \ell(r, M) + \sum_m 1[\mathrm{annotation}_m = y] \, \ell(r, m)

    with m over those who annotated the item. The AI is right if its largest logit is that of the truth; this indicator
    passes no gradient. At the optimum the gate is proportional to how often each person is right.

    Minus the loss enters as :func:`numpyro.factor`: a surrogate of the system's error is not a log-likelihood, and
    nothing can be drawn from it. There is no latent site: fit it with :func:`~pl2d_ppl.engine.guide_tools.no_guide`.
    Neither a missing annotation nor a wrong one adds a term: experts who annotate little are asked too seldom, as by
    :func:`~pl2d_ppl.baselines.naive_l2d.naive_l2d`. Training does not steer coverage;
    :meth:`~pl2d_ppl.deferral.deferral.Deferral.bounded` can shift decisions afterwards.

    There are two stages if the classifier is Frozen, that is, trained first. Any other classifier is trained together
    with the gate, by its own cross-entropy, and the gate follows its current correctness.

    Sites: plates ``item`` (dim -2) and ``expert`` (dim -1, the AI last); factor ``deferral``; observed ``y_ai``, which
    trains the AI; deterministic ``gate_logits`` (N, M+1), ``ai_logits`` (N, C).

    Parameters
    ----------
    x : array, shape (N, ...)
        Inputs.
    annotations : array of int, shape (N, M), optional
        Annotations of the experts, -1 where missing. Without this argument all are missing.
    y : array of int, shape (N,), optional
        Truth, -1 where unknown: such an item has no effect. Without this argument all truth is unknown.
    gating, classifier : nnx.Module or callable
        Networks from x to logits of shape (N, M+1) and (N, C). A Frozen classifier is not trained: its ``y_ai`` is a
        constant.
    num_items : int, optional
        Size of the whole data set when x is a mini-batch of it: weighs the items against priors on weights.

    Raises
    ------
    ValueError
        If networks and data do not fit together.

    References
    ----------
    Madras, Pitassi and Zemel, "Predict Responsibly: Improving Fairness and Accuracy by Learning to Defer", NeurIPS
    2018.

    Mao, Mohri, Mohri and Zhong, "Two-Stage Learning to Defer with Multiple Experts", NeurIPS 2023.

    Nguyen, Do, Carneiro (2025). Probabilistic Learning to Defer: Handling Missing Expert's Annotations and
    Controlling Workload Distribution. ICLR.
    """
    gate_logits = network("gating", gating, x, output="gate_logits")
    ai_logits = network("classifier", classifier, x, output="ai_logits")
    check_deferral(gate_logits, ai_logits, annotations)
    num_batch, num_deciders = gate_logits.shape
    if annotations is None:
        annotations = jnp.full((num_batch, num_deciders - 1), -1)
    said = jnp.concatenate([annotations, ai_logits.argmax(1, keepdims=True)], axis=1)
    truth = truth_column(y, num_batch)
    known = truth >= 0

    with numpyro.plate("item", max(num_items or 0, num_batch), subsample_size=num_batch, dim=-2):
        # A missing annotation never equals a known truth: it is masked like a wrong one.
        with numpyro.plate("expert", num_deciders, dim=-1), mask(mask=known & (said == truth)):
            numpyro.factor("deferral", log_softmax(gate_logits))
        with mask(mask=known):
            numpyro.sample("y_ai", dist.Categorical(logits=ai_logits[:, None]), obs=jnp.maximum(truth, 0))
