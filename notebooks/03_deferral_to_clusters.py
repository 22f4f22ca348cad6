# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Deferring to groups of people, and to people as members of groups
#
# A classifier of handwritten digits may ask one of six people. All that we have are their anonymous votes on old
# images, and a hundred new images that they annotated under their names. Whom should the classifier ask today, when
# some people are ill, and tomorrow, when a new person has joined?

# %%
import os
from functools import partial

import jax
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import optax
from numpyro.infer import SVI, TraceEnum_ELBO
from sklearn.datasets import load_digits

from pl2d_ppl import MLP, fit, fit_clusters, to_datatree, workload
from pl2d_ppl.clusters.fit import CLUSTER_SCHEDULE
from pl2d_ppl.data import Annotated
from pl2d_ppl.data.votes import vote_counts
from pl2d_ppl.deferral.classifier import CLASSIFIER_SCHEDULE, train_classifier
from pl2d_ppl.deferral.deferral import Deferral
from pl2d_ppl.distributions.empirical import membership_draws
from pl2d_ppl.guides.exact import exact
from pl2d_ppl.guides.normal import normal
from pl2d_ppl.models.cluster_l2d import cluster_l2d
from pl2d_ppl.models.pooled_l2d import pooled_l2d
from pl2d_ppl.people.place_in_clusters import place_people
from pl2d_ppl.people.pooled import PooledPeople
from pl2d_ppl.plots import plot_heatmap
from pl2d_ppl.simulate import anonymise, instance_dependent_experts

QUICK = bool(os.environ.get("PL2D_QUICK"))
STEPS = 30 if QUICK else 1000

# %% [markdown]
# ## Before any person is identified
# We train an AI on the truth of the old images, and find clusters of people in their votes.

# %%
NAMES = ("Ann", "Bo", "Cleo", "Dan", "Eve", "Finn")
RATES = [0.05, 0.05, 0.2, 0.2, 0.35, 0.35]
keys = iter(jax.random.split(jax.random.key(0), 16))
loaded = load_digits()
noise = np.random.default_rng(0).normal(0, 6, loaded.data.shape)  # so that the AI is not perfect
x, y = (loaded.data + noise).astype(np.float32), loaded.target.astype(np.int32)
x = (x - x.mean(0)) / np.maximum(x.std(0), 1e-6)
said = instance_dependent_experts(next(keys), x, y, 10, RATES)
old, context, test = np.split(np.random.default_rng(1).permutation(len(x)), [1000, 1100])

ai = train_classifier(next(keys), x[old], y[old], 10, schedule=CLASSIFIER_SCHEDULE.replace(steps=STEPS))
counts = vote_counts(anonymise(next(keys), said[old]), 10)
(run,) = fit_clusters(
    next(keys),
    x[old],
    counts,
    [3],
    vote_model="urn",
    num_people=6,
    schedule=CLUSTER_SCHEDULE.replace(steps=STEPS),
    progress=False,
)
print("the AI is right on", np.mean(ai(x[test]).argmax(-1) == y[test]).round(3), "of the test images")
print("people:", dict(zip(NAMES, (said[test] == y[test, None]).mean(0).round(3).tolist(), strict=True)))

# %% [markdown]
# ## A hundred annotated images
# These annotations place everybody among the clusters; no truth is needed.

# %%
clusters = [f"cluster {k}" for k in range(3)]
members = place_people(next(keys), run, x[context], vote_counts(said[context], 10), said[context], people=NAMES)
fig, ax = plt.subplots(figsize=(7, 2.6), layout="constrained")
plot_heatmap(members.soft, clusters, NAMES, label="membership, 90 % interval", spread=members.interval(0.9), ax=ax)
plt.show()

# %% [markdown]
# ## The program: a cluster, then a person in it
# `v` is the cluster that decides, or the AI; `w` is the person, drawn from the cluster's members. The posterior of both
# is exact. The guide is written as q(w) q(v | w), so that a workload on `w` bounds every person: here the AI decides
# 40 % of the items, and nobody more than 15 %. The membership is an argument of the fit: another one needs no new
# compilation.

