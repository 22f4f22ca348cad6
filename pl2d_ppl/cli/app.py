"""The command ``pl2d``."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated as Option

import typer

from pl2d_ppl.cli.data import data_app
from pl2d_ppl.cli.options import floats, integers, names, reports_errors

__all__ = ["app"]

app = typer.Typer(
    help="Probabilistic learning to defer: who should decide, the AI or one of several people.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(data_app, name="data")

Out = Option[Path, typer.Option(help="Folder to write to.")]
Data = Option[
    Path,
    typer.Argument(
        help="Items with features, truth and annotations. A .npz, or .nc, holds x, y, annotations (-1 where missing); "
        "optionally group, x_test, y_test. A table (.csv, .tsv, .parquet) has truth, a column a person, and x_0, x_1, "
        "...; what comes without features, `pl2d data convert` joins to them."
    ),
]
Steps = Option[int, typer.Option(help="Steps of SGD, rounded to whole epochs.", min=1)]
Seed = Option[int, typer.Option(help="First seed: of the split, the networks and everything simulated.")]


class Method(StrEnum):
    """What can be trained without memberships of people in clusters."""

    prob_l2d = "prob-l2d"
    naive = "naive"
    one_stage = "one-stage"
    one_vs_all = "one-vs-all"
    two_stage = "two-stage"
    lecodu = "lecodu"
    l2d_pop = "l2d-pop"


class Guide(StrEnum):
    """Posterior of the discrete sites."""

    exact = "exact"
    mean_field = "mean-field"


class Program(StrEnum):
    """Model of anonymous votes."""

    urn = "urn"
    lda = "lda"


class Gate(StrEnum):
    """What gates see."""

    features = "features"
    features_confidence = "features+confidence"


@app.command()
@reports_errors
def demo(
    quick: Option[bool, typer.Option("--quick", help="Fewer coverages and steps.")] = False,
    out: Out = Path("outputs/demo"),
) -> None:
    """Handwritten digits, two simulated experts, half of their annotations missing."""
    from pl2d_ppl.cli.demo import run_demo

    typer.echo(run_demo(out, quick=quick))


@app.command()
@reports_errors
def curve(
    data: Data,
    method: Option[Method, typer.Option(help="Probabilistic L2D, or a baseline.")] = Method.prob_l2d,
    guide: Option[Guide, typer.Option(help="Posterior of who decides and of what is missing: prob-l2d.")] = Guide.exact,
    missing: Option[float, typer.Option(help="Share of the training annotations to drop.", min=0.0, max=1.0)] = 0.0,
    coverages: Option[str, typer.Option(help="Shares that the AI decides, with commas.")] = "0,.2,.4,.6,.8,1",
    seeds: Option[int, typer.Option(help="Number of seeds.", min=1)] = 1,
    test_group_share: Option[float, typer.Option(help="Share of groups, or items, held out for the test.")] = 0.33,
    seed: Seed = 0,
    steps: Steps = 2000,
    batch_size: Option[int, typer.Option(help="Items a step.", min=1)] = 128,
    window: Option[int, typer.Option(help="Items over which workloads are met; 0: in every mini-batch.", min=0)] = 0,
    experts: Option[int, typer.Option(help="Simulated experts, where the file has none.", min=1)] = 2,
    out: Out = Path("outputs/curve"),
) -> None:
    """Train at several coverages; report and plot accuracy against coverage. Finished seeds are not run again."""
    from pl2d_ppl.cli.commands import CurveOptions, run_curve

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
    typer.echo(run_curve(data, out, options))


@app.command()
@reports_errors
def fit(
    data: Data,
    out: Option[Path, typer.Option(help="Folder for the fit.")],
    lower: Option[str, typer.Option(help="Least shares, experts in order, then the AI, with commas.")] = "",
    upper: Option[str, typer.Option(help="Largest shares, in the same order.")] = "",
    epochs: Option[int, typer.Option(help="Passes over the data.", min=1)] = 30,
    guide: Option[Guide, typer.Option(help="Posterior of who decides and of missing annotations.")] = Guide.exact,
    batch_size: Option[int, typer.Option(help="Items a step.", min=1)] = 128,
    seed: Seed = 0,
) -> None:
    """Train on all items of a file, within bounds on everybody's share, and save the fit."""
    from pl2d_ppl.cli.commands import FitOptions, run_fit

    options = FitOptions(floats(lower), floats(upper), epochs, guide.value, batch_size, seed)
    typer.echo(run_fit(data, out, options))


