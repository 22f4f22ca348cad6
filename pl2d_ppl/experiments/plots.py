"""Pictures of reports: coverage-accuracy curves, and the onboarding experiment."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from pl2d_ppl.experiments.reports import known_mean
from pl2d_ppl.plots import new_axes

__all__ = ["plot_curve", "plot_onboarding"]

# Ten methods are distinguishable; grey marks the AI and the best person alone.
COLORS = ("C0", "C1", "C2", "C3", "C4", "C5", "C6", "black", "C8", "C9", "navy")
MARKERS, LINES = "os^DvpPX<>h", ("-", "--", "-.")


def plot_curve(reports: Mapping[str, Mapping[str, Any]], *, offsets: bool = True, ax: Any = None) -> Any:
    """Plot accuracy against realised coverage: one line per method for the mean over seeds, one faint line per seed.

    Parameters
    ----------
    reports : mapping of str to mapping
        Reports by name of the method: ``coverage``, ``accuracy`` (and ``_offset``), of shape (seeds, targets),
        ``ai_accuracy`` (seeds,) and ``expert_accuracy`` (seeds, M), as ``pl2d curve`` writes them.
    offsets : bool
        Whether to plot decisions with offsets, whose coverage meets its target, or plain argmax decisions.
    ax : matplotlib.axes.Axes, optional
        Where to draw.

    Returns
    -------
    matplotlib.axes.Axes
        The plot.
    """
    ax = new_axes(ax, 6.4, 4.4)
    suffix = "_offset" if offsets else ""
    for index, (name, report) in enumerate(reports.items()):
        _draw_method(ax, index, report, suffix, f"{name} (area {known_mean(report['area' + suffix]):.1f})")
    first = next(iter(reports.values()))
    best = np.nanmax(known_mean(first["expert_accuracy"]))
    _draw_alone(ax, float(known_mean(first["ai_accuracy"])), best, "best expert alone")
    ax.set(xlabel="coverage: share of items that the AI decides", ylabel="accuracy of the final decision")
    ax.legend(fontsize="small")
    return ax


def _draw_method(ax: Any, index: int, report: Mapping[str, Any], suffix: str, label: str) -> None:
    """Draw a method's mean curve over seeds with a value, in the style of its index; draw every seed faintly."""
    coverage, accuracy = (np.asarray(report[key + suffix], float) for key in ("coverage", "accuracy"))
    color = COLORS[index % len(COLORS)]
    for c, a in zip(coverage, accuracy, strict=True):
        order = np.argsort(c)
        ax.plot(c[order], a[order], color=color, alpha=0.2, linewidth=0.8)
    means = known_mean(coverage), known_mean(accuracy)
    order = np.argsort(means[0])
    style = LINES[index % len(LINES)] + MARKERS[index % len(MARKERS)]
    points = [mean[order] for mean in means]
    ax.plot(*points, style, color=color, markersize=5.5, markeredgecolor="white", markeredgewidth=0.5, label=label)


def _draw_alone(ax: Any, ai: float, best: float, best_label: str) -> None:
    """Draw the accuracy of the AI alone, and of the best person alone."""
    ax.axhline(ai, color="0.4", linestyle=":", linewidth=1.2, label="AI alone")
    ax.axhline(best, color="0.4", linestyle="--", linewidth=1.2, label=best_label)
    ax.set_xlim(-0.02, 1.02)


def plot_onboarding(report: Mapping[str, Any]) -> Any:
    """Plot accuracy with offsets against realised coverage for all methods: one panel per number of context items.

    Parameters
    ----------
    report : mapping
        Report as ``pl2d onboard`` writes it: ``results`` by number of context items and method, ``alone``.

    Returns
    -------
    matplotlib.figure.Figure
        The plot, with areas in the legend.
    """
    from matplotlib.figure import Figure

    results = report["results"]
    figure = Figure(figsize=(2.6 + 4.6 * len(results), 4.8), layout="constrained")
    panels = figure.subplots(1, len(results), sharey=True, squeeze=False)[0]
    for ax, (number, rows) in zip(panels, results.items(), strict=True):
        for index, (name, row) in enumerate(rows.items()):
            areas = (known_mean(r[name]["area_offset"]) for r in results.values())
            _draw_method(ax, index, row, "_offset", f"{name} ({', '.join(f'{area:.1f}' for area in areas)})")
        ai, best = (float(known_mean(report["alone"][key])) for key in ("ai", "best_person"))
        _draw_alone(ax, ai, best, "best person alone")
        ax.set_title(f"{number} context items", fontsize="medium")
        ax.grid(alpha=0.25)
    panels[0].set_ylabel("accuracy of the final decision")
    figure.supxlabel("coverage: share of items that the AI decides", fontsize="medium")
    handles, labels = panels[0].get_legend_handles_labels()
    title = f"method (area at {', '.join(results)} items)"
    small = {"fontsize": "small", "title_fontsize": "small", "handlelength": 3.2}
    figure.legend(handles, labels, loc="outside right center", title=title, **small)
    return figure
