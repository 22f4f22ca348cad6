"""Damaged files of all formats: data or a ValueError with advice, never a traceback, a hang or noise."""

import random
import time
import warnings

import numpy as np
import pytest
from cases.exports import EXPORTS, zooniverse_reductions

from pl2d_ppl import Annotated
from pl2d_ppl.data import read_data, write_data

TOKENS = (b'"', b",", b"\n", b"\0", b"\xff", b"[", b"}", b"null", b"-1", b"1e999", b"\\u0000", b"\r", b"{}", b"9" * 400)
LONGEST = 10  # seconds


def originals(folder):
    """A file of each format, by name."""
    rng = np.random.default_rng(0)
    data = Annotated(
        rng.normal(size=(12, 2)),
        rng.integers(0, 3, 12),
        rng.integers(-1, 3, (12, 3)),
        classes=("cat", "dog", "owl"),
        annotators=("ann", "bo", "cy"),
        items=[f"i{n}" for n in range(12)],
    )
    found = {name: write() for name, (write, *_) in EXPORTS.items()} | {"reductions.csv": zooniverse_reductions()}
    for name, options in {
        "d.npz": {},
        "d.nc": {},
        "long.csv": {"features": folder / "x.npz"},
        "wide.csv": {"layout": "wide"},
        "wide.tsv": {"layout": "wide"},
        "wide.parquet": {"layout": "wide"},
    }.items():
        write_data(folder / name, data, **options)
        found[name] = (folder / name).read_bytes()
    return found


def mutated(content, rng):
    """Change, insert, remove, repeat or cut some bytes."""
    content = bytearray(content)
    for _ in range(rng.randint(1, 2)):
        at, size = rng.randrange(len(content) + 1), rng.randint(1, 12)
        kind = rng.randrange(6)
        if kind == 0:
            content[at : at + 1] = bytes([rng.randrange(256)])
        elif kind == 1:
            content[at:at] = rng.choice(TOKENS)
        elif kind == 2:
            del content[at : at + size]
        elif kind == 3:
            content[at:at] = content[at : at + size]
        elif kind == 4 and rng.random() < 0.2:
            del content[at:]
        else:
            other = rng.randrange(len(content) + 1)
            content[at : at + size] = content[other : other + size]
    return bytes(content)


def outcome(path):
    """Read a file: None, or the message of the ValueError; any other error fails the test."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        try:
            read_data(path, subset=True)[0].summary()
        except ValueError as error:
            return str(error)
    return None


def survive(folder, number, seed):
    """Read that many damaged files; return how many were read, and how many refused."""
    rng = random.Random(seed)
    files = originals(folder)
    names = sorted(files)
    counts = {"read": 0, "refused": 0}
    for i in range(number):
        name = names[i % len(names)]
        path = folder / f"damaged_{name}"
        path.write_bytes(mutated(files[name], rng))
        start = time.perf_counter()
        told = outcome(path)
        assert told is None or (told.startswith("Expected") or ": Expected" in told), (path.name, i, told)
        assert time.perf_counter() - start < LONGEST, (name, i)
        counts["read" if told is None else "refused"] += 1
    return counts


def test_a_few_damaged_files(tmp_path, capfd):
    counts = survive(tmp_path, 300, seed=0)
    assert min(counts.values()) > 10
    assert capfd.readouterr() == ("", "")


@pytest.mark.exhaustive
@pytest.mark.parametrize("seed", range(1, 11))
def test_twenty_thousand_damaged_files(tmp_path, capfd, seed):
    counts = survive(tmp_path, 2_000, seed)
    assert min(counts.values()) > 100
    assert capfd.readouterr() == ("", "")
