"""Prodigy: JSON lines of ``db-out``, one line an annotation."""

from collections.abc import Mapping, Sequence
from typing import Any

from pl2d_ppl.data.exports.found import Found, Wanted, answers_of, one_of, text_of
from pl2d_ppl.data.tables.records import LABEL, SKIP, TRUTH, Record

__all__ = ["is_prodigy", "prodigy"]

PEOPLE = ("_annotator_id", "_session_id")


def is_prodigy(content: Any) -> bool:
    """Whether JSON is a list of annotated examples of Prodigy."""
    return (
        isinstance(content, list)
        and bool(content)
        and all(
            isinstance(line, dict) and "answer" in line and ({"_task_hash", "_input_hash"} & set(line))
            for line in content
        )
    )


def prodigy(content: Sequence[Mapping[str, Any]], wanted: Wanted) -> Found:
    """Read annotated examples: "ignore" is an abstention, a reviewed example is the truth beside its versions.

    Parameters
    ----------
    content : sequence of mapping
        The lines.
    wanted : Wanted
        ``item``, a field, instead of the hashes.

    Returns
    -------
    Found
        Records.

    Raises
    ------
    ValueError
        If an example names nobody.
    """
    choice = any("options" in line or "accept" in line for line in content)
    field = wanted.columns.get("item") or ("_input_hash" if choice else "_task_hash")
    records = [record for line in content for record in _line(line, choice, field)]
    truth = "reviewed answers" if any(r.role == TRUTH for r in records) else None
    label = "accept" if choice else "answer"
    told = {"item": field, "person": " or ".join(PEOPLE), "label": label, "truth": truth}
    return Found("examples of Prodigy", told, records)


def _line(line: Mapping[str, Any], choice: bool, field: str) -> list[Record]:
    item = text_of(line.get(field))
    if item is None:
        raise ValueError(f"Expected {field} in every example, found none. Choose another field as the item.")
    if "versions" in line:  # of a review
        answers = _answers(line, choice)
        return [Record(item, None, a, None, TRUTH) for a in answers] + [
            record
            for version in line["versions"] or ()
            for person in version.get("sessions") or ()
            for record in _records(item, str(person), _answers({**line, **version}, choice), version.get("_timestamp"))
        ]
    person = text_of(one_of(line, PEOPLE))
    if person is None:
        raise ValueError(
            f"Expected {' or '.join(PEOPLE)} in every example, found neither. Start Prodigy with named sessions, "
            "?session=NAME, so that it stores who answered."
        )
    return _records(item, person, _answers(line, choice), line.get("_timestamp"))


def _records(item: str, person: str, answers: Sequence[str], time: Any) -> list[Record]:
    said = [Record(item, person, answer, time, LABEL) for answer in answers]
    return said or [Record(item, person, None, time, SKIP)]


def _answers(line: Mapping[str, Any], choice: bool) -> list[str]:
    answer = line.get("answer")
    if answer == "ignore" or (choice and answer == "reject"):
        return []
    return answers_of(line.get("accept")) if choice else answers_of(answer)
