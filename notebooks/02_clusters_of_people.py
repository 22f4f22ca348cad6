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
# # From anonymous votes to a new person's membership
#
# Six people have labelled handwritten digits, but nobody recorded who gave which label. We find groups of people in the
# votes, choose their number, and then place a new person among them from a few annotations, without knowing the truth
# of any item. We also see how certain this is.

# %%
import os
from functools import partial

import arviz as az
import jax
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
from numpyro.infer import SVI, TraceEnum_ELBO
from sklearn.datasets import load_digits

from pl2d_ppl import MLP, Ensemble
from pl2d_ppl.clusters.fit import CLUSTER_SCHEDULE, fit_clusters, held_out
from pl2d_ppl.clusters.perplexity import choose_num_clusters, perplexity
from pl2d_ppl.data.votes import vote_counts
from pl2d_ppl.guides.mean_field import mean_field
from pl2d_ppl.models.annotator_lda import annotator_lda
from pl2d_ppl.models.membership import membership
from pl2d_ppl.people.place import maximise_membership, sample_membership
from pl2d_ppl.plots import plot_heatmap, plot_perplexity
from pl2d_ppl.simulate import anonymise, instance_dependent_experts, realised_error

QUICK = bool(os.environ.get("PL2D_QUICK"))
STEPS, SEEDS = (40, 1) if QUICK else (1500, 3)

# %% [markdown]
# ## Votes
# Two people are careful, two are average, two are careless: they err at (nominal) rates of 5, 20 and 35 %, equally
# often on hard and easy items. Which wrong digit they name depends on the image. Then the names are removed.

# %%
RATES = [0.05, 0.05, 0.2, 0.2, 0.35, 0.35]
people_key, vote_key, fit_key, place_key = jax.random.split(jax.random.key(0), 4)
loaded = load_digits()
x, y = loaded.data.astype(np.float32), loaded.target.astype(np.int32)
x = (x - x.mean(0)) / np.maximum(x.std(0), 1e-6)
said = instance_dependent_experts(people_key, x, y, 10, RATES)
votes = anonymise(vote_key, said)
counts = vote_counts(votes, 10)
order = np.random.default_rng(0).permutation(len(x))
train, test, context = np.split(order, [1200, 1500])
print("realised error rates:", realised_error(said, y).round(3))
print("votes on the first five items:", *votes[:5], sep="\n")

# %% [markdown]
# ## Two models of anonymous votes
# Annotator LDA (paper B) gives every vote a cluster, drawn from proportions of the item. The urn adds two facts: all
# votes on an item are about one truth, and nobody votes twice. The second fact separates clusters: the number of right
# votes varies less, the more people differ. Under LDA with a large alpha the votes depend only on the mean of the
# clusters.

# %%
schedule = CLUSTER_SCHEDULE.replace(steps=STEPS, batch_size=256)
options = {"schedule": schedule, "progress": False}
lda = fit_clusters(fit_key, x[train], counts[train], [2, 3], vote_model="lda", seeds=SEEDS, **options)
urn = fit_clusters(fit_key, x[train], counts[train], [1, 2, 3], vote_model="urn", seeds=SEEDS, **options)

total = np.array([counts[test].sum()])
for runs in (lda, urn):
    for run, found in zip(runs, held_out(runs, x[test], counts[test]), strict=True):
        probs = run.cluster_probs(x[test])
        right = np.take_along_axis(probs, y[test, None, None], 2).mean((0, 2))
        value = perplexity([found["elbo"]], total)
        name = f"{run.vote_model}, K = {run.num_clusters}, seed {run.seed}"
        print(f"{name}: {value:.4f}; right by cluster {right.round(3)}")

# %% [markdown]
# The seeds of LDA disagree about the clusters; those of the urn agree. The perplexity of held-out votes helps to choose
# the number of clusters:

# %%
rows = [
    {"num_clusters": run.num_clusters, **{f"perplexity_{k}": perplexity([v], total) for k, v in found.items()}}
    for run, found in zip(urn, held_out(urn, x[test], counts[test]), strict=True)
]
candidates = [1, 2, 3]
perplexities = np.array([[r["perplexity_evidence"] for r in rows if r["num_clusters"] == k] for k in candidates]).T
chosen = choose_num_clusters(candidates, perplexities)
fig, ax = plt.subplots(figsize=(5, 3.4), layout="constrained")
plot_perplexity(rows, chosen=chosen, ax=ax)
plt.show()

