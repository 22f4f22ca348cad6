"""Who stands behind an option, and who is present, against loops."""

import warnings

import jax.numpy as jnp
import numpy as np
import pytest
from cases.deferral import PEOPLE, SEEDS, random_gate, random_omega, small
from hypothesis import given, settings

from pl2d_ppl.deferral.deferral import Deferral


def test_rows_of_omega_are_normalised_and_the_ai_stands_alone():
    found = small()
    np.testing.assert_allclose(
        found.people_probs, [[0.9 / 1.4, 0.5 / 1.4, 0, 0], [0.1 / 1.6, 0.5 / 1.6, 1 / 1.6, 0], [0, 0, 0, 1]]
    )
    assert found.people == PEOPLE
    assert found.staff.all()


def test_without_membership_options_are_people():
    found = small(membership=None, people=None)
    np.testing.assert_array_equal(found.people_probs, np.eye(3))
    assert found.people == ("person_0", "person_1")


def test_decisions_are_those_of_the_gate():
    gate = np.random.default_rng(1).dirichlet(np.ones(5), 50)
    found = Deferral.of(gate, np.full((50, 2), 0.5))
    np.testing.assert_array_equal(found.decision, gate.argmax(1))
    np.testing.assert_allclose(np.exp(found.log_gate), gate)


def test_rows_are_averaged_over_the_draws_in_which_clusters_have_members():
    rng = np.random.default_rng(0)
    draws = np.eye(3)[rng.integers(0, 3, (40, 4))].swapaxes(1, 2)  # (S, K, M), one-hot
    expected = np.zeros((3, 4))
    for k in range(3):
        rows = [draw[k] / draw[k].sum() for draw in draws if draw[k].sum() > 0]
        assert len(rows) < len(draws)
        expected[k] = sum(rows) / len(rows)
    found = Deferral.of(rng.dirichlet(np.ones(4), 5), np.full((5, 2), 0.5), membership=draws)
    np.testing.assert_allclose(found.people_probs[:3, :4], expected)
    np.testing.assert_allclose(found.people_probs.sum(1), 1.0)


@settings(max_examples=30, deadline=None)
@given(SEEDS)
def test_staff_is_restricted_as_in_a_loop(seed):
    rng = np.random.default_rng(seed)
    omega = random_omega(rng, 3, 5)
    gate, present = random_gate(rng, 20, 4).astype(float), rng.random(5) < 0.5
    present[rng.integers(5)] = True
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = Deferral.of(gate, np.full((20, 2), 0.5), membership=omega).present(present)
    closed, people_probs = [], np.zeros((4, 6))
    for v in range(3):
        total = sum(omega[v, m] for m in range(5) if present[m])
        for m in range(5):
            people_probs[v, m] = omega[v, m] / total if total > 0 and present[m] else 0.0
        closed += [] if total > 0 else [v]
    people_probs[3, 5] = 1.0
    np.testing.assert_allclose(found.people_probs, people_probs)
    for i in range(20):
        total = sum(gate[i, v] for v in range(4) if v not in closed)
        for v in range(4):
            np.testing.assert_allclose(
                np.exp(found.log_gate[i, v]), 0.0 if v in closed else gate[i, v] / total, atol=1e-12
            )
    assert not np.isin(found.decision, closed).any()
    assert len(caught) <= 2  # one of clusters without members, one of those who are absent
    assert bool(caught) == bool(closed)


