"""Batches of images: their order, random numbers and resumption; transforms against plain loops."""

import dataclasses
import io
import itertools
import json
from collections import Counter
from functools import partial

import grain
import jax
import numpy as np
import optax
import pytest
from etils import epath
from PIL import Image, ImageOps

from pl2d_ppl import MLP, fit
from pl2d_ppl.data import (
    Annotated,
    CenterCrop,
    Cutout,
    EncodedImages,
    ImagePipeline,
    Normalise,
    RandAugment,
    RandomCrop,
    RandomFlip,
    Resize,
    Views,
)
from pl2d_ppl.data.images.randaugment import OPERATIONS
from pl2d_ppl.engine.guide_tools import no_guide
from pl2d_ppl.models.classification import classification

NUM = 22
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (NUM, 8, 10, 3), np.uint8)
KEY, SGD = jax.random.key(0), optax.sgd(1e-3)
WEAK = (RandomCrop(pad=2), RandomFlip(), Normalise())


def encoded(pixels, kind="PNG"):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def annotated(pixels=PIXELS, **changes):
    n = len(pixels)
    labels = np.arange(n) % 3
    x = pixels if hasattr(pixels, "offsets") else EncodedImages.of(map(encoded, pixels))
    annotations = np.stack([labels, np.full(n, -1)], 1)
    annotations[0, 1] = 1
    settings = {"classes": ("a", "b", "c"), "annotators": ("ann", "bob"), "coarse": labels // 2} | changes
    return Annotated(x, labels, annotations, **settings)


DATA = annotated()


def pipeline(data=DATA, transforms=WEAK, **changes):
    return ImagePipeline(data, transforms, **({"batch_size": 5, "epochs": 3, "seed": 7} | changes))


def assert_same(left, right):
    left, right = list(left), list(right)
    assert len(left) == len(right)
    for one, other in zip(left, right, strict=True):
        assert set(one) == set(other)
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


def test_batches_are_what_models_eat():
    batches = list(pipeline())
    assert len(batches) == len(pipeline()) == 12
    assert pipeline().steps_per_epoch == 4
    for batch in batches:
        assert {name: (a.shape, a.dtype) for name, a in batch.items()} == {
            "x": ((5, 8, 10, 3), np.float32),
            "annotations": ((5, 2), np.int32),
            "y": ((5,), np.int32),
        }


def test_labels_go_with_their_images():
    for batch in pipeline(transforms=[], fields=("item", "y", "annotations", "coarse")):
        assert batch["x"].dtype == np.uint8
        np.testing.assert_array_equal(batch["x"], PIXELS[batch["item"]])
        for name in ("y", "annotations", "coarse"):
            np.testing.assert_array_equal(batch[name], getattr(DATA, name)[batch["item"]])


def test_every_epoch_has_an_order_of_its_own():
    items = np.array([batch["item"] for batch in pipeline(fields=("item",), transforms=[])]).reshape(3, -1)
    for order in items:
        assert len(set(order.tolist())) == 20  # two of 22 are left out
    assert len({tuple(order) for order in items}) == 3
    other = [batch["item"] for batch in pipeline(fields=("item",), transforms=[], seed=8)]
    assert not np.array_equal(np.concatenate(other)[:20], items[0])
    assert not np.array_equal(np.concatenate(other)[:20], items[1])  # the next seed is no later epoch


@pytest.mark.slow
def test_positions_are_uniform():
    batches = pipeline(dataclasses.replace(DATA, x=PIXELS), [], fields=("item",), batch_size=1, epochs=1100).dataset
    first = Counter(batches[NUM * epoch]["item"].item() for epoch in range(1100))
    expected = 1100 / NUM
    assert sum((first[i] - expected) ** 2 for i in range(NUM)) / expected < 46.8  # once in a thousand


def test_without_shuffling_all_items_come_in_order():
    batches = list(pipeline(shuffle=False, drop_remainder=False, transforms=[], fields=("item",), epochs=2))
    assert [len(batch["x"]) for batch in batches] == [5, 5, 5, 5, 2] * 2
    np.testing.assert_array_equal(np.concatenate([b["item"] for b in batches]), np.tile(np.arange(NUM), 2))


def by_loop(seed, epoch, item, transforms):
    """An item of an epoch, without grain: Philox, its key from the seed, its counter from the item and the epoch."""
    _, item_seed = np.random.SeedSequence(seed).generate_state(2)
    bits = np.random.Philox(int(item_seed))
    state = bits.state
    state["state"]["counter"][:] = [0, 0, 0, epoch * NUM + item]
    bits.state = state
    rng, image = np.random.Generator(bits), PIXELS[item]
    for transform in transforms:
        image = transform.random_map(image, rng) if hasattr(transform, "random_map") else transform.map(image)
    return image


def test_random_numbers_follow_from_seed_epoch_and_item_alone():
    batches = list(pipeline(fields=("item",)))
    for step in (0, 5, 11):
        for x, item in zip(batches[step]["x"], batches[step]["item"], strict=True):
            np.testing.assert_array_equal(x, by_loop(7, step // 4, int(item), WEAK))
    reordered = pipeline(fields=("item",), batch_size=22, shuffle=False, epochs=2)
    for epoch, batch in enumerate(reordered):
        np.testing.assert_array_equal(batch["x"][3], by_loop(7, epoch, 3, WEAK))


def test_an_epoch_can_be_had_by_itself():
    whole = list(pipeline())
    for epoch in range(3):
        assert_same(pipeline().epoch(epoch), whole[4 * epoch : 4 * epoch + 4])
    assert_same(pipeline(epochs=5).epoch(4), pipeline(epochs=1).epoch(4))


def test_an_epoch_can_be_read_into_memory():
    data = pipeline().read(epoch=1)
    assert not data.is_lazy
    assert data.x.shape == (NUM, 8, 10, 3)
    for item in (0, 7, 21):
        np.testing.assert_array_equal(data.x[item], by_loop(7, 1, item, WEAK))
    np.testing.assert_array_equal(data.annotations, DATA.annotations)


def test_a_fit_goes_epoch_by_epoch():
    model = partial(classification, classifier=partial(MLP, 240, (), 3))
    source, result = pipeline(), None
    for epoch in range(3):
        data = {name: value for name, value in source.read(epoch).batch().items() if name != "annotations"}
        result = fit(KEY, model, no_guide, data, SGD, epochs=epoch + 1, batch_size=11, resume=result, progress=False)
    losses = result.history["loss"]
    assert losses.shape == (3,)
    assert np.isfinite(losses).all()
    assert len(set(losses.tolist())) == 3


def test_images_of_all_sizes_become_one_array():
    data = annotated(EncodedImages.of(encoded(PIXELS[i, : 4 + i % 5]) for i in range(NUM)))
    found = pipeline(data, [Resize(6), CenterCrop(5), Normalise()]).read()
    assert found.x.shape == (NUM, 5, 5, 3)
    with pytest.raises(ValueError, match=r"one shape in a batch, found .*Resize"):
        list(pipeline(data, [Normalise()]))


def test_a_stream_goes_on_bit_by_bit():
    whole = list(pipeline())
    for stop in (0, 3, 4, 11, 12):
        stream = iter(pipeline())
        assert_same(itertools.islice(stream, stop), whole[:stop])
        state = json.loads(json.dumps(stream.get_state()))
        resumed = iter(pipeline())
        next(resumed)
        resumed.set_state(state)
        assert_same(resumed, whole[stop:])
        assert resumed.get_state()["step"] == 12
        stream.close()


def test_a_stream_is_a_checkpoint_of_grains(tmp_path):
    stream, handler = iter(pipeline()), grain.checkpoint.CheckpointHandler()
    next(stream)
    handler.save(epath.Path(tmp_path), stream)
    resumed = iter(pipeline())
    handler.restore(epath.Path(tmp_path), resumed)
    assert_same(resumed, stream)


@pytest.mark.slow
def test_two_workers_give_the_same_batches_and_states():
    whole = list(pipeline())
    stream = iter(pipeline(num_workers=2))
    assert_same(itertools.islice(stream, 7), whole[:7])
    state = stream.get_state()
    alone = iter(pipeline())
    alone.set_state(state)
    assert_same(alone, whole[7:])
    assert_same(stream, whole[7:])
    stream.close()


@pytest.mark.exhaustive
@pytest.mark.slow
def test_an_error_of_a_worker_names_the_image():
    data = annotated(EncodedImages.of([*map(encoded, PIXELS[:-1]), b"?"]))
    with pytest.raises(ValueError, match="found image 21"):
        list(pipeline(data, num_workers=2))
    one = iter(pipeline(num_workers=2))
    state = {**one.get_state(), "step": 10}
    next(one)
    one.set_state(state)
    assert_same(one, list(pipeline())[10:])


def test_a_bad_image_is_named():
    data = annotated(EncodedImages.of([*map(encoded, PIXELS[:-1]), b"?"]))
    with pytest.raises(ValueError, match="found image 21"):
        list(pipeline(data))
    with pytest.raises(ValueError, match="found image 21"):
        pipeline(data.take([21, 1, 2, 3, 4]))


@pytest.mark.parametrize(
    "changes",
    [{"seed": 1}, {"batch_size": 6}, {"step": 13}, {"step": -1}, {"items": 3}, {"seed": None}, {"shuffle": False}],
)
def test_states_of_other_pipelines_are_refused(changes):
    stream = iter(pipeline())
    state = stream.get_state()
    with pytest.raises(ValueError, match="Expected a state of this pipeline"):
        stream.set_state({**state, **changes})


def test_a_closed_stream_gives_nothing():
    stream = iter(pipeline())
    next(stream)
    stream.close()
    with pytest.raises(ValueError, match="closed"):
        next(stream)


def test_images_in_memory_will_do():
    in_memory = dataclasses.replace(DATA, x=PIXELS)
    assert_same(pipeline(in_memory), pipeline())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "batch_size as an integer from 1"),
        ({"batch_size": 23}, "at least batch_size=23 items, found 22"),
        ({"epochs": 0}, "epochs as an integer from 1"),
        ({"seed": -1}, "seed as an integer from 0"),
        ({"num_workers": 1.0}, "num_workers as an integer"),
        ({"fields": ("counts",)}, "data with 'counts'"),
        ({"fields": ("x",)}, "found 'x'"),
        ({"transforms": [np.flip]}, "grain.transforms.Map or RandomMap"),
        ({"transforms": [grain.transforms.Batch(2)]}, "filters, go around a pipeline's .dataset"),
        ({"transforms": [CenterCrop(9)]}, r"within the image, \(8, 10\), found \(9, 9\)"),
        ({"transforms": [RandomCrop((15, 5), pad=3)]}, r"within the padded image, \(14, 16\)"),
        ({"transforms": [RandomCrop(pad=8)]}, "below the sides"),
        ({"transforms": [Normalise((0.1, 0.2))]}, "one for each of 3 channels"),
        ({"data": dataclasses.replace(DATA, x=PIXELS / 255)}, "found float32"),
        ({"data": dataclasses.replace(DATA, x=PIXELS * 2.0)}, "found float32"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        pipeline(**changes)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Resize(0), "from 1 up"),
        (lambda: CenterCrop((3, 4, 5)), "from 1 up"),
        (lambda: RandomCrop(pad=-1), "pad as an integer"),
        (lambda: RandomCrop(fill="wrap"), "found 'wrap'"),
        (lambda: RandomFlip(2), "a probability"),
        (lambda: Normalise(std=0), "std above 0"),
        (lambda: RandAugment(magnitude=31), "found 2 and 31"),
        (lambda: RandAugment(magnitude=0, draw_magnitude=True), "1..30"),
        (lambda: Cutout(0), "from 1 up"),
        (lambda: Views(), "found none"),
        (lambda: Views(x=[np.flip]), "Map or RandomMap"),
    ],
)
def test_malformed_transforms_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_transforms_are_grains_and_take_images_or_elements():
    plain = grain.MapDataset.source(PIXELS).map(Resize((4, 5))).map(Normalise())
    named = grain.MapDataset.source([{"x": image} for image in PIXELS]).map(Resize((4, 5))).map(Normalise())
    np.testing.assert_array_equal(plain[3], named[3]["x"])
    drawn = grain.MapDataset.source(PIXELS).seed(0).random_map(RandomFlip())
    assert {a.tobytes() for a in drawn} <= {a.tobytes() for a in (*PIXELS, *PIXELS[:, :, ::-1])}


