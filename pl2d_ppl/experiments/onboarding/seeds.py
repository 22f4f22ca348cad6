"""The onboarding experiment over seeds and numbers of context items, as a report with pictures."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pl2d_ppl.data import Annotated
from pl2d_ppl.deferral.decisions import expert_accuracy
from pl2d_ppl.experiments.onboarding.firm import reserved_items, set_up_firm
from pl2d_ppl.experiments.onboarding.methods import onboard_methods
from pl2d_ppl.experiments.onboarding.options import OnboardingOptions
from pl2d_ppl.experiments.onboarding.workplace import Workplace, open_workplace
from pl2d_ppl.experiments.plots import plot_onboarding
from pl2d_ppl.plots import plot_heatmap, save_figure
from pl2d_ppl.simulate import realised_error

__all__ = ["PUBLISHED", "draw_report", "people_labels", "run_seed"]

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


def run_seed(
    seed: int,
    data: Annotated,
    contexts: Sequence[int],
    options: OnboardingOptions,
    on_method: Callable[[], Any],
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Run a seed; return its people, who are the same for all seeds, and a row of the report."""
    firm_key, place_key, method_key = jax.random.split(jax.random.key(seed), 3)
    reserved = reserved_items(data.num_items, contexts[-1], options)
    firm = set_up_firm(firm_key, data.x, data.y, data.num_categories, options, reserved=reserved)
    results, memberships = {}, {}
    for number in contexts:
        place = open_workplace(place_key, firm, options, number)
        results[str(number)] = onboard_methods(method_key, place, options, on_method=on_method)
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


def _alone(place: Workplace) -> dict[str, float]:
    """Accuracy of the AI alone, and of the best person present."""
    said = np.asarray(place.classifier(jnp.asarray(place.test.x))).argmax(-1)
    people = zip(place.test.annotators, expert_accuracy(place.test), strict=True)
    best = max(accuracy for name, accuracy in people if name in place.present and accuracy is not None)
    return {"ai": float((said == place.test.y).mean()), "best_person": best}


def draw_report(out: Path, report: Mapping[str, Any]) -> list[Path]:
    """Draw the curves, and people's memberships for the first seed and the largest number of context items."""
    figures = {"curve.png": plot_onboarding(report)}
    if report["memberships"]:
        number = str(report["settings"]["contexts"][-1])
        soft, spread = (np.array(report["memberships"][number][name][0]) for name in ("soft", "interval"))
        names = people_labels(report)
        label = f"membership after {number} items, seed {report['seeds'][0]}: posterior mean and 90 % interval"
        clusters = [f"cluster {k}" for k in range(len(soft))]
        figures["membership.png"] = plot_heatmap(soft, clusters, names, label=label, spread=spread).figure
    for name, figure in figures.items():
        save_figure(figure, out / name)
    return [out / name for name in figures]


def people_labels(report: Mapping[str, Any]) -> list[str]:
    """Names of people, whether they came or left before the day, and their error rates at the first seed."""
    people, staff = report["people"], report["settings"]["options"]["people"]
    labels = []
    for m, (name, rate) in enumerate(zip(people["names"], report["error_rates"][0], strict=True)):
        moved = "\n(new)" if m >= staff else "" if name in people["present"] else "\n(gone)"
        labels.append(f"{name}{moved}\nerrs {100 * rate:.0f} %")
    return labels
