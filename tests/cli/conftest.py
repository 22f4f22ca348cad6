"""Fixtures that tests of this folder share."""

import pytest
from cases.command import broken, pl2d, toy
from flax import nnx
from tqdm.auto import tqdm

from pl2d_ppl.data import write_npz


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A folder with data, and with files that are none."""
    folder = tmp_path_factory.mktemp("cli")
    write_npz(folder / "data.npz", toy())
    broken(folder)
    return folder


@pytest.fixture
def data(folder):
    return folder / "data.npz"


@pytest.fixture(scope="session")
def fitted(folder):
    """Output and folder of a fit."""
    options = ["--epochs", "2", "--batch-size", "16", "--lower", "0,0,.5", "--upper", "1,1,.5"]
    result = pl2d("fit", folder / "data.npz", "--out", folder / "fit", *options)
    assert result.exit_code == 0, result.output
    return result.output, folder / "fit"


@pytest.fixture
def no_training(monkeypatch):
    """Whoever builds a network fails the test."""
    monkeypatch.setattr(nnx.Linear, "__init__", lambda *args, **options: pytest.fail("trained in vain"))


@pytest.fixture
def at_fit(monkeypatch):
    """Call a function when the progress bar of fits has been told of so many."""

    def call(number, function):
        told, update = [], tqdm.update

        def updated(bar, *args):
            if bar.unit == "fit":
                told.append(args)
                if len(told) == number:
                    function()
            return update(bar, *args)

        monkeypatch.setattr(tqdm, "update", updated)

    return call
