"""Plates: unrelated ones, deep ones, and dimensions that are in none."""

import itertools

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from engine.running import bound, double, nothing
from programs import ENUMERATE
from scipy.special import logsumexp

from pl2d_ppl.engine.marginals import log_evidence, marginals
from pl2d_ppl.guides.exact import exact
from pl2d_ppl.guides.mean_field import mean_field

A, B = np.array([0.3, 0.7]), np.array([[0.9, 0.1], [0.4, 0.6], [0.5, 0.5]])
PAIRS = np.array([[0.1, 0.7], [0.8, 0.2]])  # p(o = 1 | a, b)
SEEN = np.array([[1, 0, 1], [0, 0, 1]])


def grid(seen):
    """Sites of rows and of columns, in plates of which neither lies in the other one."""
    with numpyro.plate("row", 2, dim=-2):
        a = numpyro.sample("a", dist.Categorical(double(A)), infer=dict(ENUMERATE))
    with numpyro.plate("column", 3, dim=-1):
        b = numpyro.sample("b", dist.Categorical(double(B)), infer=dict(ENUMERATE))
    with numpyro.plate("row", 2, dim=-2), numpyro.plate("column", 3, dim=-1):
        numpyro.sample("o", dist.Bernoulli(double(PAIRS)[a, b]), obs=seen)


def apart(seen):
    """Sites of rows and of columns that have nothing to do with one another."""
    with numpyro.plate("row", 2, dim=-2):
        a = numpyro.sample("a", dist.Categorical(double(A)), infer=dict(ENUMERATE))
        numpyro.sample("of_a", dist.Bernoulli(double([0.2, 0.9])[a]), obs=seen[:, :1])
    with numpyro.plate("column", 3, dim=-1):
        b = numpyro.sample("b", dist.Categorical(double(B)), infer=dict(ENUMERATE))
        numpyro.sample("of_b", dist.Bernoulli(double([0.6, 0.1])[b]), obs=seen[0])


def evidence_of_grid():
    table = {}
    for a in itertools.product(range(2), repeat=2):
        for b in itertools.product(range(2), repeat=3):
            o = PAIRS[np.array(a)[:, None], np.array(b)]
            table[a, b] = np.log(A[list(a)]).sum() + np.log(B[np.arange(3), list(b)]).sum()
            table[a, b] += np.log(np.where(SEEN == 1, o, 1 - o)).sum()
    return logsumexp(list(table.values()))


def test_mean_field_of_crossed_plates_stays_below_the_evidence(float64):
    value = bound(grid, mean_field(grid), SEEN)
    assert evidence_of_grid() - 0.5 < value <= evidence_of_grid()


@pytest.mark.parametrize("use", [lambda: log_evidence(grid)(SEEN), lambda: bound(grid, exact(grid), SEEN)])
def test_an_exact_sum_over_crossed_plates_is_refused(use):
    """It would be exponential in their sizes."""
    with pytest.raises(ValueError, match=r"'[ab]'.*mean-field guide"):
        use()


@pytest.mark.parametrize("sites", [None, ["a", "b"], ["b", "a"], ["a"], ["b"], []])
def test_unrelated_plates_in_any_order(float64, sites):
    of_a = np.where(SEEN[:, :1] == 1, [0.2, 0.9], [0.8, 0.1])
    of_b = np.where(SEEN[0][:, None] == 1, [0.6, 0.1], [0.4, 0.9])
    expected = np.log(of_a @ A).sum() + np.log((B * of_b).sum(1)).sum()
    for guide in (exact(apart, sites), mean_field(apart, sites)):
        np.testing.assert_allclose(bound(apart, guide, SEEN), expected, rtol=1e-8)


@pytest.mark.parametrize(
    ("guide", "dim"),
    [
        (exact, -3),
        (mean_field, -6),
        pytest.param(exact, -7),
        pytest.param(mean_field, -10),
        (lambda program: nothing, -7),
        (lambda program: nothing, -10),
    ],
)
def test_deep_plates(float64, guide, dim):
    def program(seen):
        with numpyro.plate("deep", 3, dim=dim):
            b = numpyro.sample("b", dist.Categorical(double(B).reshape(3, *[1] * (-dim - 1), 2)), infer=dict(ENUMERATE))
            with numpyro.plate("repeat", 2, dim=-1):
                numpyro.sample("o", dist.Bernoulli(double([0.6, 0.1])[b]), obs=seen.T.reshape(3, *[1] * (-dim - 2), 2))

    likelihood = np.prod(np.where(SEEN[..., None] == 1, [0.6, 0.1], [0.4, 0.9]), 0)
    np.testing.assert_allclose(bound(program, guide(program), SEEN), np.log((B * likelihood).sum(1)).sum(), rtol=1e-8)


def test_a_prior_in_no_plate(float64):
    """Without .to_event, the elements of a prior are independent sites at equal positions."""

    def program():
        b = numpyro.sample("b", dist.Categorical(double(B)), infer=dict(ENUMERATE))
        numpyro.sample("o", dist.Bernoulli(double([0.6, 0.1])[b]), obs=jnp.asarray(SEEN[0]))

    likelihood = np.where(SEEN[0][:, None] == 1, [0.6, 0.1], [0.4, 0.9])
    expected = np.log((B * likelihood).sum(1)).sum()
    np.testing.assert_allclose(log_evidence(program)(), expected, rtol=1e-9)
    posterior = B * likelihood / (B * likelihood).sum(1, keepdims=True)
    np.testing.assert_allclose(marginals(program)()["b"], posterior, rtol=1e-9)
    for guide in (exact(program), mean_field(program), nothing):
        np.testing.assert_allclose(bound(program, guide), expected, rtol=1e-8)


def test_two_sites_of_one_infer_dict(float64):
    shared = {"enumerate": "parallel"}

    def program():
        with numpyro.plate("item", 3):
            a = numpyro.sample("a", dist.Categorical(double(A)), infer=shared)
            b = numpyro.sample("b", dist.Categorical(double(B)), infer=shared)
            numpyro.sample("o", dist.Bernoulli(double(PAIRS)[a, b]), obs=SEEN[0])

    said = np.stack([PAIRS if o else 1 - PAIRS for o in SEEN[0]])
    expected = np.log(np.einsum("a,ib,iab->i", A, B, said)).sum()
    for guide in (exact(program), nothing, exact(program, ["b"])):
        np.testing.assert_allclose(bound(program, guide), expected, rtol=1e-9)
    assert shared == {"enumerate": "parallel"}
