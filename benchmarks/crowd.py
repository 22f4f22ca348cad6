"""Named people without truth: inferred truth and classifier of crowd_l2d beside majority, Dawid-Skene, MACE and GLAD.

    python benchmarks/crowd.py labelme --seeds 5
    python benchmarks/crowd.py labelme --gold 0 .01 .05 .2 1

The truth is hidden in training, except for the share of gold. Baselines are those of crowd-kit (pip install
'pl2d_ppl[crowd]'); their classifier is the same network, trained on the labels that they infer. Printed are means
and standard deviations over seeds, in per cent; with annotated test items also the area under accuracy over coverage.
"""

import argparse
import os
from functools import partial
from pathlib import Path

import jax
import numpy as np
import optax
import pandas as pd

from pl2d_ppl import MLP, fit
from pl2d_ppl.data import Annotated, read_data, split, standardise
from pl2d_ppl.engine.guide_tools import no_guide
from pl2d_ppl.experiments.curve import evaluate_curve
from pl2d_ppl.experiments.learned import PooledLearned
from pl2d_ppl.models.classification import classification
from pl2d_ppl.people.crowd import Crowd, fit_crowd

DATA = Path(os.environ.get("PL2D_DATA", "../shared/data"))
MODEL = "crowd_l2d"
COVERAGES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="?", default="labelme")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--gold", type=float, nargs="+", default=[0.0])
    parser.add_argument("--hidden", type=int, nargs="*", default=[128, 128])
    options = parser.parse_args()
    rows = [
        {"gold": gold, "seed": seed, **row}
        for gold in options.gold
        for seed in range(options.seeds)
        for row in compare(options.name, seed, gold, tuple(options.hidden))
    ]
    table = pd.DataFrame(rows).drop(columns="seed").groupby(["gold", "method"], sort=False).agg(["mean", "std"])
    print((100 * table).round(1).to_string())


def compare(name: str, seed: int, gold: float, hidden: tuple[int, ...]) -> list[dict]:
    """Accuracy of the inferred truth of the training items, and of the classifier on the test items, by method."""
    train, test = read_data(DATA / f"{name}.npz", subset=True)
    if test is None:
        train, test = split(train, 0.33, seed)
    train, test = standardise(train, test)
    rng = np.random.default_rng(seed)
    is_gold = rng.permutation(train.num_items) < round(gold * train.num_items)
    hidden_truth = Annotated(
        train.x,
        np.where(is_gold, train.y, -1),
        train.annotations,
        classes=train.classes,
        annotators=train.annotators,
        subset=True,
    )
    heard = (train.annotations >= 0).any(1) & ~is_gold if gold < 1 else (train.annotations >= 0).any(1)

    def row(method: str, truth: np.ndarray, ai: np.ndarray) -> dict:
        known = heard & (train.y >= 0)
        return {
            "method": method,
            "truth": np.mean(truth[known] == train.y[known]),
            "classifier": np.mean(ai[test.y >= 0] == test.y[test.y >= 0]),
        }

    crowd = fit_crowd(jax.random.key(seed), hidden_truth, hidden=hidden)
    rows = [row(MODEL, crowd.truth, crowd.people.defer(test.x).ai.argmax(1)) | area(crowd, train, test)]
    labels = {"truth known": train.y}
    if gold == 0:
        labels |= {method: aggregated(method, train) for method in ("MajorityVote", "DawidSkene", "MACE", "GLAD")}
    for method, label in labels.items():
        rows.append(row(method, label, classified(seed, train.x, label, test.x, hidden, train.num_categories)))
    return rows


def area(crowd: Crowd, train: Annotated, test: Annotated) -> dict[str, float]:
    """Area under accuracy over coverage, by policies that were fitted without labels; if test items are annotated."""
    if not ((test.annotations >= 0) & (test.y >= 0)[:, None]).any():
        return {}
    curve = evaluate_curve(PooledLearned(crowd.people), train.x, test, COVERAGES)
    return {"area": curve["area_offset"] / 100}


def aggregated(method: str, data: Annotated) -> np.ndarray:
    """Truth that crowd-kit infers; -1 for items that nobody annotated."""
    import crowdkit.aggregation as kit

    items, people = np.nonzero(data.annotations >= 0)
    long = pd.DataFrame({"task": items, "worker": people, "label": data.annotations[items, people]})
    settings = {"MACE": {"random_state": 0}, "DawidSkene": {"n_iter": 100}, "GLAD": {"n_iter": 100}}
    found = getattr(kit, method)(**settings.get(method, {})).fit_predict(long)
    truth = np.full(data.num_items, -1)
    truth[found.index] = found.to_numpy()
    return truth


def classified(
    seed: int, x: np.ndarray, y: np.ndarray, x_test: np.ndarray, hidden: tuple[int, ...], categories: int
) -> np.ndarray:
    """Categories that the network gives the test items, trained on labels."""
    model = partial(classification, classifier=partial(MLP, x.shape[1], hidden, categories))
    optimizer = optax.adamw(optax.cosine_decay_schedule(0.01, 500), weight_decay=0.5)
    known = y >= 0
    data = {"x": x[known], "y": y[known].astype(np.int32)}
    result = fit(
        jax.random.key(seed), model, no_guide, data, optimizer, epochs=500, batch_size=known.sum(), progress=False
    )
    return np.asarray(result.outputs(x_test)["ai_logits"])[0].argmax(-1)


if __name__ == "__main__":
    main()