@app.command()
@reports_errors
def predict(
    folder: Option[Path, typer.Argument(help="Folder that `pl2d fit` wrote.")],
    data: Option[Path, typer.Argument(help="New items: a .npz with x, or a table with x_0, x_1, ...")],
    out: Option[Path, typer.Option(help="A .npz for decision, gate, ai and belief probabilities.")],
) -> None:
    """Decide who answers new items, with offsets that keep to the bounds of the fit."""
    from pl2d_ppl.cli.commands import run_predict

    typer.echo(run_predict(folder, data, out))


@app.command()
@reports_errors
def clusters(
    votes: Option[
        Path,
        typer.Argument(
            help="Items with features and anonymous votes: a .npz with x, and votes (N, L) or counts (N, C); perhaps "
            "annotations, annotators. Or a table with x_0, x_1, ... and votes_NAME for each category; or .nc."
        ),
    ],
    k: Option[str, typer.Option(help="Numbers of clusters, with commas.")] = "1,2,3,4,5",
    program: Option[Program, typer.Option(help="Urn: nobody votes twice. LDA: paper B.")] = Program.urn,
    people: Option[int, typer.Option(help="People behind the votes, for the urn; 0: the most votes on an item.")] = 0,
    alpha: Option[float, typer.Option(help="Concentration of LDA.")] = 50.0,
    seeds: Option[int, typer.Option(help="Fits of every number of clusters.", min=1)] = 3,
    seed: Seed = 0,
    steps: Option[int, typer.Option(help="Steps of Adam, rounded to whole epochs.", min=1)] = 1500,
    batch_size: Option[int, typer.Option(help="Items a step.", min=1)] = 512,
    test_share: Option[float, typer.Option(help="Share of items held out for the perplexity.")] = 0.2,
    concentration: Option[float, typer.Option(help="Of the prior of memberships; below 1: few clusters each.")] = 0.3,
    out: Out = Path("outputs/clusters"),
) -> None:
    """Group people from anonymous votes; choose the number of groups; place identified people among them."""
    from pl2d_ppl.cli.clusters import ClusterOptions, run_clusters

    options = ClusterOptions(
        num_clusters=integers(k),
        program=program.value,
        people=people or None,
        alpha=alpha,
        seeds=seeds,
        seed=seed,
        steps=steps,
        batch_size=batch_size,
        test_share=test_share,
        concentration=concentration,
    )
    typer.echo(run_clusters(votes, out, options))


@app.command("onboard")
@reports_errors
def onboard_people(
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
    program: Option[Program, typer.Option(help="Finds clusters. Urn: nobody votes twice. LDA: paper B.")] = Program.urn,
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
    out: Out = Path("outputs/onboard"),
) -> None:
    """Compare methods on people known from few items, in clusters found in anonymous votes. Finished seeds are kept."""
    from pl2d_ppl.cli.onboard import run_onboard
    from pl2d_ppl.experiments.methods import METHODS
    from pl2d_ppl.experiments.onboarding import OnboardingOptions
    from pl2d_ppl.inference.schedule import Training

    chosen = METHODS if methods == "all" else tuple(dict.fromkeys(names(methods)))
    options = OnboardingOptions(
        people=people,
        rates=tuple(floats(rates)),
        clusters=clusters,
        program=program.value,
        alpha=alpha,
        own_items=own_items,
        replaced=replaced,
        gate_input=gate.value,
        coverages=tuple(floats(coverages)),
        methods=chosen,
        training=Training(steps=steps),
        cluster_steps=cluster_steps,
        ai_steps=ai_steps,
    )
    typer.echo(run_onboard(data, out, integers(context), range(seed, seed + seeds), options))


if __name__ == "__main__":
    app()
