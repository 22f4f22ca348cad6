"""Builders of published datasets, against what the tests put into folders of their layouts."""

import json
import logging
import pickle
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from cases.pictures import Written, check, paint
from PIL import Image

from pl2d_ppl.data import load_tfds
from pl2d_ppl.data.tfds import builders

tfds = pytest.importorskip("tensorflow_datasets")


def place_cifar(root, rng, folder="ciFAIR-100", number=7):
    names = {
        b"fine_label_names": [b"f%d" % i for i in range(100)],
        b"coarse_label_names": [b"c%d" % i for i in range(20)],
    }
    (root / folder).mkdir(parents=True)
    (root / folder / "meta").write_bytes(pickle.dumps(names, protocol=2))
    parts = []
    for part, size in (("train", number), ("test", 3)):
        images = rng.integers(0, 256, (size, 32, 32, 3), dtype=np.uint8)
        fine = rng.integers(0, 100, size).tolist()
        batch = {
            "data": images.transpose(0, 3, 1, 2).reshape(size, -1),
            "fine_labels": fine,
            "coarse_labels": [label // 5 for label in fine],
        }
        # The training part of the release is a pickle of Python 2, with keys in bytes; the test part is not.
        keyed = {key.encode(): value for key, value in batch.items()} if part == "train" else batch
        (root / folder / part).write_bytes(pickle.dumps(keyed, protocol=2))
        items = [f"{part}/{i:05d}" for i in range(size)]
        parts.append(Written(list(images), fine, [[]] * size, items, coarse=batch["coarse_labels"]))
    return parts


def listed(files, labels, rows):
    return [{"file": files[i], "label": int(labels[i])} for i in rows]


def place_chaoyang(root, rng):
    tables, parts = root / "chaoyang-data" / "annotations", []
    tables.mkdir(parents=True)
    for part, number in (("train", 5), ("test", 3)):
        # The authors drew both of their parts from both folders.
        files = [f"{('train', 'test')[i % 2]}/{part}{i}_2-IMG00{i}x014-1.JPG" for i in range(number)]
        images = [paint(tables.parent / file, rng) for file in files]
        y, said = rng.integers(0, 4, number), rng.integers(0, 4, (number, 3))
        (tables / f"{part}.json").write_text(json.dumps(listed(files, y, range(number))))
        for column, who in enumerate("ABC"):
            (tables / f"label_{who}_{part}.json").write_text(json.dumps(listed(files, said[:, column], range(number))))
            for rate in ("0.3", "0.5", "0.7"):
                kept = [row for row in range(number) if (row + column) % 2]
                (tables / f"label_{who}_{part}_{rate}.json").write_text(
                    json.dumps(listed(files, said[:, column], kept))
                )
        group = [f"{part}{i}" for i in range(number)]
        parts.append(Written(images, y.tolist(), said.tolist(), files, group))
    return parts


def place_mice(root, rng):
    folder, classes = root / "MiceBone", ("g", "nr", "ug")
    files = sorted(f"MiceBone/fold{1 + i // 2}/{classes[i % 3]}#{i}.png" for i in range(10))
    images = [paint(root / file, rng) for file in files]
    said = rng.integers(0, 3, (10, 4))
    said[3:, 2] = -1  # who is not complete
    said[0] = [0, 2, 2, 0]  # a tie, which the first class wins
    records = [
        {
            "name": f"INVALID{(47, 290, 5, 47)[person]}",
            "dataset_name": "MiceBone",
            "user_mail": "INVALID",
            "annotation_time": -1,
            "annotations": [
                {"image_path": files[i], "created_at": "", "class_label": None if label < 0 else classes[label]}
                for i, label in enumerate(said[:, person])
            ],
        }
        for person in range(4)
    ]
    (folder / "annotations.json").write_text(json.dumps(records))
    y = [max(range(3), key=[label for label in row if label >= 0].count) for row in said.tolist()]
    everyone = Written(images, y, said.tolist(), files)
    return everyone


def cut(written, rows, columns=slice(None)):
    take = lambda values: None if values is None else [values[i] for i in rows]  # noqa: E731
    said = [list(np.array(row)[columns]) for row in take(written.annotations)]
    return Written(*(said if name == "annotations" else take(values) for name, values in written._asdict().items()))


def place_nih(root, rng):
    """Images 0 to 3 validate, with a reader's contradiction in 2 and no truth of 3; 4 and 5 test."""
    tables = root / "NIH" / "four_findings_expert_labels"
    tables.mkdir(parents=True)
    files = [f"0000000{i}_000.png" for i in range(6)]
    images = [paint(root / "NIH" / f"images_00{1 + i % 2}" / "images" / file, rng, "L") for i, file in enumerate(files)]
    said = [[1, 0], [0, -1], [-1, 1], [1, 1], [0, -1], [-1, 1]]
    y, patients = [1, 0, 1, -1, 0, 1], ["7", "7", "8", "9", "10", "11"]
    words = {1: "YES", 0: "NO", -1: ""}
    rows = [
        (patients[i], files[i], reader, "NO", "HEDGE", words[label], "NO", "val" if i < 4 else "test")
        for i, row in enumerate(said)
        for reader, label in zip((4295342357, 4323195249), row, strict=True)
        if label >= 0
    ]
    rows += [("8", files[2], 4295342357, "NO", "NO", word, "NO", "val") for word in ("YES", "NO")]
    columns = [
        "Patient ID",
        "Image ID",
        "Reader ID",
        "Fracture",
        "Pneumothorax",
        "Airspace opacity",
        "Nodule/mass",
        "Set ID",
    ]
    pd.DataFrame(rows, columns=columns).to_csv(tables / "individual_readers.csv", index=False)
    for part, chosen in (("validation", range(4)), ("test", range(4, 6))):
        truth = [(files[i], "No Finding", patients[i], words[y[i]], part) for i in chosen]
        columns = ["Image Index", "Finding Labels", "Patient ID", "Airspace opacity", "Set Id"]
        pd.DataFrame(truth, columns=columns).to_csv(tables / f"{part}_labels.csv", index=False)
    return Written(images, y, said, files, patients)


def place_dopanim(root, rng):
    folder, species = root / "dopanim", builders.Dopanim.CLASSES
    tasks, written = {}, {part: Written([], [], [], [], coarse=[]) for part in ("train", "valid", "test")}
    annotations = {}
    groups = [0] * 3 + [1] * 5 + [2] * 4 + [3] * 3
    for i in range(9):
        part, label = ("train", "train", "valid", "test")[i % 4], int(rng.integers(15))
        tasks[str(1000 + i)] = {"split": part, "taxon_name": species[label], "photo_attribution": "me"}
        file = f"{part}/{species[label]}/{1000 + i}.jpeg"
        said = rng.integers(0, 15, 2).tolist() if part == "train" else [-1, -1]
        if i == 1:
            said[1] = -1  # all likelihoods are 0
        one = written[part]
        for values, value in zip(one, (paint(folder / file, rng), label, said, file, None, groups[label]), strict=True):
            if values is not None:
                values.append(value)
        for who, choice in zip(("lunar-lynx", "neon-ninja"), said, strict=True):
            if part == "train":
                likelihoods = {name: 0.7 if k == choice else 0.3 * (choice >= 0) for k, name in enumerate(species)}
                entry = {"observation_id": 1000 + i, "annotator_id": who, "annotation_time": 3.0}
                annotations[str(len(annotations))] = {**entry, "likelihoods": likelihoods}
    (folder / "task_data.json").write_text(json.dumps(tasks))
    (folder / "annotation_data.json").write_text(json.dumps(annotations))
    return [written["train"], written["valid"], written["test"]]


@pytest.fixture
def places(tmp_path):
    """The data folder and the manual folder."""
    return {"data_dir": tmp_path / "data", "manual_dir": tmp_path / "manual"}


@pytest.mark.parametrize(("name", "folder"), [("cifair100", "ciFAIR-100"), ("cifar100_python", "cifar-100-python")])
def test_cifar(name, folder, places, rng):
    train, test = place_cifar(places["manual_dir"], rng, folder)
    read = load_tfds(name, **places)
    for data, written in zip(read, (train, test), strict=True):
        check(data, written, classes=[f"f{i}" for i in range(100)])


def test_cifar_refuses_a_pickle_that_could_run_code(places, rng):
    place_cifar(places["manual_dir"], rng)
    (places["manual_dir"] / "ciFAIR-100" / "test").write_bytes(pickle.dumps({"data": Path("x")}))
    with pytest.raises(ValueError, match=r"a pickled dictionary of arrays in .*test, found: pathlib"):
        load_tfds("cifair100", **places)
    (places["manual_dir"] / "ciFAIR-100" / "test").write_bytes(pickle.dumps({"data": np.zeros((2, 3072), np.uint8)}))
    with pytest.raises(ValueError, match=r"fine_labels in .*test, found data"):
        load_tfds("cifair100", **places)


def test_chaoyang(places, rng):
    train, test = place_chaoyang(places["manual_dir"], rng)
    for config in ("", "/complete"):
        read = load_tfds("chaoyang" + config, **places)
        for data, written in zip(read, (train, test), strict=True):
            check(data, written, annotators="ABC", classes=("normal", "serrated", "adenocarcinoma", "adenoma"))


def test_chaoyang_with_missing_annotations(places, rng):
    train, test = place_chaoyang(places["manual_dir"], rng)
    said = np.array(train.annotations)
    said[(np.arange(5)[:, None] + np.arange(3)) % 2 == 0] = -1
    read = load_tfds("chaoyang/missing_0.5", **places)
    check(read[0], train._replace(annotations=said.tolist()), annotators="ABC")
    check(read[1], test, annotators="ABC")


def test_mice_bone(places, rng):
    written = place_mice(places["manual_dir"], rng)
    people = ("47", "290", "47_2")
    read = load_tfds("mice_bone", **places)
    for data, rows in zip(read, (range(8), range(8, 10)), strict=True):
        check(data, cut(written, rows, [0, 1, 3]), annotators=people, classes=("g", "nr", "ug"))
    check(load_tfds("mice_bone", split="fold2", **places), cut(written, (2, 3), [0, 1, 3]), annotators=people)


def test_mice_bone_with_everyone(places, rng):
    written = place_mice(places["manual_dir"], rng)
    data = load_tfds("mice_bone/everyone", split="fold1+fold2", **places)
    check(data, cut(written, range(4)), annotators=("47", "290", "5", "47_2"))
    assert data.y[0] == 0  # of g and ug, two each


def test_nih_of_one_reader(places, rng):
    written = place_nih(places["manual_dir"], rng)
    read = load_tfds("nih_airspace_opacity", **places)
    for data, rows in zip(read, ((0, 1, 3), (4,)), strict=True):
        check(data, cut(written, rows, [0]), annotators=("4295342357",), classes=("no", "yes"))


def test_nih_of_all_readers(places, rng, caplog):
    written = place_nih(places["manual_dir"], rng)
    with caplog.at_level(logging.WARNING, "pl2d_ppl"):
        validation = load_tfds("nih_airspace_opacity/all_readers", split="validation", **places)
    check(validation, cut(written, range(4)), annotators=("4295342357", "4323195249"))
    assert "1 readings with both answers" in caplog.text


def test_dopanim(places, rng):
    train, valid, test = place_dopanim(places["manual_dir"], rng)
    read = load_tfds("dopanim", split=["train", "valid", "test"], **places)
    for data, written in zip(read, (train, valid, test), strict=True):
        check(data, written, annotators=("lunar-lynx", "neon-ninja"), classes=builders.Dopanim.CLASSES)


PLACES = {
    "cifair100": place_cifar,
    "chaoyang": place_chaoyang,
    "mice_bone": place_mice,
    "nih_airspace_opacity": place_nih,
    "dopanim": place_dopanim,
}


@pytest.mark.parametrize("name", PLACES)
def test_a_missing_file_is_named_with_where_to_get_and_to_put_it(name, places, rng):
    manual = places["manual_dir"]
    with pytest.raises(ValueError, match=rf"Expected .* in {manual} for {name}, found nothing .*https?://"):
        load_tfds(name, **places)
    PLACES[name](manual, rng)
    builder = tfds.builder(name, data_dir=places["data_dir"])
    for file in builder.files():
        (manual / file).rename(manual / "elsewhere")
        with pytest.raises(ValueError, match=rf"Expected {file} in .* for {name}, .* {manual / file} exists then"):
            load_tfds(name, **places)
        (manual / "elsewhere").rename(manual / file)
    assert not places["data_dir"].exists() or not list(places["data_dir"].rglob("*"))


@pytest.mark.parametrize("name", [name for name in PLACES if name != "cifair100"])
def test_missing_images_are_counted_and_named(name, places, rng):
    PLACES[name](places["manual_dir"], rng)
    images = [file for file in places["manual_dir"].rglob("*") if file.suffix.lower() in (".jpg", ".jpeg", ".png")]
    for file in images:
        file.unlink()
    paint(images[0].parent / "another.png", rng)
    with pytest.raises(
        ValueError, match=r"all that .* names in .*, found \d+ missing: .*, .*, .*, \.\.\.\. Fetch them"
    ):
        load_tfds(f"{name}/all_readers" if name.startswith("nih") else name, split="train", **places)


def test_a_truncated_image_is_named_and_nothing_is_left_behind(places, rng):
    train, test = place_chaoyang(places["manual_dir"], rng)
    broken = places["manual_dir"] / "chaoyang-data" / train.items[3]
    content = broken.read_bytes()
    broken.write_bytes(content[:-100])
    with pytest.raises(ValueError, match=rf"found {broken}: .*[Tt]runcated"):
        load_tfds("chaoyang", **places)
    assert not list(places["data_dir"].rglob("*1.0.0*"))
    broken.write_bytes(content)
    check(load_tfds("chaoyang", **places)[1], test, annotators="ABC")


MANY = 507  # items, of which a shard holds 500


def test_an_interrupted_preparation_leaves_nothing_and_can_be_done_again(places, rng, monkeypatch):
    _, test = place_cifar(places["manual_dir"], rng, number=MANY)
    saved, save = [], Image.Image.save

    def interrupted(image, *args):
        saved.append(sorted(file.name for file in places["data_dir"].rglob("*") if file.is_file()))
        if len(saved) == MANY:
            raise KeyboardInterrupt
        return save(image, *args)

    with monkeypatch.context() as patched:
        patched.setattr(Image.Image, "save", interrupted)
        with pytest.raises(KeyboardInterrupt):
            load_tfds("cifair100", **places)
    assert saved[-1]  # something had been written
    assert not list(places["data_dir"].rglob("*1.0.0*"))
    check(load_tfds("cifair100", **places)[1], test)


def test_items_keep_their_order_over_shards(places, rng):
    train, _ = place_cifar(places["manual_dir"], rng, number=MANY)
    data = load_tfds("cifair100", split="train", **places)
    check(data, train)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(data.x))[MANY - 1], train.images[MANY - 1])


