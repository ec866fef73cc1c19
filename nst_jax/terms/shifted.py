"""The Gram style loss of shifted activations.

Source: Roman Novak, Yaroslav Nikulin: "Improving the Neural Algorithm of Artistic Style", 2016,
https://arxiv.org/abs/1605.04603
"""

from nst_jax import losses
from nst_jax.settings import Number, number, option, settings
from nst_jax.terms.statistics import GramStyle


@settings
class ShiftedGramStyle(GramStyle):
    """The Gram style loss of activations to which a number is added.

    Activations are never negative, so a Gram matrix is mostly products of means. With a shift of
    -1, features that are absent together count like features that are present together.

    Attributes:
      shift: what is added to each activation, in the units of the network's activations. The paper
        takes -1. With `normalize_features` the activations are near one.
    """

    name: str = option("style")
    shift: Number = number(-1.0, help="what is added to the activations before their products")

    def distance(self, own, target, layer, at):
        own, target = (losses.shifted(each, self.shift) for each in (own, target))
        return super().distance(own, target, layer, at)
