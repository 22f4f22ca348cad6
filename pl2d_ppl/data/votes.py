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
        Votes, −1 where there is none, in whatever place; annotations (N, M) will do, too.
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
    # A cell's place in the flattened table of counts; in 64 bits, as 8-bit votes wrap around.
    cells = rows * num_categories + votes[rows, columns].astype(int)
    counts = np.bincount(cells, minlength=len(votes) * num_categories)
    return counts.reshape(len(votes), num_categories).astype(np.int32)


def votes_of_counts(counts: ArrayLike) -> NDArray[np.int32]:
    """Write counts out as votes: `vote_counts` backwards, but for the order of an item's votes.

    Parameters
    ----------
    counts : array of int, shape (N, C)
        Number of votes by item and category.

    Returns
    -------
    array of int32, shape (N, L)
        Votes, ascending; −1 fills up the rows at the right. L is the largest number of votes of an item, and
        1 where there are none at all.

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
    # A vote's column is its place among all votes, less that of its item's first.
    columns = np.arange(totals.sum()) - np.repeat(totals.cumsum() - totals, totals)
    votes = np.full((num_items, max(int(totals.max()), 1)), -1, np.int32)
    votes[rows, columns] = np.repeat(np.tile(np.arange(num_categories), num_items), counts.ravel())
    return votes
