"""Experts biased against a group, swayed by the AI, or asked again: frequencies within four standard errors."""

import jax
import numpy as np
import pytest

from pl2d_ppl.simulate import ask_again, group_biased_experts, swayed_by_ai

KEY = jax.random.key(0)
N, C = 20_000, 4
Y = np.arange(N) % C


def close(share, expected, number):
    return abs(share - expected) <= 4 * np.sqrt(expected * (1 - expected) / number) + 1e-12


def test_errors_depend_on_the_group():
    group = np.where(np.arange(N) % 3 == 0, "old", "new")
    rates = np.array([[0.1, 0.5], [0.2, 0.2], [0, 1]])  # of "new", "old"
    said = group_biased_experts(KEY, Y, group, C, rates=rates)
    for m in range(3):
        for g, name in enumerate(("new", "old")):
            own = group == name
            assert close((said[own, m] != Y[own]).mean(), rates[m, g], own.sum())
    wrong = said[:, 0][said[:, 0] != Y] - Y[said[:, 0] != Y]
    for step in range(1, C):
        assert close((wrong % C == step).mean(), 1 / 3, len(wrong))


def test_the_ai_sways_some():
    alone, ai = np.stack([Y, Y, Y], 1), (Y + 1) % C
    alone[0], ai[1] = -1, -1
    said = swayed_by_ai(KEY, alone, ai, trust=[0, 0.3, 1])
    assert (said[0] == -1).all()
    assert (said[1] == Y[1]).all()
    assert (said[2:, 0] == Y[2:]).all()
    assert close((said[2:, 1] == ai[2:]).mean(), 0.3, N)
    assert (said[2:, 2] == ai[2:]).all()


def test_the_second_answer_is_the_first_as_often_as_somebody_is_consistent():
    first = np.stack([Y, Y], 1)
    first[::7, 1] = -1
    again = ask_again(KEY, first, C, consistency=[0.9, 0.5])
    assert ((again < 0) == (first < 0)).all()
    for m, expected in enumerate((0.9, 0.5)):
        given = first[:, m] >= 0
        assert close((again[given, m] == first[given, m]).mean(), expected, given.sum())
    np.testing.assert_array_equal(ask_again(KEY, first, C, consistency=1), first)


def test_what_is_refused():
    with pytest.raises(ValueError, match=r"rates of shape \(M, 2\), one column for each group"):
        group_biased_experts(KEY, Y[:4], [0, 0, 1, 1], C, rates=[0.1, 0.2])
    with pytest.raises(ValueError, match="trust as one number, or one for each of 2 experts"):
        swayed_by_ai(KEY, np.zeros((4, 2), int), Y[:4], trust=[0.1] * 3)
    with pytest.raises(ValueError, match="consistency"):
        ask_again(KEY, np.zeros((4, 2), int), C, consistency=1.5)
