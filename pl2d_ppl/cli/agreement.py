"""Agreement beyond chance, as ``pl2d data describe`` shows it."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from pl2d_ppl.data import Annotated
from pl2d_ppl.data.agreement import Agreement, Pairs
from pl2d_ppl.data.tables.numbers import as_number

__all__ = ["agreement_lines", "agreement_values", "is_ordered"]

MOST_SHOWN = 10  # labels in one line


def is_ordered(classes: Sequence[str]) -> bool:
    """Whether categories are numbers in their order."""
    values = [as_number(name) for name in classes]
    return len(classes) > 2 and None not in values and values == sorted(v for v in values if v is not None)


def agreement_lines(data: Annotated, found: Agreement) -> list[str]:
    """Lines of a summary; none if nobody annotated the same item as another."""
    if math.isnan(found.alpha):
        return []
    ordinal = f", {found.alpha_ordinal:.3f} (ordinal)" if is_ordered(data.classes) else ""
    krippendorff = f"Krippendorff's alpha {found.alpha:.3f} (nominal){ordinal}"
    lines = [f"beyond chance: Fleiss' kappa {found.fleiss:.3f}; {krippendorff}"]
    order = np.argsort(-np.nan_to_num(found.by_label, nan=-np.inf), kind="stable")
    labels = [f"{data.classes[c]} {found.by_label[c]:.3f}" for c in order if not math.isnan(found.by_label[c])]
    if len(labels) > 2:
        half = MOST_SHOWN // 2
        shown = labels if len(labels) <= MOST_SHOWN else [*labels[:half], "...", *labels[-half:]]
        lines.append(f"alpha by label: {', '.join(shown)}")
    if found.pairs is not None and len(found.pairs.kappa):
        lines += _of_pairs(data, found.pairs)
    return lines


def _of_pairs(data: Annotated, pairs: Pairs) -> list[str]:
    known = np.flatnonzero(np.isfinite(pairs.kappa))
    if not len(known):
        return []
    order = known[np.argsort(pairs.kappa[known], kind="stable")]

    def told(p: int) -> str:
        names = f"{data.annotators[pairs.first[p]]} and {data.annotators[pairs.second[p]]}"
        return f"{pairs.kappa[p]:.3f} ({names}, {pairs.items[p]:,} items)"

    if len(known) == 1:
        return [f"Cohen's kappa: {told(int(order[0]))}"]
    middle = float(np.median(pairs.kappa[known]))
    return [
        f"Cohen's kappa of {len(known):,} pairs: lowest {told(int(order[0]))}, median {middle:.3f}, highest "
        f"{told(int(order[-1]))}"
    ]


def agreement_values(data: Annotated, found: Agreement) -> dict[str, Any]:
    """The same as JSON values, None where unknown."""
    values: dict[str, Any] = {
        "fleiss": _known(found.fleiss),
        "alpha": _known(found.alpha),
        "alpha_ordinal": _known(found.alpha_ordinal),
        "alpha_by_label": {name: _known(v) for name, v in zip(data.classes, found.by_label.tolist(), strict=True)},
    }
    if found.pairs is not None:
        columns = (found.pairs.first, found.pairs.second, found.pairs.items, found.pairs.agree, found.pairs.kappa)
        values["pairs"] = [
            {"people": [data.annotators[a], data.annotators[b]], "items": n, "agree": share, "kappa": _known(kappa)}
            for a, b, n, share, kappa in zip(*(column.tolist() for column in columns), strict=True)
        ]
    return values


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
