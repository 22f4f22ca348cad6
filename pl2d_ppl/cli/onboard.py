"""``pl2d onboard``: the onboarding experiment over seeds and numbers of context items."""

import dataclasses
import warnings
from collections.abc import Sequence
from enum import StrEnum
from hashlib import sha256
from pathlib import Path
from typing import Annotated as Option

import jax
import typer
from tqdm.auto import tqdm

from pl2d_ppl.checks.warn import warn
from pl2d_ppl.cli.options import Seed, VoteModelName, floats, integers, names, reports_errors
from pl2d_ppl.cli.reading import ReadingOptions, read_with_features, takes_reading_options
from pl2d_ppl.clusters.fit import equal_sizes
from pl2d_ppl.data import Annotated
from pl2d_ppl.data.files.formats import digest
from pl2d_ppl.experiments.curve import coverage_bounds
from pl2d_ppl.experiments.methods import METHODS, NEED_MEMBERSHIP
from pl2d_ppl.experiments.onboarding.firm import kept_items, most_context
from pl2d_ppl.experiments.onboarding.options import OnboardingOptions
from pl2d_ppl.experiments.onboarding.seeds import PUBLISHED, draw_report, run_seed
from pl2d_ppl.experiments.reports import add_seed, resume_report, select_seeds
from pl2d_ppl.experiments.tables import also_kept, onboard_table
from pl2d_ppl.inference.schedule import Schedule
from pl2d_ppl.io import check_writable
from pl2d_ppl.simulate.digits import digits

__all__ = ["onboard", "run_onboard"]


class Gate(StrEnum):
    """Inputs of the gates."""

    features = "features"
    features_confidence = "features+confidence"


@reports_errors
@takes_reading_options
def onboard(
    reading: ReadingOptions,
    data: Option[
        Path | None,
        typer.Argument(
            help="Items with features and truth: a .npz with x and y, a table with x_0, x_1, ... and truth, or .nc; "
            "people are simulated. By default the noisy digits of the demo."
        ),
    ] = None,
    people: Option[int, typer.Option(help="People on the staff.", min=1)] = 6,
    context: Option[str, typer.Option(help="Numbers of items that everybody annotates, with commas.")] = "100,200",
    seeds: Option[int, typer.Option(help="Number of seeds.", min=1)] = 5,
    seed: Seed = 0,
    rates: Option[str, typer.Option(help="Nominal error rates of groups of people, with commas.")] = ".05,.2,.35",
    clusters: Option[int, typer.Option(help="Number of clusters.", min=1)] = 3,
    vote_model: Option[
        VoteModelName, typer.Option(help="How clusters are found: urn, or lda as in paper B.")
    ] = VoteModelName.urn,
    alpha: Option[float, typer.Option(help="Concentration of LDA.")] = 50.0,
    own_items: Option[
        bool,
        typer.Option("--own-items/--same-items", help="Whether everybody annotates items of their own, or the same."),
    ] = False,
    replaced: Option[float, typer.Option(help="Share of the staff replaced by newcomers after training.")] = 0.0,
    gate: Option[Gate, typer.Option(help="Whether gates see how sure the AI is; pooled always does.")] = Gate.features,
    methods: Option[str, typer.Option(help="What to compare, with commas, such as two-stage,pooled.")] = "all",
    coverages: Option[str, typer.Option(help="Shares that the AI decides, with commas.")] = "0,.2,.4,.6,.8,1",
    steps: Option[int, typer.Option(help="Steps of SGD of the gates, rounded to whole epochs.", min=1)] = 400,
    cluster_steps: Option[int, typer.Option(help="Steps of Adam of the clusters, likewise.", min=1)] = 1000,
    ai_steps: Option[int, typer.Option(help="Steps of the AI, likewise.", min=1)] = 2000,
    out: Option[Path, typer.Option(help="Folder to write to.")] = Path("outputs/onboard"),
) -> None:
    """Compare methods on people known from few items.

    Clusters of people are found in anonymous votes. Finished seeds are kept.
    """
    chosen = METHODS if methods == "all" else tuple(dict.fromkeys(names(methods)))
    options = OnboardingOptions(
        people=people,
        rates=tuple(floats(rates)),
        clusters=clusters,
        vote_model=vote_model.value,
        alpha=alpha,
        own_items=own_items,
        replaced=replaced,
        gate_input=gate.value,
        coverages=tuple(floats(coverages)),
        methods=chosen,
        schedule=Schedule(steps=steps),
        cluster_steps=cluster_steps,
        ai_steps=ai_steps,
    )
    typer.echo(run_onboard(data, out, integers(context), range(seed, seed + seeds), options, reading))


