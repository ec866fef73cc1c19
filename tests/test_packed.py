"""The network as a TPU likes it, against the plain network, on a CPU."""

import functools

import basic
import jax
import jax.numpy as jnp
import numpy as np
import own
import pytest
from test_own_network import NETWORK

import nst_jax
from nst_jax import image, losses, objective, packed, sharding, vgg
from nst_jax.extractor import VGGExtractor
from nst_jax.partition import Together, check_partition
from nst_jax.settings import settings, turned
from nst_jax.terms import GramStyle, WassersteinStyle

CONFIG = basic.CONFIG.replace(
    size=None,
    content_layers=("block2_conv1",),
    style_layers=("block1_conv1", "block2_conv2", "block3_conv1"),
    style_weight=1e3,
)
PLAIN = nst_jax.Combine()
WASSERSTEIN = turned(CONFIG.term("style"), WassersteinStyle)


@functools.partial(jax.jit, static_argnames="partition")
def look(image, params, targets, config, *, partition):
    """The objective, and its gradient by the picture and by the parameters."""
    value = functools.partial(objective.objective_value, partition=partition)
    return jax.value_and_grad(value, argnums=(0, 1), has_aux=True)(image, params, targets, config)


def distance(found, wanted):
    """The norm of the difference of two arrays, relative to the second."""
    found, wanted = (np.asarray(x, np.float64) for x in (found, wanted))
    return np.linalg.norm(found - wanted) / np.linalg.norm(wanted)


def assert_same(params, image, content, styles, config, strips, *, combine=PLAIN):
    """Both add up the same float32 numbers in another order: values differ by at most 3e-6. In a
    gradient, rounding also turns a few maxima and ReLUs near a tie: at most 2e-4 were measured. A
    wrong row of a halo makes more than 1e-2."""
    targets = nst_jax.compute_targets(params, content, styles, config, combine=combine)
    (value, _), (slope, of_params) = look(image, params, targets, config, partition=Together())
    for count in strips:
        within = Together(count, packed=True)
        (found, _), (gradient, _) = look(
            image,
            objective.prepare(params, config, partition=within),
            targets,
            config,
            partition=within,
        )
        np.testing.assert_allclose(found, value, rtol=1e-5)
        assert distance(gradient, slope) < 2e-3
    # Parameters as they were loaded are converted inside, and have their own gradients.
    (found, _), (gradient, kernels) = look(image, params, targets, config, partition=within)
    np.testing.assert_allclose(found, value, rtol=1e-5)
    assert distance(gradient, slope) < 2e-3
    for name in ("block1_conv1", "block1_conv2", "block2_conv1"):
        for key, wanted in of_params[name].items():
            assert distance(kernels[name][key], wanted) < 2e-3, (name, key)


CASES = {
    "even": (64, 48, (4,), {}),
    "odd": (101, 75, (8, 3), {"padding": "replicate", "normalize_features": True}),
    "average": (45, 38, (3,), {"pooling": "average", "padding": "replicate"}),
    "l2": (37, 41, (2,), {"pooling": "l2", "style": WASSERSTEIN}),
    "empty": (21, 30, (8,), {"style_layers": ("block1_conv2", "block1_pool", "block2_pool")}),
    "content": (33, 35, (2,), {"content_layers": ("block1_conv2",), "padding": "replicate"}),
}


@pytest.mark.slow
@pytest.mark.parametrize(("height", "width", "strips", "changes"), CASES.values(), ids=CASES)
def test_it_gives_what_the_plain_network_gives(vgg16, rng, height, width, strips, changes):
    """Sides that no power of two divides, every pooling and padding, and layers of all kinds."""
    picture, content, style = own.pictures(rng, *[(height, width)] * 2, (30, 41))
    assert_same(vgg16, picture, content, [style], CONFIG.replace(**changes), strips)


@pytest.mark.slow
def test_masks(vgg16, rng):
    picture, content, *styles = own.pictures(rng, *[(37, 41)] * 2, (30, 41), (40, 33))
    combine = nst_jax.Combine(
        masks=rng.random((2, 37, 41), np.float32),
        style_masks=[None, rng.random((40, 33), np.float32)],
    )
    assert_same(vgg16, picture, content, styles, CONFIG, (3,), combine=combine)


