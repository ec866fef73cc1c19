import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.stats

from nst_jax import color, examples

# RGB -> YIQ of the FCC, from I = 0.74 (R - Y) - 0.27 (B - Y) and Q = 0.48 (R - Y) + 0.41 (B - Y),
# https://www.law.cornell.edu/cfr/text/47/73.682
Y = np.array([0.299, 0.587, 0.114])
RED, BLUE = np.eye(3)[[0, 2]]
YIQ = np.stack([Y, 0.74 * (RED - Y) - 0.27 * (BLUE - Y), 0.48 * (RED - Y) + 0.41 * (BLUE - Y)])
GREY_LEVEL = 1 / 255


def yiq(image):
    return np.asarray(image, np.float64) @ YIQ.T


def noise(height, width, seed=0):
    return np.random.default_rng(seed).uniform(size=(height, width, 3)).astype(np.float32)


def muted(height, width, seed=0):
    """Correlated colours about a mean, well inside the gamut."""
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    mix = np.array([0.16, 0.08, 0.03])[:, None] * turn
    mean = rng.uniform(0.4, 0.6, size=3)
    return (mean + rng.uniform(-1, 1, size=(height, width, 3)) @ mix).astype(np.float32)


def flat(colour, height=5, width=7):
    return np.broadcast_to(np.asarray(colour, np.float32), (height, width, 3)).copy()


def moments(image):
    """Mean and covariance of the pixels' colours, in float64."""
    pixels = np.asarray(image, np.float64).reshape(-1, 3)
    return pixels.mean(0), np.cov(pixels.T, bias=True)


def mapped(image, matrix, offset):
    return np.asarray(image, np.float64) @ np.asarray(matrix).T + np.asarray(offset)


@functools.cache
def drawn(name):
    """A picture that several tests look at."""
    return examples.by_name[name]((40, 50))


def named(name):
    return drawn(name) if name in examples.by_name else PICTURES[name]


PICTURES = {
    "noise": noise(20, 30),
    "black": flat(0),
    "white": flat(1),
    "grey": flat(0.3),
    "red": flat([1, 0, 0]),
    "one pixel": flat([0.2, 0.9, 0.4], 1, 1),
}
NAMES = [*PICTURES, "butterfly"]


@pytest.mark.parametrize("name", NAMES)
def test_luminance_is_the_y_of_yiq(name):
    picture = named(name)
    got = color.luminance(picture)
    assert got.shape == (*picture.shape[:-1], 1) and got.dtype == jnp.float32
    np.testing.assert_allclose(got, yiq(picture)[..., :1], atol=2e-7)
    assert got.min() >= 0 and got.max() <= 1


@pytest.mark.parametrize("name", NAMES)
def test_grey_has_the_luminance_and_no_chroma(name):
    picture = named(name)
    got = color.grey(picture)
    assert got.shape == picture.shape
    np.testing.assert_array_equal(color.luminance(got), color.luminance(picture))
    np.testing.assert_allclose(yiq(got)[..., 1:], 0, atol=1e-7)
    np.testing.assert_array_equal(color.grey(got), got)


def test_with_luminance_of_is_yiq_with_one_channel_exchanged():
    content, output = muted(30, 20, 1), muted(30, 20, 2)
    want = np.concatenate([yiq(output)[..., :1], yiq(content)[..., 1:]], -1)
    want = want @ np.linalg.inv(YIQ).T
    assert want.min() > 0 and want.max() < 1  # nothing to clamp
    np.testing.assert_allclose(color.with_luminance_of(content, output), want, atol=5e-7)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("target", ["noise", "black", "white", "red"])
