"""Clusters of people from anonymous votes: fits for several numbers of clusters and seeds, and their predictions."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.scipy.special import gammaln
from numpy.typing import NDArray
from scipy.special import softmax

from pl2d_ppl.clusters.lda_evidence import evidence_states, lda_evidence
from pl2d_ppl.data.votes import votes_of_counts
from pl2d_ppl.engine.marginals import marginals
from pl2d_ppl.engine.per_run import PerRun
from pl2d_ppl.guides.exact import exact
from pl2d_ppl.guides.mean_field import mean_field
from pl2d_ppl.inference.fit import fit, total_loss
from pl2d_ppl.inference.result import FitResult
from pl2d_ppl.inference.schedule import Schedule
from pl2d_ppl.models.annotator_lda import annotator_lda
from pl2d_ppl.models.annotator_urn import annotator_urn, cluster_probs
from pl2d_ppl.networks import Ensemble, network_for

__all__ = ["CLUSTER_SCHEDULE", "ClusterRun", "equal_sizes", "fit_clusters", "held_out"]

VoteModel = Literal["urn", "lda"]
INACTIVE = 1e-3  # concentration of a cluster that gets no votes: its E[ln u] is below -900
CLUSTER_SCHEDULE = Schedule(
    steps=1500,
    batch_size=512,
    rule="adamw",
    learning_rate=1e-3,
    weight_decay=1e-3,
    clip=None,
    site_learning_rate=1e-2,  # skills are learned slowly
)
MAX_STATES = 1500  # most states in the sum over assignments, for an exact evidence


@dataclasses.dataclass(frozen=True, eq=False)
class ClusterRun:
    """One fit of K clusters, out of a batch of fits.

    Attributes
    ----------
    vote_model : {"urn", "lda"}
        The model.
    num_clusters : int
        K; the batch may have networks for more clusters, which are unused.
    seed : int
        Index of the seed.
    alpha : float
        Concentration of LDA; NaN for the urn.
    fits : FitResult
        The batch.
    index : int
        Position of this fit in the batch.
    """

    vote_model: VoteModel
    num_clusters: int
    seed: int
    alpha: float
    fits: FitResult
    index: int

    @property
    def result(self) -> FitResult:
        """The fit as a single run."""
        return self.fits.run(self.index)

    def cluster_probs(self, x: Any, counts: Any = None, *, batch_size: int = 1000) -> NDArray:
        """Compute the probability that a person in a cluster gives a category.

        Parameters
        ----------
        x : array, shape (N, ...)
            Inputs.
        counts : array of int, shape (N, C), optional
            Only for the urn: anonymous votes of others on the items, which inform about the truth.
        batch_size : int
            Items at a time.

        Returns
        -------
        array, shape (N, K, C)
            The probabilities.

        Raises
        ------
        ValueError
            If counts are given to LDA, in which votes do not depend on a truth.
        """
        if counts is None:
            return softmax(self.result.outputs(x)["cluster_logits"][0, :, : self.num_clusters], axis=-1)
        if self.vote_model != "urn":
            raise ValueError(
                "Expected no counts with LDA, where the votes of others carry no information, found some. Leave them "
                "out."
            )
        return _given_votes(self.result, np.asarray(x, np.float32), np.asarray(counts, np.int32), batch_size)


def _given_votes(result: FitResult, x: NDArray, counts: NDArray, batch_size: int) -> NDArray:
    """Compute cluster probabilities of the urn, averaged over the posterior of the truth."""
    shared = result.guide.continuous.median(result.params)  # type: ignore[attr-defined]
    params = {**result.params, **shared}
    posterior = _truth_posterior(result.model)
    chunks = []
    for i in range(0, len(x), batch_size):
        truth = posterior(params, x=x[i : i + batch_size], counts=counts[i : i + batch_size])["y"][:, 0]
        chunks.append(np.asarray(cluster_probs(truth, shared["skill"], shared["errors"])))
    return np.concatenate(chunks)


@lru_cache(maxsize=32)
def _truth_posterior(model: Callable) -> Callable:
    return jax.jit(lambda params, **data: marginals(model, ["y"], params=params)(**data))


def equal_sizes(num_people: int, num_clusters: int) -> tuple[int, ...]:
    """Split people into clusters whose sizes differ by at most one, larger ones first.

    Raises
    ------
    ValueError
        If there are more clusters than people, or none.
    """
    if not 1 <= num_clusters <= num_people:
        raise ValueError(
            f"Expected between 1 and {num_people} clusters, as many as there are people at most, found {num_clusters}."
        )
    return tuple(len(part) for part in np.array_split(np.arange(num_people), num_clusters))


def fit_clusters(
    rng_key: Array,
    x: Any,
    counts: Any,
    num_clusters: Sequence[int],
    *,
    vote_model: VoteModel = "urn",
    num_people: int | None = None,
    alphas: Sequence[float] = (50.0,),
    seeds: int = 1,
    validation_share: float = 0.1,
    hidden: tuple[int, ...] = (128,),
    schedule: Schedule = CLUSTER_SCHEDULE,
    progress: bool = True,
) -> list[ClusterRun]:
    """Fit clusters of people to anonymous votes.

    With LDA, all numbers of clusters, concentrations and seeds form one batch of runs, compiled once: every run has
    networks for the largest number, and surplus clusters have a concentration near zero. With the urn, cluster sizes
    are part of the program: the seeds of each number of clusters form one batch.

    Parameters
    ----------
    rng_key : Array
        A typed key.
    x : array, shape (N, ...)
        Inputs.
    counts : array of int, shape (N, C)
        Anonymous votes for each category.
    num_clusters : sequence of int
        Numbers of clusters.
    vote_model : {"urn", "lda"}
        ``annotator_urn`` or ``annotator_lda``.
    num_people : int, optional
        People behind the votes, for the urn: by default the largest number of votes on an item.
    alphas : sequence of float
        Concentrations, for LDA.
    seeds : int
        Number of seeds, of networks and mini-batches.
    validation_share : float
        Share of the items held out to choose the epoch.
    hidden : tuple of int
        Widths of the hidden layers; for images, channels of the convolutions.
    schedule : Schedule
        Steps and optimiser.
    progress : bool
        Whether to show progress bars.

    Returns
    -------
    list of ClusterRun
        One run for every number of clusters, concentration (of LDA) and seed, in this order.

    Raises
    ------
    ValueError
        If an argument is malformed.
    """
    x, counts = np.asarray(x), np.asarray(counts)
    most = int(counts.sum(1).max())
    people = most if num_people is None else num_people
    _check_request(num_clusters, seeds, vote_model, people, most)
    split_key, *keys = jax.random.split(rng_key, seeds + 1)
    order = np.asarray(jax.random.permutation(split_key, len(x)))
    held = int(len(x) * validation_share)
    parts = [{"x": x[rows], "counts": counts[rows].astype(np.int32)} for rows in (order[held:], order[:held])]
    shape = _Setting(x.shape[1:], counts.shape[1], tuple(hidden), schedule, len(parts[0]["x"]), most)

    def run(build: tuple, copies: int, arguments: dict) -> FitResult:
        model, guide, optimizer = build
        return fit(
            jnp.tile(jnp.stack(keys), copies),
            model,
            guide,
            parts[0],
            optimizer,
            epochs=schedule.epochs(shape.num_items),
            batch_size=schedule.batch(shape.num_items),
            arguments=arguments,
            validation=parts[1] if held else None,
            progress=progress,
        )

    if vote_model == "urn":
        fits = {k: run(_urn(shape, equal_sizes(people, k)), 1, {}) for k in num_clusters}
        return [ClusterRun("urn", k, s, np.nan, fits[k], s) for k in num_clusters for s in range(seeds)]
    settings = [(k, a) for k in num_clusters for a in alphas]
    largest = max(num_clusters)
    alpha = [[a] * k + [INACTIVE] * (largest - k) for k, a in settings for _ in range(seeds)]
    batch = run(_lda(shape, largest), len(settings), {"alpha": PerRun(np.array(alpha, np.float32))})
    runs = [(k, s, a) for k, a in settings for s in range(seeds)]
    return [ClusterRun("lda", *run, batch, i) for i, run in enumerate(runs)]


def _check_request(num_clusters: Sequence[int], seeds: int, vote_model: str, people: int, most: int) -> None:
    if vote_model not in get_args(VoteModel):
        raise ValueError(f"Expected a vote_model out of {', '.join(get_args(VoteModel))}, found {vote_model!r}.")
    if not num_clusters or min(num_clusters) < 1 or len(set(num_clusters)) < len(num_clusters):
        raise ValueError(f"Expected distinct numbers of clusters from 1 up, found {list(num_clusters)}.")
    if seeds < 1:
        raise ValueError(f"Expected at least one seed, found {seeds}.")
    if vote_model == "urn":
        if people < most:
            raise ValueError(
                f"Expected as many people as votes on an item, since nobody votes twice, found {people} people and "
                f"an item with {most} votes. Raise the number of people, or take LDA."
            )
        equal_sizes(people, max(num_clusters))


class _Setting(NamedTuple):
    """Sizes and settings that programs are built from."""

    item: tuple[int, ...]
    num_categories: int
    hidden: tuple[int, ...]
    schedule: Schedule
    num_items: int
    max_votes: int

    def network(self) -> Callable:
        return network_for(self.item, self.hidden, self.num_categories)

    def optimizer(self) -> optax.GradientTransformation:
        return self.schedule.optimizer(self.num_items)


@lru_cache(maxsize=32)
def _lda(shape: _Setting, num_clusters: int) -> tuple:
    networks = partial(Ensemble, shape.network(), num_clusters)
    model = partial(annotator_lda, clusters=networks, max_votes=shape.max_votes)
    return model, mean_field(model), shape.optimizer()


@lru_cache(maxsize=32)
def _urn(shape: _Setting, sizes: tuple[int, ...]) -> tuple:
    from numpyro.handlers import block
    from numpyro.infer.autoguide import AutoDelta
    from numpyro.infer.initialization import init_to_mean

    model = partial(annotator_urn, truth=shape.network(), sizes=sizes, num_items=shape.num_items)
    # From random starts two clusters may merge, and rarely separate again: the prior's means differ.
    shared = AutoDelta(block(model, hide=["y"]), init_loc_fn=init_to_mean)
    return model, exact(model, continuous=shared), shape.optimizer()


def held_out(runs: Sequence[ClusterRun], x: Any, counts: Any, *, batch_size: int = 1000) -> list[dict[str, float]]:
    """Compute the log-probability of held-out votes, in their order, given x: by the bound, and exactly if feasible.

    Parameters
    ----------
    runs : sequence of ClusterRun
        Runs of :func:`fit_clusters`.
    x : array, shape (N, ...)
        Inputs of held-out items.
    counts : array of int, shape (N, C)
        Their votes.
    batch_size : int
        Items at a time.

    Returns
    -------
    list of dict
        For every run ``elbo`` and ``evidence``, sums over the items in nats. The evidence of LDA is NaN if the sum over
        assignments has too many terms. The bound of the urn is exact.
    """
    x, counts = jnp.asarray(x, jnp.float32), jnp.asarray(counts, jnp.int32)
    orders = float((gammaln(counts.sum(1) + 1.0) - gammaln(counts + 1.0).sum(1)).sum())
    bounds: dict[int, NDArray] = {}
    rows = []
    for run in runs:
        if id(run.fits) not in bounds:
            compiled, data = run.fits.compiled, {"x": x, "counts": counts}
            loss = total_loss(compiled.local_loss, run.fits.leaves, run.fits.best_state, data, batch_size)
            bounds[id(run.fits)] = -loss - orders
        elbo = float(bounds[id(run.fits)][run.index])
        rows.append({"elbo": elbo, "evidence": elbo if run.vote_model == "urn" else _evidence(run, x, counts)})
    return rows


def _evidence(run: ClusterRun, x: Array, counts: Array) -> float:
    most = int(counts.sum(1).max())
    if evidence_states(most, run.num_clusters) > MAX_STATES:
        return float("nan")
    log_probs = np.log(np.maximum(run.cluster_probs(x), 1e-30))
    return float(lda_evidence(votes_of_counts(np.asarray(counts)), jnp.asarray(log_probs), run.alpha).sum())
