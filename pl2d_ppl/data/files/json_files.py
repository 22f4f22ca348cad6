"""Annotations in JSON: one file per person and one for the truth, each a list of items with their labels."""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray

from pl2d_ppl.checks.names import distinct_names, listed
from pl2d_ppl.data.annotated import Annotated
from pl2d_ppl.data.checks import text_array
from pl2d_ppl.data.files.json_lists import Listed, load_list, parse_json
from pl2d_ppl.data.npz import naming
from pl2d_ppl.data.parts import Reading, taken_line
from pl2d_ppl.data.tables.joining import check_overlap, join_features
from pl2d_ppl.data.tables.names import Coded, in_order, number_labels, warn_of_spellings
from pl2d_ppl.data.tables.records import LABEL, TRUTH, Choice, Records, collect
from pl2d_ppl.data.tables.repeats import Duplicates, every_item

__all__ = ["NAMES", "read_json", "read_json_folder", "read_json_folder_reported"]

NAMES = "names.json"
_OF_PEOPLE = re.compile(r"label_(.+)_(train|test)(?:_(.+))?\.json", re.DOTALL)


# Truth, and one file by person.
_Files = tuple[Listed | None, Mapping[str, Listed]]


class _Options(NamedTuple):
    """Options of readers, the same for all files."""

    classes: Iterable[str] | None
    features: str | os.PathLike | None
    duplicates: Duplicates
    missing: tuple[str, ...]


def read_json(
    truth: str | os.PathLike | None,
    people: Mapping[str, str | os.PathLike] | Iterable[str | os.PathLike],
    *,
    columns: Mapping[str, str | None] | None = None,
    classes: Iterable[str] | None = None,
    features: str | os.PathLike | None = None,
    duplicates: Duplicates = "error",
    missing: Iterable[str] = (),
    subset: bool = False,
) -> Annotated:
    """Read annotations from one file per person, as paper A writes them.

    Each file is a list such as ``[{"file": "a.jpg", "label": 2}, ...]``. A label is an index from 0, a one-hot list, or
    a name; null and -1 mean that it is missing, as does an item that is absent. Records of the truth may have ``group``
    and ``coarse``.

    Parameters
    ----------
    truth : path-like or None
        Truth; its items come first, in this order. Further items of people have unknown truth.
    people : mapping of str to path-like, or iterable of path-like
        A file for each of M people, by name; default names are those of the files, without ``.json``.
    columns, classes, features, duplicates, missing, subset
        As for :func:`~pl2d_ppl.data.tables.reading.read_table`; `columns` says which key is ``item``, and which is
        ``label``.

    Returns
    -------
    Annotated
        N items, M experts.

    Raises
    ------
    ValueError
        If a file cannot be read or is not such a list, a label is malformed or unknown, a person gave an item several
        labels, a person and the truth share no items, or :class:`Annotated` refuses the data.

    References
    ----------
    Nguyen, Do and Carneiro, "Probabilistic Learning to Defer: Handling Missing Expert Annotations and Controlling
    Workload Distribution", ICLR 2025.
    """
    paths = list(map(Path, people.values() if isinstance(people, Mapping) else people))
    who = distinct_names("people", people if isinstance(people, Mapping) else (path.stem for path in paths))
    warn_of_spellings("people", who)
    files: _Files = (
        None if truth is None else load_list(Path(truth), columns),
        {name: load_list(path, columns) for name, path in zip(who, paths, strict=True)},
    )
    (data,) = _annotated([files], who, _Options(classes, features, duplicates, tuple(missing)), (subset,))
    return data


def read_json_folder(
    folder: str | os.PathLike,
    *,
    variant: str | None = None,
    columns: Mapping[str, str | None] | None = None,
    classes: Iterable[str] | None = None,
    people: Iterable[str] | None = None,
    features: str | os.PathLike | None = None,
    duplicates: Duplicates = "error",
    missing: Iterable[str] = (),
    subset: bool = False,
) -> tuple[Annotated, Annotated | None]:
    """Read a folder of JSON files.

    The folder holds the truth in ``train.json``, people in ``label_NAME_train.json``, and possibly the same for
    ``test``. Or it holds the truth in ``truth.json``, and one person in every other file. ``names.json`` may list the
    names of all categories and people, ``{"classes": [...], "annotators": [...]}``.

    Parameters
    ----------
    folder : path-like
        The folder.
    variant : str, optional
        Ending of the training annotations to read: "0.5" for ``label_NAME_train_0.5.json``.
    people : iterable of str, optional
        People to read, in this order. By default everybody, sorted, or in the order of ``names.json``.
    columns, classes, features, duplicates, missing, subset
        As for :func:`read_json`.

    Returns
    -------
    train : Annotated
    test : Annotated or None

    Raises
    ------
    ValueError
        If the folder holds no such files, or :func:`read_json` raises an error.
    """
    return read_json_folder_reported(
        folder,
        variant=variant,
        columns=columns,
        classes=classes,
        people=people,
        features=features,
        duplicates=duplicates,
        missing=missing,
        subset=subset,
    )[:2]


