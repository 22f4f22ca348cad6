"""What does not fit together is refused before anything is compiled."""

from functools import partial

import jax
import numpy as np
import pytest
from cases.compilations import programs
from cases.fits import DATA, GUIDE, HALF, KEY, MODEL, OPTIMIZER, annotated_toy, quiet

from pl2d_ppl import MLP, PerRun, workload
from pl2d_ppl.baselines.naive_l2d import naive_l2d
from pl2d_ppl.experiments.methods import build_method
from pl2d_ppl.guides.exact import exact
from pl2d_ppl.models.prob_l2d import prob_l2d


def changed(**entries):
    return {**DATA, **entries}


def edited(name, index, value):
    array = DATA[name].copy()
    array[index] = value
    return changed(**{name: array})


def wider(**networks):
    parts = {"gating": 3, "experts": (2, 3), "classifier": 3} | networks
    return partial(prob_l2d, **{n: partial(MLP, 3, (), o) for n, o in parts.items()})


BOUNDS = {"guide": workload(GUIDE, "z", *HALF)}


REFUSED = {
    "fewer annotations than items": ({"data": changed(annotations=DATA["annotations"][:-1])}, "one length"),
    "annotations of one expert": ({"data": changed(annotations=DATA["annotations"][:, :1])}, "annotations"),
    "annotations of no axis of experts": ({"data": changed(annotations=DATA["y"])}, "annotations"),
    "truth with two axes": ({"data": changed(y=DATA["y"][:, None])}, "y"),
    "x of another width": ({"data": changed(x=DATA["x"][:, :2])}, "x|shape|features"),
    "annotation of C": (
        {"data": edited("annotations", (3, 1), 3)},
        r"-1\.\.2, .* in data\['annotations'\], found 3 at item 3, column 1",
    ),
    "annotation of -2": ({"data": edited("annotations", (3, 1), -2)}, "annotations.*found -2"),
    "truth of C": ({"data": edited("y", 3, 3)}, r"-1\.\.2, .* in data\['y'\], found 3 at item 3"),
    "float labels": ({"data": changed(y=DATA["y"].astype(float))}, r"integer labels in data\['y'\], found float64"),
    "NaN in x": ({"data": edited("x", (5, 0), np.nan)}, "finite.*1 rows, the first 5"),
    "infinity in x": ({"data": edited("x", (5, 0), np.inf)}, "finite.*1 rows, the first 5"),
    "no truth": ({"data": changed(y=np.full(36, -1))}, "truth"),
    "no data": ({"data": {}}, "found none"),
    "fewer items than a batch": ({"batch_size": 37}, "batch_size=37.*found 36"),
    "no batch": ({"batch_size": 0}, "positive batch_size, found 0"),
    "no epochs": ({"epochs": 0}, "epochs=0"),
    "patience without validation": ({"patience": 2}, "validation"),
    "legacy key": ({"rng_key": jax.random.PRNGKey(0)}, r"typed key, jax.random.key\(seed\)"),
    "a seed for a key": ({"rng_key": 0}, "typed key.*found int"),
    "keys with two axes": ({"rng_key": jax.random.split(KEY, (2, 2))}, r"shape \(2, 2\)"),
    "validation with fewer entries": ({"validation": {"x": DATA["x"], "y": DATA["y"]}}, "validation.*annotations"),
    "validation with NaN": ({"validation": edited("x", 0, np.nan)}, "validation"),
    "validation of another width": ({"validation": changed(x=DATA["x"][:, :2])}, "validation"),
    "validation with a label of C": ({"validation": edited("annotations", (3, 1), 3)}, "validation"),
    "too few bounds": ({"guide": workload(GUIDE, "z", [0, 0], [1, 1])}, "each of the 3 values.*found 2 and 2"),
    "a site that is not there": ({"guide": workload(GUIDE, "who", *HALF)}, "'who', found none.*'z'"),
    "bounds of runs with one key": ({"guide": workload(GUIDE, "z", PerRun([HALF[0]] * 2), HALF[1])}, "random.split"),
    "bounds of more runs than keys": (
        {"guide": workload(GUIDE, "z", *(PerRun([h] * 3) for h in HALF)), "rng_key": jax.random.split(KEY, 2)},
        "Expected.*(3.*2|2.*3)",
    ),
    "gating too narrow": ({"model": wider(gating=2)}, r"networks with outputs.*gating.*\(12, 2\)"),
    "experts too wide": ({"model": wider(experts=(2, 4))}, r"networks with outputs.*experts.*\(12, 2, 4\)"),
    "too many experts": ({"model": wider(experts=(3, 3))}, r"networks with outputs.*experts.*\(12, 3, 3\)"),
    "experts without an axis": ({"model": wider(experts=6)}, r"networks with outputs.*experts.*\(12, 6\)"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_refused_before_compilation(compiled, case):
    wrong, message = REFUSED[case]
    if "model" in wrong:
        wrong = {**wrong, "guide": workload(exact(wrong["model"], ["z"]), "z", *HALF)}
    options = {"rng_key": KEY, "model": MODEL, "data": DATA, "optimizer": OPTIMIZER, "epochs": 1, "batch_size": 12}
    with pytest.raises(ValueError, match=message):
        quiet(**{**options, **BOUNDS, **wrong})
    assert programs(compiled) == []


@pytest.mark.parametrize(
    ("lower", "upper", "message"),
    [
        ([0.0, 0.6, 0.0], [1.0, 0.5, 1.0], "lower <= upper.*position 1"),
        ([0.5, 0.6, 0.0], [1.0, 1.0, 1.0], "at most 1, found 1.1"),
        ([0.0, 0.0, 0.0], [0.1, 0.1, 0.1], "at least 1, found 0.3"),
        ([-0.1, 0.0, 0.0], [1.0, 1.0, 1.0], "between 0 and 1"),
        ([0.0, 0.0, 0.0], [1.0, 1.0, np.nan], "between 0 and 1"),
        ([0.0, 0.0], [1.0, 1.0, 1.0], "same length"),
        (PerRun([[0.0, 0.0]]), [1.0, 1.0, 1.0], "same length"),
        (PerRun(np.zeros((2, 3))), PerRun(np.ones((3, 3))), "same length"),
        (PerRun([[0.0, 0.0, 0.0], [0.6, 0.0, 0.0]]), [0.5, 1.0, 1.0], "lower <= upper.*position 0"),
        ([[0.0, 0.0, 0.0]], [1.0, 1.0, 1.0], r"lower bounds of shape \(K,\), found \(1, 3\).*lower=PerRun"),
        ([0.0, 0.0, 0.0], np.ones((2, 3)), r"upper bounds of shape \(K,\), found \(2, 3\).*upper=PerRun"),
        (PerRun([0.0, 0.0, 0.0]), [1.0, 1.0, 1.0], r"shape \(R, K\), found PerRun of shape \(3,\)"),
    ],
)
def test_bounds_that_cannot_hold_are_refused(lower, upper, message):
    with pytest.raises(ValueError, match=message):
        workload(GUIDE, "z", lower, upper)


def test_the_naive_baseline_refuses_annotations_of_another_number_of_experts(compiled):
    model = partial(naive_l2d, gating=partial(MLP, 3, (), 3), classifier=partial(MLP, 3, (), 3))
    data = changed(annotations=DATA["annotations"][:, :1])
    with pytest.raises(ValueError, match="annotations"):
        quiet(KEY, model, workload(exact(model), "z", *HALF), data, OPTIMIZER, epochs=1, batch_size=12)
    assert programs(compiled) == []


def test_an_unknown_method_is_refused():
    data = annotated_toy(DATA)
    with pytest.raises(ValueError, match=r"prob-l2d, naive, .*found 'other'"):
        build_method("other", data, (8,))
    with pytest.raises(ValueError, match="exact or mean-field, found 'other'"):
        build_method("prob-l2d", data, (8,), "other")
    with pytest.raises(ValueError, match="at least one expert"):
        build_method("prob-l2d", data.replace_annotations(np.empty((36, 0), int)), (8,))
