import functools
import re

import jax
import numpy as np
import oracle
import pytest

from nst_jax import losses


def features(rng, *shape):
    return rng.normal(size=shape).astype(np.float32)


def wasserstein(x, y, **options):
    return losses.wasserstein_loss(losses.statistics(x), losses.statistics(y), **options)


# Compiled once for each shape, and then shared by the tests.
wasserstein_and_gradients = jax.jit(
    jax.value_and_grad(wasserstein, argnums=(0, 1)), static_argnames="epsilon"
)


CASES = {
    "gram_matrix": (lambda f: losses.gram_matrix(f), lambda f: oracle.gram(f), ((5, 7, 4),)),
    "weighted_gram_matrix": (
        lambda f, w: losses.gram_matrix(f, weights=w**2),
        lambda f, w: oracle.weighted_gram(f, w**2),
        ((5, 7, 4), (5, 7)),
    ),
    "wasserstein_loss": (
        lambda f, t: wasserstein(f, t),
        lambda f, t: oracle.wasserstein(f, t, 1e-4),
        ((5, 7, 4), (6, 3, 4)),
    ),
    "content_loss": (
        lambda f, t: losses.content_loss(f, t),
        lambda f, t: 0.5 * ((f - t) ** 2).sum(),
        ((5, 7, 4), (5, 7, 4)),
    ),
    "style_loss": (
        lambda g, a: losses.style_loss(g, a, normalizer=36.0, weight=0.2),
        lambda g, a: 0.2 / 36.0 * ((g - a) ** 2).sum(),
        ((6, 6), (6, 6)),
    ),
    "relative_style_loss": (
        lambda g, a: losses.relative_style_loss(g, a),
        lambda g, a: ((g - a) ** 2).sum() / (a**2).sum(),
        ((6, 6), (6, 6)),
    ),
    "total_variation": (
        lambda x: losses.total_variation(x),
        lambda x: sum(
            ((x[i + 1, j, c] - x[i, j, c]) ** 2 + (x[i, j + 1, c] - x[i, j, c]) ** 2) ** 1.25
            for i in range(x.shape[0] - 1)
            for j in range(x.shape[1] - 1)
            for c in range(3)
        ),
        ((6, 5, 3),),
    ),
    "total_variation_nine_point": (
        lambda x: losses.total_variation_nine_point(x),
        lambda x: oracle.total_variation_nine_point(x),
        ((6, 5, 3),),
    ),
    "total_variation_l1": (
        lambda x: losses.total_variation_l1(x),
        lambda x: oracle.total_variation_l1(x),
        ((6, 5, 3),),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_value_equals_numpy_in_float64_plain_jitted_and_mapped(name, rng):
    function, expected, shapes = CASES[name]
    arguments = [features(rng, *shape) for shape in shapes]
    want = expected(*(argument.astype(np.float64) for argument in arguments))
    np.testing.assert_allclose(function(*arguments), want, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(jax.jit(function)(*arguments), want, rtol=1e-5, atol=1e-5)
    stacked = [np.stack([argument, argument]) for argument in arguments]
    for row in jax.vmap(function)(*stacked):
        np.testing.assert_allclose(row, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("loss", "name", "shapes"),
    [
        (losses.content_loss, "features", ((4, 4, 8), (8,))),
        (losses.content_loss, "features", ((4, 4, 8), (1, 4, 8))),
        (functools.partial(losses.style_loss, normalizer=1.0), "gram", ((3, 4, 4), (4, 4))),
        (functools.partial(losses.style_loss, normalizer=1.0), "gram", ((4, 4), (1, 4))),
        (losses.relative_style_loss, "gram", ((4, 4), (1, 4))),
    ],
)
def test_nothing_is_broadcast_to_its_target(loss, name, shapes):
    one, other = map(np.ones, shapes)
    message = f"{name} and its target must have the same shape, got {shapes[0]} and {shapes[1]}"
    with pytest.raises(ValueError, match=re.escape(message)):
        loss(one, other)
    with pytest.raises(ValueError, match=re.escape(message)):
        jax.jit(jax.vmap(loss))(one[None], other[None])


@pytest.mark.parametrize("name", [name for name in CASES if "gram_matrix" not in name])
def test_gradient_equals_finite_differences_in_float64(name, rng):
    function, expected, shapes = CASES[name]
    arguments = [features(rng, *shape) for shape in shapes]
    gradient = np.asarray(jax.grad(function)(*arguments), np.float64)
    first, *rest = (argument.astype(np.float64) for argument in arguments)
    direction = rng.normal(size=first.shape)
    slope = oracle.slope(lambda x: expected(x, *rest), first, direction)
    np.testing.assert_allclose((gradient * direction).sum(), slope, rtol=1e-4)


@pytest.mark.parametrize("scale", [1e-12, 1e15])
def test_the_relative_style_loss_does_not_depend_on_the_scale(rng, scale):
    gram, target = features(rng, 6, 6), features(rng, 6, 6)
    wanted = losses.relative_style_loss(gram, target)
    found = losses.relative_style_loss(np.float32(scale) * gram, np.float32(scale) * target)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    assert losses.relative_style_loss(target, target) == 0
    np.testing.assert_allclose(losses.relative_style_loss(0 * target, target), 1, rtol=1e-6)
    assert np.isfinite(losses.relative_style_loss(gram, 0 * target))


def test_gram_of_a_batch_is_the_gram_of_each(rng):
    batch = features(rng, 2, 3, 4, 5, 6)
    found = losses.gram_matrix(batch)
    assert found.shape == (2, 3, 6, 6)
    np.testing.assert_allclose(found[1, 2], oracle.gram(batch[1, 2]), rtol=1e-5, atol=1e-5)


def test_half_precision_features_are_summed_in_float32():
    # 4096 positions of 8 * 8: the sum 262144 is beyond float16, and bfloat16 would stop at 16384.
    for dtype in ("float16", "bfloat16"):
        gram = losses.gram_matrix(jax.numpy.full((64, 64, 2), 8.0, dtype))
        assert gram.dtype == np.float32
        np.testing.assert_array_equal(gram, 262144.0)


def test_statistics_add_up_over_parts_and_are_means_per_position(rng):
    whole = features(rng, 8, 6, 4)
    parts = [losses.statistics(whole[:3]), losses.statistics(whole[3:])]
    added = jax.tree.map(lambda a, b: a + b, *parts)
    together = losses.statistics(whole)
    for a, b in zip(added, together, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    mean = losses.per_position(together)
    np.testing.assert_allclose(mean.total, whole.mean(axis=(0, 1)), atol=1e-6)
    np.testing.assert_allclose(mean.gram, oracle.gram(whole) / 48, atol=1e-6)
    assert mean.count == 1


def test_normalizers_are_the_published_ones():
    assert losses.gatys_normalizer(64, 12) == 4 * 64**2 * 12**2
    # size = 400 * 400 in Keras' example: 4 * 9 * size^2 is beyond int32.
    assert losses.keras_normalizer(400, 400) == 4.0 * 9 * (400 * 400) ** 2
    # One channel and position: what is left of both is the 4 of equation 4.
    assert losses.gatys_normalizer(64, 12) == 4 * losses.mean_normalizer(64, 12)


def test_mean_normalizer_gives_the_mean_squared_difference_of_grams_per_position(rng):
    first, second = features(rng, 5, 7, 4), features(rng, 5, 7, 4)
    found = losses.style_loss(
        losses.gram_matrix(first),
        losses.gram_matrix(second),
        normalizer=losses.mean_normalizer(4, 35),
    )
    expected = ((oracle.gram(first) / 35 - oracle.gram(second) / 35) ** 2).mean()
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_weights_select_positions_and_scale_them(rng):
    whole = features(rng, 6, 5, 4)
    half = np.zeros((6, 5), np.float32)
    half[:3] = 1
    # What lies outside the mask may be anything.
    disturbed = np.where(half[..., None] > 0, whole, 1e6)
    inside = losses.statistics(disturbed, weights=half)
    for found, expected in zip(inside, losses.statistics(whole[:3]), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    soft = rng.random((6, 5), np.float32)
    found = losses.statistics(whole, weights=soft)
    np.testing.assert_allclose(found.count, soft.sum(), rtol=1e-5)
    np.testing.assert_allclose(found.total, (soft[..., None] * whole).sum((0, 1)), atol=1e-5)
    np.testing.assert_allclose(found.gram, oracle.weighted_gram(whole, soft), atol=1e-5)
    # The measure of a mask doesn't matter per position.
    for a, b in zip(
        losses.per_position(found),
        losses.per_position(losses.statistics(whole, weights=10 * soft)),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_weights_of_regions_can_be_mapped(rng):
    whole, regions = features(rng, 6, 5, 4), rng.random((3, 6, 5), np.float32)
    found = jax.jit(jax.vmap(lambda w: losses.statistics(whole, weights=w)))(regions)
    np.testing.assert_allclose(found.gram[2], oracle.weighted_gram(whole, regions[2]), atol=1e-5)
    batch = losses.statistics(np.stack([whole] * 3), weights=regions)
    for a, b in zip(found, batch, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_weights_of_another_shape_are_refused(rng):
    with pytest.raises(ValueError, match=r"one value per position, shape \(6, 5\), got \(5, 6\)"):
        losses.statistics(features(rng, 6, 5, 4), weights=np.ones((5, 6), np.float32))


def test_an_empty_mask_has_zero_statistics_and_finite_gradients(rng):
    whole, other = features(rng, 6, 5, 4), losses.statistics(features(rng, 6, 5, 4))
    empty = np.zeros((6, 5), np.float32)
    means = losses.per_position(losses.statistics(whole, weights=empty))
    assert all((leaf == 0).all() for leaf in means)

    def gram_loss(f, w):
        return losses.per_position(losses.statistics(f, weights=w)).gram.sum()

    def distance(f, w):
        return losses.wasserstein_loss(losses.statistics(f, weights=w), other)

    for function in (gram_loss, distance):
        value, gradients = jax.value_and_grad(function, argnums=(0, 1))(whole, empty)
        assert np.isfinite(value)
        assert all(np.isfinite(gradient).all() for gradient in gradients)
        np.testing.assert_array_equal(gradients[0], 0)


def test_mean_and_covariance_are_those_of_the_positions(rng):
    x = features(rng, 3, 6, 5, 4) + 2
    mean, covariance = jax.jit(losses.mean_and_covariance)(losses.statistics(x))
    assert mean.shape == (3, 4) and covariance.shape == (3, 4, 4)
    flat = x[1].reshape(-1, 4).astype(np.float64)
    np.testing.assert_allclose(mean[1], flat.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(covariance[1], np.cov(flat.T, bias=True), atol=1e-5)


def activations(rng, height, width, channels, *, decay=0.5, scale=1.0, dead=0):
    """Correlated channels after ReLU; the spectrum falls as i^-2decay, `dead` channels are zero."""
    basis = np.linalg.qr(rng.normal(size=(channels, channels)))[0]
    spectrum = np.arange(1.0, channels + 1) ** -decay
    x = np.maximum((rng.normal(size=(height, width, channels)) * spectrum) @ basis, 0)
    x[..., :dead] = 0
    return (scale * x).astype(np.float32)


PAIRS = {
    "many positions": ({}, {"decay": 0.3}),
    "steep spectra": ({"decay": 1.0}, {"decay": 1.5}),
    "fewer positions than channels": ({"side": 6}, {"side": 5}),
    "one position": ({"side": 1}, {}),
    "dead channels": ({"dead": 64}, {}),
    "dead channels of both": ({"dead": 64}, {"dead": 32}),
    "large": ({"scale": 1e4}, {"scale": 1e4}),
    "small": ({"scale": 1e-2}, {"scale": 1e-2}),
    "small against large": ({"scale": 1e-2}, {"scale": 1e4}),
    "large against small": ({"scale": 1e4}, {"scale": 1e-2}),
    "large against zero": ({"scale": 1e4}, {"scale": 0.0}),
}


@pytest.mark.parametrize("epsilon", [1e-3, 1e-4, 1e-5])
@pytest.mark.parametrize("name", PAIRS)
def test_wasserstein_loss_is_accurate_for_ill_conditioned_covariances(name, epsilon, rng):
    def make(side=16, **options):
        return activations(rng, side, side, 96, **options)

    own, target = (make(**options) for options in PAIRS[name])
    value, (gradient, _) = wasserstein_and_gradients(own, target, epsilon=epsilon)
    x, y = own.astype(np.float64), target.astype(np.float64)
    # Against the larger of the two mean squares, which rounding is relative to.
    scale = max((x**2).mean(), (y**2).mean())
    np.testing.assert_allclose(value, oracle.wasserstein(x, y, epsilon), rtol=0, atol=3e-6 * scale)
    assert gradient.shape == own.shape
    # Along the gradient itself, where the slope is its norm, and along a random direction.
    gradient = np.asarray(gradient, np.float64)
    norm = np.linalg.norm(gradient)
    random = rng.normal(size=x.shape)
    for direction in (gradient / norm, random / np.linalg.norm(random)):
        slope = oracle.slope(
            lambda x: oracle.wasserstein(x, y, epsilon),
            x,
            direction,
            step=1e-4 * np.abs(x).max(),
        )
        np.testing.assert_allclose((gradient * direction).sum(), slope, rtol=0, atol=1e-3 * norm)


def test_wasserstein_loss_of_equal_statistics_is_flat_and_zero(rng):
    for x in (activations(rng, 8, 8, 96), activations(rng, 16, 16, 32, dead=8, scale=1e4)):
        value, gradients = wasserstein_and_gradients(x, x)
        other = activations(rng, *x.shape, scale=np.abs(x).max())
        usual, usual_gradients = wasserstein_and_gradients(x, other)
        assert abs(value) < 1e-5 * usual
        for gradient, usual_gradient in zip(gradients, usual_gradients, strict=True):
            assert np.linalg.norm(gradient) < 1e-4 * np.linalg.norm(usual_gradient)


def test_wasserstein_loss_is_finite_for_constant_and_zero_features(rng):
    zero, random = np.zeros((4, 4, 8), np.float32), features(rng, 4, 4, 8)
    pairs = [(zero, zero), (zero, random), (random, zero), (zero + 3, zero + 3), (zero + 3, zero)]
    for own, target in pairs:
        value, gradients = wasserstein_and_gradients(own, target)
        assert np.isfinite(value)
        assert all(np.isfinite(gradient).all() for gradient in gradients)
    # Two points: the squared distance of the means, 3^2 in each channel.
    np.testing.assert_allclose(wasserstein_and_gradients(zero + 3, zero)[0], 9, rtol=1e-4)


def test_wasserstein_loss_scales_with_the_square_of_the_features(rng):
    own, target = features(rng, 8, 8, 16), features(rng, 8, 8, 16)
    base, _ = wasserstein_and_gradients(own, target)
    for factor in (2.0**-30, 2.0**30):
        found, _ = wasserstein_and_gradients(factor * own, factor * target)
        np.testing.assert_allclose(found, factor**2 * base, rtol=1e-4)


def test_wasserstein_loss_depends_on_the_target_as_on_the_picture(rng):
    own, target = features(rng, 8, 8, 16), features(rng, 6, 8, 16)
    value, (_, by_target) = wasserstein_and_gradients(own, target)
    swapped, (by_own, _) = wasserstein_and_gradients(target, own)
    np.testing.assert_allclose(value, swapped, rtol=1e-5)
    np.testing.assert_allclose(by_target, by_own, rtol=1e-4, atol=1e-7)


def test_wasserstein_gradient_can_be_mapped(rng):
    own = np.stack([activations(rng, 6, 6, 48), activations(rng, 6, 6, 48, scale=10)])
    target = np.stack([activations(rng, 6, 6, 48), activations(rng, 6, 6, 48)])
    mapped = jax.jit(jax.vmap(jax.grad(wasserstein)))(own, target)
    for row in range(2):
        _, (expected, _) = wasserstein_and_gradients(own[row], target[row])
        atol = 1e-4 * float(abs(expected).max())
        np.testing.assert_allclose(mapped[row], expected, rtol=0, atol=atol)


def test_optimal_transport_takes_one_covariance_to_the_other(rng):
    x, y = (activations(rng, 16, 16, 32).reshape(-1, 32) for _ in range(2))
    a, b = (np.cov(value.T).astype(np.float32) + 0.01 * np.eye(32, dtype="f") for value in (x, y))
    transport, inverse = losses.optimal_transport(a, b, lowest=1e-4)
    np.testing.assert_allclose(transport @ a @ transport, b, atol=1e-5)
    np.testing.assert_allclose(transport @ inverse, np.eye(32), atol=1e-5)
    np.testing.assert_array_equal(transport, transport.T)


def test_total_variations_of_a_ramp_are_known():
    ramp = np.broadcast_to(np.arange(8.0, dtype=np.float32)[None, :, None], (5, 8, 3))
    # dx = 1, dy = 0.
    np.testing.assert_allclose(losses.total_variation_l1(ramp), 0.5)
    # 7 of 8 columns differ by 1 from the next, and 7 of 9 columns of each diagonal.
    np.testing.assert_allclose(
        losses.total_variation_nine_point(ramp), 2 * (7 / 8 / 3 + 2 * 7 / 9 / 12), rtol=3e-6
    )
    for function in (losses.total_variation_l1, losses.total_variation_nine_point):
        flat = np.full((4, 4, 3), 0.5, np.float32)
        assert function(flat) == 0
        assert np.isfinite(jax.grad(function)(flat)).all()


def test_total_variations_of_a_tile_continue_by_its_other_side(rng):
    image = features(rng, 5, 7, 3)
    exact = image.astype(np.float64)

    def to(rows, columns):
        """The difference to the pixel that lies `rows` below and `columns` to the right."""
        return np.roll(exact, (-rows, -columns), (0, 1)) - exact

    wanted = {
        losses.total_variation: ((to(0, 1) ** 2 + to(1, 0) ** 2) ** 1.25).sum(),
        losses.total_variation_l1: 0.5 * (np.abs(to(0, 1)).mean() + np.abs(to(1, 0)).mean()),
        losses.total_variation_nine_point: 2 / 3 * (to(0, 1) ** 2 + to(1, 0) ** 2).mean()
        + 1 / 6 * (to(1, 1) ** 2 + to(1, -1) ** 2).mean(),
    }
    for function, value in wanted.items():
        wrapping = functools.partial(function, wraps=True)
        np.testing.assert_allclose(wrapping(image), value, rtol=1e-5)
        gradient = jax.grad(wrapping)(image)
        moved = np.roll(image, (2, 3), (0, 1))
        np.testing.assert_allclose(
            jax.grad(wrapping)(moved), np.roll(gradient, (2, 3), (0, 1)), atol=1e-6
        )


def test_total_variation_of_lengths_has_a_gradient_where_a_picture_is_flat(rng):
    image = np.zeros((8, 6, 3), np.float32)
    image[4:] = features(rng, 4, 6, 3)
    variation = functools.partial(losses.total_variation, exponent=0.5)
    value, gradient = jax.value_and_grad(variation)(image)
    exact = image.astype(np.float64)
    dy, dx = exact[1:, :-1] - exact[:-1, :-1], exact[:-1, 1:] - exact[:-1, :-1]
    np.testing.assert_allclose(value, np.hypot(dy, dx).sum(), rtol=1e-5)
    np.testing.assert_array_equal(gradient[:3], 0)
    # Each pixel is in three terms: its own, the left one's and the upper one's.
    own, slopes = np.zeros_like(exact), (dy, dx)
    dy, dx = (np.divide(d, np.hypot(*slopes), out=0 * d, where=d != 0) for d in slopes)
    own[:-1, :-1] -= dy + dx
    own[1:, :-1] += dy
    own[:-1, 1:] += dx
    np.testing.assert_allclose(gradient, own, rtol=1e-4, atol=1e-5)


def test_gram_matrix_differentiates_both_ways(rng):
    """Against the product rule in NumPy float64; its rule of its own makes one product of two."""
    features, tangent = (rng.standard_normal((2, 3, 4, 5)).astype(np.float32) for _ in range(2))
    cotangent = rng.standard_normal((2, 5, 5)).astype(np.float32)  # not symmetric
    flat, moved = (x.reshape(2, 12, 5).astype(np.float64) for x in (features, tangent))
    _, forwards = jax.jvp(losses.gram_matrix, (features,), (tangent,))
    expected = moved.mT @ flat + flat.mT @ moved
    np.testing.assert_allclose(forwards, expected, rtol=1e-5, atol=1e-5)
    (backwards,) = jax.vjp(losses.gram_matrix, features)[1](cotangent)
    expected = flat @ (cotangent + cotangent.mT)
    np.testing.assert_allclose(backwards.reshape(2, 12, 5), expected, rtol=1e-5, atol=1e-5)

    def value(features):
        return (losses.gram_matrix(features) * cotangent).sum()

    _, second = jax.jvp(jax.grad(value), (features,), (tangent,))
    expected = moved @ (cotangent + cotangent.mT)
    np.testing.assert_allclose(second.reshape(2, 12, 5), expected, rtol=1e-5, atol=1e-5)