def run_onboard(
    path: Path | None,
    out: Path,
    contexts: Sequence[int],
    seeds: Sequence[int],
    options: OnboardingOptions,
    reading: ReadingOptions | None = None,
) -> str:
    """Run ``pl2d onboard``."""
    contexts = sorted(set(contexts))
    _check(contexts, options)
    data, source = _read(path, reading)
    if options.gate_input == "features+confidence" and data.x.ndim != 2:
        raise ValueError(
            f"Expected features of shape (N, D) beside the AI's confidence, found images, {data.x.shape}. Pass --gate "
            "features."
        )
    _check_items(data.num_items, contexts[-1], options)
    path = out / "report.json"
    check_writable(path)
    settings = {**source, "contexts": contexts, "options": dataclasses.asdict(options)}
    empty = {"settings": settings, "seeds": [], "published": {"cifar100": PUBLISHED}}
    report = resume_report(path, settings, empty)
    fits = len(contexts) * len(options.methods)
    with tqdm(total=len(seeds) * fits, unit="fit") as bar:
        for seed in seeds:
            if seed in report["seeds"]:
                bar.update(fits)
                continue
            people, row = run_seed(seed, data, contexts, options, bar.update)
            report = add_seed(path, report, settings, seed, row, people=people)
    written = ", ".join(map(str, [path, *draw_report(out, report)]))
    return f"{onboard_table(select_seeds(report, seeds))}\nWritten: {written}{also_kept(report, seeds)}"


def _check(contexts: Sequence[int], options: OnboardingOptions) -> None:
    """Refuse bad options now, which would otherwise fail only after the AI was trained."""
    if not contexts or contexts[0] < 1:
        raise ValueError(f"Expected numbers of context items from 1 up, found {contexts or 'none'}.")
    if any(not 0 <= rate <= 1 for rate in options.rates):
        raise ValueError(f"Expected error rates between 0 and 1, shares of the items, found {list(options.rates)}.")
    if not options.coverages:
        raise ValueError("Expected at least one coverage, found none. Pass --coverages 0,.5,1.")
    for coverage in options.coverages:
        coverage_bounds(coverage, 1)
    if not {*NEED_MEMBERSHIP, "pooled"} & set(options.methods):
        return
    if options.vote_model == "urn":
        equal_sizes(options.people, options.clusters)
    elif not options.alpha > 0:
        raise ValueError(f"Expected a positive concentration alpha, found {options.alpha}.")


def _check_items(num_items: int, num_context: int, options: OnboardingOptions) -> None:
    most = most_context(num_items, options)
    if num_context > most:
        test, unlabelled, least = kept_items(num_items, options)
        raise ValueError(
            f"Expected at most {most} context items, found {num_context}: of {num_items} items, {test} are for "
            f"testing, {unlabelled} to fit offsets, and at least {least} for training. Lower --context, or bring more "
            "items."
        )


def _read(path: Path | None, reading: ReadingOptions | None) -> tuple[Annotated, dict[str, str]]:
    """Read items with truth from a file, or take those of the demo; also return their source."""
    if path is None:
        data = digits(jax.random.key(0))
        return data, {"data": "digits", "sha256": sha256(data.x.tobytes() + data.y.tobytes()).hexdigest()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # people without annotations do not matter here
        data, test = read_with_features(path, reading)
    unused = {
        f"annotations of {data.num_experts} people": data.num_experts,
        "groups, since items are split at random": data.group is not None,
        "a test part": test is not None,
        f"{(data.y < 0).sum()} items without truth": (data.y < 0).any(),
    }
    if any(unused.values()):
        found = "; ".join(what for what, is_there in unused.items() if is_there)
        warn(
            f"Expected items alone in {path}, on which people are simulated, found more, which is left aside: {found}."
        )
    known = data.take(data.y >= 0)
    return known, {"data": path.name, "sha256": digest(path)}
