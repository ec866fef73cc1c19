"""The Laplacian loss, which keeps the edges of the content.

Source: Shaohua Li, Xinxing Xu, Liqiang Nie, Tat-Seng Chua: "Laplacian-Steered Neural Style
Transfer", ACM Multimedia 2017, https://arxiv.org/abs/1707.01253
"""

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from nst_jax.settings import Number, Weights, number, option, settings, weighted
from nst_jax.terms.contract import IMAGE, Term


def laplacian(image: Float[ArrayLike, "H W 3"]) -> Float[Array, "H-2 W-2"]:
    """Returns the Laplacian of a picture inside its border, summed over the colours.

    It is four times a pixel, less its four neighbours.
    """
    image = jnp.sum(jnp.asarray(image), axis=-1)
    inner = image[1:-1, 1:-1]
    return 4.0 * inner - image[:-2, 1:-1] - image[2:, 1:-1] - image[1:-1, :-2] - image[1:-1, 2:]


def average_pool(image: Float[ArrayLike, "H W 3"], side: int) -> Float[Array, "_ _ 3"]:
    """Returns the means over squares of `side` pixels, without pixels beyond the last square."""
    image = jnp.asarray(image)
    height, width = image.shape[0] // side, image.shape[1] // side
    cut = image[: height * side, : width * side]
    return jnp.mean(cut.reshape(height, side, width, side, -1), axis=(1, 3))


def laplacian_distance(
    image: Float[ArrayLike, "H W 3"], content: Float[ArrayLike, "H W 3"], side: int
) -> Float[Array, ""]:
    """Returns the sum of squared differences of the Laplacians, equation 5 of the paper.

    Both pictures are first averaged over squares of `side` pixels.
    """
    own, wanted = (laplacian(average_pool(x, side)) for x in (image, content))
    return jnp.sum(jnp.square(own - wanted))


@settings
class Laplacian(Term):
    """The Laplacian loss: edges of the content stay.

    Attributes:
      squares: the side of the squares that are averaged first, in pixels.
    """

    name: str = option("laplacian")
    weight: Number = number(1.0, low=0, help="weight of the Laplacian loss")
    layers: Weights = weighted((IMAGE,), low=0, help="the picture itself", flag=False)
    squares: int = option(4, low=1, whole=True, help="side of the squares that are averaged first")
    refers = "content"
    additive = False
    linear = True

    def sums(self, layer, x, weights, target, at):
        return laplacian_distance(x, target.values, self.squares)

    def loss(self, sums, target, at):
        # The mean over the squares, so that the loss does not grow with the picture.
        rows, columns = (max(1, side // self.squares) for side in at.shape)
        return {
            layer: weight * sums[layer] / (rows * columns) for layer, weight in self.layers.items()
        }
