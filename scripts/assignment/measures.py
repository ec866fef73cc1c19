"""Losses and gradients by layer, and the curvature of the loss, at one picture.

Derivatives are per grey level (of 255), the unit of the learning rate.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from scipy.sparse.linalg import LinearOperator, eigsh  # comes with jax

import nst_jax
from nst_jax import objective
from nst_jax.config import Config
from nst_jax.files.images import to_uint8
from nst_jax.optimize import LEVELS

PRECISION = 0.01  # of the eigenvalue, relative

_losses = jax.jit(objective.layer_losses)
loss_and_terms = jax.jit(nst_jax.objective_value)


def targets_of(params, content, styles, config: Config) -> list:
    """The targets of each style."""
    targets = nst_jax.compute_targets(params, content, styles, config)
    return [jax.tree.map(lambda leaf, n=n: leaf[n], targets) for n in range(len(styles))]


def as_saved(picture: np.ndarray) -> np.ndarray:
    """The picture as a file of 8 bits holds it."""
    return to_uint8(picture).astype(np.float32) / 255


def losses_of(picture, params: Mapping, targets, config: Config) -> dict[str, float]:
    """The terms of the loss, by name; those of the picture as saved have the suffix "_saved"."""
    return {
        name + suffix: float(value)
        for suffix, image in (("", picture), ("_saved", as_saved(picture)))
        for name, value in loss_and_terms(image, params, targets, config)[1].items()
    }


def _flat(by_kind: Mapping) -> dict:
    return {f"{kind}/{layer}": v for kind, own in by_kind.items() for layer, v in own.items()}


def layer_losses(image, params: Mapping, targets, config: Config) -> dict[str, float]:
    """What each layer adds to the loss, weighted: `{"style/block1_conv1": ..., ...}`."""
    found = _flat(_losses(image, params, targets, config))
    return {name: float(value) for name, value in found.items()}


@jax.jit
def _gradients(image, params, targets, config):
    def losses(levels):
        return objective.layer_losses(levels / LEVELS, params, targets, config)

    return jax.jacrev(losses)(LEVELS * image)


def gradient_norms(image, params: Mapping, targets, config: Config) -> dict[str, float]:
    """Euclidean norms of the gradients of `layer_losses`, and of their sum as "total"."""
    found = _flat(_gradients(image, params, targets, config))
    found = {name: np.asarray(value, np.float64) for name, value in found.items()}
    found["total"] = sum(found.values())
    return {name: float(np.linalg.norm(value)) for name, value in found.items()}


@jax.jit
def _hessian_product(vector, image, params, targets, config):
    """Forward over reverse.

    Barak A. Pearlmutter: "Fast Exact Multiplication by the Hessian", Neural Computation 6, 1994.
    """

    def value(levels):
        # The layers' losses only: total variation to the power 1.25 has no second derivative
        # where neighbours are equal, not even at a weight of 0.
        losses = objective.layer_losses(levels / LEVELS, params, targets, config)
        return sum(jax.tree.leaves(losses))

    return jax.jvp(jax.grad(value), (LEVELS * image,), (vector,))[1]


def largest_eigenvalue(image, params: Mapping, targets, config: Config) -> float:
    """The largest eigenvalue of the Hessian of the layers' losses, by Lanczos' iteration (ARPACK).

    Gradient descent at a rate above 2 / eigenvalue moves away from the minimum of a quadratic
    along the eigenvector. Networks' losses keep near that edge: Cohen et al., "Gradient Descent on
    Neural Networks Typically Occurs at the Edge of Stability", ICLR 2021,
    https://arxiv.org/abs/2103.00065.
    """

    def product(vector):
        shaped = jnp.asarray(vector, jnp.float32).reshape(image.shape)
        return np.asarray(_hessian_product(shaped, image, params, targets, config)).ravel()

    hessian = LinearOperator((image.size, image.size), matvec=product, dtype=np.float32)
    start = np.random.default_rng(0).normal(size=image.size).astype(np.float32)
    options = {"k": 1, "which": "LA", "v0": start, "tol": PRECISION, "return_eigenvectors": False}
    return float(eigsh(hessian, **options)[0])