def test_resize_keeps_the_aspect_or_not():
    assert Resize(4).map(PIXELS[0]).shape == (4, 5, 3)
    assert Resize(4).map(PIXELS[0].transpose(1, 0, 2)).shape == (5, 4, 3)
    assert Resize((3, 9)).map(PIXELS[0]).shape == (3, 9, 3)
    expected = Image.fromarray(PIXELS[0]).resize((9, 3), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(Resize((3, 9)).map(PIXELS[0]), expected)


def test_center_crop_and_normalise():
    np.testing.assert_array_equal(CenterCrop((4, 6)).map(PIXELS[0]), PIXELS[0, 2:6, 2:8])
    found = Normalise((0.1, 0.2, 0.3), (0.5, 0.6, 0.7)).map(PIXELS[0])
    np.testing.assert_allclose(found, (PIXELS[0] / 255 - [0.1, 0.2, 0.3]) / [0.5, 0.6, 0.7], rtol=1e-5, atol=1e-6)
    assert found.dtype == np.float32


@pytest.mark.parametrize(("size", "pad", "fill"), [(None, 2, "reflect"), ((4, 5), 0, "reflect"), (9, 1, "constant")])
def test_random_crops_are_all_crops_alike(size, pad, fill):
    image = np.arange(80, dtype=np.uint8).reshape(8, 10, 1)
    height, width = {None: (8, 10), 9: (9, 9)}.get(size, size)
    padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode=fill)
    tops, lefts = padded.shape[0] - height + 1, padded.shape[1] - width + 1
    crops = [padded[t : t + height, c : c + width].tobytes() for t in range(tops) for c in range(lefts)]
    rng, draws = np.random.default_rng(0), 200 * len(crops)
    counts = Counter(RandomCrop(size, pad, fill).random_map(image, rng).tobytes() for _ in range(draws))
    assert set(counts) == set(crops)
    assert all(abs(counts[crop] - 200) < 5 * np.sqrt(200) for crop in crops)


