"""Floating-point operations of the networks, counted out of the layer table, and a matmul's rate.

A multiplication and an addition are two operations. Bias, ReLU, pooling and the losses, one in a
hundred, are not counted: XLA's own count, which has them, stands beside this one in the tables.
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
    722,304, VGG16 574,848. Of pictures whose sides are no multiples of 16, pooling leaves out
    the odd rows and columns, so that there are slightly fewer.

    Raises:
      ValueError: a layer that the network doesn't have.
    """
    shapes = vgg.parameter_shapes(model)
    return sum(
        2 * math.prod(shapes[name]["kernel"]) // vgg.smallest_side(name) ** 2
        for name in vgg.convolutions(model, layers)
    )


def step_flops(model: str, layers: Sequence[str], *, height: int, width: int) -> int:
    """Operations of one step on one picture: forward, and the gradient of the picture."""
    return 2 * flops_per_pixel(model, layers) * height * width


def parameter_bytes(params: Mapping, layers: Sequence[str]) -> int:
    """Size of the parameters that run for `layers`."""
    names = vgg.convolutions(vgg.network_name(params), layers)
    leaves = jax.tree.leaves([params[name] for name in names])
    return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)


@functools.partial(jax.jit, static_argnames=("times", "precision"))
def _multiply(a, b, *, times, precision):
    # Unrolled: a loop has its own cost on some backends.
    for _ in range(times):
        a = jnp.matmul(a, b, precision=precision)
    return a


def matmul_rate(dtype: Any, *, size: int, times: int = 4, repeats: int = 5) -> float:
    """The best rate in operations a second of `times` chained products of `[size, size]`.

    At the precision that the network's convolutions of that type have: of float32 its own, not
    the TF32 or bfloat16 that accelerators take for it by default.
    """
    precision = "highest" if jnp.dtype(dtype) == jnp.float32 else None
    multiply = functools.partial(_multiply, times=times, precision=precision)
    keys = jax.random.split(jax.random.key(0))
    # Of a scale that keeps the product's values, since powers of large ones overflow.
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
    """Large enough to reach the device's rate, small enough to take no time."""
    return 2048 if jax.default_backend() == "cpu" else 8192
