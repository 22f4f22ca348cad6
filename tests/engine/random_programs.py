"""Random NumPyro programs: from a description to a program and its arguments."""

import zlib
from contextlib import ExitStack
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from engine.random_specs import PLAIN_MASKS, SIMPLEX, VECTORS, first, values
from numpyro import handlers
from numpyro.infer.reparam import LocScaleReparam
from numpyro.ops.indexing import Vindex

PARAMS = {"theta": 0.3, "rate": 1.3}  # `rate` is positive
SHIFT = np.array([-0.5, 0.8], np.float32)  # between the elements of a vector that is observed
WIDTH = {"normal_vector": (2,)}
REPARAMETRISED = "c"


class TruncatedGeometric(dist.Distribution):
    """Number of trials up to the first success, given that it is one of the first three."""

    arg_constraints = {"logits": dist.constraints.real}  # noqa: RUF012 -- as NumPyro has it
    support = dist.constraints.integer_interval(1, 3)
    has_enumerate_support = True
    pytree_data_fields = ("logits",)

    def __init__(self, logits, *, validate_args=None):
        self.logits = logits
        super().__init__(jnp.shape(logits), validate_args=validate_args)

    def _log_probs(self):
        failure = jax.nn.log_sigmoid(-self.logits)
        return jax.nn.log_softmax(failure[..., None] * jnp.arange(3), axis=-1)

    def sample(self, key, sample_shape=()):
        return 1 + jax.random.categorical(key, self._log_probs(), shape=(*sample_shape, *self.batch_shape))

    def log_prob(self, value):
        of_all = self._log_probs()
        return jnp.where(value == 1, of_all[..., 0], jnp.where(value == 2, of_all[..., 1], of_all[..., 2]))

    def enumerate_support(self, expand=True):
        support = jnp.arange(1, 4).reshape((3,) + (1,) * len(self.batch_shape))
        return jnp.broadcast_to(support, (3, *self.batch_shape)) if expand else support


def _some(probs, zero):
    """Set some probabilities to zero."""
    left = jnp.where(zero, 0.0, probs)
    return left / left.sum(-1, keepdims=True)


def distribution(site, eta, arrays, zero=None):
    """The site's distribution from its parameter, scalar or (see `VECTORS`) a vector, and what is impossible."""
    match site.kind:
        case "categorical":
            return dist.Categorical(probs=jax.nn.softmax(eta) if zero is None else _some(jax.nn.softmax(eta), zero))
        case "categorical_logits":
            return dist.Categorical(logits=eta if zero is None else jnp.where(zero, -jnp.inf, eta))
        case "bernoulli":
            return dist.Bernoulli(probs=jax.nn.sigmoid(eta))
        case "bernoulli_logits":
            return dist.Bernoulli(logits=eta)
        case "binomial":
            return dist.Binomial(2, logits=eta)
        case "beta_binomial":
            return dist.BetaBinomial(jnp.exp(0.3 * eta) + 0.5, 1.5, 2)
        case "discrete_uniform":
            return dist.DiscreteUniform(site.low, site.low + values(site) - 1)
        case "ordered_logistic":
            return dist.OrderedLogistic(eta, jnp.array([-0.5, 0.7]))
        case "geometric":
            return TruncatedGeometric(eta)
        case "normal":
            return dist.Normal(eta, 1.0)
        case "normal_vector":
            return dist.Normal(eta[..., None] + arrays["shift"], 1.0).to_event(1)
        case "poisson":
            return dist.Poisson(jnp.exp(0.4 * eta))


def from_simplex(site, u, arrays):
    """The site's distribution where its parent is a Dirichlet: conjugate for the kind "categorical" only."""
    match site.kind:
        case "categorical" | "categorical_logits":
            return dist.Categorical(probs=u)
        case "bernoulli":
            return dist.Bernoulli(probs=u[..., 1])
        case "normal":
            return dist.Normal(u @ jnp.linspace(-0.5, 0.8, u.shape[-1]), 1.0)


def looked_up(program, site, found, table):
    """Entries of a table at the parents' values."""
    places = [found[parent] - first(program.site(parent)) for parent in site.parents]
    if not places:
        return table
    if site.use != "vindex":
        return table[tuple(places)]
    return Vindex(table)[(..., *places, slice(None)) if site.kind in VECTORS else (..., *places)]


