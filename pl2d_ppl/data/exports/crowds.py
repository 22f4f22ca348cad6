"""Tables of crowds: Toloka, Figure Eight, and POPQUORN."""

from collections.abc import Mapping, Sequence
from typing import Any

from pl2d_ppl.data.exports.found import Found, Wanted, answers_of, only, text_of
from pl2d_ppl.data.tables.records import TRUTH, Record

__all__ = ["figure_eight", "is_figure_eight", "is_popquorn", "is_toloka", "popquorn", "toloka"]

INPUT, OUTPUT, GOLDEN, ASSIGNMENT = "INPUT:", "OUTPUT:", "GOLDEN:", "ASSIGNMENT:"
GOLD = "_gold"
RATED_BY = {"gender", "race", "age", "occupation", "education"}
Row = Mapping[str, Any]


def is_toloka(names: Sequence[str]) -> bool:
    """Whether a table has the columns of assignments in Toloka."""
    return f"{ASSIGNMENT}worker_id" in names and any(name.startswith(OUTPUT) for name in names)


def toloka(rows: Sequence[Row], wanted: Wanted) -> Found:
    """Read assignments; rejected ones are left out, golden answers are the truth.

    Parameters
    ----------
    rows : sequence of mapping
        The rows.
    wanted : Wanted
        The question, without ``OUTPUT:``, and ``item``.

    Returns
    -------
    Found
        Records.

    Raises
    ------
    ValueError
        If the question is not clear.
    """
    names = list(rows[0])
    question = only([n.removeprefix(OUTPUT) for n in names if n.startswith(OUTPUT)], wanted, "the table of Toloka")
    inputs = [name for name in names if name.startswith(INPUT)]
    item = wanted.columns.get("item") or (inputs[0] if len(inputs) == 1 else f"{ASSIGNMENT}task_id")
    kept = [row for row in rows if str(row.get(f"{ASSIGNMENT}status") or "").casefold() not in ("rejected", "skipped")]
    who, when = f"{ASSIGNMENT}worker_id", f"{ASSIGNMENT}submitted"
    records = _records(kept, item, who, OUTPUT + question, GOLDEN + question, when)
    told = {"item": item, "person": who, "label": OUTPUT + question, "truth": _truth(records, GOLDEN + question)}
    told["left out"] = f"{len(rows) - len(kept):,} rejected assignments"
    return Found("assignments of Toloka", told, records)


def is_figure_eight(names: Sequence[str]) -> bool:
    """Whether a table has the columns of a full report of Figure Eight, or CrowdFlower."""
    return {"_unit_id", "_worker_id"} <= set(names)


def figure_eight(rows: Sequence[Row], wanted: Wanted) -> Found:
    """Read a full report; tainted judgments are left out, ``QUESTION_gold`` is the truth.

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
    names = list(rows[0])
    asked = [name for name in names if name + GOLD in names and not name.endswith("_reason")]
    if wanted.question or wanted.columns.get("label"):
        asked = names
    question = only(asked, wanted, "the report of Figure Eight")
    item = wanted.columns.get("item") or "_unit_id"
    kept = [row for row in rows if str(row.get("_tainted") or "").casefold() != "true"]
    records = _records(kept, item, "_worker_id", question, question + GOLD, "_created_at")
    told = {"item": item, "person": "_worker_id", "label": question, "truth": _truth(records, question + GOLD)}
    told["left out"] = f"{len(rows) - len(kept):,} tainted judgments"
    return Found("report of Figure Eight", told, records)


def is_popquorn(names: Sequence[str]) -> bool:
    """Whether a table rates instances, beside what is known of the people who rate."""
    return {"instance_id", "user_id"} <= set(names) and len(set(names) & RATED_BY) >= 3


def popquorn(rows: Sequence[Row], wanted: Wanted) -> Found:
    """Read ratings of instances.

    Parameters
    ----------
    rows : sequence of mapping
        The rows.
    wanted : Wanted
        The question, if there are several.

    Returns
    -------
    Found
        Records.

    Raises
    ------
    ValueError
        If the question is not clear.
    """
    by_person: dict[str, dict[Any, set[Any]]] = {name: {} for name in rows[0]}
    by_item: dict[str, dict[Any, set[Any]]] = {name: {} for name in rows[0]}
    for row in rows:
        for name, value in row.items():
            by_person[name].setdefault(row["user_id"], set()).add(value)
            by_item[name].setdefault(row["instance_id"], set()).add(value)
    known = {"instance_id", "user_id", "text", "original_text", *RATED_BY}
    varies = [
        name
        for name in rows[0]
        if name not in known
        and any(len(values) > 1 for values in by_person[name].values())
        and any(len(values) > 1 for values in by_item[name].values())
    ]
    if wanted.question or wanted.columns.get("label"):
        varies = list(rows[0])
    question = only(varies, wanted, "the table of ratings")
    records = _records(rows, "instance_id", "user_id", question, None, None)
    told = {"item": "instance_id", "person": "user_id", "label": question, "truth": None}
    return Found("ratings of instances", told, records)


def _records(
    rows: Sequence[Row], item: str, person: str, label: str, truth: str | None, time: str | None
) -> list[Record]:
    records = []
    for row in rows:
        name, who = text_of(row.get(item)) or "", text_of(row.get(person))
        when = row.get(time) if time else None
        answers = answers_of(row.get(label))
        records += [Record(name, who, answer, when) for answer in answers] or [Record(name, who, None, when)]
        gold = text_of(row.get(truth)) if truth else None
        if gold is not None and "\n" not in gold:  # several golden answers are no truth
            records.append(Record(name, None, gold, None, TRUTH))
    return records


def _truth(records: Sequence[Record], name: str) -> str | None:
    return name if any(record.role == TRUTH for record in records) else None