def test_flips_come_as_often_as_asked():
    rng = np.random.default_rng(0)
    flips = [RandomFlip(0.3).random_map(PIXELS[0], rng) for _ in range(2000)]
    share = np.mean([np.array_equal(flip, PIXELS[0][:, ::-1]) for flip in flips])
    assert abs(share - 0.3) < 4 * np.sqrt(0.21 / 2000)


def test_cutout_sets_a_square_to_grey():
    image, rng = np.zeros((9, 9, 1), np.uint8), np.random.default_rng(0)
    cuts = [Cutout(3).random_map(image, rng)[..., 0] for _ in range(500)]
    assert not image.any()
    assert {int((cut == 128).sum()) for cut in cuts} == {4, 6, 9}
    corner = next(cut for cut in cuts if cut[0, 0])
    assert set(np.unique(corner)) == {0, 128}


def test_operations_at_strength_zero_change_little():
    image = Image.fromarray(PIXELS[0])
    for name in set(OPERATIONS) - {"auto_contrast", "equalize"}:
        np.testing.assert_array_equal(OPERATIONS[name](image, 0.0), image, err_msg=name)


SMOOTH = (np.add.outer(np.arange(12) * 10, np.arange(16) * 8)[..., None] + [0, 20, 40]).astype(np.uint8)


