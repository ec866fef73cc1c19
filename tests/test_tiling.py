"""Windows against the whole picture: the oracle is jax.value_and_grad of the untiled objective."""

import functools

import basic
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nst_jax
from nst_jax import objective, partition, vgg, windows
from nst_jax.optimizers import LBFGS
from nst_jax.terms import WassersteinStyle

# Radius 4 and stride 2: windows of 24 have an inside.
SHALLOW = basic.CONFIG.replace(
    content_layers=("block2_conv1",),
    style_layers=("block1_conv1", "block2_conv1"),
    content_weight=0.3,
    tv_weight=1e-6,
    tv_form="keras",
)
TILE = 24


def pictures(rng, *shapes):
    """Noise over soft blotches, so that every layer and every region has something to say."""

    def picture(height, width):
        coarse = jnp.asarray(rng.random((5, 4, 3), np.float32))
        soft = nst_jax.image.resize(coarse, height, width)
        fine = rng.random((height, width, 3), np.float32)
        return np.asarray(0.7 * soft + 0.3 * fine, np.float32)

    return [picture(*shape) for shape in shapes]


@jax.jit
def untiled(image, params, targets, config, key=None):
    value = functools.partial(objective.objective_value, key=key)
    return jax.value_and_grad(value, has_aux=True)(image, params, targets, config)


def assert_equal_untiled(params, image, content, styles, config, *, tile=TILE, key=None, **given):
    """Each output's terms and gradient, everywhere and by region, to 1e-5."""
    whole = objective.compute_targets(params, content, styles, config, **given)
    tiled = windows.compute_targets(params, content, styles, config, tile=tile, **given)
    grid = objective.Objective.of(config).grid(params, image.shape, tile)
    assert len(grid) > 1 and max(grid.window) <= tile
    for n, targets in enumerate(tiled):
        own = jax.tree.map(lambda leaf, n=n: leaf[n], whole)
        (_, terms), gradient = untiled(image, params, own, config, key)
        (_, found), slope = windows.value_and_grad(
            image, params, targets, config, tile=tile, key=key
        )
        for name, value in terms.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=0, err_msg=name)
        gradient = np.asarray(gradient)
        error = slope - gradient
        assert np.linalg.norm(error) <= 1e-5 * np.linalg.norm(gradient)
        # Corners, edges and inside, of the picture and along the cuts, each by itself.
        for row, column in grid:
            rows, columns = (
                slice(span.start + span.first, span.start + span.stop) for span in (row, column)
            )
            for part in (error[rows, columns], error[rows][:2], error[:, columns][:, -2:]):
                rms = np.sqrt(np.mean(np.square(gradient[rows, columns])))
                assert rms > 0 and np.sqrt(np.mean(np.square(part))) <= 2e-5 * rms


LOSSES = {
    "gram, replicate": {"padding": "replicate"},
    "gatys, average": {
        "style_normalization": "gatys",
        "content_reduction": "half_sum",
        "pooling": "average",
    },
    "keras, l2": {
        "style_normalization": "keras",
        "content_reduction": "sum",
        "pooling": "l2",
        "pooling_correction": False,
    },
    "wasserstein alone": {
        "style": WassersteinStyle(layers=("block1_conv1", "block1_pool")),
        "normalize_features": True,
        "content_layers": (),
    },
    "contents": {
        "content_layers": {"block1_conv2": 1.0, "block1_pool": 0.2},
        "style_layers": {"block1_conv1": 3.0, "block2_conv1": 0.5},
    },
    "content alone": {"style_layers": (), "tv_weight": 0.0},
    "keras' variation": {
        "content_layers": (),
        "style_layers": (),
        "tv_weight": 1.0,
        "tv_form": "keras",
    },
    "nine-point variation": {
        "content_layers": (),
        "style_layers": (),
        "tv_form": "nine_point",
        "tv_weight": 1.0,
    },
    "l1 variation": {
        "content_layers": (),
        "style_layers": (),
        "tv_form": "l1",
        "tv_weight": 1.0,
    },
}


