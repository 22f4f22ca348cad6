"""Place identified people among clusters: posterior memberships by NUTS, and maximum likelihood by EM.

Both are read off a program of one person, such as :func:`~pl2d_ppl.models.membership.membership`. The program only
needs a site ``membership`` (K,): a latent sample, or a deterministic site.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpyro.diagnostics import split_gelman_rubin
from numpyro.distributions import constraints
from numpyro.handlers import reparam, seed, substitute, trace
from numpyro.infer import NUTS
from numpyro.infer.reparam import ExplicitReparam, Reparam

from pl2d_ppl.checks.keys import check_key
from pl2d_ppl.checks.names import listed
from pl2d_ppl.checks.warn import warn
from pl2d_ppl.engine.dirichlet import is_dirichlet
from pl2d_ppl.engine.program_key import ProgramKey
from pl2d_ppl.people.annotations import PersonItems, person_items
from pl2d_ppl.people.membership import Membership
from pl2d_ppl.people.simplex import LogRatio, ascend

__all__ = ["log_likelihood", "maximise_membership", "sample_membership"]

SITE = "membership"
R_HAT = 1.1  # chains that disagree by more have not converged
DIVERGENT = 0.01  # share of draws
ACCEPTANCE = 0.9  # for NUTS: its default .8 diverges where a sparse prior's long tail meets a steep likelihood


# --- Posterior --------------------------------------------------------------------------------------------------


def sample_membership(
    rng_key: Array,
    model: Callable,
    cluster_probs: Any,
    annotations: Any,
    *,
    num_warmup: int = 300,
    num_samples: int = 500,
    num_chains: int = 2,
    people: Sequence[Any] | None = None,
    clusters: Sequence[Any] | None = None,
    vectorized: bool | None = None,
) -> Membership:
    """Draw from the posterior of everybody's membership, by NUTS, in one compiled call.

    A new person is placed from their annotations alone, without any retraining. The cost grows with the number of
    annotations per person, not with N. The program is compiled once for a number of people, a number of annotations
    rounded up to a power of two, K and C. Data of another person, or another ``partial(membership, ...)`` with the same
    options, then need no compilation.

    Parameters
    ----------
    rng_key : Array
        A typed key.
    model : callable
        Program of one person, ``model(cluster_probs, annotations)``, with arguments (n, K, C) and (n,), such as
        ``partial(membership, concentration=0.3)``.
    cluster_probs : array of float, shape (N, K, C)
        Probability that a person in cluster k gives category c to item i.
    annotations : array of int, shape (N, M)
        Annotations of each of M people, -1 where missing.
    num_warmup, num_samples, num_chains : int
        Steps of adaptation, draws of a chain (S), and chains.
    people, clusters : sequence, optional
        Names; by default person_0 .., cluster_0 ...
    vectorized : bool, optional
        Whether to run all chains in lockstep, where each step takes as long as the slowest chain, or one after the
        other. Lockstep suits an accelerator. By default chains run one after the other on a CPU, which is several times
        faster there.

    Returns
    -------
    Membership
        Draws (M, chains, S, K), their mean, and diagnostics.

    Warns
    -----
    UserWarning
        If a person has no annotation, and so keeps the prior, or if a person's chains did not converge.

    Raises
    ------
    ValueError
        If arguments are not of this form; see :func:`~pl2d_ppl.people.annotations.person_items`.

    Notes
    -----
    A latent membership is sampled in the coordinates of :class:`~pl2d_ppl.people.simplex.LogRatio`. Under a sparse
    prior, a concentration of .3 or less, its posterior has long tails and draws are correlated: look at ``ess_bulk``,
    and pass ``num_samples=5000``, which costs tenths of a second for one person.
    """
    check_key(rng_key)
    for name, number in {"num_warmup": num_warmup, "num_samples": num_samples, "num_chains": num_chains}.items():
        if number < 1:
            raise ValueError(f"Expected at least one as {name}, found {number}.")
    items = person_items(cluster_probs, annotations, people, clusters)
    program = ProgramKey(model)
    _check_program(program, items)
    if vectorized is None:
        vectorized = jax.default_backend() != "cpu"
    sizes = (num_warmup, num_samples, num_chains)
    drawn = _sample(rng_key, items.cluster_probs, items.annotations, program, sizes, vectorized)
    draws, diverging = (np.asarray(a) for a in drawn)
    _warn_silent(items, "the prior of the program")
    num_divergences = diverging.sum((1, 2))
    _warn_unconverged(items, draws, num_divergences)
    return Membership(
        draws.mean((1, 2)).T, items.num_annotations, items.people, items.clusters, "nuts", draws, num_divergences
    )


@partial(jax.jit, static_argnums=(3, 4, 5))
def _sample(
    rng_key: Array, cluster_probs: Array, annotations: Array, program: ProgramKey, sizes: tuple, vectorized: bool
) -> tuple[Array, Array]:
    """Draw for every person, (M, chains, S, K), and record divergences, (M, chains, S)."""
    num_people, num_chains = len(annotations), sizes[2]
    keys = jax.random.split(rng_key, (num_people * num_chains,))
    person = jnp.repeat(jnp.arange(num_people), num_chains)

    def chain(key: Array, m: Array) -> tuple[Array, Array]:
        return _chain(key, program.model, (cluster_probs[m], annotations[m]), *sizes[:2])

    if vectorized:
        drawn = jax.vmap(chain)(keys, person)
    else:
        drawn = jax.lax.map(lambda args: chain(*args), (keys, person))
    return jax.tree.map(lambda a: a.reshape(num_people, num_chains, *a.shape[1:]), drawn)


def _chain(key: Array, model: Callable, data: tuple, num_warmup: int, num_samples: int) -> tuple[Array, Array]:
    kernel = NUTS(reparam(model, config=_log_ratio), target_accept_prob=ACCEPTANCE)
    start = kernel.init(key, num_warmup, None, data, {})

    def step(state: Any, _: None) -> tuple[Any, tuple]:
        state = kernel.sample(state, data, {})
        return state, (state.z, state.diverging)

    # One loop over warm-up and draws, since a second one would be compiled again.
    _, kept = jax.lax.scan(step, start, length=num_warmup + num_samples)
    unconstrained, diverging = jax.tree.map(lambda a: a[num_warmup:], kept)
    constrain = kernel.postprocess_fn(data, {})
    return jax.vmap(lambda z: constrain(z)[SITE])(unconstrained), diverging


def _log_ratio(site: dict) -> Reparam | None:
    on_simplex = site["name"] == SITE and not site["is_observed"] and site["fn"].support is constraints.simplex
    return ExplicitReparam(LogRatio().inv) if on_simplex else None


def _warn_unconverged(items: PersonItems, draws: np.ndarray, num_divergences: np.ndarray) -> None:
    num_draws = draws.shape[1] * draws.shape[2]
    bad = num_divergences > DIVERGENT * num_draws
    if draws.shape[2] >= 4:
        # Memberships in the last cluster follow from the others. R-hat of constant draws is NaN.
        with np.errstate(invalid="ignore", divide="ignore"):
            r_hat = split_gelman_rubin(np.moveaxis(draws, 0, -1))
        bad |= (r_hat > R_HAT).any(0)
    if bad.any():
        names = [name for name, is_bad in zip(items.people, bad, strict=True) if is_bad]
        warn(
            f"Expected chains that converge, found some that do not for {listed(names)}: "
            f"{int(num_divergences[bad].sum())} divergences in {num_draws * len(names)} draws; see r_hat. Raise "
            "num_warmup and num_samples, or a concentration that is below .3."
        )


# --- Maximum likelihood -----------------------------------------------------------------------------------------


def maximise_membership(
    model: Callable,
    cluster_probs: Any,
    annotations: Any,
    *,
    tolerance: float = 1e-6,
    max_steps: int = 100,
    people: Sequence[Any] | None = None,
    clusters: Sequence[Any] | None = None,
) -> Membership:
    """Maximise the likelihood of everybody's membership by EM, ignoring the prior.

    A step of EM sets a membership to the mean responsibility of its cluster for the person's annotations (B.3). It is
    read off the gradient of the program's log-likelihood; see :func:`~pl2d_ppl.people.simplex.ascend`, which also takes
    Newton steps, as EM alone is slow where a membership goes to zero. The likelihood is concave: its distance from the
    maximum has a known bound, which decides when to stop.

    Parameters
    ----------
    model : callable
        Program of one person; see :func:`sample_membership`. Its observed sites may depend on its latent sites only
        through ``membership``.
    cluster_probs : array of float, shape (N, K, C)
        Probability that a person in cluster k gives category c to item i.
    annotations : array of int, shape (N, M)
        Annotations of each of M people, -1 where missing.
    tolerance : float
        Stop when the log-likelihood per annotation can rise by at most this much.
    max_steps : int
        At most this many steps; a dozen is common.
    people, clusters : sequence, optional
        Names; by default person_0 .., cluster_0 ...

    Returns
    -------
    Membership
        Estimated memberships, with their ``gap``.

    Warns
    -----
    UserWarning
        If a person has no annotation, and so gets the mean of a Dirichlet prior, or equal memberships under another
        prior; or if the tolerance was not met.

    Raises
    ------
    ValueError
        If arguments are not of this form; see :func:`~pl2d_ppl.people.annotations.person_items`.
    """
    if not tolerance > 0:
        raise ValueError(f"Expected a positive tolerance, found {tolerance}.")
    if max_steps < 1:
        raise ValueError(f"Expected at least one step, found max_steps={max_steps}.")
    items = person_items(cluster_probs, annotations, people, clusters)
    program = ProgramKey(model)
    layout = _check_program(program, items)
    if layout.after:
        raise ValueError(
            f"Expected a likelihood that depends on {SITE!r} only, found latent sites {list(layout.after)} after it. "
            "Use sample_membership."
        )
    omega, gap = (
        np.asarray(a)
        for a in _maximise(items.cluster_probs, items.annotations, tolerance, max_steps, program, layout.dirichlet)
    )
    _warn_silent(items, "the mean of its Dirichlet prior" if layout.dirichlet else "equal memberships")
    if (gap > tolerance).any():
        names = [name for name, g in zip(items.people, gap, strict=True) if g > tolerance]
        warn(
            f"Expected likelihoods at their maximum, within tolerance={tolerance} an annotation, found that they may "
            f"rise by up to {gap.max():.2g} an annotation for {listed(names)}. Raise max_steps, or, in float32, the "
            "tolerance."
        )
    return Membership(omega.T, items.num_annotations, items.people, items.clusters, "em", gap=gap)


@partial(jax.jit, static_argnums=(4, 5))
def _maximise(
    cluster_probs: Array, annotations: Array, tolerance: float, max_steps: int, program: ProgramKey, dirichlet: bool
) -> tuple[Array, Array]:
    """Return maximum-likelihood memberships, (M, K), and their gaps, (M,)."""

    def of_person(cluster_probs: Array, annotations: Array) -> tuple[Array, Array]:
        num_annotations = (annotations >= 0).sum()
        data = (cluster_probs, annotations)
        per_annotation = 1.0 / jnp.maximum(num_annotations, 1)
        objective = lambda omega: per_annotation * log_likelihood(program.model, data, omega)  # noqa: E731
        start = jnp.full(cluster_probs.shape[1], 1 / cluster_probs.shape[1], cluster_probs.dtype)
        best, gap = ascend(objective, start, tolerance, max_steps)
        if dirichlet:
            prior = trace(seed(program.model, jax.random.key(0))).get_trace(*data)[SITE]["fn"].mean
            best = jnp.where(num_annotations > 0, best, prior)
        return best, gap

    return jax.vmap(of_person)(cluster_probs, annotations)


def log_likelihood(model: Callable, data: tuple, omega: Array) -> Array:
    """Compute the log-probability of a program's observed sites, factors included, at a membership.

    Parameters
    ----------
    model : callable
        Program of one person.
    data : tuple
        Arguments of the program.
    omega : Array, shape (K,)
        The membership.

    Returns
    -------
    Array
        L(omega), which excludes the prior.
    """
    with_omega = substitute(seed(model, jax.random.key(0)), data={SITE: omega})
    sites = trace(with_omega).get_trace(*data).values()
    observed = [s for s in sites if s["type"] == "sample" and s["is_observed"]]
    terms = [(1.0 if s["scale"] is None else s["scale"]) * s["fn"].log_prob(s["value"]) for s in observed]
    return sum((term.sum() for term in terms), start=jnp.zeros(()))


# --- Programs ---------------------------------------------------------------------------------------------------


class _Layout(NamedTuple):
    """Facts about a program: its latent sites after the membership, and whether its only prior is a Dirichlet."""

    after: tuple[str, ...]
    dirichlet: bool


def _check_program(program: ProgramKey, items: PersonItems) -> _Layout:
    """Run a program abstractly: its own errors are raised here, before compilation."""
    return _layout(program, items.cluster_probs.shape[1:], str(items.cluster_probs.dtype))


@lru_cache(maxsize=64)
def _layout(program: ProgramKey, shape: tuple[int, ...], dtype: str) -> _Layout:
    sites: dict[str, dict] = {}

    def run(cluster_probs: Array, annotations: Array) -> None:
        sites.update(trace(seed(program.model, jax.random.key(0))).get_trace(cluster_probs, annotations))

    said = jax.ShapeDtypeStruct(shape[:1], np.int32)
    jax.eval_shape(run, jax.ShapeDtypeStruct(shape, dtype), said)
    site = sites.get(SITE)
    if site is None or np.shape(site["value"]) != shape[1:2]:
        found = f"sites {list(sites)}" if site is None else f"one of shape {np.shape(site['value'])}"
        raise ValueError(
            f"Expected a program with a site {SITE!r} of shape ({shape[1]},), one value a cluster, found {found}. "
            "Add it, by sample or deterministic."
        )
    latent = [n for n, s in sites.items() if s["type"] == "sample" and not s["is_observed"]]
    order = list(sites)
    after = tuple(n for n in latent if order.index(n) > order.index(SITE))
    if not any(s["type"] == "sample" and s["is_observed"] for s in sites.values()):
        raise ValueError(f"Expected a program that observes annotations, found sites {order}. Pass them as obs.")
    dirichlet = latent == [SITE] and is_dirichlet(site["fn"])
    return _Layout(after, dirichlet)


def _warn_silent(items: PersonItems, instead: str) -> None:
    if items.silent:
        warn(
            f"Expected annotations of everybody, found none of {listed(items.silent)}: their membership is {instead}. "
            "Drop them if they do not belong here."
        )
