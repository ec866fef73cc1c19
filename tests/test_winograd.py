"""Winograd's algorithm against direct convolution in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nst_jax import vgg, winograd


def direct(x, kernel):
    """Correlation with zeros beyond the border, by its definition, in float64."""
    height, width = x.shape[:2]
    padded = np.pad(np.float64(x), ((1, 1), (1, 1), (0, 0)))
    return sum(
        padded[i : i + height, j : j + width] @ np.float64(kernel[i, j])
        for i in range(3)
        for j in range(3)
    )


def draw(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_the_transforms_are_those_of_the_paper():
    # Lavin and Gray 2016, section 4.3, F(4x4, 3x3).
    a, g, b = winograd.transforms()
    assert a.tolist() == [
        [1, 1, 1, 1, 1, 0],
        [0, 1, -1, 2, -2, 0],
        [0, 1, 1, 4, 4, 0],
        [0, 1, -1, 8, -8, 1],
    ]
    assert b.tolist() == [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ]
    np.testing.assert_allclose(
        24 * g,
        [[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]],
        rtol=1e-15,
    )


def test_four_outputs_of_one_dimension_are_exact():
    a, g, b = winograd.transforms()
    taps, inputs = draw(0, 3).astype(np.float64), draw(1, 6).astype(np.float64)
    np.testing.assert_allclose(
        a @ ((g @ taps) * (b @ inputs)), np.correlate(inputs, taps), rtol=1e-13
    )


@pytest.mark.parametrize("height, width", [(8, 12), (9, 7), (4, 5), (1, 1), (2, 23), (16, 3)])
def test_convolution_of_every_remainder(height, width):
    x, kernel = draw(0, height, width, 5), draw(1, 3, 3, 5, 7)
    found = jax.jit(winograd.convolve)(x, winograd.prepare(kernel))
    expected = direct(x, kernel)
    np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize("height, width", [(8, 12), (9, 7), (1, 2)])
def test_gradient_is_that_of_the_direct_convolution(height, width):
    x, kernel, cotangent = draw(0, height, width, 5), draw(1, 3, 3, 5, 7), draw(2, height, width, 7)
    prepared = winograd.prepare(kernel)

    @jax.jit
    def pulled(x):
        return jax.vjp(lambda x: winograd.convolve(x, prepared), x)[1](cotangent)[0]

    found = pulled(x)
    # The gradient of a correlation is the correlation with the kernel turned by half a turn.
    expected = direct(cotangent, kernel[::-1, ::-1].swapaxes(-1, -2))
    np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max())


def test_batches_and_vmap_are_one_by_one():
    x, prepared = draw(0, 2, 3, 9, 6, 4), winograd.prepare(draw(1, 3, 3, 4, 4))
    convolve = jax.jit(winograd.convolve)
    batched = convolve(x, prepared)
    mapped = jax.jit(jax.vmap(jax.vmap(winograd.convolve, in_axes=(0, None)), in_axes=(0, None)))
    np.testing.assert_allclose(mapped(x, prepared), batched, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(convolve(x[1, 2], prepared), batched[1, 2], atol=1e-4)


def test_hessian_vector_products_pass_through():
    x, direction, prepared = (
        draw(0, 5, 5, 3),
        draw(1, 5, 5, 3),
        winograd.prepare(draw(2, 3, 3, 3, 3)),
    )

    def value(x):
        return jnp.sum(winograd.convolve(x, prepared) ** 3)

    gradient = jax.jit(jax.grad(value))

    @jax.jit
    def product(x):
        return jax.jvp(jax.grad(value), (x,), (direction,))[1]

    step = 1e-2
    differences = (gradient(x + step * direction) - gradient(x - step * direction)) / (2 * step)
    scale = np.abs(differences).max()
    np.testing.assert_allclose(product(x), differences, atol=2e-3 * scale)


@pytest.mark.slow
@pytest.mark.parametrize("padding", ["zeros", "replicate"])
def test_features_of_prepared_parameters(vgg16, padding):
    layers = ("block1_conv2", "block2_pool", "block3_conv1")
    image = np.random.default_rng(0).random((2, 17, 19, 3)).astype(np.float32)
    expected = vgg.features(vgg16, image, layers=layers, padding=padding)
    prepared = vgg.prepare(vgg16, layers=layers)
    found = vgg.features(prepared, image, layers=layers, padding=padding)
    for layer in layers:
        scale = np.abs(expected[layer]).max()
        np.testing.assert_allclose(found[layer], expected[layer], atol=3e-5 * scale)


def test_only_what_is_asked_for_is_prepared(vgg16):
    prepared = vgg.prepare(vgg16, layers=("block2_conv1", "block1_pool"))
    assert [name for name, layer in prepared.items() if "winograd" in layer] == [
        "block1_conv2",
        "block2_conv1",
    ]
    again = vgg.prepare(prepared, layers=("block2_conv1",))
    assert jax.tree.structure(again) == jax.tree.structure(prepared)
