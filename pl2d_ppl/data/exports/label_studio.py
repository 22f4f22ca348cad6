"""Label Studio: JSON, one task with its annotations; JSON_MIN and CSV, one row an annotation."""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pl2d_ppl.data.exports.found import Found, Wanted, answers_of, one_of, only, records_of, text_of
from pl2d_ppl.data.tables.records import AI, LABEL, SKIP, TRUTH, Record

__all__ = ["flat", "is_flat", "is_tasks", "tasks"]

KINDS = ("choices", "rating", "number", "taxonomy")  # of answers that are categories
ABOUT = {"annotation_id", "annotator", "created_at", "updated_at", "lead_time", "id", "agreement"}


def is_tasks(content: Any) -> bool:
    """Whether JSON is a list of tasks with annotations."""
    return (
        isinstance(content, list)
        and bool(content)
        and all(isinstance(task, dict) for task in content)
        and isinstance(content[0].get("data"), dict)
        and any(
            isinstance(task.get(key), list) for task in content for key in ("annotations", "completions", "predictions")
        )
    )


def tasks(content: Sequence[Mapping[str, Any]], wanted: Wanted) -> Found:
    """Read tasks: cancelled annotations are abstentions, ``ground_truth`` is the truth, predictions are the AI's.

    Parameters
    ----------
    content : sequence of mapping
        The tasks.
    wanted : Wanted
        The question; and ``item``, a field of the tasks' data, instead of the task's id.

    Returns
    -------
    Found
        Records.

    Raises
    ------
    ValueError
        If the question is not clear.
    """
    questions = [
        result.get("from_name", "")
        for task in content
        for said in (*_annotations(task), *(task.get("predictions") or ()))
        for result in said.get("result") or ()
        if result.get("type") in KINDS
    ]
    question = only(questions, wanted, "the export of Label Studio")
    field = wanted.columns.get("item")
    records = [record for task in content for record in _task(task, question, field)]
    told = {
        "item": f"data.{field}" if field else "id of the task",
        "person": "completed_by",
        "label": question,
        "truth": "ground_truth" if any(r.role == TRUTH for r in records) else None,
        "AI": "predictions" if any(r.role == AI for r in records) else None,
    }
    return Found("tasks of Label Studio", told, records)


def _annotations(task: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    return task.get("annotations") or task.get("completions") or ()


def _task(task: Mapping[str, Any], question: str, field: str | None) -> Iterator[Record]:
    item = text_of(task["data"].get(field) if field else task.get("id"))
    if item is None:
        raise ValueError(f"Expected {field or 'id'} in every task, found none. Choose another field as the item.")
    yield Record(item, None, None)
    for said in _annotations(task):
        who = said.get("completed_by")
        person = text_of(one_of(who, ("email", "id", "username")) if isinstance(who, Mapping) else who)
        role = TRUTH if said.get("ground_truth") else LABEL
        time = one_of(said, ("updated_at", "created_at"))
        answers = [] if said.get("was_cancelled") else _answers(said, question)
        if not answers and role == LABEL:
            yield Record(item, person, None, time, SKIP)
        for answer in answers:
            yield Record(item, None if role == TRUTH else person, answer, time, role)
    for said in task.get("predictions") or ():
        score = said.get("score")
        for answer in _answers(said, question):
            yield Record(item, None, answer, None, AI, 1.0 if score is None else float(score))


def _answers(said: Mapping[str, Any], question: str) -> list[str]:
    found: list[str] = []
    for result in said.get("result") or ():
        value = result.get("value") or {}
        if result.get("from_name") == question and result.get("type") in KINDS:
            found += answers_of(value.get(result["type"]))
    return found


def is_flat(names: Sequence[str]) -> bool:
    """Whether a table, or records, have the columns of JSON_MIN and CSV."""
    return {"annotation_id", "annotator", "id"} <= set(names) and bool({"lead_time", "created_at"} & set(names))


def flat(rows: Sequence[Mapping[str, Any]], wanted: Wanted) -> Found:
    """Read one row an annotation. The question is the column in which rows of a task differ.

    Parameters
    ----------
    rows : sequence of mapping
        The rows.
    wanted : Wanted
        The question, if several columns differ; and ``item``, instead of ``id``.

    Returns
    -------
    Found
        Records.

    Raises
    ------
    ValueError
        If the question is not clear.
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    varying = names if wanted.question or wanted.columns.get("label") else _varying(rows, names)
    question = only([n for n in varying if n not in ABOUT], wanted, "the export of Label Studio")
    item = wanted.columns.get("item") or "id"
    records = []
    for row in rows:
        answers = answers_of(_choices(row.get(question)))
        name, person = text_of(row.get(item)) or "", text_of(row.get("annotator"))
        time = one_of(row, ("updated_at", "created_at"))
        records += records_of(name, person, answers, time)
    told = {"item": item, "person": "annotator", "label": question, "truth": None}
    return Found("flat export of Label Studio", told, records)


def _varying(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[str]:
    tasks: dict[Any, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        tasks[row.get("id")].append(row)
    return [n for n in names if any(len({str(row.get(n)) for row in alike}) > 1 for alike in tasks.values())]


def _choices(value: Any) -> Any:
    """Unwrap ``{"choices": [...]}`` in a cell."""
    if isinstance(value, str) and value.startswith(("{", "[")):
        try:
            value = json.loads(value)
        except ValueError:
            return value
    return value.get("choices", value) if isinstance(value, Mapping) else value
