"""Votes of a staff where each person votes at most once: draws without replacement."""

from collections.abc import Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.special import gammaln
from numpyro.distributions import Distribution, constraints
from numpyro.distributions.util import multinomial, validate_sample

__all__ = ["StaffVotes", "right_votes"]

LOG_ZERO = -1e30  # finite, so that a probability of zero has a zero gradient


def right_votes(log_skill: Array, log_lapse: Array, sizes: Sequence[int]) -> Array:
    """Compute the log-probability that r given voters of L are right and the others wrong, for a staff in clusters.

    Each person on the staff votes at most once, and is right with the probability of their cluster. Since it is unknown
    who voted on an item, all patterns with r right of L votes are equally likely. With q(r, L) the probability of one
    of them,

    - q(r, M) = Pr(r of all M are right) / C(M, r), a Poisson binomial probability;
    - q(r, L) = q(r + 1, L + 1) + q(r, L + 1): one more vote is right or wrong.

    Parameters
    ----------
    log_skill, log_lapse : Array, shape (K, ...)
        Logarithms of the probabilities that a person in cluster k is right, and wrong.
    sizes : sequence of int, length K
        Number of people in each cluster, M in total.

    Returns
    -------
    Array, shape (..., M+1, M+1)
        ln q(r, L), at [..., r, L]; -1e30 where r > L.

    Raises
    ------
    ValueError
        If sizes are not K whole numbers.
    """
    _check_sizes(sizes, len(log_skill))
    num_people = int(sum(sizes))
    cluster = np.repeat(np.arange(len(sizes)), sizes)
    none = jnp.full((*log_skill.shape[1:], num_people + 1), LOG_ZERO, log_skill.dtype).at[..., 0].set(0.0)

    def one_more(log_prob: Array, person: tuple[Array, Array]) -> tuple[Array, None]:
        right, wrong = person
        up = jnp.concatenate([jnp.full_like(log_prob[..., :1], LOG_ZERO), log_prob[..., :-1]], -1)
        return jnp.logaddexp(log_prob + wrong[..., None], up + right[..., None]), None

    log_prob, _ = jax.lax.scan(one_more, none, (log_skill[cluster], log_lapse[cluster]))
    r = jnp.arange(num_people + 1, dtype=log_skill.dtype)
    patterns = gammaln(num_people + 1.0) - gammaln(r + 1) - gammaln(num_people - r + 1)

    def one_fewer(log_q: Array, _: None) -> tuple[Array, Array]:
        down = jnp.concatenate([log_q[..., 1:], jnp.full_like(log_q[..., :1], LOG_ZERO)], -1)
        return jnp.logaddexp(log_q, down), log_q

    _, columns = jax.lax.scan(one_fewer, log_prob - patterns, length=num_people + 1)
    table = jnp.moveaxis(columns[::-1], 0, -1)
    possible = jnp.arange(num_people + 1)[:, None] <= jnp.arange(num_people + 1)
    return jnp.where(possible, table, LOG_ZERO)


def _check_sizes(sizes: Sequence[int], num_clusters: int) -> None:
    whole = np.ndim(sizes) == 1 and len(sizes) > 0 and all(int(n) == n and n >= 0 for n in sizes)
    if not whole or len(sizes) != num_clusters:
        raise ValueError(
            f"Expected sizes of {num_clusters or 'some'} clusters as whole numbers, found {sizes!r}. Say how many "
            "people are in each, such as (2, 2, 2)."
        )


class StaffVotes(Distribution):
    """Distribution of the number of votes that each category gets from a staff, given the truth.

    Parameters
    ----------
    truth : Array of int, shape (...)
        The true category.
    log_right : Array, shape (..., M+1, M+1)
        Result of :func:`right_votes` at the true category.
    log_errors : Array, shape (..., C)
        Log-probabilities of the categories that a wrong vote names; the entry of the true category is ignored.
    total_count : Array of int, shape (...)
        Number of votes, at most M.
    """

    arg_constraints: ClassVar = {
        "truth": constraints.nonnegative_integer,
        "total_count": constraints.nonnegative_integer,
    }
    pytree_data_fields = ("truth", "log_right", "log_errors", "total_count")
    support = constraints.independent(constraints.nonnegative_integer, 1)

    def __init__(
        self,
        truth: Array,
        log_right: Array,
        log_errors: Array,
        total_count: Array,
        *,
        validate_args: bool | None = None,
    ):
        self.truth, self.log_right, self.log_errors, self.total_count = truth, log_right, log_errors, total_count
        batch_shape = jnp.broadcast_shapes(
            jnp.shape(truth), log_right.shape[:-2], log_errors.shape[:-1], jnp.shape(total_count)
        )
        super().__init__(batch_shape, log_errors.shape[-1:], validate_args=validate_args)

    @validate_sample
    def log_prob(self, value: Array) -> Array:
        """Log-probability of counts, shape (..., C)."""
        is_truth = self._is_truth()
        counts = value.astype(self.log_errors.dtype)
        log_errors = jnp.where(is_truth, 0.0, jnp.maximum(self.log_errors, LOG_ZERO))
        wrong = (counts * log_errors).sum(-1)
        right, total = jnp.where(is_truth, value, 0).sum(-1), value.sum(-1)
        side = self.log_right.shape[-1]
        flat = self.log_right.reshape(*self.log_right.shape[:-2], side * side)
        index = jnp.minimum(right, side - 1) * side + jnp.minimum(total, side - 1)
        index = index.reshape((1,) * (flat.ndim - 1 - index.ndim) + index.shape)
        flat = flat.reshape((1,) * (index.ndim + 1 - flat.ndim) + flat.shape)
        pattern = jnp.take_along_axis(flat, index[..., None], -1)[..., 0]
        pattern = jnp.where((total < side) & (total == self.total_count), pattern, LOG_ZERO)
        return pattern + wrong + gammaln(counts.sum(-1) + 1) - gammaln(counts + 1).sum(-1)

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Array:
        """Draw counts: first the number of right votes, then the categories of the others."""
        shape = (*sample_shape, *self.batch_shape)
        right_key, wrong_key = jax.random.split(key)
        side = self.log_right.shape[-1]
        total = jnp.broadcast_to(self.total_count, shape)[..., None]
        table = jnp.broadcast_to(self.log_right, (*shape, side, side))
        log_q = jnp.take_along_axis(table, total[..., None], -1)[..., 0]
        r = jnp.arange(side)
        patterns = gammaln(total + 1.0) - gammaln(r + 1.0) - gammaln(jnp.maximum(total - r, 0) + 1.0)
        right = jax.random.categorical(right_key, jnp.where(r <= total, log_q + patterns, LOG_ZERO))[..., None]
        others = jnp.where(self._is_truth(), 0.0, jnp.exp(self.log_errors))
        others = jnp.broadcast_to(others / others.sum(-1, keepdims=True), (*shape, *self.event_shape))
        wrong = multinomial(wrong_key, others, (total - right)[..., 0], shape=shape, total_count_max=side - 1)
        return jnp.where(self._is_truth(), right, wrong).astype(jnp.int32)

    def _is_truth(self) -> Array:
        return jnp.arange(self.event_shape[0]) == jnp.asarray(self.truth)[..., None]
