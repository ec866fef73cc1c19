"""The loss that a style transfer minimises, for one picture, with its terms.

    total = content_weight * content + style_weight * style + tv_weight * total variation

Leon A. Gatys, Alexander S. Ecker, Matthias Bethge: "Image Style Transfer Using Convolutional
Neural Networks", CVPR 2016, equation 7, and Keras' example
https://keras.io/examples/generative/neural_style_transfer/ for the total variation.

Images are float32 sRGB, RGB order, range [0, 1], `[H, W, 3]`.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from nst_jax import combining, losses, magnitudes, remat, vgg
from nst_jax import image as image_lib
from nst_jax.config import NUMBERS, Config, put_together, take_apart


def _with_keys(config: Config) -> tuple[tuple, tuple]:
    values, structure = take_apart(config)
    return tuple(zip(map(jax.tree_util.GetAttrKey, NUMBERS), values, strict=True)), structure


jax.tree_util.register_pytree_with_keys(Config, _with_keys, put_together, take_apart)

# Published weights of these are for grey levels.
_TOTAL_VARIATION = {
    "keras": lambda x, weights, _: losses.total_variation(255.0 * x, weights=weights),
    "nine_point": lambda x, weights, shape: losses.total_variation_nine_point(
        x, weights=weights, shape=shape
    ),
    "l1": lambda x, weights, shape: losses.total_variation_l1(
        255.0 * x, weights=weights, shape=shape
    ),
}


class Targets(NamedTuple):
    """What pictures are compared with. `compute_targets` gives every leaf a leading axis of
    outputs; `objective_value` takes the targets of one output.

    Attributes:
      content: activations of the content picture, `{layer: [..., h, w, C]}`, in the precision
        of the configuration.
      style: statistics of the style picture as means over positions, `{layer: Statistics}`,
        float32; where there are masks, with an axis of regions.
      masks: share of each position in each region, `{layer: [..., regions, h, w]}`, or None:
        one region, the whole picture.
      picture: the content picture `[..., H, W, 3]` if `config.jitter` will move it, else None.
    """

    content: dict[str, jax.Array]
    style: dict[str, losses.Statistics]
    masks: dict[str, jax.Array] | None = None
    picture: jax.Array | None = None


def activations(params: Mapping, image: jax.Array, layers: Sequence[str], config: Config) -> dict:
    """`vgg.features` of one picture at `layers`, with the network that `config` describes."""
    if not layers:
        return {}
    options = {"layers": layers, **_network(config)}
    if config.remat:
        _, found = remat.visit(params, image, lambda *_: (), keep=layers, **options)
    else:
        found = vgg.features(params, image, **options)
    return magnitudes.normalized(params, found) if config.normalize_features else found


def _network(config: Config) -> dict[str, Any]:
    """The options of `vgg.features`."""
    names = ("pooling", "pooling_correction", "padding", "precision")
    return {name: getattr(config, name) for name in names}


def prepare(params: Mapping, config: Config) -> Mapping:
    """`params` as suits many steps on this backend: in float32 on a CPU those of `vgg.prepare`.

    Accelerators' own libraries choose an algorithm for each convolution.
    """
    if jax.default_backend() != "cpu" or config.precision != "float32":
        return params
    return vgg.prepare(params, layers=all_layers(config))


def content_targets(params: Mapping, content: jax.Array, config: Config) -> dict:
    """Activations of `content` `[H, W, 3]` at the content layers."""
    return activations(params, content, config.content_layers, config)


def style_targets(
    params: Mapping, style: jax.Array, config: Config, *, mask: jax.Array | None = None
) -> dict:
    """Per-position statistics of `style` `[h, w, 3]`, at its own size, at the style layers;
    of the part of it that `mask` `[h, w]` names, if there is one."""
    masks = mask if mask is None else {k: at_layer(mask, k)[None] for k in config.style_layers}
    sums, _ = compare(params, style, None, config, shape=style.shape, masks=masks)
    if masks is not None:  # of one region
        sums = jax.tree.map(lambda leaf: leaf[0], sums)
    return {layer: losses.per_position(value) for layer, value in sums.items()}


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
    masks: jax.Array | None = None,
    style_masks: Sequence[jax.Array | None] | None = None,
    measure: Callable[..., dict] | None = None,
) -> Targets:
    """Targets of every output: the content's activations and the styles' statistics.

    Args:
      params: parameter tree of VGG16 or VGG19.
      content: `[H, W, 3]`.
      styles: pictures `[h, w, 3]`, each of its own size.
      config: layers and network options.
      mixing: `[outputs, styles]`, rows sum to 1: the target statistics of an output are that
        mixture of the styles'. None is the identity, one output a style.
      masks: `[styles, H, W]` in [0, 1], where in the content each style applies, for one output
        of all styles; `[outputs, styles, H, W]` for several. A region's style loss counts by
        its share of the picture. After Gatys et al.: "Controlling Perceptual Factors in Neural
        Style Transfer", CVPR 2017, https://arxiv.org/abs/1611.07865, section 4.
      style_masks: for each style `[h, w]` in [0, 1], the part of it to learn from, or None.
      measure: what finds a style's statistics in place of `style_targets`, with its arguments.

    Returns:
      `Targets` with a leading axis of outputs on every leaf, ready for `jax.vmap`.

    Raises:
      TypeError: a picture that is not floating point.
      ValueError: a picture of another shape, no style, a layer that the network doesn't have or
        that has no positions, a picture too small for the deepest layer, a bad mixing, a mask of
        another size than its picture, out of [0, 1] or without any weight, or masks together with
        mixing or jitter.
    """
    image_lib.check_image("content", content, single=True)
    combining.check_combination(
        config, len(styles), mixing=mixing, masks=masks, style_masks=style_masks
    )
    for index, style in enumerate(styles):
        image_lib.check_image(f"styles[{index}]", style, single=True)
    style_masks = combining.check_style_masks(style_masks, styles)
    if masks is not None:
        masks = combining.check_masks(masks, len(styles), size=content.shape[:2])
    if mixing is not None:
        mixing = combining.check_mixing(mixing, len(styles))
    vgg.check_layers(params, content, all_layers(config), head=False)
    measure = _style_targets if measure is None else measure
    each = [
        measure(params, jnp.asarray(style), config, mask=mask)
        for style, mask in zip(styles, style_masks, strict=True)
    ]
    content = jnp.asarray(content)
    features = _content_targets(params, content, config)
    return _each_output(each, features, content if config.jitter else None, mixing, masks, config)


@jax.jit  # its many small operations would else be compiled one by one
def _each_output(styles, features, picture, mixing, masks, config) -> Targets:
    """Gives every leaf its leading axis of outputs."""
    style = jax.tree.map(lambda *leaves: jnp.stack(leaves), *styles)
    outputs = len(styles)
    regions = None
    if masks is not None:
        outputs = len(masks)
        regions = {layer: at_layer(masks, layer) for layer in config.style_layers}
        style = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (outputs, *leaf.shape)), style)
    elif mixing is not None:
        outputs = len(mixing)
        style = jax.tree.map(
            lambda leaf: jnp.tensordot(mixing, leaf, axes=1, precision="highest"), style
        )
    features, picture = jax.tree.map(
        lambda x: jnp.broadcast_to(x, (outputs, *x.shape)), (features, picture)
    )
    return Targets(content=features, style=style, masks=regions, picture=picture)


def objective_value(
    image: jax.Array,
    params: Mapping,
    targets: Targets,
    config: Config,
    *,
    shift: jax.Array | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The loss of one picture. Pure: `jax.grad`, `jax.jit` and `jax.vmap` it.

    For a batch, `jax.vmap(objective_value, in_axes=(0, None, 0, None))`. `config` is a pytree
    whose leaves are its numbers: a jitted call compiles anew only when its structure changes, and
    a vmapped one takes as its axes a tree of that kind, `jax.tree.map(axis_of, config)`.

    Args:
      image: `[H, W, 3]` in [0, 1], of the content's shape.
      params: parameter tree of VGG16 or VGG19.
      targets: one output's, from `compute_targets`; those of a single output may be passed
        with their leading axis of one.
      config: layers, normalisations and weights.
      shift: pixels `[2]` down and to the right by which image and content are rolled before the
        network sees them; needs targets made with `config.jitter`.

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
    targets = one_output(targets)
    terms = {"total_variation": variation_value(image, config)}
    wanted = targets.content
    if shift is not None:
        image = jnp.roll(image, shift, axis=(0, 1))
        moved = jnp.roll(targets.picture, shift, axis=(0, 1))
        wanted = content_targets(params, jax.lax.stop_gradient(moved), config)
    sums, terms["content"] = compare(
        params, image, wanted, config, shape=image.shape, masks=targets.masks
    )
    terms["style"] = style_value(sums, targets, config, shape=image.shape)
    total = terms["content"] + terms["style"] + terms["total_variation"]
    return total, {"total": total, **terms}


def layer_losses(
    image: jax.Array, params: Mapping, targets: Targets, config: Config
) -> dict[str, dict[str, jax.Array]]:
    """What each layer adds to the loss of one picture.

    Args:
      image, params, targets, config: as of `objective_value`.

    Returns:
      `{"content": {layer: loss}, "style": {layer: loss}}`, weighted scalars: those of each kind
      sum to its term of `objective_value`.
    """
    targets = one_output(targets)
    features = activations(params, image, all_layers(config), config)
    sums = style_statistics(features, config, masks=targets.masks)
    return {
        "content": content_losses(features, targets.content, config, shape=image.shape),
        "style": style_losses(sums, targets, config, shape=image.shape),
    }


# The terms one by one, each for a picture or for a window of it: `shape` is always the whole
# picture's, and what windows give for the positions that each of them owns adds up to the
# picture's value, or to its statistics.


def all_layers(config: Config) -> tuple[str, ...]:
    """The layers that the objective looks at, each once."""
    return tuple(dict.fromkeys(config.content_layers + config.style_layers))


def compare(
    params: Mapping,
    image: jax.Array,
    content: Mapping[str, jax.Array] | None,
    config: Config,
    *,
    shape: tuple[int, ...],
    masks: Mapping[str, jax.Array] | None = None,
    owned: Mapping[str, jax.Array] | None = None,
) -> tuple[dict[str, losses.Statistics], jax.Array]:
    """`style_statistics` and `content_value` of a picture `[H, W, 3]`, or of a window of it.

    With `config.remat`, strip by strip. `content` None leaves out the content layers.
    """
    if content is None:
        config, content = config.replace(content_layers=(), content_layer_weights=None), {}
    layers = all_layers(config)
    if not config.remat:
        features = activations(params, image, layers, config)
        sums = style_statistics(features, config, masks=masks, owned=owned)
        return sums, content_value(features, content, config, shape=shape, owned=owned)
    for layer, wanted in content.items():
        _check_size([side // vgg.smallest_side(layer) for side in image.shape[:2]], wanted)
    # What is cut into strips has its width as second axis.
    beside = {layer: {} for layer in layers}
    for name, tree in (("content", content), ("masks", masks or {}), ("owned", owned or {})):
        for layer, value in tree.items():
            beside[layer][name] = jnp.moveaxis(value, 0, -1) if name == "masks" else value

    def measure(features, beside):
        def found(name):
            return {layer: tree[name] for layer, tree in beside.items() if name in tree}

        if config.normalize_features:
            features = magnitudes.normalized(params, features)
        here, owned = _at(features, config), found("owned") or None
        regions = {layer: jnp.moveaxis(mask, -1, 0) for layer, mask in found("masks").items()}
        sums = style_statistics(features, here, masks=regions or None, owned=owned)
        return sums, content_value(features, found("content"), here, shape=shape, owned=owned)

    options = {"layers": layers, "beside": beside, **_network(config)}
    blocks, _ = remat.visit(params, image, measure, **options)
    sums = {layer: value for here, _ in blocks for layer, value in here.items()}
    if masks is None and owned is None:  # strips count what they have beyond the border, too
        for layer, value in sums.items():
            sums[layer] = value._replace(count=jnp.float32(positions_at(layer, image.shape)))
    return sums, sum((near for _, near in blocks), jnp.zeros(()))


def variation_value(
    image: jax.Array,
    config: Config,
    *,
    weights: jax.Array | None = None,
    shape: tuple[int, ...] | None = None,
) -> jax.Array:
    """Weighted total variation of `[H, W, 3]`; `weights` and `shape` as in `losses`."""
    return config.tv_weight * _TOTAL_VARIATION[config.tv_form](image, weights, shape)


def content_value(
    features: Mapping[str, jax.Array],
    target: Mapping[str, jax.Array],
    config: Config,
    *,
    shape: tuple[int, ...],
    owned: Mapping[str, jax.Array] | None = None,
) -> jax.Array:
    """Weighted content loss of activations `{layer: [h, w, C]}` against those of the content.

    Args:
      features, target: activations of the picture and of the content, or of a window of them.
      config: layers, reduction and weights.
      shape: `(H, W, ...)` of the picture.
      owned: `{layer: [h, w]}`, 1 at the positions that count and 0 elsewhere; None is all.
    """
    value = jnp.zeros(())
    for layer, weight in _weighted("content", config):
        own, wanted = features[layer], target[layer]
        _check_size(own.shape[:2], wanted)
        size = positions_at(layer, shape) * own.shape[-1]
        factor = {"half_sum": 1.0, "sum": 2.0, "mean": 2.0 / size}[config.content_reduction]
        if owned is not None:
            own, wanted = (owned[layer][..., None] * x for x in (own, wanted))
        value += weight * factor * losses.content_loss(own, wanted)
    return config.content_weight * value


def content_losses(features, target, config, *, shape, owned=None) -> dict[str, jax.Array]:
    """`content_value` of each content layer alone, `{layer: loss}`."""
    return {
        layer: content_value(features, target, _at((layer,), config), shape=shape, owned=owned)
        for layer in config.content_layers
    }


def _check_size(size: Sequence[int], wanted: jax.Array) -> None:
    if tuple(size) != wanted.shape[:2]:
        raise ValueError(
            f"image and content must be of one size, got activations {(*size, wanted.shape[-1])} "
            f"against {wanted.shape}"
        )


def style_statistics(
    features: Mapping[str, jax.Array],
    config: Config,
    *,
    masks: Mapping[str, jax.Array] | None = None,
    owned: Mapping[str, jax.Array] | None = None,
) -> dict[str, losses.Statistics]:
    """Sums over positions of the style layers' activations `{layer: [h, w, C]}`; with masks
    `{layer: [regions, h, w]}`, of each region. `owned` as in `content_value`."""

    def sums(layer):
        weights = None if owned is None else owned[layer]
        if masks is None:
            return losses.statistics(features[layer], weights=weights)
        regions = masks[layer] if weights is None else masks[layer] * weights[None]
        return jax.vmap(lambda region: losses.statistics(features[layer], weights=region))(regions)

    return {layer: sums(layer) for layer in config.style_layers}


def style_value(
    sums: Mapping[str, losses.Statistics],
    targets: Targets,
    config: Config,
    *,
    shape: tuple[int, ...],
) -> jax.Array:
    """Weighted style loss of a picture's `style_statistics` against the targets'.

    The target is taken over as many positions as the picture has, which is the paper's equation
    when both are of one size. Both sides stay divided by the positions, and the normaliser by
    their square: the same number, without sums of 1e15. With masks, each region's loss counts by
    its share of the picture. `shape` is the picture's, `(H, W, ...)`.
    """
    value = jnp.zeros(())
    for layer, weight in _weighted("style", config):
        positions = positions_at(layer, shape)
        own = losses.per_position(sums[layer])

        def compare(own, target, positions=positions):
            return _compare(own, target, config, shape, positions)

        if targets.masks is None:
            value += weight * compare(own, targets.style[layer])
        else:
            share = sums[layer].count / positions
            value += weight * jnp.sum(share * jax.vmap(compare)(own, targets.style[layer]))
    return config.style_weight * value


def style_losses(sums, targets, config, *, shape) -> dict[str, jax.Array]:
    """`style_value` of each style layer alone, `{layer: loss}`."""
    return {
        layer: style_value(sums, targets, _at((layer,), config), shape=shape)
        for layer in config.style_layers
    }


def positions_at(layer: str, shape: tuple[int, ...]) -> int:
    """Positions that a picture of `shape` `(H, W, ...)` has at `layer`."""
    side = vgg.smallest_side(layer)
    return (shape[0] // side) * (shape[1] // side)


def _compare(own, target, config, shape, positions):
    """The configured loss between two sets of per-position statistics."""
    channels = own.total.shape[-1]
    if config.style_loss == "wasserstein":
        return losses.wasserstein_loss(own, target)
    if config.style_normalization == "relative":
        return losses.relative_style_loss(own.gram, target.gram)
    normalizer = {
        "gatys": losses.gatys_normalizer(channels, positions),
        "keras": losses.keras_normalizer(*shape[:2]),
        "mean": losses.mean_normalizer(channels, positions),
        "pastiche": losses.mean_normalizer(channels, positions) * float(channels) ** 2,
    }[config.style_normalization]
    return losses.style_loss(own.gram, target.gram, normalizer=normalizer / float(positions) ** 2)


def at_layer(mask: jax.Array | None, layer: str) -> jax.Array | None:
    """A mask `[..., H, W]` of the picture, brought to `layer` as pooling brings the features."""
    if mask is None:
        return None
    poolings = vgg.smallest_side(layer).bit_length() - 1
    return image_lib.shrink_mask(mask, times=poolings)


def _weighted(kind: str, config: Config) -> list[tuple[str, jax.Array]]:
    """(layer, weight) of each layer of `kind`."""
    return list(zip(getattr(config, f"{kind}_layers"), config.layer_weights(kind), strict=True))


def _at(layers: Collection[str], config: Config) -> Config:
    """`config` of those of its layers alone, each with its own weight."""
    changes = {}
    for kind in ("content", "style"):
        pairs = [pair for pair in _weighted(kind, config) if pair[0] in layers]
        changes[f"{kind}_layers"] = tuple(layer for layer, _ in pairs)
        changes[f"{kind}_layer_weights"] = tuple(weight for _, weight in pairs)
    return config.replace(**changes)


def one_output(targets: Targets) -> Targets:
    """Drops the leading axis of `compute_targets` when it is one."""
    regions = targets.masks is not None
    ranks = {value.ndim for value in targets.content.values()}
    ranks |= {value.gram.ndim + 1 - regions for value in targets.style.values()}
    if ranks <= {3}:
        return targets
    outputs = {leaf.shape[0] for leaf in jax.tree.leaves(targets)}
    if ranks == {4} and outputs == {1}:
        return jax.tree.map(lambda leaf: leaf[0], targets)
    raise ValueError(
        f"targets must be of one output, got {sorted(outputs)}; use "
        "jax.vmap(objective_value, in_axes=(0, None, 0, None)) for several"
    )