@pytest.mark.slow
def test_the_other_network_and_all_its_layers(vgg19, rng):
    (picture,) = own.pictures(rng, (48, 37))
    network = nst_jax.presets["default"].network
    layers = vgg.layer_names("vgg19")[:-1]  # the last pooling has no position in 2 strips of 24
    wanted = jax.jit(lambda x: network(vgg19, x, layers))(picture)

    @jax.jit
    def found(x):
        return network.in_strips(
            vgg19, vgg.divide_rows(x, 2, 32, repeat=True), layers, height=48, pack=True
        )

    for layer, value in found(picture).items():
        if packed.is_packed(layer):
            value = packed.unpack_columns(value, 37)
        joined = vgg.join_rows(value, wanted[layer].shape[0])
        assert distance(joined, wanted[layer]) < 1e-5, layer
        assert not np.any(value.reshape(-1, *value.shape[2:])[wanted[layer].shape[0] :]), layer


@pytest.mark.slow
def test_it_paints_what_the_plain_way_paints(vgg16, rng, monkeypatch):
    """A whole run: prepared parameters, styles of other sizes, and outputs one after the other."""
    content, *styles = own.pictures(rng, (40, 36), (30, 41), (40, 33))
    # By itself, a TPU would store bfloat16.
    config = CONFIG.replace(dtype="float32", steps=2, style_layers=("block1_conv1", "block2_conv1"))
    plain = nst_jax.stylize(vgg16, content, styles, config)
    monkeypatch.setattr(nst_jax.Placement, "platform", "tpu")
    asked = []
    features = packed.features
    monkeypatch.setattr(
        packed, "features", lambda *args, **kwargs: asked.append(1) or features(*args, **kwargs)
    )
    found = nst_jax.stylize(vgg16, content, styles, config)
    assert asked
    np.testing.assert_allclose(found.images, plain.images, atol=1e-4)
    np.testing.assert_allclose(found.history["total"], plain.history["total"], rtol=1e-5)


def test_packed_kernels_convolve_pairs_of_columns(rng):
    x = rng.random((5, 8, 3), np.float32)
    kernel = rng.random((3, 3, 3, 4), np.float32)

    def convolve(x, kernel):
        options = {"window_strides": (1, 1), "padding": "SAME"}
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, kernel, dimension_numbers=numbers, **options)

    pairs = packed.pack_columns(jnp.asarray(x)[None])
    found = packed.unpack_columns(convolve(pairs, packed.pack_kernel(jnp.asarray(kernel))), 8)
    np.testing.assert_allclose(found, convolve(x[None], kernel), rtol=1e-5)


def test_packed_parameters_are_refused_elsewhere(vgg16, rng):
    (picture,) = own.pictures(rng, (32, 32))
    prepared = packed.prepare(vgg16, ("block1_conv1",))
    assert packed.prepare(prepared, ("block1_conv1",)) == prepared
    deeper = packed.prepare(prepared, ("block2_conv1",))
    assert deeper["block1_conv1"] is prepared["block1_conv1"] and "packed" in deeper["block2_conv1"]
    with pytest.raises(ValueError, match="from nst_jax.packed.prepare, which are for strips"):
        vgg.features(prepared, picture, layers=("block1_conv1",))


def test_what_it_cannot_take_is_one_line(vgg16, rng):
    (picture,) = own.pictures(rng, (32, 32))
    layer = ("block2_conv1",)
    with pytest.raises(ValueError, match="params must be as they were loaded, got .* vgg.prepare"):
        packed.prepare(vgg.prepare(vgg16, layers=layer), layer)
    with pytest.raises(ValueError, match="params must be prepared in bfloat16, got float32"):
        packed.prepare(packed.prepare(vgg16, layer), layer, dtype=jnp.bfloat16)
    strips = vgg.divide_rows(np.uint8(255 * picture), 2, 16)
    with pytest.raises(ValueError, match="images must be floating point in .*, got uint8"):
        CONFIG.network.in_strips(vgg16, strips, layer, height=32, pack=True)
    with pytest.raises(TypeError, match="packed must be True or False, got 'no'"):
        Together(2, packed="no")


