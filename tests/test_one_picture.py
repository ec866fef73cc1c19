"""The default paints one picture, whatever it is painted on and beside.

Rounding differs between meshes, tiles and batches, and each step magnifies the difference: a step
of fixed length, however small the gradient, follows its small parts as well as its large ones. So
pictures are held to a grey level over 20 steps, and losses over whole runs; see "One picture from
one command" in docs/presets.md.
"""

import basic
import jax.numpy as jnp
import numpy as np
import pytest

import nst_jax
from nst_jax import image, sharding

CONFIG = nst_jax.presets["default"].replace(
    size=None, first_size=None, first_steps=None, **basic.THREE_BLOCKS
)


def patches(rng, number, height, width):
    """Pictures of patches of 8 px."""
    coarse = jnp.asarray(rng.random((number, height // 8, width // 8, 3), np.float32))
    return [np.asarray(image.resize(x, height, width)) for x in coarse]


def levels_apart(one, other):
    return 255 * np.abs(np.asarray(one) - np.asarray(other)).mean(axis=(-3, -2, -1))


def plain(params, content, styles, config, **options):
    found = nst_jax.stylize(params, content, styles, config, **options)
    return np.asarray(found.images), found.loss


def on_a_mesh(*arguments):
    mesh = sharding.make_mesh(2, sizes=sharding.parse_mesh("style:2,space:2"))
    return plain(*arguments, placement=nst_jax.Placement(mesh=mesh))


def saving(*arguments):
    return plain(*arguments, placement=nst_jax.Placement(remat=True))


def in_tiles(*arguments):
    return plain(*arguments, placement=nst_jax.Placement(tile=64))


def beside_another(params, content, styles, config):
    contents = [content, content[::-1], content, content[::-1]]
    pairs = [styles[0], styles[1], styles[1], styles[0]]
    combine = nst_jax.Combine(paired=True)
    images, losses = plain(params, contents, pairs, config, combine=combine)
    return images[[0, 2]], losses[[0, 2]]


def check(params, content, styles, config, ways):
    """The losses of each way, and its pictures over 20 steps, are those of one device."""
    images, losses = plain(params, content, styles, config)
    assert np.all(levels_apart(images, content) > 5)
    for way in ways:
        found, found_losses = way(params, content, styles, config)
        np.testing.assert_allclose(found_losses, losses, rtol=0.02, err_msg=way.__name__)
        if config.steps <= 20:
            assert np.all(levels_apart(found, images) <= 1), way.__name__


@pytest.mark.slow
def test_a_run_is_that_of_one_device(vgg16, rng):
    (content,), styles = patches(rng, 1, 32, 32), patches(rng, 2, 32, 32)
    ways = (on_a_mesh, beside_another, saving)
    check(vgg16, content, styles, CONFIG.replace(steps=20), ways)
    check(vgg16, content, styles, CONFIG.replace(steps=40), (on_a_mesh,))


@pytest.mark.slow
def test_a_run_in_tiles_is_that_of_one_device(vgg16, rng):
    """Of a picture of two windows."""
    (content,), styles = patches(rng, 1, 96, 16), patches(rng, 2, 48, 48)
    check(vgg16, content, styles, CONFIG.replace(steps=20), (in_tiles,))


@pytest.mark.slow
def test_equal_contents_in_one_batch_end_equal(vgg16, rng):
    content, other, style = patches(rng, 3, 64, 64)
    images, _ = plain(
        vgg16,
        [content, other, content, other],
        [style] * 4,
        CONFIG.replace(steps=10),
        combine=nst_jax.Combine(paired=True),
    )
    assert np.all(levels_apart(images[:2], np.stack([content, other])) > 5)
    assert 255 * np.abs(images[0] - images[2]).max() <= 1
    assert 255 * np.abs(images[1] - images[3]).max() <= 1
