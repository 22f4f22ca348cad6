"""Votes, networks and fits for the tests of the annotator LDA."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from numpyro.handlers import seed, trace
from programs import table
from scipy.special import gammaln, log_softmax

from pl2d_ppl import MLP, Ensemble, EnumELBO, fit
from pl2d_ppl.engine.dirichlet import concentration_of
from pl2d_ppl.guides.mean_field import mean_field
from pl2d_ppl.models.annotator_lda import annotator_lda

FORMS = ("votes", "counts")
KEY = jax.random.key(0)


class Lookup(nnx.Module):
    """Networks that look their logits up at x, the number of the item."""

    def __init__(self, logits):
        self.logits = nnx.Param(jnp.asarray(logits))

    def __call__(self, x):
        return self.logits[...][x[:, 0].astype(int)]


def counts_of(votes, num_categories):
    return np.stack([(votes == c).sum(1) for c in range(num_categories)], 1)


def random_votes(seed, num_items=7, num_clusters=3, num_categories=4, num_votes=5):
    """Logits that float32 holds exactly, and votes: padded in any place; the third item has none."""
    rng = np.random.default_rng(seed)
    logits = 1.5 * rng.standard_normal((num_items, num_clusters, num_categories))
    votes = rng.integers(0, num_categories, (num_items, num_votes))
    votes[1, : num_votes // 2] = -1
    votes[3, -1] = -1
    votes[2] = -1
    return logits.astype(np.float32), votes


def items(logits, votes):
    """What the oracles take of every item: ln h_k(vote_l), shape (L_i, K)."""
    log_h = log_softmax(np.float64(logits), -1)
    return [log_h[i][:, row[row >= 0]].T for i, row in enumerate(votes)]


def log_coefficients(counts):
    """Logarithm of the multinomial coefficient, summed over items."""
    return np.sum(gammaln(counts.sum(1) + 1) - gammaln(counts + 1).sum(1))


def given(form, votes, num_categories):
    return {form: jnp.asarray(votes if form == "votes" else counts_of(votes, num_categories))}


def concentrations(tr):
    return concentration_of(tr["u"]["fn"])[:, 0]


@partial(jax.jit, static_argnames=("sweeps", "tolerance"))
def inferred(logits, x, alpha, data, sweeps=2000, tolerance=0.0):
    """Concentrations of the mean-field guide, its ELBO, and the gradient with respect to the networks."""
    model = partial(annotator_lda, clusters=Lookup(logits), alpha=alpha)
    guide = mean_field(model, tolerance=tolerance, max_sweeps=sweeps)
    with trace() as tr:
        seed(guide, KEY)(x, **data)

    def elbo(values):
        params = {"clusters$params": {"logits": values}}
        return -EnumELBO().loss(KEY, params, model, guide, x, **data)

    return concentrations(tr), *jax.value_and_grad(elbo)(logits)


def infer(form, logits, votes, alpha, x=None, **options):
    x = np.arange(len(votes)) if x is None else x
    alpha = np.broadcast_to(alpha, logits.shape[1])
    data = given(form, votes, logits.shape[-1])
    return [np.asarray(a) for a in inferred(table(logits), table(x[:, None]), table(alpha), data, **options)]


OPTIMIZER = optax.adam(0.05)
ALPHAS = np.array([[5.0, 5.0], [2.0, 7.0], [50.0, 1e-3]])
KEYS = jax.random.split(KEY, 3)


def random_data(num_items=10, num_categories=3, num_votes=3):
    rng = np.random.default_rng(0)
    votes = rng.integers(-1, num_categories, (num_items, num_votes)).astype(np.int32)
    return {"x": rng.standard_normal((num_items, 2)).astype(np.float32), "votes": votes}


def mlp_lda(num_clusters=2, num_categories=3, **options):
    member = partial(MLP, 2, (), num_categories)
    return partial(annotator_lda, clusters=partial(Ensemble, member, num_clusters), **options)


MODEL = mlp_lda()
GUIDE = mean_field(MODEL)
run = partial(fit, optimizer=OPTIMIZER, epochs=3, batch_size=4, progress=False)
