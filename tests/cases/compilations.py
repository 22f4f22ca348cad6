"""What a fit compiles: see the fixture ``compiled`` of the models' tests."""

PROGRAMS = ("_init", "<lambda>")  # a good fit compiles both: tests/models/cluster_l2d/test_bad_input.py shows it


def programs(names):
    """Those of the compiled functions that are programs of a fit."""
    return [name for name in names if any(program in name for program in PROGRAMS)]
