"""Checks of networks, annotations and memberships of the deferral models against each other."""

from typing import Any

import jax
import numpy as np

from pl2d_ppl.checks.membership import check_membership

__all__ = ["check_cluster_deferral", "check_crowd", "check_deferral", "check_pooling"]


def check_deferral(gate_logits: Any, ai_logits: Any, annotations: Any, expert_logits: Any = None) -> None:
    """Check that the networks and annotations of a deferral model fit together.

    Raises
    ------
    ValueError
        If they do not.
    """
    outputs = {"gating": gate_logits, "classifier": ai_logits}
    if expert_logits is not None:
        outputs["experts"] = expert_logits
    fits = gate_logits.ndim == ai_logits.ndim == 2
    if fits and expert_logits is not None:
        fits = expert_logits.shape[1:] == (gate_logits.shape[1] - 1, ai_logits.shape[1])
    if not fits:
        raise ValueError(
            "Expected networks with outputs gating (N, M+1), classifier (N, C) and experts (N, M, C), for M experts "
            f"and C categories, found { {name: o.shape for name, o in outputs.items()} }."
        )
    expected = (gate_logits.shape[0], gate_logits.shape[1] - 1)
    if annotations is not None and annotations.shape != expected:
        raise ValueError(
            f"Expected annotations of shape {expected}, one column for each expert of the gating network, found "
            f"{annotations.shape}."
        )


def check_cluster_deferral(
    gate_logits: Any, ai_logits: Any, annotations: Any, membership: Any, expert_logits: Any = None
) -> None:
    """Check that networks, annotations and membership of a model of deferral to clusters fit together.

    Raises
    ------
    ValueError
        If they do not, or if the membership is invalid: it is negative, its columns do not sum to one, or a cluster is
        empty.
    """
    shape = np.shape(membership)
    if len(shape) not in (2, 3) or gate_logits.ndim != 2 or gate_logits.shape[1] != shape[-2] + 1:
        raise ValueError(
            "Expected a membership of shape (K, M), or (S, K, M) of S draws, and a gating network with outputs "
            f"(N, K+1), found {shape} and {gate_logits.shape}. The last output is the AI."
        )
    num_items, num_people = gate_logits.shape[0], shape[-1]
    fits = expert_logits is None or expert_logits.shape[1:] == (num_people, *ai_logits.shape[1:])
    if ai_logits.ndim != 2 or not fits:
        found = {"classifier": ai_logits.shape} | ({} if expert_logits is None else {"experts": expert_logits.shape})
        raise ValueError(
            f"Expected networks with outputs classifier (N, C) and experts (N, M, C), for the {num_people} people of "
            f"the membership and C categories, found {found}."
        )
    _check_columns(annotations, (num_items, num_people))
    if not isinstance(membership, jax.core.Tracer):
        check_membership(membership, may_be_empty=False)


def check_pooling(ai_logits: Any, features: Any, annotations: Any, membership: Any) -> None:
    """Check that networks, annotations and membership of a model of pooled people fit together.

    Raises
    ------
    ValueError
        If they do not, or if the membership is invalid.
    """
    outputs = {"classifier": ai_logits} | ({} if features is None else {"features": features})
    if any(array.ndim != 2 for array in outputs.values()):
        raise ValueError(
            "Expected networks with outputs classifier (N, C) and features (N, D), found "
            f"{' and '.join(str(array.shape) for array in outputs.values())}."
        )
    _check_clusters(membership)
    _check_columns(annotations, (ai_logits.shape[0], np.shape(membership)[1]))


def check_crowd(ai_logits: Any, annotations: Any, people: Any, membership: Any) -> None:
    """Check that the classifier, annotations and membership of a model of a crowd fit together.

    Raises
    ------
    ValueError
        If they do not, or if the membership is invalid.
    """
    if ai_logits.ndim != 2:
        raise ValueError(f"Expected a classifier with outputs (N, C), found {ai_logits.shape}.")
    _check_clusters(membership)
    if people is None:
        _check_columns(annotations, (ai_logits.shape[0], np.shape(membership)[1]))
        return
    said = people.shape if annotations is None else annotations.shape
    if people.ndim != 2 or len(people) != len(ai_logits) or said != people.shape:
        raise ValueError(
            f"Expected people and annotations of the same shape ({len(ai_logits)}, L), found {people.shape} and "
            f"{said}. Use list_annotations, of pl2d_ppl.data.listed."
        )


def _check_clusters(membership: Any) -> None:
    if np.ndim(membership) != 2:
        raise ValueError(
            f"Expected a membership of shape (K, M), found {np.shape(membership)}. Pass the mean of draws; without "
            "clusters, pass ones of shape (1, M)."
        )
    if not isinstance(membership, jax.core.Tracer):
        check_membership(membership)


def _check_columns(annotations: Any, shape: tuple[int, int]) -> None:
    if annotations is not None and annotations.shape != shape:
        raise ValueError(
            f"Expected annotations of shape {shape}, one column for each person of the membership, found "
            f"{annotations.shape}."
        )
