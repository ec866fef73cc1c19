"""What each layer adds to the loss: the layers sum to the terms, tiled and untiled, and a run
tells them of the pictures that it has."""

import basic
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nst_jax
from nst_jax import objective, sharding, windows

FAST = basic.CONFIG.replace(content_weight=0.5, style_weight=50.0).replace(
    size=48,
    first_size=None,
    steps=2,
    content_layers={"block1_conv2": 0.2, "block2_conv1": 0.8},
    style_layers=("block1_conv1", "block2_conv1"),
)

objective_value = jax.jit(nst_jax.objective_value)
layer_losses = jax.jit(objective.layer_losses)


@pytest.fixture
def content(rng):
    return rng.random((36, 48, 3), np.float32)


@pytest.fixture
def styles(rng):
    return [rng.random((40, 48, 3), np.float32), rng.random((48, 36, 3), np.float32)]


def halves():
    masks = np.zeros((2, 36, 48), np.float32)
    masks[0, :, :20] = masks[1, :, 20:] = 1
    return masks


@pytest.mark.parametrize(
    "options", [{}, {"combine": nst_jax.Combine(masks=halves())}], ids=["plain", "masks"]
)
def test_layers_sum_to_the_terms(vgg16, content, styles, options):
    image = jnp.asarray(content[:, ::-1])
    targets = nst_jax.compute_targets(vgg16, content, styles, FAST, **options)
    own = jax.tree.map(lambda leaf: leaf[0], targets)
    _, terms = objective_value(image, vgg16, own, FAST)
    found = layer_losses(image, vgg16, own, FAST)
    assert {kind: tuple(layers) for kind, layers in found.items()} == {
        "content": ("block1_conv2", "block2_conv1"),
        "style": ("block1_conv1", "block2_conv1"),
    }
    for kind, layers in found.items():
        np.testing.assert_allclose(sum(layers.values()), terms[kind], rtol=1e-6)
    # One layer is what the objective of that layer alone has.
    alone = FAST.replace(style_layers=("block2_conv1",), style_weight=FAST["style_weight"] / 2)
    targets = nst_jax.compute_targets(vgg16, content, styles, alone, **options)
    own = jax.tree.map(lambda leaf: leaf[0], targets)
    _, terms = objective_value(image, vgg16, own, alone)
    np.testing.assert_allclose(found["style"]["block2_conv1"], terms["style"], rtol=1e-6)


@pytest.mark.parametrize("jitter", [0, 2])
def test_tiled_layers_are_those_of_the_whole_picture(vgg16, content, styles, jitter):
    config = FAST.replace(jitter=jitter)
    image = jnp.asarray(content[:, ::-1])
    options = {} if jitter else {"combine": nst_jax.Combine(masks=halves())}
    whole = nst_jax.compute_targets(vgg16, content, styles, config, **options)
    whole = jax.tree.map(lambda leaf: leaf[0], whole)
    tiled = windows.compute_targets(vgg16, content, styles, config, tile=24, **options)[0]
    expected = layer_losses(image, vgg16, whole, config)
    found = windows.layer_losses(image, vgg16, tiled, config, tile=24)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), found, expected)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["plain", "mesh", "tile"])
def test_a_run_tells_the_losses_of_its_layers(vgg16, content, styles, how):
    seen = []
    placement = {
        "plain": nst_jax.Placement(),
        "mesh": nst_jax.Placement(mesh=sharding.make_mesh(2, sizes={"style": 2, "space": 2})),
        "tile": nst_jax.Placement(tile=24),
    }[how]
    history = nst_jax.stylize(
        vgg16,
        content,
        styles,
        FAST,
        sweep={"content_weight": [1.0, 3.0]},
        callback=lambda progress: seen.append(progress.layer_losses()),
        placement=placement,
    ).history
    assert len(seen) == 2
    # Terms are taken before a step: those of the second are of the pictures after the first.
    for kind in ("content", "style"):
        values = [list(layers[kind].values()) for layers in seen[0]]
        assert all(isinstance(value, float) for layers in values for value in layers)
        np.testing.assert_allclose(np.sum(values, axis=1), history[kind][1], rtol=1e-3)


@pytest.mark.slow
def test_pictures_on_the_way_have_the_contents_colours_too(vgg16, content, styles):
    seen = []
    config = FAST.replace(color="luminance")
    mesh = sharding.make_mesh(2, sizes={"style": 2, "space": 2})
    result = nst_jax.stylize(
        vgg16,
        content,
        styles,
        config,
        callback=lambda p: seen.append(p.images),
        placement=nst_jax.Placement(mesh=mesh),
    )
    np.testing.assert_allclose(seen[-1], result.images, atol=1e-6)
    assert np.ptp(np.asarray(seen[0]), axis=-1).max() > 0.2  # coloured
