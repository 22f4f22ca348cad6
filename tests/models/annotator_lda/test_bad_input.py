"""What the annotator LDA refuses, before anything is compiled."""

from functools import partial

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from cases.annotator_lda import ALPHAS, GUIDE, KEY, KEYS, MODEL, counts_of, mlp_lda, random_data, random_votes, run
from cases.compilations import programs
from numpyro.handlers import seed
from programs import Table

from pl2d_ppl.engine.per_run import PerRun
from pl2d_ppl.guides.mean_field import mean_field
from pl2d_ppl.models.annotator_lda import annotator_lda


def test_a_prior_of_alpha_needs_a_guide():
    with pytest.raises(ValueError, match=r"'alpha' ~ Gamma without a value.*(\n.*)*continuous="):
        bad(random_data(), model=mlp_lda(alpha=dist.Gamma(2.0, 0.1)))


def test_too_small_a_number_of_votes_is_refused():
    logits, votes = random_votes(17)
    model = partial(annotator_lda, clusters=Table(logits), max_votes=1)
    with pytest.raises(ValueError, match="max_votes"):
        seed(model, KEY)(jnp.asarray(logits), counts=jnp.asarray(counts_of(votes, 4)))


def bad(data, model=MODEL, **options):
    """A fit that should be refused within moments."""
    return run(KEY, model, mean_field(model), data, **options)


def refused(compiled, message, data, **options):
    with pytest.raises(ValueError, match=message):
        bad(data, **options)
    assert not programs(compiled)


X = random_data()["x"]
VOTES = random_data()["votes"]
COUNTS = counts_of(VOTES, 3)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"votes": np.full_like(VOTES, -1)}, r"some votes in data\['votes'\], found only -1"),
        ({"votes": VOTES.astype(float)}, r"integer labels in data\['votes'\], found float64"),
        ({"votes": VOTES + 1}, r"labels in -1..2, -1 where missing, in votes, found 3 at item 0"),
        ({"votes": VOTES - 1}, r"labels from -1 up, -1 where missing, in data\['votes'\], found -2"),
        ({"votes": VOTES[:, 0]}, r"votes of shape \(4, L\), one row an item"),
        ({"votes": VOTES, "counts": COUNTS}, "votes or counts, found both"),
        ({"counts": COUNTS - 1}, r"not negative, in data\['counts'\], found a count of -1"),
        ({"counts": COUNTS.astype(float)}, r"integer counts in data\['counts'\], found float64"),
        ({"counts": COUNTS / COUNTS.sum()}, "do not pass shares"),
        ({"counts": 0 * COUNTS}, "found counts of zero only"),
        ({"counts": COUNTS[:, :2]}, r"counts of shape \(4, 3\), one column a category.*found \(4, 2\)"),
        ({"counts": COUNTS[:, 0]}, r"\(N, C\) and not negative.*found shape \(10,\)"),
    ],
)
def test_bad_votes(compiled, labels, message):
    refused(compiled, message, {"x": X, **labels})


def test_bad_validation(compiled):
    refused(compiled, r"validation\['votes'\]", random_data(), validation={"x": X, "votes": VOTES + 1})
    counted = {"x": X, "counts": COUNTS}
    refused(compiled, r"entries of data", random_data(), validation=counted)
    refused(compiled, r"counts.*\('N', 3\)", counted, validation={"x": X, "counts": COUNTS[:, :2]})


@pytest.mark.parametrize(
    ("alpha", "message"),
    [
        (0.0, "positive concentration alpha, found 0.0. Pass 50"),
        (np.nan, "positive concentration alpha, found nan"),
        (np.array([2.0, 0.0]), "positive concentration"),
        (np.ones(3), r"concentration alpha, or one for each of 2, found shape \(3,\)"),
    ],
)
def test_bad_alpha(compiled, alpha, message):
    refused(compiled, message, random_data(), model=mlp_lda(alpha=alpha))


@pytest.mark.parametrize(
    ("alpha", "message"),
    [
        ([2.0, 0.0], "positive concentration"),
        ([2.0, np.nan], r"arguments\['alpha'\], found NaN or infinity"),
        (PerRun([[2.0, 2.0]]), r"arguments that are not PerRun, with a single key.*jax.random.split"),
        ([[2.0, 2.0]], r"one for each of 2, found shape \(1, 2\)"),
    ],
)
def test_bad_arguments(compiled, alpha, message):
    refused(compiled, message, random_data(), arguments={"alpha": alpha})


def test_bad_arguments_of_runs(compiled):
    with pytest.raises(ValueError, match=r"arguments of 3 runs, one for each key, found \[2\]"):
        run(KEYS, MODEL, GUIDE, random_data(), arguments={"alpha": PerRun(ALPHAS[:2])})
    with pytest.raises(ValueError, match=r"one for each of 2, found shape \(3,\)"):
        run(KEYS, MODEL, GUIDE, random_data(), arguments={"alpha": PerRun(np.ones((3, 3)))})
    with pytest.raises(ValueError, match="positive concentration"):
        run(KEYS, MODEL, GUIDE, random_data(), arguments={"alpha": PerRun(ALPHAS - 2.0)})
    refused(compiled, "'x' as data or as an argument, found both", random_data(), arguments={"x": [1.0]})
    refused(compiled, "unexpected keyword argument 'alhpa'", random_data(), arguments={"alhpa": [1.0]})


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ((4, 3), r"outputs \(N, K, C\), for K clusters and C categories, found \(4, 3\). Pass K networks as one"),
        ((4, 1, 2, 3), r"found \(4, 1, 2, 3\)"),
        ((5, 2, 3), r"votes of shape \(5, L\), one row an item, found \(4, 3\)"),
    ],
)
def test_bad_networks(compiled, outputs, message):
    model = partial(annotator_lda, clusters=Table(np.zeros(outputs, np.float32)))
    refused(compiled, message, random_data(), model=model)


def test_bad_inputs(compiled):
    wide = random_data() | {"x": np.zeros((10, 5), np.float32)}
    refused(compiled, r"data that the programs and their networks take.*'x': \(4, 5\)", wide)
    refused(compiled, r"NaN or infinity", random_data() | {"x": np.full((10, 2), np.nan, np.float32)})
