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
# # Is the model any good?
#
# A model that can be run forward can be criticised: let it generate data, and look for what it never generates. We
# fit a crowd whose truth nobody knows, under a prior by which whoever errs says anything; find in what the data
# disagree; and mend it by editing one prior. Nothing else changes.

# %%
import os
from functools import partial
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np
import numpyro.distributions as dist
import optax
from numpyro.primitives import Messenger

from pl2d_ppl import MLP, Annotated, fit, predictive, read_data, standardise, to_datatree
from pl2d_ppl.guides.exact import exact
from pl2d_ppl.guides.normal import normal
from pl2d_ppl.inference.criticism import compare, reliability
from pl2d_ppl.models.crowd_l2d import crowd_l2d
from pl2d_ppl.plots import plot_reliability

QUICK = bool(os.environ.get("PL2D_QUICK"))
STEPS, DRAWS = (60, 50) if QUICK else (300, 200)

# %% [markdown]
# ## Data
# LabelMe: 1,000 images of 8 scenes, annotated by 59 workers, two or three an image (Rodrigues and Pereira). If the
# file is not there, a crowd is simulated. The truth is set aside: the model never sees it.


# %%
def simulated(num_items=600, num_people=20, num_categories=4):
    """People who differ: some are careful, others say one category far too often."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, num_categories, num_items)
    x = np.eye(num_categories)[y] + 0.7 * rng.standard_normal((num_items, num_categories))
    skill, favourite = rng.beta(3, 2, num_people), rng.integers(0, num_categories, num_people)
    said = np.where(rng.random((num_items, num_people)) < skill, y[:, None], favourite)
    said = np.where(rng.random(said.shape).argsort(1) < 3, said, -1)
    return Annotated(x, y, said, classes=list("abcd"), annotators=[f"worker_{m}" for m in range(num_people)])


path = Path(os.environ.get("PL2D_DATA", "../../shared/data")) / "labelme.npz"
data, _ = read_data(path) if path.exists() else (simulated(), None)
(data,) = standardise(data)
M, C = data.num_experts, data.num_categories
print(data, "from", path.name if path.exists() else "a simulation")

# %% [markdown]
# ## A first model: whoever errs says anything
# In `crowd_l2d`, `scale` and `spread` say how far tables of confusion are from a plain one, each for two kinds of
# entries: first the errors, then the diagonal. We change their priors so that people may be better or worse, but err
# alike: each wrong category is as likely as any other. The handler stands for an edit of these two lines of
# `models/crowd_l2d.py`; the guide is derived from the program, and follows.


# %%
class prior(Messenger):
    """Give a site another prior."""

    def __init__(self, fn, **priors):
        self.priors = priors
        super().__init__(fn)

    def process_message(self, msg):
        if msg["type"] == "sample" and msg["name"] in self.priors:
            msg["fn"] = self.priors[msg["name"]]


def fitted(model):
    arrays = {"x": data.x, "annotations": data.annotations}
    optimizer = optax.adamw(optax.cosine_decay_schedule(0.01, STEPS), weight_decay=0.5)
    guide = exact(model, ["z"], continuous=normal(model))
    arguments = {"membership": np.ones((1, M), np.float32)}
    options = {"epochs": STEPS, "batch_size": data.num_items, "arguments": arguments, "progress": False}
    result = fit(jax.random.key(0), model, guide, arrays, optimizer, **options)
    return result, arrays


crowd = partial(crowd_l2d, classifier=partial(MLP, data.x.shape[1], (), C))
plain = dist.HalfNormal(np.array([0.01, 1.0])).to_event(1)
anything, arrays = fitted(prior(crowd, scale=plain, spread=plain))

# %% [markdown]
# ## What would such people say?
# `predictive` lets the fitted program generate new annotations of the same items, missing where ours are. Without the
# truth we can still ask which categories are given to the same item by different people.


# %%
def mixed_up(said):
    """Share of the items to which some people give one category and others another, for each pair of categories."""
    given = (said[..., None] == np.arange(C)).any(1).astype(float)
    return (given.T @ given / len(said))[np.triu_indices(C, 1)]


def criticised(result):
    tree = predictive(jax.random.key(1), result, arrays, num_samples=DRAWS, missing="mark")
    drawn = tree["posterior_predictive"]["annotation"].values[0][..., :M]
    return compare(mixed_up, tree["observed_data"]["annotation"].values[..., :M], drawn)


def draw(ax, found, title):
    order = np.argsort(found.observed)
    pairs = np.arange(len(order))
    ax.vlines(pairs, found.lower[order], found.upper[order], color="0.7", lw=5, label="what the model generates, 90 %")
    ax.plot(pairs, found.observed[order], "o", ms=4, label="observed")
    ax.set(title=title, xlabel="pairs of categories, sorted", ylabel="share of items with both")


first = criticised(anything)
print(int(first.surprising.sum()), "of", first.surprising.size, "pairs are outside of what the model generates")

# %% [markdown]
# The model spreads errors over all pairs of categories. People do not: they mix up a few pairs often, and most never.
# That is a misfit of one prior.
#
# ## The prior is edited
# We take the model's own priors, under which some errors are likelier than others. Guide, training and checks are the
# same lines.

# %%
own, _ = fitted(crowd)
second = criticised(own)
print(int(second.surprising.sum()), "of", second.surprising.size, "pairs are outside now")
figure, axes = plt.subplots(1, 2, figsize=(10, 3.2), sharey=True, layout="constrained")
draw(axes[0], first, "any error is as likely as another")
draw(axes[1], second, "some errors are likelier")
axes[0].legend(fontsize="small", loc="upper left")
plt.show()

# %% [markdown]
# ## Was it worth it?
# Now the truth comes out. We compare the truth that each model inferred, and ask whether its probabilities mean what
# they say: of the items whose truth is inferred with probability .8, are 80 % right?

# %%
curves = {}
for name, result in {"any error": anything, "some errors": own}.items():
    tree = to_datatree(jax.random.key(2), result, arrays, num_samples=DRAWS)
    probs = tree["marginals"]["y_probs"].values
    right = probs.argmax(1) == data.y
    print(f"{name}: {right.mean():.1%} of the inferred truth is right")
    curves[name] = reliability(probs.max(1), right)
plot_reliability(curves).figure

# %% [markdown]
# The pairs that are still outside are those that people never mix up: the prior gives every error some chance. A
# prior of `scale` with heavier tails is the next edit to try.
