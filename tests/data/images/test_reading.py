"""Images in files and buffers: against Pillow, and what is not an image."""

import io
import pickle
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pl2d_ppl.data import Annotated, EncodedImages, ImageFolder, Part, Source, check_images, read_images
from pl2d_ppl.data.images.reading import in_order, resize

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (9, 7, 3), np.uint8)


def encoded(pixels=PIXELS, kind="PNG", **options):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue()


def annotated(x, **changes):
    labels = np.arange(len(x)) % 2
    return Annotated(x, labels, labels[:, None], classes=("a", "b"), annotators=("ann",), **changes)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("b.png", "a.JPG", "sub/c.webp"):
        (tmp_path / name).write_bytes(encoded(kind={"a.JPG": "JPEG", "sub/c.webp": "WEBP"}.get(name, "PNG")))
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "sub" / "._c.webp").write_text("what some systems leave behind")
    (tmp_path / "folder.png").mkdir()
    return tmp_path


def test_folder_lists_images_in_order_of_their_paths(folder):
    images = ImageFolder.glob(folder)
    assert images.paths == ("a.JPG", "b.png", "sub/c.webp")
    assert len(images) == 3
    assert isinstance(images, Source)
    np.testing.assert_array_equal(images[1], PIXELS)
    assert images[2].shape == (9, 7, 3)
    assert images[-1].shape == (9, 7, 3)
    assert ImageFolder.glob(folder, "*.png").paths == ("b.png",)
    with pytest.raises(IndexError):
        images[3]


def test_folder_takes_paths_relative_to_a_root_and_absolute_ones(folder):
    np.testing.assert_array_equal(ImageFolder(["b.png"], root=folder)[0], PIXELS)
    np.testing.assert_array_equal(ImageFolder([folder / "b.png"], root="/elsewhere")[0], PIXELS)


def test_pixels_may_be_changed(folder):
    image = ImageFolder.glob(folder)[1]
    image[:] = 0


def test_encoded_images_are_those_of_their_files():
    others = [RNG.integers(0, 256, (4, 5 + i, 3), np.uint8) for i in range(3)]
    images = EncodedImages.of(encoded(pixels) for pixels in others)
    for found, pixels in zip([images[i] for i in range(3)], others, strict=True):
        np.testing.assert_array_equal(found, pixels)
    np.testing.assert_array_equal(images[-1], others[-1])
    with pytest.raises(IndexError):
        images[3]


def test_encoded_images_of_several_files_follow_each_other(tmp_path):
    parts = [[RNG.integers(0, 256, (4, 4, 3), np.uint8) for _ in range(n)] for n in (2, 3)]
    for i, part in enumerate(parts):
        images = EncodedImages.of(map(encoded, part))
        np.savez(tmp_path / f"{i}.npz", webp=images.data, offsets=images.offsets)
    images = EncodedImages.read_npz(tmp_path / "0.npz", tmp_path / "1.npz")
    for i, pixels in enumerate(parts[0] + parts[1]):
        np.testing.assert_array_equal(images[i], pixels)


def test_read_npz_says_what_a_file_lacks(tmp_path):
    np.savez(tmp_path / "a.npz", jpeg=np.zeros(3, np.uint8))
    with pytest.raises(ValueError, match=r"a.npz, found: no webp and no offsets, but jpeg"):
        EncodedImages.read_npz(tmp_path / "a.npz")
    with pytest.raises(ValueError, match=r"a file at .*, found none"):
        EncodedImages.read_npz(tmp_path / "b.npz")
    with pytest.raises(ValueError, match="found none"):
        EncodedImages.read_npz()


def test_sources_can_be_pickled(folder):
    for images in (ImageFolder.glob(folder), EncodedImages.of([encoded()])):
        copy = pickle.loads(pickle.dumps(images))
        np.testing.assert_array_equal(copy[0], images[0])


def test_grey_images_keep_an_axis_of_channels():
    grey = EncodedImages.of([encoded(PIXELS[..., 0]), encoded()], mode="L")
    np.testing.assert_array_equal(grey[0], PIXELS[..., :1])
    luma = PIXELS @ np.array([0.299, 0.587, 0.114])
    assert np.abs(grey[1][..., 0] - luma).max() <= 1
    np.testing.assert_array_equal(EncodedImages.of([encoded(PIXELS[..., 0])])[0], np.repeat(PIXELS[..., :1], 3, 2))


