"""Enumeration: every discrete latent site takes all values of its support, in a tensor dimension of its own.

Positions of dimensions are counted from the right, as everywhere in NumPyro: the last ``depth`` ones belong to plates,
and each enumerated site has one further left. Names of dimensions follow from positions, so that nothing is patched and
nothing of ours is global: an enumeration may run inside another one.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpyro.distributions import Distribution
from numpyro.handlers import block, seed, trace
from numpyro.primitives import Messenger

from pl2d_ppl.engine._numpyro import given_masks, unwrap

__all__ = ["Dimensions", "Enumerate", "TooDeep", "is_latent", "is_positions", "positions_of", "support_of", "values_at"]

LARGEST_RANK = 63  # of an array, with an event dimension
DEPTH = 6  # plates are rarely nested as deeply; a deeper program is read again


class TooDeep(Exception):
    """A plate lies in the dimensions of enumerated sites: read the program again with more of them."""

    def __init__(self, depth: int, dimensions: "Dimensions"):
        self.depth, self.dimensions = depth, dimensions
        super().__init__(f"plates in the last {depth} dimensions")


class Dimensions:
    """Positions of the enumerated sites of a program, or of a guide and a model.

    Parameters
    ----------
    depth : int
        Number of dimensions on the right that belong to plates.
    """

    def __init__(self, depth: int = DEPTH):
        self.depth = depth
        self.plates: dict[str, int] = {}
        self.sizes: dict[str, int] = {}
        self._sites: list[str] = []

    def add(self, site: str, size: int) -> int:
        """Return a position for a site of some number of values; refuse more sites than an array has dimensions."""
        if self.depth + len(self._sites) + 1 > LARGEST_RANK:
            raise ValueError(
                f"Expected at most {LARGEST_RANK - self.depth} discrete latent sites in a program, found {site!r} "
                "besides: an array has at most 64 dimensions, and each site takes one. Make a site of several steps of "
                "the chain, or fit it by TraceEnum_ELBO with numpyro.contrib.funsor's markov, which reuses dimensions."
            )
        self._sites.append(site)
        self.sizes[site] = size
        return -self.depth - len(self._sites)

    def site_at(self, position: int) -> str | None:
        """Return the site that has a position."""
        index = -position - self.depth - 1
        return self._sites[index] if 0 <= index < len(self._sites) else None


class Enumerate(Messenger):
    """Give wanted sites their support; refuse what cannot be enumerated.

    It is the outermost handler of a program: a site that another handler has given a value is not enumerated. The
    messages of enumerated sites get an entry ``support``, those of masked sites ``masks``: the masks as given.

    Parameters
    ----------
    fn : callable
        The program.
    dimensions : Dimensions
        Where positions come from.
    wanted : callable
        Whether a discrete latent site, a message, is to be enumerated.
    """

    def __init__(self, fn: Callable, dimensions: Dimensions, wanted: Callable[[dict], bool] = lambda msg: True):
        self.dimensions, self.wanted = dimensions, wanted
        self.sites: set[str] = set()
        super().__init__(fn)

    def process_message(self, msg: dict) -> None:
        """Look at the message after every other handler of the program."""
        if msg["type"] == "control_flow":
            raise ValueError(
                f"Expected a program without control flow, found a scan over sites {_sites_of_scan(msg)}. The "
                "engine does not look into its body: write the loop out, or put the sites into a plate."
            )
        for frame in msg.get("cond_indep_stack", ()):
            self._check_plate(frame)
        if msg["type"] != "sample":
            return
        if msg["name"] in self.sites:
            raise ValueError(f"Expected every site to have its own name, found {msg['name']!r} twice. Rename one.")
        self.sites.add(msg["name"])
        self._check_rank(msg)
        msg["drawn"] = is_latent(msg) and msg["value"] is None
        msg["masks"] = given_masks(msg["fn"], self)
        msg["infer"] = dict(msg["infer"])  # of its own: programs share one among sites
        if is_latent(msg) and msg["value"] is None and msg["fn"].has_enumerate_support and self.wanted(msg):
            msg["support"] = support_of(msg["name"], msg["fn"])
            msg["value"] = _at(msg["support"], self.dimensions.add(msg["name"], len(msg["support"])))

    def _check_plate(self, frame) -> None:
        if -frame.dim > self.dimensions.depth:
            raise TooDeep(-frame.dim, self.dimensions)
        dim = self.dimensions.plates.setdefault(frame.name, frame.dim)
        if dim != frame.dim:
            raise ValueError(
                f"Expected plate {frame.name!r} in one dimension, found it in {dim} and {frame.dim}. Pass dim={dim} "
                "each time, or give the second plate another name."
            )

    def _check_rank(self, msg: dict) -> None:
        """Refuse given values that reach into the dimensions of enumerated sites."""
        rank = 0 if msg["value"] is None else jnp.ndim(msg["value"]) - msg["fn"].event_dim
        if rank > self.dimensions.depth and self.dimensions.site_at(-rank) is None:
            raise TooDeep(rank, self.dimensions)


def _sites_of_scan(msg: dict) -> list[str]:
    """Names of the sample sites in the body of a scan, from one step."""
    body, carry, xs = msg["args"][:3]
    with block(), trace() as tr, seed(rng_seed=0):
        body(carry, jax.tree.map(lambda a: a[0], xs))
    return [name for name, site in tr.items() if site["type"] == "sample"]


def is_latent(site: dict) -> bool:
    """Whether a message is a latent sample site."""
    return site["type"] == "sample" and not site["is_observed"]


def support_of(name: str, fn: Distribution) -> Array:
    """Return the values of a discrete distribution, shape (values, batch shape or ones).

    Raises
    ------
    ValueError
        If the distribution has an event dimension, or a support whose size is not known or differs within the site.
    """
    if fn.event_dim:
        raise ValueError(
            f"Expected a discrete latent site without event dimension, found {name!r} of event shape "
            f"{tuple(fn.event_shape)}. Put its elements into a plate instead of .to_event."
        )
    core = unwrap(fn)[0]
    try:
        with jax.ensure_compile_time_eval():
            return core.enumerate_support(expand=False)
    except (NotImplementedError, jax.errors.ConcretizationTypeError, TypeError) as error:
        raise ValueError(
            f"Expected a support of known size, the same for all elements, at discrete latent site {name!r} ~ "
            f"{type(core).__name__}, found another: {str(error).splitlines()[0]} Pass its size as a number."
        ) from error


def is_positions(support: Array) -> bool:
    """Whether the values of a support are known to be 0, 1, 2 ..."""
    if isinstance(support, jax.core.Tracer) or support.size != len(support):
        return False
    return np.array_equal(np.asarray(support).ravel(), np.arange(len(support)))


def positions_of(support: Array, value: Array) -> Array:
    """Return the index of values in a support, shape (values, batch shape or ones)."""
    if is_positions(support):
        return value
    return jnp.argmax(value == _padded(support, jnp.ndim(value)), 0)


def values_at(support: Array, position: Array) -> Array:
    """Return the values of a support, shape (values, batch shape or ones), at an index."""
    support = _padded(support, jnp.ndim(position))
    shape = jnp.broadcast_shapes(support.shape[1:], jnp.shape(position))
    support = jnp.broadcast_to(support, (len(support), *shape))
    return jnp.take_along_axis(support, jnp.broadcast_to(position, shape)[None], 0)[0]


def _padded(support: Array, rank: int) -> Array:
    """Pad the batch dimensions of a support on the left."""
    return support.reshape(support.shape[:1] + (1,) * (rank - support.ndim + 1) + support.shape[1:])


def _at(support: Array, position: int) -> Array:
    """Move the first axis of a support to a position counted from the right."""
    batch = support.ndim - 1
    if -position > batch:
        return support.reshape(support.shape[:1] + (1,) * (-position - 1 - batch) + support.shape[1:])
    return jnp.swapaxes(support[..., None], 0, position - 1)[0]  # a parent enumerated later lies further left
