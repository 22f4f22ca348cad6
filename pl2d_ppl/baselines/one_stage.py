"""Learning to defer in one stage: categories and experts compete in one surrogate loss."""

from collections.abc import Callable
from typing import Literal

import jax.numpy as jnp
import numpyro
from flax import nnx
from jax import Array
from jax.nn import log_sigmoid, log_softmax
from numpyro.handlers import mask

from pl2d_ppl.checks.declared import declares, labels, truth
from pl2d_ppl.checks.models import check_deferral
from pl2d_ppl.networks import Frozen
from pl2d_ppl.primitives import network

__all__ = ["one_stage", "truth_column"]

Terms = tuple[Array, Array]  # minus the loss, for the categories, (N, 1), and for the experts, (N, M)


@declares(labels("annotations", categories="ai_logits"), truth("y", categories="ai_logits"))
def one_stage(
    x: Array,
    annotations: Array | None = None,
    y: Array | None = None,
    *,
    gating: nnx.Module | Callable[..., nnx.Module],
    classifier: nnx.Module | Callable[..., nnx.Module] | Frozen,
    surrogate: Literal["softmax", "ova"] = "softmax",
    num_items: int | None = None,
) -> None:
    r"""Score categories and experts side by side; the highest score decides.

    With class logits l = classifier(x), deferral logits d = gating(x), s_m = 1[annotation_m = y], and m over those who
    annotated the item, "softmax" takes :math:`p = \mathrm{softmax}([l, d])` and the loss

    .. math:: -\ln p_y - \sum_m s_m \ln p_{C+m}

    and "ova", one against all, with the logistic function :math:`\sigma`,

    .. math::

        -\ln \sigma(l_y) - \sum_{c \ne y} \ln \sigma(-l_c)
        - \sum_m \left[ s_m \ln \sigma(d_m) + (1 - s_m) \ln \sigma(-d_m) \right]

    Minus the loss enters as :func:`numpyro.factor`: a surrogate of the system's error is not a log-likelihood, and
    nothing can be drawn from it. There is no latent site: fit it with :func:`~pl2d_ppl.engine.guide_tools.no_guide`.

    A missing annotation adds no term. With "ova" the expert's logit then learns nothing from the item. With "softmax"
    the expert stays in the normaliser of the others, as if the annotation were wrong, so that experts who annotate
    little are asked too seldom, as by :func:`~pl2d_ppl.baselines.naive_l2d.naive_l2d`.

    With a Frozen classifier only d is trained. At the optimum an expert decides if they are right more often than the
    confidence of the classifier: with "softmax" its largest probability, with "ova" the logistic function of its
    largest logit, which is meaningful only if the classifier was trained with that loss. Unlike
    :func:`~pl2d_ppl.baselines.two_stage.two_stage`, this loss ignores whether the classifier is right.

    Training does not steer coverage, since workload is not in the loss: there is one system, not a curve.
    :meth:`~pl2d_ppl.deferral.deferral.Deferral.bounded` can still shift its decisions afterwards.

    Sites: plates ``item`` (dim -2) and ``expert`` (dim -1, without the AI); factors ``categories`` and ``deferral``;
    deterministic ``gate_logits`` (N, M+1), which are [d, max l], so that their argmax decides, and ``ai_logits`` (N,
    C), which are l.

    Parameters
    ----------
    x : array, shape (N, ...)
        Inputs.
    annotations : array of int, shape (N, M), optional
        Annotations of the experts, -1 where missing. Without this argument all are missing.
    y : array of int, shape (N,), optional
        Truth, -1 where unknown: such an item has no effect. Without this argument all truth is unknown.
    gating, classifier : nnx.Module or callable
        Networks from x to logits of shape (N, M), without the AI, and (N, C). A Frozen classifier is not trained.
    surrogate : {"softmax", "ova"}
        The loss.
    num_items : int, optional
        Size of the whole data set when x is a mini-batch of it: weighs the items against priors on weights.

    Raises
    ------
    ValueError
        If the surrogate is unknown, or networks and data do not fit together.

    References
    ----------
    Mozannar and Sontag, "Consistent Estimators for Learning to Defer to an Expert", ICML 2020.

    Verma, Barrejón and Nalisnick, "Learning to Defer to Multiple Experts: Consistent Surrogate Losses, Confidence
    Calibration, and Conformal Ensembles", AISTATS 2023.
    """
    if surrogate not in _SURROGATES:
        raise ValueError(f"Expected a surrogate out of {', '.join(_SURROGATES)}, found {surrogate!r}.")
    deferral_logits = network("gating", gating, x)
    ai_logits = network("classifier", classifier, x, output="ai_logits")
    _check_outputs(deferral_logits, ai_logits)
    scores = jnp.concatenate([deferral_logits, ai_logits.max(1, keepdims=True)], axis=1)
    gate_logits = numpyro.deterministic("gate_logits", scores)
    check_deferral(gate_logits, ai_logits, annotations)
    num_batch, num_experts = deferral_logits.shape
    said = jnp.full(deferral_logits.shape, -1) if annotations is None else annotations
    truth = truth_column(y, num_batch)
    known = truth >= 0
    of_categories, of_experts = _SURROGATES[surrogate](ai_logits, deferral_logits, said == truth, truth)

    with numpyro.plate("item", max(num_items or 0, num_batch), subsample_size=num_batch, dim=-2):
        with mask(mask=known):
            numpyro.factor("categories", of_categories)
        with numpyro.plate("expert", num_experts, dim=-1), mask(mask=known & (said >= 0)):
            numpyro.factor("deferral", of_experts)


def truth_column(y: Array | None, num_items: int) -> Array:
    """Return the truth of a mini-batch as a column.

    Parameters
    ----------
    y : array of int, shape (N,), optional
        Truth, -1 where unknown. Without this argument all truth is unknown.
    num_items : int
        N.

    Returns
    -------
    array of int, shape (N, 1)
        The truth.

    Raises
    ------
    ValueError
        If it has another shape.
    """
    if y is None:
        return jnp.full((num_items, 1), -1)
    if y.shape != (num_items,):
        raise ValueError(f"Expected y of shape ({num_items},), one label an item, found {y.shape}.")
    return y[:, None]


def _softmax(class_logits: Array, deferral_logits: Array, right: Array, truth: Array) -> Terms:
    log_p = log_softmax(jnp.concatenate([class_logits, deferral_logits], axis=1))
    of_truth = jnp.take_along_axis(log_p, jnp.maximum(truth, 0), axis=1)
    return of_truth, jnp.where(right, log_p[:, class_logits.shape[1] :], 0.0)


def _one_against_all(class_logits: Array, deferral_logits: Array, right: Array, truth: Array) -> Terms:
    signed = jnp.where(truth == jnp.arange(class_logits.shape[1]), class_logits, -class_logits)
    of_experts = log_sigmoid(jnp.where(right, deferral_logits, -deferral_logits))
    return log_sigmoid(signed).sum(1, keepdims=True), of_experts


_SURROGATES: dict[str, Callable[..., Terms]] = {"softmax": _softmax, "ova": _one_against_all}


def _check_outputs(deferral_logits: Array, ai_logits: Array) -> None:
    if not (deferral_logits.ndim == ai_logits.ndim == 2 and deferral_logits.shape[1] > 0):
        raise ValueError(
            "Expected networks with outputs gating (N, M) and classifier (N, C), for M experts and C categories, found "
            f"{deferral_logits.shape} and {ai_logits.shape}. The AI has no output of gating."
        )
