"""People as representations: EA-L2D, L2D-Pop, and fuzzy C-means on either."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy import stats
from scipy.special import log_softmax

from pl2d_ppl.baselines import population
from pl2d_ppl.baselines.ea_l2d import beta_representation
from pl2d_ppl.baselines.fuzzy import fuzzy_partition
from pl2d_ppl.baselines.l2d_pop import PopulationL2D, train_l2d_pop
from pl2d_ppl.clusters.agreement import partition_scores

pytestmark = pytest.mark.exhaustive  # a compilation for nearly every test: `make check` is to take three minutes

C = 4


def simulate(seed, errors, num_items=600, missing=0.3):
    """Inputs around a centre of their class, and people with given error rates."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, C, num_items)
    x = 2 * np.eye(C, 6)[y] + rng.standard_normal((num_items, 6))
    wrong = rng.random((num_items, len(errors))) < errors
    annotations = np.where(wrong, (y[:, None] + rng.integers(1, C, wrong.shape)) % C, y[:, None])
    annotations[rng.random(wrong.shape) < missing] = -1
    return x.astype(np.float32), annotations, y


def test_fuzzy_clustering_is_imported_when_called():
    code = "import sys, pl2d_ppl.baselines.fuzzy; assert 'skfuzzy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


# EA-L2D


@pytest.mark.parametrize("prior", [(1.0, 1.0), (2.5, 0.5)])
def test_beta_moments_agree_with_scipy(prior):
    _, annotations, y = simulate(0, [0.1, 0.5, 0.9], 60)
    y[:9] = -1
    y[y == 2] = 1  # nothing is known of class 2
    representation = beta_representation(annotations, y, C, prior=prior)
    assert representation.shape == (3, 2 * C)
    for m in range(3):
        for c in range(C):
            said = [t for t, truth in zip(annotations[:, m], y, strict=True) if truth == c and t >= 0]
            right = said.count(c)
            posterior = stats.beta(prior[0] + right, prior[1] + len(said) - right)
            np.testing.assert_allclose(representation[m, [c, C + c]], [posterior.mean(), posterior.var()])


def test_what_is_missing_or_unknown_changes_nothing():
    _, annotations, y = simulate(1, [0.2, 0.6], 40)
    expected = beta_representation(annotations, y, C)
    extended = np.concatenate([annotations, [[-1, -1], [3, 1]]])
    np.testing.assert_array_equal(beta_representation(extended, [*y, 0, -1], C), expected)


def test_small_integers_do_not_wrap_around():
    _, annotations, y = simulate(1, [0.2, 0.6], 40, missing=0)
    small = beta_representation(annotations.astype(np.uint8), y.astype(np.uint8), C)
    np.testing.assert_array_equal(small, beta_representation(annotations, y, C))


@pytest.mark.parametrize(
    ("arguments", "prior", "message"),
    [
        (([0, 1], [0, 1], 2), (1, 1), r"annotations of shape \(2, M\), .* found \(2,\)"),
        (
            (np.zeros((2, 0), int), [0, 1], 2),
            (1, 1),
            r"at least one column in annotations, found none in shape \(2, 0\)",
        ),
        (([[0], [1]], [[0], [1]], 2), (1, 1), r"y of shape \(N,\), .* found \(2, 1\). Pass y\[:, 0\]"),
        (([[0], [1]], [0], 2), (1, 1), r"annotations of shape \(1, M\), .* found \(2, 1\)"),
        (
            (np.zeros((0, 1), int), np.zeros(0, int), 2),
            (1, 1),
            r"at least one item in annotations, found none in shape \(0, 1\)",
        ),
        (([[0.0], [1.0]], [0, 1], 2), (1, 1), "integer labels"),
        (([[0], [-2]], [0, 1], 2), (1, 1), "found -2"),
        (([[0], [1]], [-1, -1], 2), (1, 1), "some truth"),
        (([[0], [2]], [0, 1], 2), (1, 1), r"in -1..1, .* in annotations, found 2 at item 1, column 0"),
        (([[0], [1]], [0, 3], 2), (1, 1), r"in -1..1, .* in y, found 3 at item 1"),
        (([[0], [0]], [0, 0], 1), (1, 1), "at least two categories"),
        (([[0], [1]], [0, 1], 2), (0, 1), "both positive"),
        (([[0], [1]], [0, 1], 2), (1, np.nan), "both positive"),
        (([[0], [1]], [0, 1], 2), (1, 1, 1), r"prior=\(a, b\)"),
    ],
)
def test_bad_context(arguments, prior, message):
    with pytest.raises(ValueError, match=message):
        beta_representation(*arguments, prior=prior)


