"""VGG16 and VGG19 as flax.linen modules, and their activations as a pure function.

Karen Simonyan, Andrew Zisserman: "Very Deep Convolutional Networks for Large-Scale Image
Recognition", 2014, https://arxiv.org/abs/1409.1556. Configurations D (VGG16) and E (VGG19).

Images are float32 sRGB, RGB order, range [0, 1], `[H, W, 3]` or `[N, H, W, 3]`. The networks' own
range (BGR, 0-255, mean of ImageNet subtracted) exists only inside this module.

Parameters are the linen `params` tree, `{"block1_conv1": {"kernel": [3, 3, in, out],
"bias": [out]}, ..., "fc1", "fc2", "predictions"}`. The last three are the head, which is optional.
The layers of the tree tell which network it is.

Layers have Keras' names. The name of a convolution stands for its activation after ReLU. With
`_pre_relu` at its end, as in `block4_conv2_pre_relu`, it stands for the activation before ReLU.
`blockN_pool` is the output of the block's pooling. `fc1` and `fc2` are the activations of the
hidden dense layers. `logits` are the inputs of the last softmax. `predictions` are its outputs, the
class probabilities.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, cast, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Shaped

from nst_jax import winograd
from nst_jax.settings import check_choice, nearest

Model = Literal["vgg16", "vgg19"]
Pooling = Literal["max", "average", "l2"]
Padding = Literal["zeros", "replicate", "circular"]
DType = Literal["float32", "bfloat16", "float64"]
Precision = Literal["default", "high", "highest"]
Params = Mapping[str, Mapping[str, Any]]
"""A parameter tree, `{layer: {"kernel": ..., "bias": ...}}`."""

CONVOLUTIONS: dict[Model, tuple[int, ...]] = {"vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}
CHANNELS = (64, 128, 256, 512, 512)
HIDDEN = 4096
CLASSES = 1000
HEAD_SIZE = 224  # the side of the head's training pictures, in pixels
HEAD_LAYERS = ("fc1", "fc2", "predictions")  # those with parameters
HEAD_OUTPUTS = ("fc1", "fc2", "logits", "predictions")
PRE_RELU = "_pre_relu"

# The mean of the training pictures, BGR, in grey levels of 255. Source: model files of the Oxford
# group, https://gist.github.com/ksimonyan/3785162f95cd2d5fee77
MEAN_BGR = (103.939, 116.779, 123.68)


def preprocess(images: Float[ArrayLike, "*N H W 3"]) -> Float[Array, "*N H W 3"]:
    """Converts sRGB images in [0, 1] to the networks' range: BGR, 0-255, mean subtracted."""
    images = jnp.asarray(images)
    mean = jnp.broadcast_to(jnp.asarray(MEAN_BGR, images.dtype), images.shape)
    return 255.0 * images[..., ::-1] - mean


def max_pool(x: Float[ArrayLike, "*N H W C"]) -> Float[Array, "*N h w C"]:
    """Takes the maximum over windows of 2x2, stride 2.

    The shapes are [..., H, W, C] -> [..., H // 2, W // 2, C].
    """
    return _reduce_windows(jnp.maximum, x)


def average_pool(x: Float[ArrayLike, "*N H W C"]) -> Float[Array, "*N h w C"]:
    """Takes the mean over windows of 2x2, stride 2. The shapes are those of `max_pool`."""
    return _reduce_windows(jnp.add, x) / 4


def l2_pool(x: Float[ArrayLike, "*N H W C"]) -> Float[Array, "*N h w C"]:
    """Takes the root of the sum of squares over windows of 2x2, stride 2.

    The shapes are those of `max_pool`. A window of zeros, common after ReLU, has gradient zero.
    """
    return root(_reduce_windows(jnp.add, jnp.square(jnp.asarray(x))))


