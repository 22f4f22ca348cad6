"""What ``pl2d onboard`` does: the onboarding experiment over seeds and numbers of context items."""

import dataclasses
import warnings
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm.auto import tqdm

from pl2d_ppl.checks.warn import warn
from pl2d_ppl.cli.commands import also_kept, read_with_features, save_figure
from pl2d_ppl.clusters.fit import equal_sizes
from pl2d_ppl.data import Annotated
from pl2d_ppl.data.files.formats import digest
from pl2d_ppl.deferral.decisions import expert_accuracy
from pl2d_ppl.experiments.curve import coverage_bounds
from pl2d_ppl.experiments.methods import NEED_MEMBERSHIP
from pl2d_ppl.experiments.onboarding import (
    OnboardingOptions,
    Workplace,
    kept_items,
    onboard,
    open_workplace,
    set_up_firm,
)
from pl2d_ppl.experiments.plots import plot_onboarding
from pl2d_ppl.experiments.reports import add_seed, mean_and_spread, resume_report, select_seeds
from pl2d_ppl.io import check_writable
from pl2d_ppl.plots import plot_heatmap
from pl2d_ppl.simulate import realised_error

__all__ = ["onboard_table", "run_onboard"]

# Paper B, Table 3: areas on CIFAR-100 with 6 people, by the number of context items.
PUBLISHED = {
    "100": {
        "one-stage": 71.07,
        "two-stage": 71.80,
        "lecodu": 73.60,
        "l2d-pop": 73.05,
        "cluster-soft": 75.07,
        "cluster-hard": 76.17,
    },
    "200": {
        "one-stage": 73.87,
        "two-stage": 75.02,
        "lecodu": 74.81,
        "l2d-pop": 70.59,
        "cluster-soft": 76.68,
        "cluster-hard": 77.31,
    },
}


def run_onboard(
    path: Path | None, out: Path, contexts: Sequence[int], seeds: Sequence[int], options: OnboardingOptions
) -> str:
    """Run ``pl2d onboard``."""
    contexts = sorted(set(contexts))
    _check(contexts, options)
    data, source = _read(path)
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
            people, row = _run_seed(seed, data, contexts, options, bar.update)
            report = add_seed(path, report, settings, seed, row, people=people)
    written = ", ".join(map(str, [path, *_draw(out, report)]))
    return f"{onboard_table(select_seeds(report, seeds))}\nWritten: {written}{also_kept(report, seeds)}"


def _check(contexts: Sequence[int], options: OnboardingOptions) -> None:
    """Refuse at once what would be refused after the AI was trained."""
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
    if options.program == "urn":
        equal_sizes(options.people, options.clusters)
    elif not options.alpha > 0:
        raise ValueError(f"Expected a positive concentration alpha, found {options.alpha}.")


def _check_items(num_items: int, num_context: int, options: OnboardingOptions) -> None:
    most = _most_context(num_items, options)
    if num_context > most:
        test, unlabelled, least = kept_items(num_items, options)
        raise ValueError(
            f"Expected at most {most} context items, found {num_context}: of {num_items} items, {test} are for "
            f"testing, {unlabelled} to fit offsets, and at least {least} for training. Lower --context, or bring more "
            "items."
        )


def _most_context(num_items: int, options: OnboardingOptions) -> int:
    """Items that may be annotated, when enough is left for training."""
    return num_items - sum(kept_items(num_items, options))


