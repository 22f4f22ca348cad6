"""Learning to defer that drops missing experts: paper A's naive baseline (A.15)."""

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
from pl2d_ppl.distributions.answers import ABSENT, answer_logits
from pl2d_ppl.networks import Frozen
from pl2d_ppl.primitives import network

__all__ = ["naive_l2d"]


@declares(labels("annotations", categories="ai_logits"), truth("y", categories="ai_logits"))
def naive_l2d(
    x: Array,
    annotations: Array | None = None,
    y: Array | None = None,
    *,
    gating: nnx.Module | Callable[..., nnx.Module],
    classifier: nnx.Module | Callable[..., nnx.Module] | Frozen,
    label_noise: float = 1e-3,
) -> None:
    """Generate who decides, among those who annotated and the AI, and the truth that the decision-maker gets right.

    For every item i::

        z_i    ~ Categorical(gating(x_i)); observed: expert z_i annotated the item, or is the AI
        y_i    ~ (1 - label_noise) [y_i = t_iz] + label_noise / C; t_i the annotations, and of the AI
                 Categorical(classifier(x_i))
        y_ai_i ~ Categorical(classifier(x_i)), observed as y_i: it trains the AI

    The posterior of z is r_m ∝ g_m s_m with g_m = 0 for a missing expert, and the gate learns from -sum r ln g. If no
    annotation is missing, this is standard learning to defer by EM (paper A, appendix A.1). There is no model of
    missing annotations, so that the gate confuses experts who annotate little with experts who are seldom right.

    Parameters
    ----------
    x : array, shape (N, ...)
        Inputs.
    annotations : array of int, shape (N, M), optional
        Annotations of the experts, -1 where missing. Without them, as in prediction, everybody may be asked.
    y : array of int, shape (N,), optional
        Truth, -1 where unknown.
    gating, classifier : nnx.Module or callable
        Networks from x to logits of shape (N, M+1) and (N, C). A Frozen classifier is not trained.
    label_noise : float
        Probability that the truth is drawn at random instead of read off the decision-maker.

    References
    ----------
    Nguyen, Do, Carneiro (2025). Probabilistic Learning to Defer: Handling Missing Expert's Annotations and
    Controlling Workload Distribution. ICLR. Equation A.15.
    """
    gate_logits = network("gating", gating, x, output="gate_logits")
    ai_logits = network("classifier", classifier, x, output="ai_logits")
    check_deferral(gate_logits, ai_logits, annotations)
    with numpyro.plate("item", len(gate_logits), dim=-2):
        z = numpyro.sample("z", dist.Categorical(logits=gate_logits[:, None]), infer={"enumerate": "parallel"})
        if y is None or annotations is None:
            return
        present = jnp.pad(annotations >= 0, ((0, 0), (0, 1)), constant_values=True)
        numpyro.factor("present", Vindex(jnp.where(present, 0.0, ABSENT)[:, None])[..., z])
        truth = jnp.maximum(y, 0)[:, None]
        # Annotations are not latent sites here: y can be read off the decision-maker, without a plate of experts.
        beliefs = jnp.pad(jax.lax.stop_gradient(ai_logits)[:, None], ((0, 0), (annotations.shape[1], 0), (0, 0)))
        said = jnp.pad(annotations, ((0, 0), (0, 1)), constant_values=-1)  # the AI is never observed
        answers = answer_logits(said, beliefs, label_noise)
        with mask(mask=(y >= 0)[:, None]):
            numpyro.sample("y", dist.Categorical(logits=Vindex(answers[:, None])[..., z, :]), obs=truth)
            numpyro.sample("y_ai", dist.Categorical(logits=ai_logits[:, None]), obs=truth)
