"""Who decides: staff, bounds and evaluation, against loops, convex and linear programs, and combinatorics."""

import itertools
import warnings

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment, linprog
from scipy.special import log_softmax, softmax

from pl2d_ppl import Annotated
from pl2d_ppl.checks.membership import check_membership
from pl2d_ppl.deferral import deferral as deferral_module
from pl2d_ppl.deferral.assignment import exact_offsets, nearest_counts
from pl2d_ppl.deferral.decisions import evaluate_decisions
from pl2d_ppl.deferral.deferral import Deferral
from pl2d_ppl.deferral.offsets import Policy, project_people, untied

KEY = jax.random.key(0)
PEOPLE = ("ann", "bob", "cid")
OMEGA = np.array([[0.9, 0.5, 0.0], [0.1, 0.5, 1.0]])
SIZES = ((200, 2, 1), (500, 4, 6), (1000, 6, 12), (2000, 3, 3))  # items, options, people: few, as each is compiled
SEEDS = st.integers(0, 2**32 - 1)


def random_gate(rng, num_items, num_options):
    """From timid to sure, with options that are preferred on average."""
    scale = rng.choice([0.3, 1.0, 3.0, 8.0])
    logits = scale * rng.standard_normal((num_items, num_options)) + rng.standard_normal(num_options)
    return softmax(logits, 1).astype(np.float32)


def random_omega(rng, num_clusters, num_people):
    """One-hot, soft, or soft with zeros; no cluster is empty where there are people enough."""
    kind = rng.integers(3)
    if kind == 0:
        return np.eye(num_clusters)[rng.permutation(np.arange(num_people) % num_clusters)].T
    omega = rng.dirichlet(np.full(num_clusters, rng.choice([0.2, 1.0, 5.0])), num_people).T
    if kind == 2:
        omega = np.where(omega < min(0.1, 0.9 / num_clusters), 0.0, omega)
    return omega / omega.sum(0)


def random_bounds(rng, is_able):
    """Feasible bounds, tight to slack, of which those who are absent have lower ones of zero."""
    target = np.zeros(len(is_able))
    target[is_able] = rng.dirichlet(np.full(is_able.sum(), rng.choice([0.3, 1.0, 10.0])))
    loose = rng.random((2, len(is_able))) * rng.choice([0.0, 0.1, 0.6])
    return np.maximum(target - loose[0], 0.0), np.minimum(target + loose[1], 1.0)


def random_deferral(rng, num_items, num_options, num_people, num_categories=4):
    """Some of the people absent, in half of the cases."""
    ai = rng.dirichlet(np.ones(num_categories), num_items)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Expected somebody behind every option")
        omega = random_omega(rng, num_options - 1, num_people)
        everybody = Deferral.of(random_gate(rng, num_items, num_options), ai, membership=omega)
        present = rng.random(num_people) < rng.choice([0.7, 1.0])
        present[rng.integers(num_people)] = True
        return everybody.present(present)


def small(num_items=6, **kwargs):
    rng = np.random.default_rng(0)
    gate, ai = rng.dirichlet(np.ones(3), num_items), rng.dirichlet(np.ones(4), num_items)
    return Deferral.of(gate, ai, **{"membership": OMEGA, "people": PEOPLE} | kwargs)


def violation(shares, lower, upper):
    return np.max(np.maximum(np.maximum(lower - shares, shares - upper), 0.0))


# --- Who stands behind an option, and who is there --------------------------------------------------


def test_rows_of_omega_are_normalised_and_the_ai_stands_alone():
    found = small()
    np.testing.assert_allclose(
        found.people_probs, [[0.9 / 1.4, 0.5 / 1.4, 0, 0], [0.1 / 1.6, 0.5 / 1.6, 1 / 1.6, 0], [0, 0, 0, 1]]
    )
    assert found.people == PEOPLE
    assert found.staff.all()


def test_without_membership_options_are_people():
    found = small(membership=None, people=None)
    np.testing.assert_array_equal(found.people_probs, np.eye(3))
    assert found.people == ("person_0", "person_1")


