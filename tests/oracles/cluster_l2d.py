"""L2D to clusters (section 4): sums over every assignment."""

import itertools
from typing import Any

import numpy as np

from oracles.numbers import ratio, safe_log
from oracles.prob_l2d import label_channel


def enumerate_cluster_l2d(
    gate: Any,
    beliefs: Any,
    membership: Any,
    annotations: Any,
    y: int,
    eps: float = 1e-3,
    modelled: bool = True,
) -> dict[str, Any]:
    """Posterior of one item by summing over every ``(v, w, t_1, ..., t_{M+1})``.

    Parameters
    ----------
    gate : array of float, shape (K + 1,)
        Probabilities of the clusters, and of the AI.
    beliefs : array of float, shape (M + 1, C)
        What each person would say, and the AI. The people's rows are not used unless `modelled`.
    membership : array of float, shape (K, M)
        Omega.
    annotations : array of int, shape (M,)
        What each person said; -1 is missing.
    y : int
        The truth; -1 is unknown.
    eps : float
        Noise of the label channel.
    modelled : bool
        Whether missing annotations are latent. If not, who decides is one of those who annotated the item, of a
        cluster that has such a one: rows of Omega+ are normalised over them, and the gate over these clusters.

    Returns
    -------
    dict
        ``log_evidence`` of (annotations if modelled, y, the AI's own term y_ai); and given these ``vw``,
        shape (K + 1, M + 1), ``v``, ``w``, and ``t``, shape (M + 1, C), nan where t is no part of the program.
    """
    gate, beliefs, said = np.asarray(gate, np.float64), np.asarray(beliefs, np.float64), np.asarray(annotations)
    num_clusters, people = np.shape(membership)
    n_classes = beliefs.shape[1]
    staff = np.zeros((num_clusters + 1, people + 1))
    staff[:num_clusters, :people] = membership
    staff[num_clusters, people] = 1.0
    if not modelled:
        staff = staff * np.append(said >= 0, True)
        gate = gate * (staff.sum(axis=1) > 0)
        gate = gate / gate.sum()
    shares = np.nan_to_num(ratio(staff, staff.sum(axis=1, keepdims=True)))
    channel = label_channel(n_classes, eps)
    supports: list = [(int(a),) if a != -1 else range(n_classes) if modelled else (None,) for a in said]
    supports.append(range(n_classes))
    weighted = []
    for t in itertools.product(*supports):
        heard = [m for m in range(people + 1) if m == people or (modelled and t[m] is not None)]
        weighted.append((t, float(np.prod([beliefs[m, t[m]] for m in heard]))))
    vw, t_probs = np.zeros(staff.shape), np.zeros(beliefs.shape)
    for v, w in itertools.product(range(num_clusters + 1), range(people + 1)):
        if gate[v] * shares[v, w] == 0:
            continue
        for t, weight in weighted:
            p = gate[v] * shares[v, w] * weight * (channel[t[w], y] * beliefs[people, y] if y != -1 else 1.0)
            vw[v, w] += p
            for m in range(people + 1):
                if t[m] is not None:
                    t_probs[m, t[m]] += p
    unsaid = [support == (None,) for support in supports]
    t_probs[unsaid] = np.nan
    evidence = vw.sum()
    return {
        "log_evidence": float(safe_log(evidence)),
        "vw": vw / evidence,
        "v": vw.sum(axis=1) / evidence,
        "w": vw.sum(axis=0) / evidence,
        "t": t_probs / evidence,
    }
