"""Memberships of identified people, against quadrature, convex programs and simulation."""

import subprocess
import sys
import warnings
from functools import partial

import arviz as az
import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import scipy.stats
import xarray as xr
from numpyro.contrib.module import nnx_module
from numpyro.handlers import mask, seed
from numpyro.infer import Predictive
from oracles.lda import lda_mean_field
from scipy.special import betaln, expit, log_expit, log_softmax, softmax

from pl2d_ppl.baselines.average_dirichlet import average_dirichlet
from pl2d_ppl.distributions.categorical_mixture import CategoricalMixture
from pl2d_ppl.models.annotator_lda import annotator_lda
from pl2d_ppl.models.membership import membership
from pl2d_ppl.networks import MLP, instantiate
from pl2d_ppl.people.membership import Membership
from pl2d_ppl.people.place import log_likelihood, maximise_membership, sample_membership
from pl2d_ppl.people.simplex import LogRatio, ascend, em_step

pytestmark = pytest.mark.exhaustive  # a compilation for nearly every test: `make check` is to take three minutes

KEY = jax.random.key(0)


def simulate(seed, num_items, omega, num_categories, missing=0.0, sharpness=0.3):
    """What clusters say, exact in float32, and what people with memberships omega (M, K) say."""
    rng = np.random.default_rng(seed)
    omega = np.asarray(omega, float)
    num_people, num_clusters = omega.shape
    h = rng.dirichlet(np.full(num_categories, sharpness), (num_items, num_clusters))
    h = np.float32(0.999 * h + 0.001 / num_categories)
    probs = np.einsum("mk,nkc->nmc", omega, h.astype(float))
    uniform = rng.random((num_items, num_people, 1)) * probs.sum(-1, keepdims=True)
    said = (probs.cumsum(-1) > uniform).argmax(-1)
    return h, np.where(rng.random(said.shape) < missing, -1, said)


def likelihood_of(h, said):
    """Probability of one person's annotations under each cluster, (n, K)."""
    rows = np.flatnonzero(said >= 0)
    return h[rows, :, said[rows]].astype(float)


def objective(given, omega):
    """Log-likelihood an annotation."""
    return np.log(given @ omega).mean()


def standard_error(placed):
    """Monte Carlo standard errors of posterior means, (K, M)."""
    return placed.draws.std((1, 2)).T / np.sqrt(placed.ess_bulk)


def observe(omega, cluster_probs, annotations):
    """The likelihood of `membership`, written as its docstring has it."""
    with numpyro.plate("item", len(cluster_probs), dim=-1), mask(mask=annotations >= 0):
        probs = jnp.einsum("k,nkc->nc", omega, cluster_probs)
        numpyro.sample("said", dist.Categorical(probs=probs), obs=jnp.maximum(annotations, 0))


# --- Programs and coordinates ---------------------------------------------------------------------


def test_program_generates_what_its_docstring_says():
    h, _ = simulate(0, 3, np.ones((1, 2)) / 2, 4)
    drawn = Predictive(partial(membership, concentration=(2.0, 5.0)), num_samples=20_000)(KEY, h)
    np.testing.assert_allclose(drawn["membership"].mean(0), [2 / 7, 5 / 7], atol=0.01)
    share = np.eye(4)[np.asarray(drawn["annotation"])].mean(0)
    np.testing.assert_allclose(share, np.einsum("k,nkc->nc", [2 / 7, 5 / 7], h), atol=0.02)


@pytest.mark.parametrize("concentration", [0.0, -1.0, np.nan, (1.0, 2.0, 3.0), np.ones((2, 2))])
def test_program_refuses_a_bad_concentration(concentration):
    h, said = simulate(0, 3, np.ones((1, 2)) / 2, 4)
    with pytest.raises(ValueError, match=r"Expected a (positive )?concentration"):
        seed(partial(membership, concentration=concentration), KEY)(h, said[:, 0])


