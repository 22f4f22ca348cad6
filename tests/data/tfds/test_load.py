"""Loading from TFDS, mocked, and from builders of the tests; and people who are simulated on the way."""

import io
import pickle
import subprocess
import sys
from functools import partial

import jax
import numpy as np
import pytest
from PIL import Image

from pl2d_ppl.data import Annotated, load_tfds
from pl2d_ppl.simulate import instance_dependent_experts, simulate_people, superclass_experts

tfds = pytest.importorskip("tensorflow_datasets")

KEY = jax.random.key(0)


@pytest.fixture(autouse=True)
def _without_tensorflow():
    before = "tensorflow" in sys.modules
    yield
    assert before or "tensorflow" not in sys.modules


@pytest.fixture
def mocked():
    """TFDS gives 12 made-up items of every split, the same ones each time, and no split is unknown."""
    with tfds.testing.mock_data(num_examples=12):
        yield lambda name="cifar100", split="train": tfds.data_source(name, split=split)


@pytest.mark.slow
def test_importing_does_not_import_tfds():
    code = "import sys, pl2d_ppl, pl2d_ppl.data; assert 'tensorflow_datasets' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_cifar100(mocked):
    train, test = load_tfds("cifar100")
    expected = mocked()
    for data in (train, test):
        assert data.is_lazy
        assert (data.num_items, data.num_experts, data.num_categories) == (12, 0, 100)
        for i, item in enumerate(expected):
            np.testing.assert_array_equal(data.x[i], item["image"])
            assert data.y[i] == item["label"]
            assert data.coarse[i] == item["coarse_label"]
            assert data.items[i] == item["id"]
    assert data.x[0].shape == (32, 32, 3)
    assert data.x[0].dtype == np.uint8


def test_items_are_taken_and_pickled_without_decoding_the_others(mocked):
    data = load_tfds("cifar100", split="train")
    part = data.take([7, 2])
    for source in (part.x, pickle.loads(pickle.dumps(part.x))):
        assert len(source) == 2
        np.testing.assert_array_equal(source[0], mocked()[7]["image"])
    assert part.read().x.shape == (2, 32, 32, 3)


def test_splits(mocked):
    assert isinstance(load_tfds("cifar100", split="train[:50%]"), Annotated)
    assert len(load_tfds("cifar100", split=["train"])) == 1
    assert len(load_tfds("cifar100", split=("test", "train", "train"))) == 3


def test_features_are_found_or_named(mocked):
    assert load_tfds("mnist", split="train").coarse is None
    data = load_tfds("cifar100", split="train", features={"label": "coarse_label", "item": "id"})
    assert data.num_categories == 20
    np.testing.assert_array_equal(data.y, [item["coarse_label"] for item in mocked()])
    assert load_tfds("beans", split="train").classes == ("angular_leaf_spot", "bean_rust", "healthy")  # "labels"


@pytest.mark.parametrize(
    ("name", "features", "message"),
    [
        ("cifar100", {"fine": "label"}, "keys out of image, label, .* in features, found fine"),
        ("cifar100", {"label": "fine"}, "features of cifar100, coarse_label, id, image, label, found fine"),
        (
            "cifar100",
            {"label": "id"},
            "one feature of .* that is the label, a tfds.features.ClassLabel, found coarse_label",
        ),
        ("iris", {}, "one feature of iris.* that is the image, a tfds.features.Image, found features, label. Name it"),
        ("celeb_a", {}, "one feature of celeb_a that is the label, a .*, found attributes"),
    ],
)
def test_features_that_are_not_there(mocked, name, features, message):
    with pytest.raises(ValueError, match=message):
        load_tfds(name, split="train", features=features)


