"""Who is replaced, and what is trained on what."""

import itertools

import numpy as np
import pytest
from cases.onboarding import CATEGORIES, KEY, STAFF, some_options

from pl2d_ppl.experiments.onboarding.firm import replaced_people, reserved_items, set_up_firm
from pl2d_ppl.experiments.onboarding.workplace import open_workplace


def test_who_is_replaced_is_spread_evenly_over_groups():
    for sizes in itertools.product((1, 2, 3, 5), repeat=3):
        groups = np.repeat(np.arange(3), sizes)
        for share in (0.0, 0.2, 1 / 3, 0.5, 0.8, 1.0):
            chosen = replaced_people(groups, share)
            assert len(set(chosen.tolist())) == len(chosen) == round(share * len(groups))
            assert sorted(chosen) == chosen.tolist()
            counts = np.bincount(groups[chosen], minlength=3)
            for few, many in itertools.permutations(range(3), 2):  # a group of which all are chosen has no more
                assert counts[many] - counts[few] <= 1 or counts[few] == sizes[few], (sizes, share)


def test_nobody_decides_on_items_that_anything_was_trained_on(trained):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((120, 4)) * 5 + 3, rng.integers(0, CATEGORIES, 120)
    settings = some_options(methods=("two-stage", "cluster-soft"), replaced=0.5)
    firm = set_up_firm(KEY, x, y, CATEGORIES, settings, reserved=20)
    assert firm.num_training == 120 - 30 - 15 - 20
    place = open_workplace(KEY, firm, settings, 20)
    ((ai_x, ai_y),), ((cluster_x, counts),) = trained
    parts = [set(map(tuple, part)) for part in (ai_x, place.staff.x, place.unlabelled, place.test.x)]
    assert list(map(len, parts)) == [55, 20, 15, 30]
    assert not any(a & b for a, b in itertools.combinations(parts, 2))
    np.testing.assert_array_equal(cluster_x, ai_x)
    np.testing.assert_allclose(ai_x.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(ai_x.std(0), 1, atol=1e-5)
    # All are items of the data, with their truth.
    place_in_data = np.empty(120, int)
    place_in_data[firm.x[:, 1].argsort()] = x[:, 1].argsort()
    correlation = [np.corrcoef(firm.x[:, d], x[place_in_data, d])[0, 1] for d in range(4)]
    np.testing.assert_allclose(correlation, 1)
    np.testing.assert_array_equal(firm.y, y[place_in_data])
    np.testing.assert_array_equal(ai_y, firm.y[:55])
    # The votes are those of the staff, of whom some will leave, and not of newcomers.
    votes = (firm.annotations[:55, :STAFF, None] == np.arange(CATEGORIES)).sum(1)
    np.testing.assert_array_equal(counts, votes)


def test_newcomers_are_of_the_groups_of_those_who_leave(trained):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((4000, 2)), rng.integers(0, CATEGORIES, 4000)
    settings = some_options(people=4, rates=(0.2, 0.6), replaced=0.5)
    firm = set_up_firm(KEY, x, y, CATEGORIES, settings, reserved=20)
    assert firm.groups.tolist() == [0, 0, 1, 1, 0, 1]
    errors = (firm.annotations != firm.y[:, None]).mean(0)
    np.testing.assert_allclose(errors, np.array([0.2, 0.6])[firm.groups], atol=0.04)
    alone = set_up_firm(KEY, x, y, CATEGORIES, some_options(people=4, rates=(0.2, 0.6)), reserved=20)
    np.testing.assert_array_equal(alone.annotations, firm.annotations[:, :4])


def test_too_few_items_are_told():
    x, y = np.zeros((100, 2)), np.arange(100) % CATEGORIES
    with pytest.raises(ValueError, match="51 to annotate, 12 without labels and 25 to test, found 12"):
        set_up_firm(KEY, x, y, CATEGORIES, some_options(), reserved=51)


def test_own_items_are_half_of_all_at_most():
    settings = some_options(own_items=True, people=100)
    assert reserved_items(60_000, 1000, settings) == 30_000
    assert reserved_items(60_000, 100, settings) == 10_000
