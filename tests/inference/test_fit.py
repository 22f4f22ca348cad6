"""Training: against a loop of NumPyro's SVI, and single against batched runs."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases.compilations import programs
from cases.fits import (
    DATA,
    GUIDE,
    HALF,
    KEY,
    MODEL,
    OPTIMIZER,
    TOY,
    TOY_DATA,
    annotated_toy,
    assert_same,
    fit_l2d,
    linear,
    nothing,
    quiet,
    raw,
    separable,
    toy,
    toy_data,
)
from flax import nnx
from numpyro.infer import SVI, TraceEnum_ELBO
from oracles.prob_l2d import prob_l2d_closed_form
from scipy.special import log_softmax, softmax

from pl2d_ppl import MLP, ConvNet, EnumELBO, PerRun, workload
from pl2d_ppl.guides.exact import exact

FREE = np.zeros(3), np.ones(3)


def test_loss_falls_and_the_ai_becomes_right(half):
    loss = half.history["loss"]
    assert loss.shape == (30,)
    assert loss[-1] < 0.6 * loss[0]
    np.testing.assert_array_equal(half.predict(DATA["x"]).ai.argmax(-1), DATA["y"])
    assert (half.status, half.epoch) == ("completed", 30)


def test_history_has_the_workload_of_every_epoch(half):
    assert half.history["z_mean"].shape == half.history["z_multipliers"].shape == (30, 3)
    np.testing.assert_allclose(half.history["z_mean"][:, 2], 0.5, atol=1e-4)
    assert half.history["z_violation"].max() < 1e-4


def test_without_validation_the_best_state_is_the_last(half):
    jax.tree.map(np.testing.assert_array_equal, raw(half.state), raw(half.best_state))


def test_other_bounds_and_other_data_of_the_same_form_compile_nothing(half, compiled):
    data = {**DATA, "y": np.where(np.arange(36) % 3 == 0, -1, DATA["y"])}
    other = quiet(
        jax.random.key(1),
        MODEL,
        workload(GUIDE, "z", [0.1, 0, 0], [1, 0.3, 1]),
        data,
        OPTIMIZER,
        epochs=30,
        batch_size=12,
    )
    assert other.compiled is half.compiled
    assert other.compiled.epoch._cache_size() == other.compiled.init._cache_size() == 1
    assert programs(compiled) == []
    assert np.all(other.history["z_mean"][:, 0] > 0.1 - 1e-4)
    # A third of the truth was missing; what is left still tells.
    np.testing.assert_array_equal(other.predict(DATA["x"]).ai.argmax(-1), DATA["y"])


def test_the_same_key_gives_the_same_fit_and_another_gives_another(half):
    again = fit_l2d(guide=workload(GUIDE, "z", *HALF), epochs=30)
    assert_same(again, half)
    other = quiet(jax.random.key(5), MODEL, workload(GUIDE, "z", *HALF), DATA, OPTIMIZER, epochs=1, batch_size=12)
    assert other.history["loss"][0] != half.history["loss"][0]


def closed_form_loss(params, data):
    """Negative log evidence an item, by the oracle."""
    gate, ai = (softmax(linear(params, n, data["x"]), -1) for n in ("gating", "classifier"))
    experts = softmax(linear(params, "experts", data["x"]).reshape(-1, 2, 3), -1)
    beliefs = np.concatenate([experts, ai[:, None]], 1)
    said = np.pad(data["annotations"], ((0, 0), (0, 1)), constant_values=-1)
    items = zip(gate, beliefs, said, data["y"], ai, strict=True)
    return -np.mean([prob_l2d_closed_form(g, b, a, y, 1e-3, p)["log_evidence"] for g, b, a, y, p in items])


@pytest.mark.slow
def test_validation_loss_of_the_exact_guide_is_the_log_evidence_an_item():
    validation = separable(1, 12)
    validation["y"][::4] = -1
    result = fit_l2d(guide=workload(GUIDE, "z", *FREE), epochs=2, validation=validation)
    assert result.history["validation_loss"].shape == (2,)
    now = result.compiled.params(result.state)
    np.testing.assert_allclose(result.history["validation_loss"][-1], closed_form_loss(now, validation), rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("elbo", "num_items"),
    [
        (TraceEnum_ELBO(max_plate_nesting=2), None),
        pytest.param(EnumELBO(), None, marks=pytest.mark.slow),
        pytest.param(EnumELBO(), 36, marks=pytest.mark.slow),
    ],
)
def test_three_steps_equal_a_loop_of_svi(elbo, num_items):
    """The same key, batches and optimizer; our loss is an item's, that of SVI is the data's."""
    model = MODEL if num_items is None else partial(MODEL, num_items=num_items)
    guide = workload(GUIDE if num_items is None else exact(model, ["z"]), "z", *HALF)
    ours = quiet(KEY, model, guide, DATA, OPTIMIZER, epochs=1, batch_size=12)

    size = num_items or 12
    svi = SVI(model, guide, optax.chain(optax.scale(1 / size), OPTIMIZER), elbo)
    batch = {n: jnp.asarray(a[:12]) for n, a in DATA.items()}
    state = jax.jit(lambda key: svi.init(key, **batch))(KEY)
    update = jax.jit(lambda state, batch: svi.update(state, **batch))
    losses = []
    for rows in jax.random.permutation(jax.random.fold_in(KEY, 0), 36).reshape(3, 12):
        state, loss = update(state, {n: jnp.asarray(a)[rows] for n, a in DATA.items()})
        losses.append(loss / size)
    np.testing.assert_allclose(ours.history["loss"], [np.mean(losses)], rtol=1e-5)
    expected = svi.get_params(state)
    for (path, a), b in zip(jax.tree.leaves_with_path(ours.params), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6, err_msg=jax.tree_util.keystr(path))


@pytest.mark.parametrize(
    "optimizer",
    [
        pytest.param(optax.adam(0.05), marks=pytest.mark.slow),
        pytest.param(optax.sgd(0.05, momentum=0.9), marks=pytest.mark.slow),
        pytest.param(optax.adam(optax.cosine_decay_schedule(0.05, 10)), marks=pytest.mark.slow),
        optax.chain(optax.clip_by_global_norm(1.0), optax.add_decayed_weights(1e-2), optax.sgd(0.1)),
        optax.adamw(optax.warmup_cosine_decay_schedule(0.0, 0.1, 3, 30), weight_decay=0.1),
    ],
    ids=["adam", "momentum", "schedule", "clip and decay", "adamw"],
)
def test_any_chain_of_optax_trains(optimizer):
    result = quiet(KEY, TOY, nothing, TOY_DATA, optimizer, epochs=10, batch_size=12)
    assert np.isfinite(result.history["loss"]).all()
    assert result.history["loss"][-1] < result.history["loss"][0]


def test_a_schedule_counts_steps():
    """A rate that is zero from the fourth step on: with three steps an epoch, the second epoch changes nothing."""
    optimizer = optax.sgd(optax.piecewise_constant_schedule(0.1, {3: 0.0}))
    one, two = (quiet(KEY, TOY, nothing, TOY_DATA, optimizer, epochs=e, batch_size=12) for e in (1, 2))
    jax.tree.map(np.testing.assert_array_equal, raw(one.params), raw(two.params))
    assert np.abs(raw(one.params)["classifier$params"]["readout"]["bias"]).max() > 0


def test_every_epoch_shuffles_and_drops_what_does_not_fill_a_batch():
    """Loss of one step an epoch at a learning rate of zero: that of the items drawn by the key of the epoch."""
    data = toy_data(0, 20)
    result = quiet(KEY, TOY, nothing, data, optax.sgd(0.0), epochs=3, batch_size=13)
    params = result.params
    logits = (log_softmax(linear(params, n, data["x"]), -1) for n in ("classifier", "gating"))
    loss = -sum(np.take_along_axis(p, data[k][:, None], 1)[:, 0] for p, k in zip(logits, ("y", "who"), strict=True))
    rows = [np.asarray(jax.random.permutation(jax.random.fold_in(KEY, e), 20)[:13]) for e in range(3)]
    np.testing.assert_allclose(result.history["loss"], [loss[r].mean() for r in rows], rtol=1e-5)


@pytest.mark.slow
def test_batched_runs_equal_single_runs(half):
    keys = jax.random.split(jax.random.key(7), 2)
    lower, upper = np.array([HALF[0], [0.2, 0, 0]]), np.array([HALF[1], [1, 0.1, 1]])
    both = quiet(
        keys, MODEL, workload(GUIDE, "z", PerRun(lower), PerRun(upper)), DATA, OPTIMIZER, epochs=4, batch_size=12
    )
    assert both.history["loss"].shape == (4, 2)
    assert both.history["z_mean"].shape == (4, 2, 3)
    for r in range(2):
        guide = workload(GUIDE, "z", lower[r], upper[r])
        single = quiet(keys[r], MODEL, guide, DATA, OPTIMIZER, epochs=4, batch_size=12)
        assert single.compiled is half.compiled
        taken = both.run(r)
        for name, value in single.history.items():
            np.testing.assert_allclose(taken.history[name], value, rtol=1e-4, atol=2e-5, err_msg=name)
        for a, b in zip(jax.tree.leaves(taken.params), jax.tree.leaves(single.params), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_batched_early_stopping_keeps_the_best_epoch_of_every_run():
    keys = jax.random.split(KEY, 3)
    validation = {**toy_data(1, 9), "y": (toy_data(1, 9)["y"] + 1) % 3}  # contradicts what is learned
    options = {"epochs": 6, "batch_size": 12, "validation": validation}
    both = quiet(keys, TOY, nothing, TOY_DATA, OPTIMIZER, **options)
    losses = both.history["validation_loss"]
    np.testing.assert_array_equal(both.best_loss, losses.min(0))
    np.testing.assert_array_equal(both.stale, 5 - losses.argmin(0))
    for r in range(3):
        single = quiet(
            keys[r], TOY, nothing, TOY_DATA, OPTIMIZER, **{**options, "epochs": int(losses[:, r].argmin()) + 1}
        )
        for a, b in zip(jax.tree.leaves(both.run(r).params), jax.tree.leaves(single.params), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_validation_uses_running_statistics():
    rng = np.random.default_rng(0)
    images = lambda n: (2 + rng.standard_normal((n, 4, 4, 1))).astype(np.float32)  # noqa: E731
    train, validation = ({**toy_data(s, n), "x": images(n)} for s, n in ((0, 24), (1, 9)))
    network = partial(ConvNet, 1, (4,), 3)
    model = partial(toy, gating=partial(MLP, 16, (), 3), classifier=network)
    result = quiet(KEY, model, nothing, train, optax.sgd(0.1), epochs=2, batch_size=12, validation=validation)
    params = result.compiled.params(result.state)
    nets = {"gating": MLP(16, (), 3, rngs=nnx.Rngs(0)), "classifier": network(rngs=nnx.Rngs(0))}
    for name, net in nets.items():
        nnx.update(net, params[f"{name}$params"])
        if f"{name}$state" in params:
            nnx.update(net, params[f"{name}$state"]["state"])
        net.eval()
    statistics = nets["classifier"].norms[0]
    assert np.abs(np.asarray(statistics.mean[...])).max() > 0  # they have moved
    x = jnp.asarray(validation["x"])
    loss = {}
    for mode in ("eval", "train"):
        getattr(nets["classifier"], mode)()
        ai, gate = nets["classifier"](x), nets["gating"](x)
        loss[mode] = -sum(
            np.take_along_axis(log_softmax(np.asarray(o), -1), validation[k][:, None], 1).mean()
            for o, k in ((ai, "y"), (gate, "who"))
        )
    np.testing.assert_allclose(result.history["validation_loss"][-1], loss["eval"], rtol=1e-5)
    assert abs(loss["eval"] - loss["train"]) > 1e-2


def test_an_expert_without_annotations_is_warned_of_and_can_be_fitted(half):
    silent = DATA["annotations"] * [1, 0] + [0, -1]
    with pytest.warns(UserWarning, match="found none by q"):
        data = annotated_toy({**DATA, "annotations": silent})
    result = quiet(KEY, MODEL, workload(GUIDE, "z", *HALF), data.batch(), OPTIMIZER, epochs=2, batch_size=12)
    assert result.compiled is half.compiled
    assert np.isfinite(result.history["loss"]).all()
