"""Agreement, against scikit-learn, statsmodels and krippendorff, and by hand."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from pl2d_ppl.data.agreement import agreement, alpha_by_label, cohen_kappas, fleiss_kappa, krippendorff_alpha
from pl2d_ppl.data.long import LongAnnotations


def random_annotations(seed, missing, num_items=40, num_people=5, num_categories=4):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, num_categories, num_items)
    wrong = rng.random((num_items, num_people)) < 0.4
    said = np.where(wrong, rng.integers(0, num_categories, wrong.shape), truth[:, None])
    return np.where(rng.random(said.shape) < missing, -1, said)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("missing", [0, 0.4, 0.8])
def test_cohen(seed, missing):
    said = random_annotations(seed, missing)
    found = cohen_kappas(LongAnnotations.of(said), 4)
    pairs = list(zip(found.first.tolist(), found.second.tolist(), strict=True))
    assert pairs == [(a, b) for a in range(5) for b in range(a + 1, 5) if ((said[:, [a, b]] >= 0).all(1)).any()]
    for (a, b), items, agree, kappa in zip(pairs, found.items, found.agree, found.kappa, strict=True):
        both = said[(said[:, [a, b]] >= 0).all(1)][:, [a, b]]
        assert items == len(both)
        assert agree == pytest.approx((both[:, 0] == both[:, 1]).mean())
        if len(np.unique(both)) > 1:
            assert kappa == pytest.approx(cohen_kappa_score(*both.T), abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_fleiss(seed):
    inter_rater = pytest.importorskip("statsmodels.stats.inter_rater")
    said = random_annotations(seed, 0)
    counts = np.stack([(said == c).sum(1) for c in range(4)], 1)
    assert fleiss_kappa(LongAnnotations.of(said), 4) == pytest.approx(inter_rater.fleiss_kappa(counts), abs=1e-12)


@pytest.mark.parametrize("level", ["nominal", "ordinal"])
@pytest.mark.parametrize("missing", [0, 0.5])
@pytest.mark.parametrize("seed", range(3))
def test_krippendorff(seed, missing, level):
    krippendorff = pytest.importorskip("krippendorff")
    said = random_annotations(seed, missing)
    oracle = krippendorff.alpha(np.where(said < 0, np.nan, said).T, level_of_measurement=level, value_domain=range(4))
    assert krippendorff_alpha(LongAnnotations.of(said), 4, level=level) == pytest.approx(oracle, abs=1e-12)


def loops(said, num_categories, distance):
    """Alpha by its definition: all pairs of annotations of one item, and all pairs of any."""
    kept = [row[row >= 0].tolist() for row in said if (row >= 0).sum() >= 2]
    pool = [label for row in kept for label in row]
    observed = sum(
        distance(a, b) / (len(row) - 1) for row in kept for i, a in enumerate(row) for j, b in enumerate(row) if i != j
    )
    expected = sum(distance(a, b) for i, a in enumerate(pool) for j, b in enumerate(pool) if i != j)
    return 1 - (len(pool) - 1) * observed / expected


@pytest.mark.parametrize("missing", [0, 0.5])
def test_krippendorff_by_its_definition(missing):
    said = random_annotations(7, missing, num_items=15)
    long = LongAnnotations.of(said)
    assert krippendorff_alpha(long, 4) == pytest.approx(loops(said, 4, lambda a, b: a != b))
    kept = said[(said >= 0).sum(1) >= 2]
    sizes = np.array([(kept == c).sum() for c in range(4)])

    def ranks(a, b):
        low, high = min(a, b), max(a, b)
        return (sizes[low : high + 1].sum() - (sizes[low] + sizes[high]) / 2) ** 2

    assert krippendorff_alpha(long, 4, level="ordinal") == pytest.approx(loops(said, 4, ranks))
    for c, alpha in enumerate(alpha_by_label(long, 4)):
        assert alpha == pytest.approx(loops(said, 4, lambda a, b, c=c: (a == c) != (b == c)))


def test_by_hand():
    """Two people, four items, 3 agreements: p_o = 3/4, p_e = (2 3 + 2 1) / 16 = 1/2."""
    found = cohen_kappas(LongAnnotations.of(np.array([[0, 0], [0, 0], [1, 0], [1, 1]])), 2)
    assert found.kappa.tolist() == [pytest.approx(0.5)]
    assert found.agree.tolist() == [0.75]


@given(seed=st.integers(0, 10**6), missing=st.floats(0, 1), factor=st.sampled_from([1, 2]))
@settings(max_examples=60, deadline=None)
def test_names_of_people_and_categories_do_not_matter(seed, missing, factor):
    said = random_annotations(seed, missing, num_items=12)
    long = agreement(LongAnnotations.of(said), 4)
    flipped = np.where(said < 0, -1, 3 - said)[:, ::-1]
    other = agreement(LongAnnotations.of(flipped), 4)
    for name in ("fleiss", "alpha", "alpha_ordinal"):
        np.testing.assert_allclose(getattr(long, name), getattr(other, name), atol=1e-9)
    np.testing.assert_allclose(long.by_label, other.by_label[::-1], atol=1e-9)
    np.testing.assert_allclose(np.sort(long.pairs.kappa), np.sort(other.pairs.kappa), atol=1e-9)


def test_nothing_to_compare_is_unknown():
    for said in ([[0, -1], [-1, 1]], [[-1, -1]], [[0, 0], [0, 0]]):
        found = agreement(LongAnnotations.of(np.array(said)), 2)
        assert math.isnan(found.fleiss)
        assert math.isnan(found.alpha)
        assert math.isnan(found.alpha_ordinal)
        assert np.isnan(found.by_label).all()
    with pytest.raises(ValueError, match='level "nominal" or "ordinal", found \'ratio\''):
        krippendorff_alpha(LongAnnotations.of(np.zeros((1, 2), int)), 2, level="ratio")


def test_perfect_agreement_is_one():
    said = np.repeat(np.arange(4)[:, None], 3, 1)
    found = agreement(LongAnnotations.of(said), 4)
    assert (found.fleiss, found.alpha) == (pytest.approx(1), pytest.approx(1))
    assert found.by_label == pytest.approx(np.ones(4))
    assert found.pairs.kappa == pytest.approx(np.ones(3))


def test_it_is_drawn():
    from pl2d_ppl.plots import plot_agreement

    said = random_annotations(0, 0)
    found = cohen_kappas(LongAnnotations.of(said), 4)
    table = plot_agreement(found, list("abcde")).images[0].get_array()
    assert table[1, 0] == table[0, 1] == pytest.approx(cohen_kappa_score(said[:, 0], said[:, 1]))
    many = cohen_kappas(LongAnnotations.of(random_annotations(0, 0.5, num_people=40)), 4)
    assert plot_agreement(many, [f"p{m}" for m in range(40)]).images[0].get_array().shape == (30, 30)
