"""Each preset's loss on given arrays against its published formula, in NumPy float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest

import nst_jax
from nst_jax import optimizers

FIRST = [f"block{block}_conv1" for block in range(1, 6)]


def mean_gram(x):
    return oracle.gram(x) / (x.shape[0] * x.shape[1])


def keras_tv(image):
    """Keras' example: sum of (a + b)^1.25 for squared differences of grey levels."""
    x = 255 * image
    a = (x[:-1, :-1] - x[1:, :-1]) ** 2
    b = (x[:-1, :-1] - x[:-1, 1:]) ** 2
    return ((a + b) ** 1.25).sum()


def keras(own, content, style, image):
    """https://keras.io/examples/generative/neural_style_transfer/"""
    size = image.shape[0] * image.shape[1]
    loss = 2.5e-8 * ((own["block5_conv2"] - content["block5_conv2"]) ** 2).sum()
    for layer in FIRST:
        difference = oracle.gram(style[layer]) - oracle.gram(own[layer])
        loss += 1e-6 / 5 * (difference**2).sum() / (4 * 3**2 * size**2)
    return loss + 1e-6 * keras_tv(image)


def assignment(own, content, style, image):
    """The report: 1/2 sum of squares at the last convolution, Keras' normaliser and weights."""
    size = image.shape[0] * image.shape[1]
    loss = 2.5e-8 / 2 * ((own["block5_conv4"] - content["block5_conv4"]) ** 2).sum()
    for layer in FIRST:
        difference = oracle.gram(style[layer]) - oracle.gram(own[layer])
        loss += 1e-6 / 5 * (difference**2).sum() / (4 * 3**2 * size**2)
    return loss


def pastiche(own, content, style, image, content_weight=0.01):
    """pastiche 1.6.0: 0.01 * mse, and 10 / C^2 * mse of Gram matrices over positions."""
    loss = content_weight * ((own["block4_conv2"] - content["block4_conv2"]) ** 2).mean()
    for layer in FIRST:
        channels = own[layer].shape[-1]
        difference = mean_gram(own[layer]) - mean_gram(style[layer])
        loss += 10 / channels**2 * (difference**2).mean()
    return loss


def tf_blog(own, content, style, image):
    """The TensorFlow blog: means of squares, content 1e3, style 1e-2 over five layers."""
    loss = 1e3 * ((own["block5_conv2"] - content["block5_conv2"]) ** 2).mean()
    for layer in FIRST:
        loss += 1e-2 / 5 * ((mean_gram(own[layer]) - mean_gram(style[layer])) ** 2).mean()
    return loss


def quality(own, content, style, image):
    """crowsonkb/style-transfer-pytorch's objective, on features divided by their usual size."""
    content_scale, scales = 1065.7, (60.0, 305.3, 459.0, 1391.9, 178.3)
    difference = own["block4_conv2"] / content_scale - content["block4_conv2"] / content_scale
    loss = 0.015 * (difference**2).mean()
    for layer, share, scale in zip(FIRST, (256, 64, 16, 4, 1), scales, strict=True):
        distance = oracle.wasserstein(own[layer] / scale, style[layer] / scale, 1e-4)
        loss += share / 341 * distance
    return loss + 2.0 * oracle.total_variation_nine_point(image)


FORMULAS = {
    "assignment": assignment,
    "default": functools.partial(pastiche, content_weight=0.5),
    "gatys": pastiche,
    "keras": keras,
    "quality": quality,
    "tf_blog": tf_blog,
}


def test_every_preset_has_its_formula_here():
    assert sorted(FORMULAS) == sorted(nst_jax.presets)


@pytest.mark.parametrize("name", FORMULAS)
def test_loss_equals_the_published_formula(vgg19, rng, name):
    config = nst_jax.presets[name]
    image, content, style = (rng.random((32, 48, 3), np.float32) for _ in range(3))
    features = [oracle.features(vgg19, x, padding=config.padding) for x in (image, content, style)]
    expected = FORMULAS[name](*features, image.astype(np.float64))
    targets = nst_jax.compute_targets(vgg19, content, [style], config)
    found, _ = jax.jit(nst_jax.objective_value)(jnp.asarray(image), vgg19, targets, config)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_optimisers_are_the_published_ones():
    presets = nst_jax.presets
    # Keras: ExponentialDecay(100, decay_steps=100, decay_rate=0.96), 400 rows, 4000 steps.
    rates = [optimizers.learning_rate_at(presets["keras"], step) for step in (0, 100, 250)]
    np.testing.assert_allclose(rates, [100, 96, 100 * 0.96**2.5], rtol=1e-6)
    assert (presets["keras"].size, presets["keras"].size_of) == (400, "height")
    assert presets["keras"].steps == 4000
    # pastiche: torch.optim.LBFGS(lr=1, history_size=100, line_search_fn=None).
    gatys = presets["gatys"]
    assert (gatys.optimizer, gatys.learning_rate, gatys.memory) == ("lbfgs", 1.0, 100)
    assert not gatys.linesearch and gatys.steps == 1000
    # TensorFlow blog: AdamOptimizer(5, beta1=0.99, epsilon=1e-1), clipped each step.
    blog = presets["tf_blog"]
    assert (blog.optimizer, blog.learning_rate, blog.beta1) == ("adam", 5.0, 0.99)
    assert (blog.beta2, blog.epsilon, blog.clip, blog.steps) == (0.999, 0.1, True, 1000)
    # crowsonkb: Adam 0.02 on [0, 1] with betas 0.9 and 0.99, 1000 and then 500 steps a scale.
    quality = presets["quality"]
    np.testing.assert_allclose(quality.learning_rate / 255, 0.02)
    assert (quality.beta1, quality.beta2, quality.average_decay) == (0.9, 0.99, 0.99)
    assert (quality.first_size, quality.first_steps, quality.steps) == (128, 1000, 500)


def test_no_number_of_any_preset_compiles_anything(vgg19, rng, compilations):
    """Every number of the configuration at once, on the preset with the most structure."""
    config = nst_jax.presets["quality"].replace(
        size=32,
        first_size=None,
        first_steps=None,
        steps=2,
        content_layers=("block1_conv2",),
        style_layers=("block1_conv1",),
        style_layer_weights=(1.0,),
    )
    picture = rng.random((32, 32, 3), np.float32)
    nst_jax.stylize(vgg19, picture, [picture[::-1]], config)
    other = config.replace(
        steps=3,
        content_weight=0.2,
        style_weight=0.3,
        tv_weight=0.4,
        style_layer_weights=(0.5,),
        learning_rate=0.6,
        momentum=0.7,
        decay_rate=0.8,
        decay_steps=9.0,
        beta1=0.1,
        beta2=0.2,
        epsilon=0.3,
        average_decay=0.4,
    )
    with compilations() as count:
        nst_jax.stylize(vgg19, picture, [picture[::-1]], other)
        assert count() == 0
