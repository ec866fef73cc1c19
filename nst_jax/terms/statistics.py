"""Style losses that compare means and products of features over all positions."""

from typing import Literal, get_args

import jax

from nst_jax import losses
from nst_jax.settings import Number, Weights, number, option, settings, weighted
from nst_jax.terms.contract import At, Term

Normalization = Literal["gatys", "keras", "mean", "mean_per_channel", "relative"]

FIRST_CONVOLUTIONS = tuple(f"block{block}_conv1" for block in range(1, 6))
"""The style layers of Gatys et al.: the first convolution of each block."""

STYLE_HELP = "layers whose statistics to compare with the style"


class _Style(Term):
    """A style loss that compares means over the positions, of features and of their products.

    The papers compare sums over the positions. Both are the same if the picture and the style have
    the same size. With other sizes, the style counts as if it had as many positions as the picture.
    """

    refers = "style"
    regions = True
    unordered = True

    def target(self, layer, measured, at):
        return losses.per_position(measured)

    def sums(self, layer, x, weights, target, at):
        columns = x.shape[-1] // at.channels[layer]
        return losses.statistics(x, weights=weights, columns=columns, axes=x.ndim - 1)

    def distance(
        self, own: losses.Statistics, target: losses.Statistics, layer: str, at: At
    ) -> jax.Array:
        """Returns the loss of one layer without its weight, from statistics per position."""
        raise NotImplementedError

    def loss(self, sums, target, at):
        return {
            layer: weight
            * self.distance(losses.per_position(sums[layer]), target[layer], layer, at)
            for layer, weight in self.layers.items()
        }


@settings
class GramStyle(_Style):
    """The Gram style loss: squared differences of Gram matrices from those of the style.

    It is equations 4 and 5 of Leon A. Gatys, Alexander S. Ecker, Matthias Bethge: "Image Style
    Transfer Using Convolutional Neural Networks", CVPR 2016.

    Attributes:
      normalization: what divides the squared difference of a layer with N channels and M positions.
        "gatys": 4 N^2 M^2. "keras": 4 * 3^2 * (height * width)^2 of the picture, the same for
        every layer. "mean": N^2 M^2. "mean_per_channel": N^4 M^2. "relative": the squared norm of
        the style's Gram matrix, so that the size of the activations does not matter.
    """

    name: str = option("style")
    weight: Number = number(1.0, low=0, help="weight of the style loss")
    layers: Weights = weighted(FIRST_CONVOLUTIONS, low=0, help=STYLE_HELP)
    normalization: Normalization = option(
        "mean_per_channel",
        choices=get_args(Normalization),
        help="what divides the squared Gram differences",
    )

    def distance(self, own, target, layer, at):
        if self.normalization == "relative":
            return losses.relative_style_loss(own.gram, target.gram)
        channels, positions = at.channels[layer], at.positions[layer]
        normalizer = {
            "gatys": losses.gatys_normalizer(channels, positions),
            "keras": losses.keras_normalizer(*at.shape),
            "mean": losses.mean_normalizer(channels, positions),
            "mean_per_channel": losses.mean_normalizer(channels, positions) * float(channels) ** 2,
        }[self.normalization]
        # The matrices are means, so the divisor is divided by the squared positions, too. This
        # gives the same number without sums of 1e15.
        return losses.style_loss(
            own.gram, target.gram, normalizer=normalizer / float(positions) ** 2
        )


@settings
class WassersteinStyle(_Style):
    """The Wasserstein style loss: it compares features as Gaussian distributions.

    It is the squared 2-Wasserstein distance of two Gaussians, with the means and the covariances of
    the features, see `nst_jax.losses.wasserstein_loss`.
    """

    name: str = option("style")
    weight: Number = number(1.0, low=0, help="weight of the style loss")
    layers: Weights = weighted(FIRST_CONVOLUTIONS, low=0, help=STYLE_HELP)

    def distance(self, own, target, layer, at):
        return losses.wasserstein_loss(own, target)

    def check_mixing(self, mixing):
        if mixing.min() < 0:
            raise ValueError("mixing must not be negative with the wasserstein style loss")
