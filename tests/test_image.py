import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from nst_jax import image


def picture(height, width, seed=0):
    return np.random.default_rng(seed).uniform(size=(height, width, 3)).astype(np.float32)


def pillow_resize(array, height, width, method=Image.Resampling.BICUBIC):
    """Pillow's resize in float, channel by channel, clipped."""
    channels = [
        Image.fromarray(np.ascontiguousarray(array[..., c])).resize((width, height), method)
        for c in range(3)
    ]
    return np.clip(np.stack([np.asarray(c) for c in channels], -1), 0, 1)


# (height, width) -> (height, width): shrink, enlarge, each side its own way, to one pixel
RESIZES = [
    ((48, 64), (24, 32)),
    ((48, 64), (17, 29)),
    ((48, 64), (90, 131)),
    ((48, 64), (96, 20)),
    ((33, 40), (1, 1)),
    ((1, 40), (7, 13)),
]


@pytest.mark.parametrize(
    ("height", "width", "size", "want"),
    [
        (480, 640, 256, (192, 256)),
        (640, 480, 256, (256, 192)),
        (100, 100, 7, (7, 7)),
        (300, 400, 800, (600, 800)),
        (3, 4, 2, (2, 2)),  # 1.5 rounds up
        (5, 4, 2, (2, 2)),  # 1.6
        (1, 4, 2, (1, 2)),  # 0.5 rounds up
        (1, 5000, 256, (1, 256)),  # never 0
        (123, 77, 123, (123, 77)),
    ],
)
def test_fit_size(height, width, size, want):
    assert image.fit_size(height, width, size) == want


def test_fit_size_keeps_the_aspect_to_half_a_pixel():
    rng = np.random.default_rng(1)
    for height, width, size in rng.integers(1, 5000, size=(300, 3)):
        h, w = image.fit_size(height, width, size)
        scale = size / max(height, width)
        assert type(h) is int and max(h, w) == size
        assert abs(h - height * scale) <= 0.5 or h == 1
        assert abs(w - width * scale) <= 0.5 or w == 1


@pytest.mark.parametrize(
    ("height", "width", "rows", "want"),
    [
        (480, 640, 400, (400, 533)),  # 533.3
        (640, 480, 400, (400, 300)),
        (4, 3, 2, (2, 2)),  # 1.5 rounds up
        (4, 5, 2, (2, 3)),  # 2.5 rounds up
        (5000, 1, 256, (256, 1)),  # never 0
        (123, 77, 123, (123, 77)),
        (3, 10**9, 10**9, (10**9, 333333333333333333)),  # exact where a double is not
    ],
)
def test_fit_height(height, width, rows, want):
    assert image.fit_height(height, width, rows) == want


@pytest.mark.parametrize(("old", "new"), RESIZES)
def test_resize_is_pillows_bicubic(old, new):
    array = picture(*old)
    got = image.resize(array, *new)
    assert got.shape == (*new, 3) and got.dtype == jnp.float32
    np.testing.assert_allclose(got, pillow_resize(array, *new), atol=1e-5)


@pytest.mark.parametrize(("old", "new"), RESIZES)
def test_resize_is_near_pillows_lanczos_on_a_smooth_picture(old, new):
    y, x, phase = np.ogrid[0 : 1 : old[0] * 1j, 0 : 1 : old[1] * 1j, 0:3]
    array = (0.5 + 0.4 * np.sin(3 * x + 2 * y + phase)).astype(np.float32)
    want = pillow_resize(array, *new, Image.Resampling.LANCZOS)
    np.testing.assert_allclose(image.resize(array, *new), want, atol=0.01)


def test_resize_of_a_batch_under_jit_and_under_vmap():
    batch = np.stack([picture(24, 30, seed) for seed in range(3)])
    want = np.stack([image.resize(one, 11, 40) for one in batch])
    jitted = jax.jit(image.resize, static_argnums=(1, 2))
    mapped = jax.vmap(lambda one: image.resize(one, 11, 40))
    for got in (image.resize(batch, 11, 40), jitted(batch, 11, 40), mapped(batch)):
        np.testing.assert_allclose(got, want, atol=1e-6)


def test_resize_clips_the_overshoot_of_an_edge():
    edge = np.zeros((16, 16, 3), np.float32)
    edge[:, 8:] = 1
    raw = jax.image.resize(edge, (40, 40, 3), "cubic")
    assert raw.min() < -0.05 and raw.max() > 1.05
    got = image.resize(edge, 40, 40)
    assert got.min() == 0 and got.max() == 1


