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
# # Probabilistic learning to defer
#
# A system sees an item and either answers with its own classifier, the AI, or asks one of several people. We learn who
# should decide from data where half of the annotations are missing, with a fixed share for the AI. Then we look at the
# posterior, change the model, and see how inference follows.

# %%
import os
from functools import partial

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
from numpyro.infer import SVI, TraceEnum_ELBO

from pl2d_ppl import MLP, Deferral, Ensemble, fit, marginals, split, standardise, to_datatree, workload
from pl2d_ppl.data.missing import drop_annotations
from pl2d_ppl.guides.exact import exact
from pl2d_ppl.guides.mean_field import mean_field
from pl2d_ppl.models.prob_l2d import prob_l2d
from pl2d_ppl.primitives import ENUMERATE, answers, items, network, observe, with_ai
from pl2d_ppl.simulate import digits

QUICK = bool(os.environ.get("PL2D_QUICK"))
EPOCHS = 4 if QUICK else 60

# %% [markdown]
# ## Data
# The data are noisy handwritten digits and two simulated experts: one knows 0 to 4, the other 5 to 9; elsewhere each is
# wrong half of the time. Half of the training annotations are dropped.

# %%
data_key, missing_key, fit_key, posterior_key = jax.random.split(jax.random.key(0), 4)
train, test = split(digits(data_key), 0.33, seed=0)
train = train.replace_annotations(drop_annotations(missing_key, train.annotations, 0.5), train.annotators)
train, test = standardise(train, test)
print(train.summary())

# %% [markdown]
# ## Model, guide, workload
# The program is the model; its guide is derived from the program. The AI should decide 40 % of the items, and the first
# expert at most 20 %.

# %%
M, C = train.num_experts, train.num_categories
networks = {
    "gating": partial(MLP, 64, (64,), M + 1),
    "experts": partial(Ensemble, partial(MLP, 64, (64,), C), M),
    "classifier": partial(MLP, 64, (64,), C),
}
model = partial(prob_l2d, **networks)
lower, upper = [0.0, 0.0, 0.4], [0.2, 1.0, 0.4]
guide = workload(exact(model, ["z"]), site="z", lower=lower, upper=upper)
optimizer = optax.chain(optax.clip_by_global_norm(10.0), optax.sgd(0.05, momentum=0.9))
result = fit(fit_key, model, guide, train.batch(), optimizer, epochs=EPOCHS, batch_size=128, progress=False)
result

# %%
fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
left.plot(result.history["loss"])
left.set(xlabel="epoch", ylabel="negative ELBO per item")
right.plot(result.history["z_mean"], label=[*train.annotators, "AI"])
right.set(xlabel="epoch", ylabel="share of the posterior", ylim=(0, 1))
right.legend()
plt.show()

# %% [markdown]
# ## Decisions
# The workload bounds the posterior of the training items, not the decisions at test time, which are an argmax. A
# `Deferral` says who decides; its policy, fitted on the training part, brings decisions within the bounds.

# %%
plain = result.predict(test.x)
policy = Deferral.of(*result.predict(train.x), people=train.annotators).fit_policy(lower, upper)
day = Deferral.of(*plain, people=test.annotators)
for name, deferral in {"argmax": day, "within bounds": day.follow(policy)}.items():
    print(name, deferral.evaluate(test.annotations, test.y))

# %% [markdown]
# ## Posterior
# We look at the posterior of who should decide (`z`) and of everybody's annotations (`t`), and at the price of each
# person's time: a multiplier is positive if an upper bound limits a person who should otherwise decide more.

# %%
coords = {"expert": [*train.annotators, "AI"], "category": list(train.classes)}
tree = to_datatree(posterior_key, result, train.take(np.arange(200)).batch(), num_samples=50, coords=coords)
tree

# %%
tree["marginals"]["z_probs"].isel(item=slice(4)).to_series().unstack().round(2)  # z is a name: it has no mean

# %%
tree["workload"].to_dataset()

# %% [markdown]
# ## Change the model
# Suppose that one item in five is hard, and that everybody does worse on hard items. This adds a latent site and a
# dependency to a copy of `models/prob_l2d.py`. Nothing else needs writing: guide, E-step, workload and training follow
# from the new program. A prior on a network is as short, `network("gating", ..., prior=dist.Normal(0.0, 1.0))`: its
# weights are then latent, and the guide needs `continuous=normal(model)`.


# %%
def hard_items_l2d(x, annotations=None, y=None):
    """Probabilistic L2D with hard items, on which all beliefs are flattened."""
    gate_logits = network("gating", networks["gating"], x, output="gate_logits")
    ai_logits = network("classifier", networks["classifier"], x, output="ai_logits")
    beliefs = with_ai(network("experts", networks["experts"], x), ai_logits)

    with items(x):
        hard = numpyro.sample("hard", dist.Bernoulli(0.2), infer=dict(ENUMERATE))  # new
        flattened = beliefs * jnp.where(hard == 1, 0.3, 1.0)[..., None]  # new
        z = numpyro.sample("z", dist.Categorical(logits=gate_logits[:, None]), infer=dict(ENUMERATE))
        answers(z, flattened, annotations, y)
        observe("y_ai", dist.Categorical(logits=ai_logits[:, None]), y)


edited_guide = workload(exact(hard_items_l2d, ["z"]), site="z", lower=lower, upper=upper)
edited = fit(
    fit_key, hard_items_l2d, edited_guide, train.batch(), optimizer, epochs=EPOCHS, batch_size=128, progress=False
)
posterior = marginals(hard_items_l2d, params=edited.params)(**train.batch())
print("negative ELBO per item:", result.history["loss"][-1], "before,", edited.history["loss"][-1], "with hard items")
print("posterior share of hard items:", float(posterior["hard"][..., 1].mean()))

# %% [markdown]
# These items are the hardest according to the posterior:

# %%
hardest = np.argsort(-np.asarray(posterior["hard"][:, 0, 1]))[:8]
fig, axes = plt.subplots(1, 8, figsize=(9, 1.6), layout="constrained")
for ax, item in zip(axes, hardest, strict=True):
    ax.imshow(train.x[item].reshape(8, 8), cmap="gray_r")
    ax.set_title(f"{train.y[item]}: {posterior['hard'][item, 0, 1]:.2f}", fontsize="small")
    ax.axis("off")
plt.show()

# %% [markdown]
# ## With plain NumPyro
# Models and guides are plain NumPyro: its SVI and its own ELBO fit them too.

# %%
svi = SVI(model, mean_field(model), optax.adam(1e-3), TraceEnum_ELBO())
svi.run(fit_key, 5 if QUICK else 200, **train.batch(), progress_bar=False).losses[-1]