def test_sixteen_bits_are_scaled_to_eight():
    deep = np.array([[0, 255, 256], [4096, 40_000, 65_535]], np.uint16)
    found = EncodedImages.of([encoded(deep)], mode="L")[0][..., 0]
    np.testing.assert_array_equal(found, [[0, 0, 1], [16, 156, 255]])


def test_other_modes_of_colour_are_read():
    palette, alpha = io.BytesIO(), np.dstack([PIXELS, PIXELS[..., :1]])
    Image.fromarray(PIXELS // 128 * 128).convert("P", palette=Image.Palette.ADAPTIVE).save(palette, "PNG")
    cmyk = io.BytesIO()
    Image.fromarray(PIXELS).convert("CMYK").save(cmyk, "JPEG")
    images = EncodedImages.of([palette.getvalue(), encoded(alpha), cmyk.getvalue(), encoded(kind="GIF")])
    assert [images[i].shape for i in range(4)] == [(9, 7, 3)] * 4
    np.testing.assert_array_equal(images[1], PIXELS)


def test_photographs_are_turned_upright():
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter, clockwise
    images = EncodedImages.of([encoded(kind="PNG", exif=exif)])
    np.testing.assert_array_equal(images[0], np.rot90(PIXELS, -1))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "cannot identify"),
        (b"no image at all", "cannot identify"),
        (encoded()[:80], "truncated|broken|incomplete"),
        (encoded(kind="JPEG")[:200], "Truncated|broken"),
        (encoded(kind="WEBP")[:60], "."),
        (encoded(np.zeros((2, 2), np.float32), "TIFF"), "32 bits"),
        (encoded(np.zeros((2, 2), np.int32), "TIFF"), "32 bits"),
    ],
)
def test_what_is_no_image_is_refused_by_name(tmp_path, content, why):
    (tmp_path / "scan.png").write_bytes(content)
    with pytest.raises(ValueError, match=rf"scan.png: .*({why}).*check_images"):
        ImageFolder(["scan.png"], root=tmp_path)[0]
    with pytest.raises(ValueError, match=rf"image 1: .*({why})"):
        EncodedImages.of([encoded(), content])[1]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"])
@given(data=st.data())
@settings(max_examples=30, deadline=None)
def test_a_damaged_file_gives_an_image_or_a_value_error(kind, data):
    content = bytearray(encoded(kind=kind))
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(0, len(content)))]
    images = EncodedImages.of([bytes(content)])
    report = check_images(images, progress=False)
    if report.bad:
        with pytest.raises(ValueError, match="found image 0"):
            images[0]
    else:
        assert images[0].ndim == 3


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"found no file .*gone.png"):
        ImageFolder(["gone.png"], root=tmp_path)[0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ImageFolder([]), "found none"),
        (lambda: ImageFolder("folder"), "ImageFolder.glob"),
        (lambda: ImageFolder(["a"], mode="HSV"), "found 'HSV'"),
        (lambda: ImageFolder.glob("/not/there"), "found none at /not/there"),
        (lambda: EncodedImages(np.zeros(3), [0, 3]), r"uint8 \(B,\), found float64"),
        (lambda: EncodedImages(b"abc", [0]), "N >= 1 images"),
        (lambda: EncodedImages(b"abc", [0.0, 3.0]), "found float64"),
        (lambda: EncodedImages(b"abc", [0, 4]), r"within 0..3, found 0..4"),
        (lambda: EncodedImages(b"abc", [0, 2, 1]), "not in order"),
        (lambda: EncodedImages(b"abc", np.array([3, 2], np.uint64)), "not in order"),
        (lambda: EncodedImages(b"abc", [-1, 1]), r"found -1..1"),
    ],
)
def test_sources_that_cannot_be_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_folder_without_images_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"found none of \*\*/\*"):
        ImageFolder.glob(tmp_path)


def test_bad_images_are_found_and_left_out(tmp_path):
    for name, content in {"a.png": encoded(), "b.png": b"?", "d.png": encoded(PIXELS[:4])}.items():
        (tmp_path / name).write_bytes(content)
    data = annotated(ImageFolder(["a.png", "b.png", "c.png", "d.png"], root=tmp_path))
    report = check_images(data, progress=False)
    assert [(image.item, image.name) for image in report.bad] == [(1, "b.png"), (2, "c.png")]
    assert "cannot identify" in report.bad[0].why
    assert "no file" in report.bad[1].why
    assert report.shapes == {(9, 7, 3): 1, (4, 7, 3): 1}
    np.testing.assert_array_equal(report.good, [0, 3])
    assert "4 images, 2 of which cannot be read" in str(report)
    assert "b.png" in str(report)
    left = data.take(report.good)
    assert not check_images(left, progress=False).bad
    np.testing.assert_array_equal(left.y, [0, 1])
    again = check_images(data.take([3, 2]), progress=False)
    assert again.bad[0][:2] == (1, "c.png")