# Fuzzy C-means


def update(x, u, fuzziness):
    """Centres from memberships, memberships from centres, and the objective, entry by entry."""
    centres = [sum(w**fuzziness * row for w, row in zip(uk, x, strict=True)) / sum(uk**fuzziness) for uk in u]
    distances = np.array([[np.sqrt(((row - v) ** 2).sum()) for row in x] for v in centres])
    new = np.empty_like(u)
    for k, m in np.ndindex(u.shape):
        new[k, m] = 1 / sum((distances[k, m] / distances[j, m]) ** (2 / (fuzziness - 1)) for j in range(len(u)))
    return new, (u**fuzziness * distances**2).sum()


@pytest.mark.parametrize("fuzziness", [1.3, 2.0, 3.0])
@pytest.mark.parametrize("num_clusters", [2, 3])
def test_the_partition_is_a_fixed_point(num_clusters, fuzziness):
    x = np.random.default_rng(0).standard_normal((12, 5))
    u = fuzzy_partition(jax.random.key(0), x, num_clusters, fuzziness=fuzziness)
    assert u.shape == (num_clusters, 12)
    np.testing.assert_allclose(u.sum(0), 1, rtol=1e-12)
    np.testing.assert_allclose(update(x, u, fuzziness)[0], u, atol=1e-6)


def test_the_lowest_of_several_starts_is_kept():
    x = np.random.default_rng(1).standard_normal((20, 2))
    objective = lambda u: update(x, u, 1.2)[1]  # noqa: E731
    singles = [objective(fuzzy_partition(jax.random.key(s), x, 4, fuzziness=1.2, starts=1)) for s in range(10)]
    best = objective(fuzzy_partition(jax.random.key(99), x, 4, fuzziness=1.2, starts=40))
    assert max(singles) > min(singles) + 1e-3  # there are local optima
    assert best <= min(singles) + 1e-6


def test_separated_groups_are_found_and_seeded():
    rng = np.random.default_rng(2)
    groups = np.repeat([0, 1, 2], [3, 5, 4])
    x = 3 * np.eye(3)[groups] + 0.1 * rng.standard_normal((12, 3))
    np.random.seed(5)  # noqa: NPY002
    u = fuzzy_partition(jax.random.key(0), x, 3)
    after = np.random.rand()  # noqa: NPY002
    np.random.seed(5)  # noqa: NPY002
    assert after == np.random.rand()  # noqa: NPY002
    assert partition_scores(groups, u)["ari"] == 1
    assert u.max(0).min() > 0.98
    np.testing.assert_array_equal(u, fuzzy_partition(jax.random.key(0), x, 3))
    moved = fuzzy_partition(jax.random.key(0), 1e-3 * x + 1, 3)  # of several starts in one optimum, another may win
    np.testing.assert_allclose(moved[moved[:, [0, 3, 8]].argmax(0)], u[u[:, [0, 3, 8]].argmax(0)], atol=1e-6)


