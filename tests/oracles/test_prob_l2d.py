"""Sums over assignments, the closed form, mean field and generic sums agree with one another."""

import numpy as np
import pytest

from oracles.discrete import brute_force, generic_elbo, generic_mean_field
from oracles.prob_l2d import (
    enumerate_prob_l2d,
    label_channel,
    mean_field_elbo,
    mean_field_fixed_point,
    prob_l2d_closed_form,
)


def random_item(seed, people=4, n_classes=3):
    """Gate, beliefs, annotations, truth and eps of one item; every third truth is unknown."""
    rng = np.random.default_rng(seed)
    gate = rng.dirichlet(np.ones(people))
    beliefs = rng.dirichlet(np.full(n_classes, 0.5), size=people)
    annotations = rng.integers(-1, n_classes, size=people)
    annotations[-1] = -1
    y = -1 if seed % 3 == 2 else int(rng.integers(n_classes))
    return gate, beliefs, annotations, y, float(rng.choice([1e-3, 0.3]))


def latent_program(gate, beliefs, annotations, y, eps):
    """Write the same program for the generic oracles: the missing t and z are the latent sites."""
    missing = np.flatnonzero(annotations == -1)
    people, n_classes = beliefs.shape
    channel = label_channel(n_classes, eps)
    sites = {"z": people} | {f"t{m}": n_classes for m in missing}

    def log_joint(values):
        t = [values.get(f"t{m}", annotations[m]) for m in range(people)]
        log_p = np.log(gate[values["z"]]) + sum(np.log(beliefs[m, t[m]]) for m in range(people))
        return log_p + (np.log(channel[t[values["z"]], y]) if y != -1 else 0.0)

    return sites, log_joint, missing


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("with_ai", [False, True])
def test_enumeration_equals_closed_form(seed, with_ai):
    item = random_item(seed)
    ai_probs = item[1][-1] if with_ai else None
    literal = enumerate_prob_l2d(*item, ai_probs)
    closed = prob_l2d_closed_form(*item, ai_probs)
    for name in ("log_evidence", "z", "t", "zt"):
        np.testing.assert_allclose(literal[name], closed[name], rtol=1e-10, atol=1e-14, err_msg=name)
    mixed = np.einsum("k,jkc->jc", literal["z"], literal["zt"])
    np.testing.assert_allclose(mixed, literal["t"], atol=1e-13)


def test_enumeration_with_closed_gate_and_one_person():
    gate, beliefs, annotations, _, eps = random_item(1)
    gate = np.array([0.0, 1.0, 0.0, 0.0])
    literal = enumerate_prob_l2d(gate, beliefs, annotations, 0, eps)
    closed = prob_l2d_closed_form(gate, beliefs, annotations, 0, eps)
    np.testing.assert_allclose(literal["zt"], closed["zt"], atol=1e-13)
    np.testing.assert_allclose(literal["t"], closed["t"], atol=1e-13)
    alone = enumerate_prob_l2d(np.ones(1), beliefs[-1:], np.array([-1]), 2, eps)
    expected = np.log(beliefs[-1] @ label_channel(3, eps)[:, 2])
    np.testing.assert_allclose(alone["log_evidence"], expected)


def test_enumeration_by_hand():
    # The expert said 1 and is right; the AI says 1 with probability .4; the channel is exact.
    out = enumerate_prob_l2d(np.array([0.5, 0.5]), np.array([[0.2, 0.8], [0.6, 0.4]]), np.array([1, -1]), 1, 0.0)
    np.testing.assert_allclose(out["log_evidence"], np.log(0.8 * (0.5 + 0.5 * 0.4)))
    np.testing.assert_allclose(out["z"], [1 / 1.4, 0.4 / 1.4])
    np.testing.assert_allclose(out["t"], [[0, 1], [0.6 / 1.4, (0.4 + 0.4) / 1.4]])


@pytest.mark.parametrize("seed", range(9))
def test_generic_brute_force_equals_enumeration(seed):
    item = random_item(seed)
    sites, log_joint, missing = latent_program(*item)
    log_evidence, marginals, joint = brute_force(sites, log_joint)
    expected = enumerate_prob_l2d(*item)
    np.testing.assert_allclose(log_evidence, expected["log_evidence"], rtol=1e-12)
    np.testing.assert_allclose(marginals["z"], expected["z"], atol=1e-13)
    for m in missing:
        np.testing.assert_allclose(marginals[f"t{m}"], expected["t"][m], atol=1e-13)
    assert joint.shape == tuple(sites.values())
    np.testing.assert_allclose(joint.sum(), 1)


@pytest.mark.parametrize("seed", range(9))
@pytest.mark.parametrize("order", [("t", "z"), ("z", "t")])
def test_mean_field_rises_below_the_evidence_and_equals_the_generic_one(seed, order):
    item = random_item(seed)
    gate, beliefs = item[:2]
    rho, phi, elbos = mean_field_fixed_point(*item, sweeps=6, order=order)
    start = mean_field_elbo(gate, beliefs, *item)
    assert len(elbos) == 6
    assert np.all(np.diff([start, *elbos]) >= -1e-12)
    assert elbos[-1] <= enumerate_prob_l2d(*item)["log_evidence"] + 1e-12

    sites, log_joint, missing = latent_program(*item)
    init = {"z": gate} | {f"t{m}": beliefs[m] for m in missing}
    names = [f"t{m}" for m in missing]
    generic_order = [*names, "z"] if order == ("t", "z") else ["z", *names]
    q = generic_mean_field(sites, log_joint, init, generic_order, 6)
    np.testing.assert_allclose(q["z"], rho, atol=1e-12)
    for m in missing:
        np.testing.assert_allclose(q[f"t{m}"], phi[m], atol=1e-12)
    np.testing.assert_allclose(generic_elbo(sites, log_joint, q), elbos[-1], atol=1e-12)


def test_mean_field_resumes_from_init():
    item = random_item(4)
    rho, phi, _ = mean_field_fixed_point(*item, sweeps=5)
    first = mean_field_fixed_point(*item, sweeps=2)
    again, phi_again, _ = mean_field_fixed_point(*item, sweeps=3, init=first[:2], track_elbo=False)
    np.testing.assert_array_equal(again, rho)
    np.testing.assert_array_equal(phi_again, phi)


def test_generic_mean_field_copes_with_impossible_values():
    def log_joint(values):
        return 0.0 if values["a"] == values["b"] or values["a"] == 0 else -np.inf

    init = {"a": np.array([1.0, 0.0]), "b": np.array([0.5, 0.5])}
    q = generic_mean_field({"a": 2, "b": 2}, log_joint, init, ["a", "b"], 3)
    np.testing.assert_allclose(q["a"], [1, 0])
    np.testing.assert_allclose(q["b"], [0.5, 0.5])
    with pytest.raises(ValueError, match="no mass"):
        generic_mean_field({"a": 2, "b": 2}, lambda values: -np.inf, init, ["a"], 1)
    with pytest.raises(ValueError, match="log evidence"):
        brute_force({"a": 2}, lambda values: -np.inf)
