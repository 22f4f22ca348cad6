"""Newton steps for a Dirichlet's concentration, against scipy on the same losses."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from numpyro.handlers import scale
from numpyro.infer import SVI, Trace_ELBO, init_to_uniform
from numpyro.infer.autoguide import AutoDelta
from scipy.optimize import minimize
from scipy.special import digamma, gammaln, polygamma

from pl2d_ppl.clusters.concentration import NewtonState, fit_concentration, newton_log_concentration, with_newton


def log_proportions(rng, alpha, num_items):
    """ln u of Dirichlet draws, kept finite where alpha is small."""
    log_u = np.log(np.maximum(rng.gamma(alpha, size=(num_items, len(alpha))), 1e-30))
    return log_u - np.logaddexp.reduce(log_u, axis=1, keepdims=True)


def by_scipy(mean, shape=1.0, rate=0.0):
    """Concentration of the least loss of an item; a Gamma prior's shape - 1 and rate are those of an item."""

    def loss(x):
        alpha = np.exp(x)
        value = (
            gammaln(alpha).sum() - gammaln(alpha.sum()) - (alpha - 1) @ mean + (rate * alpha - (shape - 1) * x).sum()
        )
        return value, alpha * (digamma(alpha) - digamma(alpha.sum()) - mean) + rate * alpha - (shape - 1)

    return np.exp(minimize(loss, np.zeros(len(mean)), jac=True, method="BFGS", options={"gtol": 1e-11}).x)


def loss_of_item(x, log_u):
    return -dist.Dirichlet(jnp.exp(x), validate_args=False).log_prob(jnp.exp(log_u)).mean()


def descend(transform, loss, x, num_steps):
    """Points on the way, the start first."""

    def step(carry, _):
        x, state = carry
        updates, state = transform.update(jax.grad(loss)(x), state, x)
        return (optax.apply_updates(x, updates), state), x

    return jax.lax.scan(step, (x, transform.init(x)), length=num_steps + 1)[1]


def first_step(x, gradient, *args):
    newton = newton_log_concentration(*args)
    return jax.jit(lambda x, gradient: newton.update(gradient, newton.init(x), x)[0])(jnp.array(x), jnp.array(gradient))


# --- Maximum likelihood ---------------------------------------------------------------------------


@pytest.mark.parametrize("num_clusters", [2, 5])
def test_maximum_likelihood_equals_scipy(precision, num_clusters):
    rng = np.random.default_rng(num_clusters)
    for _ in range(8):
        alpha = np.exp(rng.uniform(np.log(0.05), np.log(100), num_clusters))
        start = np.exp(rng.uniform(np.log(1e-4), np.log(1e5), num_clusters))
        log_means = log_proportions(rng, alpha, 50)
        found, steps, gradient_norm = fit_concentration(log_means, start)
        assert found.dtype == precision.name
        assert steps < 40
        assert gradient_norm < (1e-6 if precision.name == "float64" else 1e-3)
        np.testing.assert_allclose(found, by_scipy(log_means.mean(0)), rtol=max(precision.rtol * 1e4, 1e-3) / 10)


@pytest.mark.slow
def test_true_concentration_is_found_from_its_expectations(float64):
    for alpha in ([0.05, 100.0], [50.0, 50.0, 50.0], [1e-3, 1e-3], [3.0, 0.1, 20.0, 0.5]):
        expected = digamma(alpha) - digamma(sum(alpha))
        found, *_ = fit_concentration(expected[None], tolerance=1e-11)
        np.testing.assert_allclose(found, alpha, rtol=1e-7)


def test_gradient_is_that_of_the_loss(float64):
    log_means = log_proportions(np.random.default_rng(0), np.array([2.0, 0.5, 9.0]), 20)
    found, steps, gradient_norm = fit_concentration(log_means, [5.0, 5.0, 1.0], max_steps=2)
    assert steps == 2
    expected = jax.grad(loss_of_item)(jnp.log(found), log_means)
    np.testing.assert_allclose(gradient_norm, np.abs(expected).max(), rtol=1e-9)


def test_stops_where_rounding_leaves_nothing_to_gain():
    """In float32 the gradient does not get below 1e-6 for large alpha; steps end all the same."""
    alpha = np.array([500.0, 300.0, 800.0])
    found, steps, gradient_norm = fit_concentration(log_proportions(np.random.default_rng(1), alpha, 1000))
    assert steps < 20
    assert 1e-6 < gradient_norm < 1e-2
    np.testing.assert_allclose(found, alpha, rtol=0.1)


def test_can_be_compiled_and_vectorised():
    rng = np.random.default_rng(0)
    log_means = jnp.stack([log_proportions(rng, np.array([2.0, 1.0]), 20) for _ in range(3)])
    together, steps, _ = jax.jit(jax.vmap(fit_concentration))(log_means)
    assert steps.shape == (3,)
    for one, statistics in zip(together, log_means, strict=True):
        np.testing.assert_allclose(one, fit_concentration(statistics)[0], rtol=1e-4)


