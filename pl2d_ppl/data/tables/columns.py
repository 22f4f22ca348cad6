"""Roles of the columns of a table."""

import re
from collections.abc import Mapping, Sequence
from typing import Literal

from pl2d_ppl.data.tables.names import numbered
from pl2d_ppl.data.tables.table_files import TableFile

__all__ = ["FEATURES", "OF_ITEMS", "ROLES", "VOTES", "detect_layout", "find_columns", "is_taken", "rest_of"]

Layout = Literal["long", "wide", "counts"]

FEATURES, VOTES = "x_", "votes_"  # prefixes of columns

# Common names of each role, the most likely first.
ROLES = {
    "item": ("item", "file", "image", "task", "example", "filename", "id"),
    "annotator": ("annotator", "worker", "person", "rater", "expert", "reader", "coder"),
    "label": ("label", "annotation", "response", "answer", "category"),
    "truth": ("truth", "y", "gold", "true_label", "gold_label", "ground_truth"),
    "group": ("group",),
    "coarse": ("coarse", "superclass"),
    "split": ("split",),
}
OF_ITEMS = ("item", "truth", "group", "coarse", "split")
OF_LONG = ("item", "annotator", "label")
_PEOPLE = re.compile(f"({'|'.join(ROLES['annotator'] + ROLES['label'])}|slot)s?_?[0-9a-z]{{1,3}}")
_INDEX = re.compile(r"Unnamed: \d+")  # pandas' name for an unnamed column


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
        raise ValueError(f"Expected roles out of {', '.join(ROLES)} in columns, found {strange[0]!r}. Correct it.")
    absent = [name for name in columns.values() if name and name not in names]
    if absent:
        raise ValueError(f"Expected a column {absent[0]!r}, as columns says, found {', '.join(names)}. Correct it.")
    found = {role: name for role, name in columns.items() if name}
    free = [name for name in names if name not in found.values()]
    for role in ROLES:
        if role not in columns and (name := _called(role, free)):
            found[role] = name
    return found


def _called(role: str, names: Sequence[str]) -> str | None:
    forms: dict[str, list[str]] = {}
    for name in names:
        forms.setdefault(_form(name), []).append(name)
    for called in _spellings(role):
        alike = forms.get(called, [])
        if len(alike) > 1:
            raise ValueError(
                f"Expected one column for the {role}, found {' and '.join(map(repr, alike))}. Choose one: "
                f"columns={{{role!r}: {alike[0]!r}}} (--column {role}={alike[0]})."
            )
        if alike:
            return alike[0]
    return None


def _spellings(role: str) -> list[str]:
    return [called + ending for called in ROLES[role] for ending in ("", "_id", "id", "_name", "name")]


def _form(name: str) -> str:
    return re.sub(r"[\s\-.]+", "_", name.strip().casefold())


_TAKEN = {spelling for role in ROLES for spelling in _spellings(role)}


def is_taken(name: str) -> bool:
    """Whether a column with this name would not be read as that of a person."""
    return _form(name) in _TAKEN or name.startswith((FEATURES, VOTES)) or bool(_INDEX.fullmatch(name))


def rest_of(names: Sequence[str], roles: Mapping[str, str], feature_prefix: str) -> list[str]:
    """Columns of a wide or counts table that represent people, or categories."""
    own = {roles[role] for role in OF_ITEMS if role in roles}
    return [
        name
        for name in names
        if name not in own and not name.startswith((feature_prefix, VOTES)) and not _INDEX.fullmatch(name)
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
    half = [role for role in ("annotator", "label") if role in roles]
    if half:
        lacking = ", ".join(role for role in OF_LONG if role not in roles)
        raise ValueError(
            f"Expected columns for {lacking} beside {roles[half[0]]!r}, found {', '.join(file.names)}. Say which they "
            f'are, such as columns={{"{lacking.split(", ")[0]}": ...}} (--column), or that every column is a person, '
            'layout="wide" (--layout wide).'
        )
    rest = rest_of(file.names, roles, feature_prefix)
    if classes is not None and set(rest) == set(classes):
        return "counts"
    if len(rest) < 2 or any(name.startswith(VOTES) for name in file.names):
        return "wide"
    truth = file.coded(roles["truth"]).values if "truth" in roles else []
    if truth and set(truth) <= set(rest):
        return "counts"
    if all(_PEOPLE.fullmatch(_form(name)) for name in rest) or not _may_be_counts(file, rest):
        return "wide"
    raise ValueError(
        "Expected columns of labels or of numbers of votes, found whole numbers in every row of "
        f"{', '.join(rest[:3])}{', ...' if len(rest) > 3 else ''}, which may be either. Say which: "
        'layout="wide" or layout="counts" (--layout).'
    )


def _may_be_counts(file: TableFile, rest: Sequence[str]) -> bool:
    """Whether all values are numbers from 0 up, without a gap."""
    file.read(rest)  # at once
    for name in rest:
        found = file.coded(name)
        numbers = numbered(found.values)
        if numbers is None or min(numbers, default=-1) < 0 or found.codes.min() < 0:
            return False
    return True
