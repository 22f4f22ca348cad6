"""What the commands of ``pl2d`` do; each returns the text that is printed."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm.auto import tqdm

from pl2d_ppl.checks.bounds import check_bounds
from pl2d_ppl.checks.warn import warn
from pl2d_ppl.data import Annotated, read_data, standardise
from pl2d_ppl.data.files.formats import digest, format_of
from pl2d_ppl.data.splits import mean_and_scale
from pl2d_ppl.data.tables.joining import read_features
from pl2d_ppl.engine.workload import workload
from pl2d_ppl.experiments.methods import GuideName, build_method
from pl2d_ppl.experiments.plots import plot_curve
from pl2d_ppl.experiments.reports import known_mean, mean_and_spread, select_seeds, write_json
from pl2d_ppl.experiments.seeds import prepare_split, run_seeds
from pl2d_ppl.inference.checkpoint import load
from pl2d_ppl.inference.fit import fit
from pl2d_ppl.inference.schedule import Training
from pl2d_ppl.io import check_writable, written_whole

__all__ = [
    "CurveOptions",
    "FitOptions",
    "also_kept",
    "curve_table",
    "run_curve",
    "run_fit",
    "run_predict",
    "save_figure",
]

AREAS = {"area": "area_offset", "plain area": "area"}


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


def run_curve(path: Path, out: Path, options: CurveOptions) -> str:
    """Run ``pl2d curve``."""
    if not options.coverages:
        raise ValueError("Expected at least one coverage, found none. Pass --coverages 0,.5,1.")
    train, test = read_with_features(path)
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
    training = Training(steps=options.steps, batch_size=options.batch_size, window=options.window)
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
            training=training,
        )
    save_figure(plot_curve({options.method: report}).figure, out / "curve.png")
    table = curve_table({options.method: select_seeds(report, seeds)})
    return f"{table}\nWritten: {out / 'report.json'}, {out / 'curve.png'}{also_kept(report, seeds)}"


def also_kept(report: Mapping[str, Any], seeds: Sequence[int]) -> str:
    """Tell which seeds a report holds, if there are others than were asked for."""
    if set(report["seeds"]) <= set(seeds):
        return ""
    held = ", ".join(map(str, sorted(report["seeds"])))
    return f"\nThe table is of the seeds asked for; the files hold seeds {held}."


def read_with_features(path: Path, *, subset: bool = False) -> tuple[Annotated, Annotated | None]:
    """Read data of any format, which must have features; of a subset no truth need be known."""
    train, test = read_data(path, subset=subset)
    if np.shape(train.x)[1:] == (0,):
        raise ValueError(
            f"Expected features in {path}, found annotations only. Join them first: pl2d data convert {path} DATA.npz "
            "--features FILE"
        )
    return train, test


def save_figure(figure: Any, path: Path) -> None:
    """Write a figure whole or not at all."""
    with written_whole(path) as scratch:
        figure.savefig(scratch, format=path.suffix[1:], dpi=150)


def curve_table(reports: Mapping[str, Mapping[str, Any]]) -> str:
    """Table of realised coverage and accuracy, with offsets, and areas: means over the seeds that have a value.

    Parameters
    ----------
    reports : mapping of str to mapping
        By name of the method, as :func:`~pl2d_ppl.experiments.seeds.run_seeds` returns them.

    Returns
    -------
    str
        The table; below, which values are missing, and who is how good alone.

    Warns
    -----
    UserWarning
        If there are decisions that cannot be judged, once a method.
    """
    width = max(len(name) for name in reports) + 2
    first = next(iter(reports.values()))
    seeds = len(first["seeds"])
    head = "".join(f"{c:>8.2f}" for c in first["coverages"])
    lines = [f"{'':<{width + 10}}{head}    area (plain argmax), mean ± spread over {seeds} seed{'s' * (seeds > 1)}"]
    for name, report in reports.items():
        rows = {"coverage": (known_mean(report["coverage_offset"]), "")}
        rows["accuracy"] = known_mean(report["accuracy_offset"]), _areas(report)
        judged = np.minimum(report["judged"], report["judged_offset"]).min(0)
        if judged.min() < 1:
            _warn_unjudged(name, judged.min())
            rows["judged"] = judged, f"   least: {judged.min():.3f}"
        for key, (values, end) in rows.items():
            lines.append(f"{name:<{width}}{key:<10}" + "".join(f"{v:8.3f}" for v in values) + end)
    missing = [line for name, report in reports.items() for line in _missing(name, report)]
    ai = np.mean([known_mean(report["ai_accuracy"]) for report in reports.values()])
    experts = known_mean(first["expert_accuracy"])
    shown = ", ".join("no annotation" if np.isnan(a) else f"{a:.3f}" for a in experts)
    return "\n".join([*lines, *missing, f"alone: AI {ai:.3f}; experts {shown}"])


def _areas(report: Mapping[str, Any]) -> str:
    bounded, plain = (mean_and_spread(report[name]) for name in ("area_offset", "area"))
    return f"{bounded:>15} ({plain})"


def _warn_unjudged(name: str, least: float) -> None:
    message = (
        f"{name}: Expected decisions that can be judged, found as few as {least:.3f} of the decisions, those on "
        "items that whoever decides annotated and whose truth is known. Read accuracies and areas as those of these "
        "items."
    )
    warn(message)


def _missing(name: str, report: Mapping[str, Any]) -> list[str]:
    """Tell which seeds have no value, of what: means and areas are over the others."""
    columns = zip(report["coverages"], np.asarray(report["accuracy_offset"], float).T, strict=True)
    values = {f"accuracy at {target:.2f}": column for target, column in columns}
    values |= {label: np.asarray(report[key], float) for label, key in AREAS.items()}
    gaps = []
    for label, column in values.items():
        without = [str(seed) for seed, value in zip(report["seeds"], column, strict=True) if np.isnan(value)]
        if without:
            gaps.append(f"{label} of seed{'s' * (len(without) > 1)} {', '.join(without)}")
    return [f"{name}: missing, as nothing could be judged: {'; '.join(gaps)}"] if gaps else []


@dataclasses.dataclass(frozen=True)
class FitOptions:
    """Options of ``pl2d fit``; see its help."""

    lower: list[float]
    upper: list[float]
    epochs: int
    guide: GuideName
    batch_size: int
    seed: int


def run_fit(path: Path, out: Path, options: FitOptions) -> str:
    """Run ``pl2d fit``."""
    data, _ = read_with_features(path)
    if data.num_experts == 0:
        raise ValueError(f"Expected annotations in {path}, found none. Add the key annotations, (N, M), -1 missing.")
    names = [*data.annotators, "AI"]
    lower, upper = _bounds(options, names)
    check_writable(out, marker="settings.json")
    batch_size = min(options.batch_size, data.num_items)
    mean, scale = mean_and_scale(data.x)
    (scaled,) = standardise(data) if data.x.ndim == 2 else (data,)
    settings = {
        "annotators": list(data.annotators),
        "classes": list(data.classes),
        "num_items": data.num_items,
        "guide": options.guide,
        "lower": lower,
        "upper": upper,
        "steps": options.epochs * (data.num_items // batch_size),
        "batch_size": batch_size,
        "mean": mean.tolist(),
        "scale": scale.tolist(),
    }
    model, guide, optimizer = _programs(scaled, settings)
    result = fit(
        jax.random.key(options.seed),
        model,
        guide,
        scaled.batch(),
        optimizer,
        epochs=options.epochs,
        batch_size=batch_size,
        on_interrupt="raise",
    )
    offsets = result.offsets(scaled.x, lower, upper)
    with written_whole(out, marker="settings.json") as folder:
        folder.mkdir()
        result.save(folder / "fit")
        write_json(folder / "settings.json", {**settings, "offsets": offsets})
    decision = result.predict(scaled.x, offsets=offsets).decision
    shares = np.bincount(decision, minlength=len(names)) / len(decision)
    rows = "\n".join(f"  {name:<20}{share:.3f}" for name, share in zip(names, shares, strict=True))
    return f"Shares of the training items, with offsets:\n{rows}\nWritten: {out}"


def _bounds(options: FitOptions, names: Sequence[str]) -> tuple[list[float], list[float]]:
    lower, upper = options.lower or [0.0] * len(names), options.upper or [1.0] * len(names)
    if len(lower) != len(names) or len(upper) != len(names):
        raise ValueError(
            f"Expected {len(names)} bounds, for {', '.join(names)}, found {len(lower)} lower and {len(upper)} upper."
        )
    check_bounds(lower, upper)
    return lower, upper


def _programs(data: Annotated, settings: Mapping[str, Any]) -> tuple:
    training = Training(steps=settings["steps"], batch_size=settings["batch_size"])
    model, guide = build_method("prob-l2d", data, training.hidden, settings["guide"])
    guide = workload(guide, "z", settings["lower"], settings["upper"])
    return model, guide, training.optimizer(data.num_items)


def run_predict(folder: Path, path: Path, out: Path) -> str:
    """Run ``pl2d predict``."""
    settings = _read_settings(folder)
    check_writable(out)
    x = _read_inputs(path)
    mean, scale = np.asarray(settings["mean"]), np.asarray(settings["scale"])
    if mean.ndim and x.shape[1:] != mean.shape:
        raise ValueError(f"Expected x of shape (N, {mean.size}) in {path}, as in the fit, found {x.shape}.")
    x = ((x - mean) / scale).astype(np.float32)
    result = load(folder / "fit", *_rebuild(settings, x))
    prediction = result.predict(x, offsets=settings["offsets"])
    belief = np.asarray(jax.nn.softmax(result.outputs(x)["belief_logits"][0], -1))
    with written_whole(out) as scratch, scratch.open("wb") as file:
        np.savez_compressed(
            file,
            decision=prediction.decision.astype(np.int32),
            gate=prediction.gate,
            ai=prediction.ai,
            belief=belief,
            deciders=np.array([*settings["annotators"], "AI"]),
            classes=np.array(settings["classes"]),
        )
    shares = np.bincount(prediction.decision, minlength=len(settings["annotators"]) + 1) / len(x)
    shown = ", ".join(f"{n} {s:.3f}" for n, s in zip([*settings["annotators"], "AI"], shares, strict=True))
    return f"Shares: {shown}\nWritten: {out}"


SETTINGS = {
    "annotators",
    "classes",
    "num_items",
    "guide",
    "lower",
    "upper",
    "steps",
    "batch_size",
    "offsets",
    "mean",
    "scale",
}


def _read_settings(folder: Path) -> dict[str, Any]:
    try:
        settings = json.loads((folder / "settings.json").read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"Expected a folder that `pl2d fit` wrote, found none in {folder}: {error}.") from error
    if not isinstance(settings, dict) or SETTINGS - set(settings):
        raise ValueError(f"Expected settings of a fit in {folder}, found something else. Run `pl2d fit` again.")
    return settings


def _read_inputs(path: Path) -> np.ndarray:
    """Features of new items, of which nothing else need be known."""
    if path.exists() and format_of(path) != "npz":
        table = format_of(path) == "table"
        x = np.asarray(read_features(path)[1] if table else read_with_features(path, subset=True)[0].x, np.float32)
    else:
        x = _read_npz_inputs(path)
    if len(x) == 0 or not np.isfinite(x).all():
        raise ValueError(f"Expected finite inputs in {path}, found {'none' if len(x) == 0 else 'NaN or infinity'}.")
    return x


def _read_npz_inputs(path: Path) -> np.ndarray:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return np.asarray(arrays["x"], np.float32)
    except Exception as error:
        raise ValueError(f"Expected a .npz file with x at {path}, found none that can be read: {error}.") from error


def _rebuild(settings: Mapping[str, Any], x: np.ndarray) -> tuple:
    """Build the programs of a fit anew, from what its folder tells."""
    num_items, num_experts = settings["num_items"], len(settings["annotators"])
    shape = Annotated(
        np.broadcast_to(x[:1], (num_items, *x.shape[1:])),
        np.zeros(num_items, np.int32),
        np.zeros((num_items, num_experts), np.int32),
        classes=settings["classes"],
        annotators=settings["annotators"],
    )
    return _programs(shape, settings)
