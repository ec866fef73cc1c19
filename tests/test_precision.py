"""The network in bfloat16 against the network in float32: types, sums, losses, pictures."""

import functools

import basic
import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest

import nst_jax
from nst_jax import losses, objective, optimize
from nst_jax.optimizers import LBFGS, SGD, Adam
from nst_jax.terms import WassersteinStyle

CONFIG = basic.CONFIG.replace(content_weight=0.5, style_weight=50.0).replace(
    size=48,
    first_size=None,
    steps=6,
    content_layers=("block2_conv2",),
    style_layers=("block1_conv1", "block2_conv1"),
)
WASSERSTEIN = WassersteinStyle(weight=50.0, layers=("block1_conv1", "block2_conv1"))
HALF = CONFIG.replace(dtype="bfloat16")
MASKS = np.stack([np.tile(np.linspace(0, 1, 48), (36, 1)), np.tile(np.linspace(1, 0, 48), (36, 1))])


def picture(rng, height, width, cell):
    coarse = np.kron(rng.random((height // cell, width // cell, 3)), np.ones((cell, cell, 1)))
    return (0.8 * coarse + 0.2 * rng.random(coarse.shape)).astype(np.float32)


@pytest.fixture
def content(rng):
    return picture(rng, 36, 48, 4)


@pytest.fixture
def styles(rng):
    return [picture(rng, 40, 48, 8), picture(rng, 48, 36, 2)]


def cosine(a, b):
    a, b = (np.asarray(x, np.float64).ravel() for x in (a, b))
    return a @ b / np.sqrt(a @ a * (b @ b))


def psnr(a, b):
    return -10 * np.log10(np.mean(np.square(np.asarray(a, np.float64) - np.asarray(b))))


@pytest.mark.slow
def test_features_are_of_the_precision_and_near_numpy_in_float64(vgg16, content):
    layers = ("block1_conv1", "block2_pool", "block3_conv1")
    expected = oracle.features(vgg16, content)
    found = nst_jax.features(vgg16, content, layers=layers, dtype="bfloat16")
    single = nst_jax.features(vgg16, content, layers=layers)
    for layer in layers:
        assert found[layer].dtype == jnp.bfloat16 and single[layer].dtype == jnp.float32
        error = np.asarray(found[layer], np.float64) - expected[layer]
        # Eight bits round by 2^-9 of each value, at inputs, kernels and activations.
        assert 1e-4 < np.linalg.norm(error) / np.linalg.norm(expected[layer]) < 0.02, layer


def products(jaxpr, found):
    """(name, operand types, precision) of every convolution and matrix product, inner ones too."""
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("conv_general_dilated", "dot_general"):
            types = {str(variable.aval.dtype) for variable in equation.invars}
            found.append((equation.primitive.name, types, equation.params["precision"]))
        for inner in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")
        ):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                products(inner, found)
    return found


@pytest.mark.parametrize("style", [CONFIG.term("style"), WASSERSTEIN], ids=["gram", "wasserstein"])
@pytest.mark.parametrize("config", [CONFIG, HALF], ids=["float32", "bfloat16"])
def test_every_product_of_a_step_says_its_precision(vgg16, content, styles, config, style):
    config = config.replace(style=style)
    targets = nst_jax.compute_targets(vgg16, content, styles[:1], config)
    gradient = jax.grad(lambda x: nst_jax.objective_value(x, vgg16, targets, config)[0])
    found = products(jax.make_jaxpr(gradient)(jnp.asarray(content)).jaxpr, [])
    kinds = [name for name, _, _ in found]
    assert kinds.count("conv_general_dilated") == 8  # four layers and their transposes
    assert kinds.count("dot_general") >= 4  # two Gram matrices and their transposes
    highest = (jax.lax.Precision.HIGHEST,) * 2
    for name, types, precision in found:
        # A product of float32 that does not say so is one of bfloat16 on a TPU.
        assert precision == highest or types == {"bfloat16"}, (name, types, precision)
        if name == "conv_general_dilated":
            assert types == {config["dtype"] or "float32"}
        assert len(types) == 1, "mixed operands are multiplied in float32"


def test_sums_over_a_large_map_neither_overflow_nor_stall():
    # 65536 positions of 300: bfloat16 stops growing at 256 terms, float16 ends at 65504.
    features = jnp.full((256, 256, 2), 300.0, jnp.bfloat16)
    # Some processors add up float32 one term after the other, which loses 1.5e-4 of such a sum.
    close = functools.partial(np.testing.assert_allclose, rtol=1e-3)
    sums = losses.statistics(features)
    close(sums.total, 65536 * 300.0)
    close(sums.gram, 65536 * 90000.0)
    weighted = losses.statistics(features, weights=jnp.full((256, 256), 0.5))
    close(weighted.gram, 65536 * 45000.0)
    close(losses.content_loss(features, 0 * features), 0.5 * 65536 * 2 * 90000.0)
    assert losses.content_loss(features, features) == 0.0


def test_gram_gradient_in_half_precision_is_that_of_numpy(rng):
    features = jnp.asarray(rng.random((6, 7, 5)), jnp.bfloat16)
    weights = rng.normal(size=(5, 5)).astype(np.float32)

    def value(features):
        return jnp.sum(weights * losses.gram_matrix(features))

    found = jax.grad(value)(features)
    assert found.dtype == jnp.bfloat16
    expected = np.asarray(features, np.float64) @ (weights + weights.T).astype(np.float64)
    np.testing.assert_allclose(np.asarray(found, np.float64), expected, atol=0.02 * expected.std())
    # The other mode, along a direction, is of the same derivative.
    direction = jnp.asarray(rng.normal(size=features.shape), jnp.bfloat16)
    _, slope = jax.jvp(value, (features,), (direction,))
    wanted = (expected * np.asarray(direction, np.float64)).sum()
    np.testing.assert_allclose(slope, wanted, atol=0.02 * np.abs(expected).sum())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "masks"),
    [
        ({}, None),
        ({}, MASKS),
        ({"style": WASSERSTEIN}, MASKS),
        ({"pooling": "l2"}, None),
    ],
    ids=["gram", "gram-masked", "wasserstein-masked", "l2"],
)
def test_loss_and_gradient_stay_near_float32(vgg16, content, styles, change, masks):
    image = jnp.asarray(content[::-1])
    values, gradients = [], []
    for config in (CONFIG.replace(**change), HALF.replace(**change)):
        targets = nst_jax.compute_targets(
            vgg16,
            content,
            styles[: 1 if masks is None else 2],
            config,
            combine=nst_jax.Combine(masks=masks),
        )
        (value, terms), gradient = jax.jit(
            jax.value_and_grad(nst_jax.objective_value, has_aux=True)
        )(image, vgg16, targets, config)
        assert all(term.dtype == jnp.float32 for term in terms.values())
        assert gradient.dtype == jnp.float32
        values.append(value)
        gradients.append(gradient)
    assert 0 < abs(values[1] / values[0] - 1) < 0.03
    assert cosine(*gradients) > 0.99


