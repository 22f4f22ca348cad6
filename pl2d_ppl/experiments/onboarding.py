"""The onboarding experiment of paper B: from anonymous votes to deferral, with few items on which people are known."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from numpy.typing import NDArray

from pl2d_ppl.clusters.fit import ClusterRun, ClusterTraining, ProgramName, fit_clusters
from pl2d_ppl.data import Annotated
from pl2d_ppl.data.splits import mean_and_scale
from pl2d_ppl.data.votes import vote_counts
from pl2d_ppl.deferral.classifier import train_classifier
from pl2d_ppl.experiments.curve import evaluate_curve
from pl2d_ppl.experiments.learned import Learned
from pl2d_ppl.experiments.methods import METHODS, Task, learn
from pl2d_ppl.inference.schedule import Training
from pl2d_ppl.networks import Frozen
from pl2d_ppl.people.membership import Membership
from pl2d_ppl.people.place_in_clusters import place_people
from pl2d_ppl.simulate import anonymise, instance_dependent_experts

__all__ = [
    "Firm",
    "OnboardingOptions",
    "Workplace",
    "kept_items",
    "learn_and_join",
    "onboard",
    "open_workplace",
    "replaced_people",
    "set_up_firm",
]

GateInput = Literal["features", "features+confidence"]


@dataclasses.dataclass(frozen=True)
class OnboardingOptions:
    """Settings of an onboarding experiment.

    Attributes
    ----------
    people : int
        People on the staff, M.
    rates : tuple of float
        Nominal error rates of groups of as many people each.
    clusters : int
        Number of clusters, K.
    program : {"urn", "lda"}
        Which program finds clusters in the votes.
    alpha : float
        Concentration, of LDA.
    own_items : bool
        Whether everybody annotates items of their own, instead of all the same ones.
    replaced : float
        Share of the staff that is replaced between training and test.
    gate_input : {"features", "features+confidence"}
        Whether gates see how sure the AI is, besides the features of an item.
    coverages : tuple of float
        Targets.
    methods : tuple of str
        Out of :data:`~pl2d_ppl.experiments.methods.METHODS`.
    training : Training
        Of the gates.
    hidden : tuple of int
        Widths of the hidden layers of the AI and of the cluster networks; of images, channels of the convolutions.
    cluster_steps, ai_steps : int
        Steps of the cluster networks, and of the AI.
    training_items, test_items, unlabelled_items : int
        At most; the last are those on which offsets are fitted.
    """

    people: int = 6
    rates: tuple[float, ...] = (0.05, 0.2, 0.35)
    clusters: int = 3
    program: ProgramName = "urn"
    alpha: float = 50.0
    own_items: bool = False
    replaced: float = 0.0
    gate_input: GateInput = "features"
    coverages: tuple[float, ...] = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    methods: tuple[str, ...] = METHODS
    training: Training = dataclasses.field(default_factory=lambda: Training(steps=400))
    hidden: tuple[int, ...] = (128,)
    cluster_steps: int = 1000
    ai_steps: int = 2000
    training_items: int = 20000
    test_items: int = 4000
    unlabelled_items: int = 1000

    def __post_init__(self) -> None:
        """Check what can be checked without data."""
        unknown = [name for name in self.methods if name not in METHODS]
        if unknown or not self.methods:
            raise ValueError(f"Expected methods out of {', '.join(METHODS)}, found {unknown or 'none'}.")
        if not self.rates or self.people < len(self.rates):
            raise ValueError(
                f"Expected at least as many people as error rates, found {self.people} people and {len(self.rates)} "
                "rates. Raise people, or name fewer rates."
            )
        if not 0 <= self.replaced <= 1:
            raise ValueError(f"Expected a share of replaced people between 0 and 1, found {self.replaced}.")


class Firm(NamedTuple):
    """What is there before anybody is known by name: an AI, and clusters in anonymous votes.

    Attributes
    ----------
    x : array, shape (N, ...)
        All items in random order, standardised on the training part.
    y : array of int, shape (N,)
        Truth.
    groups : array of int, shape (M + R,)
        Group of everybody, those who will be replaced first, and then the R newcomers.
    annotations : array of int, shape (N, M + R)
        What everybody says of everything.
    num_categories, num_training : int
        C, and how many items the AI and the clusters were trained on, which come first.
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


