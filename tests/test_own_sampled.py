"""A user's term that draws positions: relaxed earth mover's distance between samples."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import own
import pytest

import nst_jax
from nst_jax import terms
from nst_jax.optimizers import LBFGS
from nst_jax.settings import number, option, settings, weighted
from nst_jax.terms import IMAGE


@settings
class Sampled(terms.Term):
    """Nicholas Kolkin, Jason Salavon, Gregory Shakhnarovich: "Style Transfer by Relaxed Optimal
    Transport and Self-Similarity", CVPR 2019, https://arxiv.org/abs/1904.12785, equation 5, between
    hypercolumns at positions drawn at each step. The sample is a sum, so windows add up to it."""

    name: str = option("remd")
    weight: Any = number(1.0)
    layers: Any = weighted(("block1_conv1", "block2_conv1"))
    count: int = option(64)
    refers = "style"
    fixed = False

    def sums(self, layer, x, weights, target, at):
        step = {"block1_conv1": 1, "block2_conv1": 2}[layer]
        sides = jnp.array(at.shape) // step
        drawn = jnp.floor(jax.random.uniform(at.key, (self.count, 2)) * sides[None]).astype(int)
        place = drawn - at.origin[layer][None]
        here = jnp.array(x.shape[:2])[None]
        inside = jnp.all((place >= 0) & (place < here), axis=-1)
        row, column = jnp.clip(place, 0, here - 1).T
        inside = inside * (1.0 if weights is None else weights[row, column])
        return inside[:, None] * x[row, column]

    def loss(self, sums, target, at):
        def unit(tree):
            joined = jnp.concatenate([tree[layer] for layer in self.layers], axis=-1)
            return joined / jnp.linalg.norm(joined, axis=-1, keepdims=True)

        distance = 1 - unit(sums) @ unit(target).T
        return {IMAGE: jnp.maximum(distance.min(0).mean(), distance.min(1).mean())}


CONFIG = own.ALONE.replace(terms=(Sampled(weight=100.0),))


@pytest.mark.slow
def test_every_way_draws_the_same(vgg16, rng, monkeypatch):
    image, content, style = own.pictures(rng, (37, 53), (37, 53), (30, 41))
    targets = nst_jax.compute_targets(vgg16, content, [style], CONFIG)
    arguments = (vgg16, image, content, [style], CONFIG)
    values = []
    for key in map(jax.random.key, (3, 4)):
        wanted = own.value_and_grad(image, vgg16, targets, CONFIG, key)
        own.assert_same(own.in_windows(*arguments, key=key), wanted)
        values.append(wanted[0][0])
    assert values[0] != values[1]
    own.assert_same(own.in_scan(monkeypatch, *arguments, key=key), wanted)
    own.assert_same(own.in_strips(*arguments, key=key), wanted)


@pytest.mark.slow
def test_it_paints(vgg16, rng):
    content, style = own.pictures(rng, (40, 48), (30, 41))
    own.assert_paints_alike(vgg16, content, [style], CONFIG)


def test_what_it_cannot_do_is_refused_by_name(vgg16, rng):
    content, *styles = own.pictures(rng, (40, 48), (30, 41), (30, 41))
    masks = np.ones((2, 40, 48), np.float32)
    with pytest.raises(ValueError, match="masks must go with terms that have regions; 'remd' has"):
        nst_jax.stylize(vgg16, content, styles, CONFIG, combine=nst_jax.Combine(masks=masks))
    for changes in ({}, {"linesearch": True}):
        with pytest.raises(
            ValueError, match="LBFGS needs a loss that stays the same; 'remd' draws"
        ):
            nst_jax.stylize(vgg16, content, styles, CONFIG.replace(optimizer=LBFGS(**changes)))
