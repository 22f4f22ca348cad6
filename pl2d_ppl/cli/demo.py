"""The demonstration: handwritten digits, two simulated experts, half of their annotations missing."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import numpy as np
from tqdm.auto import tqdm

from pl2d_ppl.cli.commands import curve_table, save_figure
from pl2d_ppl.data import Annotated
from pl2d_ppl.engine.workload import workload
from pl2d_ppl.experiments.curve import coverage_bounds
from pl2d_ppl.experiments.methods import build_method
from pl2d_ppl.experiments.plots import plot_curve
from pl2d_ppl.experiments.reports import write_json
from pl2d_ppl.experiments.seeds import prepare_split, run_seeds
from pl2d_ppl.inference.arviz import to_datatree
from pl2d_ppl.inference.fit import fit
from pl2d_ppl.inference.schedule import Training
from pl2d_ppl.io import check_writable, written_whole
from pl2d_ppl.simulate import superclass_experts

__all__ = ["digits", "run_demo"]

METHODS = ("naive", "prob-l2d")
NOISE = 1.0  # of the pixels, in units of their spread: clean digits leave the AI nothing to defer


def digits(rng_key: jax.Array) -> Annotated:
    """Scikit-learn's digits with pixel noise, and two experts: one right on 0 to 4, one on 5 to 9.

    Parameters
    ----------
    rng_key : Array
        Key of the noise and the experts.

    Returns
    -------
    Annotated
        1,797 images as vectors of 64 pixels.
    """
    from sklearn.datasets import load_digits

    noise_key, expert_key = jax.random.split(rng_key)
    loaded = load_digits()
    x = loaded.data / loaded.data.std()
    x = x + NOISE * np.asarray(jax.random.normal(noise_key, x.shape))
    y = loaded.target.astype(np.int32)
    said = superclass_experts(expert_key, y, y, 10, [range(5), range(5, 10)])
    classes = tuple(str(c) for c in range(10))
    return Annotated(x.astype(np.float32), y, said, classes=classes, annotators=("expert 0-4", "expert 5-9"))


def run_demo(out: Path, *, quick: bool = False) -> str:
    """Run ``pl2d demo``: the table, curve.png, report.json and posterior.nc."""
    check_writable(out / "report.json")
    coverages = (0.0, 0.5, 1.0) if quick else (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    training = Training(hidden=(64,), steps=200 if quick else 600, batch_size=128)
    seeds = range(1 if quick else 2)

    def prepare(key: jax.Array, seed: int) -> tuple[Annotated, Annotated]:
        data_key, split_key = jax.random.split(key)
        return prepare_split(split_key, digits(data_key), None, seed=seed, missing=0.5)

    with tqdm(total=len(METHODS) * len(seeds) * len(coverages), unit="fit") as bar:
        run = partial(run_seeds, prepare, seeds, coverages, on_point=bar.update, training=training)
        reports = {name: run({"data": "digits", "method": name}, method=name) for name in METHODS}
    write_json(out / "report.json", reports)
    save_figure(plot_curve(reports).figure, out / "curve.png")
    _save_posterior(out / "posterior.nc", prepare, training)
    files = ", ".join(str(out / name) for name in ("curve.png", "posterior.nc", "report.json"))
    return f"{curve_table(reports)}\nWritten: {files}"


def _save_posterior(path: Path, prepare: Callable, training: Training) -> None:
    """Fit at coverage one half, and write the posterior of the test items' deciders and annotations."""
    fit_key, posterior_key = jax.random.split(jax.random.key(0))
    train, test = prepare(fit_key, 0)
    from pl2d_ppl.guides.exact import exact

    lower, upper = coverage_bounds(0.5, train.num_experts)
    model, _ = build_method("prob-l2d", train, training.hidden, "exact")
    model = partial(model, latent_annotations=True)
    guide = workload(exact(model, ["z"]), "z", lower, upper)
    epochs, optimizer = training.epochs(train.num_items), training.optimizer(train.num_items)
    result = fit(
        fit_key,
        model,
        guide,
        train.batch(),
        optimizer,
        epochs=epochs,
        batch_size=training.batch_size,
        progress=False,
        on_interrupt="raise",
    )
    coords = {"expert": [*train.annotators, "AI"], "category": list(train.classes)}
    tree = to_datatree(posterior_key, result, test.batch(), num_samples=100, coords=coords)
    with written_whole(path) as scratch:
        tree.to_netcdf(scratch)
