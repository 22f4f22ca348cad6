"""Checks of programs of anonymous votes, and of their votes."""

from typing import Any

import jax
import numpy as np

from pl2d_ppl.checks.labels import check_labels

__all__ = ["check_staff", "check_vote_values", "check_votes"]


def check_staff(truth_logits: Any, sizes: Any, votes: Any, counts: Any) -> None:
    """Check a program of votes by a staff where nobody votes twice, as far as possible before compilation.

    Raises
    ------
    ValueError
        If the network's output is not (N, C), sizes are not whole numbers from 1 up, or an item has more votes than
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
            f"Expected at least as many people as votes on an item, since nobody votes twice, found {sum(sizes)} "
            f"people, sizes {tuple(sizes)}, and an item with {most} votes. Raise the sizes, or take annotator_lda."
        )


def check_votes(cluster_logits: Any, votes: Any, counts: Any) -> None:
    """Check that the networks of a program of anonymous votes fit its votes.

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
    """Check votes against the number of categories, and the number of votes on an item, if known.

    Raises
    ------
    ValueError
        If a vote is too large, or more than max_votes categories got votes on an item.
    """
    if votes is not None and not isinstance(votes, jax.core.Tracer):
        check_labels("votes", votes, num_categories=num_categories)
    if counts is not None and max_votes is not None and not isinstance(counts, jax.core.Tracer):
        distinct = int((np.asarray(counts) > 0).sum(1).max())
        if distinct > max_votes:
            raise ValueError(
                f"Expected at most max_votes={max_votes} votes on an item, found votes for {distinct} categories. "
                "Raise max_votes, or leave it out."
            )
