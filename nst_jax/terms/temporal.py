"""The temporal loss of films."""

import jax.numpy as jnp
import numpy as np

from nst_jax.settings import Number, Weights, number, option, settings, weighted
from nst_jax.terms.contract import IMAGE, Term


@settings
class Temporal(Term):
    """The temporal loss: squared differences from earlier frames, where their flow is reliable.

    It is the loss of Manuel Ruder, Alexey Dosovitskiy, Thomas Brox: "Artistic Style Transfer for
    Videos", GCPR 2016, https://arxiv.org/abs/1604.08610, sections 4.2 and 4.3. The squares of the
    three channels are added. The loss is their mean over the pixels of the picture.

    The data of the run are `{"warped": Field [H, W, J, 3], "reliable": Field [H, W, J]}`: J earlier
    frames as they were painted, warped to this frame, and the weight of each of their pixels in
    [0, 1]. `nst_jax.sequence` makes them.

    Attributes:
      long_term: how many earlier frames count beside the last one: those 2, 4, 8 frames before,
        and so on.
    """

    name: str = option("temporal")
    weight: Number = number(
        150.0, low=0, help="weight of the difference from earlier frames; --sequence sets it to 150"
    )
    layers: Weights = weighted((IMAGE,), low=0, flag=False)
    long_term: int = option(
        0,
        low=0,
        whole=True,
        help="earlier frames of a sequence that count beside the last: those 2, 4, 8 before",
    )
    refers = "run"
    linear = True

    @property
    def distances(self) -> tuple[int, ...]:
        """How many frames before this one each of the earlier frames is."""
        return tuple((2 ** np.arange(self.long_term + 1)).tolist())

    def sums(self, layer, x, weights, target, at):
        squares = jnp.sum(jnp.square(x[:, :, None] - target["warped"].values), axis=-1)
        values = jnp.sum(target["reliable"].values * squares, axis=-1)
        return jnp.sum(values if weights is None else weights * values)

    def loss(self, sums, target, at):
        return {
            layer: weight * sums[layer] / at.positions[layer]
            for layer, weight in self.layers.items()
        }