def test_degenerate_partitions():
    key, x = jax.random.key(0), np.random.default_rng(3).standard_normal((4, 3))
    np.testing.assert_array_equal(fuzzy_partition(key, x, 1), np.ones((1, 4)))
    everyone_alone = np.sort(fuzzy_partition(key, x, 4), axis=0)
    np.testing.assert_allclose(everyone_alone, np.repeat([[0], [0], [0], [1]], 4, axis=1), atol=1e-9)
    np.testing.assert_allclose(fuzzy_partition(key, np.ones((4, 3)), 2), 0.5)
    hard = fuzzy_partition(key, [[0.0], [0.0], [1.0], [1.0]], 2, fuzziness=1.01)
    assert sorted(hard.tolist()) == [[0, 0, 1, 1], [1, 1, 0, 0]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rng_key": 0}, "typed key"),
        ({"rng_key": jax.random.split(jax.random.key(0))}, "Expected one key, found an array of 2"),
        ({"representations": [1.0, 2.0]}, r"shape \(M, R\), one row a person, found shape \(2,\)"),
        ({"representations": [[1.0], [np.nan]]}, "found NaN or infinity"),
        ({"num_clusters": 3}, r"num_clusters in 1..2, the number of people, found 3"),
        ({"num_clusters": 0}, "found 0"),
        ({"fuzziness": 1.0}, "fuzziness above 1, found 1.0"),
        ({"starts": 0}, "at least one start"),
    ],
)
def test_bad_clustering(changes, message):
    arguments = {"rng_key": jax.random.key(0), "representations": [[0.0], [1.0]], "num_clusters": 2}
    with pytest.raises(ValueError, match=message):
        fuzzy_partition(**(arguments | changes))


# L2D-Pop: networks and loss


def network():
    return PopulationL2D(6, C, (7, 5), 3, 2, rngs=nnx.Rngs(0))


def dense(mlp, rows):
    """Forward pass of a perceptron in float64."""
    for layer in [*mlp.hidden, mlp.readout]:
        rows = rows @ np.asarray(layer.kernel[...], float) + np.asarray(layer.bias[...], float)
        rows = rows if layer is mlp.readout else np.maximum(rows, 0)
    return rows


def test_people_are_means_over_their_context_items():
    net, (x, annotations, y) = network(), simulate(0, [0.1, 0.6], 20)
    y[:3] = -1
    phi, embedding = np.maximum(dense(net.body, x), 0), np.asarray(net.category.embedding[...], float)
    psi = np.asarray(population.represent(net, x, annotations, y))
    logits = np.asarray(population.defer(net, x, psi))
    for m in range(2):
        items = [i for i in range(20) if annotations[i, m] >= 0 and y[i] >= 0]
        encoded = [dense(net.encoder, np.r_[phi[i], embedding[y[i]], embedding[annotations[i, m]]]) for i in items]
        np.testing.assert_allclose(psi[m], np.mean(encoded, 0), rtol=1e-4, atol=1e-6)
        for i in range(20):
            np.testing.assert_allclose(
                logits[i, m], dense(net.rejector, np.r_[phi[i], psi[m]])[0], rtol=1e-4, atol=1e-6
            )
    np.testing.assert_allclose(population.classify(net, x), dense(net.classifier, phi), rtol=1e-4, atol=1e-6)


def test_people_do_not_depend_on_order_or_on_what_is_missing():
    net, (x, annotations, y) = network(), simulate(0, [0.1, 0.6, 0.3], 30)
    expected = population.represent(net, x, annotations, y)
    order = np.random.default_rng(0).permutation(30)
    permuted = population.represent(net, x[order], annotations[order], y[order])
    np.testing.assert_allclose(permuted, expected, rtol=1e-4, atol=1e-6)
    other = np.where(annotations[:, :1] < 0, 100.0, x)  # where the first says nothing, x does not matter to them
    np.testing.assert_array_equal(population.represent(net, other, annotations, y)[0], expected[0])
    alone = population.represent(net, x, annotations[:, 1:2], y)
    np.testing.assert_allclose(alone[0], expected[1], rtol=1e-5, atol=1e-6)


def surrogate(class_logits, deferral_logits, annotations, y):
    """The published loss, pair by pair, in float64."""
    people = []
    for m in range(annotations.shape[1]):
        terms = []
        for i in range(len(y)):
            if annotations[i, m] < 0 or y[i] < 0:
                continue
            log_p = log_softmax(np.append(class_logits[i], deferral_logits[i, m]))
            terms.append(-log_p[y[i]] - (annotations[i, m] == y[i]) * log_p[-1])
        people += [np.mean(terms)] if terms else []
    return np.mean(people)


