"""``pl2d demo``: handwritten digits, two simulated experts, half of their annotations missing."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated as Option

import jax
import typer
from tqdm.auto import tqdm

from pl2d_ppl.cli.options import reports_errors
from pl2d_ppl.data import Annotated
from pl2d_ppl.engine.workload import workload
from pl2d_ppl.experiments.curve import coverage_bounds
from pl2d_ppl.experiments.methods import build_method
from pl2d_ppl.experiments.plots import plot_curve
from pl2d_ppl.experiments.reports import write_json
from pl2d_ppl.experiments.seeds import prepare_split, run_seeds
from pl2d_ppl.experiments.tables import curve_table
from pl2d_ppl.guides.exact import exact
from pl2d_ppl.inference.arviz import to_datatree
from pl2d_ppl.inference.fit import fit
from pl2d_ppl.inference.schedule import Schedule
from pl2d_ppl.io import check_writable, written_whole
from pl2d_ppl.plots import save_figure
from pl2d_ppl.simulate.digits import digits

__all__ = ["demo", "run_demo"]

HIDDEN = (64,)
METHODS = ("naive", "prob-l2d")


@reports_errors
def demo(
    quick: Option[bool, typer.Option("--quick", help="Fewer coverages and steps.")] = False,
    out: Option[Path, typer.Option(help="Folder to write to.")] = Path("outputs/demo"),
) -> None:
    """Handwritten digits, two simulated experts, half of their annotations missing."""
    typer.echo(run_demo(out, quick=quick))


def run_demo(out: Path, *, quick: bool = False) -> str:
    """Run ``pl2d demo``; write curve.png, report.json and posterior.nc, and return the table."""
    check_writable(out / "report.json")
    coverages = (0.0, 0.5, 1.0) if quick else (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    schedule = Schedule(steps=200 if quick else 600)
    seeds = range(1 if quick else 2)

    def prepare(key: jax.Array, seed: int) -> tuple[Annotated, Annotated]:
        data_key, split_key = jax.random.split(key)
        return prepare_split(split_key, digits(data_key), None, seed=seed, missing=0.5)

    with tqdm(total=len(METHODS) * len(seeds) * len(coverages), unit="fit") as bar:
        run = partial(run_seeds, prepare, seeds, coverages, on_point=bar.update, schedule=schedule, hidden=HIDDEN)
        reports = {name: run({"data": "digits", "method": name}, method=name) for name in METHODS}
    write_json(out / "report.json", reports)
    save_figure(plot_curve(reports).figure, out / "curve.png")
    _save_posterior(out / "posterior.nc", prepare, schedule)
    files = ", ".join(str(out / name) for name in ("curve.png", "posterior.nc", "report.json"))
    return f"{curve_table(reports)}\nWritten: {files}"


def _save_posterior(path: Path, prepare: Callable, schedule: Schedule) -> None:
    """Fit at coverage one half, and write the posterior of who decides the test items, and of annotations."""
    fit_key, posterior_key = jax.random.split(jax.random.key(0))
    train, test = prepare(fit_key, 0)
    lower, upper = coverage_bounds(0.5, train.num_experts)
    model, _ = build_method("prob-l2d", train, HIDDEN, "exact")
    guide = workload(exact(model, ["z"]), "z", lower, upper)
    num_items = train.num_items
    result = fit(
        fit_key,
        model,
        guide,
        train.batch(),
        schedule.optimizer(num_items),
        epochs=schedule.epochs(num_items),
        batch_size=schedule.batch(num_items),
        progress=False,
    )
    coords = {"expert": [*train.annotators, "AI"], "category": list(train.classes)}
    tree = to_datatree(posterior_key, result, test.batch(), num_samples=100, coords=coords)
    with written_whole(path) as scratch:
        tree.to_netcdf(scratch, engine="h5netcdf")
