"""Probabilistic L2D (section 1): sums over every assignment, the closed form, mean field."""

import itertools
from collections.abc import Sequence

import numpy as np
from scipy.special import softmax

from oracles.numbers import Array, ratio, safe_log


def label_channel(n_classes: int, eps: float) -> Array:
    """Label channel ``A[c, y] = (1 - eps) 1[c = y] + eps / C``, shape (C, C)."""
    channel = np.empty((n_classes, n_classes))
    for c, y in itertools.product(range(n_classes), repeat=2):
        channel[c, y] = (1 - eps) * (c == y) + eps / n_classes
    return channel


def enumerate_prob_l2d(
    gate: Array,
    beliefs: Array,
    annotations: Array,
    y: int,
    eps: float = 1e-3,
    ai_probs: Array | None = None,
) -> dict[str, float | Array]:
    """Posterior of one item by summing over every ``(z, t_1, ..., t_{M+1})``.

    Parameters
    ----------
    gate : array of float, shape (M + 1,)
        Probabilities of who decides.
    beliefs : array of float, shape (M + 1, C)
        What each person would say.
    annotations : array of int, shape (M + 1,)
        What each person said; -1 is missing.
    y : int
        The truth; -1 is unknown.
    eps : float
        Noise of the label channel.
    ai_probs : array of float, shape (C,), optional
        When given and the truth is known, the evidence is multiplied by ``ai_probs[y]``.

    Returns
    -------
    dict
        ``log_evidence`` of (annotations, y), float;
        ``z``, shape (M + 1,), p(z = k | annotations, y);
        ``t``, shape (M + 1, C), p(t_j = c | annotations, y);
        ``zt``, shape (M + 1, M + 1, C), ``zt[j, k, c]`` = p(t_j = c | z = k, annotations, y), which is
        defined for ``gate[k] = 0`` too. Entries given an event of probability zero are nan.
    """
    gate, beliefs = np.asarray(gate, np.float64), np.asarray(beliefs, np.float64)
    people, n_classes = beliefs.shape
    channel = label_channel(n_classes, eps)
    given_z = np.zeros((people, people, n_classes))  # p(t_j = c, annotations, y | z = k)
    evidence_given_z = np.zeros(people)
    for assignment in itertools.product(range(people), *([range(n_classes)] * people)):
        z, t = assignment[0], assignment[1:]
        weight = 1.0
        for m in range(people):
            weight *= beliefs[m, t[m]] * (annotations[m] in (-1, t[m]))
        if y != -1:
            weight *= channel[t[z], y]
            if ai_probs is not None:
                weight *= ai_probs[y]
        evidence_given_z[z] += weight
        for m in range(people):
            given_z[m, z, t[m]] += weight
    evidence = float(np.sum(gate * evidence_given_z))
    return {
        "log_evidence": float(safe_log(evidence)),
        "z": ratio(gate * evidence_given_z, evidence),
        "t": ratio(np.einsum("k,jkc->jc", gate, given_z), evidence),
        "zt": ratio(given_z, evidence_given_z[None, :, None]),
    }


def prob_l2d_closed_form(
    gate: Array,
    beliefs: Array,
    annotations: Array,
    y: int,
    eps: float = 1e-3,
    ai_probs: Array | None = None,
) -> dict[str, float | Array]:
    """Posterior of one item by the closed form of section 1, in O(M C) apart from ``zt``.

    Parameters and returns are those of `enumerate_prob_l2d`; it works for any number of people and classes.
    """
    gate, beliefs = np.asarray(gate, np.float64), np.asarray(beliefs, np.float64)
    annotations = np.asarray(annotations)
    people, n_classes = beliefs.shape
    observed = annotations >= 0
    likelihood = np.ones(n_classes) if y == -1 else label_channel(n_classes, eps)[:, y]
    clamped = np.where(observed[:, None], np.eye(n_classes)[annotations], beliefs)  # p(t_j | t_obs)
    s = clamped @ likelihood
    r = ratio(gate * s, gate @ s)
    decider = ratio(clamped * likelihood, s[:, None])  # p(t_j | z = j, ...)
    t = np.where(gate[:, None] > 0, r[:, None] * decider, 0.0) + (1 - r[:, None]) * clamped
    zt = np.repeat(clamped[:, None, :], people, axis=1)
    zt[np.arange(people), np.arange(people)] = decider
    log_evidence = safe_log(beliefs[observed, annotations[observed]]).sum() + safe_log(gate @ s)
    if ai_probs is not None and y != -1:
        log_evidence = log_evidence + safe_log(ai_probs[y])
    return {"log_evidence": float(log_evidence), "z": r, "t": t, "zt": zt}


