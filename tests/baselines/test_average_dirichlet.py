"""The average of Dirichlet posteriors, against hand-written updates."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from cases.people import changed
from numpyro.contrib.module import nnx_module
from numpyro.handlers import mask
from oracles.lda import lda_mean_field
from scipy.special import log_softmax

from pl2d_ppl.baselines.average_dirichlet import average_dirichlet
from pl2d_ppl.models.annotator_lda import annotator_lda
from pl2d_ppl.networks import MLP, instantiate

pytestmark = pytest.mark.exhaustive  # a compilation for nearly every test: `make check` is to take three minutes


NETWORK = partial(MLP, 2, (), (3, 4))


def small_lda(x, votes, *, alpha):
    """Votes of three clusters for four categories."""
    logits = nnx_module("clusters", instantiate(NETWORK))(x)
    with numpyro.plate("item", len(x), dim=-2):
        u = numpyro.sample("u", dist.Dirichlet(jnp.asarray(alpha)))
        with numpyro.plate("vote", votes.shape[1], dim=-1), mask(mask=votes >= 0):
            z = numpyro.sample("z", dist.Categorical(u), infer={"enumerate": "parallel"})
            given = dist.Categorical(logits=logits[jnp.arange(len(x))[:, None], z])
            numpyro.sample("vote_value", given, obs=jnp.maximum(votes, 0))


def lda_problem():
    """Inputs, parameters, ln h of every item, and annotations of three people, of whom the last said nothing."""
    rng = np.random.default_rng(30)
    x, said = rng.standard_normal((30, 2)), rng.integers(-1, 4, (30, 3))
    said[:, 2] = -1
    weights = {"kernel": 2 * rng.standard_normal((2, 12)), "bias": rng.standard_normal(12)}
    log_h = log_softmax((x @ weights["kernel"] + weights["bias"]).reshape(30, 3, 4), -1)
    params = {"clusters$params": {"hidden": {}, "readout": jax.tree.map(jnp.asarray, weights)}}
    return x, params, log_h, said


@pytest.mark.parametrize(
    ("model", "batch_size"),
    [
        (small_lda, 4096),
        pytest.param(small_lda, 16, marks=pytest.mark.exhaustive),
        pytest.param(partial(annotator_lda, clusters=NETWORK), 4096, marks=pytest.mark.exhaustive),
    ],
)
def test_average_dirichlet_is_the_mean_of_the_hand_written_updates(float64, model, batch_size):
    """Equations B.13 and B.16 for every item with the person's single vote; then the mean of rho."""
    alpha = np.array([2.0, 3.0, 0.5])
    x, params, log_h, said = lda_problem()
    program = partial(model, alpha=alpha)
    with pytest.warns(UserWarning, match="none of 'person_2': their membership is the mean of the prior"):
        placed = average_dirichlet(
            program, params, x, said, tolerance=0.0, max_sweeps=400, batch_size=batch_size, clusters="abc"
        )
    for m in range(2):
        rows = np.flatnonzero(said[:, m] >= 0)
        rho = [lda_mean_field(log_h[i, :, said[i, m]][None], alpha, 400, rho_init=alpha)[1] for i in rows]
        np.testing.assert_allclose(placed.probs[:, m], np.mean(rho, 0) / np.mean(rho, 0).sum(), rtol=1e-9)
    np.testing.assert_allclose(placed.probs[:, 2], alpha / alpha.sum(), rtol=1e-12)
    assert placed.clusters == ("a", "b", "c")
    assert placed.method == "average-dirichlet"
    assert placed.num_annotations.tolist() == [*(said[:, :2] >= 0).sum(0), 0]


def test_average_dirichlet_refuses_what_does_not_fit():
    x, params, _, said = lda_problem()
    program = partial(small_lda, alpha=np.ones(3))
    with pytest.raises(
        ValueError, match=r"labels in -1..3, .* found 4 at item 7, by 'b' .* map labels to these categories"
    ):
        average_dirichlet(program, params, x, changed(said, (7, 1), 4), people="abc")
    with pytest.raises(ValueError, match=r"annotations of shape \(30, M\)"):
        average_dirichlet(program, params, x, said[:7])
    with pytest.raises(ValueError, match="at least one as max_sweeps, found 0"):
        average_dirichlet(program, params, x, said, max_sweeps=0)
    with pytest.raises(ValueError, match="finite values in x"):
        average_dirichlet(program, params, changed(x, 0, np.inf), said)
    with pytest.raises(ValueError, match="Dirichlet site 'u'"):
        average_dirichlet(lambda x, votes: numpyro.sample("v", dist.Normal()), {}, x, said)
