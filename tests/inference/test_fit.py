"""Training: against a loop of NumPyro's SVI, single against batched runs, stops, resumes, and what is refused."""

import logging
import signal
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from flax import nnx
from numpyro.contrib.module import nnx_module, random_nnx_module
from numpyro.handlers import block, mask
from numpyro.infer import SVI, TraceEnum_ELBO
from numpyro.infer.autoguide import AutoNormal
from oracles.prob_l2d import prob_l2d_closed_form
from oracles.projection import project_reference
from programs import ENUMERATE, mlp_model
from scipy.special import log_softmax, softmax

from pl2d_ppl import MLP, Annotated, ConvNet, EnumELBO, fit, workload
from pl2d_ppl.baselines.naive_l2d import naive_l2d
from pl2d_ppl.experiments.methods import build_method
from pl2d_ppl.guides.exact import exact
from pl2d_ppl.inference.fit import FitInterrupted, NonFiniteLossError
from pl2d_ppl.models.prob_l2d import prob_l2d
from pl2d_ppl.networks import instantiate

KEY = jax.random.key(0)
FREE = np.zeros(3), np.ones(3)
HALF = np.array([0.0, 0.0, 0.5]), np.array([1.0, 1.0, 0.5])


@pytest.fixture
def compiled():
    """Names of the functions that are compiled meanwhile."""
    names = []
    handler = logging.Handler()
    handler.emit = lambda record: names.append(record.getMessage().split(" with ")[0])
    logger = logging.getLogger("jax._src.interpreters.pxla")
    level, logger.level = logger.level, logging.DEBUG
    logger.addHandler(handler)
    yield names
    logger.removeHandler(handler)
    logger.setLevel(level)


def programs_in(names):
    """Of what was compiled, the programs: not single operations such as a slice."""
    return [n for n in names if any(f in n for f in ("_init", "_evaluate", "_outputs", "_params", "lambda", "_epoch"))]


