"""Annotator LDA: against scikit-learn, sums over assignments and hand-written objectives; its use in a fit."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest
from flax import nnx
from numpyro.handlers import block, seed, trace
from numpyro.infer import SVI, TraceEnum_ELBO
from numpyro.infer.autoguide import AutoDelta
from oracles.lda import lda_elbo, lda_log_evidence, lda_mean_field
from programs import Table, table, tree_allclose
from scipy.special import gammaln, log_softmax
from scipy.stats import gamma
from sklearn.decomposition import LatentDirichletAllocation
from sklearn.decomposition._lda import _update_doc_distribution

import pl2d_ppl.inference.fit
from pl2d_ppl import MLP, Ensemble, EnumELBO, FitResult, fit, load, to_datatree
from pl2d_ppl.engine.factors import concentration_of
from pl2d_ppl.guides.mean_field import mean_field
from pl2d_ppl.inference.compiled import PerRun, compile_fit
from pl2d_ppl.models.annotator_lda import annotator_lda

pytestmark = pytest.mark.slow  # a compilation for nearly every test: `make check` is to take three minutes

FORMS = ("votes", "counts")
KEY = jax.random.key(0)
SITES = ["u", "z"]


class Lookup(nnx.Module):
    """Networks that look their logits up at x, the number of the item."""

    def __init__(self, logits):
        self.logits = nnx.Param(jnp.asarray(logits))

    def __call__(self, x):
        return self.logits[...][x[:, 0].astype(int)]


class Heads(nnx.Module):
    """K linear networks with given weights, shape (K, inputs, C)."""

    def __init__(self, weights):
        self.weights = nnx.Param(jnp.asarray(weights, jnp.float32))

    def __call__(self, x):
        return jnp.einsum("nd,kdc->nkc", x, self.weights[...])


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


# --- E-step -----------------------------------------------------------------------------------------------


def sklearn_concentrations(counts, h, alpha):
    """Document concentrations of scikit-learn at given topics h, shape (K, C), sweep by sweep to the end."""
    lda = LatentDirichletAllocation(len(h), max_iter=1, max_doc_update_iter=5000, mean_change_tol=1e-13, random_state=0)
    lda.fit(np.maximum(counts, 1))
    lda.doc_topic_prior_ = alpha  # the constructor takes 1 at most
    lda.exp_dirichlet_component_ = np.float64(h)  # where it would take exp(E[ln beta]) of its own topics
    return lda.transform(np.float64(counts), normalize=False)


@pytest.mark.parametrize("alpha", [2.5, 50.0])
@pytest.mark.parametrize("form", FORMS)
def test_concentrations_equal_scikit_learn_where_items_share_the_networks(form, alpha):
    logits, votes = random_votes(1)
    rho = infer(form, logits, votes, alpha, x=np.zeros(7), sweeps=500, tolerance=1e-6)[0]
    h = np.exp(log_softmax(np.float64(logits[0]), -1))
    assert rho.dtype == np.float32
    np.testing.assert_allclose(rho, sklearn_concentrations(counts_of(votes, 4), h, alpha), rtol=0, atol=1e-4)


@pytest.mark.parametrize("alpha", [2.5, 50.0])
@pytest.mark.parametrize("form", FORMS)
def test_concentrations_equal_scikit_learn_item_by_item(form, alpha):
    logits, votes = random_votes(2)
    rho = infer(form, logits, votes, alpha, sweeps=500, tolerance=1e-6)[0]
    h = np.exp(log_softmax(np.float64(logits), -1))
    for i, counts in enumerate(np.float64(counts_of(votes, 4))):
        if not counts.any():  # nothing to infer from; scikit-learn does not sweep
            np.testing.assert_allclose(rho[i], alpha, rtol=1e-6)
            continue
        expected, _ = _update_doc_distribution(counts[None], h[i], alpha, 5000, 1e-13, False, np.random.RandomState(0))
        np.testing.assert_allclose(rho[i], expected[0], rtol=0, atol=1e-4)
    assert np.ptp(rho[3:], axis=0).min() > 0.01  # items differ


# --- Votes and counts; bounds -----------------------------------------------------------------------------


def test_counts_give_what_votes_give(precision):
    logits, votes = random_votes(3)
    alpha = np.array([2.0, 3.0, 5.0])
    options = {"sweeps": 2000, "tolerance": 0.0} if precision.name == "float64" else {"sweeps": 500, "tolerance": 1e-6}
    by_vote, by_count = (infer(form, logits, votes, alpha, **options) for form in FORMS)
    np.testing.assert_allclose(by_count[0], by_vote[0], rtol=precision.rtol)
    np.testing.assert_allclose(
        by_count[1], by_vote[1] + log_coefficients(counts_of(votes, 4)), rtol=precision.rtol, atol=precision.rtol
    )
    np.testing.assert_allclose(by_count[2], by_vote[2], rtol=precision.rtol, atol=precision.rtol)
    assert not by_vote[2][2].any()  # the item without votes
    assert np.all(np.abs(by_vote[2][[0, 1, 3]]).max((1, 2)) > 0.05)
    np.testing.assert_allclose(by_vote[2].sum(-1), 0.0, atol=1e-5)  # logits of one network may be shifted


def test_elbo_and_concentrations_equal_the_oracle(float64):
    logits, votes = random_votes(5)
    alpha = np.array([0.7, 3.0, 20.0])
    rho, elbo, _ = infer("votes", logits, votes, alpha)
    # From the prior, as the guide starts.
    expected = [lda_mean_field(log_h, alpha, 2000, rho_init=alpha) for log_h in items(logits, votes)]
    np.testing.assert_allclose(rho, [e[1] for e in expected], rtol=1e-9)
    bounds = [lda_elbo(log_h, alpha, *e) for log_h, e in zip(items(logits, votes), expected, strict=True)]
    np.testing.assert_allclose(elbo, sum(bounds), rtol=1e-9)


@pytest.mark.parametrize("alpha", [0.5, 2.0, 50.0, 1e4])
def test_evidence_exceeds_the_elbo(float64, alpha):
    logits, votes = random_votes(6)
    coefficients = log_coefficients(counts_of(votes, 4))
    evidence = sum(lda_log_evidence(log_h, np.full(3, alpha)) for log_h in items(logits, votes))
    elbo = infer("votes", logits, votes, alpha)[1]
    gap = evidence - elbo
    assert gap > 0
    assert (gap < 1e-3) == (alpha == 1e4)  # u and z are independent where u is known
    np.testing.assert_allclose(infer("counts", logits, votes, alpha)[1] - coefficients, elbo, rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_one_cluster_has_its_evidence_for_an_elbo(float64, form):
    logits, votes = random_votes(7, num_clusters=1)
    rho, elbo, _ = infer(form, logits, votes, 2.0)
    evidence = sum(lda_log_evidence(log_h, np.array([2.0])) for log_h in items(logits, votes))
    np.testing.assert_allclose(evidence, sum(log_h.sum() for log_h in items(logits, votes)), rtol=1e-12)
    coefficients = log_coefficients(counts_of(votes, 4)) if form == "counts" else 0.0
    np.testing.assert_allclose(elbo, evidence + coefficients, rtol=1e-12)
    np.testing.assert_allclose(rho[:, 0], 2.0 + (votes >= 0).sum(1))


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(1, 1, 3, 2), (3, 2, 3, 1), (3, 3, 3, 3)])
def test_axes_of_size_one_and_of_equal_size(float64, shape):
    """Items, clusters, categories, votes: the engine drops axes of size one, and may mix up equal ones."""
    num_items, num_clusters, num_categories, num_votes = shape
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((num_items, num_clusters, num_categories))
    votes = rng.integers(0, num_categories, (num_items, num_votes))
    alpha = np.linspace(2, 3, num_clusters)
    q = [lda_mean_field(log_h, alpha, 500, rho_init=alpha) for log_h in items(logits, votes)]
    expected = sum(lda_elbo(log_h, alpha, *qi) for log_h, qi in zip(items(logits, votes), q, strict=True))
    for form in FORMS:
        coefficients = log_coefficients(counts_of(votes, num_categories)) if form == "counts" else 0.0
        rho, elbo, _ = infer(form, logits, votes, alpha)
        np.testing.assert_allclose(elbo - coefficients, expected, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(np.broadcast_to(rho, (num_items, num_clusters)), [qi[1] for qi in q], rtol=1e-9)


@partial(jax.jit, static_argnames="sweeps")
def bounds(logits, data, sweeps):
    """ELBO after a number of sweeps, in this order."""
    model = partial(annotator_lda, clusters=Table(logits), alpha=table([0.6, 3.0, 20.0]))
    guides = [mean_field(model, tolerance=0.0, max_sweeps=s) for s in sweeps]
    return jnp.stack([-EnumELBO().loss(KEY, {}, model, guide, logits, **data) for guide in guides])


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_elbo_never_falls_in_a_sweep(float64, form):
    sweeps = (1, 2, 3, 4, 6, 10, 40)
    for number in range(5):
        logits, votes = random_votes(10 + number)
        found = bounds(table(2.0 * logits), given(form, votes, 4), sweeps)
        assert np.all(np.diff(found) > -1e-12)
        assert found[1] > found[0] + 1e-5
        alpha = np.array([0.6, 3.0, 20.0])
        for s, bound in zip(sweeps, found, strict=True):
            log_h = items(2.0 * logits, votes)
            q = [lda_mean_field(h, alpha, s, rho_init=alpha) for h in log_h]
            expected = sum(lda_elbo(h, alpha, *qi) for h, qi in zip(log_h, q, strict=True))
            if form == "votes":
                np.testing.assert_allclose(bound, expected, rtol=1e-9)
            else:  # z is at its optimum given the last u, where the votes' z is that of the u before
                assert bound - log_coefficients(counts_of(votes, 4)) >= expected - 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_gradient_is_that_of_the_bound(float64, form):
    logits, votes = random_votes(8)
    _, _, gradient = infer(form, logits, votes, 2.0)
    step = np.random.default_rng(0).standard_normal(logits.shape)
    ends = [infer(form, logits + e * step, votes, 2.0)[1] for e in (1e-5, -1e-5)]
    np.testing.assert_allclose(np.vdot(gradient, step), (ends[0] - ends[1]) / 2e-5, rtol=1e-7)


# --- Concentration ----------------------------------------------------------------------------------------


def prior_concentration(alpha, num_clusters=3):
    model = partial(annotator_lda, clusters=Table(np.zeros((4, num_clusters, 2), np.float32)), alpha=alpha)
    tr = trace(seed(model, KEY)).get_trace(jnp.zeros((4, 1)))
    return concentrations(tr)


@pytest.mark.parametrize("alpha", [2.5, 50, np.array([4.0]), np.array([1.0, 2.0, 3.0])])
def test_forms_of_alpha(alpha):
    np.testing.assert_array_equal(prior_concentration(alpha), np.broadcast_to(alpha, (4, 3)))


@pytest.mark.parametrize("alpha", [[1.0, 2.0, 3.0], (1.0, 2.0, 3.0)])
def test_alpha_as_a_list(alpha):
    np.testing.assert_array_equal(prior_concentration(alpha), np.broadcast_to(alpha, (4, 3)))


@pytest.mark.slow
@pytest.mark.parametrize(("form", "num_items", "shared"), [("votes", 35, False), ("counts", None, True)])
def test_gradient_of_a_prior_of_alpha(float64, form, num_items, shared):
    logits, votes = random_votes(9)
    prior = dist.Gamma(2.0, 0.1) if shared else dist.Gamma(2.0, 0.1).expand([3]).to_event(1)
    model = partial(annotator_lda, clusters=Table(table(logits)), alpha=prior, num_items=num_items)
    guide = mean_field(model, continuous=AutoDelta(block(model, hide=SITES)), tolerance=0.0, max_sweeps=2000)
    data = {"x": jnp.zeros((7, 1)), **given(form, votes, 4)}
    seed(guide.continuous, KEY)(**data)

    @jax.jit
    def loss(alpha):
        return EnumELBO().loss(KEY, {"alpha_auto_loc": alpha}, model, guide, **data)

    def objective(alpha):
        """Bound at its optimum, and the prior; written by hand."""
        by_cluster = np.broadcast_to(alpha, 3)
        q = [lda_mean_field(log_h, by_cluster, 200, rho_init=by_cluster) for log_h in items(logits, votes)]
        total = sum(lda_elbo(log_h, by_cluster, *qi) for log_h, qi in zip(items(logits, votes), q, strict=True))
        total += log_coefficients(counts_of(votes, 4)) if form == "counts" else 0.0
        return -(num_items or 7) / 7 * total - gamma(2.0, scale=10.0).logpdf(alpha).sum()

    alpha = np.array(4.0) if shared else np.array([0.8, 4.0, 20.0])
    value, gradient = jax.value_and_grad(loss)(jnp.asarray(alpha))
    np.testing.assert_allclose(value, objective(alpha), rtol=1e-9)
    steps = np.array([1e-5 * alpha]) if shared else 1e-5 * np.diag(alpha)
    slope = [(objective(alpha + s) - objective(alpha - s)) / (2 * s.sum()) for s in steps]
    np.testing.assert_allclose(np.ravel(gradient), slope, rtol=1e-6, atol=1e-8)


def test_a_prior_of_alpha_needs_a_guide():
    with pytest.raises(ValueError, match=r"'alpha' ~ Gamma without a value.*(\n.*)*continuous="):
        bad(random_data(), model=mlp_lda(alpha=dist.Gamma(2.0, 0.1)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("alpha", "tolerance"),
    [
        (1e-4, 1e-2),
        (1.0, 1e-4),
        (1e3, 2e-2),
        pytest.param(1e5, 1e-1, marks=pytest.mark.xfail(strict=True, reason="gammaln(alpha) in float32")),
    ],
)
@pytest.mark.parametrize("form", FORMS)
def test_concentrations_far_from_one(form, alpha, tolerance):
    """ELBO of float32 against the oracle, absolutely, of seven items."""
    logits, votes = random_votes(15)
    _, elbo, gradient = infer(form, logits, votes, alpha, sweeps=500, tolerance=1e-6)
    with jax.enable_x64(True):
        _, expected, slope = infer(form, logits, votes, alpha)
    np.testing.assert_allclose(gradient, slope, atol=1e-3)
    np.testing.assert_allclose(elbo, expected, rtol=0, atol=tolerance)


@pytest.mark.slow
@pytest.mark.xfail(strict=True, reason="1 + (alpha - 1) is 0 in float32, no concentration")
@pytest.mark.parametrize("form", FORMS)
def test_a_tiny_concentration(form):
    logits, votes = random_votes(15)
    rho, elbo, _ = infer(form, logits, votes, 1e-8, sweeps=500, tolerance=1e-6)
    np.testing.assert_allclose(rho[2], 1e-8, rtol=1e-3)  # the item without votes
    assert np.isfinite(elbo)


LONE, PADDED = np.array([[0, 1, 1, 2]]), np.array([[1, 1, 2, -1]])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "sure", "votes"),
    [
        ("votes", [0], LONE),  # one cluster rules out what another explains
        ("counts", [0], LONE),
        ("votes", [0, 1], LONE),  # nobody explains a vote
        pytest.param(
            "counts", [0, 1], LONE, marks=pytest.mark.xfail(strict=True, reason="probabilities are floored at exp(-80)")
        ),
        ("votes", [0, 1], PADDED),  # nobody voted for what is ruled out
        ("counts", [0, 1], PADDED),
    ],
)
def test_networks_that_are_very_sure(form, sure, votes):
    """A network may give category 0 a log-probability for which float32 has no probability."""
    logits = np.zeros((1, 2, 3), np.float32)
    logits[0, sure, 0] = -100.0
    rho, elbo, gradient = infer(form, logits, votes, 2.5, sweeps=500, tolerance=1e-6)
    alpha = np.full(2, 2.5)
    q = lda_mean_field(items(logits, votes)[0], alpha, 2000, rho_init=alpha)
    expected = lda_elbo(items(logits, votes)[0], alpha, *q)
    expected += log_coefficients(counts_of(votes, 3)) if form == "counts" else 0.0
    np.testing.assert_allclose(elbo, expected, rtol=1e-4)
    np.testing.assert_allclose(rho[0], q[1], rtol=1e-4)
    assert np.isfinite(gradient).all()


@partial(jax.jit, static_argnames="max_votes")
def bound_of_counts(logits, counts, max_votes):
    model = partial(annotator_lda, clusters=Table(logits), alpha=2.5, max_votes=max_votes)
    guide = mean_field(model, tolerance=0.0, max_sweeps=500)

    def loss(values):
        return EnumELBO().loss(KEY, {"clusters$params": {"logits": values}}, model, guide, logits, counts=counts)

    return jax.value_and_grad(loss)(logits)


@pytest.mark.slow
@pytest.mark.parametrize("max_votes", [3, 20])
def test_categories_without_votes_may_be_left_out(float64, max_votes):
    logits, votes = random_votes(17, num_categories=6, num_votes=3)
    counts = jnp.asarray(counts_of(votes, 6))
    everything = bound_of_counts(table(logits), counts, None)
    tree_allclose(bound_of_counts(table(logits), counts, max_votes), everything, rtol=1e-9, atol=1e-9)


def test_too_small_a_number_of_votes_is_refused():
    logits, votes = random_votes(17)
    model = partial(annotator_lda, clusters=Table(logits), max_votes=1)
    with pytest.raises(ValueError, match="max_votes"):
        seed(model, KEY)(jnp.asarray(logits), counts=jnp.asarray(counts_of(votes, 4)))


# --- Fits, their arguments --------------------------------------------------------------------------------

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


@cache
def batched():
    """A fit of three runs, each with an alpha of its own."""
    return run(KEYS, MODEL, GUIDE, random_data(), arguments={"alpha": PerRun(ALPHAS)})


@pytest.mark.slow
def test_runs_of_a_batch_equal_single_runs():
    result = batched()
    singles = [run(KEYS[i], MODEL, GUIDE, random_data(), arguments={"alpha": ALPHAS[i]}) for i in range(3)]
    for i, single in enumerate(singles):
        one = result.run(i)
        np.testing.assert_allclose(single.history["loss"], result.history["loss"][:, i], rtol=1e-5)
        tree_allclose(single.params, one.params, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(one.leaves[0], single.leaves[0])
        assert one.compiled is single.compiled  # one compilation of all single runs
    assert result.compiled.epoch._cache_size() == result.compiled.init._cache_size() == 1
    assert singles[0].compiled.epoch._cache_size() == singles[0].compiled.init._cache_size() == 1
    assert np.ptp(result.history["loss"][-1]) > 1e-3  # the runs differ


@pytest.mark.slow
def test_another_alpha_is_not_another_compilation():
    result = batched()
    other = run(KEYS, MODEL, GUIDE, random_data(), arguments={"alpha": PerRun(2.0 * ALPHAS)})
    assert other.compiled is result.compiled
    assert result.compiled.epoch._cache_size() == 1
    assert np.all(other.history["loss"] != result.history["loss"])


@pytest.mark.slow
def test_runs_may_share_an_alpha():
    shared = run(KEYS[1:], MODEL, GUIDE, random_data(), arguments={"alpha": ALPHAS[1]})
    np.testing.assert_allclose(shared.history["loss"][:, 0], batched().history["loss"][:, 1], rtol=1e-5)
    assert shared.run(1).leaves[0].shape == (2,)


@pytest.mark.slow
def test_alpha_of_integers():
    whole = run(KEYS[0], MODEL, GUIDE, random_data(), arguments={"alpha": [5, 5]})
    np.testing.assert_allclose(whole.history["loss"], batched().history["loss"][:, 0], rtol=1e-5)


@pytest.mark.slow
def test_a_cluster_that_is_switched_off():
    """alpha_k = 1e-3 leaves the fit of a model without cluster k."""
    data = random_data(12)
    data = {"x": data["x"], "counts": counts_of(data["votes"], 3)}
    weights = np.random.default_rng(1).standard_normal((3, 2, 3))
    options = {"optimizer": optax.adam(0.02), "epochs": 10}
    two, three = (partial(annotator_lda, clusters=Heads(w)) for w in (weights[:2], weights))
    expected = run(KEY, two, mean_field(two), data, arguments={"alpha": [5.0, 5.0]}, **options)
    alphas = {"alpha": PerRun([[5.0, 5.0, 1e-3], [5.0, 5.0, 5.0]])}
    keys = jnp.stack([KEY, KEY])
    found = run(keys, three, mean_field(three), data, arguments=alphas, **options)
    off, on = (found.run(i).params["clusters$params"]["weights"] for i in range(2))
    np.testing.assert_allclose(off[:2], expected.params["clusters$params"]["weights"], atol=2e-3)
    np.testing.assert_allclose(off[2], weights[2], atol=1e-6)  # nothing has reached it
    np.testing.assert_allclose(found.history["loss"][:, 0], expected.history["loss"], atol=2e-3)
    assert np.abs(on[2] - weights[2]).max() > 0.02
    assert np.abs(found.history["loss"][:, 1] - expected.history["loss"]).max() > 0.01


@pytest.mark.slow
def test_outputs_are_normalised():
    result, x = batched(), random_data()["x"]
    logits = result.outputs(x, batch_size=4)["cluster_logits"]
    assert logits.shape == (3, 1, 10, 2, 3)
    np.testing.assert_allclose(np.exp(logits).sum(-1), 1.0, rtol=1e-5)
    one = result.run(1).outputs(x)["cluster_logits"]
    np.testing.assert_allclose(one, logits[1], atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_posterior_as_a_tree(form):
    data = random_data()
    if form == "votes":
        result = batched().run(0)
    else:
        data = {"x": data["x"], "counts": counts_of(data["votes"], 3)}
        compiled, leaves = compile_fit(MODEL, GUIDE, OPTIMIZER, False, 2, {"alpha": ALPHAS[0]})
        arrays = {name: jnp.asarray(a) for name, a in data.items()}
        result = FitResult.start(compiled, leaves, compiled.init(leaves, KEY, arrays), arrays)  # of no epochs
    tree = to_datatree(KEY, result, data, num_samples=2000)
    u = tree["posterior"]["u"]
    assert u.dims[:3] == ("chain", "draw", "item")
    assert u.shape == (1, 2000, 10, 2)
    np.testing.assert_allclose(u.sum(u.dims[-1]), 1.0, rtol=1e-5)
    same = partial(MODEL, clusters=Table(result.outputs(data["x"])["cluster_logits"][0]), alpha=result.leaves[0])
    with trace() as tr:
        seed(mean_field(same), KEY)(**{name: jnp.asarray(a) for name, a in data.items()})
    rho = concentrations(tr)
    np.testing.assert_allclose(u.mean(("chain", "draw")), rho / rho.sum(-1, keepdims=True), atol=0.02)
    outputs = tree["network_outputs"]["cluster_probs"]
    assert outputs.shape == (10, 2, 3)
    assert outputs.dims[:2] == ("item", u.dims[-1])  # clusters have one name everywhere
    np.testing.assert_allclose(outputs.sum(outputs.dims[-1]), 1.0, rtol=1e-5)
    np.testing.assert_array_equal(tree["observed_data"][form], data[form])
    assert ("z" in tree["posterior"]) == (form == "votes")
    if form == "votes":
        z, probs = tree["posterior"]["z"], tree["marginals"]["z_probs"]
        assert z.dims == ("chain", "draw", "item", "vote")
        assert probs.dims == ("item", "vote", u.dims[-1])
        assert tree["observed_data"]["votes"].dims == ("item", "vote")
        np.testing.assert_allclose((z == 1).mean(("chain", "draw")), probs[..., 1], atol=0.05)
        np.testing.assert_allclose(probs.values[data["votes"] < 0], 0.5)  # nothing is known of a vote that is none
        # rho = alpha + sum of q(z) over the votes: the tree tells one story.
        shares = probs.values * (data["votes"] >= 0)[..., None]
        np.testing.assert_allclose(rho - np.asarray(result.leaves[0]), shares.sum(1), atol=2e-3)


@pytest.mark.slow
def test_posterior_given_inputs_alone_is_the_prior():
    tree = to_datatree(KEY, batched().run(1), {"x": random_data()["x"]}, num_samples=4000)
    assert set(tree["posterior"].data_vars) == {"u"}
    np.testing.assert_allclose(
        tree["posterior"]["u"].mean(("chain", "draw")), np.tile([2 / 9, 7 / 9], (10, 1)), atol=0.02
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_checkpoint_of_a_fit_with_arguments(tmp_path):
    path = tmp_path / "fit"
    whole, arguments = batched(), {"alpha": PerRun(ALPHAS)}
    run(KEYS, MODEL, GUIDE, random_data(), arguments=arguments, epochs=1).save(path)
    found = load(path, MODEL, GUIDE, OPTIMIZER, arguments=arguments)
    np.testing.assert_array_equal(found.leaves[0], np.float32(ALPHAS))
    resumed = run(KEYS, MODEL, GUIDE, random_data(), arguments=arguments, resume=found)
    np.testing.assert_array_equal(resumed.history["loss"], whole.history["loss"])
    tree_allclose(resumed.params, whole.params, rtol=0, atol=0)
    with pytest.raises(ValueError, match=r"arguments of 3 runs, one for each key, found \[2\]"):
        load(path, MODEL, GUIDE, OPTIMIZER, arguments={"alpha": PerRun(ALPHAS[:2])})
    with pytest.raises(ValueError, match="resume a fit of the same model"):
        run(KEYS, MODEL, GUIDE, random_data(), resume=found, epochs=4)
    without = load(path, MODEL, GUIDE, OPTIMIZER)  # programs are code: alpha is that of the model then
    np.testing.assert_array_equal(
        without.outputs(random_data()["x"])["cluster_logits"], found.outputs(random_data()["x"])["cluster_logits"]
    )


@pytest.mark.slow
def test_validation_of_runs_with_arguments():
    data = random_data()
    held_out = {n: a[:7] for n, a in data.items()}  # a chunk of 4, and one of 3
    result = run(KEYS, MODEL, GUIDE, data, arguments={"alpha": PerRun(ALPHAS)}, validation=held_out, epochs=1)
    arrays = {n: jnp.asarray(a) for n, a in held_out.items()}
    loss = jax.jit(lambda params, alpha: EnumELBO().loss(KEY, params, MODEL, GUIDE, **arrays, alpha=alpha))
    for i in range(3):
        expected = loss(result.run(i).params, result.leaves[0][i]) / 7
        np.testing.assert_allclose(result.history["validation_loss"][0, i], expected, rtol=1e-5)


# --- Plain NumPyro ----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_plain_numpyro(form):
    data = random_data()
    arrays = {"x": jnp.asarray(data["x"]), **given(form, data["votes"], 3)}
    svi = SVI(MODEL, mean_field(MODEL), optax.adam(1e-3), TraceEnum_ELBO())
    result = svi.run(KEY, 5, **arrays, progress_bar=False)
    assert np.isfinite(result.losses).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    "padding",
    [
        0,
        pytest.param(2, marks=pytest.mark.xfail(strict=True, reason="the guide's z is not masked: ln K a padded vote")),
    ],
)
def test_plain_numpyro_estimates_the_same_elbo(padding):
    """NumPyro draws u, and takes the mean over z: on average the ELBO of E[ln u]."""
    logits, votes = random_votes(12)
    votes = np.where(votes < 0, 1, votes)
    votes = np.pad(votes, ((0, 0), (0, padding)), constant_values=-1)
    model = partial(annotator_lda, clusters=Table(logits), alpha=3.0)
    guide, data = mean_field(model), {"x": jnp.zeros((7, 1)), "votes": jnp.asarray(votes)}
    estimates = (TraceEnum_ELBO(num_particles=2000), EnumELBO())
    drawn, exact = jax.jit(lambda key: [e.loss(key, {}, model, guide, **data) for e in estimates])(KEY)
    np.testing.assert_allclose(drawn, exact, atol=0.1)


# --- Bad input --------------------------------------------------------------------------------------------


@pytest.fixture
def compiled(monkeypatch):
    """Programs that fits ask for, and how often their first state had been compiled before."""
    calls = []
    original = pl2d_ppl.inference.fit.compile_fit

    def watched(*args, **kwargs):
        compiled, leaves = original(*args, **kwargs)
        calls.append((compiled, compiled.init._cache_size()))
        return compiled, leaves

    monkeypatch.setattr(pl2d_ppl.inference.fit, "compile_fit", watched)
    return calls


def bad(data, model=MODEL, **options):
    """A fit that should be refused within moments."""
    return run(KEY, model, mean_field(model), data, **options)


def refused(compiled, message, data, **options):
    with pytest.raises(ValueError, match=message):
        bad(data, **options)
    assert all(compiled.init._cache_size() == before for compiled, before in compiled)


X = random_data()["x"]
VOTES = random_data()["votes"]
COUNTS = counts_of(VOTES, 3)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"votes": np.full_like(VOTES, -1)}, r"some votes in data\['votes'\], found only -1"),
        ({"votes": VOTES[:, :0]}, r"some votes in data\['votes'\]"),
        ({"votes": VOTES.astype(float)}, r"integer labels in data\['votes'\], found float64"),
        ({"votes": VOTES + 1}, r"labels in -1..2 in data\['votes'\], since the networks have 3 outputs, found 3"),
        ({"votes": VOTES - 1}, r"labels from -1 up, -1 where missing, in data\['votes'\], found -2"),
        ({"votes": VOTES[:9]}, "arrays of one length"),
        ({"votes": VOTES[:, 0]}, r"votes of shape \(4, L\), one row an item"),
        ({"votes": VOTES, "counts": COUNTS}, "votes or counts, found both"),
        ({"counts": COUNTS - 1}, r"not negative, in data\['counts'\], found a count of -1"),
        ({"counts": COUNTS.astype(float)}, r"integer counts in data\['counts'\], found float64"),
        ({"counts": COUNTS / COUNTS.sum()}, "do not pass shares"),
        ({"counts": COUNTS > 0}, r"integer counts in data\['counts'\], found bool"),
        ({"counts": 0 * COUNTS}, "found counts of zero only"),
        ({"counts": COUNTS[:, :2]}, r"counts of shape \(4, 3\), one column a category.*found \(4, 2\)"),
        ({"counts": np.pad(COUNTS, ((0, 0), (0, 1)))}, r"counts of shape \(4, 3\).*found \(4, 4\)"),
        ({"counts": COUNTS[:9]}, "arrays of one length"),
        ({"counts": COUNTS[:, 0]}, r"\(N, C\) and not negative.*found shape \(10,\)"),
    ],
)
def test_bad_votes(compiled, labels, message):
    refused(compiled, message, {"x": X, **labels})


def test_bad_validation(compiled):
    refused(compiled, r"validation\['votes'\]", random_data(), validation={"x": X, "votes": VOTES + 1})
    counted = {"x": X, "counts": COUNTS}
    refused(compiled, r"entries of data", random_data(), validation=counted)
    refused(compiled, r"counts.*\('N', 3\)", counted, validation={"x": X, "counts": COUNTS[:, :2]})


@pytest.mark.parametrize(
    ("alpha", "message"),
    [
        (0.0, "positive concentration alpha, found 0.0. Pass 50"),
        (-1.0, "positive concentration"),
        (np.nan, "positive concentration alpha, found nan"),
        (np.inf, "positive concentration alpha, found inf"),
        (np.array([2.0, 0.0]), "positive concentration"),
        (np.ones(3), r"concentration alpha, or one for each of 2, found shape \(3,\)"),
        (np.ones((2, 2)), r"one for each of 2, found shape \(2, 2\)"),
    ],
)
def test_bad_alpha(compiled, alpha, message):
    refused(compiled, message, random_data(), model=mlp_lda(alpha=alpha))


@pytest.mark.parametrize(
    ("alpha", "message"),
    [
        ([2.0, 0.0], "positive concentration"),
        ([2.0, -1.0], "positive concentration"),
        ([2.0, np.nan], r"arguments\['alpha'\], found NaN or infinity"),
        ([2.0, 2.0, 2.0], r"one for each of 2, found shape \(3,\)"),
        (PerRun([[2.0, 2.0]]), r"arguments that are not PerRun, with a single key.*jax.random.split"),
        ([[2.0, 2.0]], r"one for each of 2, found shape \(1, 2\)"),
        (np.ones((1, 1, 2)), r"found shape \(1, 1, 2\)"),
    ],
)
def test_bad_arguments(compiled, alpha, message):
    refused(compiled, message, random_data(), arguments={"alpha": alpha})


def test_bad_arguments_of_runs(compiled):
    with pytest.raises(ValueError, match=r"arguments of 3 runs, one for each key, found \[2\]"):
        run(KEYS, MODEL, GUIDE, random_data(), arguments={"alpha": PerRun(ALPHAS[:2])})
    with pytest.raises(ValueError, match=r"one for each of 2, found shape \(3,\)"):
        run(KEYS, MODEL, GUIDE, random_data(), arguments={"alpha": PerRun(np.ones((3, 3)))})
    with pytest.raises(ValueError, match="positive concentration"):
        run(KEYS, MODEL, GUIDE, random_data(), arguments={"alpha": PerRun(ALPHAS - 2.0)})
    refused(compiled, "'x' as data or as an argument, found both", random_data(), arguments={"x": [1.0]})
    refused(compiled, "unexpected keyword argument 'alhpa'", random_data(), arguments={"alhpa": [1.0]})


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ((4, 3), r"outputs \(N, K, C\), for K clusters and C categories, found \(4, 3\). Pass K networks as one"),
        ((4, 1, 2, 3), r"found \(4, 1, 2, 3\)"),
        ((4, 0, 3), r"found \(4, 0, 3\)"),
        ((5, 2, 3), r"votes of shape \(5, L\), one row an item, found \(4, 3\)"),
    ],
)
def test_bad_networks(compiled, outputs, message):
    model = partial(annotator_lda, clusters=Table(np.zeros(outputs, np.float32)))
    refused(compiled, message, random_data(), model=model)


def test_bad_inputs(compiled):
    wide = random_data() | {"x": np.zeros((10, 5), np.float32)}
    refused(compiled, r"data that the programs and their networks take.*'x': \(4, 5\)", wide)
    refused(compiled, r"NaN or infinity", random_data() | {"x": np.full((10, 2), np.nan, np.float32)})
