"""``pl2d clusters``: fit clusters, choose their number, and place identified people among them."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated as Option
from typing import Any

import jax
import numpy as np
import typer
from numpy.typing import NDArray

from pl2d_ppl.checks.warn import warn
from pl2d_ppl.cli.options import Seed, VoteModelName, integers, reports_errors
from pl2d_ppl.cli.reading import ReadingOptions, read_with_features, takes_reading_options
from pl2d_ppl.clusters.fit import CLUSTER_SCHEDULE, ClusterRun, VoteModel, fit_clusters, held_out
from pl2d_ppl.clusters.perplexity import (
    choose_num_clusters,
    marginal_perplexity,
    perplexity,
    relative_perplexity_change,
)
from pl2d_ppl.data import Annotated, vote_counts
from pl2d_ppl.data.splits import mean_and_scale
from pl2d_ppl.experiments.reports import versions, write_json
from pl2d_ppl.inference.arviz import to_datatree
from pl2d_ppl.io import check_writable, written_whole
from pl2d_ppl.people.membership import Membership
from pl2d_ppl.people.place_in_clusters import place_people
from pl2d_ppl.plots import MOST_NAMES, plot_heatmap, plot_perplexity, save_figure

__all__ = ["ClusterOptions", "clusters", "run_clusters"]

KEPT_ITEMS = 200  # held-out items whose posterior is written to disk


@reports_errors
@takes_reading_options
def clusters(
    votes: Option[
        Path,
        typer.Argument(
            help="Items with features and anonymous votes: a .npz with x, and votes (N, L) or counts (N, C); perhaps "
            "annotations, annotators. Or a table with x_0, x_1, ... and votes_NAME for each category; or .nc."
        ),
    ],
    reading: ReadingOptions,
    k: Option[str, typer.Option(help="Numbers of clusters, with commas.")] = "1,2,3,4,5",
    vote_model: Option[VoteModelName, typer.Option(help="Urn: nobody votes twice. LDA: paper B.")] = VoteModelName.urn,
    people: Option[int, typer.Option(help="People behind the votes, for the urn; 0: the most votes on an item.")] = 0,
    alpha: Option[float, typer.Option(help="Concentration of LDA.")] = 50.0,
    seeds: Option[int, typer.Option(help="Fits of every number of clusters.", min=1)] = 3,
    seed: Seed = 0,
    steps: Option[int, typer.Option(help="Steps of Adam, rounded to whole epochs.", min=1)] = 1500,
    batch_size: Option[int, typer.Option(help="Items per step.", min=1)] = 512,
    test_share: Option[float, typer.Option(help="Share of items held out for the perplexity.")] = 0.2,
    concentration: Option[float, typer.Option(help="Concentration of memberships; below 1: few clusters each.")] = 0.3,
    out: Option[Path, typer.Option(help="Folder to write to.")] = Path("outputs/clusters"),
) -> None:
    """Group people from anonymous votes, and choose the number of groups.

    Identified people are placed among the groups.
    """
    options = ClusterOptions(
        num_clusters=integers(k),
        vote_model=vote_model.value,
        people=people or None,
        alpha=alpha,
        seeds=seeds,
        seed=seed,
        steps=steps,
        batch_size=batch_size,
        test_share=test_share,
        concentration=concentration,
    )
    typer.echo(run_clusters(votes, out, options, reading))


@dataclasses.dataclass(frozen=True)
class ClusterOptions:
    """Options of ``pl2d clusters``; see its help."""

    num_clusters: list[int]
    vote_model: VoteModel
    people: int | None
    alpha: float
    seeds: int
    seed: int
    steps: int
    batch_size: int
    test_share: float
    concentration: float


def run_clusters(path: Path, out: Path, options: ClusterOptions, reading: ReadingOptions | None = None) -> str:
    """Run ``pl2d clusters``."""
    if len(options.num_clusters) < 2 or sorted(set(options.num_clusters)) != options.num_clusters:
        raise ValueError(f"Expected two or more increasing numbers of clusters, found {options.num_clusters}.")
    if not 0 < options.test_share < 1:
        raise ValueError(f"Expected a share of held-out items between 0 and 1, found {options.test_share}.")
    votes, _ = read_with_features(path, reading, subset=True)
    counts = votes.counts
    if counts is None and votes.num_experts:
        warn(
            f"Expected anonymous votes in {path}, found annotations of {votes.num_experts} people: they are counted as "
            "votes, and the same people are placed among the clusters."
        )
        counts = vote_counts(votes.annotations, votes.num_categories)
    if counts is None or not counts.any():
        raise ValueError(f"Expected anonymous votes in {path}, found none. Add votes (N, L) or counts (N, C).")
    check_writable(out / "clusters.json")
    split_key, fit_key, member_key, draw_key = jax.random.split(jax.random.key(options.seed), 4)
    mean, scale = mean_and_scale(votes.x)
    x = ((votes.x - mean) / scale).astype(np.float32)
    order = np.asarray(jax.random.permutation(split_key, len(x)))
    train, test = np.split(order, [len(x) - max(1, int(len(x) * options.test_share))])
    runs = fit_clusters(
        fit_key,
        x[train],
        counts[train],
        options.num_clusters,
        vote_model=options.vote_model,
        num_people=options.people,
        alphas=(options.alpha,),
        seeds=options.seeds,
        schedule=CLUSTER_SCHEDULE.replace(steps=options.steps, batch_size=options.batch_size),
    )
    rows = _rows(runs, x[test], counts[test])
    report = _report(rows, votes, counts, train, test, options)
    best = runs[_best(rows, report["chosen"])]
    members = None
    if votes.annotators:
        members = place_people(
            member_key,
            best,
            x,
            counts,
            votes.annotations,
            concentration=options.concentration,
            people=votes.annotators,
        )
    written = _write(out, report, best, members, x, votes, counts, test, draw_key)
    return "\n".join([_table(report), *_people(members), f"Written: {', '.join(written)}"])


def _rows(runs: Sequence[ClusterRun], x: NDArray, counts: NDArray) -> list[dict[str, Any]]:
    """Compute perplexities of every fit, by the bound and exactly."""
    total = np.array([counts.sum()])
    if not total.any():
        raise ValueError("Expected votes on held-out items, found none. Raise --test-share, or bring more votes.")
    rows = []
    for run, found in zip(runs, held_out(runs, x, counts), strict=True):
        values = {
            f"perplexity_{k}": perplexity(np.array([v]), total) if np.isfinite(v) else None for k, v in found.items()
        }
        rows.append({"num_clusters": run.num_clusters, "seed": run.seed, **values})
    return rows


def _report(
    rows: list[dict[str, Any]],
    votes: Annotated,
    counts: NDArray,
    train: NDArray,
    test: NDArray,
    options: ClusterOptions,
) -> dict[str, Any]:
    """Collect the contents of clusters.json; the exact evidence chooses the number if every fit has it."""
    exact = all(row["perplexity_evidence"] is not None for row in rows)
    kind = "perplexity_evidence" if exact else "perplexity_elbo"
    by_seed = [[r[kind] for r in rows if r["num_clusters"] == k] for k in options.num_clusters]
    perplexities = np.array(by_seed, float).T
    return {
        "options": dataclasses.asdict(options),
        "items": len(votes.x),
        "held_out": len(test),
        "votes": int(counts.sum()),
        "classes": list(votes.classes),
        "fits": rows,
        "chosen_by": kind,
        "rpc": relative_perplexity_change(options.num_clusters, perplexities),
        "chosen": choose_num_clusters(options.num_clusters, perplexities),
        "marginal_perplexity": marginal_perplexity(counts[train], counts[test]),
        "versions": versions(),
    }


def _best(rows: Sequence[dict[str, Any]], num_clusters: int) -> int:
    """Return the index of the fit of K clusters with the lowest bound on the perplexity."""
    return min(
        (i for i, row in enumerate(rows) if row["num_clusters"] == num_clusters),
        key=lambda i: rows[i]["perplexity_elbo"],
    )


def _write(
    out: Path,
    report: dict[str, Any],
    best: ClusterRun,
    members: Membership | None,
    x: NDArray,
    votes: Annotated,
    counts: NDArray,
    test: NDArray,
    key: jax.Array,
) -> list[str]:
    """Write the report, the pictures and the posterior; return their paths."""
    names = [f"cluster {k}" for k in range(best.num_clusters)]
    figures = {"perplexity.png": plot_perplexity(report["fits"], chosen=report["chosen"])}
    kept = test[:KEPT_ITEMS]
    if len(votes.classes) <= MOST_NAMES:
        agreement = _agreement(best.cluster_probs(x[test]), counts[test])
        label = "share of a cluster's votes for the plurality, by the plurality"
        figures["clusters.png"] = plot_heatmap(agreement, names, votes.classes, label=label)
    data = {"x": x[kept], "counts": counts[kept]}
    coords = {"category": votes.classes, "true_category": votes.classes, "cluster": names}
    dims = {"skill": ["cluster", "category"], "errors": ["true_category", "category"]}
    tree = to_datatree(key, best.result, data, num_samples=100, coords=coords, dims=dims)
    if members is not None:
        label = "membership: posterior mean and 90 % interval"
        figures["membership.png"] = plot_heatmap(
            members.soft, names, votes.annotators, label=label, spread=members.interval(0.9)
        )
        report["membership"] = {
            "people": list(votes.annotators),
            "annotations": members.num_annotations,
            "soft": members.soft,
            "interval": members.interval(0.9),
        }
        tree["membership"] = members.to_datatree()
    write_json(out / "clusters.json", report)
    for name, ax in figures.items():
        save_figure(ax.figure, out / name)
    with written_whole(out / "posterior.nc") as scratch:
        tree.to_netcdf(scratch, engine="h5netcdf")
    return [str(out / name) for name in ("clusters.json", *figures, "posterior.nc")]


def _agreement(probs: NDArray, counts: NDArray) -> NDArray:
    """Share of a cluster's votes for an item's plurality, by plurality category, shape (K, C); NaN without items."""
    plurality = counts.argmax(1)
    voted = counts.any(1)
    means = [probs[(plurality == c) & voted, :, c] for c in range(counts.shape[1])]
    return np.stack([m.mean(0) if len(m) else np.full(probs.shape[1], np.nan) for m in means], axis=1)


def _table(report: dict[str, Any]) -> str:
    """Table of perplexities: mean and spread over seeds."""
    lines = [f"{'K':>4}{'bound':>20}{'exact evidence':>20}{'RPC':>10}   held-out perplexity, mean ± spread over seeds"]
    candidates = report["options"]["num_clusters"]
    for k, rpc in zip(candidates, [None, *report["rpc"]], strict=True):
        cells = ""
        for kind in ("perplexity_elbo", "perplexity_evidence"):
            values = [r[kind] for r in report["fits"] if r["num_clusters"] == k]
            known = None not in values
            cells += f"{np.mean(values):>12.4f} ± {np.std(values):.4f}" if known else f"{'not feasible':>20}"
        change = "" if rpc is None else f"{rpc:.2g}"
        lines.append(f"{k:>4}{cells:>40}{change:>10}")
    lines.append(f"marginal label distribution {report['marginal_perplexity']:.4f}")
    lines.append(f"Chosen by the largest change of the {report['chosen_by'][11:]}: K = {report['chosen']}")
    return "\n".join(lines)


def _people(members: Membership | None) -> list[str]:
    if members is None:
        return ["Nobody is identified (no key annotations): no membership is reported."]
    intervals = members.interval(0.9)
    width = max(len(name) for name in members.people) + 2
    lines = [f"{'':<{width}}{'n':>6}  " + "".join(f"{name:>22}" for name in members.clusters)]
    for m, name in enumerate(members.people):
        cells = (
            f"{members.soft[k, m]:>9.2f} ({intervals[k, m, 0]:.2f}–{intervals[k, m, 1]:.2f})"
            for k in range(len(members.clusters))
        )
        lines.append(f"{name:<{width}}{members.num_annotations[m]:>6}  " + "".join(f"{c:>22}" for c in cells))
    return lines