def _read(path: Path | None) -> tuple[Annotated, dict[str, str]]:
    """Items with truth, of a file or of the demonstration, and where they come from."""
    if path is None:
        from pl2d_ppl.cli.demo import digits

        data = digits(jax.random.key(0))
        return data, {"data": "digits", "sha256": sha256(data.x.tobytes() + data.y.tobytes()).hexdigest()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that somebody is silent does not matter here
        data, test = read_with_features(path)
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


def _run_seed(
    seed: int,
    data: Annotated,
    contexts: Sequence[int],
    options: OnboardingOptions,
    on_method: Callable[[], Any],
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Run a seed; returns who the people are, which is the same for all seeds, and a row of the report."""
    firm_key, place_key, method_key = jax.random.split(jax.random.key(seed), 3)
    reserved = _reserved(data.num_items, contexts[-1], options)
    firm = set_up_firm(firm_key, data.x, data.y, data.num_categories, options, reserved=reserved)
    results, memberships = {}, {}
    for number in contexts:
        place = open_workplace(place_key, firm, options, number)
        results[str(number)] = onboard(method_key, place, options, on_method=on_method)
        if place.members is not None:
            memberships[str(number)] = {"soft": place.members.soft, "interval": place.members.interval(0.9)}
    people = {
        "names": list(place.test.annotators),
        "present": list(place.present),
        "groups": firm.groups.tolist(),
        "rates": [options.rates[g] for g in firm.groups],
    }
    error_rates = realised_error(firm.annotations, firm.y)
    return people, {
        "error_rates": error_rates,
        "alone": _alone(place),
        "results": results,
        "memberships": memberships,
    }


def _reserved(num_items: int, num_context: int, options: OnboardingOptions) -> int:
    """Items to annotate: of their own as far as there are enough; half of all at most."""
    everybody = options.people + round(options.replaced * options.people)
    wanted = num_context * everybody if options.own_items else num_context
    return max(num_context, min(wanted, num_items // 2, _most_context(num_items, options)))


def _alone(place: Workplace) -> dict[str, float]:
    """Accuracy of the AI alone, and of the best person who is present."""
    said = np.asarray(place.classifier(jnp.asarray(place.test.x))).argmax(-1)
    people = zip(place.test.annotators, expert_accuracy(place.test), strict=True)
    best = max(accuracy for name, accuracy in people if name in place.present and accuracy is not None)
    return {"ai": float((said == place.test.y).mean()), "best_person": best}


def _draw(out: Path, report: Mapping[str, Any]) -> list[Path]:
    """Draw the curves, and where people belong at the first seed and the most context items."""
    figures = {"curve.png": plot_onboarding(report)}
    if report["memberships"]:
        number = str(report["settings"]["contexts"][-1])
        soft, spread = (np.array(report["memberships"][number][name][0]) for name in ("soft", "interval"))
        names = _labels(report)
        label = f"membership after {number} items, seed {report['seeds'][0]}: posterior mean and 90 % interval"
        clusters = [f"cluster {k}" for k in range(len(soft))]
        figures["membership.png"] = plot_heatmap(soft, clusters, names, label=label, spread=spread).figure
    for name, figure in figures.items():
        save_figure(figure, out / name)
    return [out / name for name in figures]


def _labels(report: Mapping[str, Any]) -> list[str]:
    """Names of people, whether they came or left before the day, and how often they err at the first seed."""
    people, staff = report["people"], report["settings"]["options"]["people"]
    labels = []
    for m, (name, rate) in enumerate(zip(people["names"], report["error_rates"][0], strict=True)):
        moved = "\n(new)" if m >= staff else "" if name in people["present"] else "\n(gone)"
        labels.append(f"{name}{moved}\nerrs {100 * rate:.0f} %")
    return labels


def onboard_table(report: Mapping[str, Any]) -> str:
    """Table of areas, methods by numbers of context items: mean and spread over seeds.

    Parameters
    ----------
    report : mapping
        As ``pl2d onboard`` writes it.

    Returns
    -------
    str
        The table, with the AI and the best person alone.
    """
    names = [*report["settings"]["options"]["methods"], "AI alone", "best person"]
    width = max(map(len, names)) + 2
    results = report["results"].values()
    head = "".join(f"{number + ' context items':>32}" for number in report["results"])
    lines = [f"{'':<{width}}{head}"]
    for name in names[:-2]:
        areas = ((mean_and_spread(rows[name][key]) for key in ("area_offset", "area")) for rows in results)
        cells = ("{} ({})".format(*both) for both in areas)
        lines.append(f"{name:<{width}}" + "".join(f"{cell:>32}" for cell in cells))
    for name, key in zip(names[-2:], ("ai", "best_person"), strict=True):
        cell = mean_and_spread(100 * np.array(report["alone"][key]))
        lines.append(f"{name:<{width}}" + "".join(f"{cell:>32}" for _ in results))
    seeds = len(report["seeds"])
    title = f"Area x 100 with offsets (plain argmax), mean ± spread over {seeds} seed{'s' * (seeds > 1)}"
    return "\n".join([title, *lines, _people(report)])


def _people(report: Mapping[str, Any]) -> str:
    """Who is there, with error rates over all items and seeds."""
    people, rates = report["people"], np.mean(report["error_rates"], 0)
    present = [name in people["present"] for name in people["names"]]
    told = [", ".join(f"{r:.3f}" for r in rates[np.array(present) == there]) for there in (True, False)]
    return f"Error rates of those present: {told[0]}" + (f"; of those who left: {told[1]}" if told[1] else "")
