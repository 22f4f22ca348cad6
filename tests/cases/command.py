"""The command ``pl2d`` on a tiny file."""

import json
import re

import numpy as np
from typer.testing import CliRunner

from pl2d_ppl import Annotated
from pl2d_ppl.cli.app import app

TINY = ["--steps", "4", "--batch-size", "16", "--coverages", "0,1", "--method", "two-stage"]


def pl2d(*args):
    return CliRunner().invoke(app, [str(a) for a in args])


def plain(text):
    """Text without colours and frames, its words separated by one blank."""
    return re.sub(r"[\s│╭╮╰╯─]+", " ", re.sub(r"\x1b\[[0-9;]*m", "", text))


def read(folder):
    return json.loads((folder / "report.json").read_text())


def toy(seed=0, num_items=48, constant=0.1):
    """Blobs; the first expert is right, the second guesses; one feature is constant."""
    rng = np.random.default_rng(seed)
    y = np.arange(num_items) % 3
    x = np.column_stack([3 * np.eye(3)[y] + rng.standard_normal((num_items, 3)), np.full(num_items, constant)])
    said = np.stack([y, rng.integers(0, 3, num_items)], 1)
    said[rng.random(said.shape) < 0.3] = -1
    return Annotated(x, y, said, classes=("cat", "dog", "owl"), annotators=("Ada", "Bob"))


def refused(result, *words):
    """Assert that a command ended with one message, and no traceback."""
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    for word in words:
        assert word in plain(result.output), result.output


def broken(folder):
    """Files that are no data."""
    content = (folder / "data.npz").read_bytes()
    (folder / "truncated.npz").write_bytes(content[: len(content) // 2])
    (folder / "empty.npz").write_bytes(b"")
    (folder / "text.npz").write_text("no archive")
    np.savez(folder / "keyless.npz", a=np.zeros(3))
    data = toy()
    np.savez(folder / "nan.npz", x=np.where(np.arange(48)[:, None] == 3, np.nan, data.x), y=data.y)
    np.savez(folder / "unannotated.npz", x=data.x, y=data.y)
    np.savez(folder / "narrow.npz", x=data.x[:, :2], y=data.y, annotations=data.annotations)


def ctrl_c():
    """What Ctrl-C does: a signal would be ignored in a test run that is in the background."""
    raise KeyboardInterrupt
