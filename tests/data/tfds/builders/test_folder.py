"""A folder of images and a table of annotations as a dataset of TFDS."""

import dataclasses
import logging
import pickle
import shutil

import jax
import numpy as np
import pytest
from cases.pictures import Written, check, paint
from PIL import Image

from pl2d_ppl.data import load_tfds, split, standardise
from pl2d_ppl.data.tfds import builders
from pl2d_ppl.experiments.curve import coverage_curve
from pl2d_ppl.inference.schedule import Schedule

TABLE = """item,annotator,label,truth,group
a.png,Ann,cat,dog,p1
a.png,Bob,dog,dog,p1
deep/b.png,Bob,cat,,p2
deep/c.jpg,,,cat,p2
deep/d.png,Ann,owl,-1,p3
"""


@pytest.fixture
def pictures(tmp_path, rng):
    """A folder of six images, the files of the table and one that it does not name."""
    folder = tmp_path / "pictures"
    names = ("a.png", "deep/b.png", "deep/c.jpg", "deep/d.png", "e.PNG")
    images = {name: paint(folder / name, rng) for name in names}
    (folder / "notes.txt").write_text("")
    return folder, images


def folder_builder(tmp_path, folder, table=TABLE, **options):
    (tmp_path / "table.csv").write_text(table)
    return builders.FolderBuilder("zoo", folder, tmp_path / "table.csv", data_dir=tmp_path / "data", **options)


ZOO = Written(
    [],
    [1, -1, 0, -1, -1],
    [[0, 1], [-1, 0], [-1, -1], [2, -1], [-1, -1]],
    [],
    ["p1", "p2", "p2", "p3", "e.PNG"],
)


def test_folder(tmp_path, pictures, caplog):
    folder, images = pictures
    written = ZOO._replace(images=list(images.values()), items=list(images))
    with caplog.at_level(logging.WARNING, "pl2d_ppl"):
        (data,) = load_tfds(folder_builder(tmp_path, folder))
    check(data, written, annotators=("Ann", "Bob"), classes=("cat", "dog", "owl"))
    assert "zoo: 2 of 5 images have no annotation" in caplog.text
    train, test = split(data, 0.3, seed=0)
    assert not set(train.group) & set(test.group)


def test_a_prepared_folder_needs_neither_images_nor_table(tmp_path, pictures):
    folder, images = pictures
    (data,) = load_tfds(folder_builder(tmp_path, folder))
    copied = pickle.dumps(data.x)
    shutil.rmtree(folder)
    (tmp_path / "table.csv").unlink()
    np.testing.assert_array_equal(pickle.loads(copied)[1], images["deep/b.png"])
    (again,) = load_tfds("zoo", data_dir=tmp_path / "data")
    check(again, ZOO._replace(images=list(images.values()), items=list(images)), annotators=("Ann", "Bob"))


def test_a_folder_is_not_prepared_anew_nor_taken_for_another(tmp_path, pictures):
    folder, _ = pictures
    load_tfds(folder_builder(tmp_path, folder))
    load_tfds(folder_builder(tmp_path, folder))
    with pytest.raises(
        ValueError, match=r"that zoo was prepared from, found another table, other images or other classes. Choose"
    ):
        folder_builder(tmp_path, folder, TABLE.replace("owl", "dog"))
    with pytest.raises(ValueError, match="that zoo was prepared from, found another"):
        folder_builder(tmp_path, folder, classes=("owl", "dog", "cat"))
    (folder / "e.PNG").unlink()
    with pytest.raises(ValueError, match="that zoo was prepared from, found another"):
        folder_builder(tmp_path, folder)


