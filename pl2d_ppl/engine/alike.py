"""Whether a program treats the values of a discrete site alike, whatever dimensions they have.

Enumerated values have dimensions further left. A program that broadcasts them is right; one that takes ``z[0]``,
``z.sum()`` or ``z.reshape(-1)`` of them means another number than it would of one value for each element. No shape
tells: so the program is also run as NumPyro runs it, at some values of all its latent sites, and the log-probability of
every site there is compared with the entry of its table.
"""

import traceback
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from jax import Array
from jax.interpreters.partial_eval import dce_jaxpr
from numpyro.handlers import block, seed, substitute
from numpyro.handlers import trace as plain_trace
from numpyro.primitives import Messenger

from pl2d_ppl.engine.enumeration import Dimensions, Enumerate, is_latent, support_of, values_at
from pl2d_ppl.engine.factors import Factor, site_factor
from pl2d_ppl.engine.items import items, items_here
from pl2d_ppl.engine.named import Named, aligned
from pl2d_ppl.engine.program import Program, read_program
from pl2d_ppl.engine.program_key import ProgramKey
from pl2d_ppl.networks.mode import evaluation, is_evaluation

__all__ = ["check_alike"]

DRAWS = 6  # assignments that are compared: two of equal elements, since most others are alike in "any" and "all"
TOLERANCE = 1e-3  # relative to 1 + the size; a float32 is far better, and errors of meaning are far worse
DEEPEST = 40  # plates of a program without enumerated sites
MOST = 256  # programs that are remembered
SEED = 0
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}  # for a single evaluation
_SEEN: dict[Any, "_Seen"] = {}


def check_alike(program: Callable, args: tuple, kwargs: dict, params: Mapping[str, Any] | None = None) -> None:
    """Refuse a program that does not treat the values of discrete sites alike, whatever dimensions they have.

    It is asked once for a program and shapes of arguments. Network outputs that are declared, by ``deterministic``
    before the first latent site, are replaced by random numbers, so that no network is evaluated; parameters are
    varied, for they may be equal where they start; arguments that JAX traces are replaced by random numbers too.

    Parameters
    ----------
    program : callable
        A model, or a guide.
    args, kwargs : tuple, dict
        Its arguments.
    params : mapping, optional
        Values of parameters, mutable state, and latent sites.

    Raises
    ------
    ValueError
        If a site has another log-probability under enumeration than at a single value for each element.
    """
    params = dict(params or {})
    key = ProgramKey(program), *_shapes((args, kwargs))
    seen = _SEEN.get(key)
    if seen is not None and seen.latents & set(params) in seen.conditions:
        return
    users: dict[str, tuple[str, ...]] = {}
    latents: set[str] = set()
    which, mode = items_here(), evaluation() if is_evaluation() else nullcontext()

    def far(draw: Array) -> dict[str, Array]:
        with block(), items(which=which), mode:
            found = _far(program, args, kwargs, params, draw)
        users.update(found.users)
        latents.update(found.latents)
        return found.flags

    flags, lasting = _evaluated(far, jax.tree.leaves((args, kwargs, params)))
    wrong = [name for name, flag in flags.items() if flag]
    if wrong:
        sites = " and ".join(map(repr, users[wrong[0]])) or "itself"
        raise ValueError(
            f"Expected site {wrong[0]!r} to use values of {sites} in one way, whatever dimensions they have, found "
            "another log-probability under enumeration, where values have dimensions further left, than at one value "
            "for each element. Use them by broadcasting and as indices, table[z]; index them from the right, "
            "z[..., i], and sum, sort, join or reshape none of their dimensions."
        )
    if lasting:
        _SEEN.setdefault(key, _Seen(frozenset(latents), set())).conditions.add(frozenset(latents & set(params)))
        while len(_SEEN) > MOST:
            _SEEN.pop(next(iter(_SEEN)))


class _Seen(NamedTuple):
    """Latent sites of a program that is right, and which of them were given values."""

    latents: frozenset[str]
    conditions: set[frozenset[str]]


class _Found(NamedTuple):
    """By site, whether log-probabilities differ, and the discrete sites that it uses; the latent sites."""

    flags: dict[str, Array]
    users: dict[str, tuple[str, ...]]
    latents: set[str]


