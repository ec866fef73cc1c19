"""Floating-point operations of the networks, counted by layer, and the rate of a matrix product.

A multiplication and an addition are two operations. Bias, ReLU, pooling and the losses are about
one in a hundred and are not counted. The tables also show XLA's own count, which includes them.
"""

import functools
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from nst_jax import vgg


def flops_per_pixel(model: str, layers: Sequence[str]) -> int:
    """Operations of the convolutions for one pixel of the picture, forward.

    The gradient with respect to the picture costs the same again. VGG19 to block5_conv1 has
    722,304, VGG16 574,848. A picture whose sides are no multiples of 16 has slightly fewer, because
    pooling drops odd rows and columns.

    Raises:
      ValueError: the network has no such layer.
    """
    shapes = vgg.parameter_shapes(model)
    return sum(
        2 * math.prod(shapes[name]["kernel"]) // vgg.smallest_side(name) ** 2
        for name in vgg.convolutions(model, layers)
    )


def step_flops(model: str, layers: Sequence[str], *, height: int, width: int) -> int:
    """Operations of one step on one picture: forward and the gradient."""
    return 2 * flops_per_pixel(model, layers) * height * width


def parameter_bytes(params: Mapping, layers: Sequence[str]) -> int:
    """Bytes of the parameters that `layers` need."""
    names = vgg.convolutions(vgg.network_name(params), layers)
    leaves = jax.tree.leaves([params[name] for name in names])
    return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)


@functools.partial(jax.jit, static_argnames=("times", "precision"))
def _multiply(a, b, *, times, precision):
    # Unrolled: a loop has its own cost on some backends.
    for _ in range(times):
        a = jnp.matmul(a, b, precision=precision)
    return a


def matmul_rate(
    dtype: Any, *, size: int, times: int = 4, repeats: int = 5, precision: str | None = None
) -> float:
    """The best rate, in operations per second, of `times` chained products of `[size, size]`.

    The precision None is that of the network's convolutions in this type. For float32 it is full
    float32, not the TF32 or bfloat16 that accelerators use by default.
    """
    if precision is None and jnp.dtype(dtype) == jnp.float32:
        precision = "highest"
    multiply = functools.partial(_multiply, times=times, precision=precision)
    keys = jax.random.split(jax.random.key(0))
    # The scale keeps the size of the product's values; otherwise powers overflow.
    a, b = (jax.random.normal(key, (size, size)).astype(dtype) for key in keys)
    b /= jnp.asarray(math.sqrt(size), dtype)
    jax.block_until_ready(multiply(a, b))
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(multiply(a, b))
        taken.append(time.perf_counter() - start)
    return 2 * size**3 * times / min(taken)


def default_matmul_size() -> int:
    """A size large enough to reach the device's rate and small enough to take no time."""
    return 2048 if jax.default_backend() == "cpu" else 8192