def test_people_annotate_all_splits_at_once(mocked):
    coarse = sorted({int(item["coarse_label"]) for item in mocked()})
    expertise = [coarse[:4], coarse[2:3], []]
    people = partial(simulate_people, KEY, kind="superclass", expertise=expertise, error=1.0, confusion="partner")
    train, test = load_tfds("cifar100", people=people)
    y = np.concatenate([train.y, test.y])
    expected = superclass_experts(KEY, y, np.concatenate([train.coarse, test.coarse]), 100, expertise, 1.0, "partner")
    np.testing.assert_array_equal(np.concatenate([train.annotations, test.annotations]), expected)
    assert train.annotators == test.annotators == ("expert_0", "expert_1", "expert_2")
    assert train.is_lazy


def test_people_may_look_at_the_images(mocked):
    train, test = load_tfds("cifar100", people=partial(simulate_people, KEY, rates=[0.5, 0.9]))
    images = np.stack([item["image"] for item in mocked()]).reshape(12, -1)
    expected = instance_dependent_experts(KEY, np.tile(images, (2, 1)), np.tile(train.y, 2), 100, [0.5, 0.9])
    np.testing.assert_array_equal(np.concatenate([train.annotations, test.annotations]), expected)


def test_people_only_for_one_split(mocked):
    data = load_tfds("cifar100", split="train", people=partial(simulate_people, KEY, kind="superclass", num_people=4))
    assert data.num_experts == 4


# ---------------------------------------------------------------------------------------------------------------------
# Without mocks
# ---------------------------------------------------------------------------------------------------------------------


class TinyPictures(tfds.core.GeneratorBasedBuilder):
    """Five grey pictures, the fourth of which can be broken, or arrays, which need TensorFlow."""

    VERSION = tfds.core.Version("1.0.0")
    broken = arrays = False

    def _info(self):
        names = {"picture": tfds.features.Image(shape=(2, 2, 1)), "kind": tfds.features.ClassLabel(names=["u", "v"])}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(names), disable_shuffling=True)

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(), "other": self._generate_examples()}

    def _generate_examples(self):
        for i in range(5):
            pixels = np.full((2, 2, 1), 10 * i, np.uint8)
            stream = io.BytesIO()
            Image.fromarray(pixels[:, :, 0]).save(stream, "PNG")
            content = stream.getvalue()[:-30] if self.broken and i == 3 else stream.getvalue()
            yield i, {"picture": pixels if self.arrays else content, "kind": i % 3 - 1}


def test_a_builder_of_the_users(tmp_path):
    train, other = load_tfds(TinyPictures(data_dir=tmp_path), split=["train", "other"])
    again = load_tfds("tiny_pictures", split="train", data_dir=tmp_path)
    for data in (train, other, again):
        assert data.classes == ("u", "v")
        assert data.y.tolist() == [-1, 0, 1, -1, 0]
        np.testing.assert_array_equal(data.read().x[:, 0, 0, 0], [0, 10, 20, 30, 40])
    with pytest.raises(ValueError, match="no data_dir beside a builder, which has its own, found one"):
        load_tfds(TinyPictures(data_dir=tmp_path), data_dir=tmp_path)


def test_splits_that_are_not_there(tmp_path):
    for split, found in ((None, "'test'"), ("valid", "'valid'"), ("train[:3", r"'train\[:3'")):
        with pytest.raises(ValueError, match=f"made of the splits of tiny_pictures, train, other, found {found}"):
            load_tfds(TinyPictures(data_dir=tmp_path), split=split)


def test_a_name_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match=r"name to be that of a data set of TFDS, .* found 'no_such_set'"):
        load_tfds("no_such_set", data_dir=tmp_path)


def test_an_image_that_cannot_be_decoded_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(TinyPictures, "broken", True)
    data = load_tfds(TinyPictures(data_dir=tmp_path), split="train")  # labels are read without decoding
    data.x[2]
    with pytest.raises(ValueError, match=r"can be decoded, found image 3 of .*tiny_pictures.*: .*\. Prepare it again"):
        data.x[3]
    with pytest.raises(ValueError, match="can be decoded, found image 3 of"):
        data.read()
    with pytest.raises(IndexError, match=r"index in 0\.\.4, found 5"):
        data.x[5]


