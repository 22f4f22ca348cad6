"""Newcomers: against refits with them, and under a modeller's edit."""

import dataclasses
import inspect
import types
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases.pooled_l2d import (
    CATEGORIES,
    CROWD,
    DATA,
    KEY,
    NAMES,
    NEW,
    OLD,
    OMEGA,
    ONE_EACH,
    Values,
    X,
    annotate,
    by_hand,
    cluster_p_right,
    crowd,
    draws_of,
    fitted,
    p_right,
    simulate,
    values_of,
)
from flax import nnx
from scipy.special import softmax

from pl2d_ppl import MLP
from pl2d_ppl.models.pooled_l2d import pooled_l2d
from pl2d_ppl.people.pooled import PooledPeople


@cache
def old():
    """The old ones alone."""
    everybody = draws_of(fitted(joined=False))
    draws = everybody.draws | {"person_decentered": everybody.draws["person_decentered"][:, :OLD]}
    arguments = everybody.arguments | {"membership": OMEGA[:, :OLD]}
    return dataclasses.replace(everybody, draws=draws, arguments=arguments, people=NAMES[:OLD])


SITE = "person_decentered"
SILENT = DATA | {"annotations": np.full((len(X), 2), -1)}


@pytest.mark.slow
def test_without_annotations_newcomers_are_drawn_around_their_clusters():
    before = by_hand()
    joined = before.join(jax.random.key(2), SILENT, ONE_EACH, people=["new", "newer"])
    rows = np.asarray(joined.draws[SITE])[:, OLD:]
    assert rows.shape == (600, 2, CATEGORIES + 2)
    np.testing.assert_allclose(rows.mean(0), 0.0, atol=0.1 + 5 / np.sqrt(600))
    np.testing.assert_allclose(rows.std(0), 1.0, atol=0.12)
    away = joined.values("person", X[:1])[:, OLD:] - joined.values("cluster_mean", X[:1])
    spreads = np.array([one.spreads for one in values_of(before)])
    error = 5 * away.std(0) / np.sqrt(600)
    np.testing.assert_array_less(np.abs(away.mean(0)), error + 0.1 * spreads.mean(0))
    np.testing.assert_allclose(away.std(0), np.sqrt(np.mean(spreads**2, 0)) * np.ones((2, 1)), rtol=0.15)
    # The others, and what everybody shares, are as before.
    for name, draws in before.draws.items():
        np.testing.assert_array_equal(joined.draws[name][:, :OLD] if name == SITE else joined.draws[name], draws)
    np.testing.assert_array_equal(joined.arguments["membership"], np.append(OMEGA[:, :OLD], ONE_EACH, 1))
    assert joined.people == (*NAMES[:OLD], "new", "newer")
    np.testing.assert_array_equal(p_right(joined, X[:5])[..., :OLD], p_right(before, X[:5])[..., :OLD])


@pytest.mark.slow
@pytest.mark.parametrize("size", [len(X), 0])
def test_newcomers_of_unknown_truth_or_without_items_are_as_without_annotations(size):
    data = NEW | {"x": X[:size], "y": np.full(size, -1)}
    data["annotations"] = data["annotations"][: len(data["x"])]
    rows, silent = (
        np.asarray(by_hand().join(jax.random.key(2), each, ONE_EACH).draws[SITE])[:, OLD:] for each in (data, SILENT)
    )
    np.testing.assert_allclose(rows.mean(0), silent.mean(0), atol=0.01)
    np.testing.assert_allclose(rows.std(0), silent.std(0), rtol=0.01)


@pytest.mark.slow
def test_draws_of_newcomers_are_not_those_of_the_others():
    """Though the key of both is the same."""
    joined = PooledPeople.of(KEY, fitted(), num_samples=200).join(KEY, SILENT, ONE_EACH)
    new = np.asarray(joined.draws[SITE])[:, len(NAMES) :].reshape(200, -1)
    others = [np.asarray(a).reshape(200, -1) for name, a in joined.draws.items() if name != SITE]
    correlations = np.corrcoef(np.concatenate([new, *others], 1).T)[: new.shape[1], new.shape[1] :]
    assert np.abs(correlations).max() < 0.4


@pytest.mark.slow
def test_with_annotations_newcomers_are_as_often_right_as_in_them():
    annotations = simulate([*((person.accuracy, person.count) for person in CROWD), (0.95, 400), (0.35, 400)])
    np.testing.assert_array_equal(annotations["annotations"][:, :8], DATA["annotations"])
    joined = old().join(KEY, annotations | {"annotations": annotations["annotations"][:, 8:]}, ONE_EACH[:, ::-1])
    found = p_right(joined).mean((0, 1))
    np.testing.assert_allclose(found[OLD:-1], [0.95, 0.35], atol=0.02)
    np.testing.assert_allclose(found[:OLD], p_right(old()).mean((0, 1))[:OLD], rtol=1e-6)