def test_resize_antialiases():
    """A one-pixel checkerboard shrinks to even grey, not to a moiré."""
    board = np.indices((64, 64)).sum(0) % 2
    board = np.repeat(board[..., None], 3, -1).astype(np.float32)
    np.testing.assert_allclose(image.resize(board, 16, 16)[2:-2, 2:-2], 0.5, atol=1e-3)


def test_resize_to_the_same_size_changes_nothing():
    array = picture(9, 8) * 3 - 1  # out of range on purpose: not even clipped
    np.testing.assert_array_equal(image.resize(array, 9, 8), array)


def test_a_resized_tile_continues_by_its_other_side(rng):
    tile = rng.uniform(0, 1, (6, 10, 3)).astype(np.float32)
    wide = image.resize(np.tile(tile, (5, 5, 1)), 60, 75)
    np.testing.assert_allclose(
        image.resize(tile, 12, 15, wraps=True), wide[24:36, 30:45], atol=1e-6
    )
    assert np.abs(image.resize(tile, 12, 15) - wide[24:36, 30:45]).max() > 0.01


def test_resize_has_a_gradient():
    array = picture(8, 8) * 0.5 + 0.25  # away from the clip
    total = jax.grad(lambda x: image.resize(x, 16, 16).mean())(jnp.asarray(array)).sum()
    np.testing.assert_allclose(total, 1, atol=1e-5)


# (height, width) -> (height, width), the size that covers it, (top, left) of the cut
COVERS = [
    ((48, 64), (24, 20), (24, 32), (0, 6)),  # too wide
    ((48, 64), (20, 40), (30, 40), (5, 0)),  # too high
    ((48, 64), (24, 32), (24, 32), (0, 0)),  # the same aspect
    ((48, 64), (48, 61), (48, 64), (0, 1)),  # of an odd number the end loses one more
    ((10, 30), (25, 40), (25, 75), (0, 17)),  # enlarged
    ((10, 9), (7, 7), (8, 7), (0, 0)),  # 7.8 rounds to 8
    ((1, 1), (3, 5), (5, 5), (1, 0)),
    ((33, 40), (1, 1), (1, 1), (0, 0)),
]


@pytest.mark.parametrize(("old", "new", "full", "corner"), COVERS)
def test_cover_cuts_the_middle_out_of_the_resized_picture(old, new, full, corner):
    array = picture(*old)
    top, left = corner
    want = pillow_resize(array, *full)[top : top + new[0], left : left + new[1]]
    got = image.cover(array, *new)
    assert got.shape == (*new, 3) and got.dtype == jnp.float32
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_cover_keeps_the_aspect():
    """A slope of 1 in each direction, in units of the longer side, keeps its proportions."""
    y, x = np.mgrid[0:40, 0:60] / 60
    slopes = np.stack([y, x, 0 * x], -1).astype(np.float32)
    down, across, _ = image.cover(slopes, 30, 20)[5:-5, 5:-5].transpose(2, 0, 1)
    # 40 rows become 30, and so 60 columns 45, but for the ripple of the cubic filter.
    np.testing.assert_allclose(np.diff(down, axis=0), 1 / 45, atol=1e-3)
    np.testing.assert_allclose(np.diff(across, axis=1), 1 / 45, atol=1e-3)
    np.testing.assert_allclose(down.mean(), y.mean(), atol=1e-4)
    # Of 25 columns too many, 12 go on the left.
    np.testing.assert_allclose(across.mean(), x.mean() - 0.5 / 45, atol=1e-4)


def test_cover_of_a_batch_under_jit_and_under_vmap():
    batch = np.stack([picture(24, 30, seed) for seed in range(3)])
    want = np.stack([image.cover(one, 11, 40) for one in batch])
    jitted = jax.jit(image.cover, static_argnums=(1, 2))
    mapped = jax.vmap(lambda one: image.cover(one, 11, 40))
    for got in (image.cover(batch, 11, 40), jitted(batch, 11, 40), mapped(batch)):
        np.testing.assert_allclose(got, want, atol=1e-6)


