"""What is no gate, membership, staff, bound or policy is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases.deferral import KEY, OMEGA, PEOPLE, small

from pl2d_ppl.checks.membership import check_membership
from pl2d_ppl.deferral.deferral import Deferral


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