ROWS, CONTEXT = 5, 8
STEPS = jnp.arange(6)


def drawn(data, step):
    """Target items, and everybody's context items, of a step."""
    of_rows, of_context = jax.random.split(jax.random.fold_in(jax.random.key(1), step))
    rows = data["targets"][jax.random.randint(of_rows, (ROWS,), 0, data["num_targets"])]
    places = jax.random.randint(of_context, (len(data["contexts"]), CONTEXT), 0, data["num_contexts"][:, None])
    return np.asarray(rows), np.take_along_axis(np.asarray(data["contexts"]), np.asarray(places), 1)


def losses(sizes, data, steps=STEPS):
    """Losses of steps that change nothing."""
    carry = population.start(sizes, jax.random.key(0))
    return population.train_steps(sizes, CONTEXT, ROWS, 0.0, jax.random.key(1), data, carry, steps)[1]


@pytest.mark.parametrize("scale", [0.0, 2.0, 500.0], ids=["own classifier", "yours", "yours, of large logits"])
def test_loss_is_that_of_the_paper_on_what_is_annotated(scale):
    x, annotations, y = simulate(3, [0.1, 0.6, 0.3], 30)
    y[:2] = -1
    data = {"x": jnp.asarray(x), **population.tables(annotations, y)}
    yours = np.float32(scale * np.random.default_rng(0).normal(0, 1, (30, C)))
    if scale:
        data["class_logits"] = jnp.asarray(yours)
    sizes = (6, C, (7, 5), 3, 2, not scale)
    params, _ = population.start(sizes, jax.random.key(0))
    net = nnx.merge(population.structure(sizes), params)
    assert (net.classifier is None) == bool(scale)
    features, expected = net.features(x), []
    for step in STEPS:
        rows, context = drawn(data, step)
        people = [net.represent(features[c][None], annotations[c, m][None], y[c][None]) for m, c in enumerate(context)]
        deferral = np.column_stack([net.defer(features[rows], psi) for psi in people])
        logits = yours if scale else np.asarray(net.classifier(features))
        expected.append(surrogate(logits[rows].astype(float), deferral.astype(float), annotations[rows], y[rows]))
    np.testing.assert_allclose(losses(sizes, data), expected, rtol=1e-4)


def test_context_passes_no_gradient_to_its_features():
    x, annotations, y = simulate(0, [0.1, 0.6], 30, missing=0)
    tables = population.tables(annotations, y)
    loss = jax.grad(lambda x: losses((6, C, (7, 5), 3, 2, True), {"x": x, **tables}, STEPS[:1])[0])
    of_items = np.abs(loss(jnp.asarray(x))).max(1) > 0
    np.testing.assert_array_equal(of_items, np.isin(np.arange(30), drawn(tables, 0)[0]))


def test_only_what_has_annotation_and_truth_may_be_drawn():
    _, annotations, y = simulate(4, [0.1, 0.6, 0.3], 40, missing=0.8)
    y[:5] = -1
    tables = population.tables(annotations, y)
    usable = (annotations >= 0) & (y >= 0)[:, None]
    assert set(tables["targets"][: tables["num_targets"]].tolist()) == set(np.flatnonzero(usable.any(1)))
    for m, (items, number) in enumerate(zip(tables["contexts"], tables["num_contexts"], strict=True)):
        assert set(items[:number].tolist()) == set(np.flatnonzero(usable[:, m]))


# L2D-Pop: training

SMALL = {"hidden": (16,), "embedding": 4, "representation": 8, "context_size": 20, "batch_size": 32}
ERRORS = [0.05, 0.05, 0.3, 0.6, 0.6]


@pytest.fixture(scope="module")
def trained():
    return train_l2d_pop(jax.random.key(0), *simulate(0, ERRORS), C, **SMALL, steps=600, learning_rate=5e-3)


