"""Fits on disk: read back, gone on from, and never half-written."""

import gc
import json
import os
import time
import warnings
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from flax import nnx
from numpyro.contrib.module import nnx_module
from programs import ENUMERATE

from pl2d_ppl import MLP, PerRun, fit, load, workload
from pl2d_ppl.io import written_whole
from pl2d_ppl.networks import instantiate

KEY = jax.random.key(0)
OPTIMIZER = optax.adam(optax.cosine_decay_schedule(0.05, 12))
RNG = np.random.default_rng(0)
DATA = {"x": RNG.standard_normal((24, 3)).astype(np.float32), "y": RNG.integers(0, 3, 24).astype(np.int32)}
VALIDATION = {n: a[:10] for n, a in DATA.items()}
BOUNDS = np.array([[0, 0, 0.5], [0.1, 0, 0]]), np.array([[1, 1, 0.5], [1, 0.4, 1.0]])


# When orbax fails to read an array, its other coroutines fail later, in threads of their own.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True, scope="module")
def _let_coroutines_end():
    yield
    time.sleep(0.2)
    gc.collect()  # what is left of orbax's coroutines goes here


class Regularised(nnx.Module):
    """Batch normalisation and dropout: a fit has mutable state, and a key in it."""

    def __init__(self, width, *, rngs):
        self.first, self.last = nnx.Linear(3, width, rngs=rngs), nnx.Linear(width, 3, rngs=rngs)
        self.norm, self.dropout = nnx.BatchNorm(width, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return self.last(self.dropout(nnx.relu(self.norm(self.first(x)))))


def program(x, y=None, *, gating, classifier):
    gate_logits = numpyro.deterministic("gate_logits", nnx_module("gating", instantiate(gating))(x))
    ai_logits = numpyro.deterministic("ai_logits", nnx_module("classifier", instantiate(classifier))(x))
    with numpyro.plate("item", len(x), dim=-2):
        numpyro.sample("z", dist.Categorical(logits=gate_logits[:, None]), infer=dict(ENUMERATE))
        if y is not None:
            numpyro.sample("y", dist.Categorical(logits=ai_logits[:, None]), obs=y[:, None])


def guide_of_z(x, y=None):
    with numpyro.plate("item", len(x), dim=-2):
        numpyro.sample("z", dist.Categorical(logits=x[:, None]), infer=dict(ENUMERATE))


def model_of(width=8):
    return partial(program, gating=partial(MLP, 3, (), 3), classifier=partial(Regularised, width))


MODEL = model_of()
SINGLE = workload(guide_of_z, "z", BOUNDS[0][0], BOUNDS[1][0], window=24)
BATCHED = workload(guide_of_z, "z", *map(PerRun, BOUNDS), window=24)
KEYS = jax.random.split(KEY, 2)
run = partial(fit, model=MODEL, data=DATA, optimizer=OPTIMIZER, batch_size=8, validation=VALIDATION, progress=False)
CASES = {"single": (KEY, SINGLE), "batched": (KEYS, BATCHED)}


@pytest.fixture(scope="module")
def fits():
    """Part and whole of the fit of a case, two epochs and four."""

    @cache
    def made(name):
        key, guide = CASES[name]
        return tuple(run(key, guide=guide, epochs=e) for e in (2, 4))

    return made


@pytest.fixture
def saved(fits, tmp_path):
    """A single fit of two epochs on disk."""
    fits("single")[0].save(tmp_path / "fit")
    return tmp_path / "fit"


def raw(tree):
    is_key = lambda a: isinstance(a, jax.Array) and jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key)  # noqa: E731
    return jax.tree.map(lambda a: np.asarray(jax.random.key_data(a) if is_key(a) else a), tree)


def assert_same(one, other):
    for name in ("state", "best_state", "best_loss", "stale", "history"):
        a, b = raw(getattr(one, name)), raw(getattr(other, name))
        assert jax.tree.structure(a) == jax.tree.structure(b)
        jax.tree.map(np.testing.assert_array_equal, a, b)
        assert [v.dtype for v in jax.tree.leaves(a)] == [v.dtype for v in jax.tree.leaves(b)]
    assert (one.epoch, one.status, one.example) == (other.epoch, other.status, other.example)


def read(path, model=MODEL, guide=SINGLE, optimizer=OPTIMIZER):
    return load(path, model, guide, optimizer)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["single", "batched"])
def test_a_fit_is_read_back_and_goes_on_bit_for_bit(fits, tmp_path, name):
    part, whole = fits(name)
    key, guide = CASES[name]
    part.save(tmp_path / "deep" / "fit")
    loaded = load(tmp_path / "deep" / "fit", MODEL, guide, OPTIMIZER)
    assert_same(loaded, part)
    for a, b in zip(loaded.predict(DATA["x"]), part.predict(DATA["x"]), strict=True):
        np.testing.assert_array_equal(a, b)
    assert_same(run(key, guide=guide, epochs=4, resume=loaded), whole)


@pytest.mark.slow
def test_programs_built_anew_read_a_fit(saved, fits):
    """As in another process, where nothing of the first is left: equal programs, not the same."""
    guide = workload(partial(guide_of_z), "z", BOUNDS[0][0], BOUNDS[1][0], window=24)
    optimizer = optax.adam(optax.cosine_decay_schedule(0.05, 12))
    part, whole = fits("single")
    loaded = load(saved, model_of(), guide, optimizer)
    assert loaded.compiled is not part.compiled
    assert_same(loaded, part)
    assert_same(
        fit(
            KEY,
            loaded.model,
            guide,
            DATA,
            optimizer,
            epochs=4,
            batch_size=8,
            validation=VALIDATION,
            progress=False,
            resume=loaded,
        ),
        whole,
    )


