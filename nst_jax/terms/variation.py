"""The total variation."""

from typing import Any, Literal, get_args

from nst_jax import losses
from nst_jax.settings import Number, Weights, number, option, settings, weighted
from nst_jax.terms.contract import IMAGE, Term

VariationForm = Literal["keras", "nine_point", "l1"]


@settings
class TotalVariation(Term):
    """The total variation: how much neighbouring pixels differ.

    Attributes:
      form: "keras" is the sum of (dx^2 + dy^2)^1.25 in grey levels of 255. "nine_point" is the mean
        of squares over eight neighbours in the range [0, 1]. "l1" is the mean of absolute
        differences in grey levels of 255.
    """

    name: str = option("tv")
    weight: Number = number(1.0, low=0, help="weight of the total variation")
    layers: Weights = weighted((IMAGE,), low=0, help="the picture itself", flag=False)
    form: VariationForm = option(
        "keras", choices=get_args(VariationForm), help="form of the total variation"
    )
    reach = 1
    linear = True

    def sums(self, layer, x, weights, target, at):
        # The published weights of "keras" and "l1" are for grey levels.
        options: dict[str, Any] = {"weights": weights, "wraps": at.wraps}
        if self.form == "keras":
            return losses.total_variation(255.0 * x, **options)
        if self.form == "l1":
            return losses.total_variation_l1(255.0 * x, shape=at.shape, **options)
        return losses.total_variation_nine_point(x, shape=at.shape, **options)

    def loss(self, sums, target, at):
        return {layer: weight * sums[layer] for layer, weight in self.layers.items()}