def test_mixture_is_the_categorical_of_the_mixed_probabilities(float64):
    h, said = simulate(1, 6, np.ones((1, 3)) / 3, 4)
    omega = jnp.asarray([0.2, 0.3, 0.5])
    mixture, plain = CategoricalMixture(omega, h), dist.Categorical(probs=np.asarray(omega) @ h.astype(float))
    np.testing.assert_allclose(mixture.log_prob(said[:, 0]), plain.log_prob(said[:, 0]), rtol=1e-12)
    np.testing.assert_array_equal(mixture.enumerate_support(), plain.enumerate_support())
    impossible = CategoricalMixture(omega, np.zeros((1, 3, 2))).mask(jnp.array([False]))
    slope = jax.grad(lambda w: CategoricalMixture(w, np.zeros((1, 3, 2))).mask(jnp.array([False])).log_prob(0).sum())
    assert impossible.log_prob(jnp.array([0])) == 0
    np.testing.assert_array_equal(slope(omega), 0)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_log_ratios_are_coordinates_of_the_simplex(float64, size):
    transform, x = LogRatio(), jnp.asarray(np.random.default_rng(size).standard_normal(size - 1))
    omega = transform(x)
    np.testing.assert_allclose(omega.sum(), 1)
    np.testing.assert_allclose(transform.inv(omega), x, atol=1e-12)
    _, volume = jnp.linalg.slogdet(jax.jacobian(lambda x: transform(x)[:-1])(x))
    np.testing.assert_allclose(transform.log_abs_det_jacobian(x, omega), volume, atol=1e-12)


# --- Maximum likelihood ---------------------------------------------------------------------------

HARD_CASES = np.concatenate([np.eye(5)[:4], np.random.default_rng(0).dirichlet(np.full(5, 0.3), 8)])


def by_cvxpy(given):
    """The convex program, by an interior-point method."""
    omega = cp.Variable(given.shape[1])
    log_likelihood = cp.sum(cp.log(given @ omega)) / len(given)
    problem = cp.Problem(cp.Maximize(log_likelihood), [omega >= 0, cp.sum(omega) == 1])
    problem.solve(solver=cp.CLARABEL)
    return np.maximum(omega.value, 0) / np.maximum(omega.value, 0).sum()


def test_em_reaches_the_optimum_of_the_convex_program(precision):
    """Within 1e-6 an annotation in float64, 3e-6 in float32, in which gradients are known to some 1e-7."""
    h, said = simulate(2, 100, HARD_CASES, 4, missing=0.3)
    h[:, 4] = h[:, 3]  # two clusters that are alike: a maximum that is not unique
    said[10:, 5] = said[1:, 6] = -1  # few annotations; one
    placed = maximise_membership(membership, h, said)
    assert placed.probs.dtype == precision.name
    assert (placed.gap <= 1e-6).all()
    np.testing.assert_allclose(placed.probs.sum(0), 1, rtol=precision.rtol)
    on_boundary = 0
    for m in range(12):
        given = likelihood_of(h, said[:, m])
        best = by_cvxpy(given)
        lack = objective(given, best) - objective(given, placed.probs[:, m].astype(float))
        assert -1e-7 < lack < (1e-6 if precision.name == "float64" else 3e-6)
        on_boundary += (best < 1e-6).any()
    assert on_boundary >= 6


def test_gap_bounds_what_is_missing(float64):
    h, said = simulate(3, 100, HARD_CASES[4:], 4)
    with pytest.warns(UserWarning, match=r"may rise by up to .* for 'person_"):
        placed = maximise_membership(membership, h, said, max_steps=2)
    for m in range(8):
        given = likelihood_of(h, said[:, m])
        lack = objective(given, by_cvxpy(given)) - objective(given, placed.probs[:, m])
        assert lack <= placed.gap[m] + 1e-9


def test_maximum_is_certified_on_many_problems(float64):
    rng = np.random.default_rng(4)
    given = rng.dirichlet(np.full(7, 0.1), (300, 60)) + 1e-9
    given[::3, :, 0] = 0.5 * (given[::3, :, 1] + given[::3, :, 2])
    start = jnp.full(7, 1 / 7)
    solve = jax.jit(jax.vmap(lambda given: ascend(lambda omega: jnp.log(given @ omega).mean(), start, 1e-10, 100)))
    omega, gap = solve(given)
    assert (np.asarray(gap) <= 1e-10).all()
    np.testing.assert_allclose(omega.sum(1), 1)


