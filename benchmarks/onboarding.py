"""Which method wins when: deferral to people, to clusters, and to partially pooled people, with few annotated items.

    python benchmarks/onboarding.py cifar100_features --people 6 --items 100 200 1000 --seeds 5 --replaced 0
    python benchmarks/onboarding.py digits --people 6 --items 10 20 50 100 200 --own both --gate both
    python benchmarks/onboarding.py --table                 # print all results so far, run nothing

Every cell has a number of people, a number of items annotated by each person, the same or separate ones, the inputs of
the gate, and the share of the staff that newcomers replace between training and test. Newcomers annotated as many
items, and nothing is retrained. People are simulated (instance-dependent errors at nominal rates of 5, 20 and 35 %, a
third of the people each). The AI is trained on the truth of the training part; clusters are found in its anonymous
votes. Areas are those under the coverage-accuracy curve over six coverages, with offsets fitted on items without
labels; in brackets with plain argmax. If everybody annotates the same items, "naive" and "prob-l2d" are the same gate,
but the first costs less.

Results are appended to a file as they come; cells in the file are not run again.
"""

import argparse
import json
import os
import time
import warnings
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np

from pl2d_ppl.cli.onboard import PUBLISHED
from pl2d_ppl.data import EncodedImages, Part, read_images
from pl2d_ppl.experiments.curve import evaluate_curve
from pl2d_ppl.experiments.methods import METHODS
from pl2d_ppl.experiments.onboarding.firm import Firm, replaced_people, set_up_firm
from pl2d_ppl.experiments.onboarding.methods import learn_and_join
from pl2d_ppl.experiments.onboarding.options import OnboardingOptions
from pl2d_ppl.experiments.onboarding.workplace import Workplace, open_workplace
from pl2d_ppl.inference.schedule import Schedule

OUT = Path("outputs/onboarding.jsonl")
CELL = ("data", "people", "items", "own", "gate", "hidden", "replaced")
HIDDEN = [128, 128]
IMAGES = 16_000  # of CIFAR-100 in its 20 superclasses: feasible on two cores
CHANNELS = (32, 64, 128)  # of an AI for images


def load(name: str) -> tuple[np.ndarray, np.ndarray, int]:
    """Inputs, truth and number of categories."""
    if name == "digits":
        from sklearn.datasets import load_digits

        loaded = load_digits()
        return loaded.data, loaded.target, 10
    folder = Path(os.environ.get("PL2D_DATA", "../shared/data"))
    if name == "cifar100_images":
        paths = [folder / f"{name}_{i}.npz" for i in (0, 1)]
        y = np.concatenate([np.load(path)["coarse_label"] for path in paths]).astype(int)
        chosen = np.random.default_rng(0).permutation(len(y))[:IMAGES]
        x = read_images(Part(EncodedImages.read_npz(*paths), chosen))
        return 4.0 * x.astype(np.float32) / 255.0 - 2.0, y[chosen], int(y.max()) + 1
    with np.load(folder / f"{name}.npz") as file:
        return file["x_train"], file["y_train"], len(file["classes"])


def known(path: Path) -> list[dict]:
    """Results so far."""
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [{"hidden": HIDDEN, **row} for row in rows]


def identity(row: dict) -> str:
    """Return the key that identifies a result."""
    return json.dumps([row[k] for k in (*CELL, "seed", "method")])


def present(place: Workplace, firm: Firm, people: int, share: float) -> list[str]:
    """List the people present after newcomers with the same error rates replaced a share of the staff."""
    gone = replaced_people(firm.groups[:people], share)
    names = place.test.annotators
    return [names[m] for m in range(people) if m not in gone] + [names[people + m] for m in gone]


def run_cell(
    firm: Firm, seed: int, cell: dict, options: OnboardingOptions, shares: list[float], done: set
) -> Iterator[dict]:
    """Compute results of the unfinished methods, at every share replaced."""
    key = jax.random.fold_in(jax.random.key(seed), cell["items"])
    place = None
    for method in options.methods:
        labels = {"seed": seed, "method": method}
        todo = [s for s in shares if identity({**cell, "replaced": s, **labels}) not in done]
        if not todo:
            continue
        place = place or open_workplace(key, firm, options, cell["items"])
        start = time.perf_counter()
        learned = learn_and_join(method, key, place, options)
        for share in todo:
            staff = present(place, firm, options.people, share)
            row = evaluate_curve(learned, place.unlabelled, place.test, options.coverages, staff=staff, rng_key=key)
            told = ("area_offset", "area", "ai_accuracy", "coverage_offset", "accuracy_offset", "accuracy_drawn")
            yield {
                **cell,
                "replaced": share,
                **labels,
                **{name: row[name] for name in told},
                "best": max(row["expert_accuracy"][place.test.annotators.index(name)] for name in staff),
                "seconds": time.perf_counter() - start,
            }


