"""The loss that a style transfer minimises, for one picture, with its terms.

    total = content_weight * content + style_weight * style + tv_weight * total variation

Leon A. Gatys, Alexander S. Ecker, Matthias Bethge: "Image Style Transfer Using Convolutional
Neural Networks", CVPR 2016, equation 7, and Keras' example
https://keras.io/examples/generative/neural_style_transfer/ for the total variation.

Images are float32 sRGB, RGB order, range [0, 1], `[H, W, 3]`.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from nst_jax import losses, vgg
from nst_jax.config import NUMBERS, STRUCTURE, Config

jax.tree_util.register_dataclass(Config, data_fields=NUMBERS, meta_fields=STRUCTURE)


class Targets(NamedTuple):
    """What pictures are compared with. `compute_targets` gives every leaf a leading axis of
    outputs; `objective_value` takes the targets of one output.

    Attributes:
      content: activations of the content picture, `{layer: [..., h, w, C]}`.
      style: statistics of the style picture as means over positions, `{layer: Statistics}`.
    """

    content: dict[str, jax.Array]
    style: dict[str, losses.Statistics]


def content_targets(params: Mapping, content: jax.Array, config: Config) -> dict:
    """Activations of `content` `[H, W, 3]` at the content layers."""
    if not config.content_layers:
        return {}
    return vgg.features(params, content, layers=config.content_layers, pooling=config.pooling)


def style_targets(params: Mapping, style: jax.Array, config: Config) -> dict:
    """Per-position statistics of `style` `[h, w, 3]`, at its own size, at the style layers."""
    if not config.style_layers:
        return {}
    features = vgg.features(params, style, layers=config.style_layers, pooling=config.pooling)
    return {
        layer: losses.per_position(losses.statistics(value)) for layer, value in features.items()
    }


# Compiled once for each shape of picture; the configuration's numbers compile nothing.
_content_targets = jax.jit(content_targets)
_style_targets = jax.jit(style_targets)


def compute_targets(
    params: Mapping,
    content: jax.Array,
    styles: Sequence[jax.Array],
    config: Config,
    *,
    mixing: jax.Array | None = None,
) -> Targets:
    """Targets of every output: the content's activations and the styles' statistics.

    Args:
      params: parameter tree of VGG16 or VGG19.
      content: `[H, W, 3]`.
      styles: pictures `[h, w, 3]`, each of its own size.
      config: layers and pooling.
      mixing: `[outputs, styles]`, rows sum to 1: the target statistics of an output are that
        mixture of the styles'. None is the identity, one output a style.

    Returns:
      `Targets` with a leading axis of outputs on every leaf, ready for `jax.vmap`.

    Raises:
      ValueError: a picture of another shape or integer type, no style, a layer that the network
        doesn't have, a picture too small for the deepest layer, or a bad mixing.
    """
    check_image("content", content)
    if not len(styles):
        raise ValueError("styles must hold at least one picture, got none")
    for index, style in enumerate(styles):
        check_image(f"styles[{index}]", style)
    each = [_style_targets(params, jnp.asarray(style), config) for style in styles]
    style = jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)
    outputs = len(styles)
    if mixing is not None:
        mixing = check_mixing(mixing, len(styles))
        outputs = len(mixing)
        style = jax.tree.map(lambda leaf: jnp.tensordot(mixing, leaf, axes=1), style)
    shared = _content_targets(params, jnp.asarray(content), config)
    repeated = jax.tree.map(lambda x: jnp.broadcast_to(x, (outputs, *x.shape)), shared)
    return Targets(content=repeated, style=style)


def objective_value(
    image: jax.Array, params: Mapping, targets: Targets, config: Config
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The loss of one picture. Pure: `jax.grad`, `jax.jit` and `jax.vmap` it.

    For a batch, `jax.vmap(objective_value, in_axes=(0, None, 0, None))`. `config` is a pytree
    whose leaves are its numbers: a jitted call compiles anew only when its structure changes.

    Args:
      image: `[H, W, 3]` in [0, 1], of the content's shape.
      params: parameter tree of VGG16 or VGG19.
      targets: one output's, from `compute_targets`; those of a single style may be passed
        with their leading axis of one.
      config: layers, normalisations and weights.

    Returns:
      The total, and its weighted terms: `{"total", "content", "style", "total_variation"}`,
      scalars of which the last three sum to the first.

    Raises:
      ValueError: an image that is not `[H, W, 3]`, or targets of several outputs or another size.
    """
    if image.ndim != 3:
        raise ValueError(
            f"image must be one picture [H, W, 3], got {image.shape}; for several use "
            "jax.vmap(objective_value, in_axes=(0, None, 0, None))"
        )
    targets = _one_output(targets)
    layers = tuple(dict.fromkeys(config.content_layers + config.style_layers))
    features = {}
    if layers:
        features = vgg.features(params, image, layers=layers, pooling=config.pooling)
    content = jnp.zeros(())
    for layer, weight in _weighted(config.content_layers, config.content_layer_weights):
        content += weight * content_term(features[layer], targets.content[layer], config)
    style = jnp.zeros(())
    for layer, weight in _weighted(config.style_layers, config.style_layer_weights):
        style += style_term(
            features[layer], targets.style[layer], config, shape=image.shape, weight=weight
        )
    terms = {
        "content": config.content_weight * content,
        "style": config.style_weight * style,
        # Published weights are for grey levels.
        "total_variation": config.tv_weight * losses.total_variation(255.0 * image),
    }
    total = terms["content"] + terms["style"] + terms["total_variation"]
    return total, {"total": total, **terms}


