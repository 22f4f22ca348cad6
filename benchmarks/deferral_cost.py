"""Cost of a fit as the staff grows: 6, 100 and 1,000 people.

    python benchmarks/deferral_cost.py [--people 6 100 1000] [--items 128] [--steps 200]

Everybody annotates all items, with 64 features and 10 categories; three clusters; the gate is a perceptron of 128 and
128. First: seconds of a fit with its compilation. Again: seconds of another fit of the same shape, and ms per step. One
coverage. Memory: the peak of the process so far, so that only its growth from row to row is meaningful.
"""

import argparse
import resource
import time

import jax
import numpy as np
from flax import nnx

from pl2d_ppl import MLP
from pl2d_ppl.data import Annotated
from pl2d_ppl.experiments.methods import POOLED_SCHEDULE, Task, learn
from pl2d_ppl.inference.schedule import Schedule
from pl2d_ppl.networks import Frozen

METHODS = ("two-stage", "naive", "cluster-soft", "pooled", "l2d-pop", "prob-l2d")
C, D, K = 10, 64, 3


def task(people: int, options: argparse.Namespace) -> Task:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(options.items, D)).astype(np.float32)
    y = rng.integers(0, C, options.items)
    wrong = rng.random((options.items, people)) < rng.uniform(0.05, 0.5, people)
    said = np.where(wrong, (y[:, None] + rng.integers(1, C, wrong.shape)) % C, y[:, None])
    names = tuple(f"person {m}" for m in range(people))
    data = Annotated(x, y, said, classes=range(C), annotators=names)
    membership = rng.dirichlet(np.ones(K), people).T
    schedules = {
        "schedule": Schedule(steps=options.steps),
        "pooled_schedule": POOLED_SCHEDULE.replace(steps=options.steps),
    }
    classifier = Frozen.of(MLP(D, (32,), C, rngs=nnx.Rngs(0)))
    return Task(data, (0.5,), **schedules, classifier=classifier, membership=membership)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, nargs="+", default=[6, 100, 1000])
    parser.add_argument("--items", type=int, default=128)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--methods", nargs="+", default=METHODS)
    options = parser.parse_args()
    columns = f"{'people':>7} {'method':<14}{'first, s':>10}{'again, s':>10}{'ms a step':>11}{'peak, GiB':>11}"
    print(f"{jax.devices()[0].platform}\n{columns}")
    for people in options.people:
        given = task(people, options)
        for method in options.methods:
            seconds = []
            for seed in range(2):
                start = time.perf_counter()
                learn(method, jax.random.key(seed), given).defer(given.train.x)
                seconds.append(time.perf_counter() - start)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
            step = 1e3 * seconds[1] / options.steps
            print(
                f"{people:>7} {method:<14}{seconds[0]:>10.1f}{seconds[1]:>10.1f}{step:>11.2f}{peak:>11.2f}", flush=True
            )


if __name__ == "__main__":
    main()
