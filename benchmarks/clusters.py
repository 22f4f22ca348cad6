"""Clusters found in anonymous votes, and their members: paper B's Table 1, and the alpha half of Table 2.

    python benchmarks/clusters.py digits cifar100_features [--seeds 5] [--clusters 3] [--contexts 10] [--mode nominal]

Six people make instance-dependent errors, at nominal rates of 5, 5, 20, 20, 35 and 35 %, and vote anonymously on every
training item. Each person is then placed among the clusters by 100 annotations of items outside the training part.
Methods that cluster representations (L2D-Pop, EA-L2D; by fuzzy C-means) also see the truth of these items; the others
do not.

AMI, ARI: agreement of the partition with the three true pairs. Dissimilarity: mean of 1 - cosine between people. Gap:
the largest difference between memberships within a pair. Accuracy: mean over the clusters' networks. Perplexity:
perplexity of held-out votes, by the exact evidence.
"""

import argparse
import os
import time
from collections import defaultdict
from functools import partial
from pathlib import Path

import jax
import numpy as np

from pl2d_ppl.baselines.ea_l2d import beta_representation
from pl2d_ppl.baselines.fuzzy import fuzzy_partition
from pl2d_ppl.baselines.l2d_pop import train_l2d_pop
from pl2d_ppl.clusters.agreement import cosine_dissimilarity, partition_scores, within_group_spread
from pl2d_ppl.clusters.fit import CLUSTER_SCHEDULE, fit_clusters, held_out
from pl2d_ppl.clusters.perplexity import perplexity
from pl2d_ppl.data.votes import vote_counts
from pl2d_ppl.models.membership import membership
from pl2d_ppl.people.place import sample_membership
from pl2d_ppl.people.place_in_clusters import given_votes
from pl2d_ppl.simulate import anonymise, instance_dependent_experts, realised_error

RATES = (0.05, 0.05, 0.2, 0.2, 0.35, 0.35)
GROUPS = np.array([0, 0, 1, 1, 2, 2])
ALPHAS = (0.1, 1.0, 5.0, 50.0)
ANNOTATIONS, HELD_OUT = 100, 1000
COLUMNS = ("ami", "ari", "dissimilarity", "gap", "accuracy", "perplexity")
PUBLISHED = "paper B, Table 1 (K = 3), ARI / AMI: L2D-Pop -.061 / -.087; EA-L2D .444 / .502; LDA .444 / .615"
PUBLISHED_ALPHA = "Table 2 (100 people), dissimilarity at alpha .1, .9, 2, 10, 50: .0002 .0009 .0377 .0406 .0422"


