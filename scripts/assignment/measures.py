"""What is measured at a picture: losses and gradients by layer, and the curvature of the loss.

Everything is in grey levels, as the learning rate is: the picture times 255.
"""

import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from nst_jax import objective
from nst_jax.config import Config
from nst_jax.optimize import LEVELS

MOST_ITERATIONS = 20  # of the power iteration
TOLERANCE = 0.02  # relative change of the eigenvalue at which it ends


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


@functools.partial(jax.jit, donate_argnums=0)
def _iterate(vector, image, params, targets, config):
    def value(levels):
        return objective.objective_value(levels / LEVELS, params, targets, config)[0]

    product = hessian_product(value, LEVELS * image, vector)
    return product / jnp.linalg.norm(product), jnp.vdot(vector, product)


def largest_eigenvalue(
    image, params: Mapping, targets, config: Config, *, seed: int = 0
) -> tuple[float, int]:
    """The eigenvalue of largest magnitude of the loss's Hessian, by power iteration.

    Gradient descent at a rate above 2 / eigenvalue moves away from a minimum along its
    eigenvector (for a quadratic; on the edge that networks' losses keep to: Cohen et al.,
    "Gradient Descent on Neural Networks Typically Occurs at the Edge of Stability", ICLR 2021,
    https://arxiv.org/abs/2103.00065).

    Returns:
      The eigenvalue, loss a squared grey level, and the number of Hessian-vector products.
    """
    vector = jax.random.normal(jax.random.key(seed), image.shape)
    vector, before, count = vector / jnp.linalg.norm(vector), jnp.inf, 0
    while count < MOST_ITERATIONS:
        count += 1
        vector, value = _iterate(vector, image, params, targets, config)
        value = float(value)
        if abs(value - before) <= TOLERANCE * abs(value):
            break
        before = value
    return value, count
