"""HEIC files, as phones write them."""

import sys

import numpy as np
import pillow_heif
import pytest
from PIL import Image

from nst_jax.cli.main import BAD_INPUT
from nst_jax.files import images
from nst_jax.files.images import ImageError, read_image, read_shape, read_with_alpha, suffixes


@pytest.fixture
def levels(rng):
    return rng.integers(0, 256, (40, 64, 3), np.uint8)


@pytest.fixture
def not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    images.reads_heif.cache_clear()
    yield
    images.reads_heif.cache_clear()


def save(path, levels, *, exif=None):
    picture = pillow_heif.from_pillow(Image.fromarray(levels))
    picture.info["exif"] = exif
    picture.save(path, quality=-1, chroma=444, matrix_coefficients=0)  # lossless
    return path


def test_colours_and_alpha(tmp_path, levels, rng):
    path = save(tmp_path / "a.HEIC", levels)
    image, alpha = read_with_alpha(path)
    assert alpha is None and ".heic" in suffixes() and read_shape(path) == (40, 64)
    np.testing.assert_allclose(image, levels / 255, atol=1e-6)
    opaque = rng.integers(0, 256, (40, 64, 1), np.uint8)
    path = save(tmp_path / "b.heic", np.concatenate([levels, opaque], -1))
    found = read_with_alpha(path)[1]
    assert found is not None
    np.testing.assert_allclose(found, opaque[..., 0] / 255, atol=1e-6)


@pytest.mark.parametrize("orientation", [1, 6, 8])
def test_a_phone_held_upright(tmp_path, levels, orientation):
    """The file turns the picture itself, and says so in EXIF too: it is turned once."""
    exif = Image.Exif()
    exif[274] = orientation
    path = tmp_path / "a.heic"
    save(path, levels, exif=exif.tobytes())
    assert (b"irot" in path.read_bytes()) == (orientation != 1)
    turns = {1: 0, 6: -1, 8: 1}[orientation]
    assert read_shape(path) == np.rot90(levels, turns).shape[:2]
    np.testing.assert_allclose(read_image(path), np.rot90(levels, turns) / 255, atol=1e-6)


def test_the_package_is_named_where_it_is_missing(run, tmp_path, levels, not_installed):
    path = save(tmp_path / "a.heic", levels)
    line = f"{path}: a HEIC picture needs pillow-heif: pip install pillow-heif"
    for read in (read_image, read_shape):
        with pytest.raises(ImageError) as caught:
            read(path)
        assert str(caught.value) == line
    other = path.rename(tmp_path / "a.jpg")  # as some phones and messengers call it
    code, err = run(f"--content={other}", f"--styles={other}")
    assert code == BAD_INPUT and err == f"nst-jax: {line.replace('a.heic', 'a.jpg')}\n"


@pytest.mark.parametrize(
    ("head", "is_heif"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", True),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", True),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1avif", False),
        (b"\0\0\0\x18ftypavif\0\0\0\0mif1heic", False),
        (b"\0\0\0\x14ftypisom\0\0\0\0mp41", False),
        (b"\x89PNG\r\n\x1a\n", False),
    ],
)
def test_what_is_heif(head, is_heif):
    assert images._is_heif(head) == is_heif


def test_a_cut_file_is_one_line(tmp_path, levels):
    path = save(tmp_path / "a.heic", levels)
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(ImageError, match="a.heic: ") as caught:
        read_image(path)
    assert "\n" not in str(caught.value)
