"""Convolutions of 3x3 with fewer multiplications: Winograd's minimal filtering, F(4x4, 3x3).

Andrew Lavin, Scott Gray: "Fast Algorithms for Convolutional Neural Networks", CVPR 2016,
https://arxiv.org/abs/1509.09308. A tile of 4x4 outputs takes 6x6 products of channel vectors and
matrices where the direct form takes 144. Kernels are transformed once, by `prepare`, which also
transforms the kernel of the gradient, so that both directions multiply by a prepared matrix.

Results differ from the direct form's by rounding, in float32 about 1e-5 of the largest.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

TAPS = 3  # side of the kernel
OUTPUTS = 4  # side of a tile
POINTS = (0, 1, -1, 2, -2)  # where the polynomials are evaluated, next to infinity: the paper's
INPUTS = len(POINTS) + 1  # side of what a tile is computed from


def _evaluation(degree: int) -> np.ndarray:
    """Evaluates polynomials of `degree` coefficients at `POINTS` and infinity."""
    finite = np.vander(np.float64(POINTS), degree, increasing=True)
    return np.vstack([finite, np.eye(degree)[-1]])


def transforms() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A^T `[4, 6]`, G `[6, 3]` and B^T `[6, 6]` of F(4, 3), float64.

    `A^T ((G g) * (B^T d))` slides the three taps `g` over the six inputs `d`. Filtering is the
    transpose of the product of two polynomials, which Toom and Cook evaluate, multiply point by
    point and interpolate.
    """
    # The denominators of Lagrange's interpolation: in G, which is applied once, they leave B^T
    # whole numbers.
    scale = np.array([np.prod([p - q for q in POINTS if q != p]) for p in POINTS] + [1.0])
    interpolation = np.linalg.inv(_evaluation(INPUTS)) * scale
    return (
        _evaluation(OUTPUTS).T,
        _evaluation(TAPS) / scale[:, None],
        np.round(interpolation.T),
    )


_A, _G, _B = transforms()


def prepare(kernel: jax.Array) -> dict[str, jax.Array]:
    """Transforms of the kernel `[3, 3, in, out]`, for `convolve`.

    Returns:
      `{"forward": [36, in, out], "backward": [36, out, in]}`, each four times the kernel's size;
      the second, of the kernel turned by half a turn, is the gradient's.
    """
    turned = kernel[::-1, ::-1].swapaxes(-1, -2)
    return {"forward": _transform_kernel(kernel), "backward": _transform_kernel(turned)}


def _transform_kernel(kernel: jax.Array) -> jax.Array:
    rows = jnp.asarray(np.kron(_G, _G), kernel.dtype)
    product = jnp.matmul(rows, kernel.reshape(TAPS**2, -1), precision="highest")
    return product.reshape(INPUTS**2, *kernel.shape[2:])


@jax.custom_vjp
def convolve(x: jax.Array, kernel: dict[str, jax.Array]) -> jax.Array:
    """Convolution of 3x3 with zeros beyond the border: `[..., H, W, in]` -> `[..., H, W, out]`.

    Args:
      x: float `[..., H, W, in]`.
      kernel: of `prepare`; a constant, whose gradient is zero.
    """
    return _convolve(x, kernel["forward"])


def _convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    if x.ndim > 3:
        return jax.vmap(_convolve, in_axes=(0, None))(x, kernel)
    height, width, channels = x.shape
    down, across = -(-height // OUTPUTS), -(-width // OUTPUTS)  # tiles
    rows, columns = OUTPUTS * (down + 1), OUTPUTS * (across + 1)
    x = jnp.pad(x, ((1, rows - height - 1), (1, columns - width - 1), (0, 0)))
    x = x.reshape(down + 1, OUTPUTS, across + 1, OUTPUTS, channels)
    # A tile's inputs: four of its own, and two of the next. Sums of slices, since a product with
    # a matrix that is mostly zeros takes several times longer.
    own = [x[:-1, i] for i in range(OUTPUTS)]
    x = _transform_inputs(own + [x[1:, i] for i in range(INPUTS - OUTPUTS)], axis=0)
    own = [x[:, :, :-1, i] for i in range(OUTPUTS)]
    x = _transform_inputs(own + [x[:, :, 1:, i] for i in range(INPUTS - OUTPUTS)], axis=1)
    x = x.reshape(INPUTS**2, down * across, channels)
    x = jnp.einsum("pti,pio->pto", x, kernel, precision="highest")
    sums = jnp.asarray(np.kron(_A, _A), x.dtype)
    x = jnp.matmul(sums, x.reshape(INPUTS**2, -1), precision="highest")
    x = x.reshape(OUTPUTS, OUTPUTS, down, across, -1).transpose(2, 0, 3, 1, 4)
    return x.reshape(OUTPUTS * down, OUTPUTS * across, -1)[:height, :width]


def _transform_inputs(inputs: Sequence[jax.Array], axis: int) -> jax.Array:
    """B^T of six arrays, stacked along `axis`."""
    sums = [
        sum(float(weight) * term for weight, term in zip(row, inputs, strict=True) if weight)
        for row in _B
    ]
    return jnp.stack(sums, axis=axis)


def _forward(x, kernel):
    # Not by way of `convolve`: what has a rule of its own has no forward derivatives.
    return _convolve(x, kernel["forward"]), kernel


def _backward(kernel, cotangent):
    return _convolve(cotangent, kernel["backward"]), jax.tree.map(jnp.zeros_like, kernel)


convolve.defvjp(_forward, _backward)
