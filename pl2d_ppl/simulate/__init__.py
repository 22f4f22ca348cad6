"""Simulated people: what they say, which of their annotations go missing, and what is left without names."""

from pl2d_ppl.simulate.anonymous import anonymise, vote_counts, votes_of_counts
from pl2d_ppl.simulate.instance import instance_dependent_experts
from pl2d_ppl.simulate.missing import drop_annotations, subset_annotators
from pl2d_ppl.simulate.people import simulate_people
from pl2d_ppl.simulate.rates import expected_rate, realised_error
from pl2d_ppl.simulate.superclass import superclass_experts

__all__ = [
    "anonymise",
    "drop_annotations",
    "expected_rate",
    "instance_dependent_experts",
    "realised_error",
    "simulate_people",
    "subset_annotators",
    "superclass_experts",
    "vote_counts",
    "votes_of_counts",
]
