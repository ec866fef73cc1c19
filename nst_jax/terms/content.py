"""The content loss."""

from typing import Literal, get_args

from nst_jax import losses
from nst_jax.settings import Number, Weights, number, option, settings, weighted
from nst_jax.terms.contract import Term

Reduction = Literal["half_sum", "sum", "mean"]


@settings
class Content(Term):
    """The content loss: squared differences of activations from those of the content picture.

    It is equation 1 of Leon A. Gatys, Alexander S. Ecker, Matthias Bethge: "Image Style Transfer
    Using Convolutional Neural Networks", CVPR 2016.

    Attributes:
      reduction: how the squares of a layer are reduced. "half_sum" is half their sum, as in the
        paper. "sum" is their sum. "mean" is their mean, which does not grow with the picture.
    """

    name: str = option("content")
    weight: Number = number(1.0, low=0, help="weight of the content loss")
    layers: Weights = weighted(("block4_conv2",), low=0, help="layers to compare with the content")
    reduction: Reduction = option(
        "mean", choices=get_args(Reduction), help="how to reduce the squared differences"
    )
    refers = "content"
    linear = True

    def sums(self, layer, x, weights, target, at):
        return losses.content_loss(x, target.values, weights=weights)

    def loss(self, sums, target, at):
        found = {}
        for layer, weight in self.layers.items():
            size = at.positions[layer] * at.channels[layer]
            factor = {"half_sum": 1.0, "sum": 2.0, "mean": 2.0 / size}[self.reduction]
            found[layer] = weight * factor * sums[layer]
        return found
