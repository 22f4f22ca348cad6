"""Files that once took gigabytes: memory goes with the annotations."""

import subprocess
import sys

import pytest

CHILD = """
import resource, sys, time
from pl2d_ppl.cli.data import run_describe
from pl2d_ppl.cli.reading import ReadingOptions
from pathlib import Path
start = time.perf_counter()
told = run_describe(Path(sys.argv[1]), ReadingOptions(), plot=None, as_json=False)
memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
print(time.perf_counter() - start, memory, told.count(chr(10)), "5000 people" in told, sep="|")
"""


@pytest.mark.exhaustive
def test_many_people_take_seconds_and_less_than_a_gigabyte(tmp_path):
    rows = "\n".join(f"{n // 3},{(n * 7919 + n // 3) % 5000},{n % 4}" for n in range(600_000))
    (tmp_path / "in.csv").write_text(f"item,worker,label\n{rows}\n")
    found = subprocess.run(
        [sys.executable, "-c", CHILD, tmp_path / "in.csv"], check=True, capture_output=True, text=True
    )
    seconds, gigabytes, lines, complete = found.stdout.strip().split("|")
    assert float(seconds) < 15  # 2 on an idle machine
    assert float(gigabytes) < 1
    assert int(lines) < 40
    assert complete == "True"


def test_rows_of_names_keep_the_size_of_the_text(tmp_path):
    """Twenty thousand names, one of them long: the arrays are small, and a round trip keeps them."""
    import numpy as np

    from pl2d_ppl.data import read_data, write_data

    names = [f"item {n}" for n in range(20_000)] + ["long " * 20_000]
    rows = "\n".join(f"{name},m,{n % 2},{n % 2}" for n, name in enumerate(names))
    (tmp_path / "in.csv").write_text(f"item,annotator,label,truth\n{rows}\n")
    data, _ = read_data(tmp_path / "in.csv")
    assert data.items.nbytes < 10 * len(rows)
    for name in ("d.npz", "d.nc", "d.csv", "d.parquet"):
        write_data(tmp_path / name, data)
        assert (tmp_path / name).stat().st_size < 4 * len(rows)
        np.testing.assert_array_equal(read_data(tmp_path / name)[0].items, data.items)
