"""Offsets that meet bounds, against convex and linear programs."""

import warnings

import cvxpy as cp
import jax.numpy as jnp
import numpy as np
import pytest
from cases.deferral import OMEGA, PEOPLE, SEEDS, random_bounds, random_deferral, random_gate, random_omega, small
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from scipy.special import log_softmax, softmax

from pl2d_ppl.deferral.deferral import Deferral
from pl2d_ppl.deferral.offsets import Policy, project_people, untied

SIZES = ((200, 2, 1), (500, 4, 6), (1000, 6, 12), (2000, 3, 3))  # items, options, people: few, as each is compiled


def violation(shares, lower, upper):
    return np.max(np.maximum(np.maximum(lower - shares, shares - upper), 0.0))


def project_joint(gate, people_probs, lower, upper):
    """KL projection of q(v, w | x) itself, by its primal convex program."""
    (n, _), (option, person) = gate.shape, np.nonzero(people_probs)
    q = gate[:, option] * people_probs[option, person]
    x = cp.Variable(q.shape)
    arrives = (np.arange(people_probs.shape[1]) == person[:, None]) * 1.0
    shares = cp.sum(x, axis=0) @ arrives / n
    objective = cp.sum(-cp.entr(x) - cp.multiply(x, np.log(q))) / n
    problem = cp.Problem(cp.Minimize(objective), [cp.sum(x, axis=1) == 1, shares >= lower, shares <= upper])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Solution may be inaccurate")
        problem.solve(solver=cp.CLARABEL, tol_gap_abs=1e-9, tol_gap_rel=1e-9, tol_feas=1e-9)
    joint = np.zeros((n, *people_probs.shape))
    joint[:, option, person] = x.value
    return joint


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [1.0, 0.3])
@pytest.mark.parametrize("omega", [OMEGA, np.array([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])], ids=["soft", "hard"])
def test_the_projection_of_marginals_is_that_of_the_joint(float64, omega, temperature):
    rng = np.random.default_rng(3)
    gate = softmax(log_softmax(2 * rng.standard_normal((12, 3)), 1) / temperature, 1)
    people_probs = Deferral.of(gate, np.full((12, 2), 0.5), membership=omega).people_probs
    lower, upper = np.array([0.1, 0.0, 0.2, 0.3]), np.array([0.15, 0.3, 0.9, 0.35])
    with np.errstate(divide="ignore"):
        arguments = [jnp.asarray(a) for a in (np.log(gate), np.log(people_probs), lower, upper)]
    found = project_people(*arguments, tolerance=1e-9)
    joint = gate[:, :, None] * people_probs * np.exp(-np.asarray(found.multipliers))
    joint /= joint.sum((1, 2), keepdims=True)
    np.testing.assert_allclose(joint, project_joint(gate, people_probs, lower, upper), atol=2e-5)
    np.testing.assert_allclose(joint.sum(1).mean(0), found.mean, atol=1e-8)


def shares_of(gate, lower, upper):
    """Shares of people who are options, within bounds."""
    return Deferral.of(gate, np.full((len(gate), 2), 0.5)).bounded(lower, upper).shares


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.02, 0.98))
def test_of_two_people_the_items_of_highest_odds_are_chosen(seed, share):
    """Brute force: the AI decides the items with the highest odds, as many as its share says."""
    logit = np.random.default_rng(seed).standard_normal(400)
    gate = np.stack([1 / (1 + np.exp(logit)), 1 / (1 + np.exp(-logit))], -1)
    decision = Deferral.of(gate, np.full((400, 2), 0.5)).bounded([0, share], [1, share]).decision
    count = int(decision.sum())
    assert abs(count - share * 400) <= 1
    assert set(np.flatnonzero(decision)) == set(np.argsort(-logit)[:count])


@pytest.mark.parametrize(("lower", "upper"), [([0, 0, 1], [1, 1, 1]), ([0, 0, 0], [1, 1, 0]), ([0, 1, 0], [0, 1, 0])])
def test_hard_bounds_are_met_exactly(lower, upper):
    shares = shares_of(np.random.default_rng(0).dirichlet(np.ones(3), 400), lower, upper)
    assert np.all((shares >= lower) & (shares <= upper))