def test_classes_of_a_folder(tmp_path, pictures):
    folder, _ = pictures
    builder = folder_builder(tmp_path, folder, classes=("owl", "dog", "cat", "cow"))
    (data,) = load_tfds(builder)
    assert data.classes == ("owl", "dog", "cat", "cow")
    assert data.annotations[0].tolist() == [2, 1]
    numbers = folder_builder(tmp_path / "data", folder, "item,annotator,label\na.png,Ann,10\na.png,Bob,9\n")
    assert numbers.CLASSES == tuple(map(str, range(11)))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("item,annotator\na.png,Ann", "columns for label in a long table, found item, annotator"),
        ("item,annotator,label\n", "table.csv"),
        ("item,annotator,label\na.png,Ann,cat\n", "at least 2 categories in classes"),
        ("", "table.csv"),
        (
            "item,annotator,label\n" + "".join(f"{i}.png,Ann,{i % 2}\n" for i in range(4)),
            r"all that .*table\.csv names in .*pictures, found 4 missing: 0\.png, 1\.png, 2\.png, \.\.\.\. Fetch them",
        ),
        (
            "item,annotator,label\na.png,Ann,cat\na.png,Ann,dog\n",
            "one label of a person for an item, found several .*, such as 'cat' and 'dog' of 'Ann' for 'a.png'",
        ),
        (
            "item,annotator,label,truth\na.png,Ann,cat,cat\na.png,Bob,dog,dog\n",
            "the same truth wherever an item is named, found 'cat' and 'dog' for 'a.png'",
        ),
        (
            "item,annotator,label,group\na.png,Ann,cat,1\na.png,Bob,dog,2\n",
            "the same group wherever an item is named, found '1' and '2' for 'a.png'",
        ),
    ],
)
def test_malformed_tables_of_a_folder(tmp_path, pictures, table, message):
    with pytest.raises(ValueError, match=message):
        load_tfds(folder_builder(tmp_path, pictures[0], table))
    assert not (tmp_path / "data" / "zoo").exists()


def test_a_folder_that_cannot_be(tmp_path, pictures):
    folder, _ = pictures
    with pytest.raises(ValueError, match="among the classes 'dog', 'cat', found 1 unknown"):
        folder_builder(tmp_path, folder, classes=("dog", "cat"))
    with pytest.raises(ValueError, match=r"a folder of images, found .*, which is none"):
        folder_builder(tmp_path, folder / "nowhere")
    with pytest.raises(ValueError, match="lower-case letters, digits and underscores, found 'My zoo'"):
        builders.FolderBuilder("My zoo", folder, tmp_path / "table.csv")
    with pytest.raises(ValueError, match=r"nowhere\.csv"):
        builders.FolderBuilder("zoo", folder, tmp_path / "nowhere.csv")
    (folder / "e.PNG").write_bytes(b"\x89PNG")
    with pytest.raises(ValueError, match=r"found .*e\.PNG: "):
        load_tfds(folder_builder(tmp_path, folder))
    (tmp_path / "data").mkdir(exist_ok=True)
    builder = folder_builder(tmp_path / "data", folder / "deep", "item,annotator,label\nb.png,Ann,1\nb.png,Bob,0\n")
    assert (load_tfds(builder)[0].y < 0).all()  # people's annotations are enough


@pytest.mark.exhaustive
@pytest.mark.slow
def test_a_folder_can_be_trained_on(tmp_path, rng):
    rows = ["item,annotator,label,truth"]
    for i in range(60):
        kind = i % 3
        pixels = np.full((6, 5, 3), 20, np.uint8) + rng.integers(0, 40, (6, 5, 3), dtype=np.uint8)
        pixels[:, :, kind] += 150
        (tmp_path / "pictures").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{i}.png")
        rows += [f"{i}.png,Ann,{kind},{kind}", f"{i}.png,Bob,{rng.integers(3)},{kind}"][: 1 + (i % 2)]
    (data,) = load_tfds(folder_builder(tmp_path, tmp_path / "pictures", "\n".join(rows)))
    data = data.read()
    flat = dataclasses.replace(data, x=data.x.reshape(len(data.x), -1) / 255)
    train, test = standardise(*split(flat, 0.3, seed=0))
    report = coverage_curve(
        jax.random.key(0), train, test, [0.2, 1.0], schedule=Schedule(steps=60, batch_size=16), hidden=(8,)
    )
    assert report["accuracy"][-1] > 0.9  # the AI sees the colours
    assert np.isfinite(report["area"])