def read_json_folder_reported(
    folder: str | os.PathLike,
    *,
    variant: str | None = None,
    columns: Mapping[str, str | None] | None = None,
    classes: Iterable[str] | None = None,
    people: Iterable[str] | None = None,
    features: str | os.PathLike | None = None,
    duplicates: Duplicates = "error",
    missing: Iterable[str] = (),
    subset: bool = False,
) -> Reading:
    """Read a folder of JSON files as :func:`read_json_folder` does, and say what was taken for what.

    Raises
    ------
    ValueError
        As :func:`read_json_folder`.
    """
    folder = Path(folder)
    found = sorted(path.name for path in folder.glob("*.json"))
    noted = _noted(folder / NAMES) if NAMES in found else {}
    if "train.json" in found:
        files = _of_people(folder, found, variant)
        truths = {part: folder / f"{part}.json" for part in ("train", "test") if f"{part}.json" in found}
    elif "truth.json" in found and variant is None:
        rest = [name for name in found if name not in ("truth.json", NAMES)]
        files, truths = {"train": {Path(name).stem: folder / name for name in rest}}, {"train": folder / "truth.json"}
    else:
        raise ValueError(
            f"Expected train.json and label_NAME_train.json, or truth.json and a file for each person, in {folder}, "
            f"found {', '.join(found[:10]) or 'no .json at all'}. Rename the files, or name them: "
            "pl2d_ppl.data.read_json."
        )
    who = _chosen(folder, files, people, noted.get("annotators"))
    parts: list[_Files] = [
        (load_list(path, columns), {name: load_list(files[part][name], columns) for name in who if name in files[part]})
        for part, path in truths.items()
    ]
    named = noted.get("classes") if classes is None else classes
    data = _annotated(parts, who, _Options(named, features, duplicates, tuple(missing)), (subset, True))
    told = {
        "item": "of each record",
        "people": listed(who),
        "truth": " and ".join(path.name for path in truths.values()),
    }
    return Reading(data[0], data[1] if len(data) > 1 else None, taken_line("JSON folder", told, {}))


def _of_people(folder: Path, found: Sequence[str], variant: str | None) -> dict[str, dict[str, Path]]:
    """Files by part and person."""
    files: dict[str, dict[str, Path]] = {"train": {}, "test": {}}
    variants = set()
    for name in found:
        match = _OF_PEOPLE.fullmatch(name)
        if match:
            person, part, ending = match.groups()
            variants.add(ending)
            if ending == (variant if part == "train" else None):
                files[part][unquote(person)] = folder / name
    endings = sorted(ending for ending in variants if ending is not None)
    if not files["train"] and (variant is not None or endings):
        raise ValueError(
            f"Expected label_NAME_train{'' if variant is None else '_' + variant}.json in {folder}, found "
            f"{'endings ' + ', '.join(endings) if endings else 'no ending'}. Choose by variant (--variant)."
        )
    return files


def _chosen(
    folder: Path,
    files: Mapping[str, Mapping[str, Path]],
    people: Iterable[str] | None,
    noted: Sequence[str] | None,
) -> tuple[str, ...]:
    present = {name for part in files.values() for name in part}
    warn_of_spellings("people", sorted(present))
    if people is None:
        first = [name for name in noted or () if name in present]
        return (*first, *in_order(present - set(first)))
    chosen = distinct_names("people", people)
    unknown = [name for name in chosen if name not in present]
    if unknown:
        raise ValueError(
            f"Expected a file in {folder} for everybody in people, found {', '.join(in_order(present)) or 'nobody'}, "
            f"and not {', '.join(unknown)}. Correct the names."
        )
    return chosen


def _noted(path: Path) -> dict[str, list[str]]:
    content = parse_json(path)
    good = isinstance(content, dict) and all(
        isinstance(content.get(key, []), list) and all(isinstance(name, str) for name in content.get(key, []))
        for key in ("classes", "annotators")
    )
    if not good:
        raise ValueError(
            f'Expected {{"classes": [names], "annotators": [names]}} in {path}, found something else. Correct it.'
        )
    return content


