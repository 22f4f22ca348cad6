"""What ``pl2d data`` does: files of annotations described, and converted from one format to another."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pl2d_ppl.cli.commands import save_figure
from pl2d_ppl.data import Annotated, read_data, write_data
from pl2d_ppl.io import check_writable

__all__ = ["ReadingOptions", "run_convert", "run_describe"]

MOST_NAMES = 20
FIGURES = (".png", ".pdf", ".svg")


@dataclasses.dataclass(frozen=True)
class ReadingOptions:
    """Options of reading; see the help of ``pl2d data``. What is None or empty was not asked for."""

    layout: str | None = None
    columns: Sequence[str] = ()
    classes: Sequence[str] = ()
    people: Sequence[str] = ()
    truth: Path | None = None
    features: Path | None = None
    duplicates: str | None = None
    missing: Sequence[str] = ()
    encoding: str | None = None
    variant: str | None = None

    def read(self, path: Path) -> tuple[Annotated, Annotated | None]:
        """Read a file or folder; no truth need be known."""
        asked = {name: value for name, value in vars(self).items() if value}
        if self.columns:
            asked["columns"] = _columns(self.columns)
        return read_data(path, subset=True, **asked)


def _columns(pairs: Sequence[str]) -> dict[str, str | None]:
    """Columns by role, out of ROLE=NAME; without a name there is none."""
    wrong = [pair for pair in pairs if "=" not in pair]
    if wrong:
        raise ValueError(f"Expected --column ROLE=NAME, such as --column label=diagnosis, found {wrong[0]!r}.")
    return {role.strip(): name or None for role, _, name in (pair.partition("=") for pair in pairs)}


def run_describe(path: Path, options: ReadingOptions, *, plot: Path | None, as_json: bool) -> str:
    """Run ``pl2d data describe``."""
    if plot is not None:
        if plot.suffix.lower() not in FIGURES:
            raise ValueError(f"Expected a picture, {', '.join(FIGURES)}, found {plot}. Rename it.")
        check_writable(plot)
    train, test = options.read(path)
    parts = {"train": train} if test is None else {"train": train, "test": test}
    if plot is not None:
        if train.num_experts == 0:
            raise ValueError(
                f"Expected annotations to plot in {path}, found none of identified people. Leave --plot out."
            )
        save_figure(train.plot_missing().figure, plot)
    if as_json:
        return json.dumps({name: _described(part) for name, part in parts.items()}, indent=1, ensure_ascii=False)
    lines = [f"{name + ' part: ' if test else ''}{part.summary()}" for name, part in parts.items()]
    written = [] if plot is None else [f"Written: {plot}"]
    return "\n".join([_about(train), *lines, *written])


def _about(data: Annotated) -> str:
    """Categories, features and groups."""
    names = ", ".join(data.classes[:MOST_NAMES]) + (", ..." if len(data.classes) > MOST_NAMES else "")
    shape = None if data.is_lazy else np.shape(data.x)[1:]
    features = "read when asked for" if shape is None else "none" if shape == (0,) else " x ".join(map(str, shape))
    groups = "" if data.group is None else f"; groups: {len(np.unique(data.group)):,}"
    return f"categories: {names}; features: {features}{groups}"


def _described(data: Annotated) -> dict[str, Any]:
    """Summary as JSON has it: a list of patterns, and null for what cannot be told."""
    summary = dataclasses.asdict(data.summary())
    patterns = [{"people": list(who), "items": number} for who, number in summary.pop("patterns").items()]
    return {"classes": list(data.classes), **_told(summary), "patterns": patterns}


def _told(values: Mapping[Any, Any]) -> dict[str, Any]:
    return {
        str(key): _told(value)
        if isinstance(value, Mapping)
        else None
        if isinstance(value, float) and math.isnan(value)
        else value
        for key, value in values.items()
    }


def run_convert(
    path: Path, out: Path, options: ReadingOptions, *, to_layout: str | None, features_out: Path | None
) -> str:
    """Run ``pl2d data convert``."""
    asked = {"layout": to_layout, "features": features_out}
    asked = {name: value for name, value in asked.items() if value is not None}
    if out.resolve() == path.resolve():
        raise ValueError(f"Expected another file to write than the one that is read, found {out} twice.")
    train, test = options.read(path)
    if out.suffix.lower() in (".npz", ".nc"):  # which hold features, so that these must be read
        train, test = train.read(), None if test is None else test.read()
    write_data(out, train, test, **asked)
    parts = [str(part.summary()).splitlines()[0] for part in (train, test) if part is not None]
    return "\n".join([_about(train), *parts, f"Written: {out}" + (f", {features_out}" if features_out else "")])
