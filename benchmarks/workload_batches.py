"""Workload per mini-batch (paper A) compared with a global one, by batch size: realised coverage and area.

    python benchmarks/workload_batches.py [--steps 2000] [--window 2048]

Uses cifar100_features with two superclass experts and half of the annotations missing; the learning rate grows
with the batch size, up to 128. The data are in the folder that PL2D_DATA names (default ../shared/data).
"""

import argparse
import os
from pathlib import Path

import jax
import numpy as np

from pl2d_ppl.data import read_npz
from pl2d_ppl.experiments.curve import coverage_curve
from pl2d_ppl.experiments.seeds import prepare_split
from pl2d_ppl.inference.schedule import Schedule

TARGETS = (0.2, 0.5, 0.8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=2000 * 128, help="items seen in training")
    parser.add_argument("--window", type=int, default=2048)
    parser.add_argument("--guide", default="exact")
    options = parser.parse_args()
    folder = Path(os.environ.get("PL2D_DATA", "../shared/data"))
    data_key, fit_key = jax.random.split(jax.random.key(0))
    train, test = prepare_split(data_key, *read_npz(folder / "cifar100_features.npz"), seed=0, missing=0.5)
    print(f"targets {TARGETS}, {options.items} items seen, guide {options.guide}")
    print(f"{'batch':>6}  {'workload':<16}{'coverage, argmax':<26}{'accuracy':<26}{'area':>6}{'s':>6}")
    for batch_size in (20, 50, 100, 500):
        for window in (None, options.window):
            schedule = Schedule(
                steps=options.items // batch_size,
                batch_size=batch_size,
                learning_rate=0.05 * min(1.0, batch_size / 128),
            )
            row = coverage_curve(fit_key, train, test, TARGETS, guide=options.guide, schedule=schedule, window=window)
            name = "per batch" if window is None else f"last {window}"
            print(
                f"{batch_size:>6}  {name:<16}{np.round(row['coverage'], 3)!s:<26}{np.round(row['accuracy'], 3)!s:<26}"
                f"{row['area']:>6.2f}{row['seconds']:>6.0f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