def test_with_luminance_of_keeps_chroma_and_comes_as_near_as_the_gamut_lets_it(name, target):
    content = named(name)
    rows, columns = content.shape[:2]
    output = noise(rows, columns, 3) if target == "noise" else flat(PICTURES[target][0, 0])
    output = np.broadcast_to(output[:1, :1] if target != "noise" else output, content.shape)
    got = color.with_luminance_of(content, output)
    assert got.min() >= 0 and got.max() <= 1
    np.testing.assert_allclose(yiq(got)[..., 1:], yiq(content)[..., 1:], atol=3e-7)
    # For given I and Q each channel is Y + constant, so 0 <= channel <= 1 bounds Y: three bounds.
    chroma = yiq(content)
    chroma[..., 0] = 0
    constant = chroma @ np.linalg.inv(YIQ).T
    nearest = np.clip(yiq(output)[..., 0], (-constant).max(-1), (1 - constant).min(-1))
    np.testing.assert_allclose(yiq(got)[..., 0], nearest, atol=5e-7)


def test_chroma_stays_within_two_grey_levels_when_both_pictures_are_rounded():
    content, output = drawn("butterfly"), drawn("rainbow")
    rounded = np.rint(np.asarray(color.with_luminance_of(content, output)) * 255) / 255
    error = np.abs(yiq(rounded) - yiq(np.rint(content * 255) / 255))[..., 1:]
    assert error.max() < 2 * GREY_LEVEL
    clipped = np.clip(content + yiq(output)[..., :1] - yiq(content)[..., :1], 0, 1)
    assert np.abs(yiq(clipped) - yiq(content))[..., 1:].max() > 20 * GREY_LEVEL


def test_with_luminance_of_itself_changes_nothing():
    content = noise(9, 8)
    np.testing.assert_array_equal(color.with_luminance_of(content, content), content)


def test_match_luminance_is_the_equation_of_the_paper():
    style, content = muted(30, 20, 1), muted(11, 12, 2)
    ours, theirs = yiq(style)[..., :1], yiq(content)[..., :1]
    want = theirs.std() / ours.std() * (ours - ours.mean()) + theirs.mean()
    got = color.match_luminance(style, content)
    assert got.shape == style.shape and got.dtype == jnp.float32
    np.testing.assert_allclose(got, np.repeat(want, 3, -1), atol=2e-6)
    np.testing.assert_allclose(np.mean(got), theirs.mean(), atol=1e-6)
    np.testing.assert_allclose(np.std(got), theirs.std(), atol=1e-6)


def test_match_luminance_of_flat_pictures():
    picture = muted(6, 5)
    want = yiq(picture)[..., 0]
    # A flat style takes the mean; a flat content leaves no contrast.
    np.testing.assert_allclose(color.match_luminance(flat(0.9), picture), want.mean(), atol=1e-5)
    got = color.match_luminance(picture, flat([0.2, 0.9, 0.4], 1, 1))
    np.testing.assert_allclose(got, Y @ [0.2, 0.9, 0.4], atol=1e-6)
    # Half a grey level of noise gets half of the contrast.
    faint = flat(0.5) + 0.5 * GREY_LEVEL * np.sign(noise(5, 7) - 0.5)[..., :1]
    got = np.asarray(color.match_luminance(faint, noise(20, 20)))
    spread = yiq(noise(20, 20))[..., 0].std()
    np.testing.assert_allclose(got.std(), faint[..., 0].std() * 255 * spread, rtol=1e-3)


def test_match_luminance_clips():
    style = flat(0.1, 10, 10)
    style[0, 0] = 1  # an outlier ten deviations from the mean
    got = color.match_luminance(style, noise(20, 20) * 0.5 + 0.5)
    assert got[0, 0].min() == 1 and got.min() >= 0


PAIRS = {
    "muted": lambda: (muted(30, 20, 1), muted(17, 40, 2)),
    "noise": lambda: (noise(30, 20, 3), muted(25, 25, 4)),
    "drawn": lambda: (drawn("rainbow"), drawn("butterfly")),
}


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_color_transfer_map_is_the_image_analogies_form(pair):
    style, content = pair()
    (from_mean, from_covariance), (to_mean, to_covariance) = moments(style), moments(content)
    want = scipy.linalg.sqrtm(to_covariance) @ np.linalg.inv(scipy.linalg.sqrtm(from_covariance))
    matrix, offset = color.color_transfer_map(style, content)
    assert matrix.shape == (3, 3) and offset.shape == (3,)
    np.testing.assert_allclose(matrix, want, atol=2e-4)
    np.testing.assert_allclose(offset, to_mean - want @ from_mean, atol=2e-4)
    # It gives mean and covariance.
    found = mapped(style, matrix, offset)
    mean, covariance = moments(found)
    np.testing.assert_allclose(mean, to_mean, atol=2e-6)
    np.testing.assert_allclose(covariance, to_covariance, atol=2e-6)
    # Of a picture it is clipped.
    got = color.match_colors(style, content)
    assert got.shape == style.shape and got.dtype == jnp.float32
    np.testing.assert_allclose(got, np.clip(found, 0, 1), atol=1e-5)  # float32 eigenvectors


