"""The setting before any person is identified: people, an AI, and clusters in anonymous votes."""

from typing import NamedTuple

import jax
import numpy as np
from numpy.typing import NDArray

from pl2d_ppl.clusters.fit import CLUSTER_SCHEDULE, ClusterRun, fit_clusters
from pl2d_ppl.data.splits import mean_and_scale
from pl2d_ppl.data.votes import vote_counts
from pl2d_ppl.deferral.classifier import CLASSIFIER_SCHEDULE, train_classifier
from pl2d_ppl.experiments.onboarding.options import OnboardingOptions
from pl2d_ppl.networks import Frozen
from pl2d_ppl.simulate import anonymise, instance_dependent_experts

__all__ = ["Firm", "kept_items", "most_context", "replaced_people", "reserved_items", "set_up_firm"]


class Firm(NamedTuple):
    """The setting before any person is identified: an AI, and clusters in anonymous votes.

    Attributes
    ----------
    x : array, shape (N, ...)
        All items in random order, standardised on the training part.
    y : array of int, shape (N,)
        Truth.
    groups : array of int, shape (M + R,)
        Group of each person: first the people who will be replaced, last the R newcomers.
    annotations : array of int, shape (N, M + R)
        Annotations of all people on all items.
    num_categories, num_training : int
        C, and the number of items that the AI and the clusters were trained on; these items come first.
    classifier : Frozen
        The AI.
    clusters : ClusterRun or None
        The clusters.
    """

    x: NDArray
    y: NDArray
    groups: NDArray
    annotations: NDArray
    num_categories: int
    num_training: int
    classifier: Frozen
    clusters: ClusterRun | None


def set_up_firm(
    rng_key: jax.Array,
    x: NDArray,
    y: NDArray,
    num_categories: int,
    options: OnboardingOptions,
    *,
    reserved: int,
    progress: bool = False,
) -> Firm:
    """Simulate people, train the AI on the truth, and find clusters in people's anonymous votes.

    Parameters
    ----------
    rng_key : Array
        A typed key.
    x : array, shape (N, ...)
        Inputs.
    y : array of int, shape (N,)
        Truth, known for all items.
    num_categories : int
        C.
    options : OnboardingOptions
        Settings.
    reserved : int
        Number of items kept for annotation by identified people.
    progress : bool
        Whether to show progress bars.

    Returns
    -------
    Firm
        People, AI and clusters.

    Raises
    ------
    ValueError
        If there are too few items.
    """
    if options.gate_input == "features+confidence" and np.ndim(x) != 2:
        raise ValueError(
            f"Expected features of shape (N, D) beside the AI's confidence, found images, {np.shape(x)}. Let gates see "
            "the features alone."
        )
    order_key, people_key, vote_key, ai_key, cluster_key = jax.random.split(rng_key, 5)
    order = np.asarray(jax.random.permutation(order_key, len(x)))
    test, unlabelled, least = kept_items(len(x), options)
    num_training = min(options.training_items, len(x) - test - unlabelled - reserved)
    if num_training < least:
        raise ValueError(
            f"Expected at least {least} of the {len(x)} items for training, beside {reserved} to annotate, "
            f"{unlabelled} without labels and {test} to test, found {num_training}. Lower the number of context items, "
            "or of people with items of their own."
        )
    x, y = np.asarray(x, np.float32)[order], np.asarray(y)[order]
    mean, scale = mean_and_scale(x[:num_training])
    x = ((x - mean) / scale).astype(np.float32)
    groups = np.sort(np.arange(options.people) % len(options.rates))
    groups = np.concatenate([groups, groups[replaced_people(groups, options.replaced)]])
    rates = np.asarray(options.rates)[groups]
    annotations = instance_dependent_experts(people_key, x.reshape(len(x), -1), y, num_categories, rates)
    classifier = train_classifier(
        ai_key,
        x[:num_training],
        y[:num_training],
        num_categories,
        hidden=options.hidden,
        schedule=CLASSIFIER_SCHEDULE.replace(steps=options.ai_steps),
        progress=progress,
    )
    run = None
    if {"cluster-soft", "cluster-hard", "pooled"} & set(options.methods):
        votes = anonymise(vote_key, annotations[:num_training, : options.people])
        runs = fit_clusters(
            cluster_key,
            x[:num_training],
            vote_counts(votes, num_categories),
            [options.clusters],
            vote_model=options.vote_model,
            num_people=options.people,
            alphas=(options.alpha,),
            hidden=options.hidden,
            schedule=CLUSTER_SCHEDULE.replace(steps=options.cluster_steps),
            progress=progress,
        )
        run = runs[0]
    return Firm(x, y, groups, annotations, num_categories, num_training, classifier, run)


def kept_items(num_items: int, options: OnboardingOptions) -> tuple[int, int, int]:
    """Return the numbers of items for the test, for fitting offsets, and (at least) for training."""
    test, unlabelled = min(options.test_items, num_items // 4), min(options.unlabelled_items, num_items // 8)
    return test, unlabelled, min(options.training_items, num_items // 4)


def most_context(num_items: int, options: OnboardingOptions) -> int:
    """Number of items that may be annotated, if enough items must remain for training."""
    return num_items - sum(kept_items(num_items, options))


def reserved_items(num_items: int, num_context: int, options: OnboardingOptions) -> int:
    """Number of items to annotate: separate items per person as far as possible, at most half of all items."""
    everybody = options.people + round(options.replaced * options.people)
    wanted = num_context * everybody if options.own_items else num_context
    return max(num_context, min(wanted, num_items // 2, most_context(num_items, options)))


def replaced_people(groups: NDArray, share: float) -> NDArray:
    """Choose the staff who are replaced, as evenly over groups as possible.

    Parameters
    ----------
    groups : array of int, shape (M,)
        Group of each person.
    share : float
        Share of the staff to replace, between 0 and 1.

    Returns
    -------
    array of int, shape (round(share M),)
        Indices of the people replaced, in increasing order.
    """
    number = round(share * len(groups))
    ranks = np.array([np.sum(groups[:i] == g) for i, g in enumerate(groups)])
    return np.sort(np.lexsort((groups, ranks))[:number])
