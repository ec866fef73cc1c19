"""VGG16 and VGG19 as flax.linen modules, and their activations as a pure function.

Karen Simonyan, Andrew Zisserman: "Very Deep Convolutional Networks for Large-Scale Image
Recognition", 2014, https://arxiv.org/abs/1409.1556. Configurations D (VGG16) and E (VGG19).

Images are float32 sRGB, RGB order, range [0, 1], `[H, W, 3]` or `[N, H, W, 3]`. The networks' own
range (BGR, 0-255, mean of ImageNet subtracted) exists only inside this module.

Parameters are the linen `params` tree, `{"block1_conv1": {"kernel": [3, 3, in, out],
"bias": [out]}, ..., "fc1", "fc2", "predictions"}`; the last three, the head, are optional. The
tree tells which network it is.

Layers carry Keras' names. A convolution's name stands for its activation after ReLU,
`blockN_pool` for the output of the block's pooling, `fc1` and `fc2` for the activations of the
hidden dense layers and `predictions` for the class probabilities.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from nst_jax import winograd
from nst_jax.settings import check_choice, nearest

CONVOLUTIONS = {"vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}
CHANNELS = (64, 128, 256, 512, 512)
HIDDEN = 4096
CLASSES = 1000
HEAD_SIZE = 224  # the side of the pictures that the head was trained on
HEAD_LAYERS = ("fc1", "fc2", "predictions")

# Mean of the training pictures in BGR order and grey levels of 255, from the model files of the
# Oxford group: https://gist.github.com/ksimonyan/3785162f95cd2d5fee77
MEAN_BGR = (103.939, 116.779, 123.68)


def preprocess(images: jax.Array) -> jax.Array:
    """sRGB images in [0, 1] as the networks take them: BGR, 0-255, mean subtracted."""
    mean = jnp.broadcast_to(jnp.asarray(MEAN_BGR, images.dtype), images.shape)
    return 255.0 * images[..., ::-1] - mean


def max_pool(x: jax.Array) -> jax.Array:
    """Maximum over windows of 2x2, stride 2: [..., H, W, C] -> [..., H // 2, W // 2, C]."""
    return _reduce_windows(jnp.maximum, x)


def average_pool(x: jax.Array) -> jax.Array:
    """Mean over windows of 2x2, in the shapes of `max_pool`."""
    return _reduce_windows(jnp.add, x) / 4


def l2_pool(x: jax.Array) -> jax.Array:
    """Root of the sum of squares over windows of 2x2, in the shapes of `max_pool`.

    The gradient of a window of zeros, common after ReLU, is zero.
    """
    squares = _reduce_windows(jnp.add, jnp.square(x))
    positive = squares > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squares, 1)), 0)


def _reduce_windows(combine: Callable, x: jax.Array) -> jax.Array:
    """Combines each window of 2x2; an odd last row or column is left out, as Keras does.

    Strided slices rather than `nn.max_pool`: with the gradient, a step takes about 10% less on
    a CPU.
    """
    height, width = x.shape[-3] // 2 * 2, x.shape[-2] // 2 * 2
    rows = combine(x[..., 0:height:2, :, :], x[..., 1:height:2, :, :])
    return combine(rows[..., 0:width:2, :], rows[..., 1:width:2, :])


POOLINGS = {"max": max_pool, "average": average_pool, "l2": l2_pool}

# Factors that keep activations near the scale of max pooling, for which the weights were
# trained: https://github.com/crowsonkb/style-transfer-pytorch
POOLING_CORRECTIONS = {"max": 1.0, "average": 2.0, "l2": 0.78}

# What lies beyond the border of the picture at the first convolution. Deeper convolutions always
# see zeros there, as in training.
PADDINGS = ("zeros", "replicate")

# In which kernels and activations are stored, and how they are multiplied, by JAX's names.
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
PRECISIONS = ("default", "high", "highest")


def resolved_precision(dtype: str | None, precision: str | None) -> tuple[str, str]:
    """The type and the precision of products that None stands for, the same on every backend until
    a measurement speaks for another: float32, and its products in full. These have to be asked
    for: a TPU else multiplies float32 in bfloat16, and newer GPUs in TF32."""
    dtype = "float32" if dtype is None else dtype
    if precision is None:
        precision = "highest" if dtype == "float32" else "default"
    return dtype, precision


# A picture as horizontal strips in the batch dimension: `[H, W, C]` as `[S, h, W, C]`. A network
# runs on all of them at once. Before a convolution, `Strips.halo` takes a row from each neighbour.
# The strips may hold more rows than the picture has. `Strips.inside` makes these rows zeros, so
# that convolutions see there what they see beyond the border of a whole picture.


