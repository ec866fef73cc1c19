import functools

import basic
import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest

import nst_jax
from nst_jax import examples, vgg
from nst_jax.partition import Together

# Table 1 and 2 of Simonyan & Zisserman round to millions; the exact counts are those of Keras'
# model summaries: https://keras.io/api/applications/vgg/
PARAMETERS = {"vgg16": (14_714_688, 138_357_544), "vgg19": (20_024_384, 143_667_240)}


@pytest.mark.parametrize("model", ["vgg16", "vgg19"])
def test_number_of_parameters_is_the_published_one(model):
    for head, published in zip((False, True), PARAMETERS[model], strict=True):
        init = functools.partial(vgg.init_params, model=model, head=head)
        shapes = jax.eval_shape(init, jax.random.key(0))
        assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == published


@pytest.mark.parametrize("model", ["vgg16", "vgg19"])
def test_shapes_at_224_are_those_of_the_paper(model):
    params = jax.eval_shape(lambda key: vgg.init_params(key, model, head=True), jax.random.key(0))
    image = jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.float32)
    layers = vgg.layer_names(model, head=True)
    shapes = {
        name: value.shape
        for name, value in jax.eval_shape(
            lambda p, x: nst_jax.features(p, x, layers=layers), params, image
        ).items()
    }
    sides, channels = (224, 112, 56, 28, 14), (64, 128, 256, 512, 512)
    for block, (side, width) in enumerate(zip(sides, channels, strict=True), start=1):
        for index in range(1, vgg.CONVOLUTIONS[model][block - 1] + 1):
            assert shapes[f"block{block}_conv{index}"] == (2, side, side, width)
        assert shapes[f"block{block}_pool"] == (2, side // 2, side // 2, width)
    assert params["fc1"]["kernel"].shape == (25088, 4096)
    assert shapes["fc1"] == shapes["fc2"] == (2, 4096)
    assert shapes["predictions"] == (2, 1000)


@pytest.mark.parametrize("model", ["vgg16", "vgg19"])
def test_features_equal_numpy_in_float64_alone_batched_and_mapped(model, rng, request):
    params = request.getfixturevalue(model)
    image = rng.random((37, 51, 3), np.float32)
    expected = oracle.features(params, image)
    layers = vgg.layer_names(model)

    def run(params, images):  # constants of the program would take long to compile
        return nst_jax.features(params, images, layers=layers)

    alone = jax.jit(run)(params, image)
    batched = jax.jit(run)(params, np.stack([image, image[::-1]]))
    mapped = jax.jit(jax.vmap(run, in_axes=(None, 0)))(params, image[None])
    for layer in layers:
        scale = np.abs(expected[layer]).max()
        for value in (alone[layer], batched[layer][0], mapped[layer][0]):
            np.testing.assert_allclose(value, expected[layer], atol=1e-5 * scale, rtol=0)


OPTIONS = [
    {"pooling": "average"},
    {"pooling": "average", "pooling_correction": False},
    {"pooling": "l2"},
    {"pooling": "l2", "pooling_correction": False},
    {"padding": "replicate"},
    {"pooling": "l2", "padding": "replicate"},
]


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", OPTIONS, ids=lambda options: "-".join(map(str, options.values()))
)
def test_options_equal_numpy_in_float64(vgg16, options, rng):
    """Alone, batched and mapped where all options are taken at once."""
    image = rng.random((19, 26, 3), np.float32)
    layers = ("block1_conv1", "block1_pool", "block2_conv2", "block3_pool")
    expected = oracle.features(vgg16, image, **options)

    def run(params, images):
        return nst_jax.features(params, images, layers=layers, **options)

    found = [jax.tree.map(lambda x: x[1], jax.jit(run)(vgg16, np.stack([image[::-1], image])))]
    if options is OPTIONS[-1]:
        found.append(jax.jit(run)(vgg16, image))
        mapped = jax.jit(jax.vmap(run, in_axes=(None, 0)))(vgg16, image[None])
        found.append(jax.tree.map(lambda x: x[0], mapped))
    for layer in layers:
        scale = np.abs(expected[layer]).max()
        for values in found:
            np.testing.assert_allclose(values[layer], expected[layer], atol=1e-5 * scale, rtol=0)