class Workplace(NamedTuple):
    """People who have annotated a few items each, and the day on which they decide.

    Attributes
    ----------
    staff, newcomers : Annotated
        Items that the staff, and newcomers, annotated, with truth.
    staff_membership, newcomer_membership : array, shape (K, M) and (K, R), or None
        Where they belong.
    members : Membership or None
        The posterior of everybody's membership.
    unlabelled : array, shape (N'', ...)
        Items without annotations or truth, on which offsets are fitted.
    test : Annotated
        Items to decide on, with what everybody would say.
    present : tuple of str
        Who is there on the day.
    classifier : Frozen
        The AI, which reads its part of x.
    """

    staff: Annotated
    newcomers: Annotated | None
    staff_membership: NDArray | None
    newcomer_membership: NDArray | None
    members: Membership | None
    unlabelled: NDArray
    test: Annotated
    present: tuple[str, ...]
    classifier: Frozen


class _Columns(nnx.Module):
    """A network of the first columns of its input."""

    def __init__(self, network: nnx.Module, size: int):
        self.network, self.size = network, size

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.network(x[:, : self.size])


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
    """Simulate people, train the AI on the truth, and find clusters in the people's anonymous votes.

    Parameters
    ----------
    rng_key : Array
        A typed key.
    x : array, shape (N, ...)
        Inputs.
    y : array of int, shape (N,)
        Truth, known everywhere.
    num_categories : int
        C.
    options : OnboardingOptions
        Settings.
    reserved : int
        Items kept for annotation by known people.
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
        steps=options.ai_steps,
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
            program=options.program,
            num_people=options.people,
            alphas=(options.alpha,),
            training=ClusterTraining(hidden=options.hidden, steps=options.cluster_steps),
            progress=progress,
        )
        run = runs[0]
    return Firm(x, y, groups, annotations, num_categories, num_training, classifier, run)


def kept_items(num_items: int, options: OnboardingOptions) -> tuple[int, int, int]:
    """Numbers of items to test, to fit offsets on, and to train on at the least."""
    test, unlabelled = min(options.test_items, num_items // 4), min(options.unlabelled_items, num_items // 8)
    return test, unlabelled, min(options.training_items, num_items // 4)


def replaced_people(groups: NDArray, share: float) -> NDArray:
    """Choose who of the staff is replaced, as evenly over groups as can be.

    Parameters
    ----------
    groups : array of int, shape (M,)
        Group of everybody.
    share : float
        Share of the staff, between 0 and 1.

    Returns
    -------
    array of int, shape (round(share M),)
        Who, in increasing order.
    """
    number = round(share * len(groups))
    ranks = np.array([np.sum(groups[:i] == g) for i, g in enumerate(groups)])
    return np.sort(np.lexsort((groups, ranks))[:number])


def open_workplace(rng_key: jax.Array, firm: Firm, options: OnboardingOptions, num_context: int) -> Workplace:
    """Let known people annotate a few items, place them among the clusters, and set the day on which they decide.

    Parameters
    ----------
    rng_key : Array
        A typed key.
    firm : Firm
        From :func:`set_up_firm`.
    options : OnboardingOptions
        Settings.
    num_context : int
        Items that everybody annotates, N'.

    Returns
    -------
    Workplace
        Annotated items, memberships, and the test part.

    Raises
    ------
    ValueError
        If there are too few items.
    """
    test, unlabelled, _ = kept_items(len(firm.x), options)
    pool = np.arange(firm.num_training, len(firm.x) - test - unlabelled)
    if num_context > len(pool):
        raise ValueError(f"Expected at most {len(pool)} context items, which are left, found {num_context}.")
    item_key, place_key, new_key = jax.random.split(rng_key, 3)
    chosen = _annotated_items(item_key, len(pool), len(firm.groups), num_context, options.own_items)
    names = tuple(f"person {m}" for m in range(len(firm.groups)))
    x, classifier = _with_confidence(firm) if options.gate_input == "features+confidence" else (firm.x, firm.classifier)
    classes = tuple(map(str, range(firm.num_categories)))
    said = np.where(chosen, firm.annotations[pool], -1)
    parts = []
    for people in (slice(0, options.people), slice(options.people, None)):
        rows = chosen[:, people].any(1)
        own = pool[rows]
        data = (x[own], firm.y[own], said[rows, people])
        parts.append(Annotated(*data, classes=classes, annotators=names[people]) if rows.any() else None)
    staff, newcomers = parts
    assert staff is not None
    members = newcomer_members = None
    if firm.clusters is not None:
        counts = vote_counts(said[:, : options.people], firm.num_categories)
        seen = chosen[:, : options.people].any(1)
        at = (firm.x[pool[seen]], counts[seen], staff.annotations)
        members = place_people(place_key, firm.clusters, *at, people=staff.annotators)
        if newcomers is not None:
            seen = chosen[:, options.people :].any(1)
            at = (firm.x[pool[seen]], counts[seen], newcomers.annotations)
            newcomer_members = place_people(new_key, firm.clusters, *at, people=newcomers.annotators, voted=False)
    gone = set(replaced_people(firm.groups[: options.people], options.replaced).tolist())
    last = slice(len(firm.x) - test, None)
    before = slice(len(firm.x) - test - unlabelled, len(firm.x) - test)
    return Workplace(
        staff,
        newcomers,
        None if members is None else members.soft,
        None if newcomer_members is None else newcomer_members.soft,
        members if newcomer_members is None or members is None else members.join(newcomer_members),
        x[before],
        Annotated(x[last], firm.y[last], firm.annotations[last], classes=classes, annotators=names),
        tuple(name for m, name in enumerate(names) if m not in gone),
        classifier,
    )


def _annotated_items(rng_key: jax.Array, num_items: int, num_people: int, number: int, own: bool) -> NDArray[np.bool_]:
    """Who annotates what, shape (items, people): all the same items, or everybody some of their own."""
    keys = jax.random.split(rng_key, num_people) if own else [rng_key] * num_people
    chosen = np.zeros((num_items, num_people), bool)
    for person, key in enumerate(keys):
        chosen[np.asarray(jax.random.permutation(key, num_items))[:number], person] = True
    return chosen


def _with_confidence(firm: Firm) -> tuple[NDArray, Frozen]:
    """Inputs with the log-odds of the AI's first choice, standardised, as a last column; and the AI of these."""
    probs = np.asarray(jax.nn.softmax(firm.classifier(jnp.asarray(firm.x)), -1), np.float64).max(-1)
    log_odds = np.log(probs) - np.log(np.maximum(1 - probs, 1e-6))
    mean, scale = mean_and_scale(log_odds[: firm.num_training, None])
    column = (log_odds[:, None] - mean) / scale
    network = _Columns(firm.classifier.module, firm.x.shape[1])
    return np.column_stack([firm.x, column]).astype(np.float32), Frozen.of(network)


