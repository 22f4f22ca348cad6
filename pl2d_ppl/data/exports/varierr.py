"""VariErr NLI: a list of annotators for each label, and those who could not tell."""

from collections.abc import Mapping, Sequence
from typing import Any

from pl2d_ppl.data.exports.found import Found, Wanted, text_of
from pl2d_ppl.data.tables.records import SKIP, Record

__all__ = ["is_varierr", "varierr"]

LABELS = ("entailment", "neutral", "contradiction")


def is_varierr(content: Any) -> bool:
    """Whether JSON is a list of items with a list of annotators for each label."""
    return (
        isinstance(content, list)
        and bool(content)
        and all(
            isinstance(line, dict) and all(isinstance(line.get(label), list) for label in LABELS) for line in content
        )
    )


def varierr(content: Sequence[Mapping[str, Any]], wanted: Wanted) -> Found:
    """Read the first round: several labels of a person are several records, ``idk`` is an abstention.

    Parameters
    ----------
    content : sequence of mapping
        The lines.
    wanted : Wanted
        Nothing.

    Returns
    -------
    Found
        Records.
    """
    records = []
    for line in content:
        item = text_of(line.get("id")) or ""
        for label in LABELS:
            records += [Record(item, text_of(said.get("annotator")), label) for said in line[label]]
        records += [Record(item, text_of(person), None, None, SKIP) for person in line.get("idk") or ()]
    told = {"item": "id", "person": "annotator", "label": ", ".join(LABELS), "truth": None}
    return Found("lines of VariErr", told, records)
