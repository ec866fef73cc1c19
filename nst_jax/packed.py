"""VGG16 and VGG19 evaluated as a TPU likes it: in strips, with block 1 packed.

It computes the activations of `nst_jax.vgg` up to rounding. It computes them in another way:

- The picture lies in horizontal strips `[S, h, W, C]`. A TPU puts the first dimension beside the
  channels. A batch of one would leave seven eighths of its vector unit idle.
- In block 1, two neighbouring columns lie side by side in the channels: `[S, h, W / 2, 2 C]`. So
  the 64 channels of block 1 fill 128 lanes.
- A convolution takes one row from each neighbouring strip, the halo. Its gradient is a convolution
  of the same kind. The usual gradient would also compute the rows of the halo, and add them to the
  neighbours.
- The gradient of the first convolution is one product of matrices and nine shifted sums. A
  convolution to 3 channels would fill 3 of 128 lanes.
- ReLU comes after max pooling, on a quarter of the positions. It stays before the pooling if the
  layer between the two is wanted.

The gradient of the objective has these rules of its own, so `jax.grad` and `jax.vjp` work, and
`jax.jvp` refuses it.

`prepare` converts the kernels once. It also divides each kernel, so that each activation comes out
divided by the usual size of its layer.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from nst_jax import vgg

PACK = 2  # columns side by side in block 1
FIRST = "block1_conv1"


def is_packed(layer: str) -> bool:
    """Whether `features` returns the layer with two columns side by side in the channels.

    It does for the convolutions of block 1.
    """
    return vgg.block_of(layer) == 1 and not layer.endswith("_pool")


def pack_kernel(kernel: Float[Array, "3 3 in out"]) -> Float[Array, "3 3 in*2 out*2"]:
    """Converts a kernel of 3x3 for two neighbouring columns that lie side by side in the channels.

    The packed kernel has three columns of pairs. Half of its numbers are zeros.
    """
    inputs, outputs = kernel.shape[2:]
    packed = jnp.zeros((3, 3, PACK * inputs, PACK * outputs), kernel.dtype)
    for pair in range(3):
        for source in range(PACK):
            for target in range(PACK):
                column = PACK * (pair - 1) + source - target + 1
                if 0 <= column < 3:
                    packed = packed.at[
                        :,
                        pair,
                        source * inputs : (source + 1) * inputs,
                        target * outputs : (target + 1) * outputs,
                    ].set(kernel[:, column])
    return packed


def prepare(
    params: vgg.Params,
    layers: Sequence[str],
    *,
    sizes: Mapping[str, float] | None = None,
    dtype: Any = jnp.float32,
) -> dict[str, Mapping[str, Any]]:
    """Returns the parameters for `features`, `{layer: {"packed": kernel, "bias": bias}}`.

    Layers that are already prepared stay as they are. They must have had the same sizes.

    Args:
      params: the parameter tree of VGG16 or VGG19.
      layers: the layers that `features` will return, by Keras' names.
      sizes: `{layer: size}`. The activations of each convolution come out divided by the size of
        its layer. None divides nothing.
      dtype: the type of the kernels and biases.

    Raises:
      ValueError: parameters from `vgg.prepare`, or prepared in another type.
    """
    names = vgg.convolutions(vgg.network_name(params), layers)
    for name in names:
        if "winograd" in params[name]:
            raise ValueError("params must be as they were loaded, got parameters from vgg.prepare")
        kernel = params[name].get("packed")
        if kernel is not None and kernel.dtype != jnp.dtype(dtype):
            raise ValueError(f"params must be prepared in {jnp.dtype(dtype)}, got {kernel.dtype}")
    divisors = [1.0 if sizes is None else float(sizes[name]) for name in names]
    below = dict(zip(names, [1.0, *divisors], strict=False))
    found = {
        name: _prepared(params[name], below[name], divisor, name=name, dtype=jnp.dtype(dtype))
        for name, divisor in zip(names, divisors, strict=True)
        if "packed" not in params[name]
    }
    return dict(params) | found


@functools.partial(jax.jit, static_argnames=("name", "dtype"))
def _prepared(layer: Mapping[str, Any], below: float, size: float, *, name: str, dtype: Any):
    """One layer of `prepare`: its size, and that of the layer below it."""
    kernel, bias = (jnp.asarray(layer[key]) for key in ("kernel", "bias"))
    kernel, bias = (below / size) * kernel, bias / size
    if is_packed(name):
        kernel, bias = pack_kernel(kernel), jnp.tile(bias, PACK)
    return {"packed": kernel.astype(dtype), "bias": bias.astype(dtype)}


def pack_columns(
    x: Float[Array, "S h W C"], *, repeat: bool = False
) -> Float[Array, "S h W/2 2*C"]:
    """Puts two neighbouring columns side by side in the channels.

    An odd last column gets zeros beside it. With `repeat` it gets a copy of itself.
    """
    count, rows, width, channels = x.shape
    if width % PACK:
        beyond = x[:, :, -1:] if repeat else jnp.zeros_like(x[:, :, -1:])
        x = jnp.concatenate([x, beyond], axis=2)
    return x.reshape(count, rows, -1, PACK * channels)


def unpack_columns(x: Float[Array, "S h w C"], width: int) -> Float[Array, "S h width C/2"]:
    """The inverse of `pack_columns` for a layer of `width` columns."""
    count, rows, _, channels = x.shape
    return x.reshape(count, rows, -1, channels // PACK)[:, :, :width]


def _convolve(x: jax.Array, kernel: jax.Array, precision: Any, *, columns: int = 0) -> jax.Array:
    """Convolves strips that have their halo, `[S, h + 2, w, C]`.

    It pads `columns` of zeros at each side.
    """
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(1, 1),
        padding=((0, 0), (columns, columns)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=precision,
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def convolve(
    x: Float[Array, "S h w in"], kernel: Float[Array, "3 3 in out"], strips: vgg.Strips, precision
) -> Float[Array, "S h w out"]:
    """Convolves a layer in strips. Zeros surround the picture.

    The gradient with respect to `x` is the same function of the cotangent, with the kernel turned.
    """
    return _convolve(strips.halo(x), kernel, precision, columns=1)


def _kernel_gradient(x, kernel, precision, cotangent, *, columns=0):
    def of(kernel):
        return _convolve(x, kernel, precision, columns=columns)

    return jax.vjp(of, kernel)[1](cotangent)


def _forward(x, kernel, strips, precision):
    return convolve(x, kernel, strips, precision), (x, kernel)


def _backward(strips, precision, saved, cotangent):
    x, kernel = saved
    turned = kernel[::-1, ::-1].swapaxes(2, 3)
    slope = convolve(cotangent, turned, strips, precision)
    # The compiler drops this unless somebody asks for the gradient of the parameters.
    of_kernel = _kernel_gradient(strips.halo(x), kernel, precision, cotangent, columns=1)
    return slope, *of_kernel


convolve.defvjp(_forward, _backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolve_first(
    x: Float[Array, "S h+2 w+2 in"], kernel: Float[Array, "3 3 in out"], precision
) -> Float[Array, "S h w out"]:
    """Convolves strips that already have their halo and a border column at each side."""
    return _convolve(x, kernel, precision)


def _forward_first(x, kernel, precision):
    return convolve_first(x, kernel, precision), (x, kernel)


def _backward_first(precision, saved, cotangent):
    """The gradient by one product of matrices to nine planes a channel, and shifted sums."""
    x, kernel = saved
    planes = jnp.einsum(
        "shwo,yxio->yxishw",
        cotangent,
        kernel,
        precision=precision,
        preferred_element_type=jnp.float32,
    )
    total: Any = 0.0
    for row in range(3):
        for column in range(3):
            beyond = ((0, 0), (0, 0), (row, 2 - row), (column, 2 - column))
            total += jnp.pad(planes[row, column], beyond)
    of_kernel = _kernel_gradient(x, kernel, precision, cotangent)
    return jnp.moveaxis(total, 0, -1).astype(x.dtype), *of_kernel


convolve_first.defvjp(_forward_first, _backward_first)


def _reduce_windows(x: jax.Array, combine: str, *, columns: int) -> jax.Array:
    """Combines windows of 2 rows and `columns` columns, without overlap: "max" or "add"."""
    start, function = {
        "max": (-jnp.inf, jax.lax.max),
        "add": (0.0, jax.lax.add),
    }[combine]
    window = (1, 2, columns, 1)
    return jax.lax.reduce_window(x, start, function, window, window, padding="VALID")


def _pool(x: jax.Array, pooling: vgg.Pooling, *, pairs: bool) -> jax.Array:
    """Pools windows of 2x2. With `pairs` the columns of a window lie side by side."""
    combine = "max" if pooling == "max" else "add"
    if pooling == "l2":
        x = jnp.square(x)
    x = _reduce_windows(x, combine, columns=1 if pairs else 2)
    if pairs:  # after the rows, so that only half as many lanes are cut in two
        half = x.shape[-1] // PACK
        left, right = x[..., :half], x[..., half:]
        # Where both are equal, the gradient goes to one of them, as in `reduce_window`.
        x = jnp.where(left >= right, left, right) if combine == "max" else left + right
    if pooling == "average":
        return x / 4
    if pooling == "l2":
        return vgg.root(x)
    return x


def features(
    params: Mapping[str, Mapping[str, Any]],
    x: Float[Array, "S h W 3"],
    layers: Sequence[str],
    *,
    height: int,
    pooling: vgg.Pooling = "max",
    pooling_correction: bool = True,
    padding: vgg.Padding = "zeros",
    dtype: vgg.DType = "float32",
    precision: vgg.Precision = "highest",
) -> dict[str, Float[Array, "S _ _ _"]]:
    """Returns the activations of a picture in strips.

    Args:
      params: from `prepare`.
      x: `[S, h, W, 3]` in [0, 1], from `vgg.divide_rows` with `repeat=True`. `h` must be a
        multiple of each layer's stride.
      layers: the layers to return, by Keras' names.
      height: the number of rows of the whole picture. Rows beyond it come back as zeros.
      pooling, pooling_correction, padding, dtype, precision: as in `vgg.features`, but none of
        them may be None.

    Returns:
      `{layer: [S, h, w, C]}`. If `is_packed(layer)`, the shape is `[S, h, ceil(W / 2), 128]`, with
      pairs of columns. An odd last column has zeros beside it.
    """
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"images must be floating point in [0, 1], got {x.dtype}")
    wanted, width = set(layers), x.shape[2]
    strips = vgg.Strips(height)
    exact = jax.lax.Precision[precision.upper()]
    x = vgg.preprocess(x)
    if padding == "zeros":
        x = strips.inside(x)
    x = x.astype(vgg.DTYPES[dtype])
    found: dict[str, jax.Array] = {}
    late = False  # whether ReLU is still to come
    names = vgg.layer_names(vgg.network_name(params))
    for name, after in zip(names, (*names[1:], ""), strict=True):
        if wanted <= found.keys():
            break
        with jax.named_scope(name):
            if name.endswith("_pool"):
                x = _pool(x, pooling, pairs=vgg.block_of(name) == 1)
                x = vgg.corrected(x, pooling) if pooling_correction else x
                width //= 2
                x = x[:, :, :width]
                strips = strips.pooled()
                x = relu(x) if late else x
            else:
                own = params[name]
                if name == FIRST:
                    x = convolve_first(_with_border(x, strips, padding), own["packed"], exact)
                else:
                    x = convolve(x, own["packed"], strips, exact)
                x += jnp.broadcast_to(own["bias"], x.shape)
                late = after.endswith("_pool") and pooling == "max" and name not in wanted
                x = x if late else relu(x)
                x = _without_last_column(x, width) if is_packed(name) else x
            x = strips.inside(x)
        if name in wanted:
            found[name] = x
    return {name: found[name] for name in layers}


def relu(x: jax.Array) -> jax.Array:
    """`max(x, 0)`. Its gradient is 0 at 0."""
    with jax.named_scope("relu"):
        return jax.nn.relu(x)


def _with_border(x: jax.Array, strips: vgg.Strips, padding: vgg.Padding) -> jax.Array:
    """Packs the picture, and adds the halo and the columns that the first convolution sees.

    The shapes are `[S, h, W, 3]` -> `[S, h + 2, ceil(W / 2) + 2, 6]`.
    """
    repeat = padding == "replicate"
    packed = strips.halo(pack_columns(x, repeat=repeat), repeat=repeat)
    if not repeat:
        return _with_columns(packed, left=1, right=1)
    # The convolution sees one column of the pair at each side: the one beside the picture. So the
    # pair may be its neighbour, turned round. Joining columns to the picture instead would make
    # devices that share its width exchange more than borders.
    half = packed.shape[3] // PACK
    turned = jnp.concatenate([packed[..., half:], packed[..., :half]], axis=3)
    index = jnp.arange(packed.shape[2] + 2).reshape(1, 1, -1, 1)
    wide = _with_columns(packed, left=1, right=1)
    wide = jnp.where(index == 0, _with_columns(turned, left=0, right=2), wide)
    return jnp.where(index == packed.shape[2] + 1, _with_columns(turned, left=2, right=0), wide)


def _with_columns(x: jax.Array, *, left: int, right: int) -> jax.Array:
    """Adds columns of zeros at the sides of strips."""
    return jnp.pad(x, ((0, 0), (0, 0), (left, right), (0, 0)))


def _without_last_column(x: jax.Array, width: int) -> jax.Array:
    """Sets the column beside an odd last one to zero."""
    if width % PACK == 0:
        return x
    pairs, channels = x.shape[2:]
    inside = np.arange(PACK * pairs).reshape(pairs, PACK) < width
    inside = np.repeat(inside, channels // PACK, axis=1)
    return jnp.where(jnp.broadcast_to(inside, x.shape), x, 0)
