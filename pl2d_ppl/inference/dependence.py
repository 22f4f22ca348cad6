"""Which results of a function depend on its argument."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.extend.core import Literal

__all__ = ["depending"]

CALLS = ("jit", "pjit", "closed_call")  # primitives whose inputs and outputs are those of a function


def depending(function: Callable, argument: Any) -> Any:
    """Find the results of a function that depend on its argument, without running it.

    Results are read off the program that JAX traces: a dependence that always cancels counts as one.

    Parameters
    ----------
    function : callable
        A function of one argument that JAX can trace.
    argument : pytree of array
        The argument.

    Returns
    -------
    pytree of bool
        The flags have the structure of the results.
    """
    traced, shapes = jax.make_jaxpr(function, return_shape=True)(argument)
    flags = _flow(traced.jaxpr, [True] * len(traced.jaxpr.invars))
    return jax.tree.unflatten(jax.tree.structure(shapes), flags)


def _flow(jaxpr: Any, given: Sequence[bool]) -> list[bool]:
    """Follow what depends on some inputs down to the outputs."""
    reached = {variable for variable, flag in zip(jaxpr.invars, given, strict=True) if flag}

    def flags(variables: Sequence[Any]) -> list[bool]:
        return [not isinstance(v, Literal) and v in reached for v in variables]

    for step in jaxpr.eqns:
        arriving = flags(step.invars)
        if not any(arriving):
            continue
        leaving = [True] * len(step.outvars)
        if step.primitive.name in CALLS:
            leaving = _flow(step.params["jaxpr"].jaxpr, arriving)
        reached |= {variable for variable, flag in zip(step.outvars, leaving, strict=True) if flag}
    return flags(jaxpr.outvars)
