"""Simulated people: their annotations, and anonymous votes."""

from pl2d_ppl.simulate.anonymous import anonymise
from pl2d_ppl.simulate.digits import digits
from pl2d_ppl.simulate.influenced import ask_again, group_biased_experts, swayed_by_ai
from pl2d_ppl.simulate.instance import instance_dependent_experts
from pl2d_ppl.simulate.people import simulate_people
from pl2d_ppl.simulate.rates import realised_error
from pl2d_ppl.simulate.superclass import superclass_experts

__all__ = [
    "anonymise",
    "ask_again",
    "digits",
    "group_biased_experts",
    "instance_dependent_experts",
    "realised_error",
    "simulate_people",
    "superclass_experts",
    "swayed_by_ai",
]