def _shapes(tree: Any) -> tuple:
    """Structure of a tree, types and shapes of its arrays, and what else there is."""
    leaves, structure = jax.tree.flatten(tree)
    return structure, *((a.dtype, *a.shape) if hasattr(a, "dtype") else ProgramKey(a) for a in leaves)


def _evaluated(far: Callable, arguments: list) -> tuple[Mapping[str, np.ndarray], bool]:
    """Evaluate a function of draws, in which arrays may be traced; whether it would be the same another time."""
    names: list[str] = []

    def ever() -> list[Array]:
        found = jax.vmap(far)(jnp.arange(DRAWS))
        names[:] = list(found)
        return [flag.any() for flag in found.values()]

    with jax.default_matmul_precision("highest"):
        try:
            jaxpr = jax.make_jaxpr(ever)()
        except jax.errors.ConcretizationTypeError:  # the program looks at its numbers: it cannot be traced
            return {}, False
        if not names:
            return {}, True
        traced = [c for c in jaxpr.consts if isinstance(c, jax.core.Tracer)]
        # Without networks whose outputs are replaced, and their initial weights: these take most of the time.
        needed, _ = dce_jaxpr(jaxpr.jaxpr, [True] * len(names), instantiate=True)
        consts = [jax.ShapeDtypeStruct(c.shape, c.dtype) for c in jaxpr.consts]
        compiled = jax.jit(partial(jax.core.eval_jaxpr, needed)).lower(consts).compile(QUICK)
        with jax.ensure_compile_time_eval():
            flags = compiled([_stand_in(c, number) for number, c in enumerate(jaxpr.consts)])
    return dict(zip(names, map(np.asarray, flags), strict=True)), all(any(c is a for a in arguments) for c in traced)


def _stand_in(array: Any, number: int) -> Any:
    """Replace an array that is traced."""
    return _random(np.random.default_rng(number), array) if isinstance(array, jax.core.Tracer) else array


def _random(rng: np.random.Generator, like: Any) -> Any:
    """Numbers in (.1, .9), which can be probabilities, scales and logits; zeros where they are integers, as indices."""
    if jnp.issubdtype(like.dtype, jax.dtypes.prng_key):
        return jax.random.key(np.zeros(like.shape, int), impl=jax.random.key_impl(like))
    if like.dtype == bool:
        return jnp.asarray(rng.random(like.shape) < 0.7)
    if not jnp.issubdtype(like.dtype, jnp.floating):
        return jnp.zeros(like.shape, like.dtype)
    return jnp.asarray(rng.uniform(0.1, 0.9, like.shape), like.dtype)


def _far(program: Callable, args: tuple, kwargs: dict, params: dict, draw: Array) -> _Found:
    """Compare the log-probabilities of all sites at one draw of the latent ones."""

    def varied() -> Callable:
        values = jax.tree.map(lambda a: a, params)  # mutable state is changed in place
        return _Varied(substitute(program, data=values))

    # Both runs ask their seed for the same keys in the same order: networks that come after a latent site are equal.
    drawn = _Draw(seed(varied(), SEED), draw)
    alone = _alone(drawn, args, kwargs)
    if not drawn.positions:
        return _Found({}, {}, drawn.latents)
    try:
        enumerated = read_program(seed(varied(), SEED), args, kwargs, drawn.continuous, detach=False)
    except Exception as error:
        if _is_ours(error):
            raise
        sites = " and ".join(map(repr, drawn.positions))
        raise ValueError(
            f"Expected a program that takes enumerated values of {sites}, which have dimensions further left, as it "
            f"takes one value for each element, found an error there: {error} Use values by broadcasting and as "
            "indices, table[z], and index them from the right, z[..., i]."
        ) from error
    return _Found(
        {f.name: _differs(f, alone[f.name], enumerated, drawn.positions) for f in enumerated.factors},
        {f.name: _others(f.name, f.variables) or _others(f.name, drawn.positions) for f in enumerated.factors},
        drawn.latents,
    )


def _others(name: str, sites: Iterable[str]) -> tuple[str, ...]:
    return tuple(site for site in sites if site != name)


def _is_ours(error: BaseException) -> bool:
    """Whether the engine has raised an error, and not the program."""
    frames = list(traceback.walk_tb(error.__traceback__))
    return frames[-1][0].f_globals["__name__"].startswith(__package__)