@pytest.mark.parametrize("options", [{}, *OPTIONS[::2], OPTIONS[-1]], ids=str)
def test_gradient_equals_finite_differences_in_float64(vgg16, options, rng):
    image = rng.random((13, 10, 3), np.float32)
    layer = "block3_conv1"
    weights = rng.random((3, 2, 256), np.float32)

    @jax.jit
    @jax.grad
    def gradient(image, params):
        return jnp.sum(weights * nst_jax.features(params, image, layers=(layer,), **options)[layer])

    found = np.asarray(gradient(image, vgg16), np.float64)
    direction = rng.normal(size=image.shape)
    slope = oracle.slope(
        lambda x: (weights * oracle.features(vgg16, x, **options)[layer]).sum(),
        image.astype(np.float64),
        direction,
    )
    np.testing.assert_allclose((found * direction).sum(), slope, rtol=1e-4)


@pytest.mark.parametrize("pooling", vgg.POOLINGS)
def test_pooling_equals_numpy_on_odd_sides_and_any_leading_axes(pooling, rng):
    x = rng.normal(size=(2, 3, 7, 9, 4)).astype(np.float32)
    found = jax.jit(vgg.POOLINGS[pooling])(x)
    assert found.shape == (2, 3, 3, 4, 4)
    expected = oracle.pool(x[1, 2].astype(np.float64), pooling, correction=False)
    np.testing.assert_allclose(found[1, 2], expected, rtol=1e-6)


def test_l2_pooling_of_zeros_has_a_zero_gradient(rng):
    x = rng.random((4, 4, 2), np.float32)
    x[:2, :2] = 0
    gradient = jax.grad(lambda x: vgg.l2_pool(x).sum())(x)
    np.testing.assert_array_equal(gradient[:2, :2], 0)
    # Elsewhere x over the root of its window's sum of squares.
    window = x[2:, 2:, 1].astype(np.float64)
    np.testing.assert_allclose(gradient[2:, 2:, 1], window / np.sqrt((window**2).sum()), rtol=1e-5)


@pytest.mark.slow
def test_pooling_correction_keeps_deep_activations_on_the_scale_of_max_pooling(vgg19):
    image = examples.butterfly(96).astype(np.float32)

    def size(**options):
        found = nst_jax.features(vgg19, image, layers=("block5_conv1",), **options)
        return float(jnp.sqrt(jnp.mean(jnp.square(found["block5_conv1"]))))

    reference = size()
    for pooling in ("average", "l2"):
        corrected = abs(np.log(size(pooling=pooling) / reference))
        uncorrected = abs(np.log(size(pooling=pooling, pooling_correction=False) / reference))
        assert corrected < 0.75 * uncorrected, pooling
        assert np.exp(corrected) < 3, pooling


@pytest.mark.parametrize("prepared", [False, True])
def test_circular_padding_sees_the_picture_as_a_tile(vgg16, rng, prepared):
    """The oracle is the middle of 3x3 tiles, whose border is far from the middle one."""
    layers = ("block1_conv1", "block2_conv2", "block3_conv1")
    image = rng.random((48, 64, 3)).astype(np.float32)
    params = vgg.prepare(vgg16, layers=layers) if prepared else vgg16
    found = nst_jax.features(params, image, layers=layers, padding="circular")
    tiles = nst_jax.features(vgg16, np.tile(image, (3, 3, 1)), layers=layers)
    for layer in layers:
        height, width = found[layer].shape[:2]
        middle = tiles[layer][height : 2 * height, width : 2 * width]
        np.testing.assert_allclose(found[layer], middle, atol=2e-5 * np.max(middle))


def test_replicate_padding_keeps_a_flat_picture_flat_at_the_first_layer(vgg16):
    image = jnp.full((16, 16, 3), 0.8)

    def spread(padding):
        found = nst_jax.features(vgg16, image, layers=("block1_conv1",), padding=padding)
        return float(jnp.ptp(found["block1_conv1"], axis=(0, 1)).max())

    assert spread("replicate") < 1e-3
    assert spread("zeros") > 10


def test_replicate_padding_leaves_deeper_convolutions_padded_with_zeros(vgg16):
    image = jnp.full((16, 16, 3), 0.8)
    found = nst_jax.features(vgg16, image, layers=("block1_conv2",), padding="replicate")
    assert float(jnp.ptp(found["block1_conv2"], axis=(0, 1)).max()) > 10