def test_content_is_compared_in_one_precision(vgg16, content, styles):
    # Targets in float32 would leave their rounding as a loss at the content itself.
    targets = nst_jax.compute_targets(vgg16, content, styles[:1], HALF)
    assert targets.terms["content"]["block2_conv2"].values.dtype == jnp.bfloat16
    assert targets.terms["style"]["block2_conv1"].gram.dtype == jnp.float32
    _, terms = nst_jax.objective_value(jnp.asarray(content), vgg16, targets, HALF)
    assert terms["content"] == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "near"),
    [
        ({}, 60),
        ({"style": WASSERSTEIN}, 60),
        # Without a line search its steps tell small differences of gradients apart.
        ({"optimizer": LBFGS(history_size=10), "clip": False}, 35),
    ],
    ids=["gram", "wasserstein", "lbfgs"],
)
def test_pictures_stay_near_those_of_float32(vgg16, content, styles, change, near):
    single, half = (
        nst_jax.stylize(vgg16, content, styles, config.replace(**change))
        for config in (CONFIG, HALF)
    )
    assert half.images.dtype == jnp.float32
    np.testing.assert_allclose(half.history["total"][-1], single.history["total"][-1], rtol=0.1)
    for n in range(2):
        assert psnr(single.images[n], content) < 32  # decibels: it did move
        assert near < psnr(single.images[n], half.images[n]) < 90


def test_the_optimisers_state_is_float32(content):
    for optimizer in (SGD(), Adam(), LBFGS()):
        states = optimize.start(jnp.asarray(content)[None], HALF.replace(optimizer=optimizer))
        types = {leaf.dtype.name for leaf in jax.tree.leaves(states)}
        assert types <= {"float32", "int32", "bool"}


@pytest.mark.slow
def test_a_second_job_in_half_precision_compiles_nothing(vgg16, content, styles, compilations):
    nst_jax.stylize(vgg16, content, styles, HALF)
    with compilations() as count:
        nst_jax.stylize(vgg16, 1 - content, styles, HALF.replace(steps=3, content_weight=2.0))
        assert count() == 0


@pytest.mark.parametrize(
    ("platform", "given", "found"),
    [
        ("cpu", {}, ("float32", "highest")),
        ("gpu", {}, ("float32", "default")),  # TF32
        ("tpu", {}, ("bfloat16", "default")),
        # Whoever asks for one of the two gets it on every device.
        ("gpu", {"dtype": "float32"}, ("float32", "highest")),
        ("tpu", {"dtype": "float32"}, ("float32", "highest")),
        ("tpu", {"precision": "high"}, ("float32", "high")),
        ("gpu", {"dtype": "bfloat16"}, ("bfloat16", "default")),
    ],
)
def test_a_device_decides_what_nobody_asked_for(
    vgg16, content, styles, monkeypatch, platform, given, found
):
    config = CONFIG.replace(dtype=None, precision=None).replace(**given)
    network = config.on(platform).network
    assert (network.dtype, network.precision) == found
    # As `stylize` runs it, up to the first program.
    monkeypatch.setattr(nst_jax.Placement, "platform", platform)
    seen = []

    def ended(params, config, **_):
        seen.append((config.network.dtype, config.network.precision))
        raise KeyboardInterrupt

    monkeypatch.setattr(objective, "prepare", ended)
    with pytest.raises(KeyboardInterrupt):
        nst_jax.stylize(vgg16, content, styles, config)
    assert seen == [found]
    # The published presets are full float32 on every device.
    published = nst_jax.presets["gatys"].on(platform).network
    assert (published.dtype, published.precision) == ("float32", "highest")
