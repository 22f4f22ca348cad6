"""Deferral to real people with few annotations each: 59 workers on LabelMe, 4 to 182 images each, 2.5 per image.

    python benchmarks/real_people.py [--seeds 3] [--clusters 3]

The AI is trained on the 1,188 images that nobody annotated. Half of the 1,000 other images serve to learn who decides,
half to test; people who annotated nothing in the first half are left out. Only people who annotated an image are
present for it: a method chooses among them and the AI, so that every decision can be judged. Clusters are found in the
votes of the first half, without names. Areas are those under the coverage-accuracy curve with offsets fitted on the
first half.
"""

import argparse
import dataclasses
import os
import time
import warnings
from pathlib import Path

import jax
import numpy as np

from pl2d_ppl.clusters.fit import CLUSTER_SCHEDULE, fit_clusters
from pl2d_ppl.data import Annotated
from pl2d_ppl.data.votes import vote_counts
from pl2d_ppl.deferral.classifier import CLASSIFIER_SCHEDULE, train_classifier
from pl2d_ppl.deferral.deferral import Deferral
from pl2d_ppl.deferral.metrics import area_under_curve
from pl2d_ppl.experiments.methods import Task, coverage_bounds, learn
from pl2d_ppl.inference.schedule import Schedule
from pl2d_ppl.people.place_in_clusters import place_people

COVERAGES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
METHODS = ("naive", "prob-l2d", "two-stage", "l2d-pop", "lecodu", "cluster-soft", "cluster-hard", "pooled")
NUM_CATEGORIES = 8


def load() -> tuple[np.ndarray, ...]:
    """Load annotated images, standardised, with truth and annotations, and images that nobody annotated, with truth."""
    with np.load(Path(os.environ.get("PL2D_DATA", "../shared/data")) / "labelme.npz") as file:
        x, y, said, others, truth = (file[k] for k in ("x", "y", "annotations", "x_test", "y_test"))
    x, others = x.astype(np.float32), others.astype(np.float32)
    mean, scale = others.mean(0), np.maximum(others.std(0), 1e-6)
    return (x - mean) / scale, y.astype(int), said.astype(int), (others - mean) / scale, truth.astype(int)


def among_present(deferral: Deferral, annotations: np.ndarray) -> Deferral:
    """Restrict deferral, on every item, to options with people who annotated it."""
    able = np.pad(annotations >= 0, ((0, 0), (0, 1)), constant_values=True) @ (deferral.people_probs.T > 0)
    return dataclasses.replace(deferral, log_gate=np.where(able, deferral.log_gate, -1e4))


def curve(fitted: Deferral, day: Deferral, data: Annotated) -> tuple[list, list]:
    """Coverages and accuracies with offsets fitted on other items."""
    rows = []
    for coverage in COVERAGES:
        policy = fitted.fit_policy(*coverage_bounds(coverage, len(fitted.people)))
        rows.append(day.follow(policy).evaluate(data.annotations, data.y))
    return [r["coverage"] for r in rows], [r["accuracy"] for r in rows]


def run_seed(seed: int, options: argparse.Namespace) -> dict[str, tuple[float, list]]:
    x, y, said, others, truth = load()
    key = jax.random.key(seed)
    ai_key, cluster_key, place_key, fit_key = jax.random.split(key, 4)
    ai = train_classifier(
        ai_key, others, truth, NUM_CATEGORIES, hidden=(64,), schedule=CLASSIFIER_SCHEDULE.replace(steps=1000)
    )
    order = np.random.default_rng(seed).permutation(len(x))
    names = tuple(f"worker {m}" for m in range(said.shape[1]))
    parts = [
        Annotated(x[rows], y[rows], said[rows], classes=range(NUM_CATEGORIES), annotators=names, subset=True)
        for rows in (order[:500], order[500:])
    ]
    known = [name for name, said in zip(names, parts[0].annotations.T, strict=True) if (said >= 0).any()]
    train, test = (part.select_people(known) for part in parts)
    counts = vote_counts(train.annotations, NUM_CATEGORIES)
    (run,) = fit_clusters(
        cluster_key,
        train.x,
        counts,
        [options.clusters],
        vote_model="urn",
        num_people=len(known),
        schedule=CLUSTER_SCHEDULE.replace(steps=500),
        hidden=(64,),
        progress=False,
    )
    members = place_people(place_key, run, train.x, counts, train.annotations, people=known)
    task = Task(train, COVERAGES, Schedule(steps=400), (64,), classifier=ai, membership=members.soft)
    right = (test.annotations == test.y[:, None])[test.annotations >= 0].mean()
    print(f"seed {seed}: AI {np.mean(ai(test.x).argmax(-1) == test.y):.3f}, annotations right {right:.3f}", flush=True)
    found = {}
    for method in METHODS:
        start = time.perf_counter()
        learned = learn(method, fit_key, task)
        pairs = zip(learned.defer(train.x), learned.defer(test.x), strict=True)
        curves = [
            curve(among_present(a, train.annotations), among_present(b, test.annotations), test) for a, b in pairs
        ]
        # For a method that was trained for every coverage, one point from each.
        own = (
            [(c[0][i], c[1][i]) for i, c in enumerate(curves)]
            if learned.steered
            else list(zip(*curves[0], strict=True))
        )
        coverage, accuracy = map(list, zip(*own, strict=True))
        found[method] = area_under_curve(coverage, accuracy), accuracy
        print(f"  {method:<14}{found[method][0]:7.2f}  {time.perf_counter() - start:.0f} s", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--clusters", type=int, default=3)
    options = parser.parse_args()
    warnings.filterwarnings("ignore", category=UserWarning)  # about workers without annotations in the first half
    results = [run_seed(seed, options) for seed in range(options.seeds)]
    print(f"\n{options.seeds} splits: area, and accuracy at coverages {COVERAGES}")
    for method in METHODS:
        areas, accuracies = np.array([r[method][0] for r in results]), np.mean([r[method][1] for r in results], 0)
        print(f"{method:<14}{areas.mean():7.2f} ± {areas.std():.2f}   {accuracies.round(3)}")


if __name__ == "__main__":
    main()
