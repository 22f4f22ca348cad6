"""Settings of an onboarding experiment."""

import dataclasses
from typing import Literal

from pl2d_ppl.clusters.fit import VoteModel
from pl2d_ppl.experiments.methods import METHODS
from pl2d_ppl.inference.schedule import Schedule

__all__ = ["OnboardingOptions"]

ONBOARDING_SCHEDULE = Schedule(steps=400)
GateInput = Literal["features", "features+confidence"]


@dataclasses.dataclass(frozen=True)
class OnboardingOptions:
    """Settings of an onboarding experiment.

    Attributes
    ----------
    people : int
        People on the staff, M.
    rates : tuple of float
        Nominal error rate of each group of people; group sizes differ by at most one.
    clusters : int
        Number of clusters, K.
    vote_model : {"urn", "lda"}
        Program that finds clusters in the votes.
    alpha : float
        Concentration of LDA.
    own_items : bool
        Whether each person annotates separate items, instead of everybody annotating the same ones.
    replaced : float
        Share of the staff that is replaced between training and test.
    gate_input : {"features", "features+confidence"}
        Whether gates see the AI's confidence besides the features of an item.
    coverages : tuple of float
        Targets.
    methods : tuple of str
        Methods out of :data:`~pl2d_ppl.experiments.methods.METHODS`.
    schedule : Schedule
        Steps and optimiser of the gates.
    gate_hidden : tuple of int
        Widths of the hidden layers of the gates; for images, channels of the convolutions.
    hidden : tuple of int
        The same for the AI and the cluster networks.
    cluster_steps, ai_steps : int
        Steps of the cluster networks, and of the AI.
    training_items, test_items, unlabelled_items : int
        Largest numbers of items for training, for the test, and for fitting offsets (unlabelled).
    """

    people: int = 6
    rates: tuple[float, ...] = (0.05, 0.2, 0.35)
    clusters: int = 3
    vote_model: VoteModel = "urn"
    alpha: float = 50.0
    own_items: bool = False
    replaced: float = 0.0
    gate_input: GateInput = "features"
    coverages: tuple[float, ...] = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    methods: tuple[str, ...] = METHODS
    schedule: Schedule = ONBOARDING_SCHEDULE
    gate_hidden: tuple[int, ...] = (128, 128)
    hidden: tuple[int, ...] = (128,)
    cluster_steps: int = 1000
    ai_steps: int = 2000
    training_items: int = 20000
    test_items: int = 4000
    unlabelled_items: int = 1000

    def __post_init__(self) -> None:
        """Check the settings that need no data."""
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