def root(squares: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The square root. Its gradient is zero at zero."""
    positive = squares > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squares, 1)), 0)


def _reduce_windows(combine: Callable, x: ArrayLike) -> jax.Array:
    """Combines each window of 2x2. Drops an odd last row or column, as Keras does.

    It uses strided slices and not `nn.max_pool`. A step with the gradient then takes about 10 %
    less time on a CPU.
    """
    x = jnp.asarray(x)
    height, width = x.shape[-3] // 2 * 2, x.shape[-2] // 2 * 2
    rows = combine(x[..., 0:height:2, :, :], x[..., 1:height:2, :, :])
    return combine(rows[..., 0:width:2, :], rows[..., 1:width:2, :])


POOLINGS: dict[Pooling, Callable] = {"max": max_pool, "average": average_pool, "l2": l2_pool}

# These factors keep activations near the scale of max pooling. The weights were trained with max
# pooling. Source: https://github.com/crowsonkb/style-transfer-pytorch
POOLING_CORRECTIONS: dict[Pooling, float] = {"max": 1.0, "average": 2.0, "l2": 0.78}


def corrected(pooled: Float[Array, "*shape"], pooling: Pooling) -> Float[Array, "*shape"]:
    """Pooled values near the scale of max pooling, see `POOLING_CORRECTIONS`."""
    factor = POOLING_CORRECTIONS[pooling]
    return pooled if factor == 1.0 else factor * pooled


# What the first convolution sees beyond the border of the picture. Deeper convolutions always see
# zeros there, as in training.
PADDINGS: tuple[Padding, ...] = get_args(Padding)

# How kernels and activations are stored, and how products are computed, by JAX's names.
DTYPES: dict[DType, Any] = {
    "float32": jnp.float32,
    "bfloat16": jnp.bfloat16,
    "float64": jnp.float64,
}
PRECISIONS: tuple[Precision, ...] = get_args(Precision)


# What a style transfer takes on an accelerator if nobody asks for a type or a precision: the
# fastest whose pictures cannot be told from those of "highest". docs/benchmarks.md has the table.
FASTEST: dict[str, tuple[DType, Precision]] = {
    "gpu": ("float32", "default"),
    "tpu": ("bfloat16", "default"),
}


def resolved_precision(
    dtype: DType | None, precision: Precision | None, *, platform: str | None = None
) -> tuple[DType, Precision]:
    """Replaces None by the default type and the default precision of products.

    The type is float32 by default. The precision is "default" for bfloat16 and "highest" for the
    other types. Without "highest", a TPU would multiply float32 in bfloat16, and newer GPUs would
    in TF32. With both None and the name of an accelerator, the result is its value in `FASTEST`.

    Args:
      dtype: of kernels and activations, or None.
      precision: of products, or None.
      platform: where the network runs, such as "gpu" or "tpu". None is the same as "cpu".
    """
    if dtype is None and precision is None and platform in FASTEST:
        return FASTEST[platform]
    dtype = "float32" if dtype is None else dtype
    if precision is None:
        precision = "default" if dtype == "bfloat16" else "highest"
    return dtype, precision


# A picture can be cut into horizontal strips that lie in the batch dimension: `[H, W, C]` becomes
# `[S, h, W, C]`. A network runs on all strips at once. Before each convolution, `Strips.halo`
# copies a row from each neighbour. The strips may hold more rows than the picture. `Strips.inside`
# sets these rows to zero: convolutions must see there what they see beyond a whole picture.


def divide_rows(
    x: Shaped[ArrayLike, "H ..."], count: int, rows: int, *, repeat: bool = False
) -> Shaped[Array, "count rows ..."]:
    """Cuts an array `[H, ...]` into strips `[count, rows, ...]`.

    Missing rows are zeros. With `repeat` they are copies of the last row of `x`.
    """
    x = jnp.asarray(x)
    missing = ((0, count * rows - x.shape[0]), *[(0, 0)] * (x.ndim - 1))
    if missing[0][1]:
        x = jnp.pad(x, missing, mode="edge" if repeat else "constant")
    return x.reshape(count, rows, *x.shape[1:])


def join_rows(x: Shaped[ArrayLike, "S h ..."], height: int) -> Shaped[Array, "height ..."]:
    """Joins strips `[S, h, ...]` to an array `[height, ...]`: the inverse of `divide_rows`."""
    x = jnp.asarray(x)
    return x.reshape(-1, *x.shape[2:])[:height]


def _shift(rows: jax.Array, by: int) -> jax.Array:
    """Moves each row `by` strips on, and fills the empty places with zeros.

    On a mesh the compiler turns this into one exchange between neighbours. A roll needs more.
    """
    zero = jnp.zeros((), rows.dtype)
    return jax.lax.pad(rows, zero, [(by, -by, 0), *[(0, 0, 0)] * (rows.ndim - 1)])


@dataclasses.dataclass(frozen=True)
class Strips:
    """Describes a layer `[S, h, W, C]` that is cut into strips.

    Attributes:
      height: the number of rows of the layer in the whole picture.
    """

    height: int

    def halo(self, x: jax.Array, *, repeat: bool = False) -> jax.Array:
        """Adds a row of each neighbour: `[S, h, W, C]` -> `[S, h + 2, W, C]`.

        Rows beyond the first and the last strip are zeros. With `repeat` they are copies of the
        strip's own border row.
        """
        first, last = x[:, :1], x[:, -1:]
        above, below = _shift(last, 1), _shift(first, -1)
        if repeat:
            index = jnp.arange(len(x)).reshape(-1, *[1] * (x.ndim - 1))
            above = jnp.where(index > 0, above, first)
            below = jnp.where(index < len(x) - 1, below, last)
        return jnp.concatenate([above, x, below], axis=1)

    def inside(self, x: jax.Array) -> jax.Array:
        """Sets the rows that the whole picture does not have to zero."""
        count, rows = x.shape[:2]
        if count * rows == self.height:
            return x
        index = jnp.arange(count * rows).reshape(count, rows, *[1] * (x.ndim - 2))
        return jnp.where(index < self.height, x, 0)

    def pooled(self) -> "Strips":
        """Describes the layer after a pooling."""
        return Strips(self.height // 2)


def replicate_border(x: Float[ArrayLike, "*N H W C"]) -> Float[Array, "*N H+2 W+2 C"]:
    """Repeats the border pixels once on each side: [..., H, W, C] -> [..., H + 2, W + 2, C]."""
    x = jnp.asarray(x)
    widths = [(0, 0)] * (x.ndim - 3) + [(1, 1), (1, 1), (0, 0)]
    return jnp.pad(x, widths, mode="edge")


def wrap_border(x: Float[ArrayLike, "*N H W C"]) -> Float[Array, "*N H+2 W+2 C"]:
    """Continues an array by its other side: [..., H, W, C] -> [..., H + 2, W + 2, C]."""
    x = jnp.asarray(x)
    widths = [(0, 0)] * (x.ndim - 3) + [(1, 1), (1, 1), (0, 0)]
    return jnp.pad(x, widths, mode="wrap")


def _replicate_columns(strips: Strips, x: jax.Array) -> jax.Array:
    """Does `replicate_border` for a picture in strips: [S, h, W, C] -> [S, h + 2, W + 2, C]."""
    # `jnp.pad` would do, but on a mesh its gradient exchanges whole strips.
    x = jnp.concatenate([x[:, :, :1], x, x[:, :, -1:]], axis=2)
    return strips.halo(x, repeat=True)


class Columns(NamedTuple):
    """Describes where a vertical strip `[..., H, W, C]` lies in a whole layer.

    Attributes:
      start: the index of its first column in the whole layer. It can be negative.
      width: the number of columns of the whole layer.
    """

    start: jax.Array
    width: int

    def inside(self, x: jax.Array) -> jax.Array:
        """Sets the columns outside the whole layer to zero."""
        index = self.start + jnp.arange(x.shape[-2])
        inside = ((index >= 0) & (index < self.width)).astype(x.dtype)
        return x * jnp.broadcast_to(inside[:, None], x.shape)

    def pooled(self) -> "Columns":
        """Describes the strip of the layer after a pooling."""
        return Columns(self.start // 2, self.width // 2)


class VGG(nn.Module):
    """A VGG network that returns the activations of the wanted layers.

    Attributes:
      convolutions: the number of convolutions in each of the five blocks.
      pooling: a name in `POOLINGS`.
      pooling_correction: whether pooled values are multiplied by their factor in
        `POOLING_CORRECTIONS`.
      padding: how convolutions pad, a name in `PADDINGS`.
      dtype: the type of kernels and activations, a name in `DTYPES`.
      precision: the precision of their products, a name in `PRECISIONS`.
      classes: the width of the last dense layer.
    """

    convolutions: tuple[int, ...]
    pooling: Pooling = "max"
    pooling_correction: bool = True
    padding: Padding = "zeros"
    dtype: DType = "float32"
    precision: Precision = "highest"
    classes: int = CLASSES

    @nn.compact
    def __call__(
        self,
        images: jax.Array,
        *,
        layers: Sequence[str],
        after: str | None = None,
        part: Strips | Columns | None = None,
    ) -> dict[str, jax.Array]:
        """Runs the network as deep as the deepest of `layers`; see `features`.

        Args:
          images: images as in `features`, or activations of the layer `after`.
          layers: the layers to return. All must come after the layer `after`.
          after: the layer to continue from. None starts from the images.
          part: says that `images` are a part of a picture, or a whole picture in strips. Every
            layer then sees its usual padding beyond the border of the whole picture. None is a
            whole picture.

        Returns:
          `{layer: activations}`, in the order of `layers`.
        """
        wanted = set(layers)
        found = {}
        chain = self._chain(part if isinstance(part, Strips) else None, wanted)
        if after is None:
            x = preprocess(images)
        else:
            x = images
            while next(chain)[0] != after:
                pass
        if part is not None and not (after is None and self.padding == "replicate"):
            x = part.inside(x)
        for name, layer in chain:
            if wanted <= found.keys():
                break
            x = layer(x)
            if part is not None:
                part = part.pooled() if name.endswith("_pool") else part
                x = part.inside(x)
            if name in wanted:
                found[name] = x
        return {name: found[name] for name in layers}

    def _chain(
        self, strips: Strips | None, wanted: Collection[str]
    ) -> Iterator[tuple[str, Callable]]:
        """Yields the layers from the image upwards, as (name, function).

        A layer is made when it is reached. With `strips`, the layers take a picture in strips. What
        lies before ReLU is a layer of its own only if it is `wanted`.
        """
        options: dict[str, Any] = {
            "dtype": DTYPES[self.dtype],
            "precision": jax.lax.Precision[self.precision.upper()],
        }
        for block, (depth, channels) in enumerate(
            zip(self.convolutions, CHANNELS, strict=True), start=1
        ):
            for index in range(1, depth + 1):
                name = f"block{block}_conv{index}"
                layers = [*self._convolution(name, channels, options, strips), nn.relu]
                if name + PRE_RELU in wanted:
                    yield name + PRE_RELU, nn.Sequential(layers[:-1])
                    layers = layers[-1:]
                yield name, nn.Sequential(layers)
            yield f"block{block}_pool", self._pool
        yield "flatten", lambda x: x.reshape(*x.shape[:-3], -1)
        for name in HEAD_LAYERS[:2]:
            yield name, nn.Sequential([nn.Dense(HIDDEN, name=name, **options), nn.relu])
        yield "logits", nn.Dense(self.classes, name="predictions", **options)
        yield "predictions", lambda x: nn.softmax(x.astype(jnp.promote_types(x.dtype, jnp.float32)))

    def _convolution(
        self, name: str, channels: int, options: dict[str, Any], strips: Strips | None
    ) -> list[Callable]:
        """Returns the functions that together are the convolution `name`."""
        params = self.get_variable("params", name, {})
        wraps = self.padding == "circular"
        if "winograd" in params:
            # Winograd's form always pads with zeros. The outputs of the halo are dropped.
            before, after = ([], []) if strips is None else ([strips.halo], [lambda x: x[:, 1:-1]])
            if wraps:
                before, after = [wrap_border], [lambda x: x[..., 1:-1, 1:-1, :]]
            return [
                *before,
                lambda x: winograd.convolve(x, params["winograd"]),
                *after,
                lambda x: x + jnp.broadcast_to(params["bias"], x.shape),
            ]
        convolve = functools.partial(nn.Conv, channels, (3, 3), name=name, **options)
        if self.padding == "replicate" and name == "block1_conv1":
            border = replicate_border
            if strips is not None:
                border = functools.partial(_replicate_columns, strips)
            return [border, convolve(padding="VALID")]
        if wraps:
            return [wrap_border, convolve(padding="VALID")]
        if strips is None:
            return [convolve()]
        return [strips.halo, convolve(padding=((0, 0), (1, 1)))]

    def _pool(self, x):
        pooled = POOLINGS[self.pooling](x)
        return corrected(pooled, self.pooling) if self.pooling_correction else pooled


def layer_names(model: Model, *, head: bool = False) -> tuple[str, ...]:
    """Returns the names of the layers of `model` ("vgg16" or "vgg19") from the image upwards.

    Raises:
      ValueError: another model.
    """
    check_choice("model", model, CONVOLUTIONS)
    names = []
    for block, depth in enumerate(CONVOLUTIONS[model], start=1):
        names += [f"block{block}_conv{index}" for index in range(1, depth + 1)]
        names.append(f"block{block}_pool")
    return (*names, *HEAD_OUTPUTS) if head else tuple(names)


def parameter_shapes(
    model: Model, *, head: bool = False, classes: int = CLASSES
) -> dict[str, dict[str, tuple[int, ...]]]:
    """Returns the shapes of the parameters of `model`, `{layer: {"kernel": ..., "bias": ...}}`.

    Raises:
      ValueError: a model other than "vgg16" and "vgg19".
    """
    check_choice("model", model, CONVOLUTIONS)
    shapes = {}
    inputs = 3
    for block, (depth, channels) in enumerate(
        zip(CONVOLUTIONS[model], CHANNELS, strict=True), start=1
    ):
        for index in range(1, depth + 1):
            shapes[f"block{block}_conv{index}"] = {
                "kernel": (3, 3, inputs, channels),
                "bias": (channels,),
            }
            inputs = channels
    if head:
        inputs *= (HEAD_SIZE // 2 ** len(CHANNELS)) ** 2
        for name, outputs in zip(HEAD_LAYERS, (HIDDEN, HIDDEN, classes), strict=True):
            shapes[name] = {"kernel": (inputs, outputs), "bias": (outputs,)}
            inputs = outputs
    return shapes


def network_name(params: Params) -> Model:
    """Tells whether a parameter tree is of "vgg16" or "vgg19", by its convolutions.

    Raises:
      TypeError: `params` is not a parameter tree.
      ValueError: the convolutions are those of neither network.
    """
    if not isinstance(params, Mapping):
        raise TypeError(f"params must be {_TREE}, got {_described(params)}")
    convolutions = {name for name in params if name not in HEAD_LAYERS}
    for model in CONVOLUTIONS:
        if convolutions == parameter_shapes(model).keys():
            return model
    raise ValueError(
        "params must hold the 13 convolutions of VGG16 or the 16 of VGG19 "
        f"(block1_conv1, ...), got {len(convolutions)} layers: {', '.join(sorted(convolutions))}"
    )


_TREE = 'a parameter tree {layer: {"kernel": ..., "bias": ...}}'


def _described(value: object) -> str:
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple):
        return f"an array of shape {list(shape)}"
    return f"a {type(value).__name__}"


def _as_images(params: object, images: Any) -> jax.Array:
    """Returns `images` as an array. Refuses arguments of other kinds or in the wrong order."""
    if not isinstance(params, Mapping) or isinstance(images, Mapping | str):
        raise _wrong_arguments(params, images)
    try:
        return jnp.asarray(images)
    except TypeError:
        raise _wrong_arguments(params, images) from None


def _wrong_arguments(params: object, images: object) -> TypeError:
    return TypeError(
        f"params must be {_TREE} and images an array [H, W, 3] or [N, H, W, 3], "
        f"got params: {_described(params)}, images: {_described(images)}"
    )


def resolve_layer(model: Model, name: str, *, head: bool = True) -> str:
    """Returns Keras' name of the layer `name` of `model`.

    `blockN_last` is the last convolution of block N. With `head` False, the layers of the head
    are refused.

    Raises:
      ValueError: there is no such layer. The message lists the layers and the nearest name.
    """
    if match := re.fullmatch(rf"block([1-5])_last({PRE_RELU})?", name):
        block = int(match[1])
        return f"block{block}_conv{CONVOLUTIONS[model][block - 1]}{match[2] or ''}"
    names = layer_names(model, head=head)
    if name.removesuffix(PRE_RELU) in names and "_conv" in name:
        return name
    if name not in names:
        if name in HEAD_OUTPUTS:
            raise ValueError(
                f"layer {name} has no positions in the picture; the layers that have positions are "
                f"{', '.join(names)}"
            )
        raise ValueError(
            f"unknown layer {name!r} of {model}; the layers are {', '.join(names)}"
            f"{nearest(_as_keras(name), names)}"
        )
    return name


def _as_keras(name: str) -> str:
    """Returns Keras' name of a layer with another name: `conv4_2`, `relu_4_2`, `r42`, `pool4`."""
    name = str(name).lower().replace("-", "_")
    name = re.sub(r"^(?:conv|relu|r|block)_?([1-5])_?([1-4])$", r"block\1_conv\2", name)
    return re.sub(r"^p(?:ool)?_?([1-5])$", r"block\1_pool", name)


def resolve_layers(model: Model, names: Sequence[str], *, head: bool = True) -> dict[str, str]:
    """Returns the layer of `model` for each of `names`, `{name: layer}`; see `resolve_layer`.

    Raises:
      ValueError: there is no such layer.
      TypeError: `names` is one string and not a sequence of names.
    """
    if isinstance(names, str):
        raise TypeError(f"layers must be a sequence of names, got the string {names!r}")
    return {name: resolve_layer(model, name, head=head) for name in names}


def convolutions(model: Model, layers: Sequence[str]) -> tuple[str, ...]:
    """Returns the convolutions of `model` that run for `layers`, from the image upwards.

    Raises:
      ValueError: the network does not have one of the layers.
      TypeError: `layers` is one string and not a sequence of names.
    """
    names = layer_names(model, head=True)
    resolved = [name.removesuffix(PRE_RELU) for name in resolve_layers(model, layers).values()]
    depth = 1 + max(map(names.index, resolved), default=-1)
    return tuple(name for name in names[:depth] if "_conv" in name)


class TooSmall(ValueError):
    """A picture is too small for a layer."""


def smallest_side(layer: str) -> int:
    """Returns the side, in pixels, of the smallest picture that has a position at `layer`."""
    if layer in HEAD_OUTPUTS:
        return HEAD_SIZE
    block = int(layer[len("block")])
    return 2 ** (block if layer.endswith("_pool") else block - 1)


def block_of(layer: str) -> int:
    """Returns the number, from 1, of the block of a layer with positions."""
    return int(layer[len("block")])


def channels(layer: str) -> int:
    """Returns the number of channels of a layer with positions."""
    return CHANNELS[block_of(layer) - 1]


def receptive_field(model: Model, layer: str) -> tuple[int, int]:
    """Returns stride and radius, in pixels, of `layer` of `model` ("vgg16" or "vgg19").

    Along each side, position i of the layer sees the pixels from `stride * i - radius` to
    `stride * (i + 1) - 1 + radius`.

    Raises:
      ValueError: there is no such layer, or it is in the head, which has no positions.
    """
    layer = resolve_layer(model, layer)
    if layer in HEAD_OUTPUTS:
        raise ValueError(f"layer {layer} has no positions in the picture")
    stride, radius = 1, 0
    for name in layer_names(model):
        if name.endswith("_pool"):
            stride *= 2
        else:
            radius += stride
        if name == layer.removesuffix(PRE_RELU):
            break
    return stride, radius


def features(
    params: Params,
    images: Float[ArrayLike, "*N H W 3"],
    *,
    layers: Sequence[str],
    pooling: Pooling = "max",
    pooling_correction: bool = True,
    padding: Padding = "zeros",
    dtype: DType | None = None,
    precision: Precision | None = None,
) -> dict[str, Float[Array, "..."]]:
    """Returns the activations of `layers`.

    The network runs only as deep as the deepest of them.

    Args:
      params: the parameter tree of VGG16 or VGG19. It needs the head only if `layers` name a
        layer of the head.
      images: float `[H, W, 3]` or `[N, H, W, 3]`, sRGB in [0, 1].
      layers: Keras' layer names, or `blockN_last` for the last convolution of block N. A
        convolution with `_pre_relu` at its end is the activation before ReLU, and `logits` are the
        inputs of the last softmax.
      pooling: "max", "average" or "l2" (root of the sum of squares), over windows of 2x2.
      pooling_correction: multiply average pooling by 2.0 and L2 pooling by 0.78. This keeps
        activations near the scale of max pooling, as in crowsonkb/style-transfer-pytorch.
      padding: what lies beyond the border: "zeros" as in training; or "replicate", which repeats
        the border pixels before the first convolution and reduces artefacts at the edges, as in the
        same source (deeper convolutions pad with zeros); or "circular", which continues each layer
        by its other side.
      dtype: "float32", "bfloat16" or "float64". With "bfloat16", the input of the first
        convolution, the kernels and all activations are rounded to it. "float64" is for checks,
        and needs `jax.config.update("jax_enable_x64", True)`. None is "float32".
      precision: the precision of products, by JAX's names: "highest", "high" or "default". None
        is "default" for bfloat16 and "highest" for the other types, on every platform.

    Returns:
      `{layer: [..., h, w, C]}`, in the order of `layers` and under the names that were given.
      Layers of the head are `[..., C]`. The arrays have the type `dtype`, so that later code can
      read half the memory. `predictions` are at least float32.

    Raises:
      ValueError: a layer, pooling, padding, dtype or precision is unknown; images have another
        shape or an integer type; a picture is too small for the deepest layer; or a layer of the
        head is wanted and `params` do not hold the head.
      TypeError: `params` is not a parameter tree or `images` is not an array, for example because
        the two are in the wrong order; or `layers` is one string and not a sequence of names.
    """
    images = _as_images(params, images)
    resolved = check_layers(params, images, layers)
    run = network(
        params,
        pooling=pooling,
        pooling_correction=pooling_correction,
        padding=padding,
        dtype=dtype,
        precision=precision,
    )
    wanted = tuple(dict.fromkeys(resolved.values()))
    # `apply` also stands for calls that return changed variables beside the result.
    found = cast(dict[str, jax.Array], run.apply({"params": params}, images, layers=wanted))
    return {name: found[layer] for name, layer in resolved.items()}


def check_layers(
    params: Params,
    images: jax.Array | np.ndarray | jax.ShapeDtypeStruct,
    layers: Sequence[str],
    *,
    head: bool = True,
) -> dict[str, str]:
    """Returns the layer for each of the names `layers`, if the network can run on `images`.

    Args:
      params: the parameter tree of VGG16 or VGG19.
      images: images as in `features`, or their shape and type.
      layers: names of layers, as in `features`.
      head: whether layers of the head are allowed.

    Returns:
      `{name: layer}`, in the order of `layers`.

    Raises:
      ValueError, TypeError: as in `features`.
    """
    if not isinstance(params, Mapping) or not hasattr(images, "shape"):
        raise _wrong_arguments(params, images)
    if images.ndim not in (3, 4) or images.shape[-1] != 3:
        raise ValueError(f"images must be [H, W, 3] or [N, H, W, 3], got {images.shape}")
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(f"images must be floating point in [0, 1], got {images.dtype}")
    resolved = resolve_layers(network_name(params), layers, head=head)
    height, width = images.shape[-3:-1]
    for layer in resolved.values():
        if layer in HEAD_OUTPUTS and "predictions" not in params:
            raise ValueError(f"layer {layer} needs params with the head, got params without it")
        if layer in HEAD_OUTPUTS and (height, width) != (HEAD_SIZE, HEAD_SIZE):
            raise ValueError(
                f"layer {layer} needs images of {HEAD_SIZE}x{HEAD_SIZE}, got {height}x{width}"
            )
        # Each side by itself: of two symbolic sizes, none is known to be the smaller one.
        if height < smallest_side(layer) or width < smallest_side(layer):
            raise TooSmall(
                f"layer {layer} needs images of at least {smallest_side(layer)} pixels a side, "
                f"got {height}x{width}"
            )
    return resolved


def network(
    params: Params,
    *,
    pooling: Pooling,
    pooling_correction: bool,
    padding: Padding,
    dtype: DType | None,
    precision: Precision | None,
) -> VGG:
    """Returns the network of a parameter tree, with the options of `features`.

    Raises:
      ValueError, TypeError: as in `features`.
    """
    model = network_name(params)
    dtype, precision = resolved_precision(dtype, precision)
    for name, value, choices in (
        ("pooling", pooling, POOLINGS),
        ("padding", padding, PADDINGS),
        ("dtype", dtype, DTYPES),
        ("precision", precision, PRECISIONS),
    ):
        check_choice(name, value, choices)
    if dtype == "float64" and not jax.config.values["jax_enable_x64"]:
        raise ValueError(
            'dtype float64 needs 64-bit numbers: jax.config.update("jax_enable_x64", True), or '
            "JAX_ENABLE_X64=1"
        )
    if not suits_winograd(dtype, precision) and any("winograd" in own for own in params.values()):
        raise ValueError(
            f"dtype {dtype} in precision {precision} needs parameters as they were loaded, got "
            "parameters from vgg.prepare, which are for float32 in precision highest"
        )
    if any("packed" in own for own in params.values()):
        raise ValueError(
            "params must be as they were loaded or from vgg.prepare, got parameters from "
            "nst_jax.packed.prepare, which are for strips with pack"
        )
    classes = params["predictions"]["bias"].shape[0] if "predictions" in params else CLASSES
    return VGG(
        CONVOLUTIONS[model],
        pooling=pooling,
        pooling_correction=pooling_correction,
        padding=padding,
        dtype=dtype,
        precision=precision,
        classes=classes,
    )


def suits_winograd(dtype: DType, precision: Precision) -> bool:
    """Tells whether parameters from `prepare` can be used."""
    return (dtype, precision) == ("float32", "highest")


def is_prepared(params: Any) -> bool:
    """Tells whether parameters are from `prepare`, for Winograd's algorithm."""
    layers = params.values() if isinstance(params, Mapping) else ()
    return any(isinstance(layer, Mapping) and "winograd" in layer for layer in layers)


def prepare(params: Params, *, layers: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Returns parameters with which `features` takes about half the time on a CPU.

    Use them for many calls. The kernels of the convolutions up to the deepest of `layers` are
    replaced by their transforms for Winograd's algorithm. The first convolution keeps its kernel,
    since it has only three input channels. A transform is eight times as large as its kernel: 0.4
    GB for VGG19 up to block5_conv1.

    Features then differ by rounding, in float32 by about 1e-5 of a layer's largest activation.
    The prepared parameters are constants: only images have gradients. `jax.grad`, `jax.vjp` and
    functions built on them work, and raise a TypeError for a gradient of the kernels. `jax.jvp` and
    `jax.linearize` refuse prepared parameters, and need parameters as they were loaded.

    Args:
      params: the parameter tree of VGG16 or VGG19. What is prepared already stays as it is.
      layers: names of layers, as in `features`.

    Returns:
      The tree `params`, with `{"winograd": ..., "bias": ...}` for the transformed convolutions.

    Raises:
      ValueError: the network does not have one of the layers.
      TypeError: `params` is not a parameter tree, or `layers` is one string.
    """
    names = convolutions(network_name(params), layers)[1:]
    kernels = {name: params[name]["kernel"] for name in names if "kernel" in params[name]}
    prepared: dict[str, Any] = dict(params)
    for name, kernel in _prepare(kernels).items():
        prepared[name] = {"winograd": kernel, "bias": params[name]["bias"]}
    return prepared


@jax.jit
def _prepare(kernels: dict[str, jax.Array]) -> dict[str, dict[str, jax.Array]]:
    return {name: winograd.prepare(kernel) for name, kernel in kernels.items()}


def classify(
    params: Params, images: Float[ArrayLike, "*N 224 224 3"]
) -> Float[Array, "*N classes"]:
    """Returns class probabilities.

    Args:
      params: the parameter tree with the head.
      images: float `[224, 224, 3]` or `[N, 224, 224, 3]`, sRGB in [0, 1].

    Returns:
      `[1000]` or `[N, 1000]`. Each row sums to 1.

    Raises:
      ValueError: `params` do not hold the head, or images have another shape.
      TypeError: `params` is not a parameter tree or `images` is not an array, for example because
        the two are in the wrong order.
    """
    return features(params, images, layers=("predictions",))["predictions"]


def init_params(
    key: jax.Array, model: Model, *, head: bool = False
) -> dict[str, dict[str, jax.Array]]:
    """Returns random float32 parameters of `model`: He-normal kernels and zero biases."""
    kernel_init = nn.initializers.he_normal()
    shapes = parameter_shapes(model, head=head)
    keys = jax.random.split(key, len(shapes))
    return {
        layer: {
            "kernel": kernel_init(layer_key, shape["kernel"]),
            "bias": jnp.zeros(shape["bias"]),
        }
        for layer_key, (layer, shape) in zip(keys, shapes.items(), strict=True)
    }
