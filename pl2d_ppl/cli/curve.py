"""``pl2d curve``: train at several coverages; report accuracy against coverage."""

import dataclasses
from enum import StrEnum
from pathlib import Path
from typing import Annotated as Option

import jax
import typer
from tqdm.auto import tqdm

from pl2d_ppl.cli.options import Data, Guide, Seed, Steps, floats, reports_errors
from pl2d_ppl.cli.reading import ReadingOptions, read_with_features, takes_reading_options
from pl2d_ppl.data import Annotated
from pl2d_ppl.data.files.formats import digest
from pl2d_ppl.experiments.methods import GuideName
from pl2d_ppl.experiments.plots import plot_curve
from pl2d_ppl.experiments.reports import select_seeds
from pl2d_ppl.experiments.seeds import prepare_split, run_seeds
from pl2d_ppl.experiments.tables import also_kept, curve_table
from pl2d_ppl.inference.schedule import Schedule
from pl2d_ppl.io import check_writable
from pl2d_ppl.plots import save_figure

__all__ = ["CurveOptions", "Method", "curve", "run_curve"]


class Method(StrEnum):
    """Methods that need no memberships of people in clusters."""

    prob_l2d = "prob-l2d"
    naive = "naive"
    one_stage = "one-stage"
    one_vs_all = "one-vs-all"
    two_stage = "two-stage"
    lecodu = "lecodu"
    l2d_pop = "l2d-pop"
    crowd = "crowd"


@reports_errors
@takes_reading_options
def curve(
    data: Data,
    reading: ReadingOptions,
    method: Option[Method, typer.Option(help="Probabilistic L2D, or a baseline.")] = Method.prob_l2d,
    guide: Option[Guide, typer.Option(help="Posterior of who decides and of what is missing: prob-l2d.")] = Guide.exact,
    missing: Option[float, typer.Option(help="Share of the training annotations to drop.", min=0.0, max=1.0)] = 0.0,
    coverages: Option[str, typer.Option(help="Shares that the AI decides, with commas.")] = "0,.2,.4,.6,.8,1",
    seeds: Option[int, typer.Option(help="Number of seeds.", min=1)] = 1,
    test_group_share: Option[float, typer.Option(help="Share of groups, or items, held out for the test.")] = 0.33,
    seed: Seed = 0,
    steps: Steps = 2000,
    batch_size: Option[int, typer.Option(help="Items per step.", min=1)] = 128,
    window: Option[int, typer.Option(help="Items over which workloads are met; 0: in every mini-batch.", min=0)] = 0,
    experts: Option[int, typer.Option(help="Simulated experts, where the file has none.", min=1)] = 2,
    out: Option[Path, typer.Option(help="Folder to write to.")] = Path("outputs/curve"),
) -> None:
    """Train at several coverages; report and plot accuracy against coverage.

    Finished seeds are not run again.
    """
    options = CurveOptions(
        method=method.value,
        guide=guide.value,
        missing=missing,
        coverages=floats(coverages),
        seeds=seeds,
        seed=seed,
        steps=steps,
        batch_size=batch_size,
        window=window or None,
        test_share=test_group_share,
        num_simulated=experts,
    )
    typer.echo(run_curve(data, out, options, reading))


@dataclasses.dataclass(frozen=True)
class CurveOptions:
    """Options of ``pl2d curve``; see its help."""

    method: str
    guide: GuideName
    missing: float
    coverages: list[float]
    seeds: int
    seed: int
    steps: int
    batch_size: int
    window: int | None
    test_share: float
    num_simulated: int


def run_curve(path: Path, out: Path, options: CurveOptions, reading: ReadingOptions | None = None) -> str:
    """Run ``pl2d curve``."""
    if not options.coverages:
        raise ValueError("Expected at least one coverage, found none. Pass --coverages 0,.5,1.")
    train, test = read_with_features(path, reading)
    check_writable(out / "report.json")

    def prepare(key: jax.Array, seed: int) -> tuple[Annotated, Annotated]:
        return prepare_split(
            key,
            train,
            test,
            seed=seed,
            test_share=options.test_share,
            missing=options.missing,
            num_simulated=options.num_simulated,
        )

    settings = {k: v for k, v in dataclasses.asdict(options).items() if k not in ("seeds", "seed", "coverages")}
    seeds = range(options.seed, options.seed + options.seeds)
    with tqdm(total=options.seeds * len(options.coverages), unit="fit") as bar:
        report = run_seeds(
            prepare,
            seeds,
            options.coverages,
            {"data": path.name, "sha256": digest(path), **settings},
            path=out / "report.json",
            on_point=bar.update,
            method=options.method,
            guide=options.guide,
            schedule=Schedule(steps=options.steps, batch_size=options.batch_size),
            window=options.window,
        )
    save_figure(plot_curve({options.method: report}).figure, out / "curve.png")
    table = curve_table({options.method: select_seeds(report, seeds)})
    return f"{table}\nWritten: {out / 'report.json'}, {out / 'curve.png'}{also_kept(report, seeds)}"