def test_em_step_is_the_mean_responsibility(float64):
    """Section 3 of the mathematics: pi_k <- mean_j pi_k h_k / sum pi h."""
    h, said = simulate(5, 40, [[0.2, 0.3, 0.5]], 4, missing=0.3)
    given = likelihood_of(h, said[:, 0])
    data = (jnp.asarray(h, float), jnp.asarray(said[:, 0]))
    omega = np.array([0.6, 0.3, 0.1])
    for _ in range(5):
        by_hand = np.zeros(3)
        for row in given:
            by_hand += omega * row / (omega @ row) / len(given)
        slope = jax.grad(lambda w: log_likelihood(membership, data, w) / len(given))(jnp.asarray(omega))
        np.testing.assert_allclose(em_step(jnp.asarray(omega), slope), by_hand, rtol=1e-12)
        assert objective(given, by_hand) > objective(given, omega)
        omega = by_hand


def test_likelihood_may_be_edited():
    """A person who says anything at random once in five times; the prior plays no part."""

    def careless(cluster_probs, annotations):
        omega = numpyro.sample("membership", dist.Dirichlet(jnp.full(3, 9.0)))
        observe(omega, 0.8 * cluster_probs + 0.2 / 4, annotations)

    h, said = simulate(6, 80, [[0.0, 0.3, 0.7]], 4)
    placed = maximise_membership(careless, h, said)
    given = 0.8 * likelihood_of(h, said[:, 0]) + 0.05
    assert abs(objective(given, by_cvxpy(given)) - objective(given, placed.probs[:, 0])) < 3e-6


# --- Posterior ------------------------------------------------------------------------------------


def logistic_normal(cluster_probs, annotations):
    """A prior of another kind, over a membership that is not sampled itself."""
    z = numpyro.sample("z", dist.Normal(1.0, 0.5))
    omega = numpyro.deterministic("membership", jax.nn.softmax(jnp.stack([z, jnp.zeros_like(z)])))
    observe(omega, cluster_probs, annotations)


def all_or_half(cluster_probs, annotations):
    """Mostly of the first cluster, or half of each, and which is not known."""
    kind = dist.Categorical(probs=jnp.array([0.7, 0.3]))
    prior = dist.MixtureSameFamily(kind, dist.Dirichlet(jnp.array([[9.0, 1.0], [20.0, 20.0]])))
    observe(numpyro.sample("membership", prior), cluster_probs, annotations)


LOG_ODDS = np.linspace(-300, 300, 200_001)  # of omega_1: under sparse priors there is mass as far out


def log_beta(a, b):
    """Log-density of the log-odds of a Beta variable."""
    return a * log_expit(LOG_ODDS) + b * log_expit(-LOG_ODDS) - betaln(a, b)


PRIORS = {  # programs of two clusters, and log-densities of the log-odds
    "sparse": (partial(membership, concentration=0.1), log_beta(0.1, 0.1)),
    "equal": (partial(membership, concentration=np.array([10.0, 10.0])), log_beta(10, 10)),
    "uneven": (partial(membership, concentration=(0.7, 1.5)), log_beta(0.7, 1.5)),
    "logistic normal": (logistic_normal, scipy.stats.norm(1, 0.5).logpdf(LOG_ODDS)),
    "mixture": (all_or_half, np.logaddexp(np.log(0.7) + log_beta(9, 1), np.log(0.3) + log_beta(20, 20))),
}


