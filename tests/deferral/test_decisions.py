"""Decisions judged by hand."""

import numpy as np
from cases.curves import NAMES, toy

from pl2d_ppl import Annotated
from pl2d_ppl.deferral.decisions import evaluate_decisions, expert_accuracy


def by_hand(decision, ai, data):
    """Coverage, accuracy, judged share and workload, item by item."""
    shares, right, judged = [0] * (data.num_experts + 1), 0, 0
    for who, ai_says, annotations, y in zip(decision, ai, data.annotations, data.y, strict=True):
        shares[who] += 1
        says = ai_says if who == data.num_experts else annotations[who]
        if says >= 0 and y >= 0:
            judged += 1
            right += says == y
    n = data.num_items
    accuracy = right / judged if judged else None
    return {"coverage": shares[-1] / n, "accuracy": accuracy, "judged": judged / n, "workload": [s / n for s in shares]}


def test_decisions_are_judged_as_by_hand():
    rng = np.random.default_rng(0)
    data = toy(1, 60)
    y = np.where(rng.random(60) < 0.2, -1, data.y)
    data = Annotated(data.x, y, data.annotations, **NAMES)
    for _ in range(20):
        decision, ai = rng.integers(0, 3, 60), rng.integers(0, 3, 60)
        found, expected = evaluate_decisions(decision, ai, data), by_hand(decision, ai, data)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, err_msg=name)


def test_a_small_example():
    data = Annotated(np.zeros((4, 1)), [0, 1, 2, -1], [[0, 1], [0, -1], [-1, 2], [1, 1]], **NAMES)
    found = evaluate_decisions(np.array([0, 1, 2, 2]), np.array([2, 2, 2, 2]), data)
    # The first is decided rightly by p; q has not said anything of the second; the AI is right on the third.
    assert found == {"coverage": 0.5, "accuracy": 1.0, "judged": 0.5, "workload": [0.25, 0.25, 0.5]}
    assert expert_accuracy(data) == [0.5, 0.5]


def test_nobody_to_judge():
    data = Annotated(np.zeros((2, 1)), [0, 1], [[-1, 0], [-1, 1]], **NAMES, subset=True)
    found = evaluate_decisions(np.array([0, 0]), np.array([0, 1]), data)
    assert np.isnan(found["accuracy"])
    assert found["judged"] == 0.0
    assert expert_accuracy(data) == [None, 1.0]