def mean_field_elbo(
    rho: Array, phi: Array, gate: Array, beliefs: Array, annotations: Array, y: int, eps: float = 1e-3
) -> float:
    """Evidence lower bound of one item, E_q[ln p(z, t_missing, t_obs, y)] - E_q[ln q], by enumeration.

    Parameters
    ----------
    rho : array of float, shape (M + 1,)
        q(z).
    phi : array of float, shape (M + 1, C)
        q(t_m); rows of people who annotated are ignored (they are clamped).
    gate, beliefs, annotations, y, eps
        As in `enumerate_prob_l2d`. The AI's own term ln ai_probs[y] is a constant and left out.

    Returns
    -------
    float
        The bound on ``enumerate_prob_l2d(...)["log_evidence"]``; -inf where q has mass that p lacks.
    """
    people, n_classes = np.shape(beliefs)
    log_channel = safe_log(label_channel(n_classes, eps))
    log_gate, log_beliefs = safe_log(gate), safe_log(beliefs)
    supports = [range(n_classes) if a == -1 else (int(a),) for a in annotations]
    elbo = 0.0
    for assignment in itertools.product(range(people), *supports):
        z, t = assignment[0], assignment[1:]
        q, log_q = rho[z], safe_log(rho[z])
        log_p = log_gate[z]
        for m in range(people):
            log_p = log_p + log_beliefs[m, t[m]]
            if annotations[m] == -1:
                q, log_q = q * phi[m, t[m]], log_q + safe_log(phi[m, t[m]])
        if y != -1:
            log_p = log_p + log_channel[t[z], y]
        if q > 0:
            elbo += float(q * (log_p - log_q))
    return elbo


def mean_field_fixed_point(
    gate: Array,
    beliefs: Array,
    annotations: Array,
    y: int,
    eps: float = 1e-3,
    sweeps: int = 50,
    order: Sequence[str] = ("t", "z"),
    init: tuple[Array, Array] | None = None,
    track_elbo: bool = True,
) -> tuple[Array, Array, list[float]]:
    """Coordinate ascent for one item with the updates of section 1.

    ``rho_m ∝ g_m exp(E_{q(t_m)} ln A[t_m, y])`` and ``phi_j(c) ∝ f_j(c) exp(rho_j ln A[c, y])``.

    Parameters
    ----------
    gate, beliefs, annotations, y, eps
        As in `enumerate_prob_l2d`; eps > 0.
    sweeps : int
        Passes over `order`.
    order : sequence of {"t", "z"}
        The updates of one sweep.
    init : tuple of arrays (rho, phi), optional
        Start; by default (gate, beliefs). Rows of people who annotated are clamped.
    track_elbo : bool
        Whether to enumerate the bound after each sweep (C to the power of the missing: small problems only).

    Returns
    -------
    rho : array of float, shape (M + 1,)
    phi : array of float, shape (M + 1, C)
        One-hot where annotated.
    elbos : list of float
        After each sweep, `sweeps` of them; empty when not tracked.
    """
    gate, beliefs = np.asarray(gate, np.float64), np.asarray(beliefs, np.float64)
    annotations = np.asarray(annotations)
    n_classes = beliefs.shape[1]
    log_gate, log_beliefs = safe_log(gate), safe_log(beliefs)
    log_likelihood = np.zeros(n_classes) if y == -1 else safe_log(label_channel(n_classes, eps)[:, y])
    observed = annotations[:, None] >= 0
    one_hot = np.eye(n_classes)[annotations]
    rho, phi = (gate, beliefs) if init is None else (np.asarray(a, np.float64) for a in init)
    phi = np.where(observed, one_hot, phi)
    elbos = []
    for _ in range(sweeps):
        for block in order:
            if block == "z":
                rho = softmax(log_gate + phi @ log_likelihood)
            elif block == "t":
                phi = softmax(log_beliefs + rho[:, None] * log_likelihood, axis=1)
                phi = np.where(observed, one_hot, phi)
            else:
                raise ValueError(f"order must name blocks 't' and 'z', got {block!r}")
        if track_elbo:
            elbos.append(mean_field_elbo(rho, phi, gate, beliefs, annotations, y, eps))
    return rho, phi, elbos
