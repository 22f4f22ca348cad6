"""Evaluate decisions on a data set."""

from typing import Any

import numpy as np

from pl2d_ppl.data import Annotated
from pl2d_ppl.deferral.metrics import final_labels

__all__ = ["evaluate_decisions", "expert_accuracy"]


def evaluate_decisions(decision: np.ndarray, ai_labels: np.ndarray, data: Annotated) -> dict[str, Any]:
    """Compute realised coverage, accuracy and workload of decisions.

    Parameters
    ----------
    decision : array of int, shape (N,)
        Expert who decides, M for the AI.
    ai_labels : array of int, shape (N,)
        Labels that the AI gives.
    data : Annotated
        The items.

    Returns
    -------
    dict
        ``coverage``; ``accuracy``, over the items whose truth is known and whose decider annotated them;
        ``judged``, the share of these items; ``workload``, the share of the items per person, shape (M+1,).
    """
    workload_ = np.bincount(decision, minlength=data.num_experts + 1) / data.num_items
    final = final_labels(decision, data.annotations, ai_labels)
    judged = (final >= 0) & (data.y >= 0)
    right = final[judged] == data.y[judged]
    accuracy = float(right.mean()) if judged.any() else float("nan")
    return {
        "coverage": float(workload_[-1]),
        "accuracy": accuracy,
        "judged": float(judged.mean()),
        "workload": workload_.tolist(),
    }


def expert_accuracy(data: Annotated) -> list[float | None]:
    """Accuracy of every expert on items with known annotation and truth; None for an expert without such items."""
    right = data.annotations == data.y[:, None]
    known = (data.annotations >= 0) & (data.y >= 0)[:, None]
    return [float(r[k].mean()) if k.any() else None for r, k in zip(right.T, known.T, strict=True)]