@pytest.mark.slow
def test_paths_may_be_strings_and_relative(fits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fits("single")[0].save("fit")
    assert_same(read("fit"), fits("single")[0])
    assert [p.name for p in tmp_path.iterdir()] == ["fit"]


def refuses(path, message="Expected", **other):
    """Assert that a path is refused, and that no file is left open."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises(ValueError, match=message):
            read(path, **other)
        gc.collect()
    assert not [w for w in caught if issubclass(w.category, ResourceWarning) and str(path) in str(w.message)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "other",
    [
        {"model": model_of(9)},
        {"optimizer": optax.sgd(0.1)},
        {"guide": workload(guide_of_z, "z", BOUNDS[0][0], BOUNDS[1][0], window=48)},
        {"guide": BATCHED},
    ],
    ids=["width", "optimizer", "longer window", "bounds of runs"],
)
def test_other_programs_are_refused(saved, other):
    refuses(saved, **other)


def truncate(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def state_files(folder):
    """Where orbax keeps the arrays."""
    return [p for p in (folder / "state").rglob("*") if p.is_file() and "d" in p.parts[len(folder.parts) :]]


def each(files, change):
    assert files
    for path in files:
        change(path)


DAMAGES = {
    "no folder": lambda folder: folder.rename(folder.with_name("elsewhere")),
    "no notes": lambda folder: (folder / "fit.json").unlink(),
    "truncated notes": lambda folder: truncate(folder / "fit.json"),
    "empty notes": lambda folder: (folder / "fit.json").write_text(""),
    "notes that are a list": lambda folder: (folder / "fit.json").write_text("[1]"),
    "notes without an entry": lambda folder: (folder / "fit.json").write_text('{"format": 1}'),
    "notes of another format": lambda folder: (folder / "fit.json").write_text('{"format": 99}'),
    "no history": lambda folder: (folder / "history.npz").unlink(),
    "truncated history": lambda folder: truncate(folder / "history.npz"),
    "empty history": lambda folder: (folder / "history.npz").write_bytes(b""),
    "history without an entry": lambda folder: np.savez(folder / "history.npz", loss=np.zeros(2)),
    "no state": lambda folder: (folder / "state").rename(folder / "lost"),
    "truncated state": lambda folder: each(state_files(folder), truncate),
    "state without its arrays": lambda folder: each(state_files(folder), lambda path: path.unlink()),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_not_a_whole_fit_is_refused(saved, damage):
    DAMAGES[damage](saved)
    refuses(saved, f"Expected.* {saved}")


class Crash(BaseException):
    """Not an Exception: like a signal."""


def crash(*args, **kwargs):
    raise Crash


PARTS = {
    "history": ("numpy.savez", crash),
    "notes": ("json.dumps", crash),
    "state": ("orbax.checkpoint.StandardCheckpointer.save", crash),
    "replacing": ("os.replace", crash),
}


@pytest.mark.parametrize("part", PARTS)
def test_a_crash_while_writing_keeps_the_older_fit(saved, fits, monkeypatch, part):
    with monkeypatch.context() as patched:
        patched.setattr(*PARTS[part])
        with pytest.raises(Crash):
            fits("single")[1].save(saved)
    assert_same(read(saved), fits("single")[0])
    assert [p.name for p in saved.parent.iterdir()] == ["fit"]  # and nothing is left behind


@pytest.mark.parametrize("part", PARTS)
def test_a_crash_while_writing_anew_leaves_nothing(fits, tmp_path, monkeypatch, part):
    with monkeypatch.context() as patched:
        patched.setattr(*PARTS[part])
        with pytest.raises(Crash):
            fits("single")[1].save(tmp_path / "fit")
    assert list(tmp_path.iterdir()) == []


def test_a_newer_fit_replaces_an_older_one(saved, fits):
    fits("single")[1].save(saved)
    assert_same(read(saved), fits("single")[1])
    assert [p.name for p in saved.parent.iterdir()] == ["fit"]


def test_a_folder_of_other_things_is_not_replaced(fits, tmp_path):
    """What a user keeps in a folder is theirs: only an older fit may make way."""
    folder = tmp_path / "results"
    folder.mkdir()
    (folder / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="Expected"):
        fits("single")[0].save(folder)
    assert (folder / "thesis.txt").read_text() == "years of work"


def test_an_unwritable_folder_is_refused(fits, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="Expected a folder that can be written to"):
        fits("single")[0].save(tmp_path / "file" / "fit")
    assert (tmp_path / "file").read_text() == ""


def test_a_path_that_is_a_file_is_refused_and_kept(fits, tmp_path):
    (tmp_path / "file").write_text("kept")
    with pytest.raises(ValueError, match="Expected"):
        fits("single")[0].save(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "kept"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "report.json"
    with written_whole(path) as scratch:
        scratch.write_text("one")
        assert not path.exists()
    assert path.read_text() == "one"
    with pytest.raises(Crash), written_whole(path) as scratch:
        crash(scratch.write_text("tw"))
    assert path.read_text() == "one"
    assert os.listdir(path.parent) == ["report.json"]


def test_a_file_does_not_take_the_place_of_a_folder(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="Expected"), written_whole(tmp_path / "out") as scratch:
        scratch.write_text("one")
    assert (tmp_path / "out" / "thesis.txt").exists()


def test_notes_say_what_was_fitted(saved):
    notes = json.loads((saved / "fit.json").read_text())
    assert (notes["epoch"], notes["status"], notes["batched"]) == (2, "completed", False)
    assert jnp.dtype(notes["example"]["x"][1]) == np.float32
