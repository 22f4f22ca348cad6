"""Cost of an epoch of the vote programs, by items N, votes L, clusters K, and the form of the votes.

    python benchmarks/cluster_cost.py [--repeats 3]

Seconds per epoch after compilation (minimum over repeats): batch size 256, 128 features, C categories, a hidden layer
of 128. With votes, LDA keeps a site for every vote; with counts, clusters are summed out per distinct category.
"""

import argparse
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from numpyro.handlers import block, seed
from numpyro.infer.autoguide import AutoDelta
from numpyro.infer.initialization import init_to_mean

from pl2d_ppl import MLP, Ensemble
from pl2d_ppl.clusters.fit import equal_sizes
from pl2d_ppl.data.votes import vote_counts
from pl2d_ppl.guides.exact import exact
from pl2d_ppl.guides.mean_field import mean_field
from pl2d_ppl.inference.compiled import compile_programs
from pl2d_ppl.models.annotator_lda import annotator_lda
from pl2d_ppl.models.annotator_urn import annotator_urn

FEATURES, BATCH = 128, 256
ROWS = (
    *((n, 6, 3, 10) for n in (1024, 4096, 16384)),
    *((4096, votes, 3, 10) for votes in (3, 12, 51)),
    *((4096, 6, k, 10) for k in (1, 2, 6)),
    (4096, 6, 3, 100),
    (4096, 51, 3, 100),
)


def seconds(model, guide, data: dict, repeats: int) -> float:
    programs, leaves = compile_programs(model, guide, optax.adam(1e-3), False, 2)
    key = jax.random.key(0)
    batch = {n: a[:BATCH] for n, a in data.items()}
    programs.probe(leaves, key, batch)
    state = programs.init(leaves, key, batch)
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        jax.block_until_ready(programs.epoch(leaves, state, key, data, BATCH))
        times.append(time.perf_counter() - start)
    return min(times[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    print(f"{jax.devices()[0]}, seconds an epoch")
    print(f"{'N':>6}{'L':>5}{'K':>4}{'C':>5}{'LDA, votes':>13}{'LDA, counts':>13}{'urn':>9}")
    for num_items, num_votes, k, num_categories in ROWS:
        x = jnp.asarray(rng.normal(size=(num_items, FEATURES)), jnp.float32)
        # People mostly agree: half of the votes go to one category.
        truth = rng.integers(num_categories, size=(num_items, 1))
        drawn = rng.integers(num_categories, size=(num_items, num_votes))
        votes = np.where(rng.random((num_items, num_votes)) < 0.7, truth, drawn)
        counts = jnp.asarray(vote_counts(votes, num_categories))
        member = partial(MLP, FEATURES, (128,), num_categories)
        lda = partial(annotator_lda, clusters=partial(Ensemble, member, k), max_votes=num_votes)
        urn = partial(annotator_urn, truth=member, sizes=equal_sizes(max(num_votes, k), k), num_items=num_items)
        shared = AutoDelta(block(urn, hide=["y"]), init_loc_fn=init_to_mean)
        with block(), seed(rng_seed=0):  # it keeps the values of its first call, which must not be traced
            shared(x=x[:BATCH], counts=counts[:BATCH])
        found = (
            seconds(lda, mean_field(lda), {"x": x, "votes": jnp.asarray(votes)}, options.repeats),
            seconds(lda, mean_field(lda), {"x": x, "counts": counts}, options.repeats),
            seconds(urn, exact(urn, continuous=shared), {"x": x, "counts": counts}, options.repeats),
        )
        print(
            f"{num_items:>6}{num_votes:>5}{k:>4}{num_categories:>5}{found[0]:>13.3f}{found[1]:>13.3f}{found[2]:>9.3f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
