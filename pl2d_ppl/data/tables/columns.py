"""Roles of the columns of a table."""

import re
from collections.abc import Mapping, Sequence
from typing import Literal

from pl2d_ppl.checks.advice import advice
from pl2d_ppl.data.tables.column_names import (
    OF_ITEMS,
    OF_LONG,
    ROLES,
    TRUE,
    VOTES,
    form_of,
    is_index,
    no_person,
    spellings,
)
from pl2d_ppl.data.tables.numbers import integers_of
from pl2d_ppl.data.tables.table_files import TableFile

__all__ = ["detect_layout", "find_columns", "rest_of"]

Layout = Literal["long", "wide", "counts"]

_PEOPLE = re.compile(f"({'|'.join(ROLES['annotator'] + ROLES['label'])}|slot)s?_?[0-9a-z]{{1,3}}")


def find_columns(names: Sequence[str], columns: Mapping[str, str | None] | None = None) -> dict[str, str]:
    """Find columns by their names, ignoring case, blanks and endings such as ``_id``.

    Parameters
    ----------
    names : sequence of str
        Columns of a table.
    columns : mapping of str to str, optional
        Which column is ``item``, ``annotator``, ``label``, ``truth``, ``group``, ``coarse`` or ``split``, if its name
        does not show it or misleads; None if there is no such column.

    Returns
    -------
    dict of str to str
        Columns by role.

    Raises
    ------
    ValueError
        If a role or a column in `columns` does not exist, or two columns have similar names.
    """
    columns = dict(columns or {})
    strange = [role for role in columns if role not in ROLES]
    if strange:
        where = advice("columns", "--column")
        raise ValueError(f"Expected roles out of {', '.join(ROLES)} in {where}, found {strange[0]!r}. Correct it.")
    absent = [name for name in columns.values() if name and name not in names]
    if absent:
        raise ValueError(
            f"Expected a column {absent[0]!r}, as {advice('columns', '--column')} says, found {', '.join(names)}. "
            "Correct it."
        )
    found = {role: name for role, name in columns.items() if name}
    free = [name for name in names if name not in found.values()]
    for role in ROLES:
        if role not in columns and (name := _called(role, free)):
            found[role] = name
    if "label" not in columns and "label" in found and "annotator" in found:
        _check_only_label(found["label"], [name for name in free if name not in found.values()])
    return found


def _called(role: str, names: Sequence[str]) -> str | None:
    forms: dict[str, list[str]] = {}
    for name in names:
        forms.setdefault(form_of(name), []).append(name)
    alike = [name for called in spellings(role) for name in forms.get(called, [])]
    if role not in ("label", "truth"):  # of several names of an item, a person, the most likely
        alike = next((forms[called] for called in spellings(role) if called in forms), [])
    if len(alike) > 1:
        raise ValueError(_which(role, alike))
    return alike[0] if alike else None


def _which(role: str, names: Sequence[str]) -> str:
    chosen = advice(f"columns={{{role!r}: {names[0]!r}}}", f"--column {role}={names[0]}")
    more = ""
    if role == "label":
        both = advice(
            f"columns={{'label': {names[0]!r}, 'truth': {names[1]!r}}}",
            f"--column label={names[0]} --column truth={names[1]}",
        )
        more = f", or, if the other is the truth, {both}"
    return f"Expected one column for the {role}, found {' and '.join(map(repr, names))}. Choose one: {chosen}{more}."


def _check_only_label(label: str, free: Sequence[str]) -> None:
    """Ask which column is meant if others may hold labels, too."""
    others = [name for name in free if _may_be_labels(name)]
    if others:
        raise ValueError(_which("label", [others[0], label]))


def _may_be_labels(name: str) -> bool:
    words = [word for word in re.split(r"[_:/]+", form_of(name)) if word]
    return bool(words) and words[-1].removesuffix("s") in ROLES["label"] and words[0] not in TRUE


def rest_of(names: Sequence[str], roles: Mapping[str, str], feature_prefix: str) -> list[str]:
    """Columns of a wide or counts table that represent people, or categories."""
    own = {roles[role] for role in OF_ITEMS if role in roles}
    return [
        name
        for name in names
        if name not in own and not name.startswith((feature_prefix, VOTES)) and not is_index(name)
    ]


def detect_layout(
    file: TableFile,
    roles: Mapping[str, str],
    classes: Sequence[str] | None,
    people: Sequence[str] | None,
    feature_prefix: str,
) -> Layout:
    """Find the layout of a table by its columns or, if these are ambiguous, by their values.

    Parameters
    ----------
    file : TableFile
        The table.
    roles : mapping of str to str
        Columns by role.
    classes, people : sequence of str, optional
        Names of the categories, and of people, if given.
    feature_prefix : str
        Prefix of the names of features.

    Returns
    -------
    {"long", "wide", "counts"}
        The layout.

    Raises
    ------
    ValueError
        If columns are missing, or a table of whole numbers may hold labels as well as numbers of votes.
    """
    if all(role in roles for role in OF_LONG):
        return "long"
    if people is not None and set(people) <= set(file.names):
        return "wide"
    _check_both(file, roles)
    rest = rest_of(file.names, roles, feature_prefix)
    if classes is not None and set(rest) == set(classes):
        return "counts"
    if len(rest) < 2 or any(no_person(name) for name in rest) or any(name.startswith(VOTES) for name in file.names):
        return "wide"
    truth = set(file.coded(roles["truth"]).values if "truth" in roles else [])
    if truth and truth <= set(rest):
        return "counts"
    if all(_PEOPLE.fullmatch(form_of(name)) for name in rest) or not _may_be_counts(file, rest, truth):
        return "wide"
    raise ValueError(
        "Expected columns of labels or of numbers of votes, found whole numbers in every row of "
        f"{', '.join(rest[:3])}{', ...' if len(rest) > 3 else ''}, which may be either. Say which: "
        f"{advice('layout="wide" or layout="counts"', '--layout wide or --layout counts')}."
    )


def _check_both(file: TableFile, roles: Mapping[str, str]) -> None:
    """Refuse a column of people without one of labels, and the reverse."""
    half = [role for role in ("annotator", "label") if role in roles]
    if not half:
        return
    lacking = [role for role in OF_LONG if role not in roles]
    which = advice(f'columns={{"{lacking[0]}": ...}}', f"--column {lacking[0]}=...")
    wide = advice('layout="wide"', "--layout wide")
    raise ValueError(
        f"Expected columns for {', '.join(lacking)} beside {roles[half[0]]!r}, found {', '.join(file.names)}. Say "
        f"which they are, such as {which}, or that every column is a person, {wide}."
    )


def _may_be_counts(file: TableFile, rest: Sequence[str], truth: set[str]) -> bool:
    """Whether all values are numbers from 0 up, without a gap, and not all of them categories of the truth."""
    file.read(rest)  # at once
    told = set(integers_of(truth) or ())
    known = bool(told)
    for name in rest:
        found = file.coded(name)
        numbers = integers_of(found.values)
        if numbers is None or min(numbers, default=-1) < 0 or found.codes.min() < 0:
            return False
        known = known and set(numbers) <= told
    return not known