def test_decisions_are_those_of_the_gate():
    gate = np.random.default_rng(1).dirichlet(np.ones(5), 50)
    found = Deferral.of(gate, np.full((50, 2), 0.5))
    np.testing.assert_array_equal(found.decision, gate.argmax(1))
    np.testing.assert_allclose(np.exp(found.log_gate), gate)


def test_rows_are_averaged_over_the_draws_in_which_clusters_have_members():
    rng = np.random.default_rng(0)
    draws = np.eye(3)[rng.integers(0, 3, (40, 4))].swapaxes(1, 2)  # (S, K, M), one-hot
    expected = np.zeros((3, 4))
    for k in range(3):
        rows = [draw[k] / draw[k].sum() for draw in draws if draw[k].sum() > 0]
        assert len(rows) < len(draws)
        expected[k] = sum(rows) / len(rows)
    found = Deferral.of(rng.dirichlet(np.ones(4), 5), np.full((5, 2), 0.5), membership=draws)
    np.testing.assert_allclose(found.people_probs[:3, :4], expected)
    np.testing.assert_allclose(found.people_probs.sum(1), 1.0)


@settings(max_examples=30, deadline=None)
@given(SEEDS)
def test_staff_is_restricted_as_in_a_loop(seed):
    rng = np.random.default_rng(seed)
    omega = random_omega(rng, 3, 5)
    gate, present = random_gate(rng, 20, 4).astype(float), rng.random(5) < 0.5
    present[rng.integers(5)] = True
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = Deferral.of(gate, np.full((20, 2), 0.5), membership=omega).present(present)
    closed, people_probs = [], np.zeros((4, 6))
    for v in range(3):
        total = sum(omega[v, m] for m in range(5) if present[m])
        for m in range(5):
            people_probs[v, m] = omega[v, m] / total if total > 0 and present[m] else 0.0
        closed += [] if total > 0 else [v]
    people_probs[3, 5] = 1.0
    np.testing.assert_allclose(found.people_probs, people_probs)
    for i in range(20):
        total = sum(gate[i, v] for v in range(4) if v not in closed)
        for v in range(4):
            np.testing.assert_allclose(
                np.exp(found.log_gate[i, v]), 0.0 if v in closed else gate[i, v] / total, atol=1e-12
            )
    assert not np.isin(found.decision, closed).any()
    assert len(caught) <= 2  # one of clusters without members, one of those who are absent
    assert bool(caught) == bool(closed)


