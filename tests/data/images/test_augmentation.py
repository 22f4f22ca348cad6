"""Augmentation on the device: against loops with the same random numbers, its statistics, and inside of a fit."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import optax
import pytest
from flax import nnx
from numpyro.handlers import seed, substitute, trace

from pl2d_ppl import ConvNet, Ensemble, EnumELBO, Frozen, fit, load
from pl2d_ppl.data import Augment, augment, augmented
from pl2d_ppl.data.images.augmentation import normalise
from pl2d_ppl.engine.guide_tools import no_guide
from pl2d_ppl.guides.exact import exact
from pl2d_ppl.models.classification import classification
from pl2d_ppl.models.prob_l2d import prob_l2d
from pl2d_ppl.networks import evaluation, instantiate

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (6, 9, 7, 3), np.uint8)
MODES = {"reflect": "reflect", "constant": "constant", "edge": "edge"}


def random_numbers(key, shape, pad, size):
    """Corners of the crops, who is mirrored, and middles of the squares that are cut."""
    of_crop, of_flip, of_cut = jax.random.split(key, 3)
    room = jnp.array(shape[1:3]) + 2 * pad - jnp.array(size)
    corners = jax.random.randint(of_crop, (shape[0], 2), 0, room + 1)
    centres = jax.random.randint(of_cut, (shape[0], 2), 0, jnp.array(size))
    return np.asarray(corners), np.asarray(jax.random.bernoulli(of_flip, 0.5, shape[:1])), np.asarray(centres)


def by_loop(images, key, pad, fill, size, cutout, mean, std):
    """Augment image by image, pixel by pixel."""
    height, width = size
    corners, mirrored, centres = random_numbers(key, images.shape, pad, size)
    result = np.empty((len(images), height, width, images.shape[-1]))
    for i, image in enumerate(images):
        padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode=fill)
        top, left = corners[i]
        for row in range(height):
            for column in range(width):
                across = width - 1 - column if mirrored[i] else column
                value = (padded[top + row, left + across] / 255 - mean) / std
                start = centres[i] - cutout // 2
                cut = all(start[axis] <= (row, column)[axis] < start[axis] + cutout for axis in (0, 1))
                result[i, row, column] = 0 if cut else value
    return result


@pytest.mark.parametrize(
    ("pad", "fill", "size", "cutout"),
    [(4, "reflect", None, 0), (2, "constant", (6, 5), 3), (0, "edge", 4, 2), (3, "edge", (12, 13), 20)],
)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_augmentation_equals_a_loop_with_the_same_random_numbers(pad, fill, size, cutout, dtype):
    mean, std = np.array([0.5, 0.4, 0.3]), np.array([0.2, 0.3, 0.4])
    settings = {"pad": pad, "fill": fill, "size": size, "cutout": cutout, "mean": mean, "std": std}
    found = jax.jit(partial(augment, **settings))(KEY, IMAGES.astype(dtype))
    shape = (4, 4) if size == 4 else size or (9, 7)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, by_loop(IMAGES, KEY, pad, fill, shape, cutout, mean, std), atol=2e-6)


def test_flips_and_offsets_are_uniform():
    # Every pixel holds its own place, from which a crop tells what it was.
    place = np.arange(16, dtype=np.uint8).reshape(4, 4, 1)
    found = augment(KEY, np.repeat(place[None], 20_000, 0), pad=1, fill="constant", size=4, mean=0, std=1)
    padded = np.pad(place[..., 0], 1)
    crops = {
        (top, left, flip): padded[top : top + 4, left : left + 4][:, :: -1 if flip else 1]
        for top in range(3)
        for left in range(3)
        for flip in (0, 1)
    }
    found = np.rint(np.asarray(found)[..., 0] * 255).astype(int)
    counts = [np.all(found == crop, axis=(1, 2)).sum() for crop in crops.values()]
    assert sum(counts) == 20_000
    # Chi-squared with 17 degrees of freedom exceeds 40.8 once in a thousand.
    assert np.sum((np.array(counts) - 20_000 / 18) ** 2) / (20_000 / 18) < 40.8


@pytest.mark.parametrize("probability", [0.0, 0.2, 1.0])
def test_images_are_mirrored_as_often_as_asked(probability):
    images = np.repeat(IMAGES[:1], 2000, 0)
    found = np.asarray(augment(KEY, images, pad=0, flip=probability))
    mirrored = np.isclose(found, np.asarray(normalise(images))[:, :, ::-1], atol=1e-6).all((1, 2, 3)).mean()
    assert abs(mirrored - probability) <= 4 * np.sqrt(probability * (1 - probability) / 2000)


def test_the_square_is_cut_around_a_uniform_pixel():
    found = augment(KEY, np.full((20_000, 5, 5, 1), 255, np.uint8), pad=0, cutout=3)
    cut = np.asarray(found)[..., 0] == 0
    reach = np.array([2, 3, 3, 3, 2]) / 5  # of an axis: the share of centres within one pixel
    np.testing.assert_allclose(cut.mean(0), reach[:, None] * reach, atol=0.015)


def test_every_image_draws_for_itself_and_the_key_decides():
    images = np.repeat(IMAGES[:1], 8, 0)
    one, same, other = (np.asarray(augment(jax.random.key(k), images)) for k in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)
    assert len({a.tobytes() for a in one}) > 4


def test_it_maps_over_keys():
    keys = jax.random.split(KEY, 2)
    found = jax.jit(jax.vmap(augment, (0, None)))(keys, IMAGES)
    for one, key in zip(found, keys, strict=True):
        np.testing.assert_allclose(one, jax.jit(augment)(key, IMAGES), atol=1e-6)


def test_normalise_crops_the_middle():
    found = normalise(IMAGES, size=(4, 5), mean=0.25, std=2.0)
    np.testing.assert_allclose(found, (IMAGES[:, 2:6, 1:6] / 255 - 0.25) / 2, atol=1e-6)
    np.testing.assert_allclose(normalise(IMAGES), IMAGES / 127.5 - 1, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pad": -1}, "pad as a number of pixels"),
        ({"pad": 1.5}, "pad as a number of pixels"),
        ({"cutout": -2}, "cutout as a number"),
        ({"fill": "wrap"}, "found 'wrap'"),
        ({"flip": 1.1}, "as a probability"),
        ({"std": 0}, "std above 0"),
        ({"mean": np.nan}, "finite mean"),
        ({"size": (3, 0)}, "from 1 up"),
        ({"pad": 7}, r"below the sides of the images, \(9, 7\)"),
        ({"size": (9, 16)}, r"within the padded images, \(17, 15\)"),
        ({"mean": (0.1, 0.2)}, "one for each of 3 channels"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        augment(KEY, IMAGES, **settings)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(Augment(rngs=nnx.Rngs(0), **settings), IMAGES)


@pytest.mark.parametrize("images", [IMAGES[0], IMAGES.astype(int), IMAGES[:0], np.zeros((2, 3, 3, 1), bool)])
def test_what_is_no_image_is_refused(images):
    for function in (partial(augment, KEY), normalise):
        with pytest.raises(ValueError, match=r"Expected images of 0..255, uint8 or float"):
            function(images)


class Network(nnx.Module):
    """A network behind the layer."""

    def __init__(self, *, rngs):
        self.augment = Augment(pad=2, rngs=rngs)
        self.net = nnx.Linear(3, 2, rngs=rngs)

    def __call__(self, x):
        return self.net(self.augment(x)[:, 0, 0])


def test_the_layer_augments_in_training_and_normalises_in_evaluation():
    layer = Augment(pad=2, cutout=3, rngs=nnx.Rngs(0))
    one, two = layer(IMAGES), layer(IMAGES)
    assert not np.array_equal(one, two)
    with evaluation():
        np.testing.assert_array_equal(instantiate(layer)(IMAGES), normalise(IMAGES))
    assert not np.array_equal(layer(IMAGES), normalise(IMAGES))
    layer.eval()
    np.testing.assert_array_equal(layer(IMAGES), normalise(IMAGES))


def test_evaluation_crops_as_training_does_where_crops_are_larger_than_images():
    layer = Augment(pad=2, size=(11, 8), fill="edge", rngs=nnx.Rngs(0))
    assert layer(IMAGES).shape == (6, 11, 8, 3)
    layer.eval()
    padded = np.pad(IMAGES, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="edge")
    np.testing.assert_allclose(layer(IMAGES), normalise(padded[:, 1:12, 1:9]), atol=1e-6)


@pytest.mark.slow
def test_a_network_behind_the_layer_can_be_frozen_and_be_one_of_many():
    network = Network(rngs=nnx.Rngs(0))
    frozen = Frozen.of(network)
    np.testing.assert_array_equal(frozen(IMAGES), frozen(IMAGES))
    many = Ensemble(Network, 2, rngs=nnx.Rngs(0))
    assert many(IMAGES).shape == (6, 2, 2)


def seeing(x, y=None):
    numpyro.deterministic("seen", x)


def test_a_program_sees_augmented_images_by_the_state_of_the_fit():
    program = augmented(seeing, pad=2)
    first = trace(seed(program, 0)).get_trace(x=IMAGES)
    state = {"augment$state": first["augment$state"]["value"]}
    again = trace(seed(program, 0)).get_trace(x=IMAGES)
    other = trace(seed(program, 1)).get_trace(x=IMAGES)
    later = trace(substitute(seed(program, 0), data=state)).get_trace(x=IMAGES)
    np.testing.assert_array_equal(first["seen"]["value"], again["seen"]["value"])
    assert not np.array_equal(first["seen"]["value"], other["seen"]["value"])
    assert not np.array_equal(first["seen"]["value"], later["seen"]["value"])
    with evaluation():
        steady = trace(seed(program, 0)).get_trace(x=IMAGES)
    np.testing.assert_array_equal(steady["seen"]["value"], normalise(IMAGES))


def test_settings_of_a_program_are_checked_at_once():
    with pytest.raises(ValueError, match="found 'wrap'"):
        augmented(seeing, fill="wrap")


def problem(num_items=32):
    """Bright and dark images; one expert who knows."""
    y = np.arange(num_items) % 2
    x = np.clip(RNG.normal(80 + 100 * y[:, None, None, None], 30, (num_items, 8, 8, 1)), 0, 255).astype(np.uint8)
    return {"x": x, "annotations": y[:, None].astype(np.int32), "y": y.astype(np.int32)}


MODEL = augmented(partial(classification, classifier=partial(ConvNet, 1, (4,), 2)), pad=2, cutout=2)
OPTIMIZER = optax.adam(0.05)
fit_classifier = partial(fit, model=MODEL, guide=no_guide, optimizer=OPTIMIZER, batch_size=16, progress=False)
DATA = {name: value for name, value in problem().items() if name != "annotations"}


@pytest.fixture(scope="module")
def fitted():
    return fit_classifier(KEY, data=DATA, epochs=6, validation=DATA)


def test_a_fit_takes_bytes_and_learns(fitted):
    assert fitted.example["x"].dtype == jnp.uint8
    logits = fitted.outputs(DATA["x"])["ai_logits"][0]
    assert (logits.argmax(-1) == DATA["y"]).mean() > 0.9
    np.testing.assert_array_equal(logits, fitted.outputs(DATA["x"].astype(np.float32))["ai_logits"][0])


@pytest.mark.slow
def test_a_fit_goes_on_as_if_it_had_never_stopped(fitted, tmp_path):
    half = fit_classifier(KEY, data=DATA, epochs=3, validation=DATA)
    half.save(tmp_path / "half")
    half = load(tmp_path / "half", MODEL, no_guide, OPTIMIZER)
    whole = fit_classifier(KEY, data=DATA, epochs=6, validation=DATA, resume=half)
    np.testing.assert_array_equal(whole.history["loss"], fitted.history["loss"])
    np.testing.assert_array_equal(whole.outputs(DATA["x"])["ai_logits"], fitted.outputs(DATA["x"])["ai_logits"])


@pytest.mark.slow
def test_runs_of_a_batch_draw_as_they_do_alone(fitted):
    runs = fit_classifier(jnp.stack([KEY, jax.random.key(1)]), data=DATA, epochs=2)
    np.testing.assert_allclose(runs.history["loss"][:, 0], fitted.history["loss"][:2], rtol=1e-3)
    assert not np.allclose(runs.history["loss"][:, 1], fitted.history["loss"][:2], rtol=1e-3)


def test_all_networks_and_the_guide_see_the_same_images():
    class Brightness(nnx.Module):
        """A network whose output tells what it saw."""

        def __init__(self, shape, *, rngs):
            self.shape, self.weight = shape, nnx.Param(jnp.ones(()))

        def __call__(self, x):
            return jnp.broadcast_to(
                self.weight * x[:, 0, 0].reshape(len(x), *(1,) * len(self.shape)), (len(x), *self.shape)
            )

    networks = {"gating": (2,), "experts": (1, 2), "classifier": (2,)}
    program = augmented(partial(prob_l2d, **{n: partial(Brightness, shape) for n, shape in networks.items()}), pad=2)
    guide = exact(program, ["z"])
    params = {f"{name}$params": {"weight": jnp.ones(())} for name in networks}

    @jax.jit
    def outputs(data):
        _, traces = EnumELBO().site_terms(KEY, params, program, guide, **data)
        names = ("gate_logits", "ai_logits", "belief_logits")
        return [{name: tr[name]["value"].reshape(32, -1)[:, 0] for name in names} for tr in traces]

    found = [seen for of_program in outputs(problem()) for seen in of_program.values()]
    for seen in found:
        np.testing.assert_array_equal(seen, found[0])


def test_wrong_images_are_refused_before_anything_is_compiled():
    with pytest.raises(ValueError, match=r"Expected images of 0..255"):
        fit_classifier(KEY, data=DATA | {"x": DATA["x"][..., 0]}, epochs=1)