@pytest.mark.parametrize("name", LOSSES)
def test_tiled_equals_untiled(vgg16, rng, name):
    divides = name == "contents"
    shape = (60, 44) if divides else (61, 45)
    image, content, style = pictures(rng, shape, shape, (30, 22))
    config = SHALLOW.replace(**LOSSES[name])
    assert_equal_untiled(vgg16, image, content, [style], config)


@pytest.mark.slow
def test_masks_of_regions_and_of_styles(vgg16, rng):
    image, content, *styles = pictures(rng, (61, 45), (61, 45), (30, 22), (40, 51))
    masks = rng.random((2, 61, 45), np.float32)
    masks[0, :30] = 0  # windows that a region has no share in
    combine = nst_jax.Combine(masks=masks, style_masks=[None, rng.random((40, 51), np.float32)])
    assert_equal_untiled(vgg16, image, content, styles, SHALLOW, combine=combine)


@pytest.mark.slow
def test_blends_and_jitter(vgg16, rng):
    image, content, *styles = pictures(rng, (61, 45), (61, 45), (30, 22), (40, 51))
    config = SHALLOW.replace(jitter=8)
    combine = nst_jax.Combine(mixing=np.array([[0.3, 0.7], [1.0, 0.0]]))
    assert_equal_untiled(
        vgg16, image, content, styles, config, combine=combine, key=jax.random.key(4)
    )


@pytest.mark.slow
def test_default_layers(vgg16, rng):
    """Radius 62 and stride 16; the picture is one window wide."""
    image, content, style = pictures(rng, (219, 32), (219, 32), (40, 50))
    config = basic.CONFIG.replace(tv_weight=1e-6, tv_form="keras")
    assert_equal_untiled(vgg16, image, content, [style], config, tile=173)


@pytest.mark.slow
def test_what_stylize_paints_with_on_a_cpu(vgg19, rng):
    """Winograd's kernels, whose rounding depends on where a window puts their tiles."""
    image, content, style = pictures(rng, (229, 37), (229, 37), (40, 50))
    config = basic.CONFIG.replace(tv_weight=1e-6, tv_form="keras")
    params = objective.prepare(vgg19, config)
    assert params is not vgg19
    whole = objective.compute_targets(params, content, [style], config)
    (targets,) = windows.compute_targets(params, content, [style], config, tile=181)
    (_, terms), gradient = untiled(image, params, whole, config)
    (_, found), slope = windows.value_and_grad(image, params, targets, config, tile=181)
    for name, value in terms.items():
        np.testing.assert_allclose(found[name], value, rtol=5e-5, atol=0, err_msg=name)
    gradient = np.asarray(gradient)
    assert np.linalg.norm(slope - gradient) <= 5e-5 * np.linalg.norm(gradient)


def test_all_windows_share_one_program(vgg16, rng, compilations):
    image, content, style = pictures(rng, (50, 47), (50, 47), (30, 22))
    (targets,) = windows.compute_targets(vgg16, content, [style], SHALLOW, tile=TILE)
    seen = []
    with compilations() as count:

        def look(done, total):
            seen.append((done, total, count()))

        windows.value_and_grad(image, vgg16, targets, SHALLOW, tile=TILE, on_window=look)
        first = count()
        assert first > 0
        windows.value_and_grad(1 - image, vgg16, targets, SHALLOW, tile=TILE)
        assert count() == first
    assert len(objective.Objective.of(SHALLOW).grid(vgg16, image.shape, TILE)) == 9
    assert [(done, total) for done, total, _ in seen] == [(n, 27) for n in range(1, 28)]
    for last_of_pass, first_of_pass in ((8, 0), (17, 9), (26, 18)):
        assert seen[last_of_pass][2] == seen[first_of_pass][2]


LAYERS = [("block1_conv2",), ("block2_pool", "block1_conv1"), ("block4_conv2", "block5_conv1")]


