"""Methods on a staff with newcomers."""

import numpy as np
from cases.onboarding import KEY, SLOW, STAFF, make_firm, some_options

from pl2d_ppl.experiments.onboarding.methods import onboard_methods
from pl2d_ppl.experiments.onboarding.workplace import open_workplace


@SLOW
def test_clusters_take_newcomers_and_gates_over_persons_do_not():
    firm = make_firm(replaced=0.5)
    members = np.eye(3)[firm.groups].T
    settings = some_options(methods=("two-stage", "cluster-soft", "l2d-pop"), coverages=(0.0, 1.0), replaced=0.5)
    place = open_workplace(KEY, firm, settings, 20)
    place = place._replace(staff_membership=members[:, :STAFF], newcomer_membership=members[:, STAFF:])
    done = []
    rows = onboard_methods(KEY, place, settings, on_method=lambda: done.append(1))
    assert list(rows) == list(settings.methods)
    assert len(done) == 3
    workloads = {name: np.array(row["workload_offset"]) for name, row in rows.items()}
    assert {name: w.shape for name, w in workloads.items()} == {
        "two-stage": (2, STAFF + 1),
        "cluster-soft": (2, STAFF + 4),
        "l2d-pop": (2, STAFF + 4),
    }
    for name, workload in workloads.items():
        np.testing.assert_allclose(workload.sum(1), 1, err_msg=name)
        np.testing.assert_array_equal(workload[:, [0, 2, 4]], 0, err_msg=name)  # those who left
    soft = workloads["cluster-soft"][0]
    np.testing.assert_allclose(soft[[1, 3, 5]], soft[[6, 7, 8]])  # one who stayed and one newcomer in each cluster
