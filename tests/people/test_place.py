"""Posteriors of memberships of identified people, against quadrature and simulation."""

import subprocess
import sys
import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import scipy.stats
from cases.people import UNEVEN, changed, likelihood_of, observe, problem, simulate
from numpyro.handlers import seed
from numpyro.infer import Predictive
from scipy.special import betaln, expit, log_expit, softmax

from pl2d_ppl.distributions.categorical_mixture import CategoricalMixture
from pl2d_ppl.models.membership import membership
from pl2d_ppl.people.place import maximise_membership, sample_membership

pytestmark = pytest.mark.exhaustive  # a compilation for nearly every test: `make check` is to take three minutes


KEY = jax.random.key(0)


def standard_error(placed):
    """Monte Carlo standard errors of posterior means, (K, M)."""
    return placed.draws.std((1, 2)).T / np.sqrt(placed.ess_bulk)


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


def test_placing_imports_no_arviz_and_no_model():
    code = (
        "import sys, pl2d_ppl.people.membership, pl2d_ppl.people.place, pl2d_ppl.baselines.average_dirichlet\n"
        "loaded = [m for m in sys.modules if m.split('.')[0].startswith(('arviz', 'xarray'))]\n"
        "loaded += [m for m in sys.modules if m.startswith(('pl2d_ppl.models.', 'pl2d_ppl.guides.'))]\n"
        "assert not loaded, loaded"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