@pytest.mark.parametrize("model", ["vgg16", "vgg19"])
@pytest.mark.parametrize("layers", LAYERS)
def test_windows_own_each_position_once_and_only_unspoilt_ones(model, layers):
    """Held against what padding spoils, followed through the network layer by layer."""
    deepest = np.max([vgg.receptive_field(model, layer) for layer in layers], axis=0)
    for side in (*range(181, 216), 500, 1001):
        length, found = partition.spans(side, 181, stride=deepest[0], radius=deepest[1])
        assert length <= 181
        owners = {layer: [] for layer in layers}
        for span in found:
            assert 0 <= span.start <= side - length
            clean = [0, length]  # positions as if the whole picture had been looked at
            stride = 1
            left = set(layers)
            for name in vgg.layer_names(model):
                if not left:
                    break
                at_end = span.start + length == side
                if name.endswith("_pool"):
                    assert span.start % (2 * stride) == 0
                    clean = [-(-clean[0] // 2), clean[1] // 2]
                    stride *= 2
                else:
                    clean = [clean[0] + (span.start > 0), clean[1] - (not at_end)]
                if name in layers:
                    left.remove(name)
                    first, stop = span.first // stride, span.stop // stride
                    assert clean[0] <= first < stop <= clean[1]
                    base = span.start // stride
                    owners[name] += range(base + first, base + stop)
        for layer, owned in owners.items():
            assert owned == list(range(side // vgg.smallest_side(layer)))


def test_a_tile_too_small_is_refused_with_the_smallest(vgg19):
    terms = objective.Objective.of(basic.CONFIG)
    with pytest.raises(ValueError, match="tile must be at least 181 for these layers, got 128"):
        terms.grid(vgg19, (500, 400), 128)
    terms.grid(vgg19, (500, 400), 181)


@pytest.mark.slow
def test_lbfgs_in_tiles_paints_the_same(vgg16, rng):
    content, *styles = pictures(rng, (61, 45), (30, 22), (40, 51))
    config = SHALLOW.replace(size=None, steps=2, optimizer=LBFGS(history_size=3))
    whole = nst_jax.stylize(vgg16, content, styles, config)
    tiled = nst_jax.stylize(vgg16, content, styles, config, placement=nst_jax.Placement(tile=TILE))
    for name, values in whole.history.items():
        # After a step the content's activations differ little from their targets.
        rtol = 2e-4 if name == "content" else 2e-5
        np.testing.assert_allclose(tiled.history[name], values, rtol=rtol, err_msg=name)
    moved = np.linalg.norm(np.asarray(whole.images) - content)
    apart = np.linalg.norm(np.asarray(tiled.images) - np.asarray(whole.images))
    assert moved > 0.1
    assert apart <= 3e-4 * moved


@pytest.mark.slow
def test_sgd_from_an_untiled_scale_to_a_tiled_one_with_a_weight_an_output(vgg16, rng):
    content, style = pictures(rng, (61, 45), (30, 22))
    config = SHALLOW.replace(
        size=48,
        first_size=20,
        scale_factor=2.0,
        steps=2,
        jitter=2,
        **basic.FIRST_LAYERS,
    )
    steps, sweep = [], {"style_weight": np.array([1.0, 5.0])}
    whole = nst_jax.stylize(vgg16, content, [style], config, sweep=sweep)
    tiled = nst_jax.stylize(
        *(vgg16, content, [style], config),
        sweep=sweep,
        placement=nst_jax.Placement(tile=TILE),
        callback=lambda now: steps.append(now.step),
    )
    assert steps == [1, 2, 3, 4]
    for name, values in whole.history.items():
        np.testing.assert_allclose(tiled.history[name], values, rtol=2e-5, err_msg=name)
    np.testing.assert_allclose(tiled.images, whole.images, atol=1e-5)


@pytest.mark.parametrize(
    ("tile", "changes", "message"),
    [
        (0, {}, "tile must be a whole number, at least 1, got 0"),
        (8, {}, "tile must be at least 11 for these layers, got 8"),
        (24, {"optimizer": LBFGS(linesearch=True)}, "linesearch needs a loss that"),
    ],
)
def test_bad_tiles_are_refused(vgg16, rng, tile, changes, message):
    content, style = pictures(rng, (61, 45), (30, 22))
    with pytest.raises(ValueError, match=message):
        nst_jax.stylize(
            *(vgg16, content, [style], SHALLOW.replace(size=None, **changes)),
            placement=nst_jax.Placement(tile=tile),
        )
