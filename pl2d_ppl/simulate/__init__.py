"""Simulated people: their annotations, and anonymous votes."""

from pl2d_ppl.simulate.anonymous import anonymise
from pl2d_ppl.simulate.digits import digits
from pl2d_ppl.simulate.instance import instance_dependent_experts
from pl2d_ppl.simulate.people import simulate_people
from pl2d_ppl.simulate.rates import realised_error
from pl2d_ppl.simulate.superclass import superclass_experts

__all__ = [
    "anonymise",
    "digits",
    "instance_dependent_experts",
    "realised_error",
    "simulate_people",
    "superclass_experts",
]