def shifted(image, rows, columns):
    """Move an image by whole pixels; what is left empty is grey."""
    result = np.full_like(image, 128)
    height, width = image.shape[:2]
    for row in range(height):
        for column in range(width):
            if 0 <= row + rows < height and 0 <= column + columns < width:
                result[row, column] = image[row + rows, column + columns]
    return result


ORACLES = {
    "identity": (1.0, lambda x: x),
    "solarize": (0.5, lambda x: np.where(x >= 128, 255 - x, x)),
    "posterize": (-1.0, lambda x: x & 0xF0),
    "brightness": (-1.0, lambda x: x * 0.1),
    "contrast": (1.0, lambda x: 1.9 * x - 0.9 * (x @ [0.299, 0.587, 0.114]).mean()),
    "color": (-1.0, lambda x: 0.1 * x + 0.9 * (x @ [0.299, 0.587, 0.114])[..., None]),
    "translate_x": (331 / 150 / 4, lambda x: shifted(x, 0, 4)),
    "translate_y": (-331 / 150 / 4, lambda x: shifted(x, -3, 0)),
    "auto_contrast": (0.0, lambda x: (x - x.min((0, 1))) * (255 / (x.max((0, 1)) - x.min((0, 1))))),
}


@pytest.mark.parametrize("name", ORACLES)
def test_operations_equal_their_formulas(name):
    strength, oracle = ORACLES[name]
    found = np.asarray(OPERATIONS[name](Image.fromarray(SMOOTH), strength), float)
    assert np.abs(found - np.clip(oracle(SMOOTH.astype(int)), 0, 255)).max() <= 2


