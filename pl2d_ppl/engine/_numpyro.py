"""All private names of NumPyro that the library uses; `tests/engine/test_numpyro.py` fails when one moves."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from numpyro.distributions import Distribution, ExpandedDistribution, MaskedDistribution
from numpyro.handlers import mask
from numpyro.primitives import _PYRO_STACK, Messenger

from pl2d_ppl.engine.chosen import chosen

__all__ = ["Choice", "given_masks", "unwrap"]


class Choice(NamedTuple):
    """A mask that the handler ``chosen`` gave: exactly one element of the innermost plate is left."""

    mask: Any


def unwrap(fn: Distribution) -> tuple[Distribution, list]:
    """Strip masks and expansions from a distribution: return its core, and the masks, the outermost first."""
    masks = []
    while isinstance(fn, MaskedDistribution | ExpandedDistribution):
        if isinstance(fn, MaskedDistribution):
            masks.append(fn._mask)
        fn = fn.base_dist
    return fn, masks


def given_masks(fn: Distribution, outermost: Messenger) -> list:
    """Return the masks of a distribution inside a handler as the program gave them, before broadcasting.

    A masked distribution broadcasts its mask to its batch shape, including enumerated dimensions. This would make "y
    through expert m, masked to z == m" quadratic in the number of experts, for every category of t. The mask handlers
    on the stack still have theirs; a mask that none of them gave is returned as broadcast.
    """
    masks = unwrap(fn)[1]
    inside = _PYRO_STACK[_PYRO_STACK.index(outermost) + 1 :]
    given = [h for h in inside if isinstance(h, mask) and h.mask is not True]
    if len(given) > len(masks):  # another handler has replaced the distribution
        return masks
    return [_same(handler, broadcast) for handler, broadcast in zip(given, masks, strict=False)] + masks[len(given) :]


def _same(handler: mask, broadcast: Any) -> Any:
    """Return the mask of a handler if it is, by its shape, what was broadcast."""
    try:
        fits = jnp.broadcast_shapes(jnp.shape(handler.mask), jnp.shape(broadcast)) == jnp.shape(broadcast)
    except ValueError:
        fits = False
    if not fits:
        return broadcast
    return Choice(handler.mask) if isinstance(handler, chosen) else handler.mask
