"""Time to read annotations of many items by 20 people, by format; ten times the items should take ten times as long.

Labels in tables are names, half of them missing; rows of long tables are in random order.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import pandas as pd

from pl2d_ppl.data import Annotated, read_data, write_data

PEOPLE = 20


def problem(num_items: int, missing: float) -> Annotated:
    rng = np.random.default_rng(0)
    annotations = rng.integers(0, 10, (num_items, PEOPLE))
    annotations[rng.random(annotations.shape) < missing] = -1
    return Annotated(
        np.zeros((num_items, 0)),
        rng.integers(0, 10, num_items),
        annotations,
        counts=None,
        items=[f"images/part_{i % 7}/image_{i:06d}.jpg" for i in range(num_items)],
        classes=[f"category {c}" for c in range(10)],
        annotators=[f"worker_{m:02d}" for m in range(PEOPLE)],
    )


def write_shuffled(path: Path, data: Annotated) -> None:
    write_data(path, data)
    pd.read_csv(path, dtype=str).sample(frac=1, random_state=0).to_csv(path, index=False)


def writers(missing: float) -> dict[str, Callable[[Path, Annotated], None]]:
    share = f"{1 - missing:.0%} of labels"
    return {
        f"long.csv, {share}": write_shuffled,
        f"long.parquet, {share}": write_data,
        f"wide.csv, {share}": lambda path, data: write_data(path, data, layout="wide"),
        f"json, {share}": write_data,
        f"data.npz, {share}": write_data,
        f"data.nc, {share}": write_data,
    }


def seconds(path: Path, repeats: int) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        read_data(path)
        times.append(time.perf_counter() - start)
    return median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    sizes, repeats = ((1_000, 10_000), 1) if quick else ((10_000, 100_000), 3)
    print(f"{PEOPLE} people; seconds, medians of {repeats}")
    print(f"{'':<28}" + "".join(f"{size:>10,} items" for size in sizes) + f"{'ratio':>9}{'labels/s':>14}")
    for missing in (0.0, 0.5):
        data = [problem(size, missing) for size in sizes]
        labels = [int((part.annotations >= 0).sum()) for part in data]
        for name, write in writers(missing).items():
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / name.split(",")[0]
                found = []
                for part in data:
                    write(path, part)
                    found.append(seconds(path, repeats))
            row = "".join(f"{value:>16.3f}" for value in found)
            print(f"{name:<28}{row}{found[1] / found[0]:>9.1f}{labels[1] / found[1]:>14,.0f}", flush=True)


if __name__ == "__main__":
    main()
