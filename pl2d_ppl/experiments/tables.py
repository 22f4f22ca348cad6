"""Reports as text."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pl2d_ppl.checks.warn import warn
from pl2d_ppl.experiments.reports import known_mean, mean_and_spread

__all__ = ["also_kept", "curve_table", "onboard_table"]

AREAS = {"area": "area_offset", "plain area": "area"}


def also_kept(report: Mapping[str, Any], seeds: Sequence[int]) -> str:
    """Say which seeds a report holds, if there are more than those requested."""
    if set(report["seeds"]) <= set(seeds):
        return ""
    held = ", ".join(map(str, sorted(report["seeds"])))
    return f"\nThe table is of the seeds asked for; the files hold seeds {held}."


def curve_table(reports: Mapping[str, Mapping[str, Any]]) -> str:
    """Table of realised coverage and accuracy, with offsets, and areas: means over the seeds that have a value.

    Parameters
    ----------
    reports : mapping of str to mapping
        Reports by name of the method, from :func:`~pl2d_ppl.experiments.seeds.run_seeds`.

    Returns
    -------
    str
        The table, then the missing values, and the accuracies of the AI and of each expert alone.

    Warns
    -----
    UserWarning
        If some decisions of a method cannot be judged; one warning per method.
    """
    width = max(len(name) for name in reports) + 2
    first = next(iter(reports.values()))
    seeds = len(first["seeds"])
    head = "".join(f"{c:>8.2f}" for c in first["coverages"])
    lines = [f"{'':<{width + 10}}{head}    area (plain argmax), mean ± spread over {seeds} seed{'s' * (seeds > 1)}"]
    for name, report in reports.items():
        rows = {"coverage": (known_mean(report["coverage_offset"]), "")}
        rows["accuracy"] = known_mean(report["accuracy_offset"]), _areas(report)
        judged = np.minimum(report["judged"], report["judged_offset"]).min(0)
        if judged.min() < 1:
            _warn_unjudged(name, judged.min())
            rows["judged"] = judged, f"   least: {judged.min():.3f}"
        for key, (values, end) in rows.items():
            lines.append(f"{name:<{width}}{key:<10}" + "".join(f"{v:8.3f}" for v in values) + end)
    missing = [line for name, report in reports.items() for line in _missing(name, report)]
    ai = np.mean([known_mean(report["ai_accuracy"]) for report in reports.values()])
    experts = known_mean(first["expert_accuracy"])
    shown = ", ".join("no annotation" if np.isnan(a) else f"{a:.3f}" for a in experts)
    return "\n".join([*lines, *missing, f"alone: AI {ai:.3f}; experts {shown}"])


def _areas(report: Mapping[str, Any]) -> str:
    bounded, plain = (mean_and_spread(report[name]) for name in ("area_offset", "area"))
    return f"{bounded:>15} ({plain})"


def _warn_unjudged(name: str, least: float) -> None:
    message = (
        f"{name}: as few as {least:.3f} of the decisions can be judged, those on items that the decider annotated and "
        "whose truth is known. Accuracies and areas are over these."
    )
    warn(message)


def _missing(name: str, report: Mapping[str, Any]) -> list[str]:
    """Say which seeds lack which values: means and areas are over the others."""
    columns = zip(report["coverages"], np.asarray(report["accuracy_offset"], float).T, strict=True)
    values = {f"accuracy at {target:.2f}": column for target, column in columns}
    values |= {label: np.asarray(report[key], float) for label, key in AREAS.items()}
    gaps = []
    for label, column in values.items():
        without = [str(seed) for seed, value in zip(report["seeds"], column, strict=True) if np.isnan(value)]
        if without:
            gaps.append(f"{label} of seed{'s' * (len(without) > 1)} {', '.join(without)}")
    return [f"{name}: missing, as nothing could be judged: {'; '.join(gaps)}"] if gaps else []


def onboard_table(report: Mapping[str, Any]) -> str:
    """Table of areas, methods by numbers of context items: mean and spread over seeds.

    Parameters
    ----------
    report : mapping
        Report as ``pl2d onboard`` writes it.

    Returns
    -------
    str
        The table, with the AI and the best person alone.
    """
    names = [*report["settings"]["options"]["methods"], "AI alone", "best person"]
    width = max(map(len, names)) + 2
    results = report["results"].values()
    head = "".join(f"{number + ' context items':>32}" for number in report["results"])
    lines = [f"{'':<{width}}{head}"]
    for name in names[:-2]:
        areas = ((mean_and_spread(rows[name][key]) for key in ("area_offset", "area")) for rows in results)
        cells = ("{} ({})".format(*both) for both in areas)
        lines.append(f"{name:<{width}}" + "".join(f"{cell:>32}" for cell in cells))
    for name, key in zip(names[-2:], ("ai", "best_person"), strict=True):
        cell = mean_and_spread(100 * np.array(report["alone"][key]))
        lines.append(f"{name:<{width}}" + "".join(f"{cell:>32}" for _ in results))
    seeds = len(report["seeds"])
    title = f"Area x 100 with offsets (plain argmax), mean ± spread over {seeds} seed{'s' * (seeds > 1)}"
    return "\n".join([title, *lines, _people(report)])


def _people(report: Mapping[str, Any]) -> str:
    """List the people present and those who left, with error rates over all items and seeds."""
    people, rates = report["people"], np.mean(report["error_rates"], 0)
    present = [name in people["present"] for name in people["names"]]
    told = [", ".join(f"{r:.3f}" for r in rates[np.array(present) == there]) for there in (True, False)]
    return f"Error rates of those present: {told[0]}" + (f"; of those who left: {told[1]}" if told[1] else "")
