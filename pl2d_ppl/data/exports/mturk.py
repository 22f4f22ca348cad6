"""Amazon Mechanical Turk: results of a batch."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pl2d_ppl.data.exports.found import Found, Wanted, answers_of, only, text_of
from pl2d_ppl.data.tables.records import Record

__all__ = ["is_mturk", "mturk"]

INPUT, ANSWER = "Input.", "Answer."
TASK_ANSWERS = "Answer.taskAnswers"
Row = Mapping[str, Any]


def is_mturk(names: Sequence[str]) -> bool:
    """Whether a table holds results of a batch."""
    return {"HITId", "WorkerId"} <= set(names) and any(name.startswith(ANSWER) for name in names)


def mturk(rows: Sequence[Row], wanted: Wanted) -> Found:
    """Read a batch; rejected assignments are left out.

    A task that holds several items pairs ``Input.NAME3`` with ``Answer.NAME3`` by their numbers.

    Parameters
    ----------
    rows : sequence of mapping
        The rows.
    wanted : Wanted
        The question, and ``item``.

    Returns
    -------
    Found
        Records.

    Raises
    ------
    ValueError
        If the question is not clear.
    """
    kept = [row for row in rows if not _rejected(row)]
    answers = [_answers(row) for row in kept]
    inputs = [name for name in rows[0] if name.startswith(INPUT)]
    pairs = None if wanted.columns.get("item") else _pairs(inputs, {name for found in answers for name in found})
    if pairs:
        records = [
            Record(text_of(row[name]) or "", row["WorkerId"], answer, row.get("SubmitTime"))
            for row, found in zip(kept, answers, strict=True)
            for name, question in pairs.items()
            if text_of(row[name]) is not None
            for answer in found.get(question, [])
        ]
        item, label = ", ".join(pairs), ", ".join(pairs.values())
    else:
        label = only([name for found in answers for name in found], wanted, "the batch")
        item = wanted.columns.get("item") or (inputs[0] if len(inputs) == 1 else "HITId")
        records = [
            Record(text_of(row.get(item)) or "", row["WorkerId"], answer, row.get("SubmitTime"))
            for row, found in zip(kept, answers, strict=True)
            for answer in found.get(label, [])
        ]
    told = {"item": item, "person": "WorkerId", "label": label, "truth": None}
    told["left out"] = f"{len(rows) - len(kept):,} rejected assignments"
    return Found("batch of Mechanical Turk", told, records)


def _rejected(row: Row) -> bool:
    return str(row.get("AssignmentStatus") or "").casefold() == "rejected" or bool(str(row.get("Reject") or "").strip())


def _answers(row: Row) -> dict[str, list[str]]:
    """Return answers by question; columns ``Answer.question.category`` with true and false are one question."""
    found: dict[str, list[str]] = {}
    for name, value in row.items():
        if name == TASK_ANSWERS:
            found |= _task_answers(value)
        elif name.startswith(ANSWER) and text_of(value) is not None:
            question, _, category = name.rpartition(".")
            if str(value).casefold() in ("true", "false") and question.startswith(ANSWER):
                found.setdefault(question, [])
                found[question] += [category] if str(value).casefold() == "true" else []
            else:
                found[name] = answers_of(value)
    return found


def _task_answers(value: Any) -> dict[str, list[str]]:
    try:
        content = json.loads(value or "[]")
    except ValueError as error:
        raise ValueError(f"Expected JSON in {TASK_ANSWERS}, found {str(value)[:60]!r}. Export it again.") from error
    found: dict[str, list[str]] = {}
    for answers in content if isinstance(content, list) else [content]:
        for question, answer in answers.items() if isinstance(answers, Mapping) else ():
            if isinstance(answer, Mapping) and set(answer) == {"label"}:
                found[question] = answers_of(answer["label"])
            elif isinstance(answer, Mapping):
                found[question] = [category for category, yes in answer.items() if yes is True]
            else:
                found[question] = answers_of(answer)
    return found


def _pairs(inputs: Sequence[str], questions: set[str]) -> dict[str, str] | None:
    """Pair fields of items with questions by the numbers in their names; None if they do not pair."""
    by_number = {number: name for name in inputs if (number := _number(name)) is not None}
    asked = {number: name for name in questions if (number := _number(name)) is not None}
    if len(asked) < 2 or len(asked) < len(questions) or not set(asked) <= set(by_number):
        return None
    return {by_number[number]: asked[number] for number in sorted(asked)}


def _number(name: str) -> int | None:
    found = re.search(r"(\d+)\D*$", name)
    return int(found[1]) if found else None
