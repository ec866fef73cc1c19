"""What is measured at a picture: losses and gradients by layer, and the curvature of the loss.

Everything is in grey levels, as the learning rate is: the picture times 255.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from scipy.sparse.linalg import LinearOperator, eigsh  # comes with jax

from nst_jax import objective
from nst_jax.config import Config
from nst_jax.optimize import LEVELS

PRECISION = 0.01  # of the eigenvalue, relative


@jax.jit
def _losses(image, params, targets, config):
    return objective.layer_losses(image, params, targets, config)


def layer_losses(image, params: Mapping, targets, config: Config) -> dict[str, float]:
    """What each layer adds to the loss, weighted, `{"content/block5_conv4": ..., ...}`."""
    return {
        f"{kind}/{layer}": float(value)
        for kind, of_kind in _losses(image, params, targets, config).items()
        for layer, value in of_kind.items()
    }


@jax.jit
def _gradients(image, params, targets, config):
    def losses(levels):
        return objective.layer_losses(levels / LEVELS, params, targets, config)

    return jax.jacrev(losses)(LEVELS * image)


def gradient_norms(image, params: Mapping, targets, config: Config) -> dict[str, float]:
    """Euclidean norm of the gradient of what each layer adds to the loss, and of their sum.

    Returns:
      `{"content/<layer>": ..., "style/<layer>": ..., "total": ...}`, loss a grey level.
    """
    found = {
        f"{kind}/{layer}": np.asarray(value, np.float64)
        for kind, of_kind in _gradients(image, params, targets, config).items()
        for layer, value in of_kind.items()
    }
    found["total"] = sum(found.values())
    return {name: float(np.linalg.norm(value)) for name, value in found.items()}


def hessian_product(function, x: jax.Array, vector: jax.Array) -> jax.Array:
    """The Hessian of `function` at `x` times `vector`, forward over reverse.

    Barak A. Pearlmutter: "Fast Exact Multiplication by the Hessian", Neural Computation 6, 1994.
    """
    return jax.jvp(jax.grad(function), (x,), (vector,))[1]


@jax.jit
def _hessian_product(vector, image, params, targets, config):
    def value(levels):
        # Of the layers: where neighbours are alike, total variation to the power 1.25 has no
        # second derivative, not even at a weight of 0.
        losses = objective.layer_losses(levels / LEVELS, params, targets, config)
        return sum(jax.tree.leaves(losses))

    return hessian_product(value, LEVELS * image, vector)


def largest_eigenvalue(image, params: Mapping, targets, config: Config) -> float:
    """The largest eigenvalue of the Hessian of the layers' losses, loss a squared grey level.

    By Lanczos' iteration (ARPACK), the power iteration that keeps what it has seen, on products of
    the Hessian with vectors. Gradient descent at a rate above 2 / eigenvalue moves away from a
    minimum along its eigenvector (for a quadratic; on the edge that networks' losses keep to:
    Cohen et al., "Gradient Descent on Neural Networks Typically Occurs at the Edge of Stability",
    ICLR 2021, https://arxiv.org/abs/2103.00065).
    """

    def product(vector):
        shaped = jnp.asarray(vector, jnp.float32).reshape(image.shape)
        return np.asarray(_hessian_product(shaped, image, params, targets, config)).ravel()

    hessian = LinearOperator((image.size, image.size), matvec=product, dtype=np.float32)
    start = np.random.default_rng(0).normal(size=image.size).astype(np.float32)
    options = {"k": 1, "which": "LA", "v0": start, "tol": PRECISION, "return_eigenvectors": False}
    return float(eigsh(hessian, **options)[0])
