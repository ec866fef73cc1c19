"""The built-in example pictures: pure functions of size and seed, and one picture a seed."""

import inspect

import numpy as np
import pytest

from nst_jax import examples

NAMES = sorted(examples.by_name)


def psnr(a, b):
    """Peak signal-to-noise ratio in dB, for values in [0, 1]."""
    return -10 * np.log10(np.mean(np.square(a.astype(np.float64) - b)))


def halved(image):
    height, width, channels = image.shape
    return image.reshape(height // 2, 2, width // 2, 2, channels).mean(axis=(1, 3))


def test_by_name():
    assert NAMES == ["butterfly", "rainbow", "triangles"]
    for name, draw in examples.by_name.items():
        assert draw is getattr(examples, name)
        assert inspect.signature(draw).parameters["seed"].kind is inspect.Parameter.KEYWORD_ONLY


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size, shape", [(32, (32, 32)), (97, (97, 97)), ((40, 64), (40, 64))])
def test_shape_dtype_range(name, size, shape):
    image = examples.by_name[name](size)
    assert image.shape == (*shape, 3)
    assert image.dtype == np.float32
    assert image.min() >= 0 and image.max() <= 1
    assert image.max() - image.min() > 0.6


@pytest.mark.parametrize("name", NAMES)
def test_same_seed_same_picture(name):
    draw = examples.by_name[name]
    first = draw(64)
    np.testing.assert_array_equal(draw(np.int64(64), seed=np.int64(0)), first)
    assert psnr(draw(64, seed=1), first) < 25


@pytest.mark.parametrize("name", NAMES)
def test_same_picture_at_any_size(name):
    draw = examples.by_name[name]
    large, middle, small = draw(256), draw(128), draw(64)
    assert psnr(halved(large), middle) > 38
    assert psnr(halved(middle), small) > 38
    # The measure tells pictures apart.
    assert psnr(np.roll(halved(large), 2, axis=1), middle) < 26


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_longer_canvas_shows_more_of_the_same(name):
    draw = examples.by_name[name]
    square = draw(96)
    assert psnr(draw((96, 160))[:, 32:128], square) > 38
    assert psnr(draw((160, 96))[32:128], square) > 38


def test_triangles_are_flat_and_their_edges_antialiased():
    """Seen at three times its size, the picture is hard-edged: few colours, all of them flat.

    The mean of 3 x 3 hard samples is what antialiasing is; taking one of them is not.
    """
    large = examples.triangles(768)
    hard = large[1::3, 1::3]
    smooth = examples.triangles(256)

    def colours(image):
        return len(np.unique(np.rint(image * 255).astype(int).reshape(-1, 3), axis=0))

    averaged = large.reshape(256, 3, 256, 3, 3).mean(axis=(1, 3))
    assert psnr(smooth, averaged) > 35
    assert psnr(smooth, hard) < 30
    assert colours(smooth) > 2 * colours(hard)
    # Most of the mosaic is flat: a pixel equals its neighbour to the right.
    assert np.mean((large[:, 1:] == large[:, :-1]).all(axis=-1)) > 0.7


def test_butterfly_is_orange_and_black_on_a_green_meadow():
    image = examples.butterfly(256)
    red, green, blue = np.moveaxis(image, -1, 0)
    orange = (red > 0.7) & (green > 0.2) & (green < 0.75) & (blue < 0.35)
    black = image.max(axis=-1) < 0.2
    # Both wings: each half of the picture holds a good part of either colour.
    for half in (np.s_[:, :128], np.s_[:, 128:]):
        assert orange[half].mean() > 0.08
        assert black[half].mean() > 0.03
    corner = image[:64, :32].mean(axis=(0, 1))
    assert corner[1] > corner[0]


def test_rainbow_has_every_hue():
    image = examples.rainbow(128)
    red, green, blue = np.moveaxis(image.astype(np.float64), -1, 0)
    hue = np.arctan2(np.sqrt(3) * (green - blue), 2 * red - green - blue) % (2 * np.pi)
    vivid = np.ptp(image, axis=-1) > 0.25
    share = np.histogram(hue[vivid], bins=6, range=(0, 2 * np.pi))[0] / vivid.sum()
    assert vivid.mean() > 0.9
    assert share.min() > 0.04


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [31, 0, -5, (64, 31), (8, 64)])
def test_too_small(name, size):
    side = min(size) if isinstance(size, tuple) else size
    with pytest.raises(ValueError, match=f"size must be at least 32, got {side}"):
        examples.by_name[name](size)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [64.0, "64", None, (64,), (64, 64, 3), (64, 64.0), [64, 64]])
def test_size_of_another_kind(name, size):
    with pytest.raises(TypeError, match="size must be a whole number"):
        examples.by_name[name](size)


@pytest.mark.parametrize("name", NAMES)
def test_bad_seed(name):
    with pytest.raises(TypeError, match="seed must be a whole number, got 0.5"):
        examples.by_name[name](64, seed=0.5)
    with pytest.raises(ValueError, match="seed must be at least 0, got -1"):
        examples.by_name[name](64, seed=-1)
