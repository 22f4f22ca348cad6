"""Pictures: perplexity against the number of clusters, tables of shares, who annotated what."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pl2d_ppl.io import written_whole

__all__ = [
    "MOST_CELLS",
    "MOST_NAMES",
    "new_axes",
    "plot_agreement",
    "plot_heatmap",
    "plot_missing",
    "plot_perplexity",
    "save_figure",
]

MOST_NAMES = 30  # beside a legible picture
MOST_CELLS = 200  # with their values


def plot_perplexity(rows: Sequence[Mapping[str, Any]], *, chosen: int | None = None, ax: Any = None) -> Any:
    """Plot held-out perplexity against the number of clusters: mean over seeds as a line, every seed as a dot.

    Parameters
    ----------
    rows : sequence of mapping
        One for every fit: ``num_clusters``, ``perplexity_elbo`` and ``perplexity_evidence`` (NaN where unknown), as
        ``pl2d clusters`` writes them.
    chosen : int, optional
        The number of clusters to mark.
    ax : matplotlib.axes.Axes, optional
        Where to draw.

    Returns
    -------
    matplotlib.axes.Axes
        The plot.
    """
    ax = new_axes(ax, 5.2, 3.6)
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
        Meaning of the shares.
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
    ax = new_axes(ax, min(20.0, 2.4 + 0.72 * len(columns)), 1.7 + 0.55 * len(rows))
    image = ax.imshow(values, vmin=0.0, vmax=1.0, cmap="viridis", aspect="auto")
    length = max(len(line) for name in columns for line in name.split("\n"))
    long = length > 9 or (length > 6 and len(columns) > 20)
    turned = {"rotation": 45, "ha": "right"} if long else {"fontsize": "small" if length > 6 else "medium"}
    ax.set_xticks(range(len(columns)), columns, **turned)
    ax.set_yticks(range(len(rows)), rows)
    if values.size <= MOST_CELLS:
        for (k, m), value in np.ndenumerate(values):
            text = f"{value:.2f}" if spread is None else f"{value:.2f}\n{spread[k, m, 0]:.2f}–{spread[k, m, 1]:.2f}"
            color = "white" if value < 0.6 else "black"
            ax.text(m, k, text, ha="center", va="center", color=color, fontsize="x-small")
    ax.set_title(label, fontsize="medium")
    ax.figure.colorbar(image, ax=ax)
    return ax


def plot_missing(annotations: Any, people: Sequence[str], *, ax: Any = None) -> Any:
    """Draw who annotated what: one row per person, one column per item, items sorted by who annotated them.

    Parameters
    ----------
    annotations : array of int, shape (N, M)
        Annotations of people, -1 where missing.
    people : sequence of str, length M
        Their names, shown beside the rows with the shares of items that they annotated.
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
    ax = new_axes(ax, 6.4, min(12.0, 1.2 + 0.25 * len(people)))
    ax.imshow(given[items].T, aspect="auto", interpolation="nearest", cmap="Blues", vmin=0, vmax=1)
    if len(people) <= MOST_NAMES:
        ax.set_yticks(range(len(people)), [f"{people[m]} ({shares[m]:.0%})" for m in order])
    else:
        ax.set_ylabel(f"{len(people)} people, by how much they annotated")
    ax.set_xlabel(f"{len(given):,} items; dark where annotated, {given.mean():.1%} of all")
    return ax


def plot_compared(
    compared: Any, rows: Sequence[str], columns: Sequence[str] = (), *, label: str, ax: Any = None
) -> Any:
    """Draw a statistic of the data as dots, beside the intervals of a model's replicates.

    Parameters
    ----------
    compared : Compared
        A comparison, of :func:`~pl2d_ppl.inference.criticism.compare`, of shape (R,) or (R, C). Where it is a matrix of
        pairs, such as agreement, each pair is drawn once.
    rows, columns : sequence of str
        Names of rows, and of columns, where it is a matrix.
    label : str
        Meaning of the statistic.
    ax : matplotlib.axes.Axes, optional
        Where to draw.

    Returns
    -------
    matplotlib.axes.Axes
        The plot: dots of data outside of their intervals are red.
    """
    shape = np.shape(compared.observed)
    pairs = len(shape) == 2 and list(rows) == list(columns)
    places = [i for i in np.ndindex(shape) if not pairs or i[0] < i[1]]
    places = [i for i in places if np.isfinite(compared.observed[i])]
    names = [" · ".join(names[k] for names, k in zip((rows, columns), i, strict=False)) for i in places]
    observed, lower, median, upper = (np.array([a[i] for i in places]) for a in compared[:4])
    outside = (observed < lower) | (observed > upper)
    at = np.arange(len(places))[::-1]
    ax = new_axes(ax, 5.2, min(12.0, 1.2 + 0.26 * len(places)))
    ax.hlines(at, lower, upper, color="C0", alpha=0.5, linewidth=5, label="replicates")
    ax.plot(median, at, "|", color="C0", markersize=9)
    for flag, color, said in ((False, "black", "data"), (True, "C3", "data, outside")):
        if (outside == flag).any():
            ax.plot(observed[outside == flag], at[outside == flag], "o", color=color, markersize=5, label=said)
    if len(places) <= MOST_NAMES:
        ax.set_yticks(at, names)
    else:
        ax.set_ylabel(f"{len(places)} of them")
        ax.set_yticks([])
    ax.set_xlabel(label)
    ax.legend(fontsize="small", loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False)
    return ax