def separable(seed=0, num_items=36):
    """Three blobs; an expert who is right half of the time, and one who is never; a third of it missing."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(num_items) % 3)
    x = 3 * np.eye(3)[y] + 0.3 * rng.standard_normal((num_items, 3))
    said = np.stack([np.where(rng.random(num_items) < 0.5, y, (y + 1) % 3), (y + 1) % 3], 1)
    said[rng.random((num_items, 2)) < 1 / 3] = -1
    return {"x": x.astype(np.float32), "annotations": said.astype(np.int32), "y": y.astype(np.int32)}


DATA = separable()
MODEL = mlp_model(3, 2, 3)
GUIDE = exact(MODEL, ["z"])
OPTIMIZER = optax.chain(optax.scale(0.5), optax.sgd(0.4))
quiet = partial(fit, progress=False)
fit_l2d = partial(quiet, KEY, MODEL, data=DATA, optimizer=OPTIMIZER, batch_size=12)


# A supervised program with no latent site: it compiles in no time, and all of the loop can be seen on it.


def toy(x, y=None, who=None, *, gating, classifier):
    gate_logits = numpyro.deterministic("gate_logits", nnx_module("gating", instantiate(gating))(x))
    ai_logits = numpyro.deterministic("ai_logits", nnx_module("classifier", instantiate(classifier))(x))
    if y is None:
        return
    with numpyro.plate("item", len(x)):
        with mask(mask=y >= 0):
            numpyro.sample("y", dist.Categorical(logits=ai_logits), obs=jnp.maximum(y, 0))
        numpyro.sample("who", dist.Categorical(logits=gate_logits), obs=who)


def nothing(*args, **kwargs):
    """A guide of no sites."""


def toy_model(num_inputs=3, classifier=None, gating=None):
    linear = partial(MLP, num_inputs, (), 3)
    return partial(toy, gating=gating or linear, classifier=classifier or linear)


def toy_data(seed=0, num_items=36):
    data = separable(seed, num_items)
    return {"x": data["x"], "y": data["y"], "who": (data["x"][:, 0] > 1).astype(np.int32)}


TOY_DATA, TOY = toy_data(), toy_model()


class Regularised(nnx.Module):
    """A perceptron with batch normalisation and dropout."""

    def __init__(self, *, rngs):
        self.first, self.last = nnx.Linear(3, 8, rngs=rngs), nnx.Linear(8, 3, rngs=rngs)
        self.norm, self.dropout = nnx.BatchNorm(8, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return self.last(self.dropout(nnx.relu(self.norm(self.first(x)))))


def raw(tree):
    """A tree whose random keys are arrays of integers."""
    is_key = lambda a: isinstance(a, jax.Array) and jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key)  # noqa: E731
    return jax.tree.map(lambda a: np.asarray(jax.random.key_data(a) if is_key(a) else a), tree)


def assert_same(one, other):
    """Assert that two fits are equal bit for bit."""
    for name in ("state", "best_state", "best_loss", "stale", "history"):
        a, b = raw(getattr(one, name)), raw(getattr(other, name))
        assert jax.tree.structure(a) == jax.tree.structure(b)
        jax.tree.map(np.testing.assert_array_equal, a, b)
    assert one.epoch == other.epoch


def linear(params, name, x):
    """Forward pass of an MLP without hidden layers."""
    weights = params[f"{name}$params"]["readout"]
    return np.asarray(x, np.float64) @ np.asarray(weights["kernel"]) + np.asarray(weights["bias"])


# --- What is learned ---


@pytest.fixture(scope="module")
def half():
    """A fit at coverage one half."""
    return fit_l2d(guide=workload(GUIDE, "z", *HALF), epochs=30)


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
    assert programs_in(compiled) == []
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


# --- Batched runs ---


@pytest.mark.slow
def test_batched_runs_equal_single_runs(half):
    keys = jax.random.split(jax.random.key(7), 2)
    lower, upper = np.array([HALF[0], [0.2, 0, 0]]), np.array([HALF[1], [1, 0.1, 1]])
    both = quiet(keys, MODEL, workload(GUIDE, "z", lower, upper), DATA, OPTIMIZER, epochs=4, batch_size=12)
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


@pytest.fixture(scope="module")
def regularised():
    """A model with BatchNorm and Dropout, and its validation data."""
    return toy_model(classifier=Regularised), toy_data(1, 10)


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


# --- Validation and stops ---


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


@pytest.fixture
def ctrl_c(monkeypatch):
    """Ctrl-C when the progress of the third epoch is shown."""
    shown = []

    def stop(self, *args, **kwargs):
        shown.append(args)
        if len(shown) == 3:
            signal.raise_signal(signal.SIGINT)

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


# --- Losses that are not finite ---


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
    with pytest.raises(NonFiniteLossError, match=f"epoch 1, step {step}, at site {site}. Lower") as caught:
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


# --- Priors on weights ---


def bayesian(x, y=None, *, num_items=36):
    """Who decides is latent: an AI with a prior on its weights, or a guess."""
    network = random_nnx_module(
        "classifier", instantiate(partial(MLP, 3, (), 3)), prior=dist.Normal(0.0, 2.0), scope_divider="."
    )
    ai_logits = numpyro.deterministic("ai_logits", network(x))
    gate_logits = numpyro.deterministic("gate_logits", jnp.zeros((len(x), 2)))
    with numpyro.plate("item", num_items if y is not None else len(x), subsample_size=len(x), dim=-2):
        z = numpyro.sample("z", dist.Categorical(logits=gate_logits[:, None]), infer=dict(ENUMERATE))
        if y is not None:
            logits = jnp.stack([jnp.zeros_like(ai_logits), ai_logits], 1)
            with numpyro.plate("decider", 2, dim=-1), mask(mask=z == jnp.arange(2)):
                numpyro.sample("y", dist.Categorical(logits=logits), obs=y[:, None])


def bayesian_guide():
    return exact(bayesian, ["z"], continuous=AutoNormal(block(bayesian, hide=["z"]), init_scale=0.1))


@pytest.mark.slow
@pytest.mark.parametrize("batched", [False, True])
def test_priors_on_weights(batched):
    key = jax.random.split(KEY, 2) if batched else KEY
    data = {n: TOY_DATA[n] for n in ("x", "y")}
    result = quiet(key, bayesian, bayesian_guide(), data, optax.adam(0.1), epochs=30, batch_size=12)
    assert np.all(result.history["loss"][-1] < result.history["loss"][0])
    runs = (2,) if batched else ()
    one = result.predict(TOY_DATA["x"], rng_key=jax.random.key(1))
    many = result.predict(TOY_DATA["x"], rng_key=jax.random.key(1), num_samples=16)
    outputs = result.outputs(TOY_DATA["x"], rng_key=jax.random.key(1), num_samples=16)["ai_logits"]
    assert one.ai.shape == many.ai.shape == (*runs, 36, 3)
    assert outputs.shape == (*runs, 16, 36, 3)
    assert outputs.std(-3).min() > 0  # draws differ
    np.testing.assert_allclose(many.ai, softmax(outputs.astype(float), -1).mean(-3), rtol=1e-5)
    assert np.mean(many.ai.argmax(-1) == TOY_DATA["y"]) > 0.9
    location = result.params["classifier.readout.kernel_auto_loc"]
    assert location.shape == (*runs, 3, 3)


@pytest.mark.slow
def test_a_guide_of_weights_serves_a_second_fit_and_predictions_in_chunks():
    data, guide = {n: TOY_DATA[n] for n in ("x", "y")}, bayesian_guide()
    first, second = (
        quiet(jax.random.key(k), bayesian, guide, data, optax.sgd(0.01), epochs=1, batch_size=12) for k in (0, 1)
    )
    for result in (first, second):
        whole, chunked = (
            result.predict(TOY_DATA["x"], rng_key=KEY, num_samples=2, batch_size=b).ai for b in (4096, 18)
        )
        np.testing.assert_allclose(chunked, whole, rtol=1e-5)


# --- A window ---


def given_posterior(x):
    """A model whose site z is uniform."""
    with numpyro.plate("item", len(x), dim=-2):
        numpyro.sample("z", dist.Categorical(logits=jnp.zeros((len(x), 1, 3))), infer=dict(ENUMERATE))
    numpyro.param("unused", jnp.zeros(()))


def given_guide(x):
    """A guide whose ln q(z) is x."""
    with numpyro.plate("item", len(x), dim=-2):
        numpyro.sample("z", dist.Categorical(logits=x[:, None]), infer=dict(ENUMERATE))


def windowed(log_q, lower, upper, window, epochs=4):
    guide = workload(given_guide, "z", lower, upper, window=window, tolerance=1e-6)
    return quiet(KEY, given_posterior, guide, {"x": log_q}, optax.sgd(0.0), epochs=epochs, batch_size=12)


@pytest.mark.slow
def test_a_window_meets_the_bounds_of_all_data_rather_than_of_every_batch():
    """A fixed posterior, so that a projection of all of it, by the oracle, is what a small batch should come near."""
    rng = np.random.default_rng(0)
    log_q = log_softmax(2 * rng.standard_normal((240, 3)) + [0.0, 0.0, 0.3], -1).astype(np.float32)
    mean = np.exp(log_q).mean(0)
    upper = np.array([1.0, 1.0, mean[2] + 0.01])  # holds for all data, yet half of the batches are beyond it
    by_batch, by_window = (windowed(log_q, np.zeros(3), upper, w) for w in (None, 240))
    reached = [r.history["z_mean"][1:].mean(0) for r in (by_batch, by_window)]
    errors = [np.abs(m - mean).max() for m in reached]
    assert errors[1] < 0.01 < errors[0]

    lower = np.array([0.5, 0.0, 0.0])
    q_tilde, _ = project_reference(np.exp(log_q.astype(float)), lower, np.ones(3))
    by_batch, by_window = (windowed(log_q, lower, np.ones(3), w) for w in (None, 240))
    expected = np.log(np.exp(log_q[0]) / q_tilde[0])
    nu = [r.history["z_multipliers"][-1] for r in (by_batch, by_window)]
    gaps = [np.abs((n - n[2]) - (expected - expected[2])).max() for n in nu]
    assert gaps[1] < 0.05
    assert gaps[1] < gaps[0]
    np.testing.assert_allclose(by_window.history["z_mean"][1:].mean(0)[0], 0.5, atol=0.01)


def test_the_window_holds_the_last_items_across_batches_and_epochs():
    log_q = log_softmax(np.random.default_rng(1).standard_normal((30, 3)), -1).astype(np.float32)
    result = windowed(log_q, np.zeros(3), np.ones(3), 30, epochs=2)
    state = result.params["z_window"]
    np.testing.assert_array_equal(state["filled"], 1.0)
    # Two epochs of two steps of twelve: the newest batch comes first.
    orders = [np.asarray(jax.random.permutation(jax.random.fold_in(KEY, e), 30))[:24].reshape(2, 12) for e in range(2)]
    rows = np.concatenate([orders[1][1], orders[1][0], orders[0][1]])[:30]
    np.testing.assert_allclose(state["log_q"], log_q[rows], atol=1e-5)


# --- What is refused ---


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
    "bounds of runs with one key": ({"guide": workload(GUIDE, "z", [HALF[0]] * 2, [HALF[1]] * 2)}, "random.split"),
    "bounds of more runs than keys": (
        {"guide": workload(GUIDE, "z", [HALF[0]] * 3, [HALF[1]] * 3), "rng_key": jax.random.split(KEY, 2)},
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
    assert programs_in(compiled) == []


@pytest.mark.parametrize(
    ("lower", "upper", "message"),
    [
        ([0.0, 0.6, 0.0], [1.0, 0.5, 1.0], "lower <= upper.*position 1"),
        ([0.5, 0.6, 0.0], [1.0, 1.0, 1.0], "at most 1, found 1.1"),
        ([0.0, 0.0, 0.0], [0.1, 0.1, 0.1], "at least 1, found 0.3"),
        ([-0.1, 0.0, 0.0], [1.0, 1.0, 1.0], "between 0 and 1"),
        ([0.0, 0.0, 0.0], [1.0, 1.0, np.nan], "between 0 and 1"),
        ([0.0, 0.0], [1.0, 1.0, 1.0], "same length"),
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
    assert programs_in(compiled) == []


def test_resuming_another_number_of_runs_is_refused():
    keys = jax.random.split(KEY, 3)
    batched = quiet(keys, TOY, nothing, TOY_DATA, OPTIMIZER, epochs=1, batch_size=12)
    with pytest.raises(ValueError, match="resume"):
        quiet(KEY, TOY, nothing, TOY_DATA, OPTIMIZER, epochs=2, batch_size=12, resume=batched)


def test_resuming_other_programs_is_refused_rather_than_ignored():
    """The model, guide and optimizer that are passed must be those of the fit: silently going on with others lies."""
    first = quiet(KEY, TOY, nothing, TOY_DATA, OPTIMIZER, epochs=1, batch_size=12)
    with pytest.raises(ValueError, match="resume"):
        quiet(KEY, toy_model(), nothing, TOY_DATA, OPTIMIZER, epochs=2, batch_size=12, resume=first)


def test_bounds_that_changed_before_a_resume_are_used_or_refused(half):
    guide = workload(GUIDE, "z", [0, 0, 0.1], [1, 1, 0.2])
    try:
        result = fit_l2d(guide=guide, epochs=31, resume=half)
    except ValueError as error:
        assert "resume" in str(error)  # noqa: PT017
    else:
        assert result.history["z_mean"][-1, 2] <= 0.2 + 1e-4


def test_an_unknown_method_is_refused():
    data = _annotated(DATA)
    with pytest.raises(ValueError, match=r"prob-l2d, naive, .*found 'other'"):
        build_method("other", data, (8,))
    with pytest.raises(ValueError, match="exact or mean-field, found 'other'"):
        build_method("prob-l2d", data, (8,), "other")
    with pytest.raises(ValueError, match="at least one expert"):
        build_method("prob-l2d", data.replace_annotations(np.empty((36, 0), int)), (8,))


def _annotated(data, **names):
    return Annotated(**data, **({"classes": tuple("abc"), "annotators": ("p", "q")} | names))


def test_an_expert_without_annotations_is_warned_of_and_can_be_fitted(half):
    silent = DATA["annotations"] * [1, 0] + [0, -1]
    with pytest.warns(UserWarning, match="found none by q"):
        data = _annotated({**DATA, "annotations": silent})
    result = quiet(KEY, MODEL, workload(GUIDE, "z", *HALF), data.batch(), OPTIMIZER, epochs=2, batch_size=12)
    assert result.compiled is half.compiled
    assert np.isfinite(result.history["loss"]).all()