def test_a_gate_that_is_all_but_sure_meets_bounds():
    """Probabilities that underflow, and exact zeros, still give decisions that meet the bounds."""
    gate = softmax(40 * np.random.default_rng(0).standard_normal((400, 3)), -1).astype(np.float32)
    assert (gate == 0).any()
    shares = shares_of(gate, [0, 0, 0.5], [1, 1, 0.6])
    assert 0.5 - 1 / 400 <= shares[2] <= 0.6 + 1 / 400


def best_mean(deferral, lower, upper):
    """Largest mean of ln gate within the bounds, where items may be divided between options: a linear program."""
    n, num_options = deferral.log_gate.shape
    option, person = np.nonzero(deferral.people_probs)
    is_open = deferral.people_probs.any(1)
    cost = np.append(-np.where(is_open, deferral.log_gate, -1e6).ravel(), np.zeros(len(option)))
    leaves = np.hstack([np.tile(np.eye(num_options), n), -1.0 * (np.arange(num_options)[:, None] == option)])
    once = np.hstack([np.kron(np.eye(n), np.ones(num_options)), np.zeros((n, len(option)))])
    arrives = np.hstack([np.zeros((len(lower), n * num_options)), 1.0 * (np.arange(len(lower))[:, None] == person)])
    solution = linprog(
        cost,
        A_eq=np.vstack([once, leaves]),
        b_eq=np.append(np.ones(n), np.zeros(num_options)),
        A_ub=np.vstack([arrives, -arrives]),
        b_ub=np.append(n * upper, -n * lower),
    )
    return -solution.fun / n


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(SEEDS, st.sampled_from(SIZES))
def test_shares_meet_bounds_on_random_problems(seed, sizes):
    rng = np.random.default_rng(seed)
    deferral = random_deferral(rng, *sizes)
    lower, upper = random_bounds(rng, deferral.staff)
    found = deferral.bounded(lower, upper)
    assert violation(found.shares, lower, upper) <= 1 / sizes[0] + 1e-3
    assert not np.isnan(found.log_gate).any()
    assert np.isfinite(found.people_probs).all()
    np.testing.assert_array_equal(found.people_probs > 0, (found.people_probs > 0) & (deferral.people_probs > 0))
    np.testing.assert_allclose(found.people_probs.sum(1), deferral.people_probs.any(1))


@pytest.mark.slow
@settings(max_examples=20, deadline=None)
@given(SEEDS)
def test_shares_meet_bounds_where_options_are_people(seed):
    rng = np.random.default_rng(seed)
    deferral = Deferral.of(random_gate(rng, 500, 5), np.full((500, 2), 0.5))
    if rng.random() < 0.5:
        deferral = deferral.present([True, True, False, True])  # warnings are errors: an absent person is no news
    lower, upper = random_bounds(rng, deferral.staff)
    found = deferral.bounded(lower, upper)
    assert violation(found.shares, lower, upper) <= 1 / 500 + 1e-3
    np.testing.assert_array_equal(found.bounded(found.shares, found.shares).decision, found.decision)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_decisions_within_bounds_are_the_best_there_are(seed):
    """As good in ln gate as a linear program, but for a temperature and the items that it may divide."""
    rng = np.random.default_rng(seed)
    deferral = random_deferral(rng, 200, 4, 6)
    lower, upper = random_bounds(rng, deferral.staff)
    found = deferral.bounded(lower, upper)
    mean = deferral.log_gate[np.arange(200), found.decision].mean()
    spread = deferral.log_gate[np.isfinite(deferral.log_gate)].std()
    assert mean <= best_mean(deferral, lower - 1 / 200, upper + 1 / 200) + 1e-9
    assert mean >= best_mean(deferral, lower, upper) - 0.03 * spread


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(SEEDS)
def test_options_meet_bounds_of_their_own(seed):
    rng = np.random.default_rng(seed)
    deferral = random_deferral(rng, 500, 4, 6)
    lower, upper = random_bounds(rng, deferral.people_probs.any(1))
    found = deferral.bounded_options(lower, upper)
    assert violation(np.bincount(found.decision, minlength=4) / 500, lower, upper) <= 1 / 500 + 1e-6
    np.testing.assert_allclose(found.people_probs, deferral.people_probs)