def _alone(program: Callable, args: tuple, kwargs: dict) -> dict[str, Factor]:
    """Factors of a program all of whose latent sites have values."""
    dimensions = Dimensions(DEEPEST)
    with plain_trace() as tr, numpyro.validation_enabled(False):
        Enumerate(items(program, items_here()), dimensions)(*args, **kwargs)
        return {name: site_factor(site, dimensions) for name, site in tr.items() if site["type"] == "sample"}


def _differs(factor: Factor, alone: Factor, program: Program, positions: Mapping[str, Array]) -> Array:
    """Whether the log-probability of a site differs from that of the program at single values."""
    where = {name: _by_plates(program, name, positions[name]) for name in factor.variables}
    dims = (*dict.fromkeys([*factor.plates, *alone.plates, *(p for named in where.values() for p in named.dims)]),)
    single, looked_up = aligned(alone.log_prob, dims), _at(factor.log_prob, where, dims)
    if factor.mask is not None:
        looked_up = jnp.where(_at(factor.mask, where, dims), looked_up, 0.0)
    near = (looked_up == single) | (jnp.abs(looked_up - single) <= TOLERANCE * (1 + jnp.abs(single)))
    return jnp.any(~near & ~jnp.isnan(single) & ~jnp.isnan(looked_up))


def _by_plates(program: Program, name: str, positions: Array) -> Named:
    """Name the axes of the values of a site."""
    site = program.latents[name]
    return Named(tuple(site.plates), jnp.broadcast_to(positions, site.shape).reshape([*site.plates.values()]))


def _at(named: Named, where: Mapping[str, Named], dims: Sequence[str]) -> Array:
    """Look up a table at values of sites, elementwise over plates."""

    def index(dim: str, size: int) -> Array:
        return aligned(where[dim] if dim in where else Named((dim,), jnp.arange(size)), dims)

    data, flat = jnp.asarray(named.data), jnp.zeros((1,) * len(dims), int)
    for dim, size in named.sizes.items():
        flat = flat * size + index(dim, size)
    return data.reshape(-1).at[flat].get(mode="promise_in_bounds", wrap_negative_indices=False)


class _Draw(Messenger):
    """Draw latent sites: discrete ones uniformly from their supports, the others from their priors."""

    def __init__(self, fn: Callable, draw: Array):
        self.draw = draw
        self.latents: set[str] = set()
        self.continuous: dict[str, Array] = {}
        self.positions: dict[str, Array] = {}
        super().__init__(fn)

    def process_message(self, msg: dict) -> None:
        if not is_latent(msg):
            return
        name, fn = msg["name"], msg["fn"]
        self.latents.add(name)
        if msg["value"] is not None:
            return
        if not fn.has_enumerate_support:
            key = jax.random.fold_in(jax.random.key(_number(name)), self.draw)
            msg["value"] = self.continuous[name] = fn.sample(key)
            return
        support = support_of(name, fn)
        positions = np.random.default_rng(_number(name)).integers(0, len(support), (DRAWS, *fn.batch_shape))
        positions[0], positions[1] = 0, len(support) - 1
        self.positions[name] = jnp.asarray(positions)[self.draw]
        msg["value"], msg["num_values"] = values_at(support, self.positions[name]), len(support)


class _Varied(Messenger):
    """Vary parameters, and replace the network outputs that are declared before the first latent site."""

    def __init__(self, fn: Callable):
        self.latent_seen = False
        super().__init__(fn)

    def process_message(self, msg: dict) -> None:
        self.latent_seen |= is_latent(msg)
        if msg["type"] == "deterministic" and not self.latent_seen:
            rng = np.random.default_rng(_number(msg["name"]))
            msg["value"] = jax.tree.map(lambda a: _random(rng, a) if _is_floating(a) else a, msg["value"])

    def postprocess_message(self, msg: dict) -> None:
        if msg["type"] == "param":
            rng = np.random.default_rng(_number(msg["name"]))
            msg["value"] = jax.tree.map(lambda a: _moved(rng, a) if _is_floating(a) else a, msg["value"])


def _moved(rng: np.random.Generator, leaf: Any) -> Any:
    """Take the mean of numbers and random ones: probabilities and scales remain what they are."""
    return 0.5 * leaf + 0.5 * _random(rng, leaf)


def _number(name: str) -> int:
    return zlib.crc32(name.encode())


def _is_floating(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray) and jnp.issubdtype(leaf.dtype, jnp.floating)
