"""Simulation-based calibration (Talts et al. 2018) of the models with their guides, from their own forward runs.

    python benchmarks/calibration.py --repeats 200

Parameters and data are drawn from a program, and the guide is fitted to the data. If it is calibrated, the rank of a
drawn parameter among draws of its posterior is uniform, and z-scores have standard deviation 1; above 1 the guide is
too sure. Printed for each site: the p-value of a chi-square test of uniform ranks (one random element of the site from
each repeat, ten bins), the standard deviation of z-scores, and how often 50 % and 90 % intervals hold the truth.
Discrete sites are judged by their probabilities: "ranks" then tests these against frequencies, in ten bins.
"""

import argparse
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import Array
from numpyro.handlers import seed, substitute, trace
from numpyro.infer import SVI
from scipy.stats import chi2, chisquare

from pl2d_ppl import MLP, EnumELBO
from pl2d_ppl.guides.exact import exact
from pl2d_ppl.guides.mean_field import mean_field
from pl2d_ppl.guides.normal import normal
from pl2d_ppl.models.annotator_lda import annotator_lda
from pl2d_ppl.models.crowd_l2d import crowd_l2d
from pl2d_ppl.models.membership import membership
from pl2d_ppl.models.pooled_l2d import pooled_l2d
from pl2d_ppl.models.prob_l2d import prob_l2d
from pl2d_ppl.networks import Frozen
from pl2d_ppl.people.place import sample_membership

ITEMS, PEOPLE, CATEGORIES, CLUSTERS, INPUTS = 150, 6, 3, 2, 4
DRAWS, BINS = 99, 10
OMEGA = jnp.asarray(np.eye(CLUSTERS)[np.arange(PEOPLE) % CLUSTERS].T)
Samples = Mapping[str, Array]


def frozen(*outputs: int, number: int = 0) -> Frozen:
    return Frozen.of(MLP(INPUTS, (), outputs if len(outputs) > 1 else outputs[0], rngs=nnx.Rngs(number)))


def inputs(key: Array, number: int = ITEMS) -> Array:
    return 2.0 * jax.random.normal(key, (number, INPUTS))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--steps", type=int, default=1500)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    print(f"{'model':<14}{'guide':<12}{'site':<24}{'ranks, p':>10}{'z, sd':>8}{'50 %':>7}{'90 %':>7}")
    run = partial(continuous, options.repeats, options.steps)
    run("pooled_l2d", partial(pooled_l2d, membership=OMEGA, classifier=frozen(CATEGORIES)), of_pooled)
    run("crowd_l2d", partial(crowd_l2d, membership=OMEGA, classifier=frozen(CATEGORIES)), of_crowd)
    proportions()
    placement(options.repeats)
    deciders()


def show(model: str, guide: str, site: str, p: float, spread: float, half: float, most: float) -> None:
    print(f"{model:<14}{guide:<12}{site:<24}{p:>10.2g}{spread:>8.2f}{half:>7.2f}{most:>7.2f}", flush=True)


