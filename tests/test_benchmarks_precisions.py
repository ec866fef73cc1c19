"""The emulation of a GPU's and a TPU's products, against NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import own
import pytest

import nst_jax
from benchmarks import precisions


def truncated(x, bits):
    """Rounding to nearest, ties to even, by the bits of a float32: NumPy's integers."""
    whole = np.asarray(x, np.float32).view(np.uint32).astype(np.uint64)
    dropped = 23 - bits
    half = (1 << (dropped - 1)) - 1 + (whole >> dropped & 1)
    return ((whole + half) >> dropped << dropped).astype(np.uint32).view(np.float32)


@pytest.mark.parametrize("bits", [7, 10])
def test_rounding(rng, bits):
    x = rng.normal(size=1000).astype(np.float32) * 1e3
    np.testing.assert_array_equal(precisions.rounded(jnp.asarray(x), bits), truncated(x, bits))
    if bits == 7:
        np.testing.assert_array_equal(truncated(x, 7), jnp.asarray(x, jnp.bfloat16))


def convolved(x, kernel):
    """A convolution of 3x3 with zeros beyond the border, in float64."""
    height, width, _ = x.shape
    x = np.pad(np.asarray(x, np.float64), ((1, 1), (1, 1), (0, 0)))
    return sum(
        x[i : i + height, j : j + width] @ np.asarray(kernel[i, j], np.float64)
        for i in range(3)
        for j in range(3)
    )


@pytest.mark.parametrize(("bits", "passes"), [(10, 1), (7, 1), (7, 3)])
def test_products_and_their_gradient_round_their_operands(rng, bits, passes):
    x, kernel, slope = (
        rng.normal(size=shape).astype(np.float32) for shape in ((6, 5, 4), (3, 3, 4, 2), (6, 5, 2))
    )
    product = precisions.one_pass if passes == 1 else precisions.three_passes
    convolve = precisions.convolution(functools.partial(product, bits=bits))

    def call(x):
        numbers = jax.lax.conv_dimension_numbers(
            (1, 6, 5, 4), kernel.shape, ("NHWC", "HWIO", "NHWC")
        )
        return convolve(x[None], jnp.asarray(kernel), (1, 1), "SAME", dimension_numbers=numbers)[0]

    def expected(a, b):
        high = [truncated(each, bits) for each in (a, b)]
        low = [truncated(each - own, bits) for each, own in zip((a, b), high, strict=True)]
        found = convolved(*high)
        return (
            found
            if passes == 1
            else found + convolved(high[0], low[1]) + convolved(low[0], high[1])
        )

    found, pull_back = jax.vjp(call, jnp.asarray(x))
    np.testing.assert_allclose(found, expected(x, kernel), rtol=1e-5, atol=1e-5)
    turned = kernel[::-1, ::-1].swapaxes(2, 3)  # the gradient is a convolution with this kernel
    np.testing.assert_allclose(pull_back(slope)[0], expected(slope, turned), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_each_rung_is_further_from_the_highest(vgg19, rng):
    content, style = own.pictures(rng, (32, 40), (32, 40))
    errors = [precisions.feature_error(vgg19, content, rung) for rung in precisions.RUNGS]
    assert errors[0] == 0 and errors == sorted(errors)
    assert errors[1] < 1e-4 < errors[2] < 2e-3 < errors[3]  # 16, 10 and 7 bits, 13 layers deep
    config = nst_jax.presets["default"].replace(
        size=None,
        first_size=None,
        first_steps=None,
        steps=2,
        content_layers=("block1_conv2",),
        style_layers=("block1_conv1",),
        nearest=None,
    )
    pictures, figures = precisions.compare(vgg19, content, style, config)
    assert list(pictures) == [*precisions.RUNGS, "nudged"]
    assert figures["highest"]["levels"] == 0 and figures["highest"]["loss_ratio"] == 1
    found = precisions.summary([{"rungs": figures}])
    assert 0 < found["high on a TPU: 3 passes"]["levels"] < found["bfloat16 storage"]["levels"]
