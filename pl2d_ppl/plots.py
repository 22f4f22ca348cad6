"""Pictures: coverage-accuracy curves, perplexity against the number of clusters, tables of shares."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pl2d_ppl.experiments.reports import known_mean

__all__ = ["plot_curve", "plot_heatmap", "plot_missing", "plot_onboarding", "plot_perplexity"]

# Ten methods can be told apart; grey is for those who decide alone.
COLORS = ("C0", "C1", "C2", "C3", "C4", "C5", "C6", "black", "C8", "C9")
MOST_NAMES = 30  # beside a picture that can be read
MARKERS, LINES = "os^DvpPX<>", ("-", "--", "-.")


def plot_curve(reports: Mapping[str, Mapping[str, Any]], *, offsets: bool = True, ax: Any = None) -> Any:
    """Plot accuracy against realised coverage, one line a method, mean over seeds, every seed as a faint line.

    Parameters
    ----------
    reports : mapping of str to mapping
        By name of the method: ``coverage``, ``accuracy`` (and ``_offset``), of shape (seeds, targets),
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
    ax = _axes(ax, 6.4, 4.4)
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
    """Draw the mean curve of a method, over seeds with a value, in the style of its place; every seed faintly."""
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
    """Plot accuracy against realised coverage, with offsets, of all methods: one panel a number of context items.

    Parameters
    ----------
    report : mapping
        As ``pl2d onboard`` writes it: ``results`` by number of context items and method, ``alone``.

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


def plot_perplexity(rows: Sequence[Mapping[str, Any]], *, chosen: int | None = None, ax: Any = None) -> Any:
    """Plot held-out perplexity against the number of clusters: mean over seeds as a line, every seed as a dot.

    Parameters
    ----------
    rows : sequence of mapping
        One for every fit: ``num_clusters``, ``perplexity_elbo`` and ``perplexity_evidence`` (NaN where it is not
        known), as ``pl2d clusters`` writes them.
    chosen : int, optional
        The number of clusters to mark.
    ax : matplotlib.axes.Axes, optional
        Where to draw.

    Returns
    -------
    matplotlib.axes.Axes
        The plot.
    """
    ax = _axes(ax, 5.2, 3.6)
    num_clusters = np.array([row["num_clusters"] for row in rows])
    candidates = np.unique(num_clusters)
    for index, (kind, label) in enumerate({"elbo": "bound", "evidence": "exact evidence"}.items()):
        values = np.array([np.nan if row[f"perplexity_{kind}"] is None else row[f"perplexity_{kind}"] for row in rows])
        values = values.astype(float)
        known = np.array([k for k in candidates if np.isfinite(values[num_clusters == k]).all()], int)
        exact = [row["perplexity_evidence"] for row in rows]
        if not known.size or (kind == "elbo" and values.tolist() == exact):  # the bound is tight: one line will do
            continue
        ax.plot(num_clusters, values, ".", color=f"C{index}", alpha=0.4)
        ax.plot(known, [values[num_clusters == k].mean() for k in known], "o-", color=f"C{index}", label=label)
    if chosen is not None:
        ax.axvline(chosen, color="0.4", linestyle=":", label=f"chosen: K = {chosen}")
    ax.set(xlabel="number of clusters, K", ylabel="perplexity of held-out votes")
    ax.set_xticks(candidates)
    ax.ticklabel_format(axis="y", useOffset=False)
    ax.legend(fontsize="small")
    return ax


def plot_heatmap(
    values: Any, rows: Sequence[str], columns: Sequence[str], *, label: str, spread: Any = None, ax: Any = None
) -> Any:
    """Draw a table of shares in [0, 1] as a heatmap, such as the membership of people in clusters.

    Parameters
    ----------
    values : array of float, shape (K, M)
        The shares.
    rows, columns : sequence of str
        Names, such as of clusters and of people.
    label : str
        What the shares are.
    spread : array of float, shape (K, M, 2), optional
        Interval of every share, written below it.
    ax : matplotlib.axes.Axes, optional
        Where to draw.

    Returns
    -------
    matplotlib.axes.Axes
        The plot.
    """
    values = np.asarray(values, float)
    ax = _axes(ax, min(20.0, 2.4 + 0.72 * len(columns)), 1.7 + 0.55 * len(rows))
    image = ax.imshow(values, vmin=0.0, vmax=1.0, cmap="viridis", aspect="auto")
    length = max(len(line) for name in columns for line in name.split("\n"))
    long = length > 9 or (length > 6 and len(columns) > 20)
    turned = {"rotation": 45, "ha": "right"} if long else {"fontsize": "small" if length > 6 else "medium"}
    ax.set_xticks(range(len(columns)), columns, **turned)
    ax.set_yticks(range(len(rows)), rows)
    if values.size <= 200:
        for (k, m), value in np.ndenumerate(values):
            text = f"{value:.2f}" if spread is None else f"{value:.2f}\n{spread[k, m, 0]:.2f}–{spread[k, m, 1]:.2f}"
            color = "white" if value < 0.6 else "black"
            ax.text(m, k, text, ha="center", va="center", color=color, fontsize="x-small")
    ax.set_title(label, fontsize="medium")
    ax.figure.colorbar(image, ax=ax)
    return ax


def plot_missing(annotations: Any, people: Sequence[str], *, ax: Any = None) -> Any:
    """Draw who annotated what: a row a person, a column an item, items sorted by who annotated them.

    Parameters
    ----------
    annotations : array of int, shape (N, M)
        What people said, -1 where missing.
    people : sequence of str, length M
        Their names, told beside the rows with the shares of items that they annotated.
    ax : matplotlib.axes.Axes, optional
        Where to draw.

    Returns
    -------
    matplotlib.axes.Axes
        The plot.
    """
    given = np.asarray(annotations) >= 0
    shares = given.mean(0)
    order = np.argsort(-shares, kind="stable")
    given = given[:, order]
    items = np.lexsort([*(-given[:, ::-1].T.astype(int)), -given.sum(1)])
    ax = _axes(ax, 6.4, min(12.0, 1.2 + 0.25 * len(people)))
    ax.imshow(given[items].T, aspect="auto", interpolation="nearest", cmap="Blues", vmin=0, vmax=1)
    if len(people) <= MOST_NAMES:
        ax.set_yticks(range(len(people)), [f"{people[m]} ({shares[m]:.0%})" for m in order])
    else:
        ax.set_ylabel(f"{len(people)} people, by how much they annotated")
    ax.set_xlabel(f"{len(given):,} items; dark where annotated, {given.mean():.1%} of all")
    return ax


def _axes(ax: Any, width: float, height: float) -> Any:
    """Return the axes given, or new ones of a size in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained").subplots() if ax is None else ax
