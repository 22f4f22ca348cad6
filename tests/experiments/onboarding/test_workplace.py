"""Who annotates what, who is present, and what a gate sees."""

import jax
import numpy as np
import pytest
from cases.onboarding import ITEMS, KEY, STAFF, TEST, TRAINING, make_firm, some_options
from scipy.special import softmax

from pl2d_ppl.experiments.onboarding.workplace import annotated_items, open_workplace


@pytest.mark.parametrize("own", [False, True])
def test_everybody_annotates_as_many_items(own):
    chosen = annotated_items(KEY, 40, 5, 7, own)
    assert chosen.shape == (40, 5)
    np.testing.assert_array_equal(chosen.sum(0), 7)
    alike = [np.array_equal(chosen[:, 0], chosen[:, m]) for m in range(1, 5)]
    assert not any(alike) if own else all(alike)
    more = annotated_items(KEY, 40, 5, 12, own)
    assert (more | ~chosen).all()  # more context items add to fewer
    assert annotated_items(KEY, 40, 5, 40, own).all()


@pytest.mark.slow
@pytest.mark.parametrize("own", [False, True])
def test_every_item_is_as_likely_to_be_annotated(own):
    keys = jax.random.split(jax.random.key(1), 60)
    shares = np.mean([annotated_items(key, 10, 2, 3, own) for key in keys], 0)
    np.testing.assert_allclose(shares, 0.3, atol=4 * np.sqrt(0.3 * 0.7 / 60))


def numbers(data):
    """Which items of a firm a part has."""
    return data.x[:, 0].astype(int)


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("replaced", [0.0, 0.5, 1.0])
def test_known_people_annotate_items_that_are_for_nothing_else(own, replaced):
    firm = make_firm(replaced=replaced)
    place = open_workplace(KEY, firm, some_options(own_items=own, replaced=replaced), 9)
    columns = [(place.staff, slice(0, STAFF))]
    if replaced:
        columns.append((place.newcomers, slice(STAFF, None)))
    else:
        assert place.newcomers is None
    for part, people in columns:
        items, given = numbers(part), part.annotations >= 0
        assert TRAINING <= items.min() <= items.max() < ITEMS - TEST
        assert len(set(items)) == len(items)
        np.testing.assert_array_equal(given.sum(0), 9)
        assert given.any(1).all()
        assert own or given.all()
        np.testing.assert_array_equal(part.annotations[given], firm.annotations[items, people][given])
        np.testing.assert_array_equal(part.y, firm.y[items])
        assert items.max() < ITEMS - TEST - len(place.unlabelled)
    np.testing.assert_array_equal(place.unlabelled[:, 0], range(ITEMS - TEST - ITEMS // 8, ITEMS - TEST))
    np.testing.assert_array_equal(numbers(place.test), range(ITEMS - TEST, ITEMS))
    np.testing.assert_array_equal(place.test.annotations, firm.annotations[-TEST:])
    np.testing.assert_array_equal(place.test.y, firm.y[-TEST:])


@pytest.mark.parametrize(("replaced", "gone"), [(0.0, []), (1 / 3, [0, 2]), (0.5, [0, 2, 4]), (1.0, range(STAFF))])
def test_newcomers_are_present_and_leavers_absent(replaced, gone):
    firm = make_firm(replaced=replaced)  # groups 0 0 1 1 2 2, and those of the newcomers
    place = open_workplace(KEY, firm, some_options(replaced=replaced), 5)
    names = [f"person {m}" for m in range(STAFF + len(gone))]
    assert place.staff.annotators == tuple(names[:STAFF])
    assert (place.newcomers.annotators if gone else ()) == tuple(names[STAFF:])
    assert place.test.annotators == tuple(names)
    assert place.present == tuple(name for m, name in enumerate(names) if m not in gone)
    present = [names.index(name) for name in place.present]
    np.testing.assert_array_equal(np.sort(firm.groups[present]), np.sort(firm.groups[:STAFF]))  # as many of each


def test_more_context_items_than_there_are_left_are_refused():
    with pytest.raises(ValueError, match="at most 20 context items, which are left, found 31"):
        open_workplace(KEY, make_firm(), some_options(), 31)


@pytest.mark.parametrize("replaced", [0.0, 0.5])
def test_a_gate_that_sees_confidence_leaves_the_ai_as_it_is(replaced):
    firm = make_firm(replaced=replaced)
    x = np.random.default_rng(1).standard_normal((ITEMS, 2)).astype(np.float32)
    firm = firm._replace(x=x)
    settings = some_options(gate_input="features+confidence", replaced=replaced)
    place, plain = (open_workplace(KEY, firm, o, 20) for o in (settings, some_options(replaced=replaced)))
    logits = np.asarray(firm.classifier(x), float)
    odds = softmax(logits, -1).max(-1)
    odds = np.log(odds / (1 - odds))
    known = odds[:TRAINING]
    expected = dict(zip(map(tuple, x), (odds - known.mean()) / known.std(), strict=True))
    for part, without in [(place.staff, plain.staff), (place.test, plain.test), (place.newcomers, plain.newcomers)]:
        if part is None:
            assert not replaced
            continue
        assert part.x.shape[1] == 3
        np.testing.assert_array_equal(part.x[:, :2], without.x)
        np.testing.assert_allclose(part.x[:, 2], [expected[tuple(row)] for row in without.x], atol=1e-4)
        np.testing.assert_array_equal(place.classifier(part.x), firm.classifier(without.x))
        np.testing.assert_array_equal(part.annotations, without.annotations)
    assert plain.classifier is firm.classifier