def _annotated(
    parts: Sequence[_Files], who: tuple[str, ...], options: _Options, subset: Sequence[bool]
) -> list[Annotated]:
    """Combine parts, which share categories and people."""
    lists = [listed for truth, people in parts for listed in (truth, *people.values()) if listed is not None]
    if not lists:
        raise ValueError("Expected a file of the truth or of a person, found none. Name some.")
    classes = None if options.classes is None else distinct_names("classes", options.classes)
    for each in lists:
        if classes is not None and each.width not in (0, len(classes)):
            raise ValueError(
                f"Expected lists of {len(classes)} numbers in {each.path}, for {', '.join(classes)}, found "
                f"{each.width}. Correct classes."
            )
    with naming(str(lists[0].path.parent)):
        absent = (*options.missing, "-1")  # an index of a category is never negative
        columns, least = [listed.labels for listed in lists], max(2, *(listed.width for listed in lists))
        if classes is None or any(listed.has_names for listed in lists):
            numbers, names = number_labels(columns, classes, absent, least=least)
        else:  # positions among the classes, even if the classes have other numbers as names
            numbers, _ = number_labels(columns, map(str, range(len(classes))), absent)
            names = classes
    labels = {listed.path: number for listed, number in zip(lists, numbers, strict=True)}
    return [
        _part(truth, people, who, labels, names, options, is_part)
        for (truth, people), is_part in zip(parts, subset, strict=False)
    ]


def _part(
    truth: Listed | None,
    people: Mapping[str, Listed],
    who: tuple[str, ...],
    labels: Mapping[Path, NDArray],
    classes: tuple[str, ...],
    options: _Options,
    subset: bool,
) -> Annotated:
    places = {} if truth is None else {name: i for i, name in enumerate(dict.fromkeys(truth.items))}
    known = dict(places)
    columns: list[tuple[NDArray, NDArray, int, int]] = []  # items, labels, person and role of each file
    if truth is not None:
        columns.append((np.array([places[name] for name in truth.items], np.int32), labels[truth.path], -1, TRUTH))
    for m, name in enumerate(who):
        if name not in people:
            continue
        each = people[name]
        if truth is not None:
            check_overlap(each.path, each.items, truth.path, known)
        rows = np.array([places.setdefault(item, len(places)) for item in each.items], np.int32)
        columns.append((rows, labels[each.path], m, LABEL))
    items = list(places)
    with naming(str(next(iter(labels)).parent)):
        content = collect(
            _records(items, who, classes, columns), Choice(classes=classes, people=who, duplicates=options.duplicates)
        )
    x = np.zeros((len(items), 0)) if options.features is None else join_features(Path(options.features), items)
    return Annotated(
        x,
        annotations=content["annotations"],
        items=text_array(items),
        classes=classes,
        annotators=who,
        subset=subset,
        y=content["y"],
        **_facts(truth, places),
    )


def _records(
    items: list[str], who: Sequence[str], classes: Sequence[str], columns: Sequence[tuple[NDArray, NDArray, int, int]]
) -> Records:
    """Return what all files say as records; labels are numbers of categories."""
    sizes = [len(rows) for rows, *_ in columns]
    return Records(
        Coded(np.concatenate([np.zeros(0, np.int32), *(rows for rows, *_ in columns)]), items),
        Coded(np.repeat([m for _, _, m, _ in columns], sizes).astype(np.int32), list(who)),
        Coded(np.concatenate([np.zeros(0, np.int32), *(said for _, said, _, _ in columns)]), list(classes)),
        np.repeat([role for *_, role in columns], sizes).astype(np.int8),
    )


def _facts(truth: Listed | None, places: Mapping[str, int]) -> dict[str, Any]:
    """Return group and superclass of every item, if the records of the truth have them."""
    if truth is None:
        return {}
    rows, items = np.array([places[name] for name in truth.items], int), list(places)
    facts: dict[str, Any] = {}
    with naming(str(truth.path)):
        for role in ("group", "coarse"):
            values = getattr(truth, role)
            if values is not None:
                distinct = {value: i for i, value in enumerate(dict.fromkeys(values))}
                codes = np.array([distinct[value] for value in values], np.int32)
                told = {"items": items, "values": list(distinct)}
                facts[role] = np.array(list(distinct))[every_item(role, rows, codes, len(items), told)]
    return facts