def run(name: str, people: int, arguments: argparse.Namespace) -> None:
    """Run the cells of a data set and a staff size."""
    x, y, num_categories = load(name)
    methods = tuple(arguments.methods)
    owns = {"same": [False], "own": [True], "both": [False, True]}[arguments.own]
    gates = ["features", "features+confidence"] if arguments.gate == "both" else [arguments.gate]
    done = {identity(row) for row in known(arguments.out)}
    firms: dict[int, Firm] = {}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    for own in owns:
        for items in arguments.items:
            for gate in gates:
                options = OnboardingOptions(
                    people=people,
                    own_items=own,
                    replaced=1.0,
                    gate_input=gate,
                    methods=methods,
                    hidden=CHANNELS if x.ndim == 4 else (128,),
                    schedule=Schedule(steps=400),
                    gate_hidden=tuple(arguments.hidden),
                )
                for seed in range(arguments.seeds):
                    if seed not in firms:
                        start, reserved = time.perf_counter(), min(5000, len(x) // 3)
                        firms[seed] = set_up_firm(
                            jax.random.key(seed), x, y, num_categories, options, reserved=reserved
                        )
                        print(f"{name}, {people} people, seed {seed}: set up in {time.perf_counter() - start:.0f} s")
                    cell = {"data": name, "people": people, "items": items, "own": own, "gate": gate}
                    cell["hidden"] = arguments.hidden
                    for row in run_cell(firms[seed], seed, cell, options, arguments.replaced, done):
                        with arguments.out.open("a") as file:
                            file.write(json.dumps(row) + "\n")
                        print(*(row[k] for k in (*CELL, "seed", "method")), f"{row['area_offset']:.2f}", flush=True)


def table(rows: list[dict]) -> None:
    """Print areas by cell, and compare the pooled model with the best other method."""
    cells = defaultdict(lambda: defaultdict(list))
    for row in rows:
        cells[tuple(json.dumps(row[k]) for k in CELL)][row["method"]].append(row)
    for cell, found in sorted(cells.items()):
        seeds = max(len(r) for r in found.values())
        ai = np.mean([r["ai_accuracy"] for rs in found.values() for r in rs])
        best = np.mean([r["best"] for rs in found.values() for r in rs])
        data, people, items, own, gate, hidden, replaced = map(json.loads, cell)
        which = "of their own" if own else "the same"
        about = (
            f"{data}: {people} people, {items} items each, {which}; gate {hidden} on {gate}; {replaced:.0%} replaced"
        )
        print(f"\n{about}; {seeds} seeds. AI {ai:.3f}, best person {best:.3f}")
        means = {m: np.mean([r["area_offset"] for r in rs]) for m, rs in found.items()}
        for method in sorted(means, key=lambda m: -means[m]):
            offset, plain = (np.array([r[k] for r in found[method]]) for k in ("area_offset", "area"))
            drawn = np.mean(
                [np.abs(np.subtract(r["accuracy_drawn"], r["accuracy_offset"])).max() for r in found[method]]
            )
            seconds = np.median([r["seconds"] for r in found[method]])
            print(
                f"  {method:<14}{offset.mean():7.2f} ± {offset.std():.2f}  ({plain.mean():.2f} ± {plain.std():.2f})",
                end="",
            )
            print(f"  drawn people differ by {drawn:.3f} at most; {seconds:.0f} s")
        if not own and gate == "features" and data == "cifar100_features" and str(items) in PUBLISHED and not replaced:
            told = ", ".join(f"{method} {area}" for method, area in PUBLISHED[str(items)].items())
            print(f"  paper B, Table 3: {told}")
        others = {m: a for m, a in means.items() if m != "pooled"}
        if "pooled" in means and others:
            rival = max(others, key=others.__getitem__)
            print(f"  pooled {means['pooled'] - others[rival]:+.2f} against {rival}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=("digits", "cifar100_features", "cifar100_images"))
    parser.add_argument("--people", type=int, nargs="+", default=[6])
    parser.add_argument("--items", type=int, nargs="+", default=[100])
    parser.add_argument("--own", choices=("same", "own", "both"), default="same")
    parser.add_argument("--gate", choices=("features", "features+confidence", "both"), default="features")
    parser.add_argument("--hidden", type=int, nargs="*", default=HIDDEN, help="widths of the gate")
    parser.add_argument("--replaced", type=float, nargs="+", default=[0.0, 0.5, 1.0])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--table", action="store_true", help="print all results so far; run nothing")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", message="Nobody is behind")  # the replaced share already shows this
    for name in [] if arguments.table else arguments.names:
        for people in arguments.people:
            run(name, people, arguments)
    rows = known(arguments.out)
    table(rows if arguments.table else [r for r in rows if r["data"] in arguments.names])


if __name__ == "__main__":
    main()
