"""Peak memory and seconds of `to_datatree`, at 5,000 and 50,000 items, each in a process of its own.

    python benchmarks/datatree_memory.py [--items 5000,50000] [--people 100] [--categories 10] [--samples 10]

`prob_l2d` with what everybody would say as a site, under a workload: the exact posterior is over who decides and over
the answers of all people to all items. Networks are linear, and not trained: neither memory nor time depends on it.
"""

import argparse
import multiprocessing
import resource
import time
from functools import partial

import jax
import numpy as np
import optax

from pl2d_ppl import MLP, fit, to_datatree, workload
from pl2d_ppl.guides.exact import exact
from pl2d_ppl.guides.mean_field import mean_field
from pl2d_ppl.models.prob_l2d import prob_l2d

INPUTS = 16


def measure(options: argparse.Namespace, items: int, guide_of: str) -> None:
    """Print the memory of a process before and after, and the seconds that it takes."""
    rng = np.random.default_rng(0)
    people, categories = options.people, options.categories
    data = {
        "x": rng.standard_normal((items, INPUTS)).astype(np.float32),
        "annotations": np.where(rng.random((items, people)) < 0.05, rng.integers(0, categories, (items, people)), -1),
        "y": rng.integers(0, categories, items),
    }
    mlp = partial(MLP, INPUTS, ())
    networks = {"gating": people + 1, "experts": (people, categories), "classifier": categories}
    model = partial(prob_l2d, **{name: partial(mlp, shape) for name, shape in networks.items()})
    guide = exact(model, ["z"]) if guide_of == "exact" else mean_field(model)
    upper = np.append(np.full(people, 2 / people), 1.0)
    bounded = workload(guide, "z", np.append(np.zeros(people), 0.2), upper)
    first = {name: array[:64] for name, array in data.items()}
    quiet = {"epochs": 1, "batch_size": 64, "progress": False}
    result = fit(jax.random.key(0), model, bounded, first, optax.sgd(0.0), **quiet)
    before, start = peak(), time.perf_counter()
    tree = to_datatree(jax.random.key(1), result, data, num_samples=options.samples, batch_size=options.batch_size)
    seconds, size = time.perf_counter() - start, tree.nbytes / 2**20
    violation = float(tree["workload"]["z_violation"])
    print(
        f"{guide_of:10} {items:6} items x {people} people, {categories} categories, {options.samples} draws: peak "
        f"{peak():5.0f} MiB ({before:.0f} before, the tree {size:.0f}), {seconds:.1f} s, violation {violation:.1e}",
        flush=True,
    )


def peak() -> float:
    """Largest memory of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", default="5000,50000")
    parser.add_argument("--people", type=int, default=100)
    parser.add_argument("--categories", type=int, default=10)
    parser.add_argument("--samples", type=int, default=10)
    parser.add_argument("--guides", default="exact,mean_field")
    parser.add_argument("--batch-size", type=int, default=1024)
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    for guide in options.guides.split(","):
        for items in options.items.split(","):
            process = context.Process(target=measure, args=(options, int(items), guide))
            process.start()
            process.join()
            if process.exitcode:
                raise SystemExit(process.exitcode)


if __name__ == "__main__":
    main()
