"""Random keys."""

from typing import Any

import jax

__all__ = ["check_key", "check_keys", "is_key"]


def check_keys(rng_key: Any) -> None:
    """Check a typed key, or an array of keys, one per run.

    Raises
    ------
    ValueError
        If it is something else.
    """
    if not is_key(rng_key):
        raise ValueError(f"Expected a typed key, jax.random.key(seed), found {type(rng_key).__name__}.")
    if rng_key.ndim > 1:
        raise ValueError(f"Expected one key, or one a run, found an array of keys of shape {rng_key.shape}.")


def check_key(rng_key: Any) -> None:
    """Check that the argument is one typed key.

    Raises
    ------
    ValueError
        If it is something else.
    """
    check_keys(rng_key)
    if rng_key.ndim:
        raise ValueError(f"Expected one key, found an array of {len(rng_key)}. Call once for each key.")


def is_key(leaf: Any) -> bool:
    """Whether the argument is a typed key, or an array of keys."""
    return isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