def test_preparing_again_needs_the_files_before_it_deletes_anything(places, rng):
    _, test = place_cifar(places["manual_dir"], rng)
    load_tfds("cifair100", **places)
    shutil.rmtree(places["manual_dir"])
    check(load_tfds("cifair100", **places)[1], test)
    config = tfds.download.DownloadConfig(
        manual_dir=places["manual_dir"], download_mode=tfds.GenerateMode.FORCE_REDOWNLOAD
    )
    builder = tfds.builder_cls("cifair100")(data_dir=places["data_dir"])
    with pytest.raises(ValueError, match=r"Expected ciFAIR-100/train, .* for cifair100, found nothing"):
        builder.download_and_prepare(download_config=config)
    check(load_tfds("cifair100", data_dir=places["data_dir"])[1], test)


@pytest.mark.parametrize(
    ("name", "file", "content", "message"),
    [
        ("chaoyang", "chaoyang-data/annotations/train.json", "[{", "JSON in .*train.json, found"),
        ("chaoyang", "chaoyang-data/annotations/train.json", "{}", "a list in .*train.json, found a dict"),
        (
            "chaoyang",
            "chaoyang-data/annotations/train.json",
            "[1]",
            "objects with file, label in .*train.json, found 1",
        ),
        (
            "chaoyang",
            "chaoyang-data/annotations/label_B_test.json",
            '[{"file": "a", "label": 4}]',
            r"one label in 0\.\.3 for each file in .*, found 4 for a",
        ),
        (
            "chaoyang",
            "chaoyang-data/annotations/label_B_test.json",
            '[{"file": "a", "label": 1}]',
            r"label_B_test\.json names in .*test\.json, found 1 missing: a",
        ),
        ("mice_bone", "MiceBone/annotations.json", '[{"name": "x"}]', "objects with name, annotations"),
        (
            "mice_bone",
            "MiceBone/annotations.json",
            '[{"name": "x", "annotations": [{"image_path": "a", "class_label": "b"}]}]',
            "labels out of g, nr, ug in .*, found 'b'",
        ),
        (
            "mice_bone",
            "MiceBone/annotations.json",
            "[]",
            "annotators of every image in .*, found none. Choose everyone",
        ),
        (
            "nih_airspace_opacity",
            "NIH/four_findings_expert_labels/test_labels.csv",
            "Image Index,Patient ID\na,1",
            "rows and the columns .*, found 1 rows and Image Index, Patient ID",
        ),
        (
            "nih_airspace_opacity",
            "NIH/four_findings_expert_labels/individual_readers.csv",
            "Image ID,Reader ID,Airspace opacity\na,1,MAYBE",
            "YES, NO or nothing in .*, found 'MAYBE'",
        ),
        (
            "dopanim",
            "dopanim/annotation_data.json",
            '{"1": {"observation_id": 1, "annotator_id": "a", "likelihoods": {}}}',
            r"annotation_data\.json names in dopanim/task_data\.json, found 1 missing: 1",
        ),
        (
            "dopanim",
            "dopanim/annotation_data.json",
            '{"1": {"observation_id": 1000, "annotator_id": "a", "likelihoods": {"Cat": 1}}}',
            "species of dopanim in .*, found 'Cat'",
        ),
    ],
)
def test_malformed_tables(name, file, content, message, places, rng):
    PLACES[name](places["manual_dir"], rng)
    (places["manual_dir"] / file).write_text(content)
    with pytest.raises(ValueError, match=message):
        load_tfds(name, **places)