@pytest.mark.filterwarnings(
    "ignore:Expected chains that converge"
)  # some divergences of "sparse", whose draws are right
@pytest.mark.parametrize(
    "prior", [name if name == "uneven" else pytest.param(name, marks=pytest.mark.exhaustive) for name in PRIORS]
)
def test_posterior_is_that_of_quadrature(prior):
    """Means within five standard errors; probabilities of quartiles within .05. The prior is read off the program."""
    program, log_prior = PRIORS[prior]
    h, said = simulate(7, 16, [[0.5, 0.5], [0.9, 0.1], [0.0, 1.0]], 3)
    said[4:, 2] = -1
    placed = sample_membership(jax.random.key(1), program, h, said, num_samples=2000)
    for m in range(3):
        given = likelihood_of(h, said[:, m])
        terms = np.logaddexp(np.log(given[:, :1]) + log_expit(LOG_ODDS), np.log(given[:, 1:]) + log_expit(-LOG_ODDS))
        weight = softmax(log_prior + terms.sum(0))
        mean = weight @ expit(LOG_ODDS)
        np.testing.assert_allclose(placed.probs[:, m], [mean, 1 - mean], atol=5 * standard_error(placed)[0, m])
        quartiles = LOG_ODDS[np.searchsorted(weight.cumsum(), [0.25, 0.5, 0.75])]
        odds = np.log(placed.draws[m]) @ [1, -1]
        np.testing.assert_allclose((odds.reshape(-1, 1) < quartiles).mean(0), [0.25, 0.5, 0.75], atol=0.05)


@pytest.mark.exhaustive
@pytest.mark.parametrize("vectorized", [False, True])
def test_posterior_is_that_of_importance_sampling(vectorized):
    h, said = simulate(8, 16, [[0.2, 0.3, 0.5], [0.0, 1.0, 0.0]], 4, missing=0.2)
    placed = sample_membership(jax.random.key(2), membership, h, said, num_samples=2000, vectorized=vectorized)
    omega = np.random.default_rng(0).dirichlet(np.ones(3), 200_000)
    for m in range(2):
        weight = np.exp(np.log(omega @ likelihood_of(h, said[:, m]).T).sum(1))
        weight /= weight.sum()
        error = 5 * standard_error(placed)[:, m] + 5 * np.sqrt((weight**2) @ (omega - weight @ omega) ** 2)
        assert (np.abs(placed.probs[:, m] - weight @ omega) < error).all()


