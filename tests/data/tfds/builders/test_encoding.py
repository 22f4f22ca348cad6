"""Images as they are stored."""

import io

import numpy as np
import pytest
from cases.pictures import paint
from PIL import Image

from pl2d_ppl.data.tfds.builders.encoding import encoded


def test_images_are_stored_as_they_are_or_made_to_fit(tmp_path, rng):
    decode = lambda content: np.asarray(Image.open(io.BytesIO(content)))  # noqa: E731
    paint(tmp_path / "a.png", rng)
    assert encoded(tmp_path / "a.png") == (tmp_path / "a.png").read_bytes()
    grey = paint(tmp_path / "b.png", rng, "L")
    np.testing.assert_array_equal(decode(encoded(tmp_path / "b.png")), np.repeat(grey, 3, axis=2))
    assert encoded(tmp_path / "b.png", 1) == (tmp_path / "b.png").read_bytes()
    tiff = paint(tmp_path / "c.tif", rng)
    np.testing.assert_array_equal(decode(encoded(tmp_path / "c.tif")), tiff)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    lying = paint(tmp_path / "d.png", rng, exif=exif)
    np.testing.assert_array_equal(decode(encoded(tmp_path / "d.png")), np.rot90(lying, -1))
    deep = rng.integers(0, 2**16, (4, 3), dtype=np.uint16)
    Image.fromarray(deep).save(tmp_path / "f.png")
    np.testing.assert_array_equal(decode(encoded(tmp_path / "f.png", 1)), deep >> 8)
    array = rng.integers(0, 256, (4, 3, 3), dtype=np.uint8)
    np.testing.assert_array_equal(decode(encoded(array)), array)
    palette = Image.new("P", (3, 2), 1)
    palette.putpalette([9, 8, 7, 1, 2, 3])
    palette.save(tmp_path / "e.png", transparency=b"\x00\xff")
    assert (decode(encoded(tmp_path / "e.png")) == [1, 2, 3]).all()


def test_what_is_no_image_is_refused(tmp_path):
    (tmp_path / "a.png").write_text("no image")
    with pytest.raises(ValueError, match=r"found .*a\.png: cannot identify"):
        encoded(tmp_path / "a.png")
    Image.fromarray(np.full((2, 2), 40_000, np.int32)).save(tmp_path / "b.tif")
    with pytest.raises(ValueError, match=r"found .*b\.tif: its pixels are of 32 bits"):
        encoded(tmp_path / "b.tif")
