"""Whether mean field has a closed form for the Dirichlet sites of a program, decided by the program itself.

A Dirichlet site u enters mean field as exp(E[ln u]). This is exact where log-probabilities are linear in ln u, as of
z ~ Categorical(u); and where they are the logarithm of a sum of terms u_k w_k, it is the bound in which the choice of
the term is a latent site with its best distribution. Everywhere else it would be wrong. The operations between u and
the log-probabilities show which it is.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from pl2d_ppl.engine.factors import Factor

__all__ = ["check_conjugate"]

# What a value is, as a function of m = E[ln u], elementwise.
CONSTANT = 0
LINEAR = 1  # in m
BOUND = 2  # a sum of logarithms of posynomials, and of what is linear
MONOMIAL = 3  # exp of what is linear, times a constant
POSYNOMIAL = 4  # a sum of monomials
GUARDED = 5  # a posynomial, or a constant that stands where u is not used
OTHER = 6

MOVES = {
    "reshape", "broadcast_in_dim", "transpose", "squeeze", "expand_dims", "slice", "rev", "copy", "copy_p",
    "convert_element_type", "reduce_precision", "optimization_barrier", "sharding_constraint", "stop_gradient",
}  # fmt: skip
SELECTS = {"gather", "dynamic_slice"}  # the first operand, at indices
CALLS = {"jit", "pjit", "closed_call", "core_call", "checkpoint", "remat", "custom_jvp_call", "custom_vjp_call"}
COMPARISONS = {"gt", "ge", "lt", "le", "eq", "ne"}
LEAST = 1e-30  # a bound below only keeps a logarithm finite
FAR = 80.0  # so does one of a logarithm


def check_conjugate(factors_at: Callable[[Mapping[str, Array]], list[Factor]], log_means: Mapping[str, Array]) -> None:
    """Refuse a program that is not linear in E[ln u].

    Parameters
    ----------
    factors_at : callable
        Takes E[ln u] by site, returns the factors there.
    log_means : mapping of str to Array
        E[ln u] of all Dirichlet sites.

    Raises
    ------
    ValueError
        If there is a site whose log-probability is not linear in E[ln u] of another one.
    """
    names: list[str] = []

    def data(means: Mapping[str, Array]) -> list[Array]:
        factors = factors_at(means)
        names[:] = [f.name for f in factors]
        return [f.log_prob.data for f in factors]

    joint = jax.make_jaxpr(data)(dict(log_means))
    kinds = _kinds(joint.jaxpr, [LINEAR] * len(log_means), joint.consts)
    if max(kinds, default=CONSTANT) <= BOUND:
        return
    for name in log_means:  # which one it is
        own = jax.make_jaxpr(lambda m, n=name: data({**log_means, n: m}))(log_means[name])
        _check(names, _kinds(own.jaxpr, [LINEAR], own.consts), name)
    _check(names, kinds, " and ".join(log_means))


def _check(sites: Sequence[str], kinds: Sequence[int], name: str) -> None:
    wrong = [site for site, kind in zip(sites, kinds, strict=True) if kind > BOUND]
    if wrong:
        raise ValueError(
            f"Expected site {wrong[0]!r} to depend on Dirichlet site {name!r} as Categorical(probs={name}) does, "
            f"linearly in ln {name}, found another use, for which mean field has no closed form. Let a guide of "
            f"continuous sites draw {name!r}, continuous=normal(block(model, hide=[...])) with the discrete sites "
            "hidden; or write the use as an enumerated site ~ Categorical(probs=...)."
        )


def _kinds(jaxpr: Jaxpr, inputs: Sequence[int], consts: Sequence[Any]) -> list[int]:
    """Return the kinds of the outputs, given those of the inputs."""
    kind: dict[Any, int] = dict(zip(jaxpr.invars, inputs, strict=True)) | dict.fromkeys(jaxpr.constvars, CONSTANT)
    value: dict[Any, Any] = dict(zip(jaxpr.constvars, consts, strict=True))

    def of(atom: Any) -> int:
        return CONSTANT if isinstance(atom, Literal) else kind[atom]

    def known(atom: Any) -> Any:
        return atom.val if isinstance(atom, Literal) else value.get(atom)

    for eqn in jaxpr.eqns:
        kinds = [of(a) for a in eqn.invars]
        inner = _inner(eqn) if eqn.primitive.name in CALLS else None
        is_nan = eqn.primitive.name in ("ne", "eq") and eqn.invars[0] is eqn.invars[1]
        if is_nan or not any(kinds):
            found = [CONSTANT] * len(eqn.outvars)
        elif inner is not None:
            found = _kinds(inner.jaxpr, kinds[len(kinds) - len(inner.jaxpr.invars) :], inner.consts)
        else:
            found = [_kind(eqn.primitive.name, kinds, [known(a) for a in eqn.invars])] * len(eqn.outvars)
        kind |= zip(eqn.outvars, found, strict=True)
        if eqn.primitive.name in MOVES and known(eqn.invars[0]) is not None and np.size(known(eqn.invars[0])) == 1:
            value[eqn.outvars[0]] = known(eqn.invars[0])
    return [of(a) for a in jaxpr.outvars]


def _inner(eqn: Any) -> ClosedJaxpr | None:
    """Return the program of a call, such as of a jitted function."""
    for name in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        inner = eqn.params.get(name)
        if isinstance(inner, ClosedJaxpr):
            return inner
        if isinstance(inner, Jaxpr):
            return ClosedJaxpr(inner, ())
    return None


def _kind(operation: str, kinds: list[int], values: list[Any]) -> int:
    """Kind of the result of one operation of which some operand depends on E[ln u]."""
    most, least = max(kinds), min(kinds)
    if most == OTHER:
        return OTHER
    if operation in MOVES:
        return most
    if operation in SELECTS:
        return most if not any(kinds[1:]) else OTHER
    if operation in _RULES:
        return _RULES[operation](kinds, most, least)
    if operation in COMPARISONS:  # a guard of a logarithm: what is positive is never 0
        positive = kinds[0] in (MONOMIAL, POSYNOMIAL) and kinds[1] == CONSTANT and np.all(values[1] == 0)
        return CONSTANT if positive and values[1] is not None else OTHER
    if operation in ("max", "min", "clamp"):
        return most if _only_guards(kinds, values) else OTHER
    return OTHER


def _sum(kinds: list[int], most: int, least: int) -> int:
    if most <= BOUND:
        return most
    return POSYNOMIAL if least in (MONOMIAL, POSYNOMIAL) and most < GUARDED else OTHER


def _difference(kinds: list[int], most: int, least: int) -> int:
    return most if most <= BOUND and kinds[1] <= LINEAR else OTHER


def _product(kinds: list[int], most: int, least: int) -> int:
    if least == CONSTANT:
        return most
    return most if least in (MONOMIAL, POSYNOMIAL) and most < GUARDED else OTHER


def _contraction(kinds: list[int], most: int, least: int) -> int:
    return _sum([], _product(kinds, most, least), _product(kinds, most, least))


def _logarithm(kinds: list[int], most: int, least: int) -> int:
    return {MONOMIAL: LINEAR, POSYNOMIAL: BOUND, GUARDED: BOUND}.get(most, OTHER)


def _exponential(kinds: list[int], most: int, least: int) -> int:
    return {LINEAR: MONOMIAL, BOUND: POSYNOMIAL}.get(most, OTHER)


def _choice(kinds: list[int], most: int, least: int) -> int:
    """Kind of a choice by a constant; where u is not chosen, a constant may stand in."""
    options = set(kinds[1:])
    if kinds[0] != CONSTANT:
        return OTHER
    if max(options) <= BOUND or options <= {MONOMIAL, POSYNOMIAL}:
        return max(options)
    return GUARDED if options <= {CONSTANT, MONOMIAL, POSYNOMIAL, GUARDED} else OTHER


_RULES: dict[str, Callable[[list[int], int, int], int]] = {
    "add": _sum,
    "add_any": _sum,
    "reduce_sum": _sum,
    "cumsum": _sum,
    "sub": _difference,
    "neg": lambda kinds, most, least: LINEAR if most == LINEAR else OTHER,
    "mul": _product,
    "div": lambda kinds, most, least: most if kinds[1] == CONSTANT else OTHER,
    "dot_general": _contraction,
    "log": _logarithm,
    "exp": _exponential,
    "select_n": _choice,
    "concatenate": lambda kinds, most, least: most if most <= BOUND or least >= MONOMIAL else OTHER,
}


def _only_guards(kinds: list[int], values: list[Any]) -> bool:
    """Whether a bound is far from every value: it only keeps a logarithm finite."""
    bounds = [v for k, v in zip(kinds, values, strict=True) if k == CONSTANT]
    if len(bounds) < len(kinds) - 1 or any(b is None for b in bounds):
        return False
    if max(kinds) <= BOUND:
        return all(np.min(np.abs(b)) >= FAR for b in bounds)
    return all(np.max(np.abs(b)) <= LEAST or np.min(b) >= 1.0 for b in bounds)