def test_bounds_that_hold_change_nothing():
    deferral = small(50)
    found = deferral.bounded(np.zeros(4), np.ones(4))
    np.testing.assert_array_equal(found.decision, deferral.decision)
    np.testing.assert_allclose(found.people_probs, deferral.people_probs, rtol=1e-5)
    np.testing.assert_allclose(deferral.fit_policy(np.zeros(4), np.ones(4)).offsets, 0.0, atol=1e-6)


def test_within_an_option_shares_are_met_exactly():
    """Bob takes what is left of the option, however small a part of an item."""
    deferral = Deferral.of(np.tile([0.8, 0.2], (7, 1)), np.full((7, 2), 0.5), membership=np.ones((1, 3)), people=PEOPLE)
    found = deferral.bounded([0.123, 0, 0.4567, 0], [0.123, 1, 0.4567, 1])
    np.testing.assert_allclose(found.shares, [0.123, 1 - 0.123 - 0.4567, 0.4567, 0], atol=1e-4)


@pytest.mark.slow
@pytest.mark.usefixtures("precision")
def test_nobody_is_asked_beyond_a_bound_of_zero():
    deferral = small(60)
    found = deferral.bounded([0, 0, 0, 0], [0, 1, 1, 0])
    np.testing.assert_allclose(found.shares[[0, 3]], 0.0, atol=1e-4)
    np.testing.assert_allclose(deferral.bounded([0, 0, 0, 1], [1, 1, 1, 1]).shares, [0, 0, 0, 1])


def test_gates_that_are_all_but_sure_meet_bounds():
    """Probabilities that underflow close no option."""
    gate = softmax(60 * np.random.default_rng(0).standard_normal((500, 3)), -1).astype(np.float32)
    assert (gate == 0).any()
    for share in (0.5, 1.0):
        found = Deferral.of(gate, np.full((500, 2), 0.5)).bounded([0, 0, share], [1, 1, share])
        np.testing.assert_allclose(found.shares[2], share)


def best_mean_of_kinds(gate, sizes, lower, upper):
    """Largest mean of ln gate within bounds on options, of kinds of so many equal items each: a linear program."""
    weights = sizes / sizes.sum()
    shares = np.kron(weights, np.eye(gate.shape[1]))
    solution = linprog(
        -(weights[:, None] * np.log(gate)).ravel(),
        A_eq=np.kron(np.eye(len(gate)), np.ones(gate.shape[1])),
        b_eq=np.ones(len(gate)),
        A_ub=np.vstack([shares, -shares]),
        b_ub=np.append(upper, -np.asarray(lower)),
    )
    return -solution.fun


KINDS = {  # of items: gate of each, how many items of each
    "one": (np.array([[0.2, 0.3, 0.5]]), [100]),
    "one, many items": (np.array([[0.2, 0.3, 0.5]]), [4000]),
    "one without a preference": (np.full((1, 3), 1 / 3), [300]),
    "ten": (np.random.default_rng(0).dirichlet(np.ones(3), 10), [10] * 10),
    "ten, many items": (np.random.default_rng(0).dirichlet(np.ones(3), 10), np.arange(1, 11) * 200),
}


