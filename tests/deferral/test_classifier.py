"""The AI that is trained first, and networks that are frozen."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from numpyro.handlers import seed
from numpyro.infer.util import log_density
from scipy.special import log_softmax

from pl2d_ppl import MLP, ConvNet, Frozen, fit, train_classifier
from pl2d_ppl.deferral.classifier import CLASSIFIER_SCHEDULE, trained_network
from pl2d_ppl.engine.guide_tools import no_guide
from pl2d_ppl.models.classification import classification

KEY = jax.random.key(0)
SLOW = pytest.mark.slow


def blobs(num_items=300):
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, num_items)
    x = rng.normal(size=(num_items, 2)) + 6 * np.array([[0, 0], [0, 1], [1, 0]])[y]
    return x.astype(np.float32), y


@SLOW
def test_a_classifier_learns_what_can_be_told_apart():
    x, y = blobs()
    half = np.where(np.arange(300) < 200, y, -1)
    schedule = CLASSIFIER_SCHEDULE.replace(steps=300, learning_rate=0.01)
    train = partial(train_classifier, x=x[:250], num_categories=3, hidden=(16,), schedule=schedule)
    first, again, other = (train(key, y=half[:250]) for key in (KEY, KEY, jax.random.key(1)))
    assert np.mean(first(jnp.asarray(x[250:])).argmax(-1) == y[250:]) > 0.95
    np.testing.assert_array_equal(first(jnp.asarray(x)), again(jnp.asarray(x)))
    assert np.abs(first(jnp.asarray(x)) - other(jnp.asarray(x))).max() > 0.1


@SLOW
def test_a_classifier_learns_images():
    """Of which one category is brighter; what it says of one does not depend on the others."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 60)
    x = (rng.normal(size=(60, 8, 8, 1)) + 2 * y[:, None, None, None]).astype(np.float32)
    frozen = train_classifier(
        KEY, x, y, 2, hidden=(4,), schedule=CLASSIFIER_SCHEDULE.replace(steps=100, batch_size=20, learning_rate=0.05)
    )
    outputs = frozen(jnp.asarray(x))
    assert np.mean(outputs.argmax(-1) == y) > 0.95
    np.testing.assert_allclose(outputs[:3], frozen(jnp.asarray(x[:3])), atol=1e-5)


@SLOW
def test_the_epoch_is_chosen_by_validation():
    """Truth that cannot be learned is learned by heart, unless other items tell when to stop."""
    x, y = blobs(90)
    y = np.random.default_rng(1).permutation(y)
    schedule = CLASSIFIER_SCHEDULE.replace(steps=120, batch_size=10, learning_rate=0.05)
    train = partial(train_classifier, KEY, x, y, 3, hidden=(32,), schedule=schedule)
    by_heart, chosen = (
        -log_softmax(np.asarray(train(validation_share=share)(jnp.asarray(x)), float), -1)[np.arange(90), y].mean()
        for share in (0.0, 1 / 3)
    )
    assert by_heart < chosen - 0.05
    assert chosen < np.log(3) + 0.2


X, Y = blobs(20)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y": Y + 1}, r"labels in -1..2, .* in data\['y'\], found 3 at item 0"),
        ({"y": Y - 2}, r"labels from -1 up, -1 where missing, in data\['y'\], found -2 at item 3"),
        ({"y": Y.astype(float)}, "integer labels"),
        ({"y": np.full(20, -1)}, "some truth"),
        ({"x": np.full_like(X, np.nan)}, "finite values"),
    ],
)
def test_bad_data(changes, message):
    with pytest.raises(ValueError, match=message):
        train_classifier(
            KEY,
            **({"x": X, "y": Y} | changes),
            num_categories=3,
            hidden=(),
            schedule=CLASSIFIER_SCHEDULE.replace(steps=2),
        )


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"y": Y[:10]}, id="fewer labels"),
        pytest.param({"y": np.append(Y, Y)}, id="more labels"),
        pytest.param({"x": X[:0], "y": Y[:0]}, id="nothing"),
        pytest.param({"validation_share": 1.0}, id="all for validation"),
        pytest.param({"validation_share": -0.5}, id="less than nothing for validation"),
    ],
)
def test_data_that_do_not_fit_together(changes):
    with pytest.raises(ValueError, match="Expected"):
        train_classifier(KEY, **({"x": X, "y": Y} | changes), num_categories=3, hidden=())


@SLOW
def test_truth_may_be_known_of_few():
    y = np.where(np.arange(20) < 3, Y, -1)
    for key in range(3):
        train_classifier(jax.random.key(key), X, y, 3, hidden=(), schedule=CLASSIFIER_SCHEDULE.replace(steps=2))


@SLOW
def test_truth_is_scored_where_it_is_known():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(6, 4)).astype(np.float32), np.array([0, 1, -1, 2, -1, 0])
    network = Frozen.of(MLP(4, (5,), 3, rngs=nnx.Rngs(0)))
    logits = log_softmax(np.asarray(network(jnp.asarray(x)), float), -1)
    known = np.flatnonzero(y >= 0)
    for num_items, weight in ((None, 1.0), (12, 2.0)):
        model = partial(classification, classifier=network, num_items=num_items)
        found = log_density(seed(model, KEY), (), {"x": jnp.asarray(x), "y": jnp.asarray(y)}, {})[0]
        np.testing.assert_allclose(found, weight * logits[known, y[known]].sum(), rtol=1e-5)
    nothing, tr = log_density(seed(model, KEY), (), {"x": jnp.asarray(x), "y": jnp.full(6, -1)}, {})
    assert nothing == 0.0
    np.testing.assert_array_equal(tr["ai_logits"]["value"], network(jnp.asarray(x)))