def test_training_lowers_the_loss_and_teaches_the_classifier(trained):
    assert trained.loss.shape == (600,)
    assert trained.loss[-50:].mean() < 0.75 * trained.loss[:5].mean()
    x, _, y = simulate(1, ERRORS)
    assert (np.argmax(trained.class_logits(x), 1) == y).mean() > 0.65


def test_representations_tell_new_people_apart_by_their_errors(trained):
    x, annotations, y = simulate(7, [0.6, 0.05, 0.6, 0.05, 0.05, 0.6], 200)
    groups = np.array([1, 0, 1, 0, 0, 1])
    psi = np.asarray(trained.representation(x, annotations, y))
    assert psi.shape == (6, 8)
    distances = np.linalg.norm(psi[:, None] - psi, axis=-1)
    same = groups[:, None] == groups
    assert distances[same].max() < 0.5 * distances[~same].min()
    assert partition_scores(groups, fuzzy_partition(jax.random.key(0), psi, 2))["ari"] == 1
    # Whoever errs less is preferred, on every item.
    logits = np.asarray(trained.deferral_logits(x, psi))
    assert logits.shape == (200, 6)
    assert (logits[:, groups == 0].min(1) > logits[:, groups == 1].max(1)).mean() > 0.95


def test_missing_annotations_and_order_change_no_person(trained):
    x, annotations, y = simulate(7, [0.6, 0.05], 80)
    expected = trained.representation(x, annotations, y)
    extended = np.concatenate([annotations, [[-1, -1], [3, 1]]])[::-1]
    others = np.concatenate([x, x[:2] + 1])[::-1]
    again = trained.representation(others, extended, np.array([*y, 0, -1])[::-1])
    np.testing.assert_allclose(again, expected, rtol=1e-4, atol=1e-5)


def test_training_is_seeded_compiled_once_and_blind_to_items_without_annotation():
    x, annotations, y = simulate(0, [0.05, 0.6])
    settings = {**SMALL, "steps": 20}
    compilations = population.train_steps._cache_size()
    one = train_l2d_pop(jax.random.key(0), x, annotations, y, C, **settings)
    unseen = (annotations < 0).all(1)
    assert unseen.any()
    same = train_l2d_pop(jax.random.key(0), np.where(unseen[:, None], 9.0, x), annotations, y, C, **settings)
    other = train_l2d_pop(jax.random.key(1), x, annotations, y, C, **settings)
    y[:300] = -1
    fewer = train_l2d_pop(jax.random.key(0), x, annotations, y, C, **settings, learning_rate=0.1)
    assert population.train_steps._cache_size() == compilations + 1
    np.testing.assert_array_equal(one.loss, same.loss)
    np.testing.assert_array_equal(one.class_logits(x), same.class_logits(x))
    assert not np.array_equal(one.loss, other.loss)
    assert not np.array_equal(one.loss, fewer.loss)


def test_people_are_asked_where_they_are_right_more_often_than_a_classifier_of_yours_is_sure():
    x, annotations, y = simulate(0, [0.3, 0.3, 0.6, 0.6])
    sure = x[:, 5] > 0
    x[:, 5] = np.where(sure, 2, -2)
    yours = np.where(sure, 4.0, 0.5)[:, None] * np.eye(C)[y]  # of confidence .95 and .35
    settings = {**SMALL, "steps": 600, "learning_rate": 5e-3}
    fit = train_l2d_pop(jax.random.key(0), x, annotations, y, C, class_logits=yours, **settings)
    assert fit.loss[-50:].mean() < 0.8 * fit.loss[:5].mean()
    deferral = np.asarray(fit.deferral_logits(x, fit.representation(x, annotations, y)))
    asked = deferral.max(1) > yours.max(1)
    assert asked[~sure].mean() > 0.9
    assert asked[sure].mean() < 0.1
    assert (deferral.argmax(1) < 2).mean() > 0.95
    with pytest.raises(ValueError, match="found none, but class_logits that were passed"):
        fit.class_logits(x)
    other = train_l2d_pop(jax.random.key(0), x, annotations, y, C, class_logits=-yours, **settings)
    assert not np.allclose(other.loss, fit.loss)