def test_names_and_masks_say_the_same_and_whoever_comes_back_is_there():
    everybody = small()
    before = [a.copy() for a in (everybody.log_gate, everybody.people_probs)]
    alone = everybody.present(["bob"])
    for staff in (
        [False, True, False],
        np.array([False, True, False]),
        jnp.array([False, True, False]),
        ("bob",),
        {"bob"},
    ):
        np.testing.assert_array_equal(everybody.present(staff).people_probs, alone.people_probs)
    np.testing.assert_array_equal(alone.people_probs, [[0, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
    assert alone.staff.tolist() == [False, True, False, True]
    for array, kept in zip((everybody.log_gate, everybody.people_probs), before, strict=True):
        np.testing.assert_array_equal(array, kept)
    back = everybody.present(PEOPLE)
    np.testing.assert_allclose(back.people_probs, everybody.people_probs)
    np.testing.assert_allclose(back.log_gate, everybody.log_gate)


@pytest.mark.slow
def test_options_without_anybody_are_closed_with_one_warning():
    omega = np.eye(3)[:, [0, 1, 2, 1]]
    people = (*PEOPLE, "dan")
    everybody = Deferral.of(np.full((4, 4), 0.25), np.full((4, 2), 0.5), membership=omega, people=people)
    with pytest.warns(
        UserWarning, match=r"option 0 \('ann'\), option 2 \('cid'\): their share goes to the others"
    ) as caught:
        found = everybody.present(["bob"])
    assert len(caught) == 1
    assert caught[0].filename == __file__
    np.testing.assert_allclose(np.exp(found.log_gate), np.tile([0, 0.5, 0, 0.5], (4, 1)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # what is closed stays so, and is no news
        found.present(["bob", "cid"]).bounded([0, 0.5, 0, 0, 0.5], [1, 0.5, 1, 1, 0.5])


def rows_of_draws(draws, present):
    """Who decides in a cluster, draw by draw: among those of its members who are present."""
    expected = np.zeros(draws.shape[1:])
    for k in range(len(expected)):
        rows = []
        for draw in draws:
            members = [draw[k, m] if present[m] else 0.0 for m in range(draw.shape[1])]
            if sum(members) > 0:
                rows.append(np.array(members) / sum(members))
        expected[k] = np.mean(rows, 0) if rows else 0.0
    return expected


def test_draws_are_restricted_to_those_who_are_present_before_they_are_averaged():
    draws = np.array([[[1, 1, 0], [0, 0, 1]], [[1, 0, 1], [0, 1, 0]]], float)
    everybody = small(membership=draws)
    np.testing.assert_array_equal(everybody.draws, draws)
    day = everybody.present(["ann", "bob"])
    np.testing.assert_allclose(day.people_probs[0], [0.75, 0.25, 0, 0])
    np.testing.assert_allclose(day.people_probs[1], [0, 1, 0, 0])  # of the one draw in which somebody is left
    np.testing.assert_allclose(
        day.people_probs[:2, :2], small(membership=draws[:, :, :2], people=None).people_probs[:2, :2]
    )
    np.testing.assert_allclose(day.present(["ann", "bob", "cid"]).people_probs, day.people_probs)
    for found in (everybody.bounded([0] * 4, [1] * 4), everybody.bounded_options([0] * 3, [1] * 3)):
        assert found.draws is None
    assert small().draws is None
    with pytest.warns(UserWarning, match=r"found nobody behind option 1 \('bob', 'cid'\)"):
        alone = everybody.present(["ann"])
    np.testing.assert_array_equal(alone.people_probs, [[1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1]])


@settings(max_examples=30, deadline=None)
@given(SEEDS)
def test_staff_of_draws_is_restricted_as_in_a_loop(seed):
    rng = np.random.default_rng(seed)
    draws = np.stack([random_omega(rng, 3, 5) for _ in range(rng.integers(1, 5))])
    present = rng.random(5) < 0.6
    present[rng.integers(5)] = True
    first = present | (rng.random(5) < 0.5)  # on a day of more people, of whom some leave
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Expected somebody behind every option")
        everybody = Deferral.of(random_gate(rng, 20, 4), np.full((20, 2), 0.5), membership=draws)
        days = everybody.present(present), everybody.present(first).present(present)
    for day in days:
        np.testing.assert_allclose(day.people_probs[:-1, :-1], rows_of_draws(draws, present))
        np.testing.assert_array_equal(day.log_gate[:, :-1] == -np.inf, np.tile(~day.people_probs[:-1].any(1), (20, 1)))


def test_clusters_without_members_are_closed_with_a_warning():
    omega = np.array([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
    for membership in (omega, np.stack([omega, omega])):
        with pytest.warns(UserWarning, match=r"option 1 \(a cluster without members\)") as caught:
            found = small(membership=membership)
        assert len(caught) == 1
        assert np.all(found.log_gate[:, 1] == -np.inf)
        assert np.isfinite(found.log_gate[:, [0, 2]]).all()
        np.testing.assert_allclose(np.exp(found.log_gate).sum(1), 1.0)


# --- The projection of the joint --------------------------------------------------------------------


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


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(SEEDS)
def test_counts_are_the_best_there_are_with_the_fewest_moves(seed):
    """All counts are tried; flows through a bipartite graph are feasible where no set of nodes is short (Hoffman)."""
    rng = np.random.default_rng(seed)
    support = rng.random((3, 4)) < 0.6
    support[np.arange(3), rng.integers(0, 4, 3)] = True
    lower, upper = random_bounds(rng, support.any(0))
    upper = np.where(support.any(0), upper, 0.0)
    counts = rng.multinomial(9, np.ones(3) / 3)
    options, people = (
        [list(c) for r in range(1, n + 1) for c in itertools.combinations(range(n), r)] for n in support.shape
    )

    def excess(counts):
        """In items, that everybody is given beyond the bounds."""
        need = [0.0]
        for some in options:
            reached = support[some].any(0)
            need.append((counts[some].sum() - 9 * upper[reached].sum()) / reached.sum())
        for some in people:
            need.append((9 * lower[some].sum() - counts[support[:, some].any(1)].sum()) / len(some))
        return max(need)

    tries = [np.array([i, j, 9 - i - j]) for i in range(10) for j in range(10 - i)]
    found, share = nearest_counts(counts, support, lower, upper)
    assert found.sum() == 9
    assert found.min() >= 0
    np.testing.assert_allclose(share * 9, excess(found), atol=1e-6)
    moves = lambda to: np.abs(to - counts).sum()  # noqa: E731
    best = min(30.0 * excess(to) + moves(to) for to in tries)
    assert 30.0 * excess(found) + moves(found) <= best + 1e-6
    assert share * 9 < 1.0
    np.testing.assert_allclose(
        nearest_counts(counts, support, lower, upper, may_move=False)[1] * 9, excess(counts), atol=1e-6
    )


def check_best_assignment(log_gate, offsets, counts):
    """Offsets choose every option as often as told, and so that the sum of ln gate is the largest."""
    found = exact_offsets(log_gate, offsets, counts)
    decision = (log_gate + found).argmax(1)
    np.testing.assert_array_equal(np.bincount(decision, minlength=len(counts)), counts)
    places = np.repeat(np.arange(len(counts)), counts)
    rows, columns = linear_sum_assignment(-log_gate[:, places])
    best = log_gate[rows, places[columns]].sum()
    np.testing.assert_allclose(log_gate[np.arange(len(log_gate)), decision].sum(), best)


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(SEEDS)
def test_exact_offsets_are_the_prices_of_the_best_assignment(seed):
    rng = np.random.default_rng(seed)
    num_options = rng.integers(2, 6)
    log_gate = log_softmax(rng.choice([1.0, 10.0]) * rng.standard_normal((60, num_options)), 1)
    counts = rng.multinomial(60, rng.dirichlet(np.ones(num_options)))
    check_best_assignment(log_gate, rng.standard_normal(num_options), counts)


@pytest.mark.parametrize("seed", range(10))
def test_items_move_through_options_that_tie(seed):
    """Whoever has moved an item ties with who has taken it, so that most later moves pass at a cost of zero."""
    rng = np.random.default_rng(seed)
    log_gate = log_softmax(rng.standard_normal((40, 6)), 1)
    counts = rng.multinomial(40, np.ones(6) / 6)
    check_best_assignment(log_gate, np.where(np.arange(6) == 0, 20.0, 0.0), counts)  # all go over from the first


def test_exact_offsets_lie_amid_those_that_do():
    """Of two options, half-way between the last item of one and the first of the other."""
    log_gate = np.array([[0.0, -4.0], [0.0, -2.0], [0.0, 1.0], [0.0, 2.0]])
    for share, middle in ((1, -1.5), (2, 0.5), (3, 3.0)):
        offsets = exact_offsets(log_gate, np.zeros(2), np.array([4 - share, share]))
        np.testing.assert_allclose(offsets[1] - offsets[0], middle)


# --- Bounds ---------------------------------------------------------------------------------------


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


def test_shares_that_miss_their_bounds_are_told(monkeypatch):
    def none(log_gate, people_probs, lower, upper):
        return Policy(np.zeros(len(people_probs)), people_probs)

    monkeypatch.setattr(deferral_module, "argmax_policy", none)
    deferral = Deferral.of(np.tile([0.2, 0.3, 0.5], (20, 1)), np.full((20, 2), 0.5), people=["ann", "bob"])
    message = (
        r"of 20 items within .*, found 0 for 'bob', 1 for 'AI', which miss their bounds by up to 0.6, more than an item"
    )
    for bounded in (deferral.bounded, deferral.bounded_options):
        expected = message if bounded == deferral.bounded else message.replace("bob", "option 1")
        with pytest.warns(UserWarning, match=expected) as caught:
            bounded([0, 0.1, 0.4], [1, 1, 0.4])
        assert len(caught) == 1
        assert caught[0].filename == __file__
    deferral.bounded([0, 0, 0.95], [0.05, 0.05, 0.95])  # an item less is none


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


# --- Draws and evaluation --------------------------------------------------------------------------


def random_answers(rng, num_items, num_people, missing):
    y = rng.integers(-1, 4, num_items)
    said = np.where(
        rng.random((num_items, num_people)) < 0.5,
        np.maximum(y, 0)[:, None],
        rng.integers(0, 4, (num_items, num_people)),
    )
    return np.where(rng.random(said.shape) < missing, -1, said), y


def test_people_are_drawn_from_the_row_of_the_decision():
    deferral = small(4000)
    drawn = deferral.draw(KEY)
    assert drawn.dtype.kind == "i"
    for v in range(3):
        row = np.bincount(drawn[deferral.decision == v], minlength=4) / np.sum(deferral.decision == v)
        np.testing.assert_allclose(row, deferral.people_probs[v], atol=0.05)
        assert np.all(row[deferral.people_probs[v] == 0] == 0)
    np.testing.assert_array_equal(drawn == 3, deferral.decision == 2)
    np.testing.assert_array_equal(drawn, deferral.draw(KEY))


def test_shares_are_the_expected_ones():
    deferral = small(30)
    expected = np.zeros(4)
    for v in deferral.decision:
        expected += deferral.people_probs[v] / 30
    np.testing.assert_allclose(deferral.shares, expected)


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.sampled_from([0.0, 0.5, 0.9]))
def test_evaluation_is_that_of_a_loop(seed, missing):
    rng = np.random.default_rng(seed)
    deferral = random_deferral(rng, 40, 4, 5)
    annotations, y = random_answers(rng, 40, 5, missing)
    accuracies, shares = [], np.zeros(6)
    for i, v in enumerate(deferral.decision):
        right = total = 0.0
        for w in range(6):
            shares[w] += deferral.people_probs[v, w] / 40
            said = deferral.ai[i].argmax() if w == 5 else annotations[i, w]
            if said >= 0:
                total += deferral.people_probs[v, w]
                right += deferral.people_probs[v, w] * (said == y[i])
        if y[i] >= 0 and total > 0:
            accuracies.append(right / total)
    found = deferral.evaluate(annotations, y)
    np.testing.assert_allclose(found["workload"], shares)
    np.testing.assert_allclose(found["coverage"], shares[-1])
    np.testing.assert_allclose(found["judged"], len(accuracies) / 40)
    np.testing.assert_allclose(found["accuracy"], np.mean(accuracies) if accuracies else np.nan)


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.sampled_from([0.0, 0.5, 1.0]))
def test_where_options_are_people_evaluation_is_that_of_decisions(seed, missing):
    rng = np.random.default_rng(seed)
    gate, ai = random_gate(rng, 30, 4), rng.dirichlet(np.ones(4), 30)
    annotations, y = random_answers(rng, 30, 3, missing)
    data = Annotated(np.zeros((30, 1)), y, annotations, classes=tuple("abcd"), annotators=PEOPLE, subset=True)
    expected = evaluate_decisions(gate.argmax(1), ai.argmax(1), data)
    found = Deferral.of(gate, ai, people=PEOPLE)
    for evaluation in (found.evaluate(annotations, y), found.evaluate_drawn(KEY, annotations, y)):
        np.testing.assert_equal(evaluation, expected)


def test_evaluation_is_the_mean_over_draws():
    """Where everybody annotates everything; otherwise a draw judges fewer items."""
    rng = np.random.default_rng(0)
    deferral = small(200)
    annotations, y = random_answers(rng, 200, 3, 0.0)
    draws = [deferral.evaluate_drawn(key, annotations, y) for key in jax.random.split(KEY, 400)]
    expected = deferral.evaluate(annotations, y)
    for name, value in expected.items():
        values = np.array([d[name] for d in draws])
        error = values.std(0) / np.sqrt(400)
        assert np.all(np.abs(values.mean(0) - value) <= 4 * error + 1e-9), name
    annotations = np.where(rng.random(annotations.shape) < 0.5, -1, annotations)
    assert deferral.evaluate_drawn(KEY, annotations, y)["judged"] < deferral.evaluate(annotations, y)["judged"]


def test_drawn_people_are_judged_as_decisions():
    deferral = small(100)
    annotations, y = random_answers(np.random.default_rng(2), 100, 3, 0.3)
    data = Annotated(np.zeros((100, 1)), y, annotations, classes=tuple("abcd"), annotators=PEOPLE)
    expected = evaluate_decisions(deferral.draw(KEY), deferral.ai.argmax(1), data)
    assert deferral.evaluate_drawn(KEY, annotations, y) == expected


# --- Mistakes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gate", "options", "message"),
    [
        (np.full((6, 1), 1.0), {}, r"a gate over at least one option besides the AI, found shape \(6, 1\)"),
        (np.full((6,), 1.0), {}, r"gate of shape \(N, V\), not empty, found \(6,\)"),
        (
            np.tile([0.5, 0.6], (6, 1)),
            {},
            r"gate as probabilities.*found \[0.5, 0.6\] with sum 1.1 at N = 0.*not logits",
        ),
        (np.tile([-0.5, 1.5], (6, 1)), {}, "gate as probabilities"),
        (np.tile([np.nan, 1.0], (6, 1)), {}, "gate as probabilities"),
        (np.full((5, 3), 1 / 3), {}, r"Expected log_gate of shape \(6, 3\).*found \(5, 3\)"),
        (None, {"people": ["ann"]}, r"Expected 2 names, one a person, found 1: \['ann'\]"),
        (None, {"people": ["ann", "ann"]}, r"distinct names, one a person, found \['ann'\]"),
        (None, {"membership": np.eye(3)}, "membership of 2 clusters, found 3"),
        (None, {"membership": np.eye(2), "people": PEOPLE}, "Expected 2 names, one a person, found 3"),
    ],
)
def test_gates_that_do_not_fit_are_refused(gate, options, message):
    gate = np.full((6, 3), 1 / 3) if gate is None else gate
    with pytest.raises(ValueError, match=message):
        Deferral.of(gate, np.full((6, 2), 0.5), **options)


@pytest.mark.parametrize(
    ("membership", "options", "message"),
    [
        (np.ones(3), {}, r"shape \(K, M\), or \(S, K, M\) of draws, found \(3,\)"),
        (np.ones((1, 1, 1, 1)), {}, r"found \(1, 1, 1, 1\)"),
        (np.ones((2, 0)), {}, r"found \(2, 0\)"),
        (OMEGA, {"num_clusters": 3}, r"membership of 3 clusters, found 2, in shape \(2, 3\)"),
        (OMEGA, {"num_people": 4}, "membership of 4 people, found 3"),
        (OMEGA, {"people": ["ann"]}, "Expected 3 names"),
        (
            OMEGA * [1, 1.002, 1.1],
            {"people": PEOPLE},
            r"membership as .* sum to one over K, found .* with sum 1.002 at 'bob'",
        ),
        (
            OMEGA - [[0, 0, 0.5], [0, 0, -0.5]],
            {},
            "membership as probabilities, not negative, .* and least -0.5 at 'person_2'",
        ),
        (
            np.stack([OMEGA, OMEGA * [1, np.nan, 1]]),
            {"people": PEOPLE},
            r"membership as .*, found .*nan.* at S = 1, 'bob'. Correct NaN and infinite numbers",
        ),
        (np.stack([OMEGA, OMEGA * [0.5, 1, 1]]), {}, "with sum 0.5 at S = 1, 'person_0'"),
    ],
)
def test_memberships_that_are_none_are_refused(membership, options, message):
    for array in (membership, jnp.asarray(membership, jnp.float32)):
        with pytest.raises(ValueError, match=message):
            check_membership(array, **options)


def test_memberships_are_checked_as_far_as_they_are_known():
    check_membership(OMEGA, 2, 3, PEOPLE)
    check_membership(jnp.asarray(OMEGA), num_people=3)
    check_membership(OMEGA.astype(np.float32) * (1 + 5e-5))
    check_membership(np.eye(3, dtype=int))
    check_membership(np.array([[1.0, 1.0], [0.0, 0.0]]))
    with pytest.raises(ValueError, match="nobody in cluster 1"):
        check_membership(np.array([[1.0, 1.0], [0.0, 0.0]]), may_be_empty=False)

    @jax.jit
    def traced(membership):
        check_membership(membership, 2)
        return membership.sum()

    assert traced(-jnp.ones((2, 3))) == -6
    with pytest.raises(ValueError, match="membership of 2 clusters, found 4"):
        traced(jnp.ones((4, 3)))


@pytest.mark.parametrize(
    ("staff", "message"),
    [
        ([], "somebody present, of 'ann', 'bob', 'cid', found nobody"),
        ([False] * 3, "found nobody"),
        ([True] * 4, r"each of 3 people is present, of shape \(3,\), found \(4,\)"),
        (["ann", "dan"], "names among 'ann', 'bob', 'cid', found 'dan'"),
        ("dan", "Pass names as a list"),
        (3, "names, or a boolean mask, found 3"),
        (None, "names, or a boolean mask, found None"),
        ([1, 0, 1], "names, or a boolean mask of 3, found 1, a int.*names as strings.*or a mask of True and False"),
        (np.array([1.0, 0.0, 1.0]), "found .*1.0.*, a float64"),
        (["ann", 1], "found 1, a int"),
        (np.array([True, False, True], object), "found True, a bool"),
    ],
)
def test_staff_that_is_not_known_is_refused(staff, message):
    with pytest.raises(ValueError, match=message):
        small().present(staff)


def test_numbers_are_no_names_even_where_people_are_named_by_numbers():
    """A mask of zeros and ones would be taken for the people of these numbers."""
    numbered = small(people=range(3))
    assert numbered.present(["0", "2"]).staff.tolist() == [True, False, True, True]
    for staff in ([1, 0, 1], np.array([0, 2]), jnp.array([1, 0, 1])):
        with pytest.raises(ValueError, match="names as strings, among '0', '1', '2', or a mask of True and False"):
            numbered.present(staff)


def test_only_those_who_are_absent_are_nobody():
    with pytest.raises(ValueError, match="somebody present, of 'ann', found nobody"):
        small().present([True, False, False]).present(["bob"])


@pytest.mark.parametrize(
    ("lower", "upper", "message"),
    [
        ([0] * 3, [1] * 4, r"4 lower bounds, one for each of 'ann', 'bob', 'cid', then the AI, found shape \(3,\)"),
        ([0] * 4, [[1] * 4], r"4 upper bounds.*found shape \(1, 4\)"),
        (0.0, 1.0, r"4 lower bounds.*found shape \(\)"),
        ([0, 0.6, 0, 0], [1, 0.5, 1, 1], "lower <= upper .* found lower 0.6 for 'bob', above upper 0.5 for 'bob'"),
        ([0.2, 0, 0, 0.3], [0.1, 1, 1, 0], "lower 0.2 for 'ann', 0.3 for 'AI', above upper 0.1 for 'ann', 0 for 'AI'"),
        ([0.6, 0.5, 0, 0], [1] * 4, "sum to at most 1, found 1.1: 0.6 for 'ann', 0.5 for 'bob'. Lower them"),
        ([0] * 4, [0.1] * 4, "present that sum to at least 1, found 0.3 over 'ann', 'bob', 'AI'"),
        ([0] * 4, [1, 1, np.nan, 1], "upper bounds between 0 and 1"),
        ([0] * 4, [1, 1, 2, 1], "upper bounds between 0 and 1"),
        ([0, 0, 0.2, 0], [1] * 4, r"lower bounds of 0 for those who are absent, found \[0.2\] for 'cid'"),
        ([0] * 4, [0.3, 0.2, 1, 0.2], r"upper bounds of those who are present.*found 0.7 over 'ann', 'bob', 'AI'"),
    ],
)
def test_bounds_that_the_day_cannot_meet_are_refused(lower, upper, message):
    with pytest.raises(ValueError, match=message):
        small().present(["ann", "bob"]).bounded(lower, upper)


def test_bounds_that_options_cannot_meet_are_refused():
    with pytest.warns(UserWarning, match="found nobody behind option 0"):
        day = small().present(["cid"])
    with pytest.raises(ValueError, match="3 upper bounds, one for each of 'option 0', 'option 1', then the AI"):
        day.bounded_options([0] * 3, [1] * 4)
    with pytest.raises(ValueError, match=r"absent, found .* for 'option 0'"):
        day.bounded_options([0.1, 0, 0], [1] * 3)
    with pytest.raises(ValueError, match=r"found 0\.5 over 'option 1', 'AI'"):
        day.bounded_options([0] * 3, [1, 0.2, 0.3])


@pytest.mark.parametrize("key", [0, jax.random.PRNGKey(0), jax.random.split(KEY, 3)], ids=["int", "raw", "many"])
def test_keys_that_are_not_one_typed_key_are_refused(key):
    with pytest.raises(ValueError, match=r"typed key|one key, found an array of 3"):
        small().draw(key)


@pytest.mark.parametrize(
    ("annotations", "y", "message"),
    [
        (np.zeros((6, 2), int), np.zeros(6, int), "annotations"),
        (np.zeros((5, 3), int), np.zeros(6, int), "annotations"),
        (np.zeros((6, 3), int), np.zeros(5, int), r"y of shape \(6,\), .* found \(5,\)"),
        (np.zeros((6, 3)), np.zeros(6, int), "integer labels in annotations, found float64"),
        (np.full((6, 3), 4), np.zeros(6, int), "annotations"),
        (np.zeros((6, 3), int), np.full(6, -2), "in y, found -2 at item 0"),
    ],
)
def test_annotations_that_do_not_fit_are_refused(annotations, y, message):
    for evaluate in (small().evaluate, lambda *args: small().evaluate_drawn(KEY, *args)):
        with pytest.raises(ValueError, match=message):
            evaluate(annotations, y)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"log_gate": np.zeros(3)}, r"log_gate as a matrix that is not empty, found shape \(3,\)"),
        ({"log_gate": np.zeros((0, 3))}, r"found shape \(0, 3\)"),
        ({"log_gate": np.zeros((6, 2))}, r"log_gate of shape \(6, 3\)"),
        ({"log_gate": np.array([[0, -np.inf, 0]] + [[0, 0, 0]] * 5)}, "finite where an option is open"),
        ({"log_gate": np.full((6, 3), np.nan)}, "finite where an option is open"),
        ({"people_probs": np.array([[1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1]])}, "-inf on all items"),
        (
            {"people_probs": np.array([[1, 0, 0, 0], [0, 0.5, 0, 0], [0, 0, 0, 1]])},
            r"rows that sum to one, found \[1.0, 0.5, 1.0\]",
        ),
        ({"people_probs": np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]])}, "the AI alone"),
        ({"people_probs": np.array([[1, 0, 0, 0], [0, 0.5, 0, 0.5], [0, 0, 0, 1]])}, "the AI alone"),
        ({"people": ("ann",)}, "Expected 3 names"),
        ({"draws": np.ones((2, 3))}, r"draws of shape \('S', 2, 3\).*found shape \(2, 3\)"),
        ({"draws": np.ones((1, 3, 3))}, r"found shape \(1, 3, 3\)"),
        ({"draws": -np.ones((1, 2, 3))}, "not negative"),
    ],
)
def test_parts_that_do_not_fit_are_refused(changes, message):
    parts = {
        "log_gate": np.zeros((6, 3)),
        "ai": np.full((6, 2), 0.5),
        "people_probs": small().people_probs,
        "people": PEOPLE,
    }
    Deferral(**parts)
    with pytest.raises(ValueError, match=message):
        Deferral(**parts | changes)