def divide_rows(x: jax.Array, count: int, rows: int, *, repeat: bool = False) -> jax.Array:
    """`[H, ...]` as `[count, rows, ...]`. Rows that are missing are zeros, or with `repeat` the
    last row of `x` again."""
    missing = ((0, count * rows - x.shape[0]), *[(0, 0)] * (x.ndim - 1))
    if missing[0][1]:
        x = jnp.pad(x, missing, mode="edge" if repeat else "constant")
    return x.reshape(count, rows, *x.shape[1:])


def join_rows(x: jax.Array, height: int) -> jax.Array:
    """`[S, h, ...]` as `[height, ...]`: the inverse of `divide_rows`."""
    return x.reshape(-1, *x.shape[2:])[:height]


def _shift(rows: jax.Array, by: int) -> jax.Array:
    """Each row moved `by` strips on, and zeros where none comes from.

    On a mesh the compiler makes this one exchange between neighbours; of a roll it makes more.
    """
    zero = jnp.zeros((), rows.dtype)
    return jax.lax.pad(rows, zero, [(by, -by, 0), *[(0, 0, 0)] * (rows.ndim - 1)])


@dataclasses.dataclass(frozen=True)
class Strips:
    """What a network has to know of a layer `[S, h, W, C]` in strips.

    Attributes:
      height: the layer's rows in the whole picture.
    """

    height: int

    def halo(self, x: jax.Array, *, repeat: bool = False) -> jax.Array:
        """Strips `[S, h + 2, W, C]` with a row of each neighbour. Beyond the first and the last
        strip are zeros, or with `repeat` the strip's own border row."""
        first, last = x[:, :1], x[:, -1:]
        above, below = _shift(last, 1), _shift(first, -1)
        if repeat:
            index = jnp.arange(len(x)).reshape(-1, *[1] * (x.ndim - 1))
            above = jnp.where(index > 0, above, first)
            below = jnp.where(index < len(x) - 1, below, last)
        return jnp.concatenate([above, x, below], axis=1)

    def inside(self, x: jax.Array) -> jax.Array:
        """`x` with zeros in the rows that the whole picture doesn't have."""
        count, rows = x.shape[:2]
        if count * rows == self.height:
            return x
        index = jnp.arange(count * rows).reshape(count, rows, *[1] * (x.ndim - 2))
        return jnp.where(index < self.height, x, 0)

    def pooled(self) -> "Strips":
        """The same of the layer that a pooling makes."""
        return Strips(self.height // 2)


def replicate_border(x: jax.Array) -> jax.Array:
    """Repeats the border pixels once on each side: [..., H, W, C] -> [..., H + 2, W + 2, C]."""
    widths = [(0, 0)] * (x.ndim - 3) + [(1, 1), (1, 1), (0, 0)]
    return jnp.pad(x, widths, mode="edge")


def _replicate_columns(strips: Strips, x: jax.Array) -> jax.Array:
    """`replicate_border` of a picture in strips: [S, h, W, C] -> [S, h + 2, W + 2, C]."""
    # `jnp.pad` would do, but on a mesh its gradient exchanges whole strips.
    x = jnp.concatenate([x[:, :, :1], x, x[:, :, -1:]], axis=2)
    return strips.halo(x, repeat=True)


class Columns(NamedTuple):
    """Where a vertical strip `[..., H, W, C]` lies in a whole layer.

    Attributes:
      start: number of its first column in the whole; maybe below 0.
      width: the columns of the whole.
    """

    start: jax.Array
    width: int

    def inside(self, x: jax.Array) -> jax.Array:
        """`x` with zeros in the columns beyond the whole."""
        index = self.start + jnp.arange(x.shape[-2])
        inside = ((index >= 0) & (index < self.width)).astype(x.dtype)
        return x * jnp.broadcast_to(inside[:, None], x.shape)

    def pooled(self) -> "Columns":
        """The same of the layer that a pooling makes."""
        return Columns(self.start // 2, self.width // 2)


class VGG(nn.Module):
    """A VGG network that returns the activations of the layers asked for.

    Attributes:
      convolutions: number of convolutions in each of the five blocks.
      pooling: a name in `POOLINGS`.
      pooling_correction: whether pooling is followed by its factor in `POOLING_CORRECTIONS`.
      padding: a name in `PADDINGS`, of the first convolution.
      dtype: a name in `DTYPES`, of kernels and activations.
      precision: a name in `PRECISIONS`, of their products.
      classes: width of the last dense layer.
    """

    convolutions: tuple[int, ...]
    pooling: str = "max"
    pooling_correction: bool = True
    padding: str = "zeros"
    dtype: str = "float32"
    precision: str = "highest"
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
        """Runs only as deep as the deepest of `layers`; see `features`.

        Args:
          images: as of `features`, or activations of the layer `after`.
          layers: to return, all above `after`.
          after: the layer to go on from.
          part: where `images` are a part of a picture, or all of it in strips. Beyond the border of
            the whole picture every layer then sees what its padding says. None is a whole picture.
        """
        wanted = set(layers)
        found = {}
        chain = self._chain(part if isinstance(part, Strips) else None)
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

    def _chain(self, strips):
        """The layers from the image upwards, as (name, function), made when they are reached; of
        a picture in `strips`, if they are given."""
        options = {
            "dtype": DTYPES[self.dtype],
            "precision": jax.lax.Precision[self.precision.upper()],
        }
        for block, (depth, channels) in enumerate(
            zip(self.convolutions, CHANNELS, strict=True), start=1
        ):
            for index in range(1, depth + 1):
                name = f"block{block}_conv{index}"
                convolution = self._convolution(name, channels, options, strips)
                yield name, nn.Sequential([*convolution, nn.relu])
            yield f"block{block}_pool", self._pool
        yield "flatten", lambda x: x.reshape(*x.shape[:-3], -1)
        for name in HEAD_LAYERS[:2]:
            yield name, nn.Sequential([nn.Dense(HIDDEN, name=name, **options), nn.relu])
        logits = nn.Dense(self.classes, name="predictions", **options)
        yield "predictions", lambda x: nn.softmax(logits(x).astype(jnp.float32))

    def _convolution(self, name, channels, options, strips):
        """The functions that make up the convolution `name`."""
        params = self.get_variable("params", name, {})
        if "winograd" in params:
            # It always puts zeros around. What it makes of the rows of a halo falls away.
            before, after = ([], []) if strips is None else ([strips.halo], [lambda x: x[:, 1:-1]])
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
        if strips is None:
            return [convolve()]
        return [strips.halo, convolve(padding=((0, 0), (1, 1)))]

    def _pool(self, x):
        pooled = POOLINGS[self.pooling](x)
        factor = POOLING_CORRECTIONS[self.pooling] if self.pooling_correction else 1.0
        return pooled if factor == 1.0 else factor * pooled


def layer_names(model: str, *, head: bool = False) -> tuple[str, ...]:
    """Names of the layers of `model` ("vgg16" or "vgg19") from the image upwards."""
    names = []
    for block, depth in enumerate(CONVOLUTIONS[model], start=1):
        names += [f"block{block}_conv{index}" for index in range(1, depth + 1)]
        names.append(f"block{block}_pool")
    return (*names, *HEAD_LAYERS) if head else tuple(names)


def parameter_shapes(
    model: str, *, head: bool = False, classes: int = CLASSES
) -> dict[str, dict[str, tuple[int, ...]]]:
    """Shapes of the parameter tree of `model`, `{layer: {"kernel": ..., "bias": ...}}`."""
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


def network_name(params: Mapping) -> str:
    """ "vgg16" or "vgg19", read off the convolutions that the tree `params` holds.

    Raises:
      ValueError: the tree is neither network's.
    """
    convolutions = {name for name in params if name not in HEAD_LAYERS}
    for model in CONVOLUTIONS:
        if convolutions == parameter_shapes(model).keys():
            return model
    raise ValueError(
        "params must hold the 13 convolutions of VGG16 or the 16 of VGG19 "
        f"(block1_conv1, ...), got {len(convolutions)} layers: {', '.join(sorted(convolutions))}"
    )


def resolve_layer(model: str, name: str, *, head: bool = True) -> str:
    """The layer `name` of `model`; `blockN_last` is the last convolution of block N. With `head`
    False the layers of the head count as none.

    Raises:
      ValueError: no such layer; the message lists the names there are and the nearest.
    """
    if match := re.fullmatch(r"block([1-5])_last", name):
        block = int(match[1])
        return f"block{block}_conv{CONVOLUTIONS[model][block - 1]}"
    names = layer_names(model, head=head)
    if name not in names:
        if name in HEAD_LAYERS:
            raise ValueError(
                f"layer {name} has no positions in the picture; layers that have are "
                f"{', '.join(names)}"
            )
        raise ValueError(
            f"unknown layer {name!r} of {model}; the layers are {', '.join(names)}"
            f"{nearest(_as_keras(name), names, cutoff=0.0)}"
        )
    return name


def _as_keras(name: str) -> str:
    """Keras' name of a layer that is called `conv4_2`, `relu_4_2` or `pool4`, as in PyTorch."""
    name = re.sub(r"^(?:conv|relu)_?([1-5])_?([1-4])$", r"block\1_conv\2", str(name).lower())
    return re.sub(r"^pool_?([1-5])$", r"block\1_pool", name)


def resolve_layers(model: str, names: Sequence[str], *, head: bool = True) -> dict[str, str]:
    """The layers of `model` that `names` stand for, `{name: layer}`; see `resolve_layer`.

    Raises:
      ValueError: no such layer.
      TypeError: one name in place of a sequence of them.
    """
    if isinstance(names, str):
        raise TypeError(f"layers must be a sequence of names, got the string {names!r}")
    return {name: resolve_layer(model, name, head=head) for name in names}


def convolutions(model: str, layers: Sequence[str]) -> tuple[str, ...]:
    """The convolutions of `model` that run for `layers`, from the image upwards.

    Raises:
      ValueError: a layer that the network doesn't have.
      TypeError: one name in place of a sequence of them.
    """
    names = layer_names(model, head=True)
    depth = 1 + max(map(names.index, resolve_layers(model, layers).values()), default=-1)
    return tuple(name for name in names[:depth] if "_conv" in name)


def smallest_side(layer: str) -> int:
    """Side in pixels of the smallest picture that has a position at `layer`."""
    if layer in HEAD_LAYERS:
        return HEAD_SIZE
    block = int(layer[len("block")])
    return 2 ** (block if layer.endswith("_pool") else block - 1)


def block_of(layer: str) -> int:
    """The number of the block, from 1, that a layer with positions is in."""
    return int(layer[len("block")])


def channels(layer: str) -> int:
    """The channels of a layer with positions."""
    return CHANNELS[block_of(layer) - 1]


def receptive_field(model: str, layer: str) -> tuple[int, int]:
    """Stride and radius in pixels of `layer` of `model` ("vgg16" or "vgg19").

    Position i of the layer sees the pixels from `stride * i - radius` to
    `stride * (i + 1) - 1 + radius`, along each side.

    Raises:
      ValueError: no such layer, or one of the head, which has no positions.
    """
    layer = resolve_layer(model, layer)
    if layer in HEAD_LAYERS:
        raise ValueError(f"layer {layer} has no positions in the picture")
    stride, radius = 1, 0
    for name in layer_names(model):
        if name.endswith("_pool"):
            stride *= 2
        else:
            radius += stride
        if name == layer:
            break
    return stride, radius


def features(
    params: Mapping,
    images: jax.Array,
    *,
    layers: Sequence[str],
    pooling: str = "max",
    pooling_correction: bool = True,
    padding: str = "zeros",
    dtype: str | None = None,
    precision: str | None = None,
) -> dict[str, jax.Array]:
    """Activations of `layers`; the network runs only as deep as the deepest of them.

    Args:
      params: the parameter tree of VGG16 or VGG19; the head only if `layers` name it.
      images: float `[H, W, 3]` or `[N, H, W, 3]`, sRGB in [0, 1].
      layers: Keras' layer names, or `blockN_last` for the last convolution of block N.
      pooling: "max", "average" or "l2" (root of the sum of squares), over windows of 2x2.
      pooling_correction: multiply average pooling by 2.0 and L2 pooling by 0.78, which keeps
        activations near the scale of max pooling, as crowsonkb/style-transfer-pytorch does.
      padding: of the first convolution, "zeros" as in training, or "replicate", which repeats
        the border pixels and reduces artefacts at the edges, as the same source does. Deeper
        convolutions pad with zeros.
      dtype: "float32", or "bfloat16": the images as the first convolution takes them, the kernels
        and every activation are rounded to it. None is float32.
      precision: of products, by JAX's names: "highest", "high" or "default". None is "highest"
        for float32, on every backend, and "default" for bfloat16.

    Returns:
      `{layer: [..., h, w, C]}` in the order of `layers`, under the names that were given; for
      the layers of the head `[..., C]`. Arrays are of the type that `dtype` names, so that
      what is made of them may read half the memory; `predictions` are float32 always.

    Raises:
      ValueError: unknown layer, pooling, padding, dtype or precision, images of another shape or
        integer type, a picture too small for the deepest layer, or a head asked for that `params`
        don't hold.
      TypeError: one name in place of a sequence of `layers`.
    """
    images = jnp.asarray(images)
    resolved = check_layers(params, images, layers)
    run = network(
        params,
        pooling=pooling,
        pooling_correction=pooling_correction,
        padding=padding,
        dtype=dtype,
        precision=precision,
    )
    found = run.apply({"params": params}, images, layers=tuple(dict.fromkeys(resolved.values())))
    return {name: found[layer] for name, layer in resolved.items()}


def check_layers(
    params: Mapping, images: jax.Array, layers: Sequence[str], *, head: bool = True
) -> dict[str, str]:
    """The layers that the names stand for, `{name: layer}`, if `images` can be looked at there,
    with `head` False at layers that have positions in the picture.

    Raises:
      ValueError, TypeError: as of `features`.
    """
    if images.ndim not in (3, 4) or images.shape[-1] != 3:
        raise ValueError(f"images must be [H, W, 3] or [N, H, W, 3], got {images.shape}")
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(f"images must be floating point in [0, 1], got {images.dtype}")
    resolved = resolve_layers(network_name(params), layers, head=head)
    height, width = images.shape[-3:-1]
    for layer in resolved.values():
        if layer in HEAD_LAYERS and layer not in params:
            raise ValueError(f"layer {layer} needs weights with the head; params hold none")
        if layer in HEAD_LAYERS and (height, width) != (HEAD_SIZE, HEAD_SIZE):
            raise ValueError(
                f"layer {layer} needs images of {HEAD_SIZE}x{HEAD_SIZE}, got {height}x{width}"
            )
        if min(height, width) < smallest_side(layer):
            raise ValueError(
                f"layer {layer} needs images of at least {smallest_side(layer)} pixels a side, "
                f"got {height}x{width}"
            )
    return resolved


def network(params: Mapping, **options) -> VGG:
    """The network that `params` are of, with the `options` of `features`.

    Raises:
      ValueError: as of `features`.
    """
    dtype, precision = resolved_precision(options["dtype"], options["precision"])
    options = options | {"dtype": dtype, "precision": precision}
    for name, choices in (
        *(("pooling", POOLINGS), ("padding", PADDINGS)),
        *(("dtype", DTYPES), ("precision", PRECISIONS)),
    ):
        check_choice(name, options[name], choices)
    if not suits_winograd(dtype, precision) and any("winograd" in own for own in params.values()):
        raise ValueError(
            f"dtype {dtype} in precision {precision} needs parameters as they were loaded, got "
            "those of `prepare`, which are for float32 in highest"
        )
    classes = params["predictions"]["bias"].shape[0] if "predictions" in params else CLASSES
    return VGG(CONVOLUTIONS[network_name(params)], classes=classes, **options)


def suits_winograd(dtype: str, precision: str) -> bool:
    """Whether parameters of `prepare` may be used."""
    return (dtype, precision) == ("float32", "highest")


def prepare(params: Mapping, *, layers: Sequence[str]) -> dict:
    """Parameters with which `features` takes about half the time on a CPU, for many calls.

    The kernels of the convolutions up to the deepest of `layers`, but for the first, which has
    three input channels, give way to their transforms for Winograd's algorithm, of eight times
    the size: 0.4 GB for VGG19 up to block5_conv1. Features then differ by rounding, in float32
    about 1e-5 of a layer's largest activation. The parameters are constants: gradients are of
    images alone. They are for `jax.grad`, `jax.vjp` and what is made of them: `jax.jvp` and
    `jax.linearize` refuse them, and take parameters as they were loaded.

    Args:
      params: the parameter tree of VGG16 or VGG19.
      layers: as in `features`.

    Raises:
      ValueError: a layer that the network doesn't have.
      TypeError: one name in place of a sequence of them.
    """
    return _prepare(params, names=convolutions(network_name(params), layers)[1:])


@functools.partial(jax.jit, static_argnames="names")
def _prepare(params: Mapping, *, names: tuple[str, ...]) -> dict:
    prepared = dict(params)
    for name in names:
        if "kernel" in params[name]:
            kernel = winograd.prepare(params[name]["kernel"])
            prepared[name] = {"winograd": kernel, "bias": params[name]["bias"]}
    return prepared


def classify(params: Mapping, images: jax.Array) -> jax.Array:
    """Class probabilities.

    Args:
      params: the parameter tree with the head.
      images: float `[224, 224, 3]` or `[N, 224, 224, 3]`, sRGB in [0, 1].

    Returns:
      `[1000]` or `[N, 1000]`; each row sums to 1.

    Raises:
      ValueError: `params` hold no head, or images of another shape.
    """
    return features(params, images, layers=("predictions",))["predictions"]


def init_params(key: jax.Array, model: str, *, head: bool = False) -> dict:
    """Random parameters of `model`: He-normal kernels and zero biases, float32."""
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
