"""What partially pooled people refuse, before anything is compiled."""

from functools import partial

import numpy as np
import pytest
from cases.compilations import programs
from cases.pooled_l2d import AI, DATA, KEY, NAMES, NEW, ONE_EACH, OPTIMIZER, X, by_hand, guide_of
from programs import Table

from pl2d_ppl import fit
from pl2d_ppl.models.pooled_l2d import pooled_l2d
from pl2d_ppl.networks import Frozen


def nothing_compiled(names):
    assert not programs(names)


LABELS = DATA["annotations"][:, :2]
NEWCOMERS = {
    "one cluster": ({}, np.ones((1, 2)), {}, r"memberships of shape \(2, M'\), in the same clusters, found \(1, 2\)"),
    "draws": ({}, np.full((2, 2, 2), 0.5), {}, r"found \(2, 2, 2\)"),
    "too much": ({}, np.array([[1.0, 0.5], [0.5, 0.5]]), {}, "sum to one over K, .* with sum 1.5 at 'person_0'"),
    "the names of others": ({}, ONE_EACH, {"people": ["x", NAMES[0]]}, rf"distinct names, .* found \['{NAMES[0]}'\]"),
    "the same names": ({}, ONE_EACH, {"people": ["x", "x"]}, r"distinct names, one a person, found \['x'\]"),
    "too many names": ({}, ONE_EACH, {"people": ["x", "y", "z"]}, "Expected 2 names, one a person, found 3"),
    "more columns": (
        {"annotations": DATA["annotations"][:, :3]},
        ONE_EACH,
        {},
        r"of shape \(400, 2\).*found \(400, 3\)",
    ),
    "fewer rows": ({"annotations": LABELS[:9]}, ONE_EACH, {}, "arrays of one length"),
    "no steps": ({}, ONE_EACH, {"steps": 0}, "at least one step, found steps=0"),
}


@pytest.mark.parametrize("kind", NEWCOMERS)
def test_bad_newcomers(compiled, kind):
    data, membership, options, message = NEWCOMERS[kind]
    pooled = by_hand(num_draws=2)
    compiled.clear()
    with pytest.raises(ValueError, match=message):
        pooled.join(KEY, NEW | data, membership, **options)
    nothing_compiled(compiled)


def test_deferral_and_values_of_what_is_not_there():
    pooled = by_hand(num_draws=2)
    with pytest.raises(ValueError, match=r"at least one item, found \(0, 3\)"):
        pooled.defer(X[:0])
    with pytest.raises(ValueError, match="a site of the program, found no 'persons'"):
        pooled.values("persons", X[:1])


def refused(compiled, message, data=NEW, model=None, **networks):
    model = model or partial(pooled_l2d, **networks)
    with pytest.raises(ValueError, match=message):
        fit(KEY, model, guide_of(model), data, OPTIMIZER, epochs=1, batch_size=400, progress=False)
    nothing_compiled(compiled)


@pytest.mark.parametrize(
    ("membership", "message"),
    [
        (np.ones(2), r"Expected a membership of shape \(K, M\), found \(2,\)"),
        (np.stack([ONE_EACH] * 3), r"found \(3, 2, 2\). Pass the mean of draws"),
        (np.full((2, 3), 0.5), r"annotations of shape \(400, 3\), one column for each person.*found \(400, 2\)"),
        (np.full((2, 2), 0.6), "sum to one over K, .* with sum 1.2 at 'person_0'"),
        (
            np.array([[np.nan, 0.5], [0.5, 0.5]]),
            r"found \[nan, 0.5\] with sum nan at 'person_0'. Correct NaN and infinite numbers",
        ),
    ],
)
def test_bad_memberships(compiled, membership, message):
    refused(compiled, message, membership=membership, classifier=AI)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("classifier", (400, 1, 3), r"classifier \(N, C\) and features \(N, D\), found \(400, 1, 3\)"),
        ("features", (400, 1, 3), r"found \(400, 3\) and \(400, 1, 3\)"),
    ],
)
def test_bad_networks(compiled, name, shape, message):
    networks = {"classifier": AI, "features": AI, name: Frozen.of(Table(np.zeros(shape, np.float32)))}
    refused(compiled, message, membership=ONE_EACH, **networks)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"annotations": NEW["annotations"][:, :1]}, r"annotations of shape \(400, 2\).*found \(400, 1\)"),
        ({"annotations": NEW["annotations"][:, 0]}, r"found \(400,\)"),
    ],
)
def test_bad_labels(compiled, labels, message):
    refused(compiled, message, NEW | labels, membership=ONE_EACH, classifier=AI)
