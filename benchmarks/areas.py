"""Areas under the coverage-accuracy curve on real data: naive, exact and mean field, means over seeds.

    python benchmarks/areas.py cifar100_features sleep_dodo cue_conflict [--seeds 3] [--steps 2000]

The data are in the folder that PL2D_DATA names (default ../shared/data). For cifar100_features, two superclass experts
are simulated, each right on 10 superclasses and wrong half the time elsewhere. Half of the training annotations are
dropped in all data sets.
"""

import argparse
import os
from pathlib import Path

import jax
import numpy as np

from pl2d_ppl.data import read_npz
from pl2d_ppl.experiments.seeds import prepare_split, run_seeds
from pl2d_ppl.inference.schedule import Schedule

ROWS = (("naive", "exact"), ("prob-l2d", "exact"), ("prob-l2d", "mean-field"))
COVERAGES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="+")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--missing", type=float, default=0.5)
    options = parser.parse_args()
    folder = Path(os.environ.get("PL2D_DATA", "../shared/data"))
    for name in options.names:
        train, test = read_npz(folder / f"{name}.npz")

        def prepare(key: jax.Array, seed: int, train=train, test=test):
            return prepare_split(key, train, test, seed=seed, missing=options.missing)

        print(f"\n{name}: {options.seeds} seeds, {options.steps} steps, missing {options.missing}, targets {COVERAGES}")
        print(f"{'method':<10}{'guide':<12}{'area':>14}{'with offsets':>16}{'AI':>7}  coverage with offsets; s a seed")
        for method, guide in ROWS:
            report = run_seeds(
                prepare,
                range(options.seeds),
                COVERAGES,
                {},
                method=method,
                guide=guide,
                schedule=Schedule(steps=options.steps),
            )
            area, offset = np.array(report["area"]), np.array(report["area_offset"])
            realised = np.mean(report["coverage_offset"], 0)
            print(
                f"{method:<10}{guide:<12}{area.mean():>8.2f} ± {area.std():.2f}"
                f"{offset.mean():>10.2f} ± {offset.std():.2f}"
                f"{np.mean(report['ai_accuracy']):>7.3f}  {np.round(realised, 3)}; {np.mean(report['seconds']):.0f}",
                flush=True,
            )
        print("experts", np.round(np.array(report["expert_accuracy"], float).mean(0), 3))


if __name__ == "__main__":
    main()
