"""A small table, and what compares two datasets."""

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from pl2d_ppl.data import (
    read_table,
)
from pl2d_ppl.data.tables.missing_labels import BESIDE_NUMBERS, MISSING

FIELDS = ("x", "y", "annotations", "group", "coarse", "counts", "items", "classes", "annotators")
SLOW = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def assert_same(left, right, *, but=()):
    for field in set(FIELDS) - set(but):
        np.testing.assert_array_equal(getattr(left, field), getattr(right, field), err_msg=field)
        if isinstance(getattr(right, field), np.ndarray):
            assert getattr(left, field).dtype.kind == getattr(right, field).dtype.kind, field


def text(*lines):
    return "\n".join(lines) + "\n"


def table(tmp_path, *lines, name="data.csv", **options):
    """Write lines, and read them."""
    (tmp_path / name).write_text(text(*lines), encoding="utf-8")
    return read_table(tmp_path / name, **options)[0]


LONG = ("item,annotator,label,truth", "a,ann,cat,cat", "a,bob,dog,cat", "b,ann,dog,dog", "c,bob,,cat")


# Whatever people call things: with commas, quotes and line ends, and no control characters otherwise.
letters = st.characters(exclude_categories=("Cs", "Cc")) | st.sampled_from("\",;\n\r\t'é’")


names = st.text(letters, min_size=1, max_size=6).filter(
    lambda name: name.strip() and name.strip().casefold() not in MISSING | BESIDE_NUMBERS
)