@pytest.mark.slow
@pytest.mark.parametrize("bounds", [([0, 0, 0.45], [1, 1, 0.45]), ([0.2, 0.25, 0], [1, 1, 0.35])], ids=["one", "all"])
@pytest.mark.parametrize("kinds", KINDS)
def test_items_that_are_equal_are_divided_as_by_a_linear_program(kinds, bounds):
    gate, sizes = KINDS[kinds][0], np.array(KINDS[kinds][1])
    num_items, (lower, upper) = sizes.sum(), np.array(bounds)
    kind = np.random.default_rng(1).permutation(np.repeat(np.arange(len(gate)), sizes))
    deferral = Deferral.of(gate[kind], np.full((num_items, 2), 0.5))
    found = deferral.bounded(lower, upper)
    assert violation(found.shares, lower, upper) < 1 / num_items
    np.testing.assert_array_equal(found.decision, deferral.bounded(lower, upper).decision)
    mean = np.log(gate)[kind, found.decision].mean()
    slack = 2 / num_items
    assert mean <= best_mean_of_kinds(gate, sizes, lower - slack, upper + slack) + 1e-9
    assert mean >= best_mean_of_kinds(gate, sizes, lower, upper) - 0.01


def test_the_same_policy_divides_other_equal_items_in_expectation():
    lower, upper = [0, 0, 0.4], [1, 1, 0.4]
    train, test = (Deferral.of(np.tile([0.2, 0.3, 0.5], (n, 1)), np.full((n, 2), 0.5)) for n in (500, 2000))
    policy = train.fit_policy(lower, upper)
    np.testing.assert_allclose(train.follow(policy).shares, [0, 0.6, 0.4])
    np.testing.assert_allclose(test.follow(policy).shares, [0, 0.6, 0.4], atol=4 * np.sqrt(0.24 / 500))
    np.testing.assert_array_equal(test.follow(policy).decision[:500], train.follow(policy).decision)
    assert (train.decision == 2).all()  # without a policy, nothing is broken


def test_ties_are_broken_by_less_than_anything_else():
    log_gate = np.array([[0.0, -np.inf, -1.0], [0.0, -np.inf, -1.0]])
    broken = untied(log_gate)
    assert np.all(broken[:, 1] == -np.inf)
    np.testing.assert_allclose(broken, log_gate, rtol=0, atol=1e-9)
    assert len(np.unique(broken[:, 0] - broken[:, 2])) == 2
    np.testing.assert_array_equal(untied(log_gate[:1]), broken[:1])


def test_shares_that_miss_their_bounds_are_told():
    """Equal items of a log-gate so large that rounding swallows what would tell them apart."""
    log_gate = 1e12 + np.tile(np.log([0.2, 0.3, 0.5]), (20, 1))
    deferral = Deferral(log_gate, np.full((20, 2), 0.5), np.eye(3), ("ann", "bob"))
    for bounded in (deferral.bounded, deferral.bounded_options):
        with pytest.warns(
            UserWarning, match=r"of 20 items within .* which miss their bounds by up to 0\.\d+, more than an item"
        ) as caught:
            bounded([0, 0.1, 0.4], [1, 1, 0.4])
        assert len(caught) == 1
        assert caught[0].filename == __file__