def test_runs_only_as_deep_as_asked(vgg16):
    shallow = {name: vgg16[name] for name in vgg16}
    shallow["block2_conv1"] = {"kernel": jnp.full((3, 3, 64, 128), jnp.nan), "bias": jnp.zeros(128)}
    image = jnp.full((32, 32, 3), 0.5)
    found = nst_jax.features(shallow, image, layers=("block1_pool", "block1_conv1"))
    assert list(found) == ["block1_pool", "block1_conv1"]
    assert all(np.isfinite(value).all() for value in found.values())
    text = str(
        jax.make_jaxpr(lambda x: nst_jax.features(vgg16, x, layers=("block2_conv1",)))(image)
    )
    assert text.count("conv_general_dilated") == 3


@pytest.mark.slow
def test_the_last_layer_of_a_block_has_an_alias(vgg16, vgg19):
    image = jnp.full((32, 32, 3), 0.25)
    for params, name in ((vgg16, "block5_conv3"), (vgg19, "block5_conv4")):
        alias = nst_jax.features(params, image, layers=("block5_last",))["block5_last"]
        exact = nst_jax.features(params, image, layers=(name,))[name]
        np.testing.assert_array_equal(alias, exact)


@pytest.mark.slow
def test_classify_gives_probabilities(rng, monkeypatch):
    monkeypatch.setattr(vgg, "HIDDEN", 64)  # the head's arithmetic, without its 400 MB
    params = vgg.init_params(jax.random.key(1), "vgg16", head=True)
    images = rng.random((2, 224, 224, 3), np.float32)
    found = jax.jit(nst_jax.classify)(params, images)
    assert found.shape == (2, 1000)
    np.testing.assert_allclose(found.sum(axis=1), 1.0, rtol=1e-5)
    (logits,) = nst_jax.features(params, images, layers=("logits",)).values()
    np.testing.assert_allclose(jax.nn.softmax(logits), found, atol=1e-6)
    # The head again in float64, from our own features.
    features = jax.jit(functools.partial(nst_jax.features, layers=("block5_pool",)))
    x = np.asarray(features(params, images)["block5_pool"])
    x = x.reshape(2, -1).astype(np.float64)
    for name in ("fc1", "fc2", "predictions"):
        x = x @ np.asarray(params[name]["kernel"], np.float64) + np.asarray(params[name]["bias"])
        x = np.maximum(x, 0) if name != "predictions" else x
    expected = np.exp(x - x.max(axis=1, keepdims=True))
    np.testing.assert_allclose(found, expected / expected.sum(axis=1, keepdims=True), atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": ("block4_conv9",)}, "did you mean 'block4_conv"),
        ({"layers": ("relu4_2",)}, "did you mean 'block4_conv2'"),
        ({"layers": ("conv4_2",)}, "did you mean 'block4_conv2'"),
        ({"layers": ("r42",)}, "did you mean 'block4_conv2'"),
        ({"layers": ("r4_2",)}, "did you mean 'block4_conv2'"),
        ({"layers": ("Conv4-2",)}, "did you mean 'block4_conv2'"),
        ({"layers": ("block4_2",)}, "did you mean 'block4_conv2'"),
        ({"layers": ("p4",)}, "did you mean 'block4_pool'"),
        ({"layers": ("features.21",)}, "unknown layer 'features.21' of .*predictions$"),
        ({"layers": ("fc1",)}, "needs params with the head"),
        ({"pooling": "mex"}, "one of max, average, l2, got 'mex'; did you mean 'max'"),
        (
            {"padding": "zero"},
            "one of zeros, replicate, circular, got 'zero'; did you mean 'zeros'",
        ),
        ({"dtype": "float16"}, "one of float32, bfloat16, float64, got 'float16'; did you mean"),
        ({"precision": "low"}, "precision must be one of default, high, highest, got 'low'"),
        ({"images": np.zeros((64, 64, 3), np.uint8)}, "floating point"),
        ({"images": np.zeros((64, 64), np.float32)}, r"\[H, W, 3\]"),
        ({"images": np.zeros((64, 64, 4), np.float32)}, r"\[H, W, 3\]"),
        ({"images": np.zeros((64, 15, 3), np.float32)}, "at least 16 pixels"),
    ],
)
def test_bad_input_is_refused(vgg16, change, message):
    arguments = {"images": np.zeros((64, 64, 3), np.float32), "layers": ("block5_conv1",)}
    arguments |= change
    with pytest.raises(ValueError, match=message):
        nst_jax.features(vgg16, arguments.pop("images"), **arguments)


