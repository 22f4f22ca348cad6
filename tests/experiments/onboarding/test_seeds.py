"""The pictures of a report: who is new, who is gone, and where everybody belongs."""

import numpy as np
from cases.onboarding import KEY, fake_row

from pl2d_ppl.experiments.onboarding.seeds import draw_report, people_labels


def report_of(memberships):
    """Two of three people leave, and two come."""
    row = {name: [values] for name, values in fake_row(KEY, "two-stage", 10, (0.0, 1.0)).items()}
    names = [f"person {m}" for m in range(5)]
    return {
        "settings": {"options": {"people": 3}, "contexts": [10]},
        "seeds": [0],
        "people": {"names": names, "present": ["person 1", "person 3", "person 4"]},
        "error_rates": [[0.1, 0.2, 0.3, 0.4, 0.5]],
        "results": {"10": {"two-stage": row}},
        "alone": {"ai": [0.8], "best_person": [0.7]},
        "memberships": memberships,
    }


def test_labels_tell_who_is_new_who_is_gone_and_how_often_they_err():
    moved = ["\n(gone)", "", "\n(gone)", "\n(new)", "\n(new)"]
    expected = [f"person {m}{moved[m]}\nerrs {10 * (m + 1)} %" for m in range(5)]
    assert people_labels(report_of({})) == expected


def test_memberships_are_drawn_where_there_are_any(tmp_path):
    assert draw_report(tmp_path, report_of({})) == [tmp_path / "curve.png"]
    soft = np.full((2, 5), 0.5)
    report = report_of({"10": {"soft": [soft], "interval": [np.stack([soft, soft], -1)]}})
    for path in draw_report(tmp_path, report):
        assert path.read_bytes().startswith(b"\x89PNG")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["curve.png", "membership.png"]
