"""The terms of STROTSS, which compares samples of hypercolumns.

Source: Nicholas Kolkin, Jason Salavon, Gregory Shakhnarovich: "Style Transfer by Relaxed Optimal
Transport and Self-Similarity", CVPR 2019, https://arxiv.org/abs/1904.12785

Each step draws positions of the picture. The style keeps the same positions during a run.
"""

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from nst_jax.settings import Number, Weights, number, option, settings, weighted
from nst_jax.terms.contract import IMAGE, Term
from nst_jax.terms.distances import TINY, cosine_distances, euclidean_distances
from nst_jax.terms.sampling import (
    drawn_features,
    drawn_style,
    hypercolumns,
    style_hypercolumns,
)

LAYERS = ("block1_conv2", "block2_conv2", "block3_conv1", "block3_conv3", "block4_conv1")
"""The layers of a hypercolumn. The paper takes more layers, and the picture itself."""

_SAMPLES = "positions that are drawn in each step"
_STYLE_SAMPLES = "positions of the style that are kept"


def relaxed_transport(distances: Float[ArrayLike, "n m"]) -> Float[Array, ""]:
    """Returns the relaxed earth mover's distance of two sets, equation 5 of the paper.

        `max(1/n sum_i min_j C_ij, 1/m sum_j min_i C_ij)`

    Args:
      distances: C, the distances of all pairs.
    """
    distances = jnp.asarray(distances)
    return jnp.maximum(jnp.mean(jnp.min(distances, axis=1)), jnp.mean(jnp.min(distances, axis=0)))


def moment_distance(x: Float[ArrayLike, "n C"], y: Float[ArrayLike, "m C"]) -> Float[Array, ""]:
    """Returns the distance of means and covariances, equation 7 of the paper.

    `1/C |mean(x) - mean(y)|_1 + 1/C^2 |cov(x) - cov(y)|_1`
    """
    x, y = jnp.asarray(x), jnp.asarray(y)
    means, covariances = zip(*map(_moments, (x, y)), strict=True)
    return jnp.mean(jnp.abs(means[0] - means[1])) + jnp.mean(
        jnp.abs(covariances[0] - covariances[1])
    )


def _moments(x):
    mean = jnp.mean(x, axis=0)
    away = x - mean[None]
    return mean, jnp.matmul(away.T, away, precision="highest") / len(x)


def self_similarity_distance(
    x: Float[ArrayLike, "n C"], y: Float[ArrayLike, "n C"]
) -> Float[Array, ""]:
    """Returns the distance of the self-similarities of two sets, equation 8 of the paper.

        `1/n^2 sum_ij |D^x_ij / sum_i D^x_ij - D^y_ij / sum_i D^y_ij|`

    D are the cosine distances of all pairs within a set. Row i of both sets is of the same place.
    """
    shares = []
    for rows in (x, y):
        distances = cosine_distances(rows, rows)
        shares.append(distances / (jnp.sum(distances, axis=0, keepdims=True) + TINY))
    return jnp.mean(jnp.abs(shares[0] - shares[1]))


def decorrelated_colors(rgb: Float[ArrayLike, "n 3"]) -> Float[Array, "n 3"]:
    """Returns one channel of luminance and two of colour differences, by a rotation of RGB.

    The rotation takes the mean of the channels, and the two axes at right angles to it.
    """
    axes = np.array([[1, 1, 1], [1, 0, -1], [1, -2, 1]], np.float32)
    axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    return jnp.matmul(jnp.asarray(rgb), axes.T, precision="highest")


class _Sampled(Term):
    """A style term that compares rows at drawn positions."""

    refers = "style"
    mix = "losses"
    fixed = False
    samples: int
    style_samples: int

    def sums(self, layer, x, weights, target, at):
        if target is None:  # a style is measured
            return drawn_style(x, at, layer, self.style_samples, weights)
        return drawn_features(x, at, layer, self.samples, weights)

    def distance(self, own: Float[Array, "n C"], style: Float[Array, "m C"]) -> Float[Array, ""]:
        """Compares the hypercolumns of the picture with those of the style."""
        raise NotImplementedError

    def loss(self, sums, target, at):
        own, style = hypercolumns(sums, self.layers), style_hypercolumns(target, self.layers)
        return {IMAGE: self.distance(own, style)}


@settings
class RelaxedTransport(_Sampled):
    """The relaxed earth mover's distance of hypercolumns, by their cosine distances.

    Attributes:
      samples: how many positions each step draws.
      style_samples: how many positions of the style are kept.
    """

    name: str = option("remd")
    weight: Number = number(1.0, low=0, help="weight of the relaxed earth mover's distance")
    layers: Weights = weighted(LAYERS, low=0, help="layers of the hypercolumns")
    samples: int = option(1024, low=2, whole=True, help=_SAMPLES)
    style_samples: int = option(4096, low=2, whole=True, help=_STYLE_SAMPLES)

    def distance(self, own, style):
        return relaxed_transport(cosine_distances(own, style))


@settings
class MomentMatching(_Sampled):
    """The distance of the means and covariances of hypercolumns.

    Attributes:
      samples, style_samples: as in `RelaxedTransport`.
    """

    name: str = option("moments")
    weight: Number = number(1.0, low=0, help="weight of the distance of means and covariances")
    layers: Weights = weighted(LAYERS, low=0, help="layers of the hypercolumns")
    samples: int = option(1024, low=2, whole=True, help=_SAMPLES)
    style_samples: int = option(4096, low=2, whole=True, help=_STYLE_SAMPLES)

    def distance(self, own, style):
        return moment_distance(own, style)


@settings
class Palette(_Sampled):
    """The relaxed earth mover's distance of colours, by their Euclidean distances.

    Attributes:
      samples, style_samples: as in `RelaxedTransport`.
    """

    name: str = option("palette")
    weight: Number = number(1.0, low=0, help="weight of the distance of palettes")
    layers: Weights = weighted((IMAGE,), low=0, help="the picture itself", flag=False)
    samples: int = option(1024, low=2, whole=True, help=_SAMPLES)
    style_samples: int = option(4096, low=2, whole=True, help=_STYLE_SAMPLES)

    def distance(self, own, style):
        own, style = decorrelated_colors(own), decorrelated_colors(style)
        return relaxed_transport(euclidean_distances(own, style))


@settings
class SelfSimilarity(Term):
    """The content loss of STROTSS: distances between places of the picture stay as they are.

    Attributes:
      samples: how many positions each step draws.
    """

    name: str = option("similarity")
    weight: Number = number(1.0, low=0, help="weight of the distance of self-similarities")
    layers: Weights = weighted(LAYERS, low=0, help="layers of the hypercolumns")
    samples: int = option(1024, low=2, whole=True, help=_SAMPLES)
    refers = "content"
    fixed = False

    def sums(self, layer, x, weights, target, at):
        return tuple(
            drawn_features(values, at, layer, self.samples, weights)
            for values in (x, target.values)
        )

    def loss(self, sums, target, at):
        own, content = (
            hypercolumns({layer: sums[layer][n] for layer in self.layers}, self.layers)
            for n in range(2)
        )
        # The shares of a column sum to 1. Without this factor, the mean would fall as n grows.
        return {IMAGE: len(own) * self_similarity_distance(own, content)}