@pytest.mark.exhaustive  # two compilations of its own
def test_progress_is_shown_and_changes_nothing(capfd):
    data = simulate(0, [0.05, 0.6])
    quiet = train_l2d_pop(jax.random.key(0), *data, C, **SMALL, steps=200)
    assert capfd.readouterr().err == ""
    shown = train_l2d_pop(jax.random.key(0), *data, C, **SMALL, steps=200, progress=True)
    assert "200/200" in capfd.readouterr().err
    assert shown.loss.shape == (200,)
    np.testing.assert_allclose(shown.loss, quiet.loss, rtol=1e-3)


@pytest.mark.exhaustive  # compiles in float64
def test_images_and_float64_are_taken(float64):
    x, annotations, y = simulate(0, [0.05, 0.6], 50)
    fit = train_l2d_pop(jax.random.key(0), x.reshape(50, 3, 2), annotations, y, C, **SMALL, steps=2)
    psi = fit.representation(x.reshape(50, 3, 2), annotations, y)
    assert fit.deferral_logits(x, psi).shape == (50, 2)


def test_a_diverging_loss_is_an_error():
    with pytest.raises(ArithmeticError, match="finite loss, found none in step"):
        train_l2d_pop(jax.random.key(0), *simulate(0, [0.05, 0.6]), C, **SMALL, steps=20, learning_rate=1e38)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rng_key": 0}, "typed key"),
        ({"rng_key": jax.random.split(jax.random.key(0))}, "Expected one key, found an array of 2"),
        ({"x": np.zeros(2)}, r"numeric inputs x of shape \(N, ...\)"),
        ({"x": np.array([["a"], ["b"]])}, "numeric inputs"),
        ({"x": np.zeros((3, 1))}, "arrays of one length"),
        ({"x": np.array([[0.0], [np.inf]])}, "finite values"),
        ({"annotations": [[0], [4]]}, r"in annotations, found 4 at item 1, column 0 .* allow more"),
        ({"annotations": [[0, -1], [1, -1]]}, "found none of person 1. Drop the column"),
        ({"annotations": [[0, -1], [1, 1]], "y": [0, -1]}, "found none of person 1"),
        ({"class_logits": np.zeros((2, C + 1))}, r"class_logits of shape \(2, 4\).*found float64 of shape \(2, 5\)"),
        ({"class_logits": np.zeros((3, C))}, r"found float64 of shape \(3, 4\)"),
        ({"class_logits": np.full((2, C), "a")}, "numeric class_logits"),
        ({"class_logits": np.full((2, C), -np.inf)}, "finite values"),
        ({"hidden": ()}, "hidden width to be positive"),
        ({"hidden": (8, 0)}, "hidden width to be positive"),
        ({"embedding": 0}, "embedding to be positive"),
        ({"representation": -1}, "representation to be positive"),
        ({"context_size": 2.5}, "context_size to be positive, an integer"),
        ({"steps": 0}, "steps to be positive"),
        ({"batch_size": 0}, "batch_size to be positive"),
        ({"learning_rate": np.nan}, "learning_rate to be positive"),
    ],
)
def test_bad_training(changes, message):
    data = {"rng_key": jax.random.key(0), "x": np.zeros((2, 1)), "annotations": [[0], [1]], "y": [0, 1]}
    with pytest.raises(ValueError, match=message):
        train_l2d_pop(**(data | {"num_categories": C} | changes))


def test_bad_use_of_a_fit(trained):
    x, annotations, y = simulate(0, [0.05, 0.6], 10)
    for call in (trained.class_logits, lambda x: trained.representation(x, annotations, y)):
        with pytest.raises(ValueError, match=r"Expected 6 values an item in x, as in training, found \(10, 5\)"):
            call(x[:, :5])
    with pytest.raises(ValueError, match=r"shape \(M, 8\), as .* found \(2, 7\)"):
        trained.deferral_logits(x, np.zeros((2, 7)))
    with pytest.raises(ValueError, match="found 4"):
        trained.representation(x, np.full((10, 1), 4), y)
