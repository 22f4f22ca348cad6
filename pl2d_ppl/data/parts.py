"""What a reader returns: the training and the test part, and what it took for what."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pl2d_ppl.checks.advice import advice
from pl2d_ppl.data.annotated import Annotated

__all__ = ["Reading", "in_parts", "taken_line"]

FIELDS = ("x", "y", "annotations", "group", "coarse", "counts", "items", "features", "ai")
MOST_SPELLINGS = 5


class Reading(NamedTuple):
    """Data, and how they were read.

    Attributes
    ----------
    train : Annotated
        The data, or their training part.
    test : Annotated or None
        Their test part.
    taken : str
        What was taken for item, person, label, truth and missing, in one line.
    """

    train: Annotated
    test: Annotated | None
    taken: str


def in_parts(
    content: Mapping[str, Any], is_test: NDArray | None, *, subset: bool
) -> tuple[Annotated, Annotated | None]:
    """Make data of what a reader collected, and divide them into a training and a test part.

    Parameters
    ----------
    content : mapping
        Arguments of :class:`~pl2d_ppl.data.annotated.Annotated`.
    is_test : array of bool, shape (N,), optional
        Which items are for the test.
    subset : bool
        Whether all truth may be unknown.

    Returns
    -------
    train : Annotated
    test : Annotated or None

    Raises
    ------
    ValueError
        If the data are malformed, no truth is known, or all items are for the test.
    """
    if not subset and content["counts"] is None and not (content["y"] >= 0).any():
        raise ValueError(
            "Expected the truth of at least one item in y, found none. Add a column truth, or name a table that has "
            f"it, {advice('truth=FILE', '--truth FILE')}."
        )
    fields: dict[str, Any] = {name: content.get(name) for name in (*FIELDS, "classes", "annotators")}
    if is_test is None or not is_test.any():
        return Annotated(**fields, subset=subset), None
    if is_test.all():
        raise ValueError('Expected "train" in split for some items, found "test" for all. Correct it, or leave it out.')
    whole = Annotated(**fields, subset=True)
    return whole.take(~is_test).replace(subset=subset), whole.take(np.flatnonzero(is_test))


def taken_line(what: str, told: Mapping[str, str | None], missing: Mapping[str, int]) -> str:
    """Say in one line what was taken for what.

    Parameters
    ----------
    what : str
        What was read, such as "long table".
    told : mapping of str to str
        Columns by role; None where there is none.
    missing : mapping of str to int
        Numbers of labels that were read as missing, by spelling.

    Returns
    -------
    str
        The line.
    """
    most = sorted(missing.items(), key=lambda pair: -pair[1])
    shown = [f"{repr(spelling) if spelling.strip() else 'empty'} ({n:,})" for spelling, n in most[:MOST_SPELLINGS] if n]
    more = [f"and {len(most) - MOST_SPELLINGS} more"] if len(most) > MOST_SPELLINGS else []
    roles = [f"{role} = {name or '(none)'}" for role, name in told.items()]
    return f"{what}: " + ", ".join([*roles, f"missing = {', '.join([*shown, *more]) or '(none)'}"])
