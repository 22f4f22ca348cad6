"""What deferral to clusters refuses, before anything is compiled."""

from functools import partial

import numpy as np
import pytest
from cases.cluster_l2d import AI, BATCH, CATEGORIES, CLUSTERS, GUIDE, KEY, MODEL, OMEGA, PEOPLE, program, run
from cases.compilations import PROGRAMS, programs
from programs import Table

from pl2d_ppl import MLP
from pl2d_ppl.distributions.empirical import membership_draws
from pl2d_ppl.guides.exact import exact
from pl2d_ppl.models.cluster_l2d import cluster_l2d
from pl2d_ppl.networks import Frozen


def refused(compiled, message, data=BATCH, model=MODEL, guide=None, **options):
    with pytest.raises(ValueError, match=message):
        run(KEY, model, guide or exact(model, ["w", "v"]), data, epochs=1, **options)
    assert not programs(compiled)


def with_column(*column):
    """Memberships of which the first person has these."""
    membership = OMEGA.copy()
    membership[:, 0] = column
    return membership


ONE_CLUSTER = np.eye(CLUSTERS, dtype=np.float32)[:, [0, 0, 0, 1]]
VALUES = {
    "negative": (
        with_column(1.5, -0.5, 0.0),
        r"membership as .* not negative, .* and least -0.5 at (S = 1, )?'person_0'",
    ),
    "NaN": (with_column(0.5, np.nan, 0.5), r"(found|with sum) (nan|NaN)"),
    "infinite": (with_column(0.5, np.inf, 0.5), r"(with sum inf|found NaN or infinity)"),
    "too much": (with_column(0.5, 0.5, 0.5), r"sum to one over K, .* with sum 1.5 at (S = 1, )?'person_0'"),
    "too little": (with_column(0.0, 0.0, 0.0), r"with sum 0 at (S = 1, )?'person_0'"),
    "transposed": (
        np.full((CLUSTERS, PEOPLE), 0.25),
        r"with sum 0.75 at (S = 1, )?'person_0'. Transpose them, as they sum to one over M",
    ),
    "empty": (ONE_CLUSTER, r"somebody in every cluster, found nobody in cluster 2. Drop that row"),
}


def test_the_good_input_is_compiled(compiled):
    """What the refused differ from."""
    model = partial(cluster_l2d, gating=partial(MLP, CATEGORIES, (2,), CLUSTERS + 1))
    run(KEY, model, exact(model, ["w"]), BATCH, epochs=1, arguments={"membership": OMEGA, "classifier": AI})
    assert all(any(program in name for name in compiled) for program in PROGRAMS)


@pytest.mark.parametrize("kind", VALUES)
def test_bad_memberships(compiled, kind):
    membership, message = VALUES[kind]
    refused(compiled, message, model=partial(MODEL, membership=membership, classifier=AI))
    if kind != "empty":
        draws = np.stack([OMEGA, membership])
        model = partial(MODEL, membership=draws, classifier=AI)
        of_draws = partial(membership_draws, membership=draws)
        refused(compiled, message, model=model, guide=exact(model, ["w", "v"], continuous=of_draws))


@pytest.mark.parametrize("kind", VALUES)
def test_bad_memberships_as_arguments(compiled, kind):
    membership, message = VALUES[kind]
    refused(compiled, message, guide=GUIDE, arguments={"membership": membership, "classifier": AI})


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((PEOPLE,), r"membership of shape \(K, M\), or \(S, K, M\) of draws.*found \(4,\)"),
        ((1, 1, CLUSTERS, PEOPLE), r"found \(1, 1, 3, 4\)"),
        ((CLUSTERS - 1, PEOPLE), r"outputs \(N, K\+1\), found \(2, 4\) and \(12, 4\). The last output is the AI"),
        ((CLUSTERS, PEOPLE - 1), r"annotations of shape \(12, 3\).*found \(12, 4\)"),
    ],
)
def test_memberships_of_bad_shape(compiled, shape, message):
    membership = np.full(shape, 1 / shape[-2] if len(shape) > 1 else 1.0, np.float32)
    refused(compiled, message, guide=GUIDE, arguments={"membership": membership, "classifier": AI})


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"annotations": BATCH["annotations"][:, :3]}, r"annotations of shape \(12, 4\).*found \(12, 3\)"),
        ({"annotations": BATCH["annotations"][:, 0]}, r"annotations of shape \(12, 4\).*found \(12,\)"),
        ({"annotations": BATCH["annotations"][:9]}, "arrays of one length"),
        pytest.param(
            {"annotations": BATCH["annotations"] + 1},
            r"in -1..2, .* in data\['annotations'\], found 3",
            marks=pytest.mark.slow,
        ),
        (
            {"annotations": BATCH["annotations"] - 1},
            r"from -1 up, -1 where missing, in data\['annotations'\], found -2",
        ),
        ({"annotations": BATCH["annotations"].astype(float)}, r"integer labels in data\['annotations'\]"),
        pytest.param({"y": BATCH["y"] + 1}, r"labels in -1..2, .* in data\['y'\], found 3", marks=pytest.mark.slow),
        ({"y": np.full(24, -1)}, r"some truth in data\['y'\], found none"),
    ],
)
def test_bad_labels(compiled, labels, message):
    refused(compiled, message, BATCH | labels, guide=GUIDE, arguments={"membership": OMEGA, "classifier": AI})


@pytest.mark.parametrize(
    ("network", "shape", "message"),
    [
        ("gating", (12, 3), r"found \(3, 4\) and \(12, 3\)"),
        ("classifier", (12, 1, 3), r"classifier \(N, C\).*\(12, 1, 3\)"),
        ("experts", (12, 5, 3), r"experts \(N, M, C\).*'experts': \(12, 5, 3\)"),
        ("experts", (12, 4), r"experts \(N, M, C\).*'experts': \(12, 4\)"),
    ],
)
def test_bad_networks(compiled, network, shape, message):
    good = {"gating": (12, 4), "classifier": (12, 3), "experts": (12, 4, 3)} | {network: shape}
    tables = {name: Frozen.of(Table(np.zeros(s, np.float32))) for name, s in good.items()}
    refused(compiled, message, model=program(tables, membership=OMEGA))
