"""Anonymous votes, and their counts."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pl2d_ppl.checks.labels import check_labels
from pl2d_ppl.checks.values import check_num_categories

__all__ = ["vote_counts", "votes_of_counts"]


def vote_counts(votes: ArrayLike, num_categories: int) -> NDArray[np.int32]:
    """Count how often each item got each category.

    Parameters
    ----------
    votes : array of int, shape (N, L)
        Votes, −1 where missing, in any position; annotations (N, M) are also accepted.
    num_categories : int
        Number of categories C >= 2.

    Returns
    -------
    array of int32, shape (N, C)
        Number of votes by item and category.

    Raises
    ------
    ValueError
        If an argument is malformed, or a vote is not below `num_categories`.
    """
    check_num_categories(num_categories)
    votes = check_labels("votes", votes, ("N", "L"), num_categories)
    rows, columns = np.nonzero(votes >= 0)
    # Index of a cell in the flattened table of counts; in 64 bits, since 8-bit votes wrap around.
    cells = rows * num_categories + votes[rows, columns].astype(int)
    counts = np.bincount(cells, minlength=len(votes) * num_categories)
    return counts.reshape(len(votes), num_categories).astype(np.int32)


def votes_of_counts(counts: ArrayLike) -> NDArray[np.int32]:
    """Expand counts to votes: the inverse of `vote_counts`, up to the order of an item's votes.

    Parameters
    ----------
    counts : array of int, shape (N, C)
        Number of votes by item and category.

    Returns
    -------
    array of int32, shape (N, L)
        Votes in ascending order; −1 pads the rows on the right. L is the largest number of votes of an item, or 1 if
        there are no votes.

    Raises
    ------
    ValueError
        If `counts` is malformed, or holds a negative number.
    """
    noun = "numbers of votes"
    counts = check_labels("counts", counts, ("N", "C"), least=0, noun=noun, may_be_empty=False).astype(int)
    num_items, num_categories = counts.shape
    totals = counts.sum(1)
    rows = np.repeat(np.arange(num_items), totals)
    # The column of a vote is its position among all votes minus that of its item's first vote.
    columns = np.arange(totals.sum()) - np.repeat(totals.cumsum() - totals, totals)
    votes = np.full((num_items, max(int(totals.max()), 1)), -1, np.int32)
    votes[rows, columns] = np.repeat(np.tile(np.arange(num_categories), num_items), counts.ravel())
    return votes