# %%
data = {"x": x[context], "annotations": said[context], "y": y[context]}
model = partial(cluster_l2d, gating=partial(MLP, 64, (32,), 4), classifier=ai)
optimizer = optax.chain(optax.add_decayed_weights(5e-4), optax.sgd(0.05, momentum=0.9))
train = partial(fit, data=data, optimizer=optimizer, epochs=STEPS, batch_size=100, progress=False)

lower, upper = [0.0] * 6 + [0.4], [0.15] * 6 + [0.4]
guide = workload(exact(model, ["w", "v"]), "w", lower, upper)
given = {"membership": members.soft.astype(np.float32)}
result = train(next(keys), model, guide, arguments=given)
print("mean of the posterior of w:", result.history["w_mean"][-1].round(3))
print("prices of people's time:", result.history["w_multipliers"][-1].round(2))

# %%
tree = to_datatree(next(keys), result, data, coords={"expert": NAMES}, num_samples=50)
tree["marginals"].dataset["w_probs"].mean("item").round(3)

# %% [markdown]
# ## A day
# `Deferral` says who decides new items: the option that the gate prefers, and the people behind it. Bounds on the mean
# of a posterior do not bound decisions. `fit_policy` finds offsets, and shares within clusters, with which decisions on
# the annotated items meet the bounds; `follow` uses these on new items.

# %%
evaluated = Annotated(x[test], y[test], said[test], classes=range(10), annotators=NAMES, subset=True)


def deferral(result, items, membership):
    """Find who decides items."""
    prediction = result.predict(items)
    return Deferral.of(prediction.gate, prediction.ai, membership=membership, people=NAMES)


def show(label, day):
    """Print accuracy and workload of decisions."""
    found = day.evaluate(evaluated.annotations, evaluated.y)
    shares = dict(zip((*NAMES, "AI"), np.round(found["workload"], 2).tolist(), strict=True))
    print(f"{label:<28} accuracy {found['accuracy']:.3f}  {shares}")


fitted, day = (deferral(result, items, members.soft) for items in (x[context], x[test]))
show("as the gate says", day)
show("within bounds", day.follow(fitted.fit_policy(lower, upper)))

# %% [markdown]
# Bo and Cleo are ill. The gate needs no training: the rows of the membership are restricted to the people present, and
# bounds hold for the day's staff. If a whole cluster is absent, its share goes to the others, and a warning says so.

# %%
here = ["Ann", "Dan", "Eve", "Finn"]
show("Bo and Cleo are ill", day.present(here).follow(fitted.present(here).fit_policy(lower, upper)))
try:
    fitted.present(["Ann"]).fit_policy(lower, upper)
except ValueError as error:
    print(error)

# %% [markdown]
# ## Uncertain memberships
# Instead of the mean, the program can use draws of the memberships: each step takes one draw, so that the gate learns
# under uncertain memberships.

# %%
draws = members.draws.reshape(6, -1, 3).transpose(1, 2, 0)[::4].astype(np.float32)
uncertain = exact(model, ["w", "v"], continuous=membership_draws)
result_draws = train(next(keys), model, workload(uncertain, "w", lower, upper), arguments={"membership": draws})
fitted, day = (deferral(result_draws, items, draws) for items in (x[context], x[test]))
show("given draws", day.follow(fitted.fit_policy(lower, upper)))

# %% [markdown]
# ## Partial pooling
# All people in a cluster are treated alike. In `pooled_l2d` a person is a vector around the mean of their cluster, with
# a spread that is learned: with few annotations a person is close to the cluster's mean, with many they are judged
# individually. The gate compares the probabilities that people, and the AI, are right.