def onboard(
    rng_key: jax.Array,
    place: Workplace,
    options: OnboardingOptions,
    *,
    on_method: Callable[[], None] = lambda: None,
) -> dict[str, dict[str, Any]]:
    """Train every method on what the staff annotated, add newcomers without training, and evaluate on the day.

    Parameters
    ----------
    rng_key : Array
        A typed key.
    place : Workplace
        From :func:`open_workplace`.
    options : OnboardingOptions
        Settings.
    on_method : callable
        Called after every method, for a progress bar.

    Returns
    -------
    dict of str to dict
        For every method what :func:`~pl2d_ppl.experiments.curve.evaluate_curve` tells.
    """
    rows = {}
    for name in options.methods:
        learned = learn_and_join(name, rng_key, place, options)
        rows[name] = evaluate_curve(
            learned, place.unlabelled, place.test, options.coverages, staff=place.present, rng_key=rng_key
        )
        on_method()
    return rows


def learn_and_join(name: str, rng_key: jax.Array, place: Workplace, options: OnboardingOptions) -> Learned:
    """Train a method on what the staff annotated, and add newcomers without training.

    Parameters
    ----------
    name : str
        The method.
    rng_key : Array
        A typed key; with the same for all methods, networks of the same shape start alike.
    place : Workplace
        From :func:`open_workplace`.
    options : OnboardingOptions
        Settings.

    Returns
    -------
    Learned
        The method.
    """
    task = Task(place.staff, options.coverages, options.training, place.classifier, place.staff_membership)
    learned = learn(name, rng_key, task)
    if place.newcomers is None:
        return learned
    return learned.join(jax.random.fold_in(rng_key, 1), place.newcomers, place.newcomer_membership)
