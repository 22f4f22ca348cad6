"""Workload bounds on people and clusters: against convex programs over the joint."""

import numpy as np
import pytest
from cases.cluster_l2d import arguments, by_enumeration, inferred, random_case
from oracles.projection import project_joint_cvxpy
from programs import table
from scipy.special import xlogy

FREE = (0.0, 1.0)
BOUNDS = {
    "w": {
        "the AI alone": [FREE, FREE, FREE, FREE, (0.6, 0.6)],
        "the AI, from above": [FREE, FREE, FREE, FREE, (0.0, 0.1)],
        "everybody": [(0.1, 0.15), (0.3, 1.0), (0.05, 0.2), FREE, (0.05, 0.25)],
        "as much for everybody": [(0.2, 0.2)] * 4 + [FREE],
        "slack": [FREE] * 5,
    },
    "v": {
        "the AI alone": [FREE, FREE, FREE, (0.6, 0.6)],
        "every cluster": [(0.1, 0.15), (0.4, 1.0), FREE, (0.0, 0.3)],
        "slack": [FREE] * 4,
    },
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("site", "modelled"),
    [("w", True), ("w", False), ("v", True)],
)
def test_workload_projects_the_joint(float64, site, modelled):
    """Of who and which cluster, at once: by a convex program over the joint."""
    order = {"w": ("w", "v"), "v": ("v", "w")}[site]
    axis = 1 if site == "v" else 2
    for number, (kind, bounds) in enumerate(BOUNDS[site].items()):
        case = random_case(20 + number, modelled=modelled)
        lower, upper = np.array(bounds).T
        q = by_enumeration(case, modelled)["vw"]
        expected = project_joint_cvxpy(q, axis, lower, upper)
        elbo, own, joint = inferred(*arguments(case, modelled), order, (table(lower), table(upper)))
        np.testing.assert_allclose(joint, expected, atol=2e-5, err_msg=kind)
        assert np.all((own.mean(0) > lower - 1e-6) & (own.mean(0) < upper + 1e-6))
        gap = np.sum(xlogy(expected, expected) - xlogy(expected, q))  # of the bound: what the projection costs
        evidence = by_enumeration(case, modelled)["log_evidence"].sum()
        np.testing.assert_allclose(elbo, evidence - gap, atol=1e-5, err_msg=kind)
        assert (np.abs(expected - q).max() > 0.02) == (kind != "slack")  # the bounds bite
