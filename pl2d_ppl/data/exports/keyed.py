"""JSON keyed by item: peerannot's answers, and LeWiDi."""

from collections.abc import Mapping
from typing import Any

from pl2d_ppl.data.exports.found import Found, Wanted, text_of
from pl2d_ppl.data.tables.records import Record

__all__ = ["answers", "is_answers", "is_lewidi", "lewidi"]


def is_answers(content: Any) -> bool:
    """Whether JSON holds labels by item and person, as peerannot's ``answers.json``."""
    return (
        isinstance(content, dict)
        and bool(content)
        and all(
            isinstance(said, dict) and all(not isinstance(label, dict | list) for label in said.values())
            for said in content.values()
        )
        and not any("annotations" in said or "annotators" in said for said in content.values())
        and not _is_columns(content)
    )


def _is_columns(content: Mapping[str, Any]) -> bool:
    """Whether every item has the same keys, which are names of columns instead of people."""
    return all(isinstance(said, dict) and {"label", "annotator"} & set(said) for said in content.values())


def answers(content: Mapping[str, Mapping[str, Any]], wanted: Wanted) -> Found:
    """Read labels by item and person.

    Parameters
    ----------
    content : mapping of str to mapping of str to label
        Labels.
    wanted : Wanted
        Nothing.

    Returns
    -------
    Found
        Records.
    """
    records = []
    for item, said in content.items():
        records.append(Record(item, None, None))
        records += [Record(item, person, text_of(label)) for person, label in said.items()]
    told = {"item": "outer keys", "person": "inner keys", "label": "values", "truth": None}
    return Found("JSON by item and person", told, records)


def is_lewidi(content: Any) -> bool:
    """Whether JSON is a data set of LeWiDi, of its second or third edition."""
    return (
        isinstance(content, dict)
        and bool(content)
        and all(isinstance(said, dict) and "annotations" in said for said in content.values())
    )


def lewidi(content: Mapping[str, Mapping[str, Any]], wanted: Wanted) -> Found:
    """Read annotations: two lists with commas side by side, or a mapping by person. Hard labels are a majority.

    Parameters
    ----------
    content : mapping of str to mapping
        The data set.
    wanted : Wanted
        Nothing.

    Returns
    -------
    Found
        Records; several labels of a person are several records.

    Raises
    ------
    ValueError
        If there are not as many people as labels.
    """
    records = []
    for item, said in content.items():
        records.append(Record(item, None, None))
        given = said["annotations"]
        if isinstance(given, Mapping):
            pairs = [(person, part) for person, labels in given.items() for part in str(labels).split(",")]
        else:
            people, labels = (_split(said.get(key)) for key in ("annotators", "annotations"))
            if len(people) != len(labels):
                raise ValueError(
                    f"Expected a person for each annotation of {item!r}, found {len(people)} people and {len(labels)} "
                    "annotations. Correct it."
                )
            pairs = list(zip(people, labels, strict=True))
        records += [Record(item, person, text_of(label.strip())) for person, label in pairs]
    told = {"item": "keys", "person": "annotators", "label": "annotations", "truth": None}
    return Found("data set of LeWiDi", told, records)


def _split(text: Any) -> list[str]:
    if isinstance(text, list):
        return [str(part) for part in text]
    return [part.strip() for part in str(text or "").split(",") if part.strip()]
