"""Remedies for finding real clusters in anonymous votes: each remedy alone, at K = 3.

    python benchmarks/cluster_remedies.py digits cifar100_features [--seeds 3] [--items 20000] [--steps 1500]

Data, people and measures are those of clusters.py; memberships are posterior means under a Dirichlet(.3) prior from 100
annotations. "Skills" are the shares of right votes of the clusters' networks on held-out items, or those of the urn.
"""

import argparse
from collections import defaultdict
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from clusters import ANNOTATIONS, HELD_OUT, RATES, given_votes, load, models, score
from flax import nnx

from pl2d_ppl import MLP, Ensemble, fit
from pl2d_ppl.clusters.fit import CLUSTER_SCHEDULE, ClusterRun, fit_clusters
from pl2d_ppl.data.votes import vote_counts
from pl2d_ppl.guides.mean_field import mean_field
from pl2d_ppl.models.annotator_lda import annotator_lda
from pl2d_ppl.people.place import sample_membership
from pl2d_ppl.simulate import anonymise, instance_dependent_experts

K = 3


class ConfusionHeads(nnx.Module):
    """One network for the truth, and a confusion matrix for every cluster."""

    def __init__(self, num_inputs: int, num_categories: int, *, rngs: nnx.Rngs):
        self.truth = MLP(num_inputs, (128,), num_categories, rngs=rngs)
        right = jnp.linspace(6.0, 4.0, K)[:, None, None] * jnp.eye(num_categories)
        self.confusion = nnx.Param(right + 0.1 * jax.random.normal(rngs.params(), right.shape))

    def __call__(self, x: jax.Array) -> jax.Array:
        mixed = jnp.einsum("ny,kyc->nkc", jax.nn.softmax(self.truth(x)), jax.nn.softmax(self.confusion[...]))
        return jnp.log(mixed)


def lda(network, alphas, x, counts, key, steps) -> ClusterRun:
    """Fit LDA with a network; alpha changes from one part of the training to the next."""
    model = partial(annotator_lda, clusters=network, max_votes=len(RATES))
    guide = mean_field(model)
    held = len(x) // 10
    data, validation = ({"x": x[part], "counts": counts[part]} for part in (slice(held, None), slice(held)))
    schedule = CLUSTER_SCHEDULE.replace(steps=steps)
    epochs = schedule.epochs(len(data["x"]))
    optimizer = optax.adamw(optax.cosine_decay_schedule(1e-3, steps), weight_decay=1e-3)
    result = None
    for part, alpha in enumerate(alphas):
        result = fit(
            key[None],
            model,
            guide,
            data,
            optimizer,
            epochs=round(epochs * (part + 1) / len(alphas)),
            batch_size=schedule.batch_size,
            arguments={"alpha": np.full(K, alpha, np.float32)},
            validation=validation,
            resume=result,
            progress=False,
        )
    return ClusterRun("lda", K, 0, alphas[-1], result, 0)


def urn(x, counts, key, steps, people) -> ClusterRun:
    return fit_clusters(
        key, x, counts, [K], num_people=people, schedule=CLUSTER_SCHEDULE.replace(steps=steps), progress=False
    )[0]


def run_seed(name: str, seed: int, options: argparse.Namespace, table: dict) -> None:
    people_key, vote_key, fit_key, place_key = jax.random.split(jax.random.key(seed), 4)
    x, y, num_categories = load(name, seed, options.items)
    said = instance_dependent_experts(people_key, x, y, num_categories, RATES)
    counts = vote_counts(anonymise(vote_key, said), num_categories)
    cut = min(options.items, len(x) - HELD_OUT // 2)
    context, test = slice(cut, cut + ANNOTATIONS), slice(cut + ANNOTATIONS, cut + ANNOTATIONS + HELD_OUT)
    member = partial(MLP, x.shape[1], (128,), num_categories)
    networks = {
        "LDA": partial(Ensemble, member, K),
        "LDA, shared trunk": partial(MLP, x.shape[1], (128,), (K, num_categories)),
        "LDA, confusion heads": partial(ConfusionHeads, x.shape[1], num_categories),
    }
    train = x[:cut], counts[:cut], fit_key, options.steps
    runs = {f"{label}, alpha 50": lda(network, (50.0,), *train) for label, network in networks.items()}
    runs["LDA, alpha 500 to 50 to 5"] = lda(networks["LDA"], (500.0, 50.0, 5.0), *train)
    runs["latent truth, votes i.i.d."] = urn(*train, 20 * len(RATES))
    runs["latent truth, urn"] = urn(*train, len(RATES))
    for label, run in runs.items():
        right = np.take_along_axis(run.cluster_probs(x[test]), y[test, None, None], 2).mean((0, 2))
        soft = sample_membership(place_key, models[0.3], run.cluster_probs(x[context]), said[context]).soft
        if run.vote_model == "urn":
            right = np.asarray(jax.nn.sigmoid(run.result.params["skill_mean_auto_loc"])).ravel()
            placed = given_votes(run, x[context], counts[context], said[context])
            votes = sample_membership(place_key, models[0.3], *placed).soft
            table[f"{label}, placed given votes"].append((score(votes), right))
        table[label].append((score(soft), right))
    print(f"  {name}, seed {seed} done", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", choices=("digits", "cifar100_features"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--items", type=int, default=20000)
    parser.add_argument("--steps", type=int, default=1500)
    options = parser.parse_args()
    for name in options.names:
        table = defaultdict(list)
        for seed in range(options.seeds):
            run_seed(name, seed, options, table)
        print(f"\n{name}, {options.seeds} seeds; nominal error rates {RATES}")
        print(f"{'remedy':<46}{'AMI':>15}{'ARI':>15}{'gap':>7}  skills, seed by seed")
        for label, rows in sorted(table.items()):
            ami, ari = (np.array([row[0][m] for row in rows]) for m in ("ami", "ari"))
            gap = np.mean([row[0]["gap"] for row in rows])
            skills = "; ".join(" ".join(f"{s:.3f}" for s in row[1]) for row in rows)
            cells = "".join(f"{values.mean():>8.3f} ± {values.std():.2f}" for values in (ami, ari))
            print(f"{label:<46}{cells}{gap:>7.2f}  {skills}")


if __name__ == "__main__":
    main()
