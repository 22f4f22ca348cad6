"""Who is replaced, and what is trained on what."""

import itertools
from dataclasses import replace

import jax
import numpy as np
import pytest
from cases.onboarding import CATEGORIES, KEY, some_options

from pl2d_ppl.experiments.onboarding.firm import replaced_people, reserved_items, set_up_firm


def leaves(firm):
    """Numbers of the AI, and of the clusters if there are any."""
    return jax.tree.leaves((firm.classifier, firm.clusters and firm.clusters.result.params))


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


@pytest.mark.slow
@pytest.mark.parametrize("method", ["two-stage", pytest.param("cluster-soft", marks=pytest.mark.exhaustive)])
def test_only_training_items_and_votes_of_the_staff_reach_the_ai_and_the_clusters(method):
    """Other truth of the others, on whom the day is decided, changes neither; nor do newcomers."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((120, 4)) * 5 + 3, rng.integers(0, CATEGORIES, 120)
    options = some_options(
        methods=("two-stage", "cluster-soft"), hidden=(4,), ai_steps=4, cluster_steps=4, replaced=0.5
    )
    firm = set_up_firm(KEY, x, y, CATEGORIES, options, reserved=20)
    assert firm.num_training == 120 - 30 - 15 - 20
    training = firm.x[:55]
    np.testing.assert_allclose(training.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(training.std(0), 1, atol=1e-5)
    # All are items of the data, with their truth.
    place_in_data = np.empty(120, int)
    place_in_data[firm.x[:, 1].argsort()] = x[:, 1].argsort()
    correlation = [np.corrcoef(firm.x[:, d], x[place_in_data, d])[0, 1] for d in range(4)]
    np.testing.assert_allclose(correlation, 1)
    np.testing.assert_array_equal(firm.y, y[place_in_data])
    others = y.copy()
    others[place_in_data[55:]] = (others[place_in_data[55:]] + 1) % CATEGORIES
    same = set_up_firm(KEY, x, others, CATEGORIES, replace(options, replaced=0.0), reserved=20)
    for one, other in zip(leaves(same), leaves(firm), strict=True):
        np.testing.assert_array_equal(one, other)
    others[place_in_data[0]] = (others[place_in_data[0]] + 1) % CATEGORIES
    changed = set_up_firm(KEY, x, others, CATEGORIES, some_options(hidden=(4,), ai_steps=4), reserved=20)
    assert np.abs(np.asarray(changed.classifier(training)) - np.asarray(firm.classifier(training))).max() > 0


@pytest.mark.slow
def test_newcomers_are_of_the_groups_of_those_who_leave():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((4000, 2)), rng.integers(0, CATEGORIES, 4000)
    settings = some_options(people=4, rates=(0.2, 0.6), replaced=0.5, hidden=(), ai_steps=1)
    firm = set_up_firm(KEY, x, y, CATEGORIES, settings, reserved=20)
    assert firm.groups.tolist() == [0, 0, 1, 1, 0, 1]
    errors = (firm.annotations != firm.y[:, None]).mean(0)
    np.testing.assert_allclose(errors, np.array([0.2, 0.6])[firm.groups], atol=0.04)
    alone = set_up_firm(KEY, x, y, CATEGORIES, replace(settings, replaced=0.0), reserved=20)
    np.testing.assert_array_equal(alone.annotations, firm.annotations[:, :4])


def test_too_few_items_are_told():
    x, y = np.zeros((100, 2)), np.arange(100) % CATEGORIES
    with pytest.raises(ValueError, match="51 to annotate, 12 without labels and 25 to test, found 12"):
        set_up_firm(KEY, x, y, CATEGORIES, some_options(), reserved=51)


@pytest.mark.parametrize(
    ("changes", "reserved"), [({}, 20), ({"own_items": True}, 120), ({"own_items": True, "replaced": 0.5}, 180)]
)
def test_items_are_reserved_for_all_who_annotate(changes, reserved):
    assert reserved_items(1797, 20, some_options(**changes)) == reserved


def test_own_items_are_shared_where_there_are_too_few():
    """Half of all at most, and no more than training, the test and offsets leave."""
    options = some_options(own_items=True, people=100)
    assert reserved_items(60_000, 1000, options) == 30_000
    assert reserved_items(60_000, 100, options) == 10_000
    assert reserved_items(80, 20, some_options(own_items=True)) == 80 - 20 - 20 - 10
