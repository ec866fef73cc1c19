"""Convolutions of 3x3 with fewer multiplications: Winograd's minimal filtering, F(4x4, 3x3).

Andrew Lavin, Scott Gray: "Fast Algorithms for Convolutional Neural Networks", CVPR 2016,
https://arxiv.org/abs/1509.09308. A tile of 4x4 outputs needs 6x6 products of channel vectors with
matrices. The direct form needs 144. `prepare` transforms a kernel once. It also transforms the
kernel of the gradient, so that both directions multiply by a prepared matrix.

Results differ from those of the direct form by rounding, in float32 by about 1e-5 of the largest.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Float64

TAPS = 3  # side of the kernel
OUTPUTS = 4  # side of a tile
# The polynomials are evaluated at these points and at infinity, as in the paper.
POINTS = (0, 1, -1, 2, -2)
INPUTS = len(POINTS) + 1  # side of the inputs of a tile


def _evaluation(degree: int) -> np.ndarray:
    """Returns the matrix that evaluates polynomials of `degree` coefficients.

    They are evaluated at `POINTS` and at infinity.
    """
    finite = np.vander(np.array(POINTS, np.float64), degree, increasing=True)
    return np.vstack([finite, np.eye(degree)[-1]])


def transforms() -> tuple[
    Float64[np.ndarray, "4 6"], Float64[np.ndarray, "6 3"], Float64[np.ndarray, "6 6"]
]:
    """Returns the matrices A^T `[4, 6]`, G `[6, 3]` and B^T `[6, 6]` of F(4, 3), float64.

    `A^T ((G g) * (B^T d))` slides the three taps `g` over the six inputs `d`. Filtering is the
    transpose of a product of two polynomials. Toom and Cook compute that product in three steps:
    evaluate both polynomials, multiply point by point, interpolate.
    """
    # These are the denominators of Lagrange's interpolation. In G they cost nothing, because G is
    # applied once. B^T then holds whole numbers.
    scale = np.array([np.prod([p - q for q in POINTS if q != p]) for p in POINTS] + [1.0])
    interpolation = np.linalg.inv(_evaluation(INPUTS)) * scale
    return (
        _evaluation(OUTPUTS).T,
        _evaluation(TAPS) / scale[:, None],
        np.round(interpolation.T),
    )


_A, _G, _B = transforms()


def prepare(kernel: Float[ArrayLike, "3 3 in out"]) -> dict[str, Float[Array, "36 _ _"]]:
    """Transforms a kernel `[3, 3, in, out]` for `convolve`.

    Returns:
      `{"forward": [36, in, out], "backward": [36, out, in]}`, each four times as large as the
      kernel. "backward" is for the gradient: the transform of the kernel turned by 180 degrees.
    """
    kernel = jnp.asarray(kernel)
    turned = kernel[::-1, ::-1].swapaxes(-1, -2)
    return {"forward": _transform_kernel(kernel), "backward": _transform_kernel(turned)}


def _transform_kernel(kernel: jax.Array) -> jax.Array:
    rows = jnp.asarray(np.kron(_G, _G), kernel.dtype)
    product = jnp.matmul(rows, kernel.reshape(TAPS**2, -1), precision="highest")
    return product.reshape(INPUTS**2, *kernel.shape[2:])


@jax.custom_vjp
def convolve(
    x: Float[ArrayLike, "*N H W in"], kernel: dict[str, Float[Array, "36 _ _"]]
) -> Float[Array, "*N H W out"]:
    """Convolves with a prepared 3x3 kernel. Pads with zeros beyond the border.

    Args:
      x: float `[..., H, W, in]`.
      kernel: a kernel from `prepare`. It is a constant.

    Returns:
      `[..., H, W, out]`.

    Raises:
      TypeError: somebody differentiates by the kernel.
    """
    return _convolve(jnp.asarray(x), kernel["forward"])


@jax.jit  # so that layers of one shape are traced once
def _convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    if x.ndim > 3:
        return jax.vmap(_convolve, in_axes=(0, None))(x, kernel)
    height, width, channels = x.shape
    down, across = -(-height // OUTPUTS), -(-width // OUTPUTS)  # tiles
    rows, columns = OUTPUTS * (down + 1), OUTPUTS * (across + 1)
    x = jnp.pad(x, ((1, rows - height - 1), (1, columns - width - 1), (0, 0)))
    x = x.reshape(down + 1, OUTPUTS, across + 1, OUTPUTS, channels)
    # A tile has four rows of inputs of its own, and takes two of the next tile. Sums of slices are
    # several times faster here than a product with a matrix that is mostly zeros.
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
    """Applies B^T to six arrays, and stacks the results along `axis`."""
    sums = [
        sum(float(weight) * term for weight, term in zip(row, inputs, strict=True) if weight)
        for row in _B
    ]
    return jnp.stack(sums, axis=axis)


def _forward(x, kernel):
    if any(part.perturbed for part in kernel.values()):
        raise TypeError(
            "params hold prepared kernels, which have no gradient: differentiate by the parameters "
            "as they were before nst_jax.prepare"
        )
    kernel = {name: part.value for name, part in kernel.items()}
    # This must not call `convolve`, which has its own rule and therefore no forward derivatives.
    return _convolve(x.value, kernel["forward"]), kernel


def _backward(kernel, cotangent):
    if isinstance(cotangent, jax.custom_derivatives.SymbolicZero):
        cotangent = jnp.zeros(cotangent.shape, kernel["backward"].dtype)
    return _convolve(cotangent, kernel["backward"]), None


convolve.defvjp(_forward, _backward, symbolic_zeros=True)
