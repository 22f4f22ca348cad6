"""Newcomers without training, compared with training again with them.

    python benchmarks/newcomers.py cifar100_features digits [--seeds 3]

Six people annotate 100 items, and methods learn whom to ask. Then three more people join, who annotated 50 of these
items each. They join clusters through their memberships, partial pooling through the posterior of their own vectors,
and L2D-Pop through their representations; a gate over people cannot take them. For comparison, every method is trained
again with all nine people. Areas use offsets fitted on items without labels.
"""

import argparse
import dataclasses
import time
import warnings
from collections import defaultdict

import jax
import numpy as np
from onboarding import load

from pl2d_ppl.data import Annotated
from pl2d_ppl.experiments.curve import evaluate_curve
from pl2d_ppl.experiments.methods import Task, learn
from pl2d_ppl.experiments.onboarding.firm import set_up_firm
from pl2d_ppl.experiments.onboarding.options import OnboardingOptions
from pl2d_ppl.experiments.onboarding.workplace import Workplace, open_workplace

METHODS = ("pooled", "cluster-hard", "cluster-soft", "l2d-pop", "naive")
ITEMS, OF_NEWCOMERS = 100, 50


def everybody(place: Workplace, newcomers: Annotated) -> Annotated:
    """Return staff and newcomers, who annotated the same items, as one data set."""
    assert np.array_equal(place.staff.x, newcomers.x)
    said = np.concatenate([place.staff.annotations, newcomers.annotations], 1)
    return place.staff.replace_annotations(said, (*place.staff.annotators, *newcomers.annotators))


def run_seed(name: str, seed: int, table: dict) -> None:
    x, y, num_categories = load(name)
    options = OnboardingOptions(replaced=0.5, methods=METHODS)
    key = jax.random.key(seed)
    place = open_workplace(key, set_up_firm(key, x, y, num_categories, options, reserved=ITEMS), options, ITEMS)
    assert place.newcomers is not None
    assert place.staff_membership is not None
    assert place.newcomer_membership is not None
    said = np.where(np.arange(ITEMS)[:, None] < OF_NEWCOMERS, place.newcomers.annotations, -1)
    newcomers = place.newcomers.replace_annotations(said)
    membership = np.concatenate([place.staff_membership, place.newcomer_membership], 1)
    staff = Task(
        place.staff,
        options.coverages,
        options.schedule,
        options.gate_hidden,
        classifier=place.classifier,
        membership=place.staff_membership,
    )
    again = dataclasses.replace(staff, train=everybody(place, newcomers), membership=membership)
    for method in METHODS:
        known = learn(method, key, staff)
        start = time.perf_counter()
        joined = known.join(key, newcomers, place.newcomer_membership)
        between = time.perf_counter()
        trained = learn(method, key, again)
        seconds = between - start, time.perf_counter() - between
        areas = [
            evaluate_curve(learned, place.unlabelled, place.test, options.coverages)["area_offset"]
            for learned in (known, joined, trained)
        ]
        table[method].append((*areas, *seconds))
        print(f"  {name}, seed {seed}: {method:<14}", np.round(areas, 2), np.round(seconds, 1), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", choices=("digits", "cifar100_features"))
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    warnings.filterwarnings("ignore", category=UserWarning)
    for name in options.names:
        table: dict[str, list] = defaultdict(list)
        for seed in range(options.seeds):
            run_seed(name, seed, table)
        columns = f"{'6 known':>14}{'3 join':>18}{'trained again':>18}{'s to join':>12}{'to train':>10}"
        print(f"\n{name}, {options.seeds} seeds{columns}")
        for method, rows in table.items():
            mean, spread = np.mean(rows, 0), np.std(rows, 0)
            cells = "".join(f"{m:>11.2f} ± {s:.2f}" for m, s in zip(mean[:3], spread[:3], strict=True))
            print(f"{method:<14}{cells}{np.median(rows, 0)[3]:>12.1f}{np.median(rows, 0)[4]:>10.1f}")


if __name__ == "__main__":
    main()