# %%
pooled_guide = exact(pooled_l2d, ["z"], continuous=normal(pooled_l2d))
pooled_fit = fit(
    next(keys),
    pooled_l2d,
    pooled_guide,
    data,
    optax.adam(optax.cosine_decay_schedule(0.05, STEPS)),
    epochs=STEPS,
    batch_size=100,
    arguments={**given, "classifier": ai},
    progress=False,
)
people = PooledPeople.of(next(keys), pooled_fit, num_samples=100, people=NAMES)
fitted, day = people.defer(x[context]), people.defer(x[test])
show("pooled, within bounds", day.follow(fitted.fit_policy(lower, upper)))

# %% [markdown]
# One fit serves every coverage, since an offset to the AI is a threshold on a difference of probabilities:

# %%
coverages = np.linspace(0, 1, 11)
curve = []
for coverage in coverages:
    bounds = [0.0] * 6 + [coverage], [1.0] * 6 + [coverage]
    curve.append(day.follow(fitted.fit_policy(*bounds)).evaluate(evaluated.annotations, evaluated.y))
fig, ax = plt.subplots(figsize=(4.5, 3.2), layout="constrained")
ax.plot([c["coverage"] for c in curve], [c["accuracy"] for c in curve], marker="o")
ax.set(xlabel="coverage: share that the AI decides", ylabel="accuracy")
plt.show()

# %% [markdown]
# ## A new person
# Gus joins; he errs as often as Ann. As his annotations arrive, he is placed among the clusters, starts at their mean
# weighted by his membership, and moves from there. Nobody else's posterior changes, and nothing is retrained.

# %%
gus = instance_dependent_experts(next(keys), x, y, 10, [0.05])
fig, ax = plt.subplots(figsize=(5, 3), layout="constrained")
for i, number in enumerate([0, 10, 30, 100]):
    annotations = np.where(np.arange(100)[:, None] < number, gus[context], -1)
    votes = vote_counts(said[context], 10)
    placed = place_people(jax.random.key(number), run, x[context], votes, annotations, people=["Gus"], voted=False)
    new = people.join(jax.random.key(number), {**data, "annotations": annotations}, placed.soft, people=["Gus"])
    skill = 1 / (1 + np.exp(-new.values("person", x[:1])[:, -1, 0]))
    low, middle, high = np.quantile(skill, [0.05, 0.5, 0.95])
    ax.errorbar(i, middle, yerr=[[middle - low], [high - middle]], fmt="o", capsize=4, color="C0")
ax.axhline((gus[test, 0] == y[test]).mean(), color="grey", lw=1)
ax.set_xticks(range(4), [f"{n} annotations" for n in (0, 10, 30, 100)], fontsize="small")
ax.set_ylabel("Gus is right, 90 % interval")
plt.show()

# %% [markdown]
# ## Change the prior
# The spread of people around their cluster has a prior, which you may edit in the program. Here it is fixed without
# editing the file, by conditioning: with a large spread, people have nothing in common, and only their own annotations
# count.

# %%
apart = numpyro.handlers.condition(pooled_l2d, {"spread": np.array([3.0, 1.0], np.float32)})
apart_guide = exact(apart, ["z"], continuous=normal(apart))
arguments = {**given, "classifier": ai}
apart_fit = fit(
    next(keys),
    apart,
    apart_guide,
    data,
    optax.adam(optax.cosine_decay_schedule(0.05, STEPS)),
    epochs=STEPS,
    batch_size=100,
    arguments=arguments,
    progress=False,
)
for label, found in (("learned spread", pooled_fit), ("large", apart_fit)):
    skills = PooledPeople.of(jax.random.key(0), found).values("person", x[:1])[:, :, 0].mean(0)
    print(f"{label:<16} log-odds that each is right:", dict(zip(NAMES, skills.round(2).tolist(), strict=True)))

# %% [markdown]
# ## With plain NumPyro

# %%
bound = partial(model, membership=members.soft.astype(np.float32))
svi = SVI(bound, exact(bound, ["w", "v"]), optax.adam(1e-3), TraceEnum_ELBO())
svi.run(jax.random.key(1), 5 if QUICK else 200, **data, progress_bar=False).losses[-1]