@pytest.mark.parametrize(
    "function",
    [
        functools.partial(nst_jax.features, layers=("block1_conv1",)),
        functools.partial(vgg.check_layers, layers=("block1_conv1",)),
        nst_jax.classify,
    ],
    ids=["features", "check_layers", "classify"],
)
def test_arguments_in_the_wrong_order_are_refused_in_one_line(vgg16, function):
    image = np.zeros((64, 48, 3), np.float32)
    for params, images, got in (
        (image, vgg16, r"params: an array of shape \[64, 48, 3\], images: a dict"),
        (vgg16, "cat.jpg", "params: a dict, images: a str"),
        ("vgg16", image, r"params: a str, images: an array of shape \[64, 48, 3\]"),
    ):
        wanted = r"^params must be a parameter tree .* and images an array \[H, W, 3\] or .*, got "
        with pytest.raises(TypeError, match=f"{wanted}{got}$") as error:
            function(params, images)
        assert "\n" not in str(error.value)


def test_functions_of_params_refuse_anything_else(rng):
    image = rng.random((64, 48, 3), np.float32)
    options = {"pooling": "max", "pooling_correction": True, "padding": "zeros"}
    options |= {"dtype": None, "precision": None}
    for function in (
        vgg.network_name,
        functools.partial(vgg.network, **options),
        functools.partial(vgg.prepare, layers=("block1_conv2",)),
    ):
        with pytest.raises(
            TypeError, match=r"^params must be .* got an array of shape \[64, 48, 3"
        ):
            function(image)


def test_layers_are_any_sequence_but_a_string(vgg16):
    image = jnp.full((8, 8, 3), 0.5)
    layers = ["block1_conv1", "block1_conv2"]
    prepared = vgg.prepare(vgg16, layers=layers)
    assert [name for name in prepared if "winograd" in prepared[name]] == ["block1_conv2"]
    assert list(vgg.features(prepared, image, layers=layers)) == layers
    wanted = "^layers must be a sequence of names, got the string 'block1_conv1'$"
    with pytest.raises(TypeError, match=wanted):
        vgg.features(vgg16, image, layers="block1_conv1")
    with pytest.raises(TypeError, match=wanted):
        vgg.prepare(vgg16, layers="block1_conv1")


def test_preparing_twice_changes_and_copies_nothing(vgg16):
    once = vgg.prepare(vgg16, layers=("block1_conv2",))
    twice = vgg.prepare(once, layers=("block2_conv1",))
    assert [name for name in twice if "winograd" in twice[name]] == ["block1_conv2", "block2_conv1"]
    assert twice["block1_conv2"]["winograd"] is once["block1_conv2"]["winograd"]
    again = vgg.prepare(twice, layers=("block1_conv2", "block2_conv1"))
    for one, other in zip(jax.tree.leaves(twice), jax.tree.leaves(again), strict=True):
        assert one is other
    # At the top level, for the layers of a config; those of the default reach into block 5.
    assert "winograd" in nst_jax.prepare(vgg16)["block5_conv1"]
    config = basic.CONFIG.replace(**basic.FIRST_LAYERS)
    assert "winograd" not in nst_jax.prepare(vgg16, config)["block2_conv1"]


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit, jax.checkpoint])
def test_a_gradient_by_prepared_kernels_is_refused(vgg16, rng, transform):
    layers = ("block1_conv2",)
    prepared, picture = vgg.prepare(vgg16, layers=layers), rng.random((8, 8, 3), np.float32)

    def loss(params, picture):
        return jnp.mean(vgg.features(params, picture, layers=layers)["block1_conv2"])

    whole = jax.grad(transform(loss), argnums=1)(vgg16, picture)
    found = jax.grad(transform(loss), argnums=1)(prepared, picture)
    np.testing.assert_allclose(found, whole, atol=1e-4 * np.abs(whole).max())
    assert np.abs(jax.grad(transform(loss))(vgg16, picture)["block1_conv2"]["kernel"]).max() > 0
    for argnums in (0, (0, 1)):
        with pytest.raises(TypeError, match="prepared kernels, which have no gradient"):
            jax.grad(transform(loss), argnums=argnums)(prepared, picture)