def test_names_of_items_are_those_of_the_data():
    images = EncodedImages.of([encoded(), b"?"])
    report = check_images(annotated(images, items=["p1", "p2"]), progress=False)
    assert report.bad[0].name == "p2"
    assert check_images(Part(images, [1]), progress=False).bad[0].name == "image 1"


class Own:
    """A source of the user's, without names, with an error of its own."""

    def __len__(self):
        return 2

    def __getitem__(self, index):
        if index:
            raise KeyError("lost")
        return PIXELS


def test_errors_of_other_sources_are_reported_too():
    (bad,) = check_images(Own(), progress=False).bad
    assert (bad.item, bad.name, bad.why) == (1, "image 1", "'lost'")


def test_images_are_read_into_one_array_of_bytes():
    pixels = RNG.integers(0, 256, (5, 6, 4, 3), np.uint8)
    images = EncodedImages.of(map(encoded, pixels))
    for source in (images, annotated(images)):
        found = read_images(source, progress=False)
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, pixels)
    np.testing.assert_array_equal(read_images(Part(images, [3, 1]), progress=False), pixels[[3, 1]])


def test_images_of_several_sizes_are_scaled_or_refused():
    images = EncodedImages.of([encoded(), encoded(PIXELS[:5])])
    with pytest.raises(ValueError, match=r"\(9, 7, 3\) for image 0 and \(5, 7, 3\) for image 1. Pass size"):
        read_images(images, progress=False)
    found = read_images(images, size=(9, 7), progress=False)
    np.testing.assert_array_equal(found[0], PIXELS)
    np.testing.assert_array_equal(found[1], Image.fromarray(PIXELS[:5]).resize((7, 9), Image.Resampling.BICUBIC))
    assert read_images(images, size=4, progress=False).shape == (2, 4, 4, 3)
    with pytest.raises(ValueError, match="from 1 up, found 0"):
        read_images(images, size=0, progress=False)


def test_scaling_keeps_grey_images_grey_and_averages():
    checks = np.indices((8, 8)).sum(0) % 2 * 255
    small = resize(checks[..., None].astype(np.uint8), (2, 2))
    assert small.shape == (2, 2, 1)
    assert np.abs(small.astype(int) - 127).max() < 20


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (PIXELS, "found ndarray"),
        (annotated(np.zeros((2, 3))), "found ndarray"),
        (Part(EncodedImages.of([encoded()]), []), "an empty one"),
    ],
)
def test_what_is_no_source_is_refused(images, message):
    for function in (check_images, read_images):
        with pytest.raises(ValueError, match=message):
            function(images, progress=False)


def test_a_source_of_floats_is_refused():
    class Floats(Own):
        def __getitem__(self, index):
            return PIXELS / 255

    with pytest.raises(ValueError, match=r"found float64 of shape \(9, 7, 3\) for image 0"):
        read_images(Floats(), progress=False)


def test_whole_numbers_will_do():
    class Whole(Own):
        def __getitem__(self, index):
            return PIXELS.astype(np.float32)

    np.testing.assert_array_equal(read_images(Whole(), progress=False), [PIXELS, PIXELS])


def test_calls_come_in_order_and_stop_at_an_error():
    called, lock = [], threading.Lock()

    def call(index):
        with lock:
            called.append(index)
        if index == 3:
            raise RuntimeError("stop")
        return index

    results = in_order(call, 100_000, False, "")
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(RuntimeError, match="stop"):
        next(results)
    assert len(called) < 3000
    assert list(in_order(lambda index: index**2, 5, False, "")) == [0, 1, 4, 9, 16]


def test_the_images_of_cifar(data_dir):
    paths = [data_dir / f"cifar100_images_{i}.npz" for i in range(2)]
    if not all(path.exists() for path in paths):
        pytest.skip("no images")
    images = EncodedImages.read_npz(*paths)
    assert len(images) == 60_000
    report = check_images(Part(images, np.arange(0, 60_000, 400)), progress=False)
    assert report.shapes == {(32, 32, 3): 150}
