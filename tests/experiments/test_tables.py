"""Tables of curves."""

import warnings

from pl2d_ppl.experiments.tables import curve_table


def test_a_table_has_means_over_seeds(judged):
    head, coverage, accuracy, alone = curve_table({"naive": judged}).splitlines()
    assert head.split(maxsplit=2) == ["0.00", "1.00", "area (plain argmax), mean ± spread over 2 seeds"]
    assert coverage.split() == ["naive", "coverage", "0.000", "1.000"]
    assert accuracy.split(maxsplit=4) == ["naive", "accuracy", "0.600", "0.800", "66.00 ± 4.00 (65.00 ± 5.00)"]
    assert alone == "alone: AI 0.800; experts 0.625, no annotation"


def test_what_cannot_be_judged_is_shown_and_told_once_a_method(judged):
    unjudged = {**judged, "judged": [[0.9, 1.0], [0.4, 1.0]], "judged_offset": [[0.8, 1.0], [0.6, 0.95]]}
    reports = {"naive": unjudged, "two-stage": judged, "lecodu": {**judged, "judged": [[1.0, 0.999], [1.0, 1.0]]}}
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        lines = curve_table(reports).splitlines()
    assert [str(w.message).split(" of the decisions")[0] for w in told] == [
        "naive: as few as 0.400",
        "lecodu: as few as 0.999",
    ]
    assert all(w.category is UserWarning for w in told)
    assert [line.split() for line in lines if " judged " in line] == [
        ["naive", "judged", "0.400", "0.950", "least:", "0.400"],
        ["lecodu", "judged", "1.000", "0.999", "least:", "0.999"],
    ]


def test_a_seed_without_a_value_is_told_and_left_out_of_the_means(judged):
    gaps = {
        "accuracy_offset": [[None, 0.75], [0.7, 0.85]],
        "area": [None, 70.0],
        "area_offset": [float("nan"), 70.0],
    }
    found = curve_table({"naive": {**judged, **gaps}})
    assert "0.700   0.800   70.00 ± 0.00 (70.00 ± 0.00)" in found
    missing = (
        "naive: missing, as nothing could be judged: accuracy at 0.00 of seed 0; area of seed 0; plain area of seed 0"
    )
    assert missing in found.splitlines()
    nothing = curve_table({"naive": {**judged, "accuracy_offset": [[None, 0.75], [None, 0.85]]}})
    assert "accuracy       nan   0.800" in nothing
    assert "accuracy at 0.00 of seeds 0, 4" in nothing