def test_classes_derived_from_ours_get_what_they_know(vgg16, rng):
    """Sums and activations of a class's own need not take strips and packed columns."""

    class Centred(GramStyle):
        def sums(self, layer, x, weights, target, at):
            return losses.statistics(x - 1, weights=weights)

    class Doubled(VGGExtractor):
        def __call__(self, params, image, layers):
            return {name: 2 * x for name, x in super().__call__(params, image, layers).items()}

    picture, content, style = own.pictures(rng, *[(20, 24)] * 2, (24, 20))
    term = turned(CONFIG.term("style"), settings(Centred))
    config = CONFIG.replace(style=term, content_layers=("block1_conv1",)).replace(
        style_layers=("block1_conv1",)
    )
    targets = nst_jax.compute_targets(vgg16, content, [style], config)
    values = [
        look(picture, vgg16, targets, config, partition=within)[0][0]
        for within in (Together(), Together(2), Together(2, packed=True))
    ]
    np.testing.assert_allclose(values, values[0], rtol=1e-5)
    assert GramStyle.unordered and not Centred.unordered
    doubled = settings(Doubled)()
    assert CONFIG.network.packs and not doubled.packs
    with pytest.raises(ValueError, match="needs a network that packs, and Doubled does not"):
        check_partition(Together(2, packed=True), doubled)


def test_statistics_of_columns_side_by_side(rng):
    features = rng.random((5, 8, 3), np.float32)
    wanted = losses.statistics(features)
    for found in (
        losses.statistics(features.reshape(5, 4, 6), columns=2),
        losses.statistics(features.reshape(5, 2, 4, 3), axes=3),
        losses.statistics(features.reshape(5, 2, 2, 6), axes=3, columns=2),
    ):
        for a, b in zip(found, wanted, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6)
    with pytest.raises(ValueError, match="weights must be None with columns=2 and axes=2"):
        losses.statistics(features, weights=np.ones((5, 8), np.float32), columns=2)


@pytest.mark.parametrize(
    ("height", "width"), [(1, 1), (2, 1), (3, 5), (64, 63), (129, 20), (7, 1030), (63, 1)]
)
def test_a_pyramid_by_products_is_that_by_convolutions(rng, height, width):
    """What a TPU runs, against what other platforms run."""
    sides = {"height": height, "width": width}

    @jax.jit
    def both(array):
        coarser = image._reduced_by_convolution(array)
        expand = image._expanded_by_products, image._expanded_by_convolution
        return (
            (image._reduced_by_products(array), coarser),
            [function(coarser, **sides) for function in expand],
        )

    for found, wanted in both(rng.random((height, width, 3), np.float32)):
        np.testing.assert_allclose(found, wanted, atol=1e-6)


@pytest.mark.parametrize(
    ("placed", "height", "partition"),
    [
        ({}, None, Together(8, packed=True)),
        ({}, 40, Together(8, packed=True)),
        ({"space": 4}, 512, Together(32, packed=True)),
        ({"space": 4}, 130, Together(12, packed=True)),  # 3 strips of 16 rows for each of 33 rows
        ({"space": 4}, 33, Together(4, packed=True)),
        ({"space": 4}, None, Together(8, packed=True)),  # targets are found on one device
        ({"strips": 6}, 512, Together(6, packed=True)),
    ],
)
def test_a_tpu_has_strips_for_each_device_of_a_picture(monkeypatch, placed, height, partition):
    monkeypatch.setattr(nst_jax.Placement, "platform", "tpu")
    placed = dict(placed)
    if space := placed.pop("space", None):
        placed["mesh"] = sharding.make_mesh(1, sizes={"style": 1, "space": space})
    found = nst_jax.Placement(**placed).partition_of(CONFIG.network, height=height)
    assert found == partition
    # A network of a user's own has no strips.
    assert nst_jax.Placement().partition_of(NETWORK) == Together()


def test_other_platforms_keep_the_plain_way():
    assert nst_jax.Placement().platform == "cpu"
    assert nst_jax.Placement().partition_of(CONFIG.network, height=512) == Together()