def plot_reliability(curves: Mapping[str, Any], *, ax: Any = None) -> Any:
    """Draw reliability curves: how often predictions come true, against their probability, with intervals.

    Parameters
    ----------
    curves : mapping of str to Reliability
        Curves by name, of :func:`~pl2d_ppl.inference.criticism.reliability`.
    ax : matplotlib.axes.Axes, optional
        Where to draw.

    Returns
    -------
    matplotlib.axes.Axes
        The plot: predictions on the diagonal are calibrated, those below it too sure.
    """
    ax = new_axes(ax, 4.4, 4.2)
    ax.plot([0, 1], [0, 1], color="0.6", linestyle=":", linewidth=1)
    for index, (name, curve) in enumerate(curves.items()):
        spread = np.stack([curve.happened - curve.lower, curve.upper - curve.happened])
        style = {"color": f"C{index}", "capsize": 2, "marker": "o", "markersize": 4}
        number = f"{int(np.sum(curve.number)):,}"
        ax.errorbar(curve.predicted, curve.happened, np.maximum(spread, 0), label=f"{name} ({number})", **style)
    ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel="predicted probability", ylabel="how often it happened")
    ax.legend(fontsize="small")
    return ax


def plot_agreement(pairs: Any, people: Sequence[str], *, ax: Any = None) -> Any:
    """Draw Cohen's kappa of every pair of people; of many people, those with the most items in common.

    Parameters
    ----------
    pairs : Pairs
        From :func:`~pl2d_ppl.data.agreement.cohen_kappas`.
    people : sequence of str, length M
        Names.
    ax : matplotlib.axes.Axes, optional
        Where to draw.

    Returns
    -------
    matplotlib.axes.Axes
        The plot; pairs without items in common are blank.
    """
    shared = np.zeros(len(people), int)
    for side in (pairs.first, pairs.second):
        np.add.at(shared, side, pairs.items)
    shown = np.sort(np.argsort(-shared, kind="stable")[:MOST_NAMES])
    place = np.full(len(people), -1)
    place[shown] = np.arange(len(shown))
    table = np.full((len(shown), len(shown)), np.nan)
    first, second = place[pairs.first], place[pairs.second]
    kept = (first >= 0) & (second >= 0)
    table[first[kept], second[kept]] = table[second[kept], first[kept]] = pairs.kappa[kept]
    side = min(12.0, 2.4 + 0.4 * len(shown))
    ax = new_axes(ax, side + 0.8, side)
    image = ax.imshow(table, vmin=-1.0, vmax=1.0, cmap="RdBu")
    names = [people[m] for m in shown]
    ax.set_xticks(range(len(shown)), names, rotation=45, ha="right")
    ax.set_yticks(range(len(shown)), names)
    if table.size <= MOST_CELLS:
        for (a, b), kappa in np.ndenumerate(table):
            if np.isfinite(kappa):
                colour = "white" if abs(kappa) > 0.6 else "black"
                ax.text(b, a, f"{kappa:.2f}", ha="center", va="center", fontsize="x-small", color=colour)
    more = f", {len(shown)} of {len(people):,} people" if len(shown) < len(people) else ""
    ax.set_title(f"Cohen's kappa{more}", fontsize="medium")
    ax.figure.colorbar(image, ax=ax)
    return ax


def new_axes(ax: Any, width: float, height: float) -> Any:
    """Return the axes given, or new ones of a size in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained").subplots() if ax is None else ax


def save_figure(figure: Any, path: Path) -> None:
    """Write a figure whole or not at all."""
    with written_whole(path) as scratch:
        figure.savefig(scratch, format=path.suffix[1:], dpi=150)