# --- The transformation ---------------------------------------------------------------------------


def test_step_is_equation_b29(float64):
    """Where the gradient is positive, the step is that of the equation."""
    alpha, mean = np.array([2.0, 0.7, 5.0]), np.array([-1.7, -3.5, -0.6])
    slope = digamma(alpha) - digamma(alpha.sum()) - mean
    assert (slope > 0).all()
    hessian = np.diag(polygamma(1, alpha)) - polygamma(1, alpha.sum())
    expected = alpha * np.exp(-np.linalg.solve(hessian @ np.diag(alpha) + np.diag(slope), slope))
    updates = first_step(np.log(alpha), alpha * slope, 1.0, 100.0)
    np.testing.assert_allclose(alpha * np.exp(updates), expected, rtol=1e-10)


def test_converges_quadratically(float64):
    log_u = log_proportions(np.random.default_rng(0), np.array([4.0, 0.3, 30.0]), 200)
    best = np.log(fit_concentration(log_u, tolerance=1e-13)[0])
    path = descend(newton_log_concentration(), lambda x: loss_of_item(x, log_u), jnp.asarray(best + 0.3), 6)
    errors = np.abs(path - best).max(1)
    assert errors[-1] < 1e-10
    squares = errors[1:] / errors[:-1] ** 2
    assert squares[errors[:-1] > 1e-6].max() < 2


def test_minimises_a_program_s_loss_from_anywhere(precision):
    log_u = log_proportions(np.random.default_rng(1), np.array([0.4, 6.0, 2.0]), 200)

    @jax.jit
    @jax.vmap
    def path(x):
        return descend(newton_log_concentration(), lambda x: loss_of_item(x, log_u), x, 20)

    found = path(jnp.log(jnp.array([[1e-3] * 3, [1.0] * 3, [1e4] * 3, [1e3, 1e-2, 1.0]])))
    np.testing.assert_allclose(np.exp(found[:, -1]), np.tile(by_scipy(log_u.mean(0)), (4, 1)), rtol=1e-3)
    assert np.abs(np.diff(found, axis=1)).max() <= 1 + 1e-5


def test_learning_rate_averages_over_mini_batches():
    """Damped steps on batches of 20 end at the optimum of all items, and without bias."""
    log_u = jnp.asarray(log_proportions(np.random.default_rng(2), np.array([3.0, 1.0, 8.0]), 2000))
    best = np.log(fit_concentration(log_u)[0])

    newton = newton_log_concentration(0.05)

    def step(carry, key):
        x, state = carry
        batch = log_u[jax.random.randint(key, (20,), 0, 2000)]
        updates, state = newton.update(jax.grad(loss_of_item)(x, batch), state, x)
        return (x + updates, state), x

    start = (jnp.zeros(3), newton.init(jnp.zeros(3)))
    path = jax.lax.scan(step, start, jax.random.split(jax.random.key(0), 2000))[1]
    np.testing.assert_allclose(path[500:].mean(0), best, atol=0.02)
    assert path[500:].std(0).max() < 0.06


@pytest.mark.parametrize("max_step", [1.0, 0.25])
def test_steps_are_clipped_then_damped(max_step):
    np.testing.assert_allclose(first_step([0.0, 0.0], [-1.0, -2.0], 0.5, max_step), 0.5 * max_step)


def test_steps_are_finite_at_extremes_and_descend():
    x = jnp.array([[-80.0, -80.0, -80.0], [-80.0, 0.0, 3.0], [10.0, -20.0, 0.0], [20.0, 20.0, 20.0]])[:, None]
    gradients = jnp.array([[0.0, 0.0, 0.0], [-1.0, -1.0, -1.0], [-1.0, 0.0, 1.0]])
    newton = newton_log_concentration()

    @jax.jit
    @partial(jnp.vectorize, signature="(k),(k)->(k)")
    def step(x, gradient):
        return newton.update(gradient, newton.init(x), x)[0]

    steps = step(x, gradients)
    assert np.isfinite(steps).all()
    assert (np.sum(steps * gradients, -1) <= 0).all()
    assert (steps[:, 0] == 0).all()


def test_one_component_follows_its_prior_alone():
    """A cluster of everybody: u is 1, and only a prior moves alpha."""
    newton = newton_log_concentration()
    assert first_step([0.0], [0.0]) == 0
    path = descend(newton, lambda x: (0.02 * jnp.exp(x) - 0.4 * x).sum(), jnp.zeros(1), 60)
    np.testing.assert_allclose(np.exp(path[-1]), 20, rtol=1e-4)


