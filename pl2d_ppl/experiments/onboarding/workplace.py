"""People who have annotated a few items each, and the day on which they decide."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from numpy.typing import NDArray

from pl2d_ppl.data import Annotated
from pl2d_ppl.data.splits import mean_and_scale
from pl2d_ppl.data.votes import vote_counts
from pl2d_ppl.experiments.onboarding.firm import Firm, kept_items, replaced_people
from pl2d_ppl.experiments.onboarding.options import OnboardingOptions
from pl2d_ppl.networks import Frozen
from pl2d_ppl.people.membership import Membership
from pl2d_ppl.people.place_in_clusters import place_people

__all__ = ["Workplace", "annotated_items", "open_workplace"]


class Workplace(NamedTuple):
    """People who have annotated a few items each, and the day on which they decide.

    Attributes
    ----------
    staff, newcomers : Annotated
        Items that the staff, and the newcomers, annotated, with truth.
    staff_membership, newcomer_membership : array, shape (K, M) and (K, R), or None
        Memberships of the staff, and of the newcomers.
    members : Membership or None
        The posterior of everybody's membership.
    unlabelled : array, shape (N'', ...)
        Items without annotations or truth, on which offsets are fitted.
    test : Annotated
        Items to decide, with annotations of everybody.
    present : tuple of str
        Names of the people present on the day.
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
    """A network that reads the first columns of its input."""

    def __init__(self, network: nnx.Module, size: int):
        self.network, self.size = network, size

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.network(x[:, : self.size])


def open_workplace(rng_key: jax.Array, firm: Firm, options: OnboardingOptions, num_context: int) -> Workplace:
    """Let identified people annotate a few items, place them among the clusters, and prepare the day of decisions.

    Parameters
    ----------
    rng_key : Array
        A typed key.
    firm : Firm
        From :func:`~pl2d_ppl.experiments.onboarding.firm.set_up_firm`.
    options : OnboardingOptions
        Settings.
    num_context : int
        Number of items that each person annotates, N'.

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
    chosen = annotated_items(item_key, len(pool), len(firm.groups), num_context, options.own_items)
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


def annotated_items(rng_key: jax.Array, num_items: int, num_people: int, number: int, own: bool) -> NDArray[np.bool_]:
    """Choose who annotates what, shape (items, people): all people the same items, or each person separate ones."""
    keys = jax.random.split(rng_key, num_people) if own else [rng_key] * num_people
    chosen = np.zeros((num_items, num_people), bool)
    for person, key in enumerate(keys):
        chosen[np.asarray(jax.random.permutation(key, num_items))[:number], person] = True
    return chosen


def _with_confidence(firm: Firm) -> tuple[NDArray, Frozen]:
    """Append the standardised log-odds of the AI's first choice to the inputs; return them, and an AI for them."""
    probs = np.asarray(jax.nn.softmax(firm.classifier(jnp.asarray(firm.x)), -1), np.float64).max(-1)
    log_odds = np.log(probs) - np.log(np.maximum(1 - probs, 1e-6))
    mean, scale = mean_and_scale(log_odds[: firm.num_training, None])
    column = (log_odds[:, None] - mean) / scale
    network = _Columns(firm.classifier.module, firm.x.shape[1])
    return np.column_stack([firm.x, column]).astype(np.float32), Frozen.of(network)