def test_names_and_masks_say_the_same_and_whoever_comes_back_is_there():
    everybody = small()
    before = [a.copy() for a in (everybody.log_gate, everybody.people_probs)]
    alone = everybody.present(["bob"])
    for staff in (
        [False, True, False],
        np.array([False, True, False]),
        jnp.array([False, True, False]),
        ("bob",),
        {"bob"},
    ):
        np.testing.assert_array_equal(everybody.present(staff).people_probs, alone.people_probs)
    np.testing.assert_array_equal(alone.people_probs, [[0, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
    assert alone.staff.tolist() == [False, True, False, True]
    for array, kept in zip((everybody.log_gate, everybody.people_probs), before, strict=True):
        np.testing.assert_array_equal(array, kept)
    back = everybody.present(PEOPLE)
    np.testing.assert_allclose(back.people_probs, everybody.people_probs)
    np.testing.assert_allclose(back.log_gate, everybody.log_gate)


@pytest.mark.slow
def test_options_without_anybody_are_closed_with_one_warning():
    omega = np.eye(3)[:, [0, 1, 2, 1]]
    people = (*PEOPLE, "dan")
    everybody = Deferral.of(np.full((4, 4), 0.25), np.full((4, 2), 0.5), membership=omega, people=people)
    with pytest.warns(
        UserWarning, match=r"option 0 \('ann'\), option 2 \('cid'\): their share goes to the others"
    ) as caught:
        found = everybody.present(["bob"])
    assert len(caught) == 1
    assert caught[0].filename == __file__
    np.testing.assert_allclose(np.exp(found.log_gate), np.tile([0, 0.5, 0, 0.5], (4, 1)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # what is closed stays so, and is no news
        found.present(["bob", "cid"]).bounded([0, 0.5, 0, 0, 0.5], [1, 0.5, 1, 1, 0.5])


def rows_of_draws(draws, present):
    """Who decides in a cluster, draw by draw: among those of its members who are present."""
    expected = np.zeros(draws.shape[1:])
    for k in range(len(expected)):
        rows = []
        for draw in draws:
            members = [draw[k, m] if present[m] else 0.0 for m in range(draw.shape[1])]
            if sum(members) > 0:
                rows.append(np.array(members) / sum(members))
        expected[k] = np.mean(rows, 0) if rows else 0.0
    return expected


def test_draws_are_restricted_to_those_who_are_present_before_they_are_averaged():
    draws = np.array([[[1, 1, 0], [0, 0, 1]], [[1, 0, 1], [0, 1, 0]]], float)
    everybody = small(membership=draws)
    np.testing.assert_array_equal(everybody.draws, draws)
    day = everybody.present(["ann", "bob"])
    np.testing.assert_allclose(day.people_probs[0], [0.75, 0.25, 0, 0])
    np.testing.assert_allclose(day.people_probs[1], [0, 1, 0, 0])  # of the one draw in which somebody is left
    np.testing.assert_allclose(
        day.people_probs[:2, :2], small(membership=draws[:, :, :2], people=None).people_probs[:2, :2]
    )
    np.testing.assert_allclose(day.present(["ann", "bob", "cid"]).people_probs, day.people_probs)
    for found in (everybody.bounded([0] * 4, [1] * 4), everybody.bounded_options([0] * 3, [1] * 3)):
        assert found.draws is None
    assert small().draws is None
    with pytest.warns(UserWarning, match=r"found nobody behind option 1 \('bob', 'cid'\)"):
        alone = everybody.present(["ann"])
    np.testing.assert_array_equal(alone.people_probs, [[1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1]])


@settings(max_examples=30, deadline=None)
@given(SEEDS)
def test_staff_of_draws_is_restricted_as_in_a_loop(seed):
    rng = np.random.default_rng(seed)
    draws = np.stack([random_omega(rng, 3, 5) for _ in range(rng.integers(1, 5))])
    present = rng.random(5) < 0.6
    present[rng.integers(5)] = True
    first = present | (rng.random(5) < 0.5)  # on a day of more people, of whom some leave
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Expected somebody behind every option")
        everybody = Deferral.of(random_gate(rng, 20, 4), np.full((20, 2), 0.5), membership=draws)
        days = everybody.present(present), everybody.present(first).present(present)
    for day in days:
        np.testing.assert_allclose(day.people_probs[:-1, :-1], rows_of_draws(draws, present))
        np.testing.assert_array_equal(day.log_gate[:, :-1] == -np.inf, np.tile(~day.people_probs[:-1].any(1), (20, 1)))


def test_clusters_without_members_are_closed_with_a_warning():
    omega = np.array([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
    for membership in (omega, np.stack([omega, omega])):
        with pytest.warns(UserWarning, match=r"option 1 \(a cluster without members\)") as caught:
            found = small(membership=membership)
        assert len(caught) == 1
        assert np.all(found.log_gate[:, 1] == -np.inf)
        assert np.isfinite(found.log_gate[:, [0, 2]]).all()
        np.testing.assert_allclose(np.exp(found.log_gate).sum(1), 1.0)
