"""Real anonymous votes, CIFAR-10H: 10,000 images with about 51 votes each; training on 8,000.

    python benchmarks/anonymous_votes.py [--clusters 1,2,3,4] [--alphas 1,50] [--seeds 2] [--steps 600]

Reports the perplexity of the votes on the other 2,000 images, by the bound and, if feasible, by the exact evidence,
compared with one cluster and with the marginal distribution of labels. Describes the clusters by how often each agrees
with the plurality, by category and by people's agreement on the image. Repeats this for the urn, whose truth is latent.
"""

import argparse
import os
import time
from pathlib import Path

import jax
import numpy as np

from pl2d_ppl.clusters.fit import CLUSTER_SCHEDULE, fit_clusters, held_out
from pl2d_ppl.clusters.perplexity import (
    choose_num_clusters,
    marginal_perplexity,
    perplexity,
    relative_perplexity_change,
)

TRAIN = 8000
STAFF = 200  # of about 2,500 people: few would vote twice; the urn's cost grows with its square
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clusters", default="1,2,3,4")
    parser.add_argument("--alphas", default="1,50")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=600)
    options = parser.parse_args()
    candidates = [int(k) for k in options.clusters.split(",")]
    alphas = [float(a) for a in options.alphas.split(",")]
    with np.load(Path(os.environ.get("PL2D_DATA", "../shared/data")) / "cifar10_human.npz") as file:
        x, counts = file["x_test"].astype(np.float32), file["counts_test"].astype(np.int32)
    order = np.random.default_rng(0).permutation(len(x))
    x, counts = x[order], counts[order]
    x = (x - x[:TRAIN].mean(0)) / x[:TRAIN].std(0)
    train, test = slice(TRAIN), slice(TRAIN, None)
    start = time.perf_counter()
    runs = fit_clusters(
        jax.random.key(0),
        x[train],
        counts[train],
        candidates,
        vote_model="lda",
        alphas=alphas,
        seeds=options.seeds,
        schedule=CLUSTER_SCHEDULE.replace(steps=options.steps, batch_size=256),
        progress=False,
    )
    print(f"{len(runs)} fits in one batch: {time.perf_counter() - start:.0f} s")
    total = np.array([counts[test].sum()])
    rows = held_out(runs, x[test], counts[test])
    print(f"marginal label distribution: {marginal_perplexity(counts[train], counts[test]):.4f}")
    shares = counts[test] / counts[test].sum(1, keepdims=True)
    entropy = -(shares * np.log(np.maximum(shares, 1e-12))).sum(1)
    print(f"entropy of each image's own votes, exponentiated (no model can do better): {np.exp(entropy.mean()):.4f}")
    print(f"{'alpha':>6}{'K':>4}{'bound':>20}{'exact evidence':>20}{'RPC of the bound':>20}")
    for alpha in alphas:
        bounds = []
        for k in candidates:
            mine = [row for run, row in zip(runs, rows, strict=True) if (run.num_clusters, run.alpha) == (k, alpha)]
            found = {
                n: [perplexity(np.array([r[n]]), total) for r in mine if np.isfinite(r[n])]
                for n in ("elbo", "evidence")
            }
            cells = "".join(
                f"{np.mean(v):>12.4f} ± {np.std(v):.4f}" if v else f"{'not feasible':>20}" for v in found.values()
            )
            bounds.append(np.mean(found["elbo"]))
            rpc = "" if len(bounds) < 2 else f"{relative_perplexity_change(candidates[: len(bounds)], bounds)[-1]:.2g}"
            print(f"{alpha:>6g}{k:>4}{cells}{rpc:>20}")
        print(f"{'':>6}chosen by RPC: K = {choose_num_clusters(candidates, bounds)}", flush=True)
    describe(runs, x[test], counts[test])
    start = time.perf_counter()
    settings = CLUSTER_SCHEDULE.replace(steps=options.steps, batch_size=256)
    options_of_urn = {"num_people": STAFF, "schedule": settings, "progress": False}
    runs = fit_clusters(jax.random.key(0), x[train], counts[train], candidates, vote_model="urn", **options_of_urn)
    print(f"\nthe urn, of {STAFF} people, K = {options.clusters}: {time.perf_counter() - start:.0f} s")
    for run, row in zip(runs, held_out(runs, x[test], counts[test]), strict=True):
        skills = np.asarray(jax.nn.sigmoid(run.result.params["skill_mean_auto_loc"])).ravel()
        print(f"{run.num_clusters:>4}{perplexity(np.array([row['evidence']]), total):>12.4f}  skills {skills.round(4)}")


def describe(runs: list, x: np.ndarray, counts: np.ndarray) -> None:
    """Print how often the clusters of the first seed name the plurality category."""
    plurality = counts.argmax(1)
    agreement = counts.max(1) / counts.sum(1)
    print("\nshare for the plurality: on all images, where .9 of the people agree or more, where fewer do; by category")
    print(f"{'alpha':>6}{'K':>3}{'k':>3}{'all':>7}{'clear':>7}{'hard':>7}  " + "".join(f"{c[:9]:>10}" for c in CLASSES))
    for run in runs:
        if run.seed or run.num_clusters == 1:
            continue
        said = np.take_along_axis(run.cluster_probs(x), plurality[:, None, None], 2)[..., 0]
        for k in range(run.num_clusters):
            cells = "".join(f"{said[plurality == c, k].mean():>10.3f}" for c in range(len(CLASSES)))
            means = (said[:, k].mean(), said[agreement >= 0.9, k].mean(), said[agreement < 0.9, k].mean())
            print(f"{run.alpha:>6g}{run.num_clusters:>3}{k:>3}" + "".join(f"{m:>7.3f}" for m in means) + f"  {cells}")


if __name__ == "__main__":
    main()
