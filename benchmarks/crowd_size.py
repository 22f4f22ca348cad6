"""Cost of crowd_l2d for many people with few labels each: seconds of a pass and peak memory.

    python benchmarks/crowd_size.py

Annotations are lists (items, labels of an item). Each size runs in a process of its own.
"""

import resource
import subprocess
import sys
import time

SIZES = ((5_000, 100), (5_000, 1_000), (50_000, 100), (50_000, 1_000))
LABELS, CATEGORIES, INPUTS, BATCH = 3, 8, 64, 4096


def main() -> None:
    if len(sys.argv) > 1:
        run(*map(int, sys.argv[1:]))
        return
    print(f"{'items':>8}{'people':>8}{'first pass, s':>15}{'a pass, s':>11}{'peak, GiB':>11}", flush=True)
    for size in SIZES:
        subprocess.run([sys.executable, __file__, *map(str, size)], check=True)


def run(items: int, people: int) -> None:
    """Fit in this process, and print a line."""
    from functools import partial

    import jax
    import numpy as np
    import optax

    from pl2d_ppl import MLP, fit
    from pl2d_ppl.guides.exact import exact
    from pl2d_ppl.guides.normal import normal
    from pl2d_ppl.models.crowd_l2d import crowd_l2d

    rng = np.random.default_rng(0)
    y = rng.integers(0, CATEGORIES, items)
    right = rng.random((items, LABELS)) < 0.7
    data = {
        "x": rng.standard_normal((items, INPUTS)).astype(np.float32),
        "annotations": np.where(right, y[:, None], rng.integers(0, CATEGORIES, (items, LABELS))).astype(np.int32),
        "people": rng.integers(0, people, (items, LABELS)).astype(np.int32),
    }
    model = partial(crowd_l2d, classifier=partial(MLP, INPUTS, (128,), CATEGORIES), num_items=items)
    run_fit = partial(
        fit,
        jax.random.key(0),
        model,
        exact(model, ["z"], continuous=normal(model)),
        data,
        optax.adam(0.01),
        batch_size=BATCH,
        arguments={"membership": np.ones((1, people), np.float32)},
        progress=False,
    )
    start = time.perf_counter()
    result = run_fit(epochs=1)
    first = time.perf_counter() - start
    start = time.perf_counter()
    run_fit(epochs=4, resume=result)
    later = (time.perf_counter() - start) / 3
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{items:>8}{people:>8}{first:>15.1f}{later:>11.2f}{peak:>11.2f}", flush=True)


if __name__ == "__main__":
    main()
