"""Strips against the whole picture."""

import functools

import basic
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nst_jax
from nst_jax import objective, partition, windows
from nst_jax.cli import preflight
from nst_jax.partition import Together, Windows
from nst_jax.settings import turned
from nst_jax.terms import WassersteinStyle

CONFIG = basic.CONFIG.replace(
    size=None,
    content_layers=("block2_conv1",),
    style_layers={"block1_conv1": 0.7, "block2_conv1": 0.3},
    style_weight=1e6,
    tv_weight=1e-6,
    tv_form="keras",
)


SCAN = Windows(loop="scan")


@pytest.fixture(autouse=True)
def narrow(monkeypatch):
    """Strips of small pictures."""
    monkeypatch.setattr(partition, "COLUMNS", 12)


def pictures(rng, *shapes):
    return [jnp.asarray(rng.random((*shape, 3), np.float32)) for shape in shapes]


def assert_same(one, other, *, error):
    """Leaf by leaf, relative to the largest value."""
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=error * float(jnp.max(jnp.abs(a))))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("width", "masked", "changes"),
    [
        (48, False, {"style_layers": ("block1_conv2", "block3_conv1")}),
        (
            *(53, False),
            {"padding": "replicate", "jitter": 3, "style_layers": ("block1_pool", "block2_conv1")},
        ),
        (53, True, {"style": turned(CONFIG.term("style"), WassersteinStyle), "pooling": "l2"}),
    ],
)
def test_targets_value_and_gradient_are_those_of_the_whole(vgg16, rng, width, masked, changes):
    content, image, style = pictures(rng, (37, width), (37, width), (30, 41))
    masks = rng.random((2, 37, width), np.float32) if masked else None
    images = jnp.stack([image] if masked else [image, image[:, ::-1]])
    key = jax.random.key(2) if "jitter" in changes else None

    def value(images, params, targets, config, *, within):
        value = functools.partial(objective.objective_value, key=key, partition=within)
        totals, terms = jax.vmap(value, in_axes=(0, None, 0, None))(images, params, targets, config)
        return jnp.sum(totals), terms

    found = []
    config = CONFIG.replace(**changes)
    for within in (Together(), SCAN):
        styles = [style, style[::-1]]
        targets = nst_jax.compute_targets(
            *(vgg16, content, styles, config),
            combine=nst_jax.Combine(masks=masks),
            partition=within,
        )
        look = functools.partial(value, within=within)
        # Rounded as in a user's runs, which the bounds below are of.
        options = {"xla_cpu_use_fusion_emitters": True}
        gradient = jax.jit(jax.value_and_grad(look, has_aux=True), compiler_options=options)
        found.append((targets, *gradient(images, vgg16, targets, config)))
    (targets, *one), (same_targets, *same) = found
    # Sums of as many positions, in another order.
    assert_same(targets, same_targets, error=2e-6)
    # Covariances that are nearly singular magnify the rounding of their sums.
    assert_same(one, same, error=1e-4 if "style" in changes else 1e-6)


def test_all_blocks_are_loops(vgg16, rng):
    content, style = pictures(rng, (32, 104), (32, 32))
    config = CONFIG.replace(style_layers=("block1_conv1", "block3_last"))
    (target,) = objective.target_shapes(vgg16, content.shape[:2], config).terms["content"].values()
    assert target.values.shape == (16, 52, 128)
    scanned = objective.Objective.of(config, partition=SCAN)
    traced = jax.make_jaxpr(lambda x: scanned.style_targets(vgg16, x))(content)
    lengths = [eqn.params["length"] for eqn in traced.eqns if eqn.primitive.name == "scan"]
    assert lengths == [9, 5, 3]  # of 104, 52 and 26 columns


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_it_takes_less_memory(vgg16, monkeypatch, precision):
    monkeypatch.setattr(partition, "COLUMNS", 64)
    config = CONFIG.replace(dtype=precision)
    shape = (64, 1024)
    whole, strips = (
        preflight.Plan(
            params=vgg16,
            shape=shape,
            outputs=1,
            config=config,
            placement=nst_jax.Placement(remat=saving),
        ).program_bytes()
        for saving in (False, True)
    )
    pixels = shape[0] * shape[1]
    assert whole > 1200 * pixels and strips < 600 * pixels


@pytest.mark.slow
def test_windows_are_looked_at_strip_by_strip(vgg16, rng):
    content, image, style = pictures(rng, (40, 70), (40, 70), (30, 41))
    found = []
    for within in (Together(), SCAN):
        options = {"tile": 44, "within": within}
        (targets,) = windows.compute_targets(vgg16, content, [style], CONFIG, **options)
        found.append(windows.value_and_grad(np.asarray(image), vgg16, targets, CONFIG, **options))
    assert_same(*found, error=1e-6)


def test_pictures_of_another_size_are_refused(vgg16, rng):
    content, image, style = pictures(rng, (37, 53), (37, 60), (30, 41))
    targets = nst_jax.compute_targets(vgg16, content, [style], CONFIG, partition=SCAN)
    with pytest.raises(ValueError, match="image and content must be of one size"):
        objective.objective_value(image, vgg16, targets, CONFIG, partition=SCAN)
    with pytest.raises(ValueError, match="layer block2_conv1 needs images of at least 2"):
        nst_jax.compute_targets(vgg16, content, [style[:1]], CONFIG, partition=SCAN)
