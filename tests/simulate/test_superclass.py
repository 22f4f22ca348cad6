"""Simulated experts and missing annotations."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pl2d_ppl.data.missing import drop_annotations
from pl2d_ppl.simulate import realised_error, superclass_experts

NUM_ITEMS = 20_000
Y = np.random.default_rng(0).integers(0, 9, NUM_ITEMS)
COARSE = Y // 3  # three superclasses of three


def draw(seed=0, y=Y, coarse=COARSE, num_categories=9, expertise=((0,), (1, 2), ()), **options):
    return superclass_experts(jax.random.key(seed), y, coarse, num_categories, expertise, **options)


@pytest.mark.parametrize("confusion", ["uniform", "partner", "within"])
def test_right_at_home_and_wrong_at_the_rate_elsewhere(confusion):
    annotations = draw(error=0.3, confusion=confusion)
    assert annotations.shape == (NUM_ITEMS, 3)
    assert annotations.dtype == np.int32
    for m, own in enumerate([(0,), (1, 2), ()]):
        home = np.isin(COARSE, own)
        assert (annotations[home, m] == Y[home]).all()
        wrong = (annotations[~home, m] != Y[~home]).mean()
        assert wrong == pytest.approx(0.3, abs=5 * np.sqrt(0.21 / (~home).sum()))


def test_uniform_confusion_hits_every_other_category_alike():
    annotation = draw(expertise=[[]], error=1.0)[:, 0]
    counts = np.zeros((9, 9))
    np.add.at(counts, (Y, annotation), 1)
    assert (np.diag(counts) == 0).all()
    expected = counts.sum(1, keepdims=True) / 8
    z = ((counts - expected) / np.sqrt(expected))[~np.eye(9, dtype=bool)]
    assert np.abs(z).max() < 4.5


@pytest.mark.parametrize("num_categories", [2, 8, 9])
def test_partner_is_one_other_category(num_categories):
    y = np.arange(num_categories * 20) % num_categories
    annotations = draw(y=y, coarse=y, num_categories=num_categories, expertise=[[], []], error=1.0, confusion="partner")
    for column in annotations.T:
        partner = column[:num_categories]
        assert (column == partner[y]).all()
        assert (partner != np.arange(num_categories)).all()
        mutual = (partner[partner] == np.arange(num_categories)).sum()
        assert mutual == num_categories - num_categories % 2
    if num_categories > 2:
        assert (annotations[:, 0] != annotations[:, 1]).any()  # everyone has partners of their own


def test_within_confusion_stays_in_the_superclass():
    annotation = draw(expertise=[[]], error=1.0, confusion="within")[:, 0]
    assert (annotation // 3 == COARSE).all()
    assert (annotation != Y).all()
    assert len(set(zip(Y, annotation, strict=True))) == 9 * 2


def test_truth_as_its_own_superclass():
    annotations = draw(coarse=Y, expertise=[[4]], error=1.0)
    np.testing.assert_array_equal(annotations[:, 0] == Y, Y == 4)


def test_seeded_and_unchanged_by_further_experts():
    np.testing.assert_array_equal(draw(), draw())
    np.testing.assert_array_equal(draw(), draw(expertise=[(0,), (1, 2), (), (2,)])[:, :3])
    assert (draw() != draw(seed=1)).any()


def test_eight_bit_labels_do_not_wrap():
    y = np.arange(200).repeat(5)
    small = draw(y=y.astype(np.uint8), coarse=(y // 20).astype(np.uint8), num_categories=200)
    np.testing.assert_array_equal(small, draw(y=y, coarse=y // 20, num_categories=200))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"y": Y.astype(float)}, "integer labels in y, found float64"),
        (
            {"y": np.where(Y == 3, -1, Y)},
            r"labels in 0..8 in y, found -1 .* Give every item one from 0 up, or leave out those without",
        ),
        ({"num_categories": 5}, r"labels in 0..4 in y, found 7 at item 0 "),
        ({"num_categories": 1}, "num_categories of at least 2, found 1"),
        ({"coarse": COARSE[:5]}, r"coarse of shape \(20000,\), .* found \(5,\)"),
        ({"expertise": []}, "a sequence of superclasses for each expert"),
        ({"expertise": [0, 1]}, r"found \[0, 1\]. Write \[\[0, 1\], \[2\]\]"),
        (
            {"expertise": [[0], [7]]},
            r"superclasses that occur in coarse in expertise\[1\], found 7",
        ),
        ({"expertise": [[0.5]]}, r"expertise\[0\], found 0.5"),
        ({"error": 1.5}, r"error as a probability in \[0, 1\], found 1.5"),
        ({"error": float("nan")}, "found nan"),
        ({"confusion": "none"}, "one of .* as confusion, found 'none'"),
        (
            {"coarse": np.arange(NUM_ITEMS) % 2, "expertise": [[0]], "confusion": "within"},
            "category 0 in several",
        ),
        ({"coarse": Y, "confusion": "within"}, "only category 0 in superclass 0"),
    ],
)
def test_bad_experts(options, message):
    with pytest.raises(ValueError, match=message):
        draw(**options)


@pytest.mark.parametrize("rng_key", [0, jax.random.PRNGKey(0), jax.random.split(jax.random.key(0))])
def test_bad_key(rng_key):
    with pytest.raises(ValueError, match=r"Expected (a typed|one) key"):
        superclass_experts(rng_key, Y, COARSE, 9, [[0]])
    with pytest.raises(ValueError, match=r"Expected (a typed|one) key"):
        drop_annotations(rng_key, np.zeros((2, 1), int), 0.5)


# Missing annotations


def grid(num_items, num_experts, missing, seed):
    rng = np.random.default_rng(seed)
    annotations = rng.integers(0, 5, (num_items, num_experts))
    return np.where(rng.random(annotations.shape) < missing, -1, annotations)


# Few shapes, so that jax compiles few programs.
GRIDS = st.builds(
    grid,
    st.sampled_from([1, 10, 30]),
    st.sampled_from([1, 2, 5]),
    st.sampled_from([0, 0.3, 0.8]),
    st.integers(0, 99),
)
TENTHS = st.integers(0, 10)


@settings(max_examples=50, deadline=None)
@given(GRIDS, TENTHS, st.integers(0, 99))
def test_each_expert_keeps_their_share(annotations, tenths, seed):
    kept = drop_annotations(jax.random.key(seed), annotations, tenths / 10)
    present = (annotations >= 0).sum(0)
    np.testing.assert_array_equal((kept >= 0).sum(0), present * (10 - tenths) // 10)  # in exact integers
    assert ((kept == annotations) | (kept == -1)).all()


@settings(max_examples=100, deadline=None)
@given(GRIDS, TENTHS, st.integers(0, 99))
def test_at_least_one(annotations, tenths, seed):
    present = annotations >= 0
    quotas = present.sum(0) * (10 - tenths) // 10
    key = jax.random.key(seed)
    if quotas.sum() < present.any(1).sum():
        with pytest.raises(
            ValueError, match=r"annotations for at_least_one, one for every item, found that rate .* leaves"
        ):
            drop_annotations(key, annotations, tenths / 10, at_least_one=True)
        return
    kept = drop_annotations(key, annotations, tenths / 10, at_least_one=True)
    assert ((kept == annotations) | (kept == -1)).all()
    np.testing.assert_array_equal((kept >= 0).any(1), present.any(1))
    counts = (kept >= 0).sum(0)
    assert (counts >= quotas).all()
    if present.all():
        np.testing.assert_array_equal(counts, quotas)


def test_exchange_at_the_limit_is_a_partition():
    kept = drop_annotations(jax.random.key(0), grid(1000, 2, 0, 0), 0.5, at_least_one=True) >= 0
    assert (kept.sum(1) == 1).all()
    assert kept.sum(0).tolist() == [500, 500]


def test_sparse_items_may_exceed_the_rate(caplog):
    # Expert 1 alone saw the last two items, and may keep one; 0 and 3 have some to spare, but not there.
    annotations = np.array([[1, -1, -1, 1]] * 4 + [[-1, 1, -1, -1]] * 2)
    with caplog.at_level("INFO", logger="pl2d_ppl"):
        kept = drop_annotations(jax.random.key(0), annotations, 0.25, at_least_one=True)
    assert (kept >= 0).any(1).all()
    assert (kept >= 0).sum(0).tolist() == [3, 2, 0, 3]
    assert "1 annotations kept beyond the rate" in caplog.text


def test_drawn_uniformly_and_independently():
    shape = (400, 50)
    kept = drop_annotations(jax.random.key(0), np.zeros(shape, int), 0.5) >= 0
    # Given the column sums, the number kept of an item is Binomial(50, .5) but for those sums.
    assert kept.sum(1).std() == pytest.approx(np.sqrt(50 / 4), rel=0.15)
    correlation = np.corrcoef(kept.T)[np.triu_indices(50, 1)]
    assert np.abs(correlation).max() < 0.25
    assert (kept != (drop_annotations(jax.random.key(1), np.zeros(shape, int), 0.5) >= 0)).any()


@pytest.mark.parametrize(
    ("annotations", "rate", "message"),
    [
        (np.zeros((3, 2)), 0.5, "integer labels in annotations, found float64"),
        (np.zeros(3, int), 0.5, r"annotations of shape \(N, M\), .* found \(3,\)"),
        (np.full((3, 2), -2), 0.5, "labels from -1 up, -1 where missing, in annotations, found -2 at item 0, column 0"),
        (np.zeros((3, 2), int), 50, r"rate as a share in \[0, 1\], found 50"),
        (np.zeros((3, 2), int), -0.1, "rate as a share"),
    ],
)
def test_bad_drop(annotations, rate, message):
    with pytest.raises(ValueError, match=message):
        drop_annotations(jax.random.key(0), annotations, rate)


def test_realised_error_by_hand():
    annotations = np.array([[0, 1, -1], [1, 1, -1], [2, -1, -1], [0, 0, 0]])
    errors = realised_error(annotations, [0, 1, 1, -1])
    np.testing.assert_allclose(errors, [1 / 3, 1 / 2, np.nan])


def test_bad_realised_error():
    with pytest.raises(ValueError, match=r"y of shape \(4,\), .* found \(2,\)"):
        realised_error(np.zeros((4, 1), int), [0, 1])
    with pytest.raises(ValueError, match="integer labels in y, found float64"):
        realised_error(np.zeros((4, 1), int), [0.0, 1.0, 0.0, 0.0])
