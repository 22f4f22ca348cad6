"""doccano: an archive, or a folder, with one file of JSON lines for each user."""

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from pl2d_ppl.data.exports.found import Found, Wanted, answers_of, one_of, text_of
from pl2d_ppl.data.tables.records import Record

__all__ = ["doccano"]

SHARED = "all"


def doccano(members: Mapping[str, Sequence[Mapping[str, Any]]], wanted: Wanted) -> Found:
    """Read a file for each user, named after the user.

    Parameters
    ----------
    members : mapping of str to sequence of mapping
        Lines by file.
    wanted : Wanted
        ``item`` and ``label``, fields instead of ``id`` and ``label``.

    Returns
    -------
    Found
        Records.

    Raises
    ------
    ValueError
        If the files are not those of users.
    """
    people = {PurePosixPath(name).stem: lines for name, lines in members.items()}
    if SHARED in people:
        raise ValueError(
            f"Expected one file for each user, found {SHARED}.jsonl, which does not say who annotated. Switch off "
            "'Share annotations across all users' in the project of doccano, and export again."
        )
    item_field = wanted.columns.get("item")
    fields = (item_field,) if item_field else ("id", "filename", "text", "data")
    label = wanted.columns.get("label") or wanted.question or "label"
    records = []
    for person, lines in people.items():
        for line in lines:
            item = text_of(one_of(line, fields)) if isinstance(line, Mapping) else None
            if item is None or not isinstance(line, Mapping):
                raise ValueError(
                    f"Expected {' or '.join(fields)} in every line of {person}.jsonl, found {str(line)[:60]}."
                )
            answers = answers_of(line.get(label))
            records += [Record(item, person, answer) for answer in answers] or [Record(item, None, None)]
        if not lines or not any(r.person == person for r in records):
            continue
    told = {"item": " or ".join(fields), "person": "name of the file", "label": label, "truth": None}
    return Found("files of doccano by user", told, records)