def load(name: str, seed: int, items: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Load items in random order, standardised: digits as pixels, CIFAR-100 as features."""
    if name == "digits":
        from sklearn.datasets import load_digits

        loaded = load_digits()
        x, y, num_categories = loaded.data, loaded.target, 10
    else:
        with np.load(Path(os.environ.get("PL2D_DATA", "../shared/data")) / f"{name}.npz") as file:
            x, y, num_categories = file["x_train"], file["y_train"], len(file["classes"])
    order = np.random.default_rng(seed).permutation(len(x))[: items + 4000]
    x = x[order].astype(np.float32)
    return (x - x.mean(0)) / np.maximum(x.std(0), 1e-6), y[order].astype(np.int32), num_categories


def score(soft: np.ndarray, accuracy: float = np.nan, found: float = np.nan) -> dict[str, float]:
    return {
        **partition_scores(GROUPS, soft),
        "dissimilarity": cosine_dissimilarity(soft),
        "gap": within_group_spread(GROUPS, soft),
        "accuracy": accuracy,
        "perplexity": found,
    }


def run_seed(name: str, seed: int, options: argparse.Namespace, table: dict) -> np.ndarray:
    keys = iter(jax.random.split(jax.random.key(seed), 8))
    x, y, num_categories = load(name, seed, options.items)
    said = instance_dependent_experts(next(keys), x, y, num_categories, RATES, mode=options.mode)
    counts = vote_counts(anonymise(next(keys), said), num_categories)
    cut = min(options.items, len(x) - HELD_OUT // 2 - ANNOTATIONS * (options.contexts - 1))
    end = cut + ANNOTATIONS * options.contexts
    contexts = np.arange(cut, end).reshape(options.contexts, ANNOTATIONS)
    test = slice(end, end + HELD_OUT)
    fit_key, place_key, fuzzy_key, pop_key = (next(keys) for _ in range(4))

    def place(probs: np.ndarray, annotations: np.ndarray, concentration: float) -> np.ndarray:
        model = models[concentration]
        return sample_membership(place_key, model, probs, annotations).soft

    schedules = {
        "lda": CLUSTER_SCHEDULE.replace(steps=options.lda_steps, batch_size=256),
        "urn": CLUSTER_SCHEDULE.replace(steps=options.steps),
    }
    for vote_model, schedule in schedules.items():
        start = time.perf_counter()
        runs = fit_clusters(
            fit_key,
            x[:cut],
            counts[:cut],
            options.clusters,
            vote_model=vote_model,
            num_people=len(RATES),
            alphas=ALPHAS,
            schedule=schedule,
            progress=False,
        )
        print(f"  {name}, seed {seed}: {vote_model} fitted in {time.perf_counter() - start:.0f} s", flush=True)
        for run, found in zip(runs, held_out(runs, x[test], counts[test]), strict=True):
            vote = perplexity(np.array([found["evidence"]]), np.array([counts[test].sum()]))
            right = (run.cluster_probs(x[test]).argmax(-1) == y[test, None]).mean()
            method = f"LDA, alpha {run.alpha:g}" if vote_model == "lda" else "urn"
            for context in contexts:
                probs = run.cluster_probs(x[context])
                add = partial(score, accuracy=right, found=vote)
                table[run.num_clusters, method].append(add(place(probs, said[context], 1.0)))
                table[run.num_clusters, f"{method}, prior .3"].append(add(place(probs, said[context], 0.3)))
                if vote_model == "urn":
                    soft = place(*given_votes(run, x[context], counts[context], said[context]), 0.3)
                    table[run.num_clusters, "urn, prior .3, votes"].append(add(soft))
    for context in contexts:
        fit = train_l2d_pop(pop_key, x[context], said[context], y[context], num_categories, hidden=(128,))
        representations = {
            "EA-L2D": beta_representation(said[context], y[context], num_categories),
            "L2D-Pop": fit.representation(x[context], said[context], y[context]),
        }
        for k in options.clusters:
            for method, representation in representations.items():
                table[k, method].append(score(fuzzy_partition(fuzzy_key, np.asarray(representation), k)))
    return realised_error(said, y)


models = {c: partial(membership, concentration=c) for c in (1.0, 0.3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", choices=("digits", "cifar100_features"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--items", type=int, default=20000, help="training items at most")
    parser.add_argument("--steps", type=int, default=1000, help="of the urn")
    parser.add_argument("--lda-steps", type=int, default=400, help="steps of LDA, whose best epoch comes early")
    parser.add_argument("--mode", choices=("truncated", "nominal"), default="truncated")
    parser.add_argument("--clusters", type=int, nargs="+", default=(2, 3, 4, 5))
    parser.add_argument("--contexts", type=int, default=1, help="sets of 100 annotated items a seed")
    options = parser.parse_args()
    for name in options.names:
        table: dict[tuple[int, str], list[dict[str, float]]] = defaultdict(list)
        errors = [run_seed(name, seed, options, table) for seed in range(options.seeds)]
        rates = np.round(np.mean(errors, 0), 3)
        print(f"\n{name}, {options.seeds} seeds, contexts a seed {options.contexts}; realised error rates {rates}")
        print(f"{'K':>2} {'method':<26}" + "".join(f"{c:>17}" for c in COLUMNS))
        for (k, method), rows in sorted(table.items()):
            values = np.array([[row[c] for c in COLUMNS] for row in rows])
            cells = "".join(
                f"{m:>10.3f} ± {s:.3f}" if np.isfinite(m) else f"{'-':>17}"
                for m, s in zip(values.mean(0), values.std(0), strict=True)
            )
            print(f"{k:>2} {method:<26}{cells}")
        print(f"{PUBLISHED}\n{PUBLISHED_ALPHA}", flush=True)


if __name__ == "__main__":
    main()