def content_term(features: jax.Array, target: jax.Array, config: Config) -> jax.Array:
    """Content loss of one layer, `[h, w, C]` against `[h, w, C]`, reduced as configured."""
    if features.shape != target.shape:
        raise ValueError(
            f"image and content must be of one size, got activations {features.shape} "
            f"against {target.shape}"
        )
    if config.content_reduction == "mean":
        return 2.0 * losses.content_loss(features, target) / features.size
    return losses.content_loss(features, target)


def style_term(
    features: jax.Array,
    target: losses.Statistics,
    config: Config,
    *,
    shape: tuple[int, ...],
    weight: jax.Array | float,
) -> jax.Array:
    """Style loss of one layer: `[h, w, C]` against per-position statistics.

    The target is taken over as many positions as the picture has, which is the paper's equation
    when both are of one size. Both sides stay divided by the positions, and the normaliser by
    their square: the same number, without sums of 1e15.

    Args:
      shape: of the picture, for Keras' normaliser.
    """
    height, width, channels = features.shape
    positions = height * width
    if config.style_normalization == "keras":
        normalizer = losses.keras_normalizer(*shape[:2])
    else:
        normalizer = losses.gatys_normalizer(channels, positions)
    own = losses.per_position(losses.statistics(features))
    return losses.style_loss(
        own.gram, target.gram, normalizer=normalizer / float(positions) ** 2, weight=weight
    )


def check_image(name: str, image: jax.Array) -> None:
    """Refuses what is no picture, by its shape and type alone."""
    shape = getattr(image, "shape", None)
    if shape is None or len(shape) != 3 or shape[-1] != 3:
        raise ValueError(f"{name} must be a picture [H, W, 3], got {shape or type(image)}")
    if not jnp.issubdtype(image.dtype, jnp.floating):
        raise ValueError(f"{name} must be floating point in [0, 1], got {image.dtype}")


def check_mixing(mixing: jax.Array, styles: int) -> jax.Array:
    """`mixing` as an array, if it is `[outputs, styles]` with rows that sum to 1."""
    mixing = jnp.asarray(mixing, jnp.float32)
    if mixing.ndim != 2 or mixing.shape[1] != styles or not mixing.shape[0]:
        raise ValueError(f"mixing must be [outputs, {styles} styles], got {mixing.shape}")
    sums = jnp.sum(mixing, axis=1)
    if not jnp.allclose(sums, 1.0, atol=1e-4):
        raise ValueError(f"each row of mixing must sum to 1, got sums {sums.tolist()}")
    return mixing


def _weighted(layers, weights):
    """(layer, weight) pairs; `weights` is a sequence, an array, or None for equal shares."""
    return [
        (layer, 1.0 / len(layers) if weights is None else weights[index])
        for index, layer in enumerate(layers)
    ]


def _one_output(targets: Targets) -> Targets:
    """Drops the leading axis of `compute_targets` when it is one."""
    ranks = {value.ndim for value in targets.content.values()}
    ranks |= {value.gram.ndim + 1 for value in targets.style.values()}
    if ranks <= {3}:
        return targets
    outputs = {leaf.shape[0] for leaf in jax.tree.leaves(targets)}
    if ranks == {4} and outputs == {1}:
        return jax.tree.map(lambda leaf: leaf[0], targets)
    raise ValueError(
        f"targets must be of one output, got {sorted(outputs)}; use "
        "jax.vmap(objective_value, in_axes=(0, None, 0, None)) for several"
    )
