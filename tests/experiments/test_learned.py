"""Methods behind one interface: interrupted fits, people of whom nothing is known, and a staff of any kind."""

from functools import partial

import jax
import numpy as np
import pytest

from pl2d_ppl import Annotated, fit_clusters, train_classifier
from pl2d_ppl.deferral.classifier import CLASSIFIER_SCHEDULE
from pl2d_ppl.deferral.deferral import Deferral
from pl2d_ppl.experiments.curve import coverage_curve, evaluate_curve
from pl2d_ppl.experiments.methods import Task, learn
from pl2d_ppl.inference.fit import FitInterrupted
from pl2d_ppl.inference.schedule import Schedule

KEY = jax.random.key(0)
SLOW = pytest.mark.slow
SCHEDULE = Schedule(steps=12, batch_size=16)
TINY = {"schedule": SCHEDULE, "hidden": (8,)}
PEOPLE, NEW = ("ann", "bo", "cleo"), ("dan", "eve", "fay")


def annotated(seed=0, num_items=48, silent=(), names=PEOPLE):
    """Blobs, annotated by people who err in a fifth of the items; who is silent says nothing."""
    rng = np.random.default_rng(seed)
    y = np.arange(num_items) % 3
    said = np.where(rng.random((num_items, 3)) < 0.2, rng.integers(0, 3, (num_items, 3)), y[:, None])
    said[:, [names.index(name) for name in silent]] = -1
    x = 3 * np.eye(3)[y] + rng.standard_normal((num_items, 3))
    return Annotated(x, y, said, classes=("0", "1", "2"), annotators=names, subset=True)


DATA = annotated()


# Ctrl-C


def classify():
    train_classifier(
        KEY, DATA.x, DATA.y, 3, hidden=(8,), schedule=CLASSIFIER_SCHEDULE.replace(steps=30), progress=False
    )


def cluster():
    counts = np.stack([np.bincount(said, minlength=3) for said in DATA.annotations])
    fit_clusters(KEY, DATA.x, counts, [2], vote_model="lda", alphas=(2.0,), hidden=(4,), seeds=1, progress=False)


def curve():
    coverage_curve(KEY, DATA, DATA, (0.0, 0.5), method="two-stage", **TINY)


@pytest.mark.parametrize("task", [classify, pytest.param(cluster, marks=SLOW), pytest.param(curve, marks=SLOW)])
def test_ctrl_c_within_a_fit_ends_the_task_that_it_is_of(monkeypatch, task):
    """Half a fit would else be reported as a whole one."""

    def stop(self, *args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("tqdm.auto.tqdm.set_postfix", stop)
    with pytest.raises(FitInterrupted):
        task()


# People who annotated nothing


@SLOW
def test_l2d_pop_does_not_ask_whom_it_knows_nothing_of():
    data = annotated(silent=["bo"])
    task = partial(Task, coverages=(0.5,), **TINY)
    (found,) = learn("l2d-pop", KEY, task(data)).defer(data.x)
    (without,) = learn("l2d-pop", KEY, task(data.select_people(["ann", "cleo"]))).defer(data.x)
    assert found.people == PEOPLE
    gate = np.exp(found.log_gate)
    np.testing.assert_allclose(gate[:, 1], 0.0, atol=1e-40)
    np.testing.assert_allclose(gate[:, [0, 2, 3]], np.exp(without.log_gate), rtol=1e-5)
    row = evaluate_curve(learn("l2d-pop", KEY, task(data)), data.x, DATA, (0.0, 0.5))
    assert [shares[1] for shares in row["workload_offset"]] == [0.0, 0.0]
    assert row["coverage_offset"] == pytest.approx([0.0, 0.5], abs=0.03)
    newcomers = annotated(silent=["fay"], names=NEW)
    (joined,) = learn("l2d-pop", KEY, task(data)).join(KEY, newcomers, None).defer(data.x)
    assert joined.people == (*PEOPLE, *NEW)
    assert ((np.exp(joined.log_gate) > 1e-40).all(0) == [True, False, True, True, True, False, True]).all()


def test_l2d_pop_needs_somebody():
    with pytest.raises(ValueError, match=r"somebody with annotations of items of known truth.*found nobody"):
        learn("l2d-pop", KEY, Task(annotated(silent=PEOPLE), (0.5,), **TINY))


# The day


class Given:
    """In the place of a method: a gate over the three people, the same for all items."""

    steered = False

    def __init__(self, gate=(0.2, 0.3, 0.1, 0.4)):
        self.gate = gate

    def defer(self, x):
        ai = np.tile([0.6, 0.3, 0.1], (len(x), 1))
        return [Deferral.of(np.tile(self.gate, (len(x), 1)), ai, people=PEOPLE)]


def test_a_staff_of_nobody_is_the_ai():
    right = np.mean(DATA.y == 0)
    for staff in ([], ["dan"]):
        row = evaluate_curve(Given(), DATA.x, DATA, (0.0, 1.0), staff=staff)
        assert row["coverage"] == [1.0, 1.0]
        np.testing.assert_allclose(row["accuracy"], right)
        assert row["area"] == pytest.approx(100 * right)


def test_of_who_is_absent_the_test_part_need_know_nothing():
    test = DATA.select_people(["cleo", "ann"])
    row = evaluate_curve(Given(), DATA.x, test, (0.0,), staff=["ann", "cleo"])
    assert row["workload_offset"] == [[1.0, 0.0, 0.0, 0.0]]
    assert row["accuracy_offset"][0] == pytest.approx(np.mean(DATA.annotations[:, 0] == DATA.y))
    with pytest.raises(ValueError, match=r"everybody who may be asked, found none of 'bo'. Pass staff= without them"):
        evaluate_curve(Given(), DATA.x, test, (0.0,))


# Bad input


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"coverages": ()}, "at least one coverage in the task, found none"),
        ({"membership": np.ones((5, 2, 3)) / 2}, r"shape \(K, M\), found \(5, 2, 3\)"),
    ],
)
def test_bad_tasks(changes, message):
    with pytest.raises(ValueError, match=message):
        learn(
            "cluster-soft", KEY, Task(**{"train": DATA, "coverages": (0.5,), "membership": np.ones((1, 3))} | changes)
        )


@SLOW
def test_newcomers_in_other_clusters_are_refused():
    membership = np.array([[1.0, 0.2, 0.0], [0.0, 0.8, 1.0]])
    learned = learn("cluster-hard", KEY, Task(DATA, (0.5,), **TINY, membership=membership))
    with pytest.raises(ValueError, match="membership of 2 clusters, found 3"):
        learned.join(KEY, DATA, np.full((3, 3), 1 / 3))
    assert learned.join(KEY, DATA.replace_annotations(DATA.annotations, NEW), membership).people == (*PEOPLE, *NEW)
