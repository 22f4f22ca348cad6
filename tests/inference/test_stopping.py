"""Early stopping, interruption, resuming, and losses that are not finite."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases.fits import (
    GUIDE,
    HALF,
    KEY,
    OPTIMIZER,
    TOY,
    TOY_DATA,
    assert_same,
    fit_l2d,
    linear,
    nothing,
    quiet,
    raw,
    separable,
    toy_data,
    toy_model,
)
from flax import nnx
from scipy.special import log_softmax

from pl2d_ppl import MLP, fit, workload
from pl2d_ppl.guides.exact import exact
from pl2d_ppl.inference.fit import FitInterrupted, NonFiniteLossError
from pl2d_ppl.models.prob_l2d import prob_l2d


class Regularised(nnx.Module):
    """A perceptron with batch normalisation and dropout."""

    def __init__(self, *, rngs):
        self.first, self.last = nnx.Linear(3, 8, rngs=rngs), nnx.Linear(8, 3, rngs=rngs)
        self.norm, self.dropout = nnx.BatchNorm(8, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return self.last(self.dropout(nnx.relu(self.norm(self.first(x)))))


@pytest.fixture(scope="module")
def regularised():
    """A model with BatchNorm and Dropout, and its validation data."""
    return toy_model(classifier=Regularised), toy_data(1, 10)


def test_early_stopping_returns_the_state_of_the_lowest_validation_loss():
    validation = toy_data(1, 20)  # not a multiple of the batch: the last one is smaller
    validation["y"] = (validation["y"] + 1) % 3  # contradicts what is learned
    result = quiet(
        KEY, TOY, nothing, TOY_DATA, optax.sgd(0.05), epochs=50, batch_size=12, validation=validation, patience=3
    )
    losses = result.history["validation_loss"]
    assert result.status == "stopped_early"
    assert result.epoch == len(losses) == losses.argmin() + 1 + 3 < 50
    assert int(result.stale) == 3
    assert float(result.best_loss) == losses.min()
    logits = (log_softmax(linear(result.params, n, validation["x"]), -1) for n in ("classifier", "gating"))
    expected = -sum(
        np.take_along_axis(p, validation[k][:, None], 1).mean() for p, k in zip(logits, ("y", "who"), strict=True)
    )
    np.testing.assert_allclose(losses.min(), expected, rtol=1e-5)


@pytest.fixture
def ctrl_c(monkeypatch):
    """Ctrl-C when the progress of the third epoch is shown."""
    shown = []

    def stop(self, *args, **kwargs):
        shown.append(args)
        if len(shown) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr("tqdm.auto.tqdm.set_postfix", stop)


@pytest.mark.slow
def test_ctrl_c_raises_with_the_last_epoch_from_which_a_fit_goes_on_bit_for_bit(regularised, request):
    model, validation = regularised
    options = {"optimizer": OPTIMIZER, "epochs": 5, "batch_size": 12, "validation": validation}
    whole = quiet(KEY, model, nothing, TOY_DATA, **options)
    request.getfixturevalue("ctrl_c")
    with pytest.raises(KeyboardInterrupt, match=r"after 3 epochs.*\.result") as stopped:
        quiet(KEY, model, nothing, TOY_DATA, **options)
    part = stopped.value.result
    assert isinstance(stopped.value, FitInterrupted)
    assert (part.status, part.epoch) == ("interrupted", 3)
    assert len(part.history["loss"]) == 3
    resumed = quiet(KEY, model, nothing, TOY_DATA, **options, resume=part)
    assert resumed.status == "completed"
    assert_same(resumed, whole)


def test_resume_at_the_end_changes_nothing(half):
    assert_same(fit_l2d(guide=workload(GUIDE, "z", *HALF), epochs=30, resume=half), half)


@pytest.mark.slow
def test_a_batched_resume_equals_the_whole():
    keys = jax.random.split(KEY, 3)
    run = partial(quiet, keys, TOY, nothing, TOY_DATA, OPTIMIZER, batch_size=12)
    assert_same(run(epochs=3, resume=run(epochs=1)), run(epochs=3))


@pytest.mark.parametrize("progress", [False, True])
def test_a_progress_bar_shows_if_it_is_asked_for(capsys, progress):
    fit(KEY, TOY, nothing, TOY_DATA, OPTIMIZER, epochs=2, batch_size=12, progress=progress)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert ("loss=" in shown.err) == progress


class Poisoned(nnx.Module):
    """NaN on inputs above 100."""

    def __init__(self, *, rngs):
        self.inner = MLP(3, (), 3, rngs=rngs)

    def __call__(self, x):
        return jnp.where(x[:, :1] > 100, jnp.nan, self.inner(jnp.minimum(x, 100.0)))


def poisoned_data(num_items=26, batch_size=8):
    """Data with one poisoned item, which the first epoch leaves out; the step of the second epoch that has it."""
    data = toy_data(0, num_items)
    kept = num_items // batch_size * batch_size
    first, second = (np.asarray(jax.random.permutation(jax.random.fold_in(KEY, e), num_items)) for e in range(2))
    item = next(i for i in first[kept:] if 8 <= list(second).index(i) < kept)
    data["x"][item, 0] = 1e3
    return data, list(second).index(item) // batch_size


def assert_finite(result):
    for leaf in jax.tree.leaves(raw((result.state, result.best_state, result.history))):
        assert np.isfinite(leaf).all() or leaf.dtype.kind in "iu"


@pytest.mark.slow
@pytest.mark.parametrize(("network", "site"), [("classifier", "y"), ("gating", "who")])
def test_a_loss_that_is_not_finite_names_epoch_step_and_site(network, site):
    data, step = poisoned_data()
    model = toy_model(**{network: Poisoned})
    optimizer = optax.adam(0.05)
    with pytest.raises(
        NonFiniteLossError, match=rf"epoch 1, step {step}, at site {site}, item \d+[^.]*. Lower"
    ) as caught:
        quiet(KEY, model, nothing, data, optimizer, epochs=4, batch_size=8)
    error = caught.value
    assert (error.epoch, error.step, error.sites) == (1, step, [site])
    assert error.result.epoch == 1
    assert error.result.history["loss"].shape == (1,)
    assert_finite(error.result)
    assert int(error.result.state.optim_state[0]) == 3 + step  # all good steps are in


def test_predictions_of_a_failed_fit_are_those_of_the_last_good_step():
    """As ``FitResult.best_state`` says: without validation, the last."""
    data, _ = poisoned_data()
    with pytest.raises(NonFiniteLossError) as caught:
        quiet(KEY, toy_model(classifier=Poisoned), nothing, data, optax.adam(0.05), epochs=4, batch_size=8)
    result = caught.value.result
    jax.tree.map(np.testing.assert_array_equal, raw(result.best_state), raw(result.state))


def test_a_run_of_a_batch_that_is_not_finite_is_found():
    data, step = poisoned_data()
    keys = jnp.stack([jax.random.key(9), KEY])
    # The run of key 9 meets the poisoned item in its first epoch, or has it left out there.
    order = list(np.asarray(jax.random.permutation(jax.random.fold_in(keys[0], 0), 26)))
    item = int(np.argmax(data["x"][:, 0]))
    with pytest.raises(NonFiniteLossError) as caught:
        quiet(keys, toy_model(classifier=Poisoned), nothing, data, optax.adam(0.05), epochs=4, batch_size=8)
    expected = (0, order.index(item) // 8) if order.index(item) < 24 else (1, step)
    assert (caught.value.epoch, caught.value.step) == expected
    assert caught.value.sites == ["y"]
    assert_finite(caught.value.result)


def test_a_huge_learning_rate_is_reported():
    with pytest.raises(NonFiniteLossError, match="learning rate") as caught:
        quiet(KEY, TOY, nothing, TOY_DATA, optax.sgd(1e38), epochs=4, batch_size=12)
    assert_finite(caught.value.result)


@pytest.mark.slow
def test_a_gate_that_is_not_finite_is_named_in_prob_l2d():
    data, _ = poisoned_data()
    data = {**separable(0, 26), "x": data["x"]}
    model = partial(prob_l2d, gating=Poisoned, experts=partial(MLP, 3, (), (2, 3)), classifier=partial(MLP, 3, (), 3))
    with pytest.raises(NonFiniteLossError) as caught:
        quiet(KEY, model, workload(exact(model, ["z"]), "z", *HALF), data, OPTIMIZER, epochs=4, batch_size=8)
    assert caught.value.epoch == 1
    assert "z" in caught.value.sites
    assert "y_ai" not in caught.value.sites
    assert_finite(caught.value.result)


def test_resuming_another_number_of_runs_is_refused():
    keys = jax.random.split(KEY, 3)
    batched = quiet(keys, TOY, nothing, TOY_DATA, OPTIMIZER, epochs=1, batch_size=12)
    with pytest.raises(ValueError, match="resume"):
        quiet(KEY, TOY, nothing, TOY_DATA, OPTIMIZER, epochs=2, batch_size=12, resume=batched)


def test_resuming_other_programs_is_refused_rather_than_ignored():
    """The model, guide and optimizer that are passed must be those of the fit: silently going on with others lies."""
    first = quiet(KEY, TOY, nothing, TOY_DATA, OPTIMIZER, epochs=1, batch_size=12)

    def other(**data):
        TOY(**data)

    with pytest.raises(ValueError, match="resume"):
        quiet(KEY, other, nothing, TOY_DATA, OPTIMIZER, epochs=2, batch_size=12, resume=first)


def test_bounds_that_changed_before_a_resume_are_used_or_refused(half):
    guide = workload(GUIDE, "z", [0, 0, 0.1], [1, 1, 0.2])
    try:
        result = fit_l2d(guide=guide, epochs=31, resume=half)
    except ValueError as error:
        assert "resume" in str(error)  # noqa: PT017
    else:
        assert result.history["z_mean"][-1, 2] <= 0.2 + 1e-4