def parameter(program, site, found, arrays, params):
    """The site's parameter from its parents' values."""
    table = arrays[f"{site.name}_table"]
    vector = site.kind in VECTORS
    if site.use == "arithmetic":
        eta = table
        for number, parent in enumerate(site.parents):
            eta = eta + found[parent] * (0.6 - 0.9 * number)
        eta = eta[..., None] * jnp.linspace(-1.0, 0.7, values(site)) if vector else eta
    else:
        eta = looked_up(program, site, found, table)
    if site.param == "rate":
        return eta * params["rate"]
    extra = params.get(site.param, 0.0)
    return eta + (extra * jnp.linspace(0.0, 1.0, values(site)) if vector else extra)


def along(program, plate):
    """Numbers of a plate's items, along its dimension."""
    return jnp.arange(program.plate(plate).size).reshape((-1,) + (1,) * (-program.dim(plate) - 1))


def mask_of(program, site, found, arrays):
    """The site's mask."""
    if site.mask in ("true", "false"):
        return site.mask == "true"
    if site.mask in PLAIN_MASKS:
        return arrays[f"{site.name}_mask"]
    parent = program.site(site.mask)
    number = 0 if parent.plate == site.plate else along(program, site.plate)
    return found[site.mask] - first(parent) == number


def sample(program, site, found, arrays, params, infer):
    """Run one site."""
    with ExitStack() as stack:
        if site.scale is not None:
            scale = {"float": 2.5, "traced": arrays.get("traced")}.get(site.scale, arrays.get(f"{site.name}_scale"))
            stack.enter_context(handlers.scale(scale=scale))
        mask = None if site.mask is None else mask_of(program, site, found, arrays)
        if mask is not None and (site.mask_in == "handler" or site.kind == "factor"):
            stack.enter_context(handlers.mask(mask=mask))
            mask = None
        if site.kind in SIMPLEX:
            table = looked_up(program, site, found, arrays[f"{site.name}_table"])
            return numpyro.sample(site.name, dist.Dirichlet(table))
        if site.use == "simplex":
            fn = from_simplex(site, found[site.parents[0]], arrays)
        else:
            eta = parameter(program, site, found, arrays, params)
            if site.kind == "factor":
                return numpyro.factor(site.name, -0.3 * (eta - 0.5) ** 2)
            zero = looked_up(program, site, found, arrays[f"{site.name}_zero"]) if site.zeros else None
            fn = distribution(site, eta, arrays, zero)
        fn = fn if mask is None else fn.mask(mask)
        value = numpyro.sample(
            site.name,
            fn,
            obs=arrays.get(f"{site.name}_obs"),
            obs_mask=arrays.get(f"{site.name}_seen"),
            infer=infer,
        )
        if site.deterministic:
            numpyro.deterministic(f"{site.name}_twice", 2 * value)
        return value


def make_plate(program, plate):
    """The plate as NumPyro has it."""
    subsample = {} if plate.full is None else {"subsample_size": plate.size}
    return numpyro.plate(plate.name, plate.full or plate.size, dim=program.explicit(plate.name), **subsample)


def run(program, /, **arrays):
    """Run the program."""
    arrays = {name: jnp.asarray(array) for name, array in arrays.items()}  # NumPy's take no traced index
    found, infer = {}, {} if program.shared_infer else None
    used = {site.param for site in program.sites}
    params = {}
    if "theta" in used:
        params["theta"] = numpyro.param("theta", PARAMS["theta"])
    if "rate" in used:
        params["rate"] = numpyro.param("rate", PARAMS["rate"], constraint=dist.constraints.positive)
    if REPARAMETRISED in used:
        params[REPARAMETRISED] = numpyro.sample(REPARAMETRISED, dist.Normal(0.4, 2.0))
    opened = {}
    if program.same_plates:
        opened = {plate.name: make_plate(program, plate) for plate in program.plates}
    for site in program.sites:
        with ExitStack() as stack:
            path = program.path(site.plate)
            if program.weights in [plate.name for plate in path]:
                stack.enter_context(handlers.scale(scale=arrays["weights"]))
            for plate in path:
                stack.enter_context(opened.get(plate.name) or make_plate(program, plate))
            found[site.name] = sample(program, site, found, arrays, params, infer)