def test_whoever_has_a_bound_of_zero_gets_nothing_on_any_day():
    """Neither where the policy is followed, nor where others leave afterwards."""
    omega = np.array([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    everybody = small(200, membership=omega)
    lower, upper = [0, 0, 0, 0.3], [0, 1, 1, 0.3]
    policy = everybody.fit_policy(lower, upper)
    np.testing.assert_array_equal(policy.people_probs[:, 0], 0.0)
    np.testing.assert_array_equal(policy.people_probs[:2, 1], [1.0, 0.0])
    np.testing.assert_allclose(everybody.bounded(lower, upper).shares[[0, 3]], [0.0, 0.3])
    with pytest.warns(UserWarning, match=r"found nobody behind option 0 \('ann'\): their share goes to the others"):
        followed = everybody.present(["ann", "cid"]).follow(policy)
    with pytest.warns(UserWarning, match=r"found nobody behind option 0 \('bob'\): their share goes to the others"):
        restricted = everybody.bounded(lower, upper).present(["ann", "cid"])
    scores = untied(everybody.log_gate)[:, 1:] + policy.offsets[1:]
    for found in (followed, restricted):
        assert found.shares[0] == found.shares[1] == 0.0
        np.testing.assert_array_equal(found.decision, 1 + scores.argmax(1))


@pytest.mark.slow
@pytest.mark.usefixtures("precision")
def test_options_of_people_with_bounds_of_zero_are_closed_without_a_word():
    hard = small(60, membership=np.array([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]))
    for deferral in (hard, Deferral.of(np.exp(hard.log_gate), hard.ai, people=["ann", "cid"])):
        num_people = len(deferral.people)
        lower, upper = np.append(np.zeros(num_people), 0.3), np.append(np.zeros(num_people - 1), [1.0, 0.3])
        policy = deferral.fit_policy(lower, upper)
        found = deferral.follow(policy)
        assert np.isfinite(policy.offsets).all()
        assert (found.log_gate[:, 0] == -np.inf).all()
        np.testing.assert_allclose(found.shares, np.append(np.zeros(num_people - 1), [0.7, 0.3]))
        np.testing.assert_array_equal(deferral.bounded(0 * lower, np.eye(num_people + 1)[-1]).shares[:-1], 0.0)
        assert deferral.bounded(0 * upper, np.append(np.ones(num_people), 0)).staff.all()  # the AI stays, with no item


def test_a_policy_is_used_on_other_items_and_on_other_days():
    rng = np.random.default_rng(0)
    gate, ai = random_gate(rng, 2000, 3), np.full((2000, 2), 0.5)
    train, test = (
        Deferral.of(gate[part], ai[part], membership=OMEGA, people=PEOPLE)
        for part in (slice(0, 1000), slice(1000, 2000))
    )
    lower, upper = np.array([0.05, 0.1, 0.0, 0.5]), np.array([0.05, 0.2, 1.0, 0.5])
    policy = train.fit_policy(lower, upper)
    assert isinstance(policy, Policy)
    np.testing.assert_array_equal(train.follow(policy).log_gate, train.bounded(lower, upper).log_gate)
    found = test.follow(policy)
    assert violation(found.shares, lower, upper) <= 0.05
    np.testing.assert_array_equal(found.decision, (test.log_gate + policy.offsets).argmax(1))
    np.testing.assert_allclose(found.people_probs, policy.people_probs)
    without = test.present(["ann", "bob"]).follow(policy)  # cid is away, whatever the policy says
    np.testing.assert_allclose(without.people_probs, found.present(["ann", "bob"]).people_probs)
    with pytest.raises(ValueError, match=r"Expected a policy of 3 options and 2 people.*found \(3,\) and \(3, 4\)"):
        Deferral.of(gate, ai).follow(policy)


def test_policies_of_options_are_used_on_other_items():
    rng = np.random.default_rng(0)
    gate, ai = random_gate(rng, 1000, 4), np.full((1000, 2), 0.5)
    omega = random_omega(rng, 3, 6)
    train, test = (Deferral.of(gate[half], ai[half], membership=omega) for half in (slice(500), slice(500, None)))
    policy = train.fit_policy([0.1, 0, 0, 0.5], [1, 1, 1, 0.5], of_options=True)
    np.testing.assert_array_equal(policy.people_probs, train.people_probs)
    np.testing.assert_allclose(train.follow(policy).shares[-1], 0.5)
    np.testing.assert_allclose(test.follow(policy).shares[-1], 0.5, atol=0.1)


def test_a_policy_of_an_emptier_day_closes_options_with_a_warning():
    omega, people = np.eye(3)[:, [0, 1, 2, 2]], (*PEOPLE, "dan")
    everybody = Deferral.of(np.full((4, 4), 0.25), np.full((4, 2), 0.5), membership=omega, people=people)
    with pytest.warns(UserWarning, match="found nobody behind option"):
        policy = everybody.present(["ann", "bob"]).fit_policy(np.zeros(5), np.ones(5))
    assert policy.offsets[2] == -np.inf
    with pytest.warns(UserWarning, match=r"option 2 \('cid', 'dan'\)"):
        found = everybody.follow(policy)
    np.testing.assert_allclose(np.exp(found.log_gate), np.tile([1 / 3, 1 / 3, 0, 1 / 3], (4, 1)))
