"""The photorealism loss: colours change, and edges stay.

Sources: Fujun Luan, Sylvain Paris, Eli Shechtman, Kavita Bala: "Deep Photo Style Transfer", CVPR
2017, https://arxiv.org/abs/1703.07511. Anat Levin, Dani Lischinski, Yair Weiss: "A Closed-Form
Solution to Natural Image Matting", IEEE TPAMI 30, 2008, https://doi.org/10.1109/TPAMI.2007.1177
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from nst_jax.settings import Number, Weights, number, option, settings, weighted
from nst_jax.terms.contract import IMAGE, Field, Term


def affine_residuals(
    image: Float[ArrayLike, "H W 3"],
    content: Float[ArrayLike, "H W 3"],
    epsilon: Float[ArrayLike, ""],
) -> Float[Array, "h w"]:
    """Returns how far each window of an image is from an affine function of the content's colours.

    In each window of 3x3 pixels, a channel v of the image is fitted by `a . I + b`, where I is the
    content. Returned is the sum over the channels of

        min over a, b of sum_i (v_i - a . I_i - b)^2 + epsilon |a|^2

    The sum of all windows is `sum_c v_c^T M v_c` with the matting Laplacian M of Levin et al.
    (equations 10 to 12), which is the loss of Luan et al. (equation 4).

    Args:
      image, content: in [0, 1].
      epsilon: how much a steep function costs, above 0.

    Returns:
      One number for each window inside the image, [H - 2, W - 2].
    """
    v, i = (jnp.asarray(x) - 0.5 for x in (image, content))
    pairs = [(0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)]
    products = [i[..., [one]] * i[..., [other]] for one, other in pairs]
    mixed = [i[..., [channel]] * v for channel in range(3)]
    squares = jnp.sum(jnp.square(v), axis=2, keepdims=True)
    sums = _window_sums(jnp.concatenate([v, i, *products, *mixed, squares], axis=2))
    v, i = sums[..., :3], sums[..., 3:6]
    xx, yy, zz, yz, xz, xy = (
        sums[..., 6 + at] - i[..., one] * i[..., other] / 9 for at, (one, other) in enumerate(pairs)
    )
    xx, yy, zz = xx + epsilon, yy + epsilon, zz + epsilon
    x, y, z = (sums[..., 12 + 3 * at : 15 + 3 * at] - i[..., [at]] * v / 9 for at in range(3))
    # Elimination as of Cholesky, for all windows at once. No pivot falls below epsilon. Cofactors
    # would cancel to nothing where all colours of a window lie on one line.
    yx, zx = xy / xx, xz / xx
    y, z = y - yx[..., None] * x, z - zx[..., None] * x
    yy, yz, zz = yy - yx * xy, yz - yx * xz, zz - zx * xz
    z, zz = z - (yz / yy)[..., None] * y, zz - yz / yy * yz
    pivots = ((x, xx), (y, yy), (z, zz))
    fitted = sum(jnp.sum(jnp.square(each), axis=2) / pivot for each, pivot in pivots)
    variances = sums[..., -1] - jnp.sum(jnp.square(v), axis=2) / 9
    return variances - fitted


def _window_sums(x: Float[Array, "H W C"]) -> Float[Array, "h w C"]:
    """The sums over the windows of 3x3 positions that lie inside."""
    x = x[:-2] + x[1:-1] + x[2:]
    return x[:, :-2] + x[:, 1:-1] + x[:, 2:]


@settings
class Matting(Term):
    """The photorealism loss: in small windows, the picture is an affine function of the content.

    So flat parts stay flat, and edges stay where they are. Colours may change from place to place.

    Attributes:
      epsilon: how much a steep function costs.
    """

    name: str = option("matting")
    weight: Number = number(1.0, low=0, help="weight of the photorealism loss")
    layers: Weights = weighted((IMAGE,), low=0, help="the picture itself", flag=False)
    epsilon: Number = number(1e-4, above=0, help="cost of steep functions in the photorealism loss")
    refers = "content"
    reach = 1

    def sums(self, layer, x, weights, target, at):
        found = affine_residuals(x, target.values, self.epsilon)
        return jnp.sum(found if weights is None else weights[1:-1, 1:-1] * found)

    def target(self, layer, measured: Field, at):
        return jax.tree.map(lambda values: values.astype(jnp.float32), measured)

    def loss(self, sums, target, at):
        windows = max(1, (at.shape[0] - 2) * (at.shape[1] - 2))
        return {layer: weight * sums[layer] / windows for layer, weight in self.layers.items()}