def test_no_gradient_reaches_a_frozen_network_and_its_module_goes_on():
    network = Frozen.of(MLP(4, (5,), 3, rngs=nnx.Rngs(0)))
    x = jnp.ones((2, 4))
    gradient = jax.grad(lambda frozen: frozen(x).sum())(network)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradient))
    of_input = jax.grad(lambda x: network(x).sum())(x)
    assert np.any(of_input)
    of_module = nnx.grad(lambda module: module(x).sum())(network.module)
    assert any(np.any(leaf) for leaf in jax.tree.leaves(of_module))


def networks(*seeds, width=5):
    return [Frozen.of(MLP(2, (width,), 3, rngs=nnx.Rngs(number))) for number in seeds]


def test_another_frozen_network_is_not_another_compilation():
    widths = []

    @jax.jit
    def apply(frozen, x):
        widths.append(frozen.graph)
        return frozen(x)

    one, two = networks(1, 2)
    [wider] = networks(1, width=6)
    for frozen, count in ((one, 1), (two, 1), (wider, 2), (one, 2)):
        np.testing.assert_allclose(apply(frozen, X), frozen(X), rtol=1e-4, atol=1e-6)
        assert len(widths) == count
    assert np.abs(one(X) - two(X)).max() > 0.1


def test_frozen_networks_are_stacked_and_vectorised():
    pair = networks(1, 2)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *pair)
    outputs = jax.vmap(lambda frozen, x: frozen(x), (0, None))(stacked, jnp.asarray(X))
    for output, frozen in zip(outputs, pair, strict=True):
        np.testing.assert_allclose(output, frozen(X), rtol=1e-4, atol=1e-6)
    leaves, structure = jax.tree.flatten(pair[0])
    assert sorted(leaf.shape for leaf in leaves) == [(2, 5), (3,), (5,), (5, 3)]
    np.testing.assert_array_equal(jax.tree.unflatten(structure, leaves)(X), pair[0](X))


class Regularised(nnx.Module):
    def __init__(self, *, rngs):
        self.norm, self.dropout = nnx.BatchNorm(2, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return self.dropout(self.norm(x))


def test_a_frozen_network_drops_nothing_out_and_keeps_its_statistics():
    network = Regularised(rngs=nnx.Rngs(0))
    network.norm.mean[...], network.norm.var[...] = jnp.array([1.0, 2.0]), jnp.array([4.0, 9.0])
    frozen = Frozen.of(network)
    for _ in range(2):
        np.testing.assert_allclose(frozen(X), (X - [1, 2]) / [2, 3], rtol=1e-4, atol=1e-5)
    assert not network.dropout.deterministic  # which was not frozen itself
    assert not network.norm.use_running_average


@pytest.mark.parametrize("of_frozen", [False, True])
def test_a_frozen_network_stays_though_its_module_is_trained_on(of_frozen):
    """As by an optimizer of flax, which changes weights where they are."""
    module = MLP(2, (), 3, rngs=nnx.Rngs(0))
    frozen = Frozen.of(module)
    before = np.asarray(frozen(X))
    module = frozen.module if of_frozen else module
    module.readout.bias[...] = module.readout.bias[...] + 1.0
    np.testing.assert_array_equal(frozen(X), before)


@SLOW
def test_the_module_of_a_frozen_network_trains_on():
    [frozen] = networks(1)
    before = np.asarray(frozen(X))
    model = partial(classification, classifier=frozen.module)
    data = {"x": X, "y": Y}
    result = fit(KEY, model, no_guide, data, optax.adam(0.05), epochs=30, batch_size=20, progress=False)
    losses = result.history["loss"]
    np.testing.assert_allclose(losses[0], -log_softmax(np.float64(before), -1)[np.arange(20), Y].mean(), rtol=1e-4)
    assert losses[-1] < 0.5 * losses[0]
    np.testing.assert_array_equal(frozen(X), before)


@SLOW
def test_statistics_of_batches_are_kept():
    """BatchNorm of a network that is taken out of a fit normalises as the fit does at prediction."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(2.0, 3.0, (24, 8, 8, 3)).astype(np.float32), rng.integers(0, 3, 24)
    network = partial(ConvNet, 3, (4,), 3)
    model = partial(classification, classifier=network)
    result = fit(KEY, model, no_guide, {"x": x, "y": y}, optax.adam(0.01), epochs=5, batch_size=12, progress=False)
    frozen = trained_network(result, "classifier", network)
    np.testing.assert_allclose(frozen(jnp.asarray(x)), result.outputs(x)["ai_logits"][0], atol=1e-5)
    fresh = Frozen.of(network(rngs=nnx.Rngs(0)))
    assert np.abs(fresh(jnp.asarray(x)) - frozen(jnp.asarray(x))).max() > 0.01


@SLOW
def test_a_network_that_was_not_trained_is_not_found():
    x, y = blobs(20)
    model = partial(classification, classifier=partial(MLP, 2, (), 3))
    result = fit(KEY, model, no_guide, {"x": x, "y": y}, optax.adam(0.01), epochs=1, batch_size=20, progress=False)
    with pytest.raises(ValueError, match=r"trained network 'gating' in the fit, found \['classifier'\]"):
        trained_network(result, "gating", partial(MLP, 2, (), 3))
    keys = jax.random.split(KEY, 2)
    runs = fit(keys, model, no_guide, {"x": x, "y": y}, optax.adam(0.01), epochs=1, batch_size=20, progress=False)
    with pytest.raises(ValueError, match=r"single run, found a batch of runs"):
        trained_network(runs, "classifier", partial(MLP, 2, (), 3))
