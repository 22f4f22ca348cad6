"""Pictures: the coverage-accuracy curve, perplexity against the number of clusters, tables of shares."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

__all__ = ["plot_curve", "plot_heatmap", "plot_perplexity"]


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
        coverage, accuracy = (np.asarray(report[key + suffix], float) for key in ("coverage", "accuracy"))
        area = np.nanmean(np.asarray(report["area" + suffix], float))
        color = f"C{index}"
        for c, a in zip(coverage, accuracy, strict=True):
            order = np.argsort(c)
            ax.plot(c[order], a[order], color=color, alpha=0.25, linewidth=0.8)
        order = np.argsort(coverage.mean(0))
        label = f"{name} (area {area:.1f})"
        ax.plot(coverage.mean(0)[order], accuracy.mean(0)[order], "o-", color=color, label=label)
    _reference_lines(ax, list(reports.values()))
    ax.set(xlabel="coverage: share of items that the AI decides", ylabel="accuracy of the final decision")
    ax.set_xlim(-0.02, 1.02)
    ax.legend(fontsize="small")
    return ax


def _reference_lines(ax: Any, reports: Sequence[Mapping[str, Any]]) -> None:
    """Accuracy of the AI alone, and of the best expert alone."""
    experts = np.array([[np.nan if a is None else a for a in row] for row in reports[0]["expert_accuracy"]], float)
    best = np.nanmax(np.nanmean(experts, 0))
    ax.axhline(np.mean(reports[0]["ai_accuracy"]), color="0.4", linestyle=":", label="AI alone")
    ax.axhline(best, color="0.4", linestyle="--", label="best expert alone")


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
    long = max(map(len, columns)) > 6
    ax.set_xticks(range(len(columns)), columns, rotation=45 if long else 0, ha="right" if long else "center")
    ax.set_yticks(range(len(rows)), rows)
    if values.size <= 200:
        for (k, m), value in np.ndenumerate(values):
            text = f"{value:.2f}" if spread is None else f"{value:.2f}\n{spread[k, m, 0]:.2f}–{spread[k, m, 1]:.2f}"
            color = "white" if value < 0.6 else "black"
            ax.text(m, k, text, ha="center", va="center", color=color, fontsize="x-small")
    ax.set_title(label, fontsize="medium")
    ax.figure.colorbar(image, ax=ax)
    return ax


def _axes(ax: Any, width: float, height: float) -> Any:
    """Return the axes given, or new ones of a size in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained").subplots() if ax is None else ax