def test_a_tree_of_neither_network_is_refused(vgg16):
    broken = {name: layer for name, layer in vgg16.items() if name != "block3_conv2"}
    with pytest.raises(ValueError, match="13 convolutions of VGG16 or the 16 of VGG19"):
        nst_jax.features(broken, jnp.zeros((32, 32, 3)), layers=("block1_conv1",))


def test_prepared_parameters_are_for_float32(vgg16, rng):
    layers = ("block1_conv2",)
    prepared = vgg.prepare(vgg16, layers=layers)
    picture = rng.random((8, 8, 3), np.float32)
    assert vgg.features(prepared, picture, layers=layers)["block1_conv2"].dtype == jnp.float32
    with pytest.raises(ValueError, match="dtype bfloat16 in precision default needs parameters as"):
        vgg.features(prepared, picture, layers=layers, dtype="bfloat16")


@pytest.mark.parametrize(
    "function",
    [
        vgg.layer_names,
        vgg.parameter_shapes,
        lambda model: vgg.init_params(jax.random.key(0), model),
    ],
    ids=["layer_names", "parameter_shapes", "init_params"],
)
def test_an_unknown_model_is_refused_by_name(function):
    with pytest.raises(ValueError, match="model must be one of vgg16, vgg19, got 'vgg13'"):
        function("vgg13")


def test_activations_before_relu_and_logits_have_names(vgg16, rng):
    """ReLU and softmax of them, in NumPy, give the layers that come after."""
    image = rng.random((16, 18, 3), np.float32)
    names = ("block1_conv2", "block1_conv2_pre_relu", "block2_last", "block2_last_pre_relu")
    found = {name: np.asarray(x) for name, x in vgg.features(vgg16, image, layers=names).items()}
    for name in ("block1_conv2", "block2_last"):
        before = found[f"{name}_pre_relu"]
        assert before.min() < 0
        np.testing.assert_array_equal(np.maximum(before, 0), found[name])
    prepared = vgg.prepare(vgg16, layers=names)
    again = vgg.features(prepared, image, layers=names)
    for name, x in found.items():
        np.testing.assert_allclose(again[name], x, atol=1e-4 * np.abs(x).max())
    assert vgg.receptive_field("vgg16", "block1_conv2_pre_relu") == (1, 2)
    for unknown in ("block9_conv1_pre_relu", "block1_conv1_pre_relu_pre_relu", "fc1_pre_relu"):
        with pytest.raises(ValueError, match=f"unknown layer '{unknown}'"):
            vgg.features(vgg16, image, layers=(unknown,))
    with pytest.raises(ValueError, match="layer logits needs params with the head"):
        vgg.features(vgg16, np.zeros((224, 224, 3), np.float32), layers=("logits",))


def test_a_term_looks_at_activations_before_relu(vgg16, rng):
    content, style = (rng.random((24, 20, 3), np.float32) for _ in range(2))
    config = nst_jax.presets["default"].replace(
        nearest=None,
        content_layers=("block1_conv2_pre_relu",),
        style_layers=("block1_conv1_pre_relu",),
    )
    targets = nst_jax.compute_targets(vgg16, content, [style], config)
    whole, strips = (
        nst_jax.objective_value(content, vgg16, targets, config, partition=partition)[0]
        for partition in (Together(), Together(3))
    )
    np.testing.assert_allclose(strips, whole, rtol=1e-5)
    options = {"layers": ("block1_conv1_pre_relu",), "padding": "replicate"}
    (before,) = vgg.features(vgg16, style, **options).values()
    before = np.asarray(before, float) / 64.2  # the usual size of block1_conv1
    gram = np.einsum("hwc,hwd->cd", before, before) / before[..., 0].size
    kept = targets.terms["style"]["block1_conv1_pre_relu"].gram[0]
    np.testing.assert_allclose(kept, gram, rtol=1e-4, atol=1e-4 * gram.max())
