"""The built-in example pictures: pure functions of size and seed, and one picture a seed."""

import functools
import inspect

import numpy as np
import pytest

from nst_jax import canvas, examples, paintings

NAMES = sorted(examples.by_name)
PAINTINGS = sorted(paintings.__all__)


@functools.cache
def drawn(name, size, seed=0):
    """A picture that several tests look at."""
    picture = examples.by_name[name](size, seed=seed)
    picture.flags.writeable = False
    return picture


def psnr(a, b):
    """Peak signal-to-noise ratio in dB, for values in [0, 1]."""
    return -10 * np.log10(np.mean(np.square(a.astype(np.float64) - b)))


def halved(image):
    height, width, channels = image.shape
    return image.reshape(height // 2, 2, width // 2, 2, channels).mean(axis=(1, 3))


def test_by_name():
    assert sorted([*PAINTINGS, "butterfly", "rainbow", "triangles"]) == NAMES
    assert sorted(set(examples.__all__) - {"by_name", "Film", "butterfly_film"}) == NAMES
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


# Of the others, the next test shows as soon whether a seed gives one picture.
QUICK = ("butterfly", "brush_strokes", "woodcut")


@pytest.mark.parametrize(
    "name",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in NAMES],
)
def test_same_seed_same_picture(name):
    """Both sides are odd, and the picture is not square."""
    draw = examples.by_name[name]
    first = draw((35, 51))
    assert first.shape == (35, 51, 3) and first.dtype == np.float32
    assert first.min() >= 0 and first.max() <= 1 and np.ptp(first) > 0.6
    np.testing.assert_array_equal(draw((np.int64(35), 51), seed=np.int64(0)), first)
    assert psnr(draw((35, 51), seed=1), first) < 25


@pytest.mark.parametrize("name", NAMES)
def test_same_picture_at_any_size(name):
    large, small = drawn(name, 128), drawn(name, 64)
    assert psnr(halved(large), small) > 38
    # The measure tells pictures apart.
    assert psnr(np.roll(halved(large), 1, axis=1), small) < 26


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_same_picture_at_a_large_size(name):
    """Other samples lie under the pixels of 512, so hard edges differ a little."""
    large, middle = drawn(name, 512), drawn(name, 256)
    assert psnr(halved(large), middle) > 34
    assert psnr(halved(middle), drawn(name, 128)) > 38
    assert psnr(np.roll(halved(large), 2, axis=1), middle) < 26


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_longer_canvas_shows_more_of_the_same(name):
    draw = examples.by_name[name]
    square = draw(96)
    assert psnr(draw((96, 160))[:, 32:128], square) > 38
    assert psnr(draw((160, 96))[32:128], square) > 38


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_strips_leave_no_trace(name, monkeypatch):
    whole = drawn(name, 128)
    monkeypatch.setattr(canvas, "STRIP", canvas.STRIP // 50)
    # Rounding may differ: rainbow leaves out whirls that do not touch a strip.
    assert np.abs(examples.by_name[name](128) - whole).mean() < 1e-3


@pytest.mark.slow
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


def statistics(name, size=128):
    """Mean of the picture, of its saturation and of its gradient, and its share of few colours."""
    image = drawn(name, size)
    slopes = np.gradient(image.mean(axis=-1))
    # The share of the eight most frequent of 512 colours.
    colours = np.minimum(image * 8, 7).astype(int) @ [1, 8, 64]
    counts = np.sort(np.bincount(colours.ravel()))[::-1]
    return {
        "mean": image.mean(),
        "saturation": np.ptp(image, axis=-1).mean(),
        "gradient": np.hypot(*slopes).mean(),
        "flatness": counts[:8].sum() / counts.sum(),
    }


def test_brush_strokes_turn_every_way_under_a_blue_sky():
    image = drawn("brush_strokes", 128)
    down, right = np.gradient(image.mean(axis=-1))
    turn = np.arctan2(down, right) % np.pi
    share = np.histogram(turn, 8, (0, np.pi), weights=np.hypot(down, right))[0]
    assert share.min() / share.sum() > 0.09  # 1/8 for strokes that turn every way alike
    sky, field = image[:40].mean(axis=(0, 1)), image[-25:].mean(axis=(0, 1))
    assert sky[2] > sky[0] + 0.15 and field[0] > field[2] + 0.25
    saturation = {name: statistics(name)["saturation"] for name in PAINTINGS}
    assert max(saturation, key=saturation.get) == "brush_strokes"


def test_hatching_is_dense_lines_of_ink_on_warm_paper():
    def crossings(name):
        """How often neighbours lie on two sides of the mean of their surroundings."""
        grey = drawn(name, 128).mean(axis=-1)
        apart = grey - sum(np.roll(grey, k, axis=1) for k in range(-4, 5)) / 9
        return np.mean(np.diff(np.sign(apart), axis=1) != 0)

    saturation = {name: statistics(name)["saturation"] for name in PAINTINGS}
    assert min(saturation, key=saturation.get) == "hatching"
    lines = {name: crossings(name) for name in PAINTINGS}
    assert max(lines, key=lines.get) == "hatching"
    red, green, blue = np.quantile(drawn("hatching", 128), 0.9, axis=(0, 1))
    assert red > green > blue > 0.7


def test_mosaic_has_courses_of_one_width():
    """Down a column of pixels there are 2 / 0.03 = 67 courses."""

    def peak(name):
        grey = drawn(name, 192).mean(axis=-1)
        power = np.square(np.abs(np.fft.fft(grey - grey.mean(axis=0), axis=0))).mean(axis=1)
        return power[63:72].mean() / power[48:57].mean()

    assert peak("mosaic") > 0.9
    assert peak("woodcut") < 0.8  # power falls with frequency where nothing repeats


def test_stained_glass_has_dark_leads_in_twelve_sectors():
    def symmetry(name):
        """How far dark pixels stay dark in a quarter turn."""
        dark = drawn(name, 128).max(axis=-1) < 0.25
        return np.corrcoef(dark.ravel(), np.rot90(dark).ravel())[0, 1]

    assert (drawn("stained_glass", 128).max(axis=-1) < 0.25).mean() > 0.15
    assert symmetry("stained_glass") > 0.25
    assert symmetry("brush_strokes") < 0.1
    brightness = {name: statistics(name)["mean"] for name in PAINTINGS}
    assert min(brightness, key=brightness.get) == "stained_glass"


def test_watercolour_is_the_softest():
    softness = {name: statistics(name)["gradient"] for name in PAINTINGS}
    assert min(softness, key=softness.get) == "watercolour"


def test_woodcut_has_few_inks():
    flatness = {name: statistics(name)["flatness"] for name in PAINTINGS}
    assert flatness["woodcut"] > 0.55 and flatness["hatching"] > 0.55  # ink and paper
    assert max(flatness[name] for name in set(PAINTINGS) - {"woodcut", "hatching"}) < 0.45


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