def _data(program, site, rng):
    """Values of a site's elements, drawn from its support."""
    shape = program.batch(site.plate) + WIDTH.get(site.kind, ())
    if site.kind in ("normal", "normal_vector"):
        return rng.normal(0.5, 1.0, shape).round(2).astype(np.float32)
    if site.kind == "poisson":
        return rng.integers(0, 4, shape).astype(np.int32)
    if site.zeros:  # the value that is possible whatever its parents' are
        return np.zeros(shape, np.int32)
    return (first(site) + rng.integers(0, values(site), shape)).astype(np.int32)


def _table(program, site, rng):
    """What the site's parameter is looked up in."""
    batch = program.batch(site.plate)
    if site.kind in SIMPLEX:
        shape = tuple(values(program.site(parent)) for parent in site.parents) or batch
        return rng.integers(1, 4, (*shape, SIMPLEX[site.kind])).astype(np.float32)
    places = tuple(values(program.site(parent)) for parent in site.parents) if site.use != "simplex" else ()
    width = (values(site),) if site.kind in VECTORS else ()
    shape = {"table": places + width, "vindex": batch + places + width}.get(site.use, batch)
    return rng.normal(0.0, 1.0, shape).round(2).astype(np.float32)


def _rng(program, name):
    return np.random.default_rng([program.seed, zlib.crc32(name.encode())])


def build(program):
    """Make the program and its arguments, all of them arrays."""
    arrays = {"shift": SHIFT}
    for site in program.sites:
        rng, batch = _rng(program, site.name), program.batch(site.plate)
        arrays[f"{site.name}_table"] = _table(program, site, rng)
        if site.zeros:
            arrays[f"{site.name}_zero"] = rng.random(arrays[f"{site.name}_table"].shape) < 0.4
            arrays[f"{site.name}_zero"][..., 0] = False
        if site.observed and site.kind != "factor":
            arrays[f"{site.name}_obs"] = _data(program, site, rng)
        if site.obs_mask:
            arrays[f"{site.name}_seen"] = rng.random(batch) < 0.5
        if site.mask in ("array", "false array"):
            arrays[f"{site.name}_mask"] = (rng.random(batch) < 0.6) & (site.mask == "array")
        if site.scale == "array":
            arrays[f"{site.name}_scale"] = rng.choice(np.array([0.5, 1.0, 2.0, 3.0], np.float32), batch)
        if site.scale == "traced":
            arrays["traced"] = np.float32(1.5)
    if program.weights:
        rng, plate = _rng(program, "weights"), program.plate(program.weights)
        shape = (plate.size,) + (1,) * (-program.dim(plate.name) - 1)
        arrays["weights"] = rng.choice(np.array([0.5, 1.0, 2.0, 3.0], np.float32), shape)

    arrays = {name: np.asarray(array) for name, array in arrays.items()}
    return _handled(program, partial(run, program)), arrays


def _in_parallel(site):
    return {"enumerate": "parallel"}


def _handled(program, model):
    """The program in its handler."""
    name, target = program.handler or (None, None)
    if name in ("condition", "do", "substitute"):
        site = program.site(target)
        data = {target: _data(program, site, _rng(program, target))}
        return getattr(handlers, name)(model, data=data)
    match name:
        case "block":
            return handlers.block(model, hide=[target])
        case "scope":
            return handlers.scope(model, prefix="s")
        case "infer_config":
            return handlers.infer_config(model, config_fn=_in_parallel)
        case "reparam":
            config = {REPARAMETRISED: LocScaleReparam(0.0)}
            given = {f"{REPARAMETRISED}_decentered": jnp.float32(0.7)}
            return handlers.condition(handlers.reparam(model, config=config), data=given)
    return model


def parameters(program):
    """Values of the parameters that the program has."""
    used = {site.param for site in program.sites}
    prefix = "s/" if program.handler and program.handler[0] == "scope" else ""
    return {prefix + name: value for name, value in PARAMS.items() if name in used}


def names(program):
    """Names under which a message may speak of the program's sites."""
    return [site.name for site in program.sites]