# %% [markdown]
# The rule of the largest change is cautious: the step from one cluster to two is by far the largest. The step to three
# hardly changes the votes' probability, although three groups generated the votes. We continue with three.
#
# ## Membership of a person
# Everybody now annotates a hundred new images under their own name. The likelihood of a membership is a mixture of the
# clusters' probabilities of the annotations; no truth is needed. NUTS draws from the posterior.

# %%
names = ("Ann", "Bo", "Cleo", "Dan", "Eve", "Finn")
clusters = ("careful", "middling", "careless")
run = next(r for r in urn if r.num_clusters == 3)
first = context[:100]
probs = run.cluster_probs(x[first])
model = partial(membership, concentration=0.3)  # below one: most people belong mostly to one cluster
samples = {"num_warmup": 50, "num_samples": 50} if QUICK else {}
members = sample_membership(place_key, model, probs, said[first], people=names, clusters=clusters, **samples)
fig, ax = plt.subplots(figsize=(7, 2.6), layout="constrained")
plot_heatmap(members.soft, clusters, names, label="membership, 90 % interval", spread=members.interval(0.9), ax=ax)
plt.show()

# %% [markdown]
# ## How certainty grows with annotations
# A new person, as careless as Eve, joins. With ten annotations the membership is very uncertain; with a hundred or more
# it is clear. A person without annotations keeps the prior, and a warning says so.

# %%
numbers = [0, 10, 30, 100] if QUICK else [0, 10, 30, 100, 290]
growing = np.full((len(context), len(numbers)), -1, np.int32)
for column, n in enumerate(numbers):
    growing[:n, column] = said[context[:n], 4]
labels = [f"{n} annotations" for n in numbers]
seen = run.cluster_probs(x[context])
new = sample_membership(place_key, model, seen, growing, people=labels, clusters=clusters, **samples)
intervals = new.interval(0.9)[2]
fig, ax = plt.subplots(figsize=(6, 2.8), layout="constrained")
error = np.abs(intervals - new.soft[2][:, None]).T
ax.errorbar(range(len(numbers)), new.soft[2], yerr=error, fmt="o", capsize=4)
ax.set_xticks(range(len(numbers)), labels, fontsize="small")
ax.set(ylim=(-0.02, 1.02), ylabel="membership in 'careless'")
plt.show()

# %% [markdown]
# Maximum likelihood takes milliseconds, but gives no uncertainty:

# %%
print(maximise_membership(model, probs, said[first], people=names, clusters=clusters).soft.round(2))

# %% [markdown]
# The posterior is an ArviZ tree:

# %%
az.summary(members.to_datatree(), kind="stats", round_to=2)

# %% [markdown]
# If others have voted on the items that a person annotates, their votes inform about the truth, and so about whether
# the person was right. The urn uses these votes, without the person's own.

# %%
others = counts[first].copy()
others[np.arange(len(first)), said[first, 4]] -= 1
informed = sample_membership(
    place_key,
    model,
    run.cluster_probs(x[first], others),
    said[first, 4:5],
    people=["Eve"],
    clusters=clusters,
    **samples,
)
print("Eve is careless, given the images alone:", members.interval(0.9)[2, 4].round(2))
print("given the others' votes too:", informed.interval(0.9)[2, 0].round(2))

# %% [markdown]
# ## Change the prior
# Memberships may follow any distribution. Here they are a softmax of heavy-tailed scores: most people are near a
# corner, some are not. This is an edit of the program; inference follows it.


# %%
def mostly_pure(cluster_probs, annotations=None):
    """Membership near a corner of the simplex, as a softmax of heavy-tailed scores."""
    scores = numpyro.sample("scores", dist.StudentT(2.0, 0.0, 2.0).expand([cluster_probs.shape[1]]).to_event(1))
    omega = numpyro.deterministic("membership", jax.nn.softmax(scores))
    with numpyro.plate("item", len(cluster_probs)), numpyro.handlers.mask(mask=annotations >= 0):
        numpyro.sample("annotation", dist.Categorical(probs=omega @ cluster_probs), obs=annotations.clip(0))


edited = sample_membership(place_key, mostly_pure, probs, said[first], people=names, clusters=clusters, **samples)
print(edited.soft.round(2))

# %% [markdown]
# ## With plain NumPyro
# Models and guides are plain NumPyro: its SVI and its own ELBO fit them too.

# %%
plain = partial(annotator_lda, clusters=partial(Ensemble, partial(MLP, 64, (32,), 10), 2), alpha=50.0)
svi = SVI(plain, mean_field(plain), optax.adam(1e-3), TraceEnum_ELBO())
svi.run(fit_key, 5 if QUICK else 200, x=x[train], votes=votes[train], progress_bar=False).losses[-1]
