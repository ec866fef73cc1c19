"""Gradients normalised band by band, against Burt and Adelson's pyramid in NumPy float64."""

import re

import basic
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nst_jax
from nst_jax import image, objective, optimize, optimizers, partition, sharding
from nst_jax.optimizers import SGD, Adam

KERNEL = np.float64([1, 4, 6, 4, 1]) / 16  # Burt and Adelson 1983 with a = 3/8
SHAPES = [(32, 24), (37, 50), (9, 1), (1, 1), (2, 2), (3, 2), (5, 7)]


def reduce_matrix(side):
    """REDUCE along one side; rows sum to 1 along the border, too."""
    rows = np.zeros((-(-side // 2), side))
    for i in range(len(rows)):
        for m in range(-2, 3):
            if 0 <= 2 * i + m < side:
                rows[i, 2 * i + m] += KERNEL[m + 2]
    return rows / rows.sum(axis=1, keepdims=True)


def expand_matrix(side):
    """EXPAND to `side`: 2 sum_m w(m) g((i - m) / 2), of whole numbers alone."""
    rows = np.zeros((side, -(-side // 2)))
    for i in range(side):
        for m in range(-2, 3):
            if (i - m) % 2 == 0 and 0 <= (i - m) // 2 < rows.shape[1]:
                rows[i, (i - m) // 2] += 2 * KERNEL[m + 2]
    return rows / rows.sum(axis=1, keepdims=True)


def along_both(matrix_of, array, sides):
    rows, columns = map(matrix_of, sides)
    return np.einsum("ih,jw,hwc->ijc", rows, columns, array)


def bands_in_numpy(array, levels):
    bands = []
    while len(bands) < levels - 1 and min(array.shape[:2]) > 1:
        coarser = along_both(reduce_matrix, array, array.shape[:2])
        bands.append(array - along_both(expand_matrix, coarser, array.shape[:2]))
        array = coarser
    return [*bands, array]


def normalized_in_numpy(gradient, weights):
    gradient = np.float64(gradient)
    bands = bands_in_numpy(gradient, len(weights))
    floor = 1e-5 * np.abs(gradient).max()
    bands = [w * b / (np.sqrt(np.mean(b**2)) + floor) for w, b in zip(weights, bands, strict=False)]
    found = bands.pop()
    for band in reversed(bands):
        found = band + along_both(expand_matrix, found, band.shape[:2])
    return found


def normalized(gradient, weights):
    found, _ = optimizers.normalize_by_band(weights=weights).update(gradient, optax.EmptyState())
    return found


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_pyramid_is_burt_and_adelsons(rng, shape):
    array = rng.standard_normal((*shape, 3)).astype(np.float32)
    bands = image.laplacian_pyramid(array, 4)
    for found, expected in zip(bands, bands_in_numpy(array, 4), strict=True):
        np.testing.assert_allclose(found, expected, atol=2e-6)
    np.testing.assert_allclose(image.laplacian_sum(bands), array, atol=2e-6)


def test_a_constant_has_no_bands_but_the_last():
    *finer, last = image.laplacian_pyramid(jnp.full((19, 22, 3), 7.0), 3)
    np.testing.assert_allclose(last, 7.0, rtol=1e-6)
    assert all(np.abs(band).max() < 1e-5 for band in finer)


@pytest.mark.parametrize(
    "weights", [(1.0,), (0.5, 0.8, 1.0), (0.0, 1.0), (1.0, 2.0, 3.0, 4.0, 5.0)]
)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_bands_are_divided_by_their_root_mean_square(rng, shape, weights):
    gradient = rng.standard_normal((*shape, 3)).astype(np.float32)
    found = normalized(gradient, weights)
    np.testing.assert_allclose(found, normalized_in_numpy(gradient, weights), atol=1e-4)


@pytest.mark.parametrize("scale", [1e-30, 1e-10, 1e16, 1e30])
def test_the_step_does_not_depend_on_the_scale(rng, scale):
    gradient = rng.standard_normal((21, 18, 3)).astype(np.float32)
    found = normalized(np.float32(scale) * gradient, (0.5, 0.8, 1.0))
    np.testing.assert_allclose(found, normalized(gradient, (0.5, 0.8, 1.0)), rtol=1e-4, atol=1e-5)


def test_zero_stays_zero_and_rounding_is_not_made_a_step():
    assert np.all(normalized(jnp.zeros((9, 8, 3)), (1.0, 1.0, 1.0)) == 0)
    flat = normalized(jnp.full((32, 32, 3), 0.3), (1.0, 1.0, 1.0))
    np.testing.assert_allclose(flat, 1.0, atol=0.02)


def test_what_is_not_finite_stays_so():
    gradient = jnp.ones((8, 8, 3)).at[2, 3, 1].set(jnp.inf)
    assert not np.all(np.isfinite(normalized(gradient, (1.0, 1.0))))


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="^weights must hold a number for each band, got none$"):
        optimizers.normalize_by_band(weights=())
    with pytest.raises(ValueError, match=r"^the gradient must be of one image \[H, W, C\], got"):
        normalized(jnp.zeros((2, 4, 4, 3)), (1.0,))


def test_many_at_once_and_numbers_that_are_traced(rng):
    gradients = rng.standard_normal((3, 13, 10, 3)).astype(np.float32)
    weights = np.float32([[0.5, 1.0], [1.0, 1.0], [0.0, 2.0]])
    found = jax.jit(jax.vmap(lambda g, w: normalized(g, tuple(w))))(gradients, weights)
    for n in range(3):
        np.testing.assert_allclose(found[n], normalized(gradients[n], weights[n]), atol=1e-5)


def test_it_goes_into_a_chain_of_optax(rng):
    gradient = rng.standard_normal((8, 6, 3)).astype(np.float32)
    chain = optax.chain(optimizers.normalize_by_band(), optax.scale(-3.0))
    update, _ = chain.update({"image": gradient}, chain.init({"image": gradient}))
    expected = -3 * normalized_in_numpy(gradient, (1.0, 1.0, 1.0))
    np.testing.assert_allclose(update["image"], expected, atol=1e-4)


def slope(image, gradient):
    """A loss with one gradient everywhere, by grey level."""
    value = jnp.vdot(255.0 * image, gradient)
    return value, {"total": value}


@pytest.mark.parametrize("optimizer", [SGD, Adam])
@pytest.mark.parametrize(
    ("choice", "weights"), [("none", None), ("whole", (1.0,)), ("bands", (0.5, 0.8, 1.0))]
)
def test_a_configuration_chooses_it(rng, optimizer, choice, weights):
    images = np.full((1, 12, 9, 3), 0.5, np.float32)
    gradient = rng.standard_normal((12, 9, 3)).astype(np.float32)
    own = {
        SGD: {"momentum": 0.0},
        Adam: {"epsilon": 1.0},  # or its first step would be one of signs
    }[optimizer]
    config = basic.CONFIG.replace(
        optimizer=optimizer(
            normalize_gradient=choice,
            band_weights=(0.5, 0.8, 1.0),
            learning_rate=2.0,
            schedule="constant",
            **own,
        ),
        steps=1,
    )
    states, _ = optimize.run(slope, images, config, each=(gradient[None],))
    step = gradient if weights is None else normalized_in_numpy(gradient, weights)
    if optimizer is Adam:
        step = step / (np.abs(step) + 1.0)
    np.testing.assert_allclose(255 * (states.tree[0] - images[0]), -2.0 * step, atol=1e-3)


BANDS = basic.CONFIG.replace(
    content_layers=("block2_conv1",),
    style_layers=("block1_conv1", "block2_conv1"),
    content_weight=0.05,
    normalize_gradient="bands",
    band_weights=(0.5, 0.8, 1.0),
    size=None,
    steps=3,
)


def patches(rng, height, width):
    coarse = jnp.asarray(rng.random((4, 4, 3), np.float32))
    return image.resize(coarse, height, width)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("height", "how", "changes"),
    [
        (37, {"tile": 24}, {}),
        (37, {"remat": True}, {}),
        (48, {"mesh": "space:8"}, {}),
        (37, {"mesh": "style:2,space:4"}, {}),  # which doesn't divide
        (37, {}, {"style_weight": 1e16, "content_weight": 5e14}),
    ],
    ids=str,
)
def test_it_gives_the_same_however_the_picture_is_looked_at(
    vgg16, rng, monkeypatch, height, how, changes
):
    monkeypatch.setattr(objective, "prepare", lambda params, config, **_: params)
    monkeypatch.setattr(partition, "COLUMNS", 20)
    content, *styles = patches(rng, height, 40), patches(rng, 20, 24), patches(rng, 24, 20)
    if "mesh" in how:
        how = {"mesh": sharding.make_mesh(2, sizes=sharding.parse_mesh(how["mesh"]))}
    placement = nst_jax.Placement(**how)
    plain = nst_jax.stylize(vgg16, content, styles, BANDS)
    other = nst_jax.stylize(vgg16, content, styles, BANDS.replace(**changes), placement=placement)
    assert np.abs(np.asarray(plain.images) - np.asarray(content)).max() > 1 / 255
    np.testing.assert_allclose(other.images, plain.images, atol=1e-4)  # 0.03 grey levels


def test_on_a_mesh_over_the_height_it_exchanges_border_rows_and_single_numbers():
    mesh = sharding.make_mesh(1, sizes={"style": 1, "space": 8})
    gradient = jax.ShapeDtypeStruct((1, 64, 24, 3), jnp.float32)
    gradient = sharding.place(mesh, gradient, picture=(64, 24, 3))

    def update(gradient):
        found = jax.vmap(lambda g: normalized(g, (0.5, 0.8, 1.0)))(gradient)
        return sharding.constrain_evenly(mesh, found, picture=(64, 24, 3))

    text = jax.jit(update).lower(gradient).compile().as_text()
    assert re.search(r" collective-permute(-start)?\(", text)
    summed = re.findall(r"= \(?f32\[([\d,]*)\]\S* all-reduce(?:-start)?\(", text)
    # The largest value, and a sum for each band.
    assert len(summed) >= 1 and {shape for shape in summed} <= {"", "1"}
    assert not re.search(r" (all-gather|all-to-all|reduce-scatter)(-start)?\(", text)


def test_bands_of_a_tile_move_with_it(rng):
    """Rolling by a step of the coarsest level rolls the result. Without `wraps` it does not."""
    gradient = rng.normal(size=(16, 24, 3)).astype(np.float32)
    for wraps in (True, False):
        normalize = optimizers.normalize_by_band(weights=(0.5, 0.8, 1.0), wraps=wraps)
        found, _ = normalize.update(gradient, optax.EmptyState())
        rolled, _ = normalize.update(np.roll(gradient, (4, 8), (0, 1)), optax.EmptyState())
        error = np.abs(np.roll(found, (4, 8), (0, 1)) - rolled).max()
        # The root mean squares include the continued border, which differs.
        assert error < 0.06 if wraps else error > 0.2
