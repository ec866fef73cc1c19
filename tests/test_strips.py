"""A picture in horizontal strips, together in memory, against the whole picture."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import own
import pytest

import nst_jax
from nst_jax import objective, windows
from nst_jax.extractor import Extractor
from nst_jax.partition import Together, Windows
from nst_jax.terms import TotalVariation

CONFIG = nst_jax.Config(
    size=None,
    content_layers=("block2_conv1",),
    style_layers=("block1_conv1", "block2_conv2", "block3_conv1"),
    style_weight=1e3,
    tv_weight=1e-4,
)


@functools.partial(jax.jit, static_argnames="partition")
def everything(image, params, targets, config, *, key=None, partition=None):
    """Values and gradient of the objective, and what each layer adds."""
    options = {"partition": partition}
    value = functools.partial(objective.objective_value, key=key, **options)
    found = jax.value_and_grad(value, has_aux=True)(image, params, targets, config)
    return found, objective.layer_losses(image, params, targets, config, **options)


def differences(found, wanted):
    """The largest relative differences of values, and that of the gradients by their norm."""
    ((_, terms), slope), layers = found
    ((_, expected), gradient), each = wanted
    values = jax.tree.map(lambda a, b: abs(float(a / b - 1)), (terms, layers), (expected, each))
    slope, gradient = (np.asarray(x, np.float64) for x in (slope, gradient))
    error = np.linalg.norm(slope - gradient) / np.linalg.norm(gradient)
    return max(jax.tree.leaves(values)), float(error)


CASES = {
    "odd": (37, (2, 3), {}),
    "even": (64, (8,), {"padding": "replicate", "style_layers": ("block1_conv2", "block2_pool")}),
    "averages": (45, (3,), {"pooling": "average", "padding": "replicate", "jitter": 3}),
    "empty": (21, (8,), {"pooling": "l2", "style_loss": "wasserstein", "masks": True}),
    "normalized": (51, (2,), {"normalize_features": True, "style_layers": ("block4_conv1",)}),
}


@pytest.mark.parametrize(("height", "counts", "changes"), CASES.values(), ids=CASES)
def test_strips_give_what_the_whole_gives(vgg16, rng, height, counts, changes):
    changes = dict(changes)
    image, content, *styles = own.pictures(rng, *[(height, 38)] * 2, (30, 41), (40, 33))
    masked = changes.pop("masks", False)
    given = {"masks": rng.random((2, height, 38), np.float32)} if masked else {}
    config = CONFIG.replace(**changes)
    styles = styles if masked else styles[:1]
    targets = nst_jax.compute_targets(vgg16, content, styles, config, **given)
    key = jax.random.key(2) if config.jitter else None
    wanted = everything(image, vgg16, targets, config, key=key, partition=Together())
    for count in counts:
        found = everything(image, vgg16, targets, config, key=key, partition=Together(count))
        value, gradient = differences(found, wanted)
        print(height, count, changes, value, gradient)