@pytest.mark.parametrize(
    "match", [color.match_colors, color.match_luminance, color.match_histograms]
)
def test_only_what_a_mask_covers_counts_in_the_statistics(match):
    style, content = muted(30, 20, 1), muted(17, 40, 2)
    whole = np.concatenate([style, flat(1, 30, 9)], axis=1)
    mask = np.zeros((30, 29), np.float32)
    mask[:, :20] = 1
    got = match(whole, content, mask=mask)
    np.testing.assert_allclose(got[:, :20], match(style, content), atol=2e-5)
    assert np.abs(match(whole, content)[:, :20] - got[:, :20]).max() > 0.03
    # A position that counts half counts as half of two equal ones.
    double = np.concatenate([style, style], axis=1)
    got = match(double, content, mask=np.full((30, 40), 0.5, np.float32))
    np.testing.assert_allclose(got[:, :20], match(style, content), atol=2e-5)


def test_match_colors_to_the_same_colours_changes_nothing():
    style = noise(30, 20)
    np.testing.assert_allclose(color.match_colors(style, style), style, atol=1e-5)
    turned = style[::-1, ::-1].swapaxes(0, 1)  # the same colours elsewhere
    np.testing.assert_allclose(color.match_colors(style, turned), style, atol=1e-5)


@pytest.mark.parametrize("name", ["black", "white", "grey", "red", "one pixel"])
def test_match_colors_of_a_flat_picture(name):
    content = muted(9, 9)
    got = color.match_colors(PICTURES[name], content)
    want = flat(moments(content)[0], *PICTURES[name].shape[:2])
    np.testing.assert_allclose(got, want, atol=1e-5)  # float32 eigenvectors
    back = color.match_colors(content, PICTURES[name])
    np.testing.assert_allclose(back, flat(PICTURES[name][0, 0], 9, 9), atol=2e-6)


def test_match_colors_of_a_grey_picture_gives_the_colours_of_one_line():
    style, content = np.repeat(noise(30, 20)[..., :1] * 0.2 + 0.4, 3, -1), muted(20, 20)
    matrix, offset = color.color_transfer_map(style, content)
    mean, covariance = moments(mapped(style, matrix, offset))
    np.testing.assert_allclose(mean, moments(content)[0], atol=2e-6)
    # A Σ½ A' for the one direction (1, 1, 1) / √3 that a grey picture has
    diagonal = scipy.linalg.sqrtm(moments(content)[1]) @ np.ones(3) / np.sqrt(3)
    np.testing.assert_allclose(covariance, np.outer(diagonal, diagonal), atol=2e-6)


def test_a_color_direction_within_a_grey_level_is_not_blown_up():
    rng = np.random.default_rng(5)
    line = np.repeat(rng.uniform(size=(40, 40, 1)), 3, -1)
    faint = 0.2 * GREY_LEVEL * rng.normal(size=(40, 40, 3))
    style = np.clip(line + faint, 0, 1).astype(np.float32)
    matrix, _ = color.color_transfer_map(style, noise(40, 40, 6))
    largest = np.sqrt(np.linalg.eigvalsh(moments(noise(40, 40, 6))[1])[-1])
    assert np.linalg.norm(matrix, 2) <= 255 * largest * 1.001


HISTOGRAMS = [("noise", "butterfly"), ("butterfly", "noise"), ("noise", "red"), ("grey", "noise")]