def test_finds_the_mode_under_a_gamma_prior(float64):
    """As a latent site of a program whose guide is AutoDelta, beside a parameter that Adam learns."""
    num_items = 30
    log_u = log_proportions(np.random.default_rng(3), np.array([8.0, 0.5, 2.0]), num_items)

    def program():
        numpyro.factor("bowl", -num_items * (numpyro.param("other", jnp.zeros(2)) - 3.0) ** 2)
        alpha = numpyro.sample("alpha", dist.Gamma(3.0, 0.4).expand([3]).to_event(1))
        with numpyro.plate("item", num_items):
            numpyro.sample("u", dist.Dirichlet(alpha), obs=jnp.exp(log_u))

    per_item = scale(program, 1 / num_items)
    optimizer = with_newton(optax.adam(0.1), "alpha_auto_loc")
    svi = SVI(per_item, AutoDelta(per_item, init_loc_fn=init_to_uniform), optimizer, Trace_ELBO())

    @jax.jit
    def state(key):
        return jax.lax.fori_loop(0, 200, lambda _, state: svi.update(state)[0], svi.init(key))

    params = svi.get_params(state(jax.random.key(0)))
    # The program's log joint is divided by the items, and so is the prior's.
    expected = by_scipy(log_u.mean(0), 1 + 2.0 / num_items, 0.4 / num_items)
    np.testing.assert_allclose(params["alpha_auto_loc"], expected, rtol=1e-6)
    np.testing.assert_allclose(params["other"], 3, atol=1e-2)


def test_one_leaf_is_newton_s_and_the_rest_the_optimizer_s():
    params = {
        "alpha": jnp.array([0.5, -1.0]),
        "nets": {"w": jnp.ones((2, 3)), "b": jnp.zeros(3)},
        "scale": jnp.ones(()),
    }
    grads = jax.tree.map(jnp.ones_like, params)
    rest = {name: value for name, value in params.items() if name != "alpha"}
    optimizer, newton = optax.adamw(0.1), newton_log_concentration(0.5, 0.3)
    both = with_newton(optimizer, "alpha", learning_rate=0.5, max_step=0.3)

    @jax.jit
    def updates():
        by_newton, _ = newton.update(grads["alpha"], newton.init(params["alpha"]), params["alpha"])
        by_optimizer, _ = optimizer.update({n: grads[n] for n in rest}, optimizer.init(rest), rest)
        return both.update(grads, both.init(params), params)[0], {"alpha": by_newton, **by_optimizer}

    jax.tree.map(np.testing.assert_allclose, *updates())


# --- Errors ---------------------------------------------------------------------------------------


STATISTICS = np.log([[0.2, 0.8], [0.5, 0.5]])
PARAMS = {"w": jnp.zeros(3), "b": jnp.zeros(())}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: newton_log_concentration(0.0), r"learning_rate in \(0, 1\], found 0.0"),
        (lambda: newton_log_concentration(1.5), r"learning_rate in \(0, 1\], found 1.5"),
        (lambda: newton_log_concentration(1.0, np.nan), "positive max_step, found nan"),
        (lambda: with_newton(optax.sgd(1.0), "w", max_step=np.inf), "positive max_step, found inf"),
        (lambda: newton_log_concentration().init(jnp.zeros(())), r"shape \(K,\), found shapes \[\(\)\]"),
        (lambda: newton_log_concentration().update(jnp.zeros(2), NewtonState(jnp.zeros(2))), "params, .*found None"),
        (lambda: with_newton(optax.sgd(1.0), "alpha").init(PARAMS), r"'alpha' .*, found \['b', 'w'\]. Name one"),
        (lambda: with_newton(optax.sgd(1.0), "alpha").init(jnp.zeros(3)), "'alpha' .*, found ArrayImpl"),
        (lambda: with_newton(optax.sgd(1.0), "b").init(PARAMS), r"shape \(K,\), found shapes \[\(\)\]"),
        (lambda: fit_concentration(STATISTICS[0]), r"shape \(N, K\), K >= 2, .* found \(2,\)"),
        (lambda: fit_concentration(STATISTICS[:, :1]), r"found \(2, 1\)"),
        (lambda: fit_concentration(STATISTICS[:0]), r"found \(0, 2\)"),
        (lambda: fit_concentration(np.exp(STATISTICS)), "at most 0, found values from .* Pass E"),
        (lambda: fit_concentration([[0, 1], [1, 0]]), "at most 0"),
        (lambda: fit_concentration([[-np.inf, 0.0]] * 2), "finite log_means"),
        (lambda: fit_concentration(STATISTICS * np.nan), "finite log_means"),
        (lambda: fit_concentration(STATISTICS[[0, 0]]), "differ between items.* fix alpha, or give it a prior"),
        (lambda: fit_concentration(STATISTICS, 0.0), "positive concentration"),
        (lambda: fit_concentration(STATISTICS, [1.0, 1.0, 1.0]), r"found shape \(3,\)"),
        (lambda: fit_concentration(STATISTICS, max_steps=0), "one step at least, .* max_steps=0"),
        (lambda: fit_concentration(STATISTICS, tolerance=-1.0), "tolerance=-1.0"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
