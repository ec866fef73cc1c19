"""A user's term that does not add up: each position against its nearest one of the style."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import own
import pytest

import nst_jax
from nst_jax import terms
from nst_jax.settings import number, option, settings, weighted


@settings
class Nearest(terms.Term):
    """Nicholas Kolkin et al.: "Neural Neighbor Style Transfer", 2022,
    https://arxiv.org/abs/2203.13215, equation 2, on a fixed number of the style's rows."""

    name: str = option("nearest")
    weight: Any = number(1.0)
    layers: Any = weighted(("block2_conv1",))
    rows: int = option(50)
    refers = "style"
    additive = False
    mix = "losses"

    def sums(self, layer, x, weights, target, at):
        return x

    def target(self, layer, measured, at):
        flat = measured.reshape(-1, measured.shape[-1])
        return flat[jnp.linspace(0, len(flat) - 1, self.rows).astype(int)]

    def loss(self, sums, target, at):
        found = {}
        for layer, weight in self.layers.items():
            x = sums[layer].reshape(-1, sums[layer].shape[-1])
            x, rows = (
                v / (jnp.linalg.norm(v, axis=-1, keepdims=True) + 1e-6) for v in (x, target[layer])
            )
            found[layer] = weight * jnp.mean(jnp.min(1 - x @ rows.T, axis=1))
        return found


CONFIG = own.ALONE.replace(terms=(Nearest(weight=1e3),))


@pytest.mark.slow
def test_strips_and_meshes_give_the_same(vgg16, rng, monkeypatch):
    image, content, style = own.pictures(rng, (37, 53), (37, 53), (30, 41))
    targets = nst_jax.compute_targets(vgg16, content, [style], CONFIG)
    wanted = own.value_and_grad(image, vgg16, targets, CONFIG)
    arguments = (vgg16, image, content, [style], CONFIG)
    own.assert_same(own.in_scan(monkeypatch, *arguments), wanted)
    own.assert_same(own.in_strips(*arguments), wanted)
    own.assert_paints_alike(vgg16, image, [style], CONFIG, tile=None)


def test_a_blend_is_one_of_losses(vgg16, rng):
    image, content, *styles = own.pictures(rng, (37, 53), (37, 53), (30, 41), (40, 33))
    image = jnp.asarray(image)
    each = [
        nst_jax.objective_value(
            image, vgg16, nst_jax.compute_targets(vgg16, content, [style], CONFIG), CONFIG
        )[0]
        for style in styles
    ]
    mixing = np.array([[0.3, 0.7]])
    targets = nst_jax.compute_targets(
        vgg16, content, styles, CONFIG, combine=nst_jax.Combine(mixing=mixing)
    )
    total, _ = nst_jax.objective_value(image, vgg16, targets, CONFIG)
    np.testing.assert_allclose(total, 0.3 * each[0] + 0.7 * each[1], rtol=1e-5)


def test_what_it_cannot_do_is_refused_by_name(vgg16, rng):
    content, style = own.pictures(rng, (40, 48), (30, 41))
    with pytest.raises(ValueError, match="'nearest' doesn't add up over parts: leave out tile"):
        nst_jax.stylize(vgg16, content, [style], CONFIG, placement=nst_jax.Placement(tile=28))
    with pytest.raises(ValueError, match="style_masks must go with terms that add up; 'nearest'"):
        nst_jax.stylize(
            *(vgg16, content, [style], CONFIG),
            combine=nst_jax.Combine(style_masks=[np.ones((30, 41), np.float32)]),
        )
