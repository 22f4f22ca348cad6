"""Skills that are recovered, and what is drawn of people."""

from functools import partial

import jax
import numpy as np
import pytest
from cases.pooled_l2d import (
    AI,
    CATEGORIES,
    CROWD,
    DATA,
    DRAWS,
    FULL,
    GUIDE,
    KEY,
    NAMES,
    OLD,
    OMEGA,
    OPTIMIZER,
    X,
    by_hand,
    cluster_p_right,
    crowd,
    draws_of,
    fitted,
    guide_of,
    latent_sites,
    p_right,
    run,
    values_of,
)
from flax import nnx
from numpyro.infer.svi import SVIState
from scipy.special import softmax

from pl2d_ppl import MLP, FitResult
from pl2d_ppl.guides.exact import exact
from pl2d_ppl.inference.compiled import compile_fit
from pl2d_ppl.models.pooled_l2d import pooled_l2d
from pl2d_ppl.people.pooled import PooledPeople

BY_NUTS = [0.73, 0.69]  # posterior means of P(right) at the mean of either cluster, of 600 draws


@pytest.mark.slow
def test_skills_are_recovered():
    mean = p_right(crowd()).mean((0, 1))
    accuracies = np.array([person.accuracy for person in FULL])
    np.testing.assert_allclose(mean[: len(FULL)], accuracies, atol=0.02)
    np.testing.assert_allclose(mean[-1], np.mean(X.argmax(1) == DATA["y"]), atol=0.02)
    np.testing.assert_allclose(cluster_p_right(crowd()), BY_NUTS, atol=0.06)


@pytest.mark.slow
def test_who_has_annotated_little_is_shrunk_to_their_cluster():
    draws, clusters = p_right(crowd()).mean(1), cluster_p_right(crowd())
    for number in (5, 6):
        raw, _, cluster = CROWD[number]
        found, target = draws[:, number].mean(), clusters[cluster]
        assert abs(found - target) < abs(raw - target) - 0.05
        assert (found - raw) * (target - raw) > 0
        assert draws[:, number].std() > 1.5 * draws[:, : len(FULL)].std(0).max()


@pytest.mark.slow
def test_a_fit_does_not_depend_on_those_before():
    """Nor on the key, but for noise."""
    again = run(DATA)
    np.testing.assert_array_equal(again.params["person_decentered_loc"], fitted().params["person_decentered_loc"])
    other = run(DATA, key=jax.random.key(9))
    np.testing.assert_allclose(p_right(draws_of(other)).mean((0, 1)), p_right(crowd()).mean((0, 1)), atol=0.03)


@pytest.mark.slow
def test_draws_have_the_moments_of_the_guide():
    result, pooled = fitted(), crowd()
    names, _ = latent_sites()
    assert set(pooled.draws) == set(names)
    for name, draws in pooled.draws.items():
        mean, sd = (np.asarray(result.params[f"{name}_{part}"]) for part in ("loc", "scale"))
        normal = np.log(draws) if name.removeprefix("ai_") in ("slope_scale", "spread") else np.asarray(draws)
        assert normal.shape == (DRAWS, *mean.shape)
        np.testing.assert_array_less(np.abs(normal.mean(0) - mean), 5 * sd / np.sqrt(DRAWS))
        np.testing.assert_allclose(normal.std(0), sd, rtol=5 / np.sqrt(2 * DRAWS))
    assert pooled.people == NAMES
    np.testing.assert_array_equal(pooled.arguments["membership"], OMEGA)


@pytest.mark.slow
def test_values_and_deferral_equal_the_formulas():
    """Under soft memberships, in pieces as in one."""
    omega = np.random.default_rng(1).dirichlet(np.ones(2), OLD).T.astype(np.float32)
    pooled, x = by_hand(omega, num_draws=5), X[:10]
    ai_probs = softmax(np.float64(x), 1)
    values = values_of(pooled)
    people, right = pooled.values("person", x[:1]), p_right(pooled, x)
    expected = np.array([one.p_right(ai_probs) for one in values])
    np.testing.assert_allclose(people, [one.person for one in values], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(right, expected, rtol=1e-4)
    for deferral in (pooled.defer(x), pooled.defer(x, batch_size=4)):
        np.testing.assert_allclose(np.exp(deferral.log_gate), softmax(20 * expected.mean(0), -1), rtol=1e-3, atol=1e-6)
        np.testing.assert_allclose(deferral.ai, ai_probs, rtol=1e-4)
        assert deferral.people == NAMES[:OLD]
        np.testing.assert_array_equal(deferral.people_probs, np.eye(OLD + 1))


@pytest.mark.slow
def test_a_trained_classifier_is_that_of_the_fit():
    network = MLP(CATEGORIES, (), CATEGORIES, rngs=nnx.Rngs(3))
    params = {"classifier$params": nnx.to_pure_dict(nnx.state(network, nnx.Param))}
    model, arguments = partial(pooled_l2d, classifier=partial(MLP, CATEGORIES, (), CATEGORIES)), {"membership": OMEGA}
    pooled = by_hand(OMEGA, num_draws=5, model=model, params=params, arguments=arguments)
    deferral, expected = pooled.defer(X[:10]), softmax(np.float64(network(X[:10])), 1)
    np.testing.assert_allclose(deferral.ai, expected, rtol=1e-4)
    gate = softmax(20 * np.mean([one.p_right(expected) for one in values_of(pooled)], 0), -1)
    np.testing.assert_allclose(np.exp(deferral.log_gate), gate, rtol=1e-3, atol=1e-6)


def test_draws_of_a_batch_are_refused():
    compiled, leaves = compile_fit(pooled_l2d, GUIDE, OPTIMIZER, True, 8, None, {"membership": OMEGA})
    result = FitResult.start(compiled, leaves, SVIState(None, None, KEY[None]), {})
    with pytest.raises(
        ValueError, match=r"Expected a single run, found a batch of runs. Choose one by result.run\(i\)"
    ):
        PooledPeople.of(KEY, result)


@pytest.mark.slow
def test_draws_need_a_fit_of_people():
    refuses = partial(pytest.raises, ValueError)
    with refuses(
        match=r"each of the 8 people, found 'person' not to be one. Pass site=, one of \['person_decentered'\]"
    ):
        PooledPeople.of(KEY, fitted(), site="person")
    with refuses(match="Expected 8 names, one a person, found 1"):
        PooledPeople.of(KEY, fitted(), people=["a"])
    with refuses(match="at least one draw, found num_samples=0"):
        PooledPeople.of(KEY, fitted(), num_samples=0)
    with refuses(match="Expected a typed key"):
        PooledPeople.of(0, fitted())
    given = {"membership": OMEGA, "classifier": AI}
    compiled, leaves = compile_fit(pooled_l2d, exact(pooled_l2d, ["z"]), OPTIMIZER, False, len(X), None, given)
    with refuses(match="found no guide of the continuous sites to draw from"):
        PooledPeople.of(KEY, fitted().replace(compiled=compiled, leaves=leaves))
    model = partial(pooled_l2d, membership=OMEGA)
    compiled, leaves = compile_fit(model, guide_of(model), OPTIMIZER, False, len(X), None, {"classifier": AI})
    with refuses(match=r"with arguments=\{'membership': ...\}, found no membership in it"):
        PooledPeople.of(KEY, fitted().replace(compiled=compiled, leaves=leaves))
