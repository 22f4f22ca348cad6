"""Zooniverse: exports of classifications, and the extractions and reductions of panoptes_aggregation."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pl2d_ppl.data.exports.found import Found, Wanted, answers_of, one_of, only, records_of, text_of
from pl2d_ppl.data.tables.records import TRUTH, Record

__all__ = ["classifications", "extractions", "is_classifications", "is_extractions", "is_reductions", "reductions"]

DATA = "data."
Row = Mapping[str, Any]


def is_classifications(names: Sequence[str]) -> bool:
    """Whether a table is an export of classifications."""
    return {"classification_id", "annotations", "subject_ids"} <= set(names)


def classifications(rows: Sequence[Row], wanted: Wanted) -> Found:
    """Read classifications: the first of a person's repeats counts, gold standards are the truth.

    Parameters
    ----------
    rows : sequence of mapping
        The rows.
    wanted : Wanted
        The task, such as ``T0``; with several workflows ``WORKFLOW/T0``.

    Returns
    -------
    Found
        Records.

    Raises
    ------
    ValueError
        If the task is not clear, or annotations are no JSON.
    """
    several = len({row.get("workflow_id") for row in rows}) > 1
    said = [(row, task) for row in rows for task in _tasks(row)]

    def name(row: Row, task: Mapping[str, Any]) -> str:
        return f"{row.get('workflow_id')}/{task.get('task')}" if several else str(task.get("task"))

    kept = [(row, task) for row, task in said if _is_choice(task.get("value"))]
    question = only([name(row, task) for row, task in kept], wanted, "the export of Zooniverse")
    records = [r for row, task in kept if name(row, task) == question for r in _said(row, _value(task.get("value")))]
    truth = "gold_standard" if any(r.role == TRUTH for r in records) else None
    told = {"item": "subject_ids", "person": "user_name", "label": question, "truth": truth}
    return Found("classifications of Zooniverse", told, records, "first")


def _tasks(row: Row) -> Iterator[Mapping[str, Any]]:
    try:
        found = json.loads(row.get("annotations") or "[]")
    except ValueError as error:
        raise ValueError(
            f"Expected JSON in the column annotations, found {str(row.get('annotations'))[:60]!r}. Export it again."
        ) from error
    yield from (task for task in found if isinstance(task, Mapping)) if isinstance(found, list) else ()


def _is_choice(value: Any) -> bool:
    if isinstance(value, list):
        return all(isinstance(v, str | int) or (isinstance(v, Mapping) and "choice" in v) for v in value)
    return not isinstance(value, Mapping)


def _value(value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return answers_of([v["choice"] if isinstance(v, Mapping) else v for v in values])


def _said(row: Row, answers: Sequence[str]) -> list[Record]:
    item = str(row.get("subject_ids") or row.get("subject_id") or "").split(";")[0]
    person, time = text_of(one_of(row, ("user_name", "user_id", "user_ip"))), row.get("created_at")
    gold = str(row.get("gold_standard") or "").casefold() == "true"
    if gold:
        return [Record(item, None, answer, time, TRUTH) for answer in answers]
    return records_of(item, person, answers, time)


def is_extractions(names: Sequence[str]) -> bool:
    """Whether a table holds extractions of questions."""
    return {"classification_id", "subject_id", "extractor"} <= set(names)


def extractions(rows: Sequence[Row], wanted: Wanted) -> Found:
    """Read extractions: a row an answer, with a 1 in the column of its category.

    Parameters
    ----------
    rows : sequence of mapping
        The rows.
    wanted : Wanted
        The task.

    Returns
    -------
    Found
        Records.

    Raises
    ------
    ValueError
        If the task is not clear.
    """
    question = only([str(row.get("task")) for row in rows], wanted, "the extractions of Zooniverse")
    records: list[Record] = []
    for row in rows:
        if str(row.get("task")) == question:
            answers = [n.removeprefix(DATA) for n, v in row.items() if n.startswith(DATA) and _number(v) > 0]
            records += _said(row, [answer for answer in answers if answer != "None"])
    told = {"item": "subject_id", "person": "user_name", "label": f"{DATA}* of {question}", "truth": None}
    return Found("extractions of Zooniverse", told, records, "first")


def _number(value: Any) -> float:
    try:
        return float(value or 0)
    except ValueError:
        return 0.0


def is_reductions(names: Sequence[str]) -> bool:
    """Whether a table holds reductions: numbers of votes."""
    return {"subject_id", "reducer"} <= set(names) and any(name.startswith(DATA) for name in names)


def reductions(rows: Sequence[Row], wanted: Wanted) -> tuple[str, list[dict[str, str]]]:
    """Read reductions as a table of items and numbers of votes.

    Parameters
    ----------
    rows : sequence of mapping
        The rows.
    wanted : Wanted
        The task.

    Returns
    -------
    question : str
        The task.
    rows : list of dict
        ``item``, and ``votes_NAME`` for each category.

    Raises
    ------
    ValueError
        If the task is not clear.
    """
    question = only([str(row.get("task")) for row in rows], wanted, "the reductions of Zooniverse")
    kept = [row for row in rows if str(row.get("task")) == question]
    names = [n for n in kept[0] if n.startswith(DATA) and not n.startswith(f"{DATA}user_ids") and n != f"{DATA}None"]
    used = [n for n in names if any(row.get(n) not in (None, "") for row in kept)]
    return question, [
        {"item": str(row["subject_id"]), **{f"votes_{n.removeprefix(DATA)}": str(row.get(n) or "0") for n in used}}
        for row in kept
    ]
