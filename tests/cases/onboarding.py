"""A firm whose people answer at random, and settings of no time."""

from functools import cache

import jax
import numpy as np
import pytest
from flax import nnx

from pl2d_ppl import MLP
from pl2d_ppl.experiments.methods import METHODS
from pl2d_ppl.experiments.onboarding.firm import Firm, replaced_people
from pl2d_ppl.experiments.onboarding.options import OnboardingOptions
from pl2d_ppl.inference.schedule import Schedule
from pl2d_ppl.networks import Frozen

KEY = jax.random.key(0)
SLOW = pytest.mark.slow
ITEMS, TRAINING, CATEGORIES, STAFF = 80, 30, 3, 6
TEST = ITEMS // 4


def some_options(**changes):
    return OnboardingOptions(
        **{"methods": ("two-stage",), "schedule": Schedule(steps=4), "gate_hidden": (8,), **changes}
    )


@cache
def network(num_inputs=2):
    return Frozen.of(MLP(num_inputs, (4,), CATEGORIES, rngs=nnx.Rngs(0)))


def make_firm(people=STAFF, replaced=0.0, num_rates=3, num_items=ITEMS):
    """Items whose first feature is their number; people who answer at random; no clusters."""
    rng = np.random.default_rng(0)
    groups = np.sort(np.arange(people) % num_rates)
    groups = np.concatenate([groups, groups[replaced_people(groups, replaced)]])
    x = np.column_stack([np.arange(num_items), rng.standard_normal(num_items)]).astype(np.float32)
    said = rng.integers(0, CATEGORIES, (num_items, len(groups))).astype(np.int32)
    y = (np.arange(num_items) % CATEGORIES).astype(np.int32)
    return Firm(x, y, groups, said, CATEGORIES, TRAINING, network(), None)


def judged(decision, data):
    """Accuracy of decisions by names, AI for the AI, item by item."""
    found = []
    for who, x, said, y in zip(decision, data.x, data.annotations, data.y, strict=True):
        label = x[4:].argmax() if who == "AI" else said[data.annotators.index(who)]
        if label >= 0 and y >= 0:
            found.append(label == y)
    return np.mean(found)


LISTS = ("coverage", "accuracy", "judged", "workload")


def fake_row(key, method, number, coverages):
    """In the place of an evaluation: numbers that tell seed, method and context items apart."""
    value = 0.5 + 0.3 * float(jax.random.uniform(key)) + 0.05 * METHODS.index(method) / 10 + number / 1000
    columns = {name: [value] * len(coverages) for name in LISTS}
    columns["coverage"] = list(coverages)
    both = {f"{name}{suffix}": column for name, column in columns.items() for suffix in ("", "_offset")}
    alone = {"ai_accuracy": 0.5, "expert_accuracy": [0.5] * STAFF, "accuracy_drawn": columns["accuracy"]}
    return {**both, **alone, "area": 100 * value - 1, "area_offset": 100 * value}
