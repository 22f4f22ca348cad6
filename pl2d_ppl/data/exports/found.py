"""What a reader of an export yields: long records, and what it took for what."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from pl2d_ppl.checks.advice import advice
from pl2d_ppl.checks.names import listed
from pl2d_ppl.data.tables.records import SKIP, Record
from pl2d_ppl.data.tables.repeats import Duplicates

__all__ = ["Found", "Wanted", "answers_of", "one_of", "only", "records_of", "text_of"]


class Wanted(NamedTuple):
    """What is asked of an export.

    Attributes
    ----------
    question : str or None
        Which of several questions is meant.
    columns : mapping of str to str
        Which field is the item, label, annotator or truth, where it is not the usual one.
    """

    question: str | None
    columns: Mapping[str, str | None]


class Found(NamedTuple):
    """Records of an export.

    Attributes
    ----------
    what : str
        Which kind of export it is.
    told : dict of str to str
        What was taken for item, person, label and truth.
    records : list of Record
        What people, the truth and the AI say.
    duplicates : str
        Which of a person's labels counts by default.
    """

    what: str
    told: dict[str, str | None]
    records: list[Record]
    duplicates: Duplicates = "error"


def only(questions: Iterable[str], wanted: Wanted, what: str) -> str:
    """Choose the question that is meant.

    Parameters
    ----------
    questions : iterable of str
        Those that an export holds.
    wanted : Wanted
        What is asked of it.
    what : str
        Which kind of export it is, for the message.

    Returns
    -------
    str
        The question.

    Raises
    ------
    ValueError
        If there is none, or several and none is chosen, or the one chosen is not there.
    """
    names = list(dict.fromkeys(questions))
    asked = wanted.question or wanted.columns.get("label")
    if asked is not None:
        if asked not in names:
            raise ValueError(f"Expected the question {asked!r} in {what}, found {listed(names) or 'none'}. Correct it.")
        return asked
    if not names:
        raise ValueError(
            f"Expected answers to a question of one choice in {what}, found none. Export a project that "
            "classifies items."
        )
    if len(names) > 1:
        choose = advice(f"question={names[0]!r}", f"--question {names[0]!r}")
        raise ValueError(f"Expected one question in {what}, found {listed(names)}. Choose one: {choose}.")
    return names[0]


def one_of(mapping: Mapping[str, Any], keys: Sequence[str]) -> Any:
    """Return the first value that is there, or None."""
    return next((mapping[key] for key in keys if mapping.get(key) not in (None, "")), None)


def text_of(value: Any) -> str | None:
    """Write a label, or a name, as text; None for nothing.

    Raises
    ------
    ValueError
        If it is a list or a mapping, such as a soft label.
    """
    if value is None or value == "":
        return None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    if isinstance(value, Mapping | list | tuple):
        shown = json.dumps(value, default=str, ensure_ascii=False)[:60]
        raise ValueError(
            f"Expected a label that is one category, found {shown}, a soft label or several. Take the most probable, "
            "or export each person's own label."
        )
    return str(value)


def answers_of(value: Any) -> list[str]:
    """Return the choices of one annotation; several are for the caller to refuse, or to choose among."""
    values = value if isinstance(value, list | tuple) else [value]
    return [text for text in map(text_of, values) if text is not None]


def records_of(item: str, person: str | None, answers: Sequence[str], time: Any) -> list[Record]:
    """Return a record for each answer of somebody who was asked, or an abstention if there is none."""
    return [Record(item, person, answer, time) for answer in answers] or [Record(item, person, None, time, SKIP)]
