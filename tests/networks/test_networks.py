"""Networks: how programs get them, their mode, and the shapes of those that come with the library."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from numpyro.contrib.module import nnx_module
from numpyro.handlers import seed, substitute, trace

from pl2d_ppl import MLP, ConvNet, Ensemble
from pl2d_ppl.networks import evaluation, instantiate
from pl2d_ppl.primitives import network as apply_network

X = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)
IMAGES = np.random.default_rng(1).standard_normal((6, 8, 8, 2)).astype(np.float32)


def leaves(network):
    return [np.asarray(a) for a in jax.tree.leaves(nnx.state(network, nnx.Param))]


def test_a_module_is_given_as_it_is():
    network = MLP(4, (), 3, rngs=nnx.Rngs(0))
    assert instantiate(network) is network


def test_a_factory_draws_from_the_key_of_the_program():
    factory = partial(MLP, 4, (5,), 3)
    build = lambda key: seed(instantiate, key)(factory)  # noqa: E731
    one, same, other = (leaves(build(jax.random.key(k))) for k in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, one, same)
    assert not np.array_equal(one[1], other[1])


def test_two_factories_of_a_program_draw_differently():
    program = lambda: (instantiate(partial(MLP, 4, (), 3)), instantiate(partial(MLP, 4, (), 3)))  # noqa: E731
    one, two = map(leaves, seed(program, 0)())
    assert not np.array_equal(one[1], two[1])


class Regularised(nnx.Module):
    def __init__(self, *, rngs):
        self.norm, self.dropout = nnx.BatchNorm(4, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return self.dropout(self.norm(x))


class Raw(nnx.Module):
    """It computes with its weight directly."""

    def __init__(self, *, rngs):
        self.weight = nnx.Param(rngs.normal((4, 3)))

    def __call__(self, x):
        return x @ self.weight


UNSEEDED = {
    "dense": (partial(MLP, 4, (5,), 3), X),
    "ensemble": (partial(Ensemble, partial(MLP, 4, (), 3), 2), X),
    "convolutional": (partial(ConvNet, 2, (4,), 3), IMAGES),
    "regularised": (Regularised, X),
    "raw": (Raw, X),
}


@pytest.mark.parametrize("case", UNSEEDED)
@pytest.mark.parametrize("by_name", [True, False])
def test_without_a_seed_a_program_needs_all_that_its_network_would_draw(case, by_name):
    network, x = UNSEEDED[case]

    def program(x):
        return apply_network("net", network, x) if by_name else nnx_module("net", instantiate(network))(x)

    with evaluation():
        drawn = trace(seed(program, 0)).get_trace(x)
        given = {name: site["value"] for name, site in drawn.items() if site["type"] in ("param", "mutable")}
        np.testing.assert_array_equal(substitute(program, data=given)(x), seed(substitute(program, data=given), 1)(x))
        for name in given:
            less = {n: value for n, value in given.items() if n != name}
            message = f"a seed.*for '{name[:3]}'" if by_name and name == "net$params" else "seed|__jax_array__"
            with pytest.raises(ValueError, match=message):
                substitute(program, data=less)(x)


def test_evaluation_normalises_by_running_statistics_and_drops_nothing():
    network = Regularised(rngs=nnx.Rngs(0))
    network.norm.mean[...] = jnp.full(4, 3.0)
    network.norm.var[...] = jnp.full(4, 4.0)
    with evaluation():
        output = instantiate(network)(jnp.asarray(X))
    np.testing.assert_allclose(output, (X - 3) / np.sqrt(4 + 1e-5), rtol=1e-5)
    np.testing.assert_array_equal(network.norm.mean[...], 3.0)


def test_evaluation_changes_only_the_mode_inside():
    network = Regularised(rngs=nnx.Rngs(0))
    with evaluation():
        instantiate(network)(jnp.asarray(X))
    trained = instantiate(network)(jnp.asarray(X))
    assert instantiate(network) is network
    dropped = np.asarray(trained) == 0
    assert 0 < dropped.sum() < X.size
    # Batch statistics: what was not dropped is scaled by 1 / (1 - rate).
    expected = 2 * (X - X.mean(0)) / np.sqrt(X.var(0) + 1e-5)
    np.testing.assert_allclose(np.asarray(trained)[~dropped], expected[~dropped], rtol=1e-4)
    assert np.abs(np.asarray(network.norm.mean[...])).max() > 0


def test_evaluation_suits_a_network_without_modes():
    network = MLP(4, (3,), 2, rngs=nnx.Rngs(0))
    with evaluation():
        np.testing.assert_array_equal(instantiate(network)(X), network(X))


def test_evaluation_reaches_a_factory():
    with evaluation():
        network = seed(instantiate, 0)(partial(MLP, 4, (50,), 3, dropout=0.5))
        np.testing.assert_array_equal(network(X), network(X))


@pytest.mark.parametrize(("hidden", "outputs", "shape"), [((), 3, (3,)), ((8, 5), (2, 3), (2, 3)), ((8,), (4,), (4,))])
def test_mlp_has_its_shape_and_its_forward_pass(hidden, outputs, shape):
    network = MLP(4, hidden, outputs, rngs=nnx.Rngs(0))
    output = network(X)
    assert output.shape == (6, *shape)
    h = X.astype(float)
    for layer in network.hidden:
        h = np.maximum(h @ np.asarray(layer.kernel[...]) + np.asarray(layer.bias[...]), 0)
    h = h @ np.asarray(network.readout.kernel[...]) + np.asarray(network.readout.bias[...])
    np.testing.assert_allclose(output, h.reshape(6, *shape), rtol=1e-4, atol=1e-5)


def test_mlp_flattens_further_axes():
    network = MLP(128, (), 3, rngs=nnx.Rngs(0))
    np.testing.assert_array_equal(network(IMAGES), network(IMAGES.reshape(6, -1)))


def test_mlp_dropout_is_on_in_training_and_off_in_evaluation():
    network = MLP(4, (32,), 3, dropout=0.5, rngs=nnx.Rngs(0))
    assert not np.array_equal(network(X), network(X))
    network.eval()
    np.testing.assert_array_equal(network(X), network(X))


@pytest.mark.parametrize("shape", [(8, 8), (7, 9), (1, 1), (2, 3)])
def test_convolutions_are_those_of_flax(shape):
    """Of networks of one layer, on images of even and odd sides."""
    network = ConvNet(2, (5,), 3, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(1), (4, *shape, 2))
    network.norms[0].mean[...], network.norms[0].var[...] = jnp.arange(5.0), 1.0 + jnp.arange(5.0)
    network = nnx.view(network, use_running_average=True, raise_if_not_found=False)
    expected = nnx.relu(network.norms[0](network.convs[0](x))).mean((1, 2))
    np.testing.assert_allclose(network(x), network.head(expected), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_conv_net_has_its_shape():
    network = ConvNet(2, (4, 5), (2, 3), rngs=nnx.Rngs(0))
    assert network(IMAGES).shape == (6, 2, 3)
    network.eval()
    # In evaluation mode an item's output does not depend on the others.
    np.testing.assert_allclose(network(IMAGES)[:2], network(IMAGES[:2]), rtol=1e-4, atol=1e-6)


MEMBERS = {
    "mlp": (partial(MLP, 4, (8,), 3), X),
    "linear": (partial(MLP, 4, (), 3), X),
    "conv net": (partial(ConvNet, 2, (4,), 3), IMAGES),
}


def members_of(ensemble):
    graph, state = nnx.split(ensemble.members)
    return [nnx.merge(graph, jax.tree.map(lambda a, m=m: a[m], state)) for m in range(ensemble.size)]


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("name", MEMBERS)
def test_ensemble_equals_its_members_one_by_one(name, mode):
    member, x = MEMBERS[name]
    ensemble = Ensemble(member, 3, rngs=nnx.Rngs(0))
    getattr(ensemble, mode)()
    singles = members_of(ensemble)
    output = np.asarray(ensemble(jnp.asarray(x)))
    assert output.shape == (6, 3, 3)
    for m, single in enumerate(singles):
        np.testing.assert_allclose(output[:, m], single(jnp.asarray(x)), rtol=1e-4, atol=1e-5)
    if name == "conv net":  # running statistics are each member's own
        for m, single in enumerate(singles):
            ours, alone = ensemble.members.norms[0].mean[...][m], single.norms[0].mean[...]
            np.testing.assert_allclose(ours, alone, rtol=1e-4, atol=1e-6)
            assert (np.abs(np.asarray(alone)).max() > 0) == (mode == "train")


def test_members_of_an_ensemble_draw_their_own_weights():
    ensemble = Ensemble(partial(MLP, 4, (), 3), 3, rngs=nnx.Rngs(0))
    kernels = np.asarray(ensemble.members.readout.kernel[...])
    assert kernels.shape == (3, 4, 3)
    assert not np.array_equal(kernels[0], kernels[1])
    assert not np.array_equal(kernels[1], kernels[2])


@pytest.mark.slow
def test_members_of_an_ensemble_drop_out_independently():
    ensemble = Ensemble(partial(MLP, 4, (64,), 3, dropout=0.5), 2, rngs=nnx.Rngs(0))
    for array in jax.tree.leaves(nnx.state(ensemble, nnx.Param)):
        assert array.shape[0] == 2
    ensemble.members.readout.kernel[...] = jnp.broadcast_to(ensemble.members.readout.kernel[...][:1], (2, 64, 3))
    first = ensemble.members.hidden[0]
    first.kernel[...] = jnp.broadcast_to(first.kernel[...][:1], (2, 4, 64))
    one, two = (np.asarray(ensemble(jnp.asarray(X))) for _ in range(2))
    assert not np.allclose(one[:, 0], one[:, 1])  # the same weights, other units dropped
    assert not np.allclose(one, two)
    with evaluation():
        steady = np.asarray(instantiate(ensemble)(jnp.asarray(X)))
    np.testing.assert_allclose(steady[:, 0], steady[:, 1], rtol=1e-5)
