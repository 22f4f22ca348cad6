"""Simulated people whose mistakes depend on the item, who lose their names, or who see a part of the items."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2_contingency, chisquare, kstest, truncnorm

from pl2d_ppl.data.missing import drop_annotations, subset_annotators
from pl2d_ppl.data.votes import vote_counts, votes_of_counts
from pl2d_ppl.simulate import anonymise, instance_dependent_experts, realised_error, superclass_experts
from pl2d_ppl.simulate.rates import item_rates

# Every test below has a fixed seed, so that a p-value is one number for ever; correct code fails at this one
# with the first seed tried about once in a thousand tests.
P_VALUE = 1e-3
CATEGORIES, FEATURES = 5, 3
KINDS, REPEATS = 8, 4000
NUM_ITEMS = KINDS * REPEATS
RNG = np.random.default_rng(0)
# A few kinds of items, many of each, so that the distribution of what a kind is called can be counted.
KIND = np.arange(NUM_ITEMS) % KINDS
KIND_X, KIND_Y = 5 * RNG.normal(size=(KINDS, FEATURES)), np.array([0, 1, 2, 3, 4, 0, 1, 4])
X, Y = KIND_X[KIND], KIND_Y[KIND]


def draw(rates=(0.1, 0.4), seed=0, x=X, y=Y, num_categories=CATEGORIES, **options):
    return instance_dependent_experts(jax.random.key(seed), x, y, num_categories, rates, **options)


def weights(seed, pattern, num_categories=CATEGORIES, num_features=FEATURES):
    """The tensor W, (C, S, C), that the people of a pattern have."""
    key = jax.random.fold_in(jax.random.split(jax.random.key(seed))[1], pattern)
    keys = [jax.random.fold_in(key, category) for category in range(num_categories)]
    return np.stack([jax.random.normal(key, (num_features, num_categories), np.float32) for key in keys]).astype(float)


def probabilities(x, y, w, q):
    """The formula, item by item: (N, C)."""
    rows = []
    for row, own in zip(x, y, strict=True):
        a = np.sum(row[:, None] / np.sqrt(np.sum(row**2)) * w[own], axis=0)
        a[own] = -np.inf
        p = q * np.exp(a) / np.exp(a).sum()
        p[own] = 1 - q
        rows.append(p)
    return np.array(rows)


def counts_by_kind(annotation):
    return np.array([np.bincount(annotation[KIND == kind], minlength=CATEGORIES) for kind in range(KINDS)])


def truncated_mean(rate, spread):
    with np.errstate(all="ignore"):  # of moments that nobody asked for
        return truncnorm.mean(-rate / spread, (1 - rate) / spread, rate, spread)


def location_by_bisection(rate, spread):
    """The location of the truncated normal whose mean is the rate."""
    low, high = -5.0, 5.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if truncated_mean(middle, spread) < rate else (low, middle)
    return low


def assert_rates(annotations, y, rates):
    errors = realised_error(annotations, y)
    standard_errors = [np.sqrt(rate * (1 - rate) / len(y)) for rate in rates]
    np.testing.assert_array_less(np.abs(errors - rates), 4 * np.array(standard_errors))


# Rates


@pytest.mark.parametrize("rate", [0.0, 0.05, 0.3, 0.9])
@pytest.mark.parametrize("spread", [0.05, 0.1, 0.4])
def test_published_rates_are_the_truncated_normals_mean(rate, spread):
    expected = truncated_mean(rate, spread)
    assert_rates(draw([rate, rate], spread=spread), Y, [expected, expected])


def test_five_percent_become_ten():
    assert truncated_mean(0.05, 0.1) == pytest.approx(0.1009, abs=5e-5)
    assert_rates(draw([0.05, 0.05]), Y, [0.1009, 0.1009])


@pytest.mark.parametrize("spread", [0.0, 0.1, 0.4])
def test_nominal_rates_are_had(spread):
    rates = [0.0, 0.05, 0.3, 0.5, 0.97, 1.0]
    annotations = draw(rates, mode="nominal", spread=spread)
    assert annotations.shape == (NUM_ITEMS, len(rates))
    assert annotations.dtype == np.int32
    assert_rates(annotations[:, 1:-1], Y, rates[1:-1])
    assert (annotations[:, 0] == Y).all()
    assert (annotations[:, -1] != Y).all()


@pytest.mark.parametrize(("rate", "spread", "mode"), [(0.05, 0.1, "truncated"), (0.6, 0.4, "nominal")])
def test_rates_of_items_have_the_distribution_promised(rate, spread, mode):
    q = item_rates(np.random.default_rng(0).random(20_000), rate, spread, mode)
    center = rate if mode == "truncated" else location_by_bisection(rate, spread)
    law = truncnorm(-center / spread, (1 - center) / spread, center, spread)
    assert kstest(q, law.cdf).pvalue > P_VALUE


@pytest.mark.parametrize("spread", [1e-300, 1e-9, 0.01, 0.1, 1.0])
def test_nominal_up_to_the_ends_of_what_can_be_reached(spread):
    least = truncated_mean(-100 * spread, spread)
    quantiles = (np.arange(100_000) + 0.5) / 100_000
    for rate in (least, 0.3, 0.5 - 2**-54, 0.5, 1 - least):
        if least <= rate <= 1 - least and rate < 1:
            q = item_rates(quantiles, rate, spread, "nominal")
            assert q.mean() == pytest.approx(rate, rel=1e-4)
            assert ((q >= 0) & (q <= 1)).all()


@pytest.mark.parametrize("rate", [1e-4, 1 - 1e-4])
def test_nominal_rates_out_of_reach(rate):
    message = r"in \[0.0009998, 1 - 0.0009998\] with a spread of 0.1, or 0 or 1, found .*\. Lower spread"
    with pytest.raises(ValueError, match=message):
        draw([0.2, rate], mode="nominal")


# Mistakes


@pytest.mark.parametrize(
    ("pattern", "groups", "numbers"),
    [("shared", None, [0, 0, 0]), ("group", [7, 2, 7], [7, 2, 7]), ("person", None, [0, 1, 2])],
)
def test_each_kind_of_item_is_called_what_the_formula_says(pattern, groups, numbers):
    rates = [0.3, 0.9, 0.6]
    annotations = draw(rates, pattern=pattern, groups=groups)
    for m, (rate, number) in enumerate(zip(rates, numbers, strict=True)):
        counts = counts_by_kind(annotations[:, m])
        # One test over all kinds: KINDS (C − 1) degrees of freedom.
        for own in (number, number + 1):
            expected = REPEATS * probabilities(KIND_X, KIND_Y, weights(0, own), truncated_mean(rate, 0.1))
            p_value = chisquare(counts.ravel(), expected.ravel(), ddof=KINDS - 1).pvalue
            assert p_value > P_VALUE if own == number else p_value < 1e-9  # another's W would be noticed


def test_many_categories_on_real_features(data_dir):
    with np.load(data_dir / "cifar100_features.npz") as file:
        x, y = file["x_test"][:3000], file["y_test"][:3000]
    annotations = draw([1.0, 0.05], x=x, y=y, num_categories=100, mode="nominal")
    assert_rates(annotations[:, 1:], y, [0.05])
    assert (annotations[:, 0] != y).all()
    x = x.astype(float)

    def deviation(w):
        # The probability of what was said has a mean and a variance, by the formula; their sums are nearly normal.
        p = probabilities(x, y, w, 1.0)
        said, mean, square = p[np.arange(len(y)), annotations[:, 0]], (p**2).sum(1), (p**3).sum(1)
        return (said - mean).sum() / np.sqrt((square - mean**2).sum())

    assert abs(deviation(weights(0, 0, 100, 128))) < 3.3  # P_VALUE, two-sided
    assert abs(deviation(weights(0, 1, 100, 128))) > 10


def test_people_of_one_pattern_err_independently():
    annotations = draw([0.5, 0.5], spread=0)
    for kind in range(3):
        table = np.zeros((CATEGORIES, CATEGORIES))
        np.add.at(table, tuple(annotations[KIND == kind].T), 1)
        assert chi2_contingency(table).pvalue > P_VALUE


def test_patterns_that_are_the_same_thing():
    rates = [0.2, 0.5, 0.5]
    np.testing.assert_array_equal(draw(rates), draw(rates, pattern="group", groups=np.zeros(3, np.int8)))
    np.testing.assert_array_equal(draw(rates, pattern="person"), draw(rates, pattern="group", groups=[0, 1, 2]))


def test_length_of_features_does_not_matter_and_their_origin_does():
    np.testing.assert_array_equal(draw(), draw(x=1e30 * X))
    assert (draw() != draw(x=X + 10)).any()


def test_features_of_zero_are_taken_for_anything():
    said = draw([1.0], x=np.zeros((NUM_ITEMS, 2)), y=np.full(NUM_ITEMS, 3), mode="nominal")[:, 0]
    counts = np.bincount(said, minlength=CATEGORIES)
    assert counts[3] == 0
    assert chisquare(np.delete(counts, 3)).pvalue > P_VALUE


@pytest.mark.parametrize("options", [{}, {"pattern": "person"}, {"pattern": "group", "groups": [1, 0]}])
def test_seeded_and_unchanged_by_further_experts(options):
    alone = draw(**options)
    np.testing.assert_array_equal(alone, draw(**options))
    assert (alone != draw(seed=1, **options)).any()
    if "groups" in options:
        options = options | {"groups": [1, 0, 5, 0]}
    np.testing.assert_array_equal(alone, draw([0.1, 0.4, 0.2, 0.9], **options)[:, :2])


def test_unchanged_by_precision_and_by_the_type_of_labels():
    expected = draw()
    with jax.enable_x64(True):
        np.testing.assert_array_equal(expected, draw())
    np.testing.assert_array_equal(expected, draw(y=Y.astype(np.uint8), x=X.astype(np.float32)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"y": Y.astype(float)}, "integer labels in y, found float64"),
        ({"y": Y - 1}, r"labels in 0..4 in y, found -1 at item 0 "),
        ({"num_categories": 4}, r"labels in 0..3 in y, found 4 at item 4 "),
        ({"num_categories": 1}, "num_categories of at least 2, found 1"),
        ({"x": X[:5]}, r"x of shape \(32000, S\), .* found \(5, 3\)"),
        ({"x": X[:, 0]}, r"x of shape .* found \(32000,\). Flatten"),
        ({"x": X[:, :0]}, r"found \(32000, 0\)"),
        ({"x": X.astype(str)}, "real numbers in x, found dtype <U"),
        ({"x": np.where(X == X[3], np.nan, X)}, "infinite values in 4000 rows, first in row 3. Impute"),
        (
            {"x": np.where(X == X[2], 1e39, X)},
            "x that is finite in float32, found NaN or infinite values in 4000 rows, first in row 2",
        ),
        ({"rates": []}, r"rates with one error rate for each expert, found shape \(0,\)"),
        ({"rates": 0.3}, r"found shape \(\). Write \[.1, .3\]"),
        ({"rates": [0.3, 30]}, r"rates as a share in \[0, 1\], found 30"),
        ({"rates": [float("nan")]}, "found nan"),
        ({"rates": ["low"]}, "rates as a share .* found dtype <U3"),
        ({"groups": [0, 1]}, "groups with pattern='group', .* found some with pattern='shared'"),
        ({"pattern": "group"}, "groups with pattern='group', .* found none"),
        ({"pattern": "group", "groups": [0]}, r"groups of shape \(2,\), one row an expert, found \(1,\)"),
        (
            {"pattern": "group", "groups": [0, -1]},
            r"numbers of groups in 0..\d+ in groups, found -1 at expert 1 .* Give every expert one from 0 up",
        ),
        (
            {"pattern": "group", "groups": [0, 2**31]},
            "numbers of groups in 0.* in groups, found 2147483648 at expert 1 ",
        ),
        ({"pattern": "group", "groups": [0.0, 1.0]}, "integer numbers of groups in groups, found float64"),
        ({"pattern": "everyone"}, "one of .* as pattern, found 'everyone'"),
        ({"mode": "exact"}, "one of .* as mode, found 'exact'"),
        ({"spread": -0.1}, r"spread as a share in \[0, 1\], found -0.1"),
        ({"spread": [0.1, 0.2]}, r"spread as one number, found shape \(2,\)"),
    ],
)
def test_bad_experts(options, message):
    with pytest.raises(ValueError, match=message):
        draw(**options)


@pytest.mark.parametrize("rng_key", [0, jax.random.PRNGKey(0), jax.random.split(jax.random.key(0))])
def test_bad_key(rng_key):
    for call in (
        lambda: instance_dependent_experts(rng_key, X, Y, CATEGORIES, [0.1]),
        lambda: anonymise(rng_key, Y[:, None]),
        lambda: subset_annotators(rng_key, Y[:, None], 1),
        lambda: superclass_experts(rng_key, Y, Y, CATEGORIES, [[0]]),
    ):
        with pytest.raises(ValueError, match=r"Expected (a typed|one) key"):
            call()


# Votes


def grid(num_items, num_experts, missing, seed, dtype):
    rng = np.random.default_rng(seed)
    annotations = rng.integers(0, 5, (num_items, num_experts))
    return np.where(rng.random(annotations.shape) < missing, -1, annotations).astype(dtype)


# Few shapes, so that jax compiles few programs.
GRIDS = st.builds(
    grid,
    st.sampled_from([1, 10]),
    st.sampled_from([1, 2, 5]),
    st.sampled_from([0, 0.3, 0.8, 1]),
    st.integers(0, 99),
    st.sampled_from([np.int8, np.int64]),
)


def multisets(votes):
    return [sorted(row[row >= 0].tolist()) for row in np.asarray(votes)]


@settings(max_examples=50, deadline=None)
@given(GRIDS, st.integers(0, 99), st.sampled_from([None, 5, 7]))
def test_anonymous_annotations_are_the_same_ones(annotations, seed, num_votes):
    votes = anonymise(jax.random.key(seed), annotations, num_votes)
    assert votes.dtype == np.int32
    assert multisets(votes) == multisets(annotations)
    most = max(max(map(len, multisets(annotations))), 1)
    assert votes.shape == (len(annotations), num_votes or most)
    assert (np.diff((votes >= 0).astype(int), axis=1) <= 0).all()  # padded at the right


def test_votes_are_in_random_order_item_by_item():
    votes = anonymise(jax.random.key(0), np.tile([3, -1, 0, 2], (12_000, 1)))
    orders, counts = np.unique(votes, axis=0, return_counts=True)
    assert len(orders) == 6
    assert chisquare(counts).pvalue > P_VALUE
    assert (votes != anonymise(jax.random.key(1), np.tile([3, -1, 0, 2], (12_000, 1)))).any()
    np.testing.assert_array_equal(votes, anonymise(jax.random.key(0), np.tile([3, -1, 0, 2], (12_000, 1))))


@settings(max_examples=50, deadline=None)
@given(GRIDS, st.sampled_from([5, 8]))
def test_counts_of_votes_and_votes_of_counts(annotations, num_categories):
    counts = vote_counts(annotations, num_categories)
    assert counts.dtype == np.int32
    by_hand = [[row.count(category) for category in range(num_categories)] for row in multisets(annotations)]
    assert counts.tolist() == by_hand
    votes = votes_of_counts(counts)
    assert votes.dtype == np.int32
    assert votes.shape == (len(annotations), max(max(map(len, multisets(annotations))), 1))
    assert [row[row >= 0].tolist() for row in votes] == multisets(annotations)  # ascending
    assert (np.diff((votes >= 0).astype(int), axis=1) <= 0).all()
    np.testing.assert_array_equal(vote_counts(votes, num_categories), counts)


def test_eight_bit_votes_do_not_wrap():
    votes = np.arange(200, dtype=np.uint8)[:, None]
    np.testing.assert_array_equal(vote_counts(votes, 200), np.eye(200))
    np.testing.assert_array_equal(votes_of_counts(np.full((1, 2), 200, np.uint8)), [[0] * 200 + [1] * 200])


def test_votes_of_real_counts(data_dir):
    with np.load(data_dir / "cifar10_human.npz") as file:
        counts = file["counts_test"]
    votes = votes_of_counts(counts)
    assert votes.shape == (len(counts), counts.sum(1).max())
    np.testing.assert_array_equal(vote_counts(votes, 10), counts)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: anonymise(jax.random.key(0), np.zeros((2, 3))), "integer labels in annotations, found float64"),
        (
            lambda: anonymise(jax.random.key(0), np.full((2, 3), -2)),
            "-1 where missing, in annotations, found -2 at item 0",
        ),
        (
            lambda: anonymise(jax.random.key(0), [[0, 1], [-1, 0]], 1),
            "num_votes of at least 2, the most annotations of an item, found 1",
        ),
        (lambda: anonymise(jax.random.key(0), [[0, 1]], 2.0), "num_votes as an integer .* found 2.0"),
        (lambda: anonymise(jax.random.key(0), [[-1]], 0), "num_votes as an integer of at least 1, found 0"),
        (lambda: vote_counts([0, 1], 2), r"votes of shape \(N, L\), .* found \(2,\)"),
        (lambda: vote_counts([[0, -3]], 2), r"labels in -1..1, .* in votes, found -3 at item 0, column 1"),
        (lambda: vote_counts([[0, 2]], 2), r"labels in -1..1, .* in votes, found 2 at item 0, column 1 .* Correct it"),
        (lambda: vote_counts([[0, 0]], 1), "num_categories of at least 2, found 1"),
        (lambda: votes_of_counts([[0.0, 1.0]]), "integer numbers of votes in counts, found float64"),
        (
            lambda: votes_of_counts([[0, -1]]),
            "numbers of votes from 0 up in counts, found -1 at item 0, column 1 .* Give every item",
        ),
    ],
)
def test_bad_votes(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# Missing annotations


@settings(max_examples=50, deadline=None)
@given(GRIDS, st.sampled_from([1, 2, 4, 9]), st.integers(0, 99))
def test_so_many_of_each_item_are_kept(annotations, per_item, seed):
    kept = subset_annotators(jax.random.key(seed), annotations, per_item)
    assert kept.dtype == np.int32
    assert ((kept == annotations) | (kept == -1)).all()
    np.testing.assert_array_equal((kept >= 0).sum(1), np.minimum((annotations >= 0).sum(1), per_item))


def test_annotators_of_an_item_are_drawn_uniformly():
    annotations = np.tile([0, -1, 0, 0, 0], (12_000, 1))
    kept = subset_annotators(jax.random.key(0), annotations, 2)
    pairs, counts = np.unique(kept, axis=0, return_counts=True)
    assert len(pairs) == 6
    assert chisquare(counts).pvalue > P_VALUE
    np.testing.assert_array_equal(kept, subset_annotators(jax.random.key(0), annotations, 2))
    assert (kept != subset_annotators(jax.random.key(1), annotations, 2)).any()


@pytest.mark.parametrize("per_item", [0, -1, 1.5, True, "1"])
def test_bad_subset(per_item):
    with pytest.raises(ValueError, match=f"per_item as an integer of at least 1, found {per_item!r}"):
        subset_annotators(jax.random.key(0), [[0, 1]], per_item)


@pytest.mark.parametrize("at_least_one", [False, True])
def test_everyone_may_have_a_rate(at_least_one):
    annotations = np.zeros((1000, 4), int)
    kept = drop_annotations(jax.random.key(0), annotations, [0.9, 0.25, 0.5, 1], at_least_one)
    assert (kept >= 0).sum(0).tolist() == [100, 750, 500, 0]
    assert (kept >= 0).any(1).all() or not at_least_one


def test_one_rate_is_the_same_rate_for_all():
    annotations = grid(100, 3, 0.3, 0, int)
    one = drop_annotations(jax.random.key(0), annotations, 0.4, at_least_one=True)
    np.testing.assert_array_equal(one, drop_annotations(jax.random.key(0), annotations, (0.4,) * 3, at_least_one=True))


@pytest.mark.parametrize(
    ("rate", "message"),
    [
        ([0.5], r"rate as one number, or one for each of 2 experts, found shape \(1,\)"),
        ([[0.5, 0.5]], r"found shape \(1, 2\)"),
        ([0.5, float("nan")], r"rate as a share in \[0, 1\], found nan"),
        ("half", "rate as a share .* found dtype <U4"),
    ],
)
def test_bad_rates(rate, message):
    with pytest.raises(ValueError, match=message):
        drop_annotations(jax.random.key(0), np.zeros((3, 2), int), rate)


def test_rates_that_leave_too_little():
    with pytest.raises(ValueError, match=r"at least 4 annotations for at_least_one, .* rate \[0.5, 0.75\] leaves 3"):
        drop_annotations(jax.random.key(0), np.zeros((4, 2), int), [0.5, 0.75], at_least_one=True)
