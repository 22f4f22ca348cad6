"""Which results depend on an argument: on functions where it is plain to see."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pl2d_ppl.inference.dependence import depending

KEY = jax.random.key(0)
WEIGHTS = np.ones((3, 3), np.float32)


def mixed(key):
    drawn = jax.random.normal(key, (3,))
    return {"drawn": drawn @ WEIGHTS, "fixed": jnp.tanh(WEIGHTS), "constant": 1.0, "both": (drawn, jnp.ones(2))}


MIXED = {"drawn": True, "fixed": False, "constant": False, "both": (True, False)}


def through_a_call(key):
    """A call that takes both, of which one result depends on the argument and the other does not."""
    return jax.jit(lambda a, b: (a + 1, b + 1))(jax.random.normal(key), jnp.ones(()))


def through_a_loop(key):
    return jax.lax.scan(lambda carry, _: (carry + 1, carry), jax.random.normal(key), length=3)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda key: key, True),
        (lambda key: jnp.ones(2), False),
        (mixed, MIXED),
        (through_a_call, (True, False)),
        (through_a_loop, (True, True)),
        (jax.vmap(mixed, in_axes=None, axis_size=2), MIXED),
    ],
)
def test_what_depends_on_the_argument_is_found(function, expected):
    assert depending(function, KEY) == expected
