"""Write annotations to JSON files."""

import json
import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from pl2d_ppl.checks.warn import warn
from pl2d_ppl.data.annotated import Annotated
from pl2d_ppl.data.files.json_files import NAMES
from pl2d_ppl.data.tables.writing import NO_FEATURES, check_names, check_parts, item_names, write_features
from pl2d_ppl.io import check_writable, written_whole

__all__ = ["write_json_files"]


def write_json_files(
    folder: str | os.PathLike,
    data: Annotated,
    test: Annotated | None = None,
    *,
    features: str | os.PathLike | None = None,
) -> None:
    """Write annotations to a folder of JSON files, whole or not at all.

    :func:`~pl2d_ppl.data.files.json_files.read_json_folder` returns them.

    The files are ``train.json`` with the truth, null where unknown, ``label_NAME_train.json`` with the annotations of
    each person, the same for ``test``, and ``names.json``. Items without names are called "0", "1", ....

    Parameters
    ----------
    folder : path-like
        Folder to write; an older one is replaced if it is empty or holds a ``names.json``.
    data : Annotated
        Data set, or its training part.
    test : Annotated, optional
        Test part, with the same classes and annotators.
    features : path-like, optional
        An ``.npz`` for features and names of items, for the reader to join.

    Raises
    ------
    ValueError
        If the folder cannot be written to, parts differ in classes or annotators, or there are anonymous votes.

    Warns
    -----
    UserWarning
        If features are left out.
    """
    folder = Path(folder)
    check_writable(folder, marker=NAMES)
    parts = check_parts(data, test)
    check_names(data)
    if data.counts is not None:
        raise ValueError(
            "Expected no anonymous votes to write to JSON files, found some. Write an .npz, an .nc, or a wide table."
        )
    names = item_names(parts)
    if features is not None:
        write_features(features, data, test)
    elif data.is_lazy or np.shape(data.x)[1:] != (0,):
        warn(NO_FEATURES.format(folder))
    with written_whole(folder, marker=NAMES) as scratch:
        scratch.mkdir()
        _write(scratch / NAMES, {"classes": list(data.classes), "annotators": list(data.annotators)})
        for name, part, items in zip(("train", "test"), parts, names, strict=False):
            _write(scratch / f"{name}.json", _truths(part, items.tolist()))
            for m, person in enumerate(data.annotators):
                given = np.flatnonzero(part.annotations[:, m] >= 0)
                records = zip(items[given].tolist(), part.annotations[given, m].tolist(), strict=True)
                _write(
                    scratch / f"label_{quote(person, safe=' ')}_{name}.json",
                    [{"file": item, "label": label} for item, label in records],
                )


def _truths(part: Annotated, items: list[str]) -> list[dict[str, Any]]:
    columns: dict[str, list] = {"file": items, "label": [None if label < 0 else label for label in part.y.tolist()]}
    for role in ("group", "coarse"):
        if getattr(part, role) is not None:
            columns[role] = getattr(part, role).tolist()
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _write(path: Path, content: Any) -> None:
    try:
        path.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")
    except OSError as error:
        raise ValueError(f"Expected a file that can be written, found {path.name}: {error.strerror}.") from error
