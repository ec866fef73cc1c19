"""Arrays have the shapes that the annotations say."""

import inspect

import jax
import numpy as np
import pytest
from beartype import beartype
from jaxtyping import TypeCheckError, jaxtyped

from nst_jax import color, image, losses, vgg


def picture(*shape):
    return np.random.default_rng(0).random(shape, np.float32)


WIDE, TALL = picture(9, 12, 3), picture(14, 7, 3)
PICTURES = picture(2, 9, 12, 3)
FEATURES, GRAM, WEIGHTS = picture(6, 8, 4), picture(4, 4), picture(6, 8)
MASK = picture(9, 12)

# By function, arguments that the annotations allow. NumPy arrays, which any caller may give.
CALLS = {
    image.resize: [(PICTURES, 5, 7)],
    image.cover: [(WIDE, 5, 7), (PICTURES, 5, 7)],
    image.resample: [(FEATURES, 3, 5)],
    image.pyramid_down: [(FEATURES,)],
    image.pyramid_up: [(FEATURES, 12, 16)],
    image.laplacian_pyramid: [(FEATURES, 2)],
    image.laplacian_sum: [([FEATURES, picture(3, 4, 4)],)],
    image.resize_mask: [(MASK, 5, 7)],
    image.shrink_mask: [(MASK, {"times": 1})],
    image.noise: [(jax.random.key(0), 5, 7)],
    image.drawn_pixels: [(jax.random.key(0), WIDE, 5, 7)],
    color.luminance: [(WIDE,), (PICTURES,)],
    color.grey: [(WIDE,), (PICTURES,)],
    color.match_luminance: [(TALL, WIDE)],
    color.with_luminance_of: [(WIDE, WIDE)],
    color.color_transfer_map: [(TALL, WIDE)],
    color.match_colors: [(TALL, WIDE)],
    color.match_histograms: [(TALL, WIDE)],
    losses.gram_matrix: [(FEATURES,), (FEATURES, {"weights": WEIGHTS})],
    losses.statistics: [(FEATURES,), (FEATURES, {"weights": WEIGHTS})],
    losses.content_loss: [(FEATURES, FEATURES)],
    losses.shifted: [(losses.Statistics(np.float32(15), FEATURES[0, 0], GRAM), -1.0)],
    losses.style_loss: [(GRAM, GRAM, {"normalizer": 2.0})],
    losses.relative_style_loss: [(GRAM, GRAM)],
    losses.optimal_transport: [(GRAM @ GRAM.T, GRAM.T @ GRAM, {"lowest": 1e-6})],
    losses.total_variation: [(WIDE,), (WIDE, {"weights": MASK})],
    losses.total_variation_nine_point: [(WIDE,), (WIDE, {"weights": MASK})],
    losses.total_variation_l1: [(WIDE,), (WIDE, {"weights": MASK})],
    vgg.preprocess: [(WIDE,), (PICTURES,)],
    vgg.max_pool: [(FEATURES,), (picture(2, 6, 8, 4),)],
    vgg.average_pool: [(FEATURES,)],
    vgg.l2_pool: [(FEATURES,)],
    vgg.replicate_border: [(FEATURES,)],
}


def name(function):
    return f"{function.__module__.rpartition('.')[2]}.{function.__name__}"


@pytest.mark.parametrize("function", CALLS, ids=name)
def test_arrays_have_the_annotated_shapes(function):
    checked = jaxtyped(inspect.unwrap(function), typechecker=beartype)
    for call in CALLS[function]:
        options = call[-1] if isinstance(call[-1], dict) else {}
        checked(*[argument for argument in call if argument is not options], **options)


def test_features_have_the_annotated_shapes(vgg16):
    checked = jaxtyped(inspect.unwrap(vgg.features), typechecker=beartype)
    checked(vgg16, picture(2, 16, 16, 3), layers=("block1_conv1", "block2_conv1"))


def test_the_check_refuses_other_shapes():
    checked = jaxtyped(inspect.unwrap(color.luminance), typechecker=beartype)
    with pytest.raises(TypeCheckError):
        checked(picture(9, 12, 4))


@pytest.mark.parametrize("module", [image, color, losses], ids=lambda m: m.__name__)
def test_every_public_array_function_is_called_above(module):
    for function_name, function in inspect.getmembers(module, inspect.isroutine):
        own = getattr(function, "__module__", None) == module.__name__
        arrays = "Float" in str(inspect.signature(function).parameters) if own else False
        if arrays and not function_name.startswith("_"):
            assert function in CALLS, function_name
