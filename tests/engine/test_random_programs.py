"""The engine against the oracle by brute force, on random programs."""

import re
import zlib
from collections import Counter
from unittest import mock

import jax
import pytest
from engine.random_checks import EXTRAS, Case, check_inference, check_mean_field
from engine.random_programs import names
from engine.random_strategies import chains, chosen, conjugate, crossed, dirichlets, programs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.internal.conjecture.engine import ConjectureRunner

MOST_REFUSED = 0.05  # of programs that are valid


class Tally:
    """Counts of programs that are right and refused, by what is in them."""

    def __init__(self):
        self.counts = Counter()

    def attempt(self, check, case, kinds):
        """Run a check; whether it was refused, with a message that names a site of the program."""
        refusal = None
        try:
            check(case)
        except ValueError as error:
            refusal = error
        named = [name for name in names(case.program) if re.search(rf"\b{name}", str(refusal))]
        assert refusal is None or named, f"refused, but no site is named: {refusal}"
        outcome = "right" if refusal is None else "refused"
        self.counts.update((kind, outcome) for kind in {"all", *kinds})
        return outcome == "refused"

    def report(self):
        """Print the table."""
        kinds = sorted({kind for kind, _ in self.counts})
        print(f"\n{'':28} right refused")
        for kind in kinds:
            print(f"{kind:28} {self.counts[kind, 'right']:5} {self.counts[kind, 'refused']:7}")

    def assert_few_refused(self, kind="all"):
        """Refusals of valid programs are rare."""
        refused, right = self.counts[kind, "refused"], self.counts[kind, "right"]
        assert refused <= MOST_REFUSED * (refused + right), f"{refused} of {refused + right} were refused"


def various():
    """Let Hypothesis draw each example anew: five of six would be a small change of the one before."""
    return mock.patch.object(ConjectureRunner, "generate_mutations_from", return_value=None)


def each(strategy, count):
    """Decorate a check: call it with that many examples, the same ones every time."""

    def decorated(check):
        return settings(
            max_examples=count,
            derandomize=True,
            database=None,
            deadline=None,
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        )(given(strategy)(check))

    return decorated


def examples(count):
    """Check that many programs: evidence, gradient, marginals and exact guide of each, and one thing more."""
    tally, made = Tally(), Counter()

    @each(st.one_of(programs(), programs(), programs(), chains()), count)
    def check(program):
        case, extra = Case(program), list(EXTRAS)[zlib.crc32(repr(program).encode()) % len(EXTRAS)]
        made["programs"] += 1
        if made["programs"] % 200 == 0:
            jax.clear_caches()
        if not tally.attempt(check_inference, case, case.features):
            tally.attempt(EXTRAS[extra], case, {f"check {extra}"})

    with various():
        check()
    tally.report()
    tally.assert_few_refused()


@pytest.mark.slow
def test_random_programs_have_the_evidence_the_marginals_and_the_bounds_of_brute_force():
    examples(20)


@pytest.mark.exhaustive
def test_three_hundred_random_programs():
    examples(300)


@pytest.mark.exhaustive
def test_ten_thousand_random_programs_have_the_evidence_the_marginals_and_the_bounds_of_brute_force():
    examples(10_000)


@pytest.mark.slow
def test_mean_field_of_dirichlets_stays_below_the_evidence_and_refuses_what_is_not_conjugate():
    of_dirichlets(5)


@pytest.mark.exhaustive
def test_mean_field_of_many_dirichlets():
    of_dirichlets(60)


def of_dirichlets(count):
    """Check that many programs with Dirichlet sites."""
    tally = Tally()

    @each(dirichlets(), count)
    def check(program):
        case, kind = Case(program), "conjugate" if conjugate(program) else "not conjugate"
        refused = tally.attempt(check_mean_field, case, {"chosen" if chosen(program) else kind})
        assert conjugate(program) or not case.latent or refused, "not conjugate, and not refused"

    with various():
        check()
    tally.report()
    tally.assert_few_refused("conjugate")


@pytest.mark.slow
def test_sites_in_crossed_plates_are_right_by_mean_field_and_right_or_refused_by_exact_sums():
    of_crossed_plates(3)


@pytest.mark.exhaustive
def test_many_sites_in_crossed_plates():
    of_crossed_plates(60)


def of_crossed_plates(count):
    """Check that many programs of two plates that cross."""
    tally = Tally()

    @each(crossed(), count)
    def check(program):
        case = Case(program)
        tally.attempt(check_inference, case, {"exact"})
        tally.attempt(check_mean_field, case, {"mean field"})

    with various():
        check()
    tally.report()
    tally.assert_few_refused("mean field")
