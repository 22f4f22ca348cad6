"""A Dirichlet site that mini-batches share: stochastic steps end where coordinate ascent on all data ends."""

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from engine.running import KEY, bound, double, traced
from programs import ENUMERATE
from scipy.special import digamma, softmax

from pl2d_ppl import fit, to_datatree
from pl2d_ppl.engine.elbo import EnumELBO
from pl2d_ppl.guides.mean_field import mean_field

ALPHA = np.array([0.5, 2.0, 1.0])
N = 120
Y = np.random.default_rng(0).choice(3, N, p=[0.6, 0.1, 0.3])
COUNTS = np.bincount(Y, minlength=3)
ITEMS = np.array([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.2, 0.2, 0.6]])


def categories(y):
    """All that is seen of u are categories: the posterior is Dirichlet(alpha + counts)."""
    u = numpyro.sample("u", dist.Dirichlet(double(ALPHA)))
    with numpyro.plate("item", N, subsample_size=len(y)):
        numpyro.sample("y", dist.Categorical(probs=u), obs=y)


def mixture(y):
    """Of each item, the component is latent."""
    u = numpyro.sample("u", dist.Dirichlet(double(ALPHA)))
    with numpyro.plate("item", N, subsample_size=len(y)):
        z = numpyro.sample("z", dist.Categorical(probs=u), infer=dict(ENUMERATE))
        numpyro.sample("y", dist.Categorical(probs=double(ITEMS)[z]), obs=y)


def of_all_data():
    """Coordinate ascent of the mixture, on all items."""
    rho = ALPHA + N / 3
    for _ in range(3000):
        zeta = softmax(np.log(ITEMS[:, Y]).T + digamma(rho) - digamma(rho.sum()), 1)
        rho = ALPHA + zeta.sum(0)
    return rho


def fitted(program, epochs, batch_size, **options):
    return fit(
        jax.random.key(0),
        program,
        mean_field(program, **options),
        {"y": Y},
        optax.sgd(0.1),
        epochs=epochs,
        batch_size=batch_size,
        progress=False,
    )


def test_all_data_at_once_is_coordinate_ascent(float64):
    guide = mean_field(categories)
    np.testing.assert_allclose(traced(guide, Y)["u"]["fn"].concentration, ALPHA + COUNTS, rtol=1e-9)
    assert "u_shared" not in traced(guide, Y)
    options = {"tolerance": 1e-9, "max_sweeps": 3000}
    tr = traced(mean_field(mixture, **options), Y)
    np.testing.assert_allclose(tr["u"]["fn"].concentration, of_all_data(), rtol=1e-4)


def test_the_first_step_goes_all_the_way(float64):
    """(t + delay)^-forgetting is 1 at t = 0 with a delay of 1: the mini-batch weighs as much as all the data."""
    batch = Y[:12]
    first = {"u_shared": {"concentration": double(ALPHA), "steps": double(0.0)}}
    result = EnumELBO().loss_with_mutable_state(KEY, first, categories, mean_field(categories), batch)
    state = result["mutable_state"]["u_shared"]
    whole = ALPHA + 10 * np.bincount(batch, minlength=3)
    np.testing.assert_allclose(state["concentration"], whole, rtol=1e-9)
    assert state["steps"] == 1
    other = Y[12:24]
    again = EnumELBO().loss_with_mutable_state(
        KEY, {"u_shared": state}, categories, mean_field(categories, forgetting=0.6), other
    )
    rate = 2.0**-0.6
    expected = (1 - rate) * whole + rate * (ALPHA + 10 * np.bincount(other, minlength=3))
    np.testing.assert_allclose(again["mutable_state"]["u_shared"]["concentration"], expected, rtol=1e-9)


def test_a_start_is_the_first_state(float64):
    guide = mean_field(categories, start={"u": [5.0, 5.0, 5.0]}, delay=3.0, forgetting=1.0)
    batch = Y[:12]
    first = EnumELBO().loss_with_mutable_state(KEY, {}, categories, guide, batch)["mutable_state"]
    np.testing.assert_array_equal(first["u_shared"]["concentration"], [5.0, 5.0, 5.0])  # to begin with is no step
    state = EnumELBO().loss_with_mutable_state(KEY, first, categories, guide, batch)["mutable_state"]["u_shared"]
    expected = (1 - 1 / 3) * 5.0 + (ALPHA + 10 * np.bincount(batch, minlength=3)) / 3
    np.testing.assert_allclose(state["concentration"], expected, rtol=1e-9)


def test_the_bound_of_a_mini_batch_estimates_that_of_all_data(float64):
    """At a given state of the shared site, the mean over mini-batches is the bound of all items."""
    rho = ALPHA + COUNTS
    guide = mean_field(categories, delay=1e12)  # rests
    params = {"u_shared": {"concentration": double(rho), "steps": double(0.0)}}
    some = [bound(categories, guide, Y[i : i + 12], params=params) for i in range(0, N, 12)]
    np.testing.assert_allclose(np.mean(some), bound(categories, mean_field(categories), Y), rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("program", "expected"), [(categories, ALPHA + COUNTS), (mixture, of_all_data())])
def test_many_epochs_end_at_the_solution_of_all_data(thorough_compilation, program, expected):
    result = fitted(program, 400, 12, forgetting=0.9)
    state = result.params["u_shared"]
    np.testing.assert_allclose(state["concentration"].sum(), ALPHA.sum() + N, rtol=1e-3)
    np.testing.assert_allclose(state["concentration"], expected, atol=2.0)
    assert state["steps"] >= 400 * N / 12  # the initialisation of SVI may count as one more


@pytest.mark.slow
def test_predictions_come_from_the_state():
    """A few items more do not change what was learned of u."""
    result = fitted(categories, 50, 12)
    rho = np.asarray(result.params["u_shared"]["concentration"])
    tree = to_datatree(jax.random.key(1), result, {"y": np.array([1, 1, 1, 1])}, num_samples=4000)
    np.testing.assert_allclose(tree["posterior"]["u"].values.mean((0, 1)), rho / rho.sum(), atol=0.01)
