"""Names of columns, and what they say."""

import re

__all__ = [
    "FEATURES",
    "OF_ITEMS",
    "OF_LONG",
    "ROLES",
    "TRUE",
    "VOTES",
    "form_of",
    "is_index",
    "is_known",
    "is_taken",
    "no_person",
    "spellings",
]

FEATURES, VOTES = "x_", "votes_"  # prefixes of columns

# Common names of each role, the most likely first.
ROLES = {
    "item": ("item", "file", "image", "task", "example", "filename", "instance", "id"),
    "annotator": (
        *("annotator", "worker", "person", "rater", "expert", "reader", "coder", "performer"),
        *("participant", "contributor", "user"),
    ),
    "label": ("label", "annotation", "response", "answer", "category"),
    "truth": ("truth", "y", "gold", "true_label", "gold_label", "ground_truth"),
    "group": ("group",),
    "coarse": ("coarse", "superclass"),
    "split": ("split",),
    "abstained": ("abstained",),
    "time": ("updated_at", "created_at", "submitted_at", "timestamp", "time"),
}
OF_ITEMS = ("item", "truth", "group", "coarse", "split")
OF_LONG = ("item", "annotator", "label")
# What pandas calls the index of a frame when it is written.
_INDEX = re.compile(r"(unnamed: ?\d+(\.\d+)*|__index_level_\d+__|level_\d+|index)", re.IGNORECASE)
# Last words of names that say something about a row, and are nobody's.
_ABOUT = frozenset(
    "id ids at time date datetime timestamp url uri comment comments note notes text sentence duration seconds age "
    "gender sex race ethnicity education occupation confidence score email ip description title".split()
)
TRUE = ("true", "gold", "golden", "correct", "reference", "target", "expected", "expert", "ground")  # first words


def spellings(role: str) -> list[str]:
    """Return the names that a column of a role has, the most likely first."""
    # What identifies a label or a truth is none: annotation_id numbers annotations.
    ids = () if role in ("label", "truth") else ("_id", "id")
    return [called + ending for called in ROLES[role] for ending in ("", *ids, "_name", "name")]


def form_of(name: str) -> str:
    """Return a name without case, blanks, hyphens and points."""
    return re.sub(r"[\s\-.]+", "_", name.strip().casefold())


_TAKEN = {spelling for role in ROLES for spelling in spellings(role)}


def is_known(name: str) -> bool:
    """Whether a name is that of a column, of whatever role."""
    return form_of(name) in _TAKEN or name.startswith((FEATURES, VOTES)) or is_index(name)


def is_index(name: str) -> bool:
    """Whether a column is the index that pandas wrote."""
    return bool(_INDEX.fullmatch(name.strip()))


def no_person(name: str) -> bool:
    """Whether a column says something about a row, such as ``created_at`` or ``age``."""
    return form_of(name).rsplit("_", 1)[-1] in _ABOUT


def is_taken(name: str) -> bool:
    """Whether a column with this name would not be read as that of a person."""
    return is_known(name) or no_person(name)
