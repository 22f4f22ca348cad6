"""Labelbox: NDJSON, one line a data row with all its labels."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pl2d_ppl.data.exports.found import Found, Wanted, answers_of, one_of, only, records_of, text_of
from pl2d_ppl.data.tables.records import Record

__all__ = ["is_labelbox", "labelbox"]


def is_labelbox(content: Any) -> bool:
    """Whether JSON is a list of data rows with projects."""
    return (
        isinstance(content, list)
        and bool(content)
        and all(isinstance(row, dict) and isinstance(row.get("data_row"), dict) for row in content)
        and any(isinstance(row.get("projects"), dict) for row in content)
    )


def labelbox(content: Sequence[Mapping[str, Any]], wanted: Wanted) -> Found:
    """Read data rows; several labels of a data row are those of its consensus.

    Parameters
    ----------
    content : sequence of mapping
        The lines.
    wanted : Wanted
        The question: the name of a classification.

    Returns
    -------
    Found
        Records.

    Raises
    ------
    ValueError
        If the question is not clear.
    """
    asked = [c.get("name", "") for row in content for label in _labels(row) for c in _classified(label)]
    question = only(asked, wanted, "the export of Labelbox")
    records = []
    for row in content:
        item = text_of(one_of(row["data_row"], ("global_key", "external_id", "id"))) or ""
        records.append(Record(item, None, None))
        for label in _labels(row):
            details = label.get("label_details") or {}
            person, time = text_of(details.get("created_by")), details.get("created_at")
            answers = [a for c in _classified(label) if c.get("name") == question for a in _answers(c)]
            records += records_of(item, person, answers, time)
    told = {"item": "global_key, external_id or id", "person": "created_by", "label": question, "truth": None}
    return Found("data rows of Labelbox", told, records)


def _labels(row: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for project in (row.get("projects") or {}).values():
        yield from project.get("labels") or ()


def _classified(label: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    found = (label.get("annotations") or {}).get("classifications") or ()
    return [c for c in found if "radio_answer" in c or "checklist_answers" in c]


def _answers(classified: Mapping[str, Any]) -> list[str]:
    chosen = classified.get("checklist_answers") or [classified.get("radio_answer")]
    return answers_of([one_of(answer, ("name", "value")) for answer in chosen if answer])