@pytest.mark.exhaustive
def test_small_memberships_are_not_lost_to_rounding():
    """Float32: under stick breaking a tenth of the mass would go to the last cluster."""
    h, _ = simulate(9, 1, np.ones((1, 2)) / 2, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of no annotations, by intent
        placed = sample_membership(
            KEY, partial(membership, concentration=0.1), h, np.full((1, 40), -1), num_samples=1000
        )
    prior = scipy.stats.beta(0.1, 0.1)
    np.testing.assert_allclose(placed.probs.mean(1), 0.5, atol=0.02)
    for edge in (1e-6, 1e-3, 0.1):
        np.testing.assert_allclose((placed.draws < edge).mean((0, 1, 2)), prior.cdf(edge), atol=0.02)


RUNS, DRAWS, THIN = 500, 99, 10


def calibration(concentration, assumed):
    """Ranks of true memberships among thinned draws (RUNS, K), and whether 90 % intervals hold them."""
    rng = np.random.default_rng(10)
    omega = rng.dirichlet(np.full(3, concentration), RUNS)
    h, said = simulate(11, 32, omega, 4, missing=0.5)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Expected chains that converge")  # some few of 500 single chains
        placed = sample_membership(
            jax.random.key(3),
            partial(membership, concentration=assumed),
            h,
            said,
            num_warmup=300,
            num_samples=DRAWS * THIN,
            num_chains=1,
        )
    ranks = (placed.draws[:, 0, ::THIN] < omega[:, None]).sum(1)
    interval = placed.interval(0.9)
    return ranks, (interval[..., 0] <= omega.T) & (omega.T <= interval[..., 1])


def uniformity(ranks):
    """P-values of the chi-square test that ranks 0..99 are uniform, in 20 bins, of each component."""
    counts = np.stack([np.bincount(column // 5, minlength=20) for column in ranks.T])
    return scipy.stats.chisquare(counts, axis=1).pvalue


@pytest.mark.exhaustive
@pytest.mark.parametrize("concentration", [1.0, 0.3])
def test_posterior_is_calibrated_by_simulation(concentration):
    """Ranks uniform at p > .001; coverage within the central 99.9 % of Binomial(500, .9), of each component."""
    ranks, held = calibration(concentration, concentration)
    assert (uniformity(ranks) > 1e-3).all(), uniformity(ranks)
    low, high = scipy.stats.binom(RUNS, 0.9).interval(0.999)
    assert ((low <= held.sum(1)) & (held.sum(1) <= high)).all(), held.mean(1)


@pytest.mark.exhaustive
def test_calibration_would_show_a_wrong_prior():
    ranks, _ = calibration(0.3, 2.0)
    assert (uniformity(ranks) < 1e-6).all(), uniformity(ranks)


def test_people_of_one_length_share_a_compilation():
    """Another person, other items, another N, the same options written again: the program is not traced again."""
    traced = []

    def counted(cluster_probs, annotations, *, concentration):
        traced.append(cluster_probs.shape)
        membership(cluster_probs, annotations, concentration=concentration)

    for i, num_items in enumerate((14, 12)):
        program = partial(counted, concentration=np.full(3, 0.5))
        h, said = simulate(20 + i, num_items, [[0.2, 0.3, 0.5]], 4)
        placed = sample_membership(jax.random.key(i), program, h, said, num_warmup=100, num_samples=100)
        maximum = maximise_membership(program, h, said)
        if i == 0:
            once = len(traced)
    assert set(traced) == {(16, 3, 4)}
    assert len(traced) == once
    assert placed.draws.shape == (1, 2, 100, 3)
    assert maximum.num_annotations == 12


# --- Average of Dirichlet posteriors --------------------------------------------------------------


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


# --- What goes in ---------------------------------------------------------------------------------


UNEVEN = (1.0, 2.0, 5.0)


def problem():
    return simulate(40, 10, np.full((2, 3), 1 / 3), 4)


def changed(array, index, value):
    array = array.copy()
    array[index] = value
    return array


BAD_INPUT = {
    "logits": (lambda h, a: (np.log(h), a), r"sum to one over C, found .* with sum .* at N = 0, K = 0.*not logits"),
    "negative": (
        lambda h, a: (changed(h, (3, 1), [1.5, -0.5, 0, 0]), a),
        r"not negative, .* and least -0.5 at N = 3, K = 1",
    ),
    "nan": (lambda h, a: (changed(h, (3, 1, 2), np.nan), a), r"with sum nan at N = 3, K = 1"),
    "two axes": (lambda h, a: (h[0], a), r"cluster_probs of shape \(N, K, C\), not empty, found \(3, 4\)"),
    "labels": (
        lambda h, a: (h, changed(a, (7, 1), 4)),
        r"-1..3, .* found 4 at item 7, by 'b' .* map labels to these categories",
    ),
    "below": (
        lambda h, a: (h, changed(a, (7, 1), -2)),
        r"-1 where missing, in annotations, found -2 at item 7, by 'b'",
    ),
    "floats": (lambda h, a: (h, a.astype(float)), r"integer labels in annotations, found float64"),
    "length": (lambda h, a: (h, a[:9]), r"shape \(10, M\).*found \(9, 2\)"),
    "vector": (lambda h, a: (h, a[:, 0]), r"found \(10,\)\. Pass annotations\[:, None\] for a single column"),
    "impossible": (
        lambda h, a: (changed(h, 2, np.eye(4)[[1, 1, 2]]), changed(a, (2, 0), 3)),
        r"some cluster may give, found 3 by 'a' on item 2, of probability 0 in every cluster. Smooth",
    ),
}


@pytest.mark.parametrize("kind", BAD_INPUT)
def test_bad_arrays_are_refused(kind):
    change, message = BAD_INPUT[kind]
    h, said = change(*problem())
    with pytest.raises(ValueError, match=message):
        sample_membership(KEY, membership, h, said, people="ab")
    with pytest.raises(ValueError, match=message):
        maximise_membership(membership, h, said, people="ab")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_warmup": 0}, "at least one as num_warmup, found 0"),
        ({"num_samples": 0}, "at least one as num_samples, found 0"),
        ({"num_chains": 0}, "at least one as num_chains, found 0"),
        ({"people": ["a", "a"]}, r"distinct names, one a person, found \['a'\]"),
        ({"people": ["a"]}, "2 names, one a person, found 1"),
        ({"clusters": ["a", "b"]}, "3 names, one a cluster, found 2"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        sample_membership(KEY, membership, *problem(), **options)


def test_bad_settings_of_em_and_bad_keys_are_refused():
    with pytest.raises(ValueError, match="positive tolerance, found 0"):
        maximise_membership(membership, *problem(), tolerance=0.0)
    with pytest.raises(ValueError, match="at least one step, found max_steps=0"):
        maximise_membership(membership, *problem(), max_steps=0)
    with pytest.raises(ValueError, match="one key, found an array of"):
        sample_membership(jax.random.split(KEY), membership, *problem())


def test_programs_that_do_not_fit_are_refused():
    def nameless(cluster_probs, annotations):
        observe(numpyro.sample("omega", dist.Dirichlet(jnp.ones(3))), cluster_probs, annotations)

    def short(cluster_probs, annotations):
        numpyro.sample("membership", dist.Dirichlet(jnp.ones(2)))

    def blind(cluster_probs, annotations):
        numpyro.sample("membership", dist.Dirichlet(jnp.ones(3)))

    def noisy(cluster_probs, annotations):
        omega = numpyro.sample("membership", dist.Dirichlet(jnp.ones(3)))
        noise = numpyro.sample("noise", dist.Beta(1.0, 9.0))
        observe(omega, (1 - noise) * cluster_probs + noise / 4, annotations)

    for program, message in [
        (nameless, r"site 'membership' of shape \(3,\).*found sites \['omega', "),
        (short, r"shape \(3,\).*found one of shape \(2,\)"),
        (blind, "a program that observes annotations"),
        (partial(membership, concentration=0.0), "positive concentration, found 0.0"),
    ]:
        with pytest.raises(ValueError, match=message):
            sample_membership(KEY, program, *problem())
    with pytest.raises(ValueError, match=r"depends on 'membership' only, found latent sites \['noise'\]"):
        maximise_membership(noisy, *problem())


def test_the_maximum_of_a_person_without_annotations_is_the_mean_of_the_prior():
    h, said = problem()
    said[:, 1] = -1
    with pytest.warns(UserWarning, match="none of 'b': their membership is the mean of its Dirichlet prior"):
        placed = maximise_membership(partial(membership, concentration=UNEVEN), h, said, people="ab")
    np.testing.assert_allclose(placed.probs[:, 1], [1 / 8, 2 / 8, 5 / 8], rtol=1e-6)
    assert placed.num_annotations.tolist() == [10, 0]

    def undirected(cluster_probs, annotations):
        z = numpyro.sample("z", dist.Normal(jnp.arange(3.0), 1.0).to_event(1))
        observe(numpyro.deterministic("membership", jax.nn.softmax(z)), cluster_probs, annotations)

    with pytest.warns(UserWarning, match="equal memberships"):
        placed = maximise_membership(undirected, h, said)
    np.testing.assert_allclose(placed.probs[:, 1], 1 / 3, rtol=1e-6)


@pytest.mark.exhaustive
def test_the_posterior_of_a_person_without_annotations_is_the_prior():
    h, said = problem()
    said[:, 1] = -1
    with pytest.warns(UserWarning, match="none of 'b': their membership is the prior of the program"):
        placed = sample_membership(KEY, partial(membership, concentration=UNEVEN), h, said, people="ab")
    assert (np.abs(placed.probs[:, 1] - [1 / 8, 2 / 8, 5 / 8]) < 5 * standard_error(placed)[:, 1]).all()


@pytest.mark.exhaustive
def test_chains_that_did_not_converge_are_named():
    with pytest.warns(UserWarning, match=r"chains that converge, found some that do not for 'person_\d'"):
        sample_membership(KEY, membership, *problem(), num_warmup=1, num_samples=10)


# --- What comes out -------------------------------------------------------------------------------


def drawn(people, seed=50, num_draws=40):
    draws = np.random.default_rng(seed).dirichlet(np.ones(3), (len(people), 2, num_draws))
    count = np.arange(len(people))
    return Membership(draws.mean((1, 2)).T, 10 + count, tuple(people), ("x", "y", "z"), "nuts", draws, count)


def test_soft_hard_and_intervals():
    placed = drawn("abcd")
    np.testing.assert_array_equal(placed.soft, placed.probs)
    assert placed.hard.shape == (3, 4)
    np.testing.assert_array_equal(placed.hard.sum(0), 1)
    np.testing.assert_array_equal(placed.hard.argmax(0), placed.assignment)
    np.testing.assert_array_equal(placed.assignment, placed.soft.argmax(0))
    interval = placed.interval(0.5)
    assert interval.shape == (3, 4, 2)
    np.testing.assert_allclose(interval[1, 2], np.quantile(placed.draws[2, ..., 1], [0.25, 0.75]))
    for probability in (0.0, 1.0, np.nan):
        with pytest.raises(ValueError, match="between 0 and 1"):
            placed.interval(probability)


def test_estimates_have_no_intervals():
    placed = Membership(np.eye(3)[:, :2], np.array([3, 4]), ("a", "b"), ("x", "y", "z"), "em", gap=np.zeros(2))
    for ask in (placed.interval, lambda: placed.r_hat, lambda: placed.ess_bulk):
        with pytest.raises(ValueError, match=r"Expected draws, found none: .* by em\. Use sample_membership"):
            ask()
    assert set(placed.to_datatree().children) == {"point"}


def test_a_new_person_joins():
    both = drawn("ab").join(drawn("c", seed=51))
    assert both.people == ("a", "b", "c")
    np.testing.assert_array_equal(both.probs, np.concatenate([drawn("ab").probs, drawn("c", seed=51).probs], 1))
    assert both.draws.shape == (3, 2, 40, 3)
    assert both.num_annotations.tolist() == [10, 11, 10]
    assert both.num_divergences.tolist() == [0, 1, 0]
    assert both.gap is None
    em = Membership(np.eye(3)[:, :1], np.array([3]), ("c",), ("x", "y", "z"), "em", gap=np.zeros(1))
    other_clusters = Membership(np.eye(2)[:, :1], np.array([3]), ("c",), ("x", "y"), "nuts")
    for other, message in [
        (drawn("b"), r"distinct names, one a person, found \['b'\]"),
        (drawn("c", num_draws=30), r"as many chains and draws, found \(2, 40\) and \(2, 30\)"),
        (em, "the same method, found 'nuts' and 'em'"),
        (other_clusters, "the same clusters"),
    ]:
        with pytest.raises(ValueError, match=message):
            drawn("ab").join(other)


def test_tree_is_for_arviz_and_disk(tmp_path):
    placed = drawn("abc")
    tree = placed.to_datatree()
    tree.to_netcdf(tmp_path / "membership.nc", engine="h5netcdf")
    with xr.open_datatree(tmp_path / "membership.nc", engine="h5netcdf") as read:
        for group in ("posterior", "point"):
            assert tree[group].dataset.equals(read[group].dataset.load())
        assert read.attrs["method"] == read["posterior"].attrs["method"] == "nuts"
        of_b = read["posterior"]["membership"].sel(person="b", cluster="z")
        np.testing.assert_array_equal(of_b, placed.draws[1, ..., 2])
    summary = az.summary(tree, round_to="none")
    np.testing.assert_allclose(summary.loc["membership[y, c]", "mean"], placed.probs[1, 2])
    np.testing.assert_allclose(summary["r_hat"].to_numpy().reshape(3, 3), placed.r_hat)
    np.testing.assert_allclose(summary["ess_bulk"].to_numpy().reshape(3, 3), placed.ess_bulk)


def test_placing_imports_no_arviz_and_no_model():
    code = (
        "import sys, pl2d_ppl.people.membership, pl2d_ppl.people.place, pl2d_ppl.baselines.average_dirichlet\n"
        "loaded = [m for m in sys.modules if m.split('.')[0].startswith(('arviz', 'xarray'))]\n"
        "loaded += [m for m in sys.modules if m.startswith(('pl2d_ppl.models.', 'pl2d_ppl.guides.'))]\n"
        "assert not loaded, loaded"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
