"""Checks that a program declares: found wherever it is wrapped, and only there; names mean nothing by themselves."""

from functools import partial, wraps

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from numpyro.handlers import block, mask, substitute

from pl2d_ppl import PerRun, fit, to_datatree
from pl2d_ppl.checks.declared import Given, check_declared, declares, labels
from pl2d_ppl.guides.exact import exact
from pl2d_ppl.models.annotator_lda import annotator_lda
from pl2d_ppl.models.cluster_l2d import cluster_l2d
from pl2d_ppl.models.prob_l2d import prob_l2d

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
X = RNG.standard_normal((12, 2)).astype(np.float32)


def regression(x, y, votes, annotations, counts, *, alpha, membership):
    """A program of a user, whose names are those of our models and mean something else."""
    slope = numpyro.param("slope", jnp.zeros(2))
    mean = numpyro.deterministic("ai_logits", x * slope)
    with numpyro.plate("item", len(x), dim=-1):
        numpyro.sample("o", dist.Normal(mean.sum(-1) + alpha + membership.sum(), 1.0), obs=y + votes + annotations)
        numpyro.sample("n", dist.Normal(0.0, 1.0), obs=counts)


def nothing(*args, **kwargs):
    """A guide of no sites."""


FLOATS = {"x": X, "y": X[:, 0] - 7.5, "votes": X[:, 1], "annotations": X[:, 0], "counts": -np.ones(12, np.float32)}
ARGUMENTS = {"alpha": -2.0, "membership": np.array([3.0, -1.0, 0.5])}
quiet = partial(fit, optimizer=optax.sgd(0.1), epochs=1, batch_size=12, progress=False)


def test_names_have_no_meaning_in_a_program_of_a_user():
    result = quiet(KEY, regression, nothing, FLOATS, arguments=ARGUMENTS, validation=FLOATS)
    mean = ARGUMENTS["alpha"] + ARGUMENTS["membership"].sum()
    sites = (FLOATS["y"] + FLOATS["votes"] + FLOATS["annotations"] - mean, FLOATS["counts"])
    by_hand = sum(np.mean(0.5 * s.astype(float) ** 2 + 0.5 * np.log(2 * np.pi)) for s in sites)
    np.testing.assert_allclose(result.history["loss"][0], by_hand, rtol=1e-5)


def test_nor_in_a_tree_of_its_posterior():
    data = {"x": X, "y": X[:, 0]}
    result = quiet(KEY, labelled, exact(labelled), data)
    tree = to_datatree(KEY, result, data, num_samples=1)
    np.testing.assert_array_equal(tree["observed_data"]["y"], data["y"])


def labelled(x, y=None):
    numpyro.deterministic("ai_logits", x * numpyro.param("slope", jnp.zeros(2)))
    with numpyro.plate("item", len(x), dim=-1):
        z = numpyro.sample("z", dist.Categorical(jnp.full(2, 0.5)), infer={"enumerate": "parallel"})
        numpyro.sample("o", dist.Normal(1.0 * z, 1.0), obs=y)


@pytest.mark.parametrize(
    ("data", "arguments", "message"),
    [
        ({"x": np.where(X > 1, np.nan, X)}, {}, r"finite values in data\['x'\]"),
        ({"x": X, "y": X[:5, 0]}, {}, "one length"),
        ({"x": X}, {"alpha": np.inf}, r"finite numbers in arguments\['alpha'\]"),
        ({"x": X}, {"x": X}, "found both"),
    ],
)
def test_what_no_program_can_use_is_refused_in_all(data, arguments, message):
    with pytest.raises(ValueError, match=message):
        quiet(KEY, labelled, nothing, data, arguments=arguments)


def positive(given):
    if (np.asarray(given.data["time"]) <= 0).any():
        raise ValueError("Expected positive times in data, found others. Drop these rows.")


@declares(positive, labels("kind", categories="kind_logits"))
def waiting(x, time, kind=None):
    numpyro.deterministic("kind_logits", x * numpyro.param("slope", jnp.zeros(2)))
    with numpyro.plate("item", len(x), dim=-1):
        numpyro.sample("time", dist.Exponential(1.0), obs=time)


@wraps(waiting)
def renamed(*args, **kwargs):
    return waiting(*args, **kwargs)


WRAPPED = {
    "itself": waiting,
    "partial": partial(partial(waiting), x=X),
    "handlers": block(mask(partial(waiting), mask=True)),
    "substituted": substitute(waiting, data={}),
    "wraps": renamed,
    "wraps of partial": wraps(partial(waiting))(lambda *args: None),
}


@pytest.mark.parametrize("case", WRAPPED)
def test_checks_are_found_wherever_the_program_is_wrapped(case):
    check_declared(WRAPPED[case], Given("data", {"time": np.ones(3)}))
    with pytest.raises(ValueError, match="positive times"):
        check_declared(WRAPPED[case], Given("data", {"time": np.zeros(3)}))


def test_checks_are_called_before_and_after_the_shapes_are_known():
    data = {"x": X, "time": np.ones(12, np.float32), "kind": np.arange(12) % 2}
    quiet(KEY, waiting, nothing, data)
    for wrong, message in (
        ({"time": -data["time"]}, "positive times"),
        ({"kind": np.arange(12)}, r"-1\.\.1, .* in data\['kind'\], found 2 at item 2"),
        ({"kind": X[:, 0]}, r"integer labels in data\['kind'\], found float32"),
    ):
        with pytest.raises(ValueError, match=message):
            quiet(KEY, partial(waiting), nothing, {**data, **wrong})
    with pytest.raises(ValueError, match=r"in validation\['kind'\]"):
        quiet(KEY, waiting, nothing, data, validation={**data, "kind": np.arange(12)})


@pytest.mark.parametrize(
    ("model", "given", "message"),
    [
        (prob_l2d, Given("data", {"y": np.full(3, -1)}), r"some truth in data\['y'\]"),
        (prob_l2d, Given("data", {"annotations": np.full((3, 2), -2)}), "from -1 up"),
        (annotator_lda, Given("data", {"votes": np.full((3, 2), -1)}), "some votes"),
        (annotator_lda, Given("data", {"counts": np.zeros((3, 2), int)}), "some votes"),
        (annotator_lda, Given("data", {}, {"alpha": PerRun(np.array([[1.0, -1.0]]))}), "positive concentration"),
        (cluster_l2d, Given("data", {}, {"membership": np.array([[0.5, 0.5], [0.6, 0.5]])}), "membership"),
        (cluster_l2d, Given("data", {}, {"membership": np.array([[1.0, 1.0], [0.0, 0.0]])}), "nobody in cluster 1"),
    ],
)
def test_our_models_declare_what_they_expect(model, given, message):
    with pytest.raises(ValueError, match=message):
        check_declared(partial(model), given)
