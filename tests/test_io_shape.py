"""The shape of a picture from its header, and resizing on the host."""

import numpy as np
import pytest
from PIL import Image, ImageFile

from nst_jax import image
from nst_jax.files.images import ImageError, read_image, read_shape, resize, suffixes


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
@pytest.mark.parametrize("orientation", [None, *range(1, 9)])
def test_is_that_of_the_picture_whatever_its_orientation(tmp_path, rng, suffix, orientation):
    path = tmp_path / f"a{suffix}"
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    Image.fromarray(rng.integers(0, 256, (40, 60, 3), np.uint8)).save(path, exif=exif)
    turned = orientation is not None and orientation > 4
    assert read_shape(path) == read_image(path).shape[:2]
    assert read_shape(path) == ((60, 40) if turned else (40, 60))


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".tif"])
def test_a_turned_picture_is_not_decoded(tmp_path, rng, suffix, monkeypatch):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / f"a{suffix}"
    Image.fromarray(rng.integers(0, 256, (40, 60, 3), np.uint8)).save(path, exif=exif)
    path.write_bytes(path.read_bytes()[: -1000 if suffix == ".jpg" else None])

    def load(*_):
        raise AssertionError("decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    assert read_shape(path) == (60, 40)


def test_a_header_is_enough_but_has_to_be_there(tmp_path, rng):
    path = tmp_path / "a.jpg"
    Image.fromarray(rng.integers(0, 256, (40, 60, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:-1000])
    assert read_shape(path) == (40, 60)
    with pytest.raises(ImageError, match="cannot be read"):
        read_image(path)
    for text, message in (("", "the file is empty"), ("text", "not an image in a known format")):
        path.write_text(text)
        with pytest.raises(ImageError, match=message):
            read_shape(path)
    Image.fromarray(np.zeros((31, 60, 3), np.uint8)).save(path)
    assert read_shape(path) == (31, 60)
    with pytest.raises(ImageError, match="missing.png"):
        read_shape(tmp_path / "missing.png")


def test_damaged_exif_is_told_in_a_line_that_names_the_file(tmp_path, recwarn, caplog):
    path = tmp_path / "a.jpg"
    damaged = b"Exif\0\0II*\0\x08\0\0\0\x02\0\x12\x01"
    Image.new("RGB", (60, 40)).save(path, exif=damaged)
    for read, shape in ((read_shape, (40, 60)), (lambda p: read_image(p).shape, (40, 60, 3))):
        caplog.clear()
        assert read(path) == shape
        (message,) = caplog.messages
        assert message.startswith(f"{path}: Corrupt EXIF data. ") and "\n" not in message
    assert not recwarn.list


def test_suffixes_are_of_formats_that_are_read():
    assert {".png", ".jpg", ".jpeg", ".webp", ".tif", ".gif", ".bmp", ".ppm"} <= suffixes()
    assert suffixes().isdisjoint({".txt", ".pdf", ".eps", ".json", ".mp4"})


@pytest.mark.parametrize("shape", [(36, 48), (20, 120), (50, 70)])
def test_resizing_on_the_host_is_what_the_device_does(rng, shape):
    picture = rng.random((50, 70, 3)).astype(np.float32)
    found = resize(picture, *shape)
    assert found.shape == (*shape, 3) and found.dtype == np.float32
    np.testing.assert_allclose(found, image.resize(picture, *shape), atol=1e-5)
