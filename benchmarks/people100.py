"""A hundred people, at ten error rates: the number of clusters by RPC, and its cost.

    python benchmarks/people100.py [--items 4000] [--steps 600] [--clusters 1,2,5,10,15]

Ten people each at nominal error rates from 5 to 50 % (of truncated, instance-dependent noise) vote on every item of
cifar100_features.npz. With LDA (alpha 50), all numbers of clusters are one batch of runs; the urn needs a fit for each.
"""

import argparse
import resource
import time

import jax
import numpy as np
from clusters import load

from pl2d_ppl.clusters.fit import CLUSTER_SCHEDULE, fit_clusters, held_out
from pl2d_ppl.clusters.perplexity import choose_num_clusters, perplexity, relative_perplexity_change
from pl2d_ppl.data.votes import vote_counts
from pl2d_ppl.simulate import anonymise, instance_dependent_experts, realised_error

RATES = np.repeat(np.linspace(0.05, 0.5, 10), 10)
HELD_OUT = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=4000)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--clusters", default="1,2,5,10,15")
    options = parser.parse_args()
    candidates = [int(k) for k in options.clusters.split(",")]
    people_key, vote_key, fit_key = jax.random.split(jax.random.key(0), 3)
    x, y, num_categories = load("cifar100_features", 0, options.items)
    said = instance_dependent_experts(people_key, x, y, num_categories, RATES)
    counts = vote_counts(anonymise(vote_key, said), num_categories)
    rates = realised_error(said, y).reshape(10, 10).mean(1)
    train, test = slice(options.items), slice(options.items, options.items + HELD_OUT)
    print(f"realised error rates of the ten groups {np.round(rates, 3)}")
    print(f"distinct categories an item: {(counts > 0).sum(1).mean():.1f} of {counts.sum(1).mean():.0f} votes")
    for vote_model in ("lda", "urn"):
        start = time.perf_counter()
        runs = fit_clusters(
            fit_key,
            x[train],
            counts[train],
            candidates,
            vote_model=vote_model,
            schedule=CLUSTER_SCHEDULE.replace(steps=options.steps, batch_size=options.batch_size),
            progress=False,
        )
        seconds = time.perf_counter() - start
        total = np.array([counts[test].sum()])
        found = [perplexity(np.array([row["elbo"]]), total) for row in held_out(runs, x[test], counts[test])]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"\n{vote_model}: {seconds:.0f} s for K = {options.clusters}; peak memory of the process {peak:.2f} GiB")
        print(f"{'K':>4}{'perplexity':>12}{'RPC':>10}  skills")
        for run, p, rpc in zip(runs, found, [np.nan, *relative_perplexity_change(candidates, found)], strict=True):
            right = np.take_along_axis(run.cluster_probs(x[test]), y[test, None, None], 2).mean((0, 2))
            if vote_model == "urn":
                right = np.asarray(jax.nn.sigmoid(run.result.params["skill_mean_auto_loc"])).ravel()
            print(f"{run.num_clusters:>4}{p:>12.4f}{rpc:>10.2g}  {np.round(right, 2)}", flush=True)
        print(f"chosen: K = {choose_num_clusters(candidates, found)}")


if __name__ == "__main__":
    main()
