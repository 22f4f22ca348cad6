"""Columns of lists, as Hugging Face and Argilla store them: one row an item, with lists of people and of labels."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pl2d_ppl.data.exports.found import Found, Wanted, answers_of, only, text_of
from pl2d_ppl.data.tables.column_names import ROLES, form_of
from pl2d_ppl.data.tables.records import AI, SKIP, Record

__all__ = ["has_lists", "lists"]

ITEMS = ("id", "external_id", "_id", "item", "item_id", "uid")
PEOPLE = ("user_id", "user", "annotator", "worker_id")
Row = Mapping[str, Any]


def has_lists(rows: Sequence[Row]) -> bool:
    """Whether rows hold answers of several people in their cells."""
    return bool(rows) and bool(_questions(rows))


def lists(rows: Sequence[Row], wanted: Wanted) -> Found:
    """Read a row an item.

    Parameters
    ----------
    rows : sequence of mapping
        The rows: a question is a list of ``{"user_id", "value", "status"}``, such a mapping of lists, the columns
        ``QUESTION.responses`` and ``QUESTION.responses.users``, or a list of labels beside one of people.
    wanted : Wanted
        The question, and ``item``.

    Returns
    -------
    Found
        Records; drafts are left out, discarded responses are abstentions, suggestions are the AI's.

    Raises
    ------
    ValueError
        If the question is not clear, or lists differ in length.
    """
    question = only(_questions(rows), wanted, "the columns of lists")
    item = wanted.columns.get("item") or next((name for name in ITEMS if name in rows[0]), None)
    records = []
    for i, row in enumerate(rows):
        name = str(i) if item is None else text_of(row.get(item)) or ""
        records.append(Record(name, None, None))
        for person, value, status in _answers(row, question, wanted):
            if status == "discarded" or (value is None and status is not None and status != "draft"):
                records.append(Record(name, person, None, None, SKIP))
            elif status in (None, "submitted"):
                records += [Record(name, person, answer) for answer in answers_of(value)]
        suggestion = text_of(row.get(f"{question}.suggestion"))
        if suggestion is not None:
            score = row.get(f"{question}.suggestion.score")
            records.append(Record(name, None, suggestion, None, AI, 1.0 if score is None else float(score)))
    told = {"item": item or "number of the row", "person": "lists of people", "label": question, "truth": None}
    return Found("columns of lists", told, records)


def _questions(rows: Sequence[Row]) -> list[str]:
    found = []
    for name in rows[0]:
        values = [row.get(name) for row in rows if row.get(name) not in (None, [], {})]
        if not values:
            continue
        first = values[0]
        if name.endswith(".responses") and isinstance(first, list):
            found.append(name.removesuffix(".responses"))
        elif _is_response(first) or (isinstance(first, list) and first and _is_response(first[0])):
            found.append(name)
        elif isinstance(first, list) and _role(name) == "label" and _people(rows[0]) is not None:
            found.append(name)
    return found


def _is_response(value: Any) -> bool:
    return isinstance(value, Mapping) and "value" in value and bool(set(PEOPLE) & set(value))


def _role(name: str) -> str | None:
    form = re.sub(r"s$", "", re.sub(r"_?ids?$", "", form_of(name)))
    return next((role for role in ("annotator", "label") if form in ROLES[role]), None)


def _people(row: Row) -> str | None:
    return next((name for name, value in row.items() if isinstance(value, list) and _role(name) == "annotator"), None)


def _answers(row: Row, question: str, wanted: Wanted) -> list[tuple[str | None, Any, str | None]]:
    value = row.get(question)
    if f"{question}.responses" in row:
        prefix = f"{question}.responses"
        people, values = row.get(f"{prefix}.users") or [], row.get(prefix) or []
        statuses = row.get(f"{prefix}.status") or [None] * len(values)
    elif isinstance(value, Mapping):
        people = next((value[key] for key in PEOPLE if key in value), [])
        values = value.get("value") or []
        statuses = value.get("status") or [None] * len(values)
    elif isinstance(value, list) and value and isinstance(value[0], Mapping):
        return [
            (text_of(next((v[key] for key in PEOPLE if key in v), None)), v.get("value"), v.get("status"))
            for v in value
        ]
    else:
        column = wanted.columns.get("annotator") or _people(row)
        people, values = (row.get(column) if column else None) or [], value or []
        statuses = [None] * len(values)
    if not len(people) == len(values) == len(statuses):
        raise ValueError(
            f"Expected a person for each label in {question!r}, found {len(people)} people and {len(values)} labels in "
            "one row. Correct the lists."
        )
    return [(text_of(p), v, s) for p, v, s in zip(people, values, statuses, strict=True)]