def report(model: str, guide: str, site: str, truth: np.ndarray, draws: np.ndarray) -> None:
    """Print the calibration of one site: truth (R, elements), draws (R, S, elements)."""
    rng = np.random.default_rng(0)
    ranks = (draws < truth[:, None]).sum(1)
    chosen = ranks[np.arange(len(ranks)), rng.integers(0, ranks.shape[1], len(ranks))]
    p = chisquare(np.bincount(chosen * BINS // (draws.shape[1] + 1), minlength=BINS)).pvalue
    share = ranks / draws.shape[1]
    scores = (truth - draws.mean(1)) / draws.std(1)
    inside = [np.mean(np.abs(share - 0.5) <= level / 2) for level in (0.5, 0.9)]
    show(model, guide, site, p, scores.std(), *inside)


# --- Continuous sites, whose guide is fitted --------------------------------------------------------------------


def of_pooled(tr: Mapping[str, Any], key: Array) -> dict[str, Array]:
    """Data that make everybody as right as was drawn, the AI too."""
    right = tr["right"]["value"]
    first = tr["ai_logits"]["value"].argmax(-1)
    other = (first + jax.random.randint(key, first.shape, 1, CATEGORIES)) % CATEGORIES
    y = jnp.where(right[:, -1] > 0, first, other)
    return {"y": y, "annotations": jnp.where(right[:, :-1] > 0, y[:, None], (y[:, None] + 1) % CATEGORIES)}


def of_crowd(tr: Mapping[str, Any], key: Array) -> dict[str, Array]:
    """What people said; the truth is hidden."""
    return {"annotations": tr["annotation"]["value"]}


def continuous(repeats: int, steps: int, name: str, model: Callable, data_of: Callable) -> None:
    guide = exact(model, ["z"], continuous=normal(model))
    svi = SVI(model, guide, optax.adam(optax.cosine_decay_schedule(0.05, steps)), EnumELBO())

    def once(key: Array) -> tuple[Samples, Samples]:
        x_key, own_key, data_key, fit_key, draw_key = jax.random.split(key, 5)
        x = inputs(x_key)
        tr = trace(seed(model, own_key)).get_trace(x)
        data = {"x": x, **data_of(tr, data_key)}
        state = svi.init(fit_key, **data)
        state, _ = jax.lax.scan(lambda s, _: svi.update(s, **data), state, length=steps)
        params = svi.get_params(state)

        def draw(key: Array) -> Samples:
            sites = trace(seed(substitute(guide, data=params), key)).get_trace(**data)
            return {n: s["value"] for n, s in sites.items() if s["type"] == "sample" and n != "z"}

        drawn = jax.lax.map(draw, jax.random.split(draw_key, DRAWS))
        return {n: tr[n]["value"] for n in drawn}, drawn

    truth, drawn = jax.jit(lambda keys: jax.lax.map(once, keys, batch_size=10))(
        jax.random.split(jax.random.key(0), repeats)
    )
    for site in truth:
        report(name, "normal", site, *(np.asarray(a).reshape(repeats, *s) for a, s in (
            (truth[site], (-1,)), (drawn[site], (DRAWS, -1)))))  # fmt: skip


# --- Sites of items and people, each of which is a repeat -------------------------------------------------------


def proportions(number: int = 2000) -> None:
    """How much of an item each cluster votes on, under mean field."""
    for votes in (3, 30):
        model = partial(annotator_lda, clusters=frozen(CLUSTERS, CATEGORIES), alpha=2.0)
        x = inputs(jax.random.key(1), number)
        tr = trace(seed(partial(model, num_votes=votes), jax.random.key(2))).get_trace(x)
        guide = seed(mean_field(model), jax.random.key(3))
        q = trace(guide).get_trace(x, votes=tr["votes"]["value"])["u"]["fn"]
        drawn = np.asarray(q.sample(jax.random.key(4), (DRAWS,))[:, :, 0, 0]).T
        report(
            "annotator_lda", "mean field", f"u, {votes} votes", np.asarray(tr["u"]["value"][:, 0, :1]), drawn[..., None]
        )


def placement(repeats: int, number: int = 40) -> None:
    """Memberships of people, by NUTS."""
    probs = np.random.default_rng(0).dirichlet(np.ones(CATEGORIES), (number, CLUSTERS)).astype(np.float32)
    keys = jax.random.split(jax.random.key(5), repeats)
    omega, said = jax.vmap(lambda k: [trace(seed(membership, k)).get_trace(jnp.asarray(probs))[n]["value"]
                                      for n in ("membership", "annotation")])(keys)  # fmt: skip
    placed = sample_membership(
        jax.random.key(6), membership, probs, np.asarray(said).T, num_warmup=300, num_samples=990
    )
    drawn = np.asarray(placed.draws)[:, 0, ::10, 0]  # thinned: ranks of correlated draws are not uniform
    report("membership", "NUTS", "membership", np.asarray(omega)[:, :1], drawn[..., None])


def deciders(number: int = 20_000) -> None:
    """Who decides, and what people would have said: probabilities against what was drawn."""
    networks = {
        "gating": frozen(PEOPLE + 1, number=1),
        "experts": frozen(PEOPLE, CATEGORIES, number=2),
        "classifier": frozen(CATEGORIES),
    }
    model = partial(prob_l2d, **networks)
    x = inputs(jax.random.key(7), number)
    tr = trace(seed(model, jax.random.key(8))).get_trace(x)
    missing = jax.random.bernoulli(jax.random.key(9), 0.5, (number, PEOPLE))
    data = {"annotations": jnp.where(missing, -1, tr["annotation"]["value"]), "y": tr["y"]["value"][:, 0]}
    for name, guide in {"exact": exact(model, ["z"]), "mean field": mean_field(model)}.items():
        found = trace(seed(guide, jax.random.key(0))).get_trace(x, **data)["z"]["fn"]
        probs = np.exp(jax.nn.log_softmax(found.logits, -1))[:, 0].ravel()
        happened = (np.asarray(tr["z"]["value"]) == np.arange(PEOPLE + 1)).ravel()
        bins = np.minimum((probs * BINS).astype(int), BINS - 1)
        counts, expected, spread = (
            np.bincount(bins, w, minlength=BINS) for w in (happened, probs, probs * (1 - probs))
        )
        used = spread > 5
        statistic = ((counts - expected) ** 2 / np.maximum(spread, 1e-9))[used].sum()
        show("prob_l2d", name, "z", chi2.sf(statistic, used.sum()), np.sqrt(statistic / used.sum()), np.nan, np.nan)


if __name__ == "__main__":
    main()
