"""TIFFs whose samples Pillow does not know: floating-point colour, and integers of 32 bits."""

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from nst_jax.files.images import ImageError, read_image, read_shape, read_with_alpha

HEIGHT, WIDTH = 36, 44


def rgb(rng, channels=3, dtype=np.float32):
    values = rng.random((HEIGHT, WIDTH, channels))
    return (values * np.iinfo(dtype).max if np.dtype(dtype).kind == "u" else values).astype(dtype)


def save(path, samples, **options):
    tifffile.imwrite(path, samples, photometric="rgb", **options)
    return path


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.uint32])
@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_colour_of_many_bits(tmp_path, rng, dtype, byteorder):
    samples = rgb(rng, dtype=dtype)
    path = save(tmp_path / "a.tif", samples, byteorder=byteorder, compression="adobe_deflate")
    top = np.iinfo(dtype).max if dtype is np.uint32 else 1
    image, alpha = read_with_alpha(path)
    assert image.dtype == np.float32 and alpha is None
    np.testing.assert_allclose(image, samples / np.float64(top), atol=1e-7)
    assert read_shape(path) == (HEIGHT, WIDTH)


def test_planes_and_big_tiff(tmp_path, rng):
    samples = rgb(rng)
    planes = np.moveaxis(samples, -1, 0)
    save(tmp_path / "a.tif", planes, planarconfig="separate", bigtiff=True)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), samples)
    assert read_shape(tmp_path / "a.tif") == (HEIGHT, WIDTH)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_grey(tmp_path, rng, dtype):
    samples = rgb(rng, dtype=dtype)[..., 0]
    tifffile.imwrite(tmp_path / "a.tif", samples, photometric="minisblack")
    np.testing.assert_allclose(
        read_image(tmp_path / "a.tif"), np.repeat(samples[..., None], 3, -1), atol=1e-7
    )


@pytest.mark.parametrize("kind", ["unassalpha", "assocalpha"])
def test_alpha(tmp_path, rng, kind):
    samples = rgb(rng, 4)
    colour, alpha = samples[..., :3], samples[..., 3:]
    stored = np.concatenate([colour * alpha, alpha], -1) if kind == "assocalpha" else samples
    image, found = read_with_alpha(save(tmp_path / "a.tif", stored, extrasamples=[kind]))
    np.testing.assert_allclose(image, colour * alpha + 1 - alpha, atol=1e-6)
    np.testing.assert_array_equal(found, alpha[..., 0])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(tmp_path, rng, orientation):
    """As Pillow turns it."""
    samples = rgb(rng)
    path = save(tmp_path / "a.tif", samples, extratags=[(274, 3, 1, orientation, True)])
    channels = []
    for channel in np.moveaxis(samples, -1, 0):
        picture = Image.fromarray(channel)
        picture.getexif()[274] = orientation
        channels.append(np.asarray(ImageOps.exif_transpose(picture)))
    want = np.stack(channels, -1)
    np.testing.assert_array_equal(read_image(path), want)
    assert read_shape(path) == want.shape[:2]


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.full((40, 40, 3), 1.5, np.float32), "wanted values in [0, 1], got values from 1.5 to"),
        (np.full((40, 40, 3), np.nan, np.float32), "wanted values in [0, 1], got values from nan"),
        (np.zeros((40, 40, 3), np.int32), "of floating point or unsigned integers, got RGB of int"),
    ],
)
def test_what_is_no_picture_is_one_line(tmp_path, samples, message):
    path = save(tmp_path / "a.tif", samples)
    with pytest.raises(ImageError) as caught:
        read_image(path)
    assert str(caught.value).startswith(f"{path}: cannot be read: ")
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_limits_and_damage(tmp_path, rng):
    path = save(tmp_path / "a.tif", rgb(rng))
    for read in (read_image, read_shape):
        with pytest.raises(ImageError, match="has more than max_pixels = 1,000 pixels"):
            read(path, max_pixels=1000)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ImageError, match="a.tif: cannot be read: "):
        read_image(path)


def test_a_colour_profile_is_not_silently_ignored(tmp_path, rng, caplog):
    path = save(tmp_path / "a.tif", rgb(rng), iccprofile=b"profile")
    read_image(path)
    assert caplog.messages == [f"{path}: the colour profile of a deep TIFF is ignored"]
