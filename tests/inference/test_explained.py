"""Errors of a user's program: the user's own, with a note; advice about networks only where a network is at fault."""

from functools import partial, wraps

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from flax import nnx
from numpyro.contrib.module import nnx_module
from numpyro.handlers import block, mask

from pl2d_ppl import MLP, fit
from pl2d_ppl.inference.explained import program_name
from pl2d_ppl.networks import instantiate

DATA = {"x": np.zeros((6, 2), np.float32)}


class Wrong(nnx.Module):
    """A network that calls its layer by an argument that the layer does not have."""

    def __init__(self, *, rngs):
        self.layer = nnx.Linear(2, 3, rngs=rngs)

    def __call__(self, x):
        return self.layer(x, training=True)


def program(x, *, wrong):
    with numpyro.plate("item", len(x)):
        numpyro.sample("o", dist.Normal(wrong(x), 1.0), obs=x[:, 0])


def of_network(network):
    return lambda x: nnx_module("network", instantiate(network))(x)[:, 0]


def nothing(x):
    """A guide of no sites."""


def run(wrong):
    model = partial(program, wrong=wrong)
    fit(jax.random.key(0), model, nothing, DATA, optax.sgd(0.1), epochs=1, batch_size=3, progress=False)


OWN = {
    "an argument too many": (lambda x: nothing(x, 1), TypeError, "takes 1 positional argument"),
    "a branch on a value": (lambda x: x[:, 0] if x.sum() > 0 else -x[:, 0], jax.errors.TracerBoolConversionError, None),
    "shapes outside of networks": (lambda x: jax.lax.add(x, jnp.ones((3, 3))), TypeError, "shape"),
    "a name": (lambda x: {}["weights"], KeyError, "weights"),
    "an argument within a network": (of_network(Wrong), TypeError, "training"),
}


@pytest.mark.parametrize("case", OWN)
def test_an_error_of_the_program_stays_what_it_is(case):
    wrong, kind, message = OWN[case]
    with pytest.raises(kind, match=message) as error:
        run(wrong)
    assert type(error.value) is kind
    assert "Build the networks" not in str(error.value)
    [note] = [note for note in error.value.__notes__ if "program" in note]
    assert note == "This happened in program 'program', on a mini-batch of shapes {'x': (3, 2)}."


@pytest.mark.parametrize("network", [partial(MLP, 5, (), 1), partial(nnx.Linear, 5, 1)])
def test_a_network_of_another_shape_is_to_be_built_anew(network):
    with pytest.raises(ValueError, match=r"take, found a mini-batch of shapes \{'x': \(3, 2\)\}.*Build the networks"):
        run(of_network(network))


def test_a_name_that_the_program_does_not_take_is_refused():
    options = {"epochs": 1, "batch_size": 3, "progress": False}
    model = partial(program, wrong=lambda x: x[:, 0])
    with pytest.raises(ValueError, match=r"that program 'program' gives them, found \['wrnog', 'x'\]: .*'wrnog'"):
        fit(jax.random.key(0), model, nothing, DATA, optax.sgd(0.1), arguments={"wrnog": [1.0]}, **options)

    @wraps(program)
    def shifted(x, shift):  # it takes other arguments than what it wraps
        program(x, wrong=lambda x: x[:, 0] + shift)

    def guide(x, shift):
        """A guide of no sites."""

    fit(jax.random.key(0), shifted, guide, DATA, optax.sgd(0.1), arguments={"shift": 1.0}, **options)


@pytest.mark.parametrize("wrap", [lambda f: f, partial, block, lambda f: mask(partial(f), mask=True)])
def test_a_program_is_called_by_its_function(wrap):
    assert program_name(wrap(program)) == "program"
