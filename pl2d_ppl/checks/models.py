"""Checks of what users pass in: every error says what was expected, what was found, and what to do."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from pl2d_ppl.people.annotations import names_of

__all__ = [
    "check_arguments",
    "check_cluster_deferral",
    "check_concentration",
    "check_data",
    "check_deferral",
    "check_key",
    "check_keys",
    "check_labels",
    "check_membership",
    "check_pooling",
    "check_staff",
    "check_vote_values",
    "check_votes",
]

LABELS = ("y", "annotations", "votes")
MEMBERSHIP_TOLERANCE = 1e-4  # of the sums of columns


def check_keys(rng_key: Any) -> None:
    """Check a typed key, or an array of them, one a run.

    Raises
    ------
    ValueError
        If it is something else.
    """
    if not _is_key(rng_key):
        raise ValueError(f"Expected a typed key, jax.random.key(seed), found {type(rng_key).__name__}.")
    if rng_key.ndim > 1:
        raise ValueError(f"Expected one key, or one a run, found an array of keys of shape {rng_key.shape}.")


def check_key(rng_key: Any) -> None:
    """Check that it is one typed key.

    Raises
    ------
    ValueError
        If it is something else.
    """
    check_keys(rng_key)
    if rng_key.ndim:
        raise ValueError(f"Expected one key, found an array of {len(rng_key)}. Call once a key.")


def check_data(data: Mapping[str, Any], batch_size: int, name: str, like: Mapping[str, Any] | None = None) -> int:
    """Check the arrays that models take.

    Parameters
    ----------
    data : mapping of str to array, shape (N, ...)
        The arrays.
    batch_size : int
        Items a step.
    name : str
        What the arrays are called, in messages.
    like : mapping, optional
        Training data, whose entries this must have too.

    Returns
    -------
    int
        N.

    Raises
    ------
    ValueError
        If lengths disagree, if there are fewer items than a batch, if a float is NaN or infinite, if labels are
        not integers from -1 up, or if an entry is missing.
    """
    if not data:
        raise ValueError(f"Expected {name} as a mapping from names to arrays, such as x, annotations, y; found none.")
    if like is not None:
        _check_like(data, name, like)
    lengths = {key: len(array) for key, array in data.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"Expected arrays of one length in {name}, one row an item, found {lengths}.")
    num_items = next(iter(lengths.values()))
    if batch_size < 1:
        raise ValueError(f"Expected a positive batch_size, found {batch_size}.")
    if num_items < batch_size:
        raise ValueError(
            f"Expected at least batch_size={batch_size} items in {name}, found {num_items}. Lower batch_size."
        )
    for key, array in data.items():
        _check_array(f"{name}[{key!r}]", key, np.asarray(array))
    return num_items


def check_arguments(arguments: Mapping[str, Any], data: Mapping[str, Any]) -> None:
    """Check arguments that programs take besides data.

    Raises
    ------
    ValueError
        If one is data too, is not finite, is a concentration that is not positive, or a membership that is none.
    """
    for name, value in arguments.items():
        if name in data:
            raise ValueError(f"Expected {name!r} as data or as an argument, found both. Pass it once.")
        leaves = [np.asarray(a) for a in jax.tree.leaves(value) if not _is_key(a)]
        if any(leaf.dtype.kind == "f" and not np.isfinite(leaf).all() for leaf in leaves):
            raise ValueError(f"Expected finite numbers in arguments[{name!r}], found NaN or infinity.")
        if name == "alpha":
            alphas = np.concatenate([leaf.ravel() for leaf in leaves])
            check_concentration(alphas, alphas.size)
        if name == "membership":
            for each in [part for leaf in leaves for part in (leaf if leaf.ndim == 4 else [leaf])]:  # draws, of runs
                check_membership(each, may_be_empty=False)


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _check_like(data: Mapping[str, Any], name: str, like: Mapping[str, Any]) -> None:
    if set(like) != set(data):
        raise ValueError(f"Expected {name} with the entries of data, {sorted(like)}, found {sorted(data)}.")
    for key, array in data.items():
        if np.shape(array)[1:] != np.shape(like[key])[1:]:
            raise ValueError(
                f"Expected {name}[{key!r}] of shape {('N', *np.shape(like[key])[1:])}, as in data, found "
                f"{np.shape(array)}."
            )


def _check_array(label: str, key: str, array: np.ndarray) -> None:
    if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
        rows = np.flatnonzero(~np.isfinite(array.reshape(len(array), -1)).all(1))
        raise ValueError(
            f"Expected finite values in {label}, found NaN or infinity in {rows.size} rows, the first {rows[0]}. "
            "Impute or leave them out."
        )
    if key == "counts":
        _check_counts(label, array)
    if key not in LABELS:
        return
    if not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"Expected integer labels in {label}, found {array.dtype}. Encode them as 0..C-1, -1 missing.")
    if array.size and array.min() < -1:
        raise ValueError(f"Expected labels from -1 (missing) up in {label}, found {array.min()}.")
    if key == "y" and (array < 0).all():
        raise ValueError(f"Expected some truth in {label}, found none: without any, nobody can be told right.")
    if key == "votes" and (array < 0).all():
        raise ValueError(f"Expected some votes in {label}, found only -1. Check how missing votes are coded.")


def _check_counts(label: str, array: np.ndarray) -> None:
    if not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"Expected integer counts in {label}, found {array.dtype}. Count votes; do not pass shares.")
    if array.ndim != 2 or array.min() < 0:
        found = f"shape {array.shape}" if array.ndim != 2 else f"a count of {array.min()}"
        raise ValueError(f"Expected counts of votes, (N, C) and not negative, in {label}, found {found}.")
    if not array.any():
        raise ValueError(f"Expected some votes in {label}, found counts of zero only.")


def check_labels(data: Mapping[str, Any], sites: Mapping[str, jax.ShapeDtypeStruct], name: str = "data") -> None:
    """Check labels against the number of categories of the program's networks, where it tells it.

    Raises
    ------
    ValueError
        If a label is too large.
    """
    logits = next((sites[n] for n in ("ai_logits", "cluster_logits") if n in sites), None)
    if logits is None:
        return
    num_categories = logits.shape[-1]
    for key in LABELS:
        if key in data and np.size(data[key]) and np.max(data[key]) >= num_categories:
            raise ValueError(
                f"Expected labels in -1..{num_categories - 1} in {name}[{key!r}], since the networks have "
                f"{num_categories} outputs, found {np.max(data[key])}. Widen the networks, or mend the labels."
            )


def check_staff(truth_logits: Any, sizes: Any, votes: Any, counts: Any) -> None:
    """Check a program of votes by a staff of which nobody votes twice, as far as it is known before compilation.

    Raises
    ------
    ValueError
        If the network's output is not (N, C), sizes are not whole numbers from 1, or an item has more votes than
        there are people.
    """
    if truth_logits.ndim != 2:
        raise ValueError(f"Expected a network of the truth with outputs (N, C), found {truth_logits.shape}.")
    if np.ndim(sizes) != 1 or not len(sizes) or not all(int(n) == n and n >= 1 for n in sizes):
        raise ValueError(
            f"Expected sizes as whole numbers of people, at least 1 in a cluster, such as (2, 2, 2), found {sizes!r}."
        )
    if any(isinstance(a, jax.core.Tracer) for a in (votes, counts)):
        return
    cast = [np.asarray(votes) >= 0] if votes is not None and np.ndim(votes) == 2 else []
    cast += [np.asarray(counts)] if counts is not None and np.ndim(counts) == 2 else []
    most = max((int(a.sum(1).max()) for a in cast if a.size), default=0)
    if most > sum(sizes):
        raise ValueError(
            f"Expected as many people as votes on an item at least, since nobody votes twice, found {sum(sizes)} "
            f"people, sizes {tuple(sizes)}, and an item with {most} votes. Raise the sizes, or take annotator_lda."
        )


def check_votes(cluster_logits: Any, votes: Any, counts: Any) -> None:
    """Check that the networks of a program of anonymous votes fit together with its votes.

    Raises
    ------
    ValueError
        If they do not, or if both votes and counts are given.
    """
    if cluster_logits.ndim != 3 or cluster_logits.shape[1] < 1:
        raise ValueError(
            f"Expected networks with outputs (N, K, C), for K clusters and C categories, found {cluster_logits.shape}. "
            "Pass K networks as one: partial(Ensemble, member, K)."
        )
    if votes is not None and counts is not None:
        raise ValueError("Expected votes or counts, found both, which would count every vote twice. Pass one.")
    num_items, _, num_categories = cluster_logits.shape
    if counts is not None and counts.shape != (num_items, num_categories):
        raise ValueError(
            f"Expected counts of shape {(num_items, num_categories)}, one column a category of the networks, found "
            f"{counts.shape}."
        )
    if votes is not None and (votes.ndim != 2 or len(votes) != num_items):
        raise ValueError(f"Expected votes of shape ({num_items}, L), one row an item, found {votes.shape}.")


def check_vote_values(num_categories: int, votes: Any, counts: Any, max_votes: int | None) -> None:
    """Check votes against the number of categories, and of votes on an item, where they are known.

    Raises
    ------
    ValueError
        If a vote is too large, or more than max_votes categories got votes on an item.
    """
    if votes is not None and not isinstance(votes, jax.core.Tracer) and np.size(votes):
        largest = int(np.asarray(votes).max())
        if largest >= num_categories:
            raise ValueError(
                f"Expected labels in -1..{num_categories - 1} in data['votes'], since the networks have "
                f"{num_categories} outputs, found {largest}. Widen the networks, or mend the labels."
            )
    if counts is not None and max_votes is not None and not isinstance(counts, jax.core.Tracer):
        distinct = int((np.asarray(counts) > 0).sum(1).max())
        if distinct > max_votes:
            raise ValueError(
                f"Expected at most max_votes={max_votes} votes on an item, found votes for {distinct} categories. "
                "Raise max_votes, or leave it out."
            )


def check_concentration(
    alpha: Any, size: int, name: str = "concentration alpha", hint: str = "50, or at least 2"
) -> Any:
    """Check the concentration of a Dirichlet, as far as it is known before compilation; return it.

    Raises
    ------
    ValueError
        If it is neither a number nor one a component, or not positive.
    """
    if np.shape(alpha) not in ((), (1,), (size,)):
        raise ValueError(f"Expected a {name}, or one for each of {size}, found shape {np.shape(alpha)}.")
    if not isinstance(alpha, jax.core.Tracer) and not (np.all(np.isfinite(alpha)) and np.all(np.asarray(alpha) > 0)):
        raise ValueError(f"Expected a positive {name}, found {alpha}. Pass {hint}.")
    return alpha


def check_deferral(gate_logits: Any, ai_logits: Any, annotations: Any, expert_logits: Any = None) -> None:
    """Check that the networks of a deferral model fit together, and its annotations to them.

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
        If they do not, or if the membership is no membership: negative, with columns that do not sum to one, or with
        a cluster to which nobody belongs.
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
        If they do not, or if the membership is no membership.
    """
    outputs = {"classifier": ai_logits} | ({} if features is None else {"features": features})
    if any(array.ndim != 2 for array in outputs.values()):
        raise ValueError(
            "Expected networks with outputs classifier (N, C) and features (N, D), found "
            f"{' and '.join(str(array.shape) for array in outputs.values())}."
        )
    if np.ndim(membership) != 2:
        raise ValueError(
            f"Expected a membership of shape (K, M), found {np.shape(membership)}. Of draws take the mean; without "
            "clusters pass ones of shape (1, M)."
        )
    if not isinstance(membership, jax.core.Tracer):
        check_membership(membership)
    _check_columns(annotations, (ai_logits.shape[0], np.shape(membership)[1]))


def _check_columns(annotations: Any, shape: tuple[int, int]) -> None:
    if annotations is not None and annotations.shape != shape:
        raise ValueError(
            f"Expected annotations of shape {shape}, one column for each person of the membership, found "
            f"{annotations.shape}."
        )


def check_membership(
    membership: Any,
    num_clusters: int | None = None,
    num_people: int | None = None,
    people: Sequence[Any] | None = None,
    *,
    may_be_empty: bool = True,
) -> None:
    """Check where people belong among clusters; of arrays that are traced, the shape alone.

    Parameters
    ----------
    membership : array of float, shape (K, M) or (S, K, M)
        Memberships Omega, soft or one-hot, or draws of them.
    num_clusters, num_people : int, optional
        K and M, where they are known.
    people : sequence, optional
        Names, for messages.
    may_be_empty : bool
        Whether there may be a cluster without members, in every draw.

    Raises
    ------
    ValueError
        If the shape is another one, a number is not finite or negative, a column does not sum to one, or a cluster is
        empty.
    """
    shape = np.shape(membership)
    if len(shape) not in (2, 3) or 0 in shape:
        raise ValueError(f"Expected membership of shape (K, M), or (S, K, M) of draws, found {shape}.")
    for found, expected, what in ((shape[-2], num_clusters, "clusters"), (shape[-1], num_people, "people")):
        if expected is not None and found != expected:
            raise ValueError(
                f"Expected membership of {expected} {what}, found {found}, in shape {shape}. Its rows are clusters, "
                "without the AI, and its columns people."
            )
    names = names_of(people, shape[-1], "person")
    if isinstance(membership, jax.core.Tracer):
        return
    omega = np.asarray(membership, float)
    sums = omega.sum(-2)
    for bad, what in (
        (~np.isfinite(omega), "finite numbers"),
        (omega < 0, "numbers that are not negative"),
        (~(np.abs(sums - 1) <= MEMBERSHIP_TOLERANCE), "columns that sum to one, one a person,"),
    ):
        if bad.any():
            person = int(np.flatnonzero(bad.reshape(-1, shape[-1]).any(0))[0])
            values = sums if bad.ndim < omega.ndim else omega
            value = values[..., person][bad[..., person]][0]
            raise ValueError(
                f"Expected {what} in membership, found {value:.6g} for {names[person]!r}. Pass memberships, not logits."
            )
    empty = np.flatnonzero(omega.any(-1).reshape(-1, shape[-2]).any(0) == 0)
    if empty.size and not may_be_empty:
        raise ValueError(
            f"Expected somebody in every cluster, found nobody in cluster {', '.join(map(str, empty))}. Drop that row "
            "of the membership."
        )
