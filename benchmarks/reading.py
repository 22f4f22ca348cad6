"""Time and memory to read annotations.

First by format, of many items by 20 people: ten times the items should take ten times as long. Labels in tables are
names, half of them missing; rows of long tables are in random order. Then by size, of files that once took gigabytes:
600,000 labels by 5,000 people, one long name among short ones, and 100,000 long names; each in a process of its own,
from its start to the printed description.
"""

import argparse
import subprocess
import sys
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


def many_people(path: Path, labels: int = 600_000, people: int = 5_000) -> None:
    rng = np.random.default_rng(0)
    items = np.repeat(np.arange(labels // 3), 3)
    who = (rng.integers(0, people, labels // 3)[:, None] + np.array([0, 1, 2])) % people
    pd.DataFrame({"item": items, "worker": who.ravel(), "label": rng.integers(0, 4, len(items))}).to_csv(
        path, index=False
    )


def one_long_name(path: Path) -> None:
    rows = [f"short text {i},{who},{i % 2}" for i in range(5_000) for who in "ab"]
    path.write_text("\n".join(["item,annotator,label", *rows, f"{'long ' * 8_000},a,0"]))


def long_names(path: Path) -> None:
    rows = [f"{i} {'x' * 1_000},{who},{i % 2}" for i in range(100_000) for who in "ab"]
    path.write_text("\n".join(["item,annotator,label", *rows]))


CHILD = """
import resource, sys, time
start = time.perf_counter()
from pathlib import Path
from pl2d_ppl.cli.data import run_describe
from pl2d_ppl.cli.reading import ReadingOptions
lines = run_describe(Path(sys.argv[1]), ReadingOptions(), plot=None, as_json=False).count(chr(10)) + 1
print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10, lines)
"""


def print_sizes() -> None:
    print(f"\n{'from start to description':<40}{'file, MB':>10}{'seconds':>10}{'memory, MB':>12}{'lines':>8}")
    for name, write in {
        "600,000 labels by 5,000 people": many_people,
        "5,000 names, one of 40,000 letters": one_long_name,
        "100,000 names of 1,000 letters": long_names,
    }.items():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "in.csv"
            write(path)
            child = subprocess.run([sys.executable, "-c", CHILD, path], check=True, capture_output=True, text=True)
            took, memory, lines = child.stdout.split()
            size = path.stat().st_size / 2**20
            print(f"{name:<40}{size:>10.1f}{float(took):>10.2f}{float(memory):>12.0f}{lines:>8}", flush=True)


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
    print_sizes()


if __name__ == "__main__":
    main()
