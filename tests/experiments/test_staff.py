"""Curves of a staff that is not all of the people whom a method knows, against direct computation."""

import numpy as np
import pytest
from cases.onboarding import KEY, judged

from pl2d_ppl import Annotated
from pl2d_ppl.deferral.deferral import Deferral
from pl2d_ppl.experiments.curve import evaluate_curve


class Given:
    """A method whose gate over a, b, c and the AI, and the AI's probabilities, are what it sees."""

    steered = False

    def defer(self, x):
        x = np.asarray(x, float)
        return [Deferral.of(x[:, :4], x[:, 4:], people=("a", "b", "c"))]

    def join(self, rng_key, data, membership):
        return self


def given_items(seed, num_items=40):
    """Items of which each knows its gate, annotated by those whom the method knows and by z, whom it does not."""
    rng = np.random.default_rng(seed)
    x = np.column_stack([rng.dirichlet(np.ones(4), num_items), rng.dirichlet(np.ones(3), num_items)])
    said, y = rng.integers(0, 3, (num_items, 4)), rng.integers(0, 3, num_items)
    said[rng.random(said.shape) < 0.2], y[:3] = -1, -1
    return Annotated(x, y, said, classes=("0", "1", "2"), annotators=("z", "c", "a", "b"))


def test_plain_decisions_are_among_those_present():
    data = given_items(0)
    for staff in (("c", "z", "a"), None):
        row = evaluate_curve(Given(), data.x, data, (0.0, 0.5), staff=staff)
        columns = [i for i, name in enumerate("abc") if staff is None or name in staff] + [3]
        names = np.array(["a", "b", "c", "AI"])[columns]
        decision = names[data.x[:, columns].argmax(1)]
        shares = [np.mean(decision == name) for name in ("a", "b", "c", "AI")]
        for i in range(2):  # one fit, whatever the target
            np.testing.assert_allclose(row["workload"][i], shares)
            assert row["coverage"][i] == pytest.approx(shares[-1])
            assert row["accuracy"][i] == pytest.approx(judged(decision, data))
        assert row["ai_accuracy"] == pytest.approx(judged(["AI"] * 40, data))
        best = max(judged([name] * 40, data) for name in (staff or data.annotators))
        heights = [best, row["accuracy"][0], row["ai_accuracy"]]
        assert row["area"] == pytest.approx(100 * np.trapezoid(heights, [0, shares[-1], 1]))


def test_offsets_meet_the_coverage_with_whom_there_is():
    """Of one person and the AI, the AI decides the items on which it is favoured most."""
    data, other = given_items(0), given_items(1)
    margins, others = (np.log(d.x[:, 3].astype(float) / d.x[:, 2]) for d in (data, other))
    coverages = (0.0, 0.25, 0.5, 0.9, 1.0)
    row, apart = (evaluate_curve(Given(), x, data, coverages, staff=("z", "c"), rng_key=KEY) for x in (data.x, other.x))
    for i, coverage in enumerate(coverages):
        most = round(40 * coverage)
        decision = np.full(40, "c ")
        decision[margins.argsort()[40 - most :]] = "AI"
        decision = np.char.strip(decision)
        assert row["coverage_offset"][i] == pytest.approx(coverage)
        assert row["accuracy_offset"][i] == pytest.approx(judged(decision, data))
        assert row["accuracy_drawn"][i] == pytest.approx(row["accuracy_offset"][i])
        # Offsets of other items lie between the margins of two of them.
        bounds = np.concatenate([[np.inf], np.sort(others)[::-1], [-np.inf]])[[most, most + 1]]
        least, largest = (margins > bounds[0]).mean(), (margins > bounds[1]).mean()
        assert least <= apart["coverage_offset"][i] <= largest


def test_a_staff_of_nobody_known_leaves_all_to_the_ai():
    data = given_items(0)
    row = evaluate_curve(Given(), data.x, data, (0.0, 0.5, 1.0), staff=("z",), rng_key=KEY)
    right = judged(["AI"] * 40, data)
    for suffix in ("", "_offset"):
        assert row[f"coverage{suffix}"] == [1.0, 1.0, 1.0]
        np.testing.assert_allclose(row[f"accuracy{suffix}"], right)
        np.testing.assert_allclose(row[f"workload{suffix}"], [[0, 0, 0, 1]] * 3)
        assert row[f"area{suffix}"] == pytest.approx(100 * right)
    np.testing.assert_allclose(row["accuracy_drawn"], right)
