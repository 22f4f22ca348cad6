"""Draws and evaluation of decisions, against loops."""

import jax
import numpy as np
from cases.deferral import KEY, PEOPLE, SEEDS, random_deferral, random_gate, small
from hypothesis import given, settings
from hypothesis import strategies as st

from pl2d_ppl import Annotated
from pl2d_ppl.deferral.decisions import evaluate_decisions
from pl2d_ppl.deferral.deferral import Deferral


def random_answers(rng, num_items, num_people, missing):
    y = rng.integers(-1, 4, num_items)
    said = np.where(
        rng.random((num_items, num_people)) < 0.5,
        np.maximum(y, 0)[:, None],
        rng.integers(0, 4, (num_items, num_people)),
    )
    return np.where(rng.random(said.shape) < missing, -1, said), y


def test_people_are_drawn_from_the_row_of_the_decision():
    deferral = small(4000)
    drawn = deferral.draw(KEY)
    assert drawn.dtype.kind == "i"
    for v in range(3):
        row = np.bincount(drawn[deferral.decision == v], minlength=4) / np.sum(deferral.decision == v)
        np.testing.assert_allclose(row, deferral.people_probs[v], atol=0.05)
        assert np.all(row[deferral.people_probs[v] == 0] == 0)
    np.testing.assert_array_equal(drawn == 3, deferral.decision == 2)
    np.testing.assert_array_equal(drawn, deferral.draw(KEY))


def test_shares_are_the_expected_ones():
    deferral = small(30)
    expected = np.zeros(4)
    for v in deferral.decision:
        expected += deferral.people_probs[v] / 30
    np.testing.assert_allclose(deferral.shares, expected)


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.sampled_from([0.0, 0.5, 0.9]))
def test_evaluation_is_that_of_a_loop(seed, missing):
    rng = np.random.default_rng(seed)
    deferral = random_deferral(rng, 40, 4, 5)
    annotations, y = random_answers(rng, 40, 5, missing)
    accuracies, shares = [], np.zeros(6)
    for i, v in enumerate(deferral.decision):
        right = total = 0.0
        for w in range(6):
            shares[w] += deferral.people_probs[v, w] / 40
            said = deferral.ai[i].argmax() if w == 5 else annotations[i, w]
            if said >= 0:
                total += deferral.people_probs[v, w]
                right += deferral.people_probs[v, w] * (said == y[i])
        if y[i] >= 0 and total > 0:
            accuracies.append(right / total)
    found = deferral.evaluate(annotations, y)
    np.testing.assert_allclose(found["workload"], shares)
    np.testing.assert_allclose(found["coverage"], shares[-1])
    np.testing.assert_allclose(found["judged"], len(accuracies) / 40)
    np.testing.assert_allclose(found["accuracy"], np.mean(accuracies) if accuracies else np.nan)


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.sampled_from([0.0, 0.5, 1.0]))
def test_where_options_are_people_evaluation_is_that_of_decisions(seed, missing):
    rng = np.random.default_rng(seed)
    gate, ai = random_gate(rng, 30, 4), rng.dirichlet(np.ones(4), 30)
    annotations, y = random_answers(rng, 30, 3, missing)
    data = Annotated(np.zeros((30, 1)), y, annotations, classes=tuple("abcd"), annotators=PEOPLE, subset=True)
    expected = evaluate_decisions(gate.argmax(1), ai.argmax(1), data)
    found = Deferral.of(gate, ai, people=PEOPLE)
    for evaluation in (found.evaluate(annotations, y), found.evaluate_drawn(KEY, annotations, y)):
        np.testing.assert_equal(evaluation, expected)


def test_evaluation_is_the_mean_over_draws():
    """Where everybody annotates everything; otherwise a draw judges fewer items."""
    rng = np.random.default_rng(0)
    deferral = small(200)
    annotations, y = random_answers(rng, 200, 3, 0.0)
    draws = [deferral.evaluate_drawn(key, annotations, y) for key in jax.random.split(KEY, 400)]
    expected = deferral.evaluate(annotations, y)
    for name, value in expected.items():
        values = np.array([d[name] for d in draws])
        error = values.std(0) / np.sqrt(400)
        assert np.all(np.abs(values.mean(0) - value) <= 4 * error + 1e-9), name
    annotations = np.where(rng.random(annotations.shape) < 0.5, -1, annotations)
    assert deferral.evaluate_drawn(KEY, annotations, y)["judged"] < deferral.evaluate(annotations, y)["judged"]


def test_drawn_people_are_judged_as_decisions():
    deferral = small(100)
    annotations, y = random_answers(np.random.default_rng(2), 100, 3, 0.3)
    data = Annotated(np.zeros((100, 1)), y, annotations, classes=tuple("abcd"), annotators=PEOPLE)
    expected = evaluate_decisions(deferral.draw(KEY), deferral.ai.argmax(1), data)
    assert deferral.evaluate_drawn(KEY, annotations, y) == expected
