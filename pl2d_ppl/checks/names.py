"""Checks of names of people, clusters, classes and items."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

__all__ = ["distinct_names", "listed", "names_of"]


def names_of(given: Sequence[Any] | None, size: int, what: str) -> tuple[str, ...]:
    """Return names of people or clusters, as given or numbered.

    Parameters
    ----------
    given : sequence, optional
        Names; by default numbers.
    size : int
        Number of people or clusters.
    what : {"person", "cluster"}
        What the names refer to.

    Returns
    -------
    tuple of str
        The names.

    Raises
    ------
    ValueError
        If the number of names differs, or two are equal.
    """
    names = tuple(f"{what}_{i}" for i in range(size)) if given is None else tuple(map(str, given))
    if len(names) != size:
        raise ValueError(f"Expected {size} names, one a {what}, found {len(names)}: {list(names)}.")
    duplicates = [name for name, count in Counter(names).items() if count > 1]
    if duplicates:
        raise ValueError(f"Expected distinct names, one a {what}, found {duplicates} more than once. Rename them.")
    return names


def distinct_names(field: str, names: Iterable[str]) -> tuple[str, ...]:
    """Check names."""
    if isinstance(names, str):
        raise ValueError(f"Expected several names in {field}, found the string {names!r}. Wrap it in a tuple.")
    names = tuple(str(name) for name in names)
    repeated = sorted(name for name, number in Counter(names).items() if number > 1)
    if repeated:
        raise ValueError(f"Expected distinct names in {field}, found {repeated[0]!r} more than once. Rename it.")
    return names


def listed(names: Sequence[str], limit: int = 5) -> str:
    """List names for a message, up to a largest number."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(map(repr, names[:limit])) + more
