"""Networks and losses in float64, for checks of gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import own
import pytest

import nst_jax
from nst_jax import objective

# Without nearest neighbours: their gradient leaves out the mean on purpose.
CONFIG = nst_jax.presets["default"].replace(
    dtype="float64",
    size=None,
    first_size=None,
    first_steps=None,
    steps=2,
    nearest=None,
    content_layers=("block2_conv1",),
    style_layers=("block1_conv1", "block2_conv1"),
)


@pytest.fixture
def wide(vgg16):
    """The parameters in float64, where 64-bit numbers are enabled."""
    with jax.enable_x64(True):
        yield jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), vgg16)


def test_features_are_float64(wide, vgg16, rng):
    image = rng.random((8, 9, 3))
    found = nst_jax.features(wide, image, layers=("block1_conv1",), dtype="float64")["block1_conv1"]
    assert found.dtype == np.float64
    # Keras' correlation with zeros beyond the border, in NumPy.
    x = np.pad(255 * image[..., ::-1] - [103.939, 116.779, 123.68], ((1, 1), (1, 1), (0, 0)))
    kernel, bias = (np.asarray(vgg16["block1_conv1"][name], float) for name in ("kernel", "bias"))
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(0, 1))
    wanted = np.maximum(np.einsum("hwcij,ijcd->hwd", windows, kernel) + bias, 0)
    np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-10)


def test_the_gradient_of_the_default_is_that_of_differences(wide, rng):
    """To five digits, where float32 has two: few units are so near to a kink."""
    image, content, style = (
        picture.astype(float) for picture in own.pictures(rng, *[(24, 20)] * 3)
    )
    targets = nst_jax.compute_targets(wide, content, [style], CONFIG)
    assert {leaf.dtype for leaf in jax.tree.leaves(targets.terms)} == {np.dtype(np.float64)}

    @jax.jit
    def value(image):
        return objective.objective_value(image, wide, targets, CONFIG)[0]

    slope = np.asarray(jax.grad(value)(image))
    assert slope.dtype == np.float64
    direction = rng.standard_normal(image.shape)
    step = 3e-8 * direction
    difference = (value(image + step) - value(image - step)) / 6e-8
    np.testing.assert_allclose((slope * direction).sum(), difference, rtol=1e-5)


def test_a_run_keeps_its_picture_in_float32(wide, rng):
    content, style = own.pictures(rng, (24, 20), (24, 20))
    result = nst_jax.stylize(wide, content, [style], CONFIG)
    assert result.images.dtype == np.float32
    assert result.history["total"][1] < result.history["total"][0]


def test_without_64_bit_numbers_it_is_refused(vgg16):
    image = np.zeros((8, 8, 3), np.float32)
    with pytest.raises(ValueError, match="dtype float64 needs 64-bit numbers"):
        nst_jax.features(vgg16, image, layers=("block1_conv1",), dtype="float64")