def test_noise():
    a = image.noise(jax.random.key(0), 60, 80)
    assert a.shape == (60, 80, 3) and a.dtype == jnp.float32
    assert a.min() >= 0 and a.max() <= 1
    # mean and deviation of a uniform variable; 14400 draws, about 4 standard errors
    np.testing.assert_allclose(a.mean((0, 1)), 0.5, atol=0.017)
    np.testing.assert_allclose(a.std(), 1 / math.sqrt(12), atol=0.01)
    np.testing.assert_array_equal(a, image.noise(jax.random.key(0), 60, 80))
    assert (a != image.noise(jax.random.key(1), 60, 80)).mean() > 0.99


@pytest.mark.parametrize(
    ("size", "first", "factor", "want"),
    [
        (512, 128, math.sqrt(2), (128, 181, 256, 362, 512)),
        (512, 128, 2, (128, 256, 512)),
        (500, 128, 2, (128, 253, 500)),  # 128 * sqrt(500 / 128)
        (1000, 128, 2, (128, 254, 504, 1000)),
        (181, 128, 2, (181,)),  # nearer to one scale than to two: sqrt(2) * 128 is 181.02
        (182, 128, 2, (128, 182)),
        (384, 128, 2, (128, 222, 384)),  # sqrt(3) twice
        (100, 200, 2, (100,)),
        (64, 64, 2, (64,)),
        (4, 1, 1.1, (1, 2, 3, 4)),  # rounding to one size twice gives it once
        (1, 1, 2, (1,)),
    ],
)
def test_pyramid_sizes(size, first, factor, want):
    assert image.pyramid_sizes(size, first=first, factor=factor) == want


def test_pyramids_start_alike_and_grow_by_equal_factors():
    for size in range(182, 2000, 17):
        sizes = image.pyramid_sizes(size, first=128)
        assert (sizes[0], sizes[-1]) == (128, size)
        factors = np.divide(sizes[1:], sizes[:-1])
        assert math.sqrt(2) - 0.01 < factors.min() and factors.max() < 2 * math.sqrt(2)
        np.testing.assert_allclose(factors, factors.mean(), rtol=0.01)  # of rounding to pixels


@pytest.mark.parametrize(
    ("call", "error", "line"),
    [
        (lambda: image.fit_size(0, 4, 2), ValueError, "height must be at least 1, got 0"),
        (lambda: image.fit_size(4, -1, 2), ValueError, "width must be at least 1, got -1"),
        (lambda: image.fit_size(4, 4, 2.5), TypeError, "size must be a whole number, got 2.5"),
        (lambda: image.resize(picture(4, 4), 0, 4), ValueError, "height must be at least 1"),
        (
            lambda: image.resize(picture(4, 4), 4, "4"),
            TypeError,
            "width must be a whole number",
        ),
        (
            lambda: image.resize(np.zeros((4, 4)), 2, 2),
            ValueError,
            r"image must have shape \[\.\.\., H, W, 3\], got \[4, 4\]",
        ),
        (lambda: image.resize(np.zeros((4, 4, 4)), 2, 2), ValueError, r"got \[4, 4, 4\]"),
        (
            lambda: image.resize(np.zeros((0, 4, 3)), 2, 2),
            ValueError,
            r"image must not be empty, got shape \[0, 4, 3\]",
        ),
        (
            lambda: image.resize(np.zeros((4, 4, 3), np.uint8), 2, 2),
            TypeError,
            r"image must be floating point in \[0, 1\], got uint8",
        ),
        (lambda: image.fit_height(4, 4, 0), ValueError, "rows must be at least 1, got 0"),
        (lambda: image.fit_height(4.0, 4, 1), TypeError, "height must be a whole number"),
        (lambda: image.cover(picture(4, 4), 4, 0), ValueError, "width must be at least 1, got 0"),
        (lambda: image.cover(np.zeros((4, 4)), 2, 2), ValueError, "image must have shape"),
        (lambda: image.noise(jax.random.key(0), 4, 0), ValueError, "width must be at least 1"),
        (lambda: image.pyramid_sizes(0, first=1), ValueError, "size must be at least 1"),
        (lambda: image.pyramid_sizes(9, first=0), ValueError, "first must be at least 1"),
        (
            lambda: image.pyramid_sizes(9, first=1, factor=1.0),
            ValueError,
            "factor must be finite and greater than 1, got 1.0",
        ),
        (
            lambda: image.pyramid_sizes(9, first=1, factor=math.nan),
            ValueError,
            "factor must be finite and greater than 1, got nan",
        ),
    ],
)
def test_bad_arguments(call, error, line):
    with pytest.raises(error, match=line):
        call()