def test_other_operations_do_what_they_are_called():
    image = Image.fromarray(SMOOTH)
    quarter = np.asarray(OPERATIONS["rotate"](image, 3.0), int)  # by 90 degrees, against the clock
    middle = np.rot90(SMOOTH[:, 2:14])
    assert np.abs(quarter[1:11, 3:13] - middle[1:11, 1:11]).max() <= 20
    sheared = np.asarray(OPERATIONS["shear_x"](image, 1.0), int)
    for row in range(11):
        np.testing.assert_allclose(sheared[row, 1:8, 0], SMOOTH[row, 1:8, 0] + 8 * 0.3 * (row + 0.5), atol=3)
    sheared = np.asarray(OPERATIONS["shear_y"](image, 1.0), int)
    for column in range(11):
        np.testing.assert_allclose(sheared[1:8, column, 0], SMOOTH[1:8, column, 0] + 3 * (column + 0.5), atol=3)
    np.testing.assert_array_equal(OPERATIONS["equalize"](image, 0), ImageOps.equalize(image))
    sharp, blurred = (np.asarray(OPERATIONS["sharpness"](Image.fromarray(PIXELS[0]), s), float) for s in (1, -1))
    assert np.var(sharp) > np.var(PIXELS[0]) > np.var(blurred)


def test_operations_take_grey_images():
    for operation in OPERATIONS.values():
        assert operation(Image.fromarray(SMOOTH[..., 0]), 0.5).mode == "L"
    assert RandAugment(5, 30).random_map(SMOOTH[..., :1], np.random.default_rng(0)).shape == (12, 16, 1)


def test_operations_and_magnitudes_are_drawn_alike(monkeypatch):
    drawn = []
    for name in OPERATIONS:
        monkeypatch.setitem(
            OPERATIONS, name, lambda image, strength, name=name: drawn.append((name, strength)) or image
        )
    rng = np.random.default_rng(0)
    for _ in range(1400):
        RandAugment(2, 10, draw_magnitude=True).random_map(SMOOTH, rng)
    names, strengths = zip(*drawn, strict=True)
    assert len(drawn) == 2800
    assert all(abs(number - 200) < 5 * np.sqrt(200) for number in Counter(names).values())
    levels = Counter(round(30 * strength) for strength in strengths)
    assert set(levels) == set(range(-10, 11)) - {0}
    assert all(abs(number - 140) < 5 * np.sqrt(140) for number in levels.values())
    drawn.clear()
    RandAugment(3, 12).random_map(SMOOTH, rng)
    assert {abs(strength) for _, strength in drawn} == {0.4}


def test_views_are_of_the_same_image():
    weak = [RandomFlip(), RandomCrop(pad=2)]
    views = Views(x=[*weak, Normalise()], x_strong=[*weak, RandAugment(), Cutout(4), Normalise()])
    (batch, *_) = pipeline(transforms=[views], shuffle=False)
    assert set(batch) == {"x", "x_strong", "annotations", "y"}
    assert batch["x"].shape == batch["x_strong"].shape == (5, 8, 10, 3)
    assert not np.array_equal(batch["x"], batch["x_strong"])
    same = Views(a=[Resize((8, 10))], b=[Normalise()])
    (batch, *_) = pipeline(transforms=[same], shuffle=False)
    np.testing.assert_array_equal(batch["a"], PIXELS[:5])
    np.testing.assert_allclose(batch["b"], PIXELS[:5] / 127.5 - 1, atol=1e-6)
    with pytest.raises(ValueError, match="a view called x"):
        pipeline(transforms=[same]).read()
    assert pipeline(transforms=[views]).read().x.shape == PIXELS.shape