@pytest.mark.exhaustive
@pytest.mark.slow
def test_newcomers_may_be_far_from_their_cluster():
    """Who is almost always wrong, though others of the cluster are right half of the time and differ by little."""
    pooled = by_hand(num_draws=20)
    pooled = dataclasses.replace(pooled, draws=pooled.draws | {"spread": 0.3 * pooled.draws["spread"]})
    said = np.stack([annotate(np.random.default_rng(0), DATA["y"], 0.05, 400)] * 2, 1)
    joined = pooled.join(KEY, DATA | {"annotations": said}, ONE_EACH)
    np.testing.assert_array_less(p_right(joined).mean((0, 1))[OLD:-1], 0.15)


@pytest.mark.slow
def test_joining_is_as_fitting_everybody_anew():
    joined = old().join(KEY, NEW, OMEGA[:, OLD:], people=NAMES[OLD:])
    assert joined.people == crowd().people
    found, refitted = p_right(joined).mean(0), p_right(crowd()).mean(0)
    np.testing.assert_allclose(found.mean(0), refitted.mean(0), atol=0.1)
    assert abs(refitted.mean(0)[OLD:-1] - cluster_p_right(old())[[1, 0]]).max() > 0.1  # they did move
    deferral = joined.defer(X[:20])
    assert deferral.people == NAMES
    assert deferral.log_gate.shape == (20, 9)


@pytest.mark.exhaustive
@pytest.mark.slow
def test_joining_one_after_the_other():
    once = by_hand(num_draws=20).join(KEY, SILENT, ONE_EACH)
    numbers = [f"person_{i}" for i in range(OLD, OLD + 4)]
    assert once.people == (*NAMES[:OLD], *numbers[:2])
    twice = once.join(jax.random.key(1), NEW, OMEGA[:, OLD:])
    assert twice.people == (*NAMES[:OLD], *numbers)
    assert twice.draws[SITE].shape == (20, OLD + 4, CATEGORIES + 2)
    np.testing.assert_array_equal(twice.draws[SITE][:, : OLD + 2], once.draws[SITE])
    again = by_hand(num_draws=20).join(KEY, SILENT, ONE_EACH)
    np.testing.assert_array_equal(again.draws[SITE], once.draws[SITE])  # the key decides


def edited(*changes):
    """`pooled_l2d` as in a copy of its file, some of whose text was changed."""
    copy = types.ModuleType("edited_pooled_l2d")
    source = inspect.getsource(inspect.getmodule(pooled_l2d))
    for old, new in changes:
        assert source.count(old) == 1
        source = source.replace(old, new)
    exec(compile(source, copy.__name__, "exec"), copy.__dict__)
    return copy.pooled_l2d


@pytest.mark.slow
def test_an_edited_prior_of_people_is_that_of_newcomers():
    """Who is worse than their cluster by two in log-odds, and spread half as much; not in units of it."""
    model = edited(
        ("dist.Normal(mean, spreads)", "dist.Normal(mean - 2.0, 0.5 * spreads)"),
        ('"cluster_mean", "person"', '"cluster_mean"'),
    )
    pooled = by_hand()
    vectors = jnp.asarray(pooled.values("person", X[:1]))
    draws = {name: a for name, a in pooled.draws.items() if name != SITE} | {"person": vectors}
    joined = dataclasses.replace(pooled, model=model, draws=draws, site="person").join(KEY, SILENT, ONE_EACH)
    new = np.asarray(joined.draws["person"])[:, OLD:]
    mean = Values.of({name: a.mean(0) for name, a in pooled.draws.items()}, OMEGA[:, :OLD])
    np.testing.assert_allclose(new.mean(0), mean.cluster_mean - 2.0, atol=0.15)
    np.testing.assert_allclose(new.std(0), 0.5 * mean.spreads * np.ones((2, 1)), rtol=0.15)
    np.testing.assert_array_equal(joined.draws["person"][:, :OLD], vectors)


@pytest.mark.slow
def test_newcomers_may_all_be_of_one_cluster():
    joined = by_hand(num_draws=20).join(KEY, NEW, np.array([[0, 0], [1, 1]]))
    np.testing.assert_array_equal(joined.arguments["membership"][:, OLD:], [[0, 0], [1, 1]])


@pytest.mark.slow
def test_newcomers_leave_a_trained_classifier_as_it_is():
    network = MLP(CATEGORIES, (), CATEGORIES, rngs=nnx.Rngs(3))
    params = {"classifier$params": nnx.to_pure_dict(nnx.state(network, nnx.Param))}
    model = partial(pooled_l2d, classifier=partial(MLP, CATEGORIES, (), CATEGORIES))
    pooled = by_hand(num_draws=2, model=model, params=params, arguments={"membership": jnp.asarray(OMEGA[:, :OLD])})
    joined = pooled.join(KEY, NEW, ONE_EACH, steps=2)
    np.testing.assert_allclose(joined.defer(X[:10]).ai, softmax(np.float64(network(X[:10])), 1), rtol=1e-4)
