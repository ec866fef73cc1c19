import jax
import numpy as np
import oracle
import pytest

from nst_jax import losses


def features(rng, *shape):
    return rng.normal(size=shape).astype(np.float32)


CASES = {
    "gram_matrix": (lambda f: losses.gram_matrix(f), lambda f: oracle.gram(f), ((5, 7, 4),)),
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


@pytest.mark.parametrize("name", [name for name in CASES if name != "gram_matrix"])
def test_gradient_equals_finite_differences_in_float64(name, rng):
    function, expected, shapes = CASES[name]
    arguments = [features(rng, *shape) for shape in shapes]
    gradient = np.asarray(jax.grad(function)(*arguments), np.float64)
    first, *rest = (argument.astype(np.float64) for argument in arguments)
    direction = rng.normal(size=first.shape)
    step = 1e-6
    slope = (expected(first + step * direction, *rest)) - expected(first - step * direction, *rest)
    np.testing.assert_allclose((gradient * direction).sum(), slope / (2 * step), rtol=1e-4)


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