@pytest.mark.parametrize(("image", "reference"), HISTOGRAMS)
def test_match_histograms_takes_the_values_of_the_same_rank(image, reference):
    """By SciPy's ranks and NumPy's quantiles, in float64."""
    image, reference = named(image), named(reference)
    found = color.match_histograms(image, reference)
    for channel in range(3):
        values = np.asarray(image[..., channel], np.float64)
        share = (scipy.stats.rankdata(values.ravel()) - 0.5) / values.size
        wanted = np.quantile(np.float64(reference[..., channel]), share, method="hazen")
        np.testing.assert_allclose(np.ravel(found[..., channel]), wanted, atol=2e-6)


CALLS = [
    color.with_luminance_of,
    color.match_luminance,
    color.match_colors,
    color.color_transfer_map,
    color.match_histograms,
    lambda style, content: (color.luminance(style), color.grey(content)),
]


@pytest.mark.slow
@pytest.mark.parametrize("call", CALLS)
def test_a_batch_under_jit_and_under_vmap_is_one_at_a_time(call):
    styles = np.stack([muted(8, 9, seed) for seed in range(3)])
    contents = np.stack([noise(8, 9, seed) for seed in range(3)])
    each = [call(*pair) for pair in zip(styles, contents, strict=True)]
    want = jax.tree.map(lambda *leaves: np.stack(leaves), *each)
    for batched in (jax.jit(call), jax.jit(jax.vmap(call))):
        jax.tree.map(
            lambda got, wanted: np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=2e-5),
            batched(styles, contents),
            want,
        )
    shared = jax.jit(jax.vmap(call, in_axes=(0, None)))(styles, contents[0])
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a[0], b, rtol=1e-5, atol=2e-5), shared, each[0]
    )


def numeric_gradient(function, at, direction, step=1e-2):
    return (function(at + step * direction) - function(at - step * direction)) / (2 * step)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: (color.with_luminance_of(muted(4, 5, 1), x) ** 2).sum(),
        lambda x: (color.match_luminance(x, muted(6, 5, 2)) ** 3).sum(),
        lambda x: (color.match_colors(x, muted(6, 5, 2)) ** 3).sum(),
    ],
)
def test_gradients(function):
    function = jax.jit(function)
    at, direction = muted(4, 5, 3), np.random.default_rng(7).normal(size=(4, 5, 3)) * 0.03
    direction = direction.astype(np.float32)
    got = np.vdot(jax.grad(function)(at), direction)
    assert abs(got) > 1e-4
    np.testing.assert_allclose(got, numeric_gradient(function, at, direction), rtol=0.02, atol=1e-3)


def test_with_luminance_of_has_no_gradient_past_the_gamut():
    grad = jax.grad(lambda x: color.with_luminance_of(flat([1, 0, 0.5]), x).sum())
    np.testing.assert_array_equal(grad(flat(0.5)), 0)


@pytest.mark.parametrize(
    ("call", "error", "line"),
    [
        (
            lambda: color.luminance(np.zeros((4, 4), np.float32)),
            ValueError,
            r"image must have shape \[\.\.\., H, W, 3\], got \[4, 4\]",
        ),
        (
            lambda: color.grey(np.zeros((4, 4, 3), np.uint8)),
            TypeError,
            r"image must be floating point in \[0, 1\], got uint8",
        ),
        (
            lambda: color.match_colors(noise(4, 4), np.zeros((0, 4, 3))),
            ValueError,
            r"content must not be empty, got shape \[0, 4, 3\]",
        ),
        (
            lambda: color.match_luminance(np.zeros((4, 4, 4)), noise(4, 4)),
            ValueError,
            r"style must have shape \[\.\.\., H, W, 3\], got \[4, 4, 4\]",
        ),
        (
            lambda: color.color_transfer_map(noise(4, 4)[None], noise(5, 4)),
            ValueError,
            r"style and content must have the same leading axes, "
            r"got shapes \[1, 4, 4, 3\] and \[5, 4, 3\]",
        ),
        (
            lambda: color.with_luminance_of(noise(4, 4), noise(5, 4)),
            ValueError,
            r"content and output must have the same shape, got \[4, 4, 3\] and \[5, 4, 3\]",
        ),
    ],
)
def test_bad_arguments(call, error, line):
    with pytest.raises(error, match=line):
        call()