def test_what_needs_tensorflow_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(TinyPictures, "arrays", True)
    if "tensorflow" in sys.modules:
        pytest.skip("TensorFlow is there")
    with pytest.raises(
        ImportError, match=r"needs to prepare tiny_pictures, .*'tensorflow'\. Prepare it where TensorFlow is"
    ):
        load_tfds(TinyPictures(data_dir=tmp_path), split="train")
    assert not list(tmp_path.rglob("*1.0.0*"))


def test_a_format_without_random_access(tmp_path):
    load_tfds(TinyPictures(data_dir=tmp_path), split="train")
    info = tmp_path / "tiny_pictures" / "1.0.0" / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(ValueError, match=r"prepared as array_record or parquet, found .*\. Choose another data_dir"):
        load_tfds("tiny_pictures", split="train", data_dir=tmp_path)


# ---------------------------------------------------------------------------------------------------------------------
# Simulated people
# ---------------------------------------------------------------------------------------------------------------------


def toy(**options):
    rng = np.random.default_rng(0)
    y = np.arange(40) % 4
    given = {"classes": tuple("abcd"), "annotators": ("Ann", "Bob"), "coarse": y // 2, **options}
    return Annotated(
        given.pop("x", rng.standard_normal((40, 3, 2))), given.pop("y", y), np.stack([y, -y], 1) % 4, **given
    )


def test_simulators_take_a_data_set():
    data = toy()
    flat = data.x.reshape(40, 6)
    seen = simulate_people(KEY, data, rates=[0.3, 0.6], pattern="person", mode="nominal")
    expected = instance_dependent_experts(KEY, flat, data.y, 4, [0.3, 0.6], pattern="person", mode="nominal")
    np.testing.assert_array_equal(seen.annotations, expected)
    known = simulate_people(KEY, data, "superclass", expertise=[[0], [1]], annotators=("C", "D"))
    np.testing.assert_array_equal(known.annotations, superclass_experts(KEY, data.y, data.coarse, 4, [[0], [1]]))
    assert seen.annotators == ("expert_0", "expert_1")  # and not those whom they replace
    assert known.annotators == ("C", "D")
    np.testing.assert_array_equal(simulate_people(KEY, data, "superclass").annotations, known.annotations)
    for simulated in (seen, known):
        assert simulated.x is data.x
        assert simulated.classes == data.classes


def test_other_features_than_x():
    data = toy()
    features = np.random.default_rng(1).standard_normal((40, 5))
    seen = simulate_people(KEY, data, features=features, rates=[0.5])
    np.testing.assert_array_equal(seen.annotations, instance_dependent_experts(KEY, features, data.y, 4, [0.5]))


@pytest.mark.parametrize(
    ("data", "arguments", "message"),
    [
        (
            {"y": np.r_[np.arange(38) % 4, -1, -1]},
            {"rates": [0.1]},
            "found 2 items without, first in row 38. Simulate on",
        ),
        ({"coarse": None}, {"kind": "superclass"}, "superclasses, coarse, in data .* found none"),
        ({"x": np.zeros((40, 0))}, {"rates": [0.1]}, r"features of shape \(40, ...\), .* found \(40, 0\)"),
        ({}, {"rates": [0.1], "features": np.zeros((3, 2))}, r"found \(3, 2\)"),
        ({}, {}, "rates, groups, pattern, mode, spread for instance_dependent_experts, found no rates"),
        ({}, {"rates": [0.1], "error": 0.5}, "out of .* for instance_dependent_experts, found error"),
        (
            {},
            {"kind": "superclass", "rates": [0.1]},
            "expertise, error, confusion for superclass_experts, found rates",
        ),
        ({}, {"kind": "blind"}, "one of .* as kind, found 'blind'"),
        ({}, {"kind": "superclass", "num_people": 0}, "num_people as an integer of at least 1, found 0"),
        ({}, {"rates": [2.0]}, r"rates as a share in \[0, 1\], found 2"),
    ],
)
def test_people_who_cannot_be_simulated(data, arguments, message):
    with pytest.raises(ValueError, match=message):
        simulate_people(KEY, toy(**data), **arguments)
