"""Optical flow: where each pixel of a frame was in another frame of a film.

A flow is float32 `[H, W, 2]`, in pixels: first to the right, then down, as in .flo files. The pixel
p of a frame shows what was at p + flow[p] in the other frame.

Source: Manuel Ruder, Alexey Dosovitskiy, Thomas Brox: "Artistic Style Transfer for Videos", GCPR
2016, https://arxiv.org/abs/1604.08610
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from nst_jax import image as image_lib

FindFlow = Callable[[np.ndarray, np.ndarray], Float[ArrayLike, "H W 2"]]
"""`find(frame, other)` returns the flow from `frame` `[H, W, 3]` to `other`."""

SAME = 2.0 / 255
"""Without a flow, a pixel stands still if the frames differ by no more than this around it."""


@jax.jit
def warp(
    image: Float[ArrayLike, "*N H W C"], flow: Float[ArrayLike, "H W 2"]
) -> Float[Array, "*N H W C"]:
    """Returns an image along a flow: at p, what the image has at p + flow[p].

    It interpolates linearly. Places beyond the border take the nearest pixel.

    Args:
      image: one image, or several with a leading axis.
      flow: from the new image to `image`.
    """
    image, flow = jnp.asarray(image), jnp.asarray(flow)
    if image.ndim > 3:
        return jax.vmap(warp, in_axes=(0, None))(image, flow)
    height, width = image.shape[:2]
    x, y = _places(flow)
    x, y = jnp.clip(x, 0.0, width - 1.0), jnp.clip(y, 0.0, height - 1.0)
    left, top = jnp.floor(x).astype(jnp.int32), jnp.floor(y).astype(jnp.int32)
    right, bottom = jnp.minimum(left + 1, width - 1), jnp.minimum(top + 1, height - 1)
    across, down = (x - left)[..., None], (y - top)[..., None]
    above = (1.0 - across) * image[top, left] + across * image[top, right]
    below = (1.0 - across) * image[bottom, left] + across * image[bottom, right]
    return (1.0 - down) * above + down * below


def _places(flow: Float[Array, "H W 2"]) -> tuple[jax.Array, jax.Array]:
    """The column and the row to which each pixel's flow leads."""
    columns, rows = (jnp.arange(length, dtype=flow.dtype) for length in flow.shape[1::-1])
    return columns[None] + flow[..., 0], rows[:, None] + flow[..., 1]


@jax.jit
def reliable(
    flow: Float[ArrayLike, "H W 2"], back: Float[ArrayLike, "H W 2"]
) -> Float[Array, "H W"]:
    """Returns 1 where a flow can be trusted, and else 0.

    A pixel is not trusted in three cases, see section 4.2 of the paper:

    - the flow and the flow back do not agree, so the pixel was hidden:
      `|flow + back'|^2 > 0.01 (|flow|^2 + |back'|^2) + 0.5`, where `back'` is `back` along `flow`;
    - the flow changes here, as at the border of a moving thing:
      `|grad u|^2 + |grad v|^2 > 0.01 |flow|^2 + 0.002`;
    - the flow leaves the picture.

    Args:
      flow: from a frame to another one.
      back: from the other frame to this one.
    """
    flow = jnp.asarray(flow)
    returned = warp(back, flow)
    length = jnp.sum(jnp.square(flow), axis=-1)
    lengths = length + jnp.sum(jnp.square(returned), axis=-1)
    hidden = jnp.sum(jnp.square(flow + returned), axis=-1) > 0.01 * lengths + 0.5
    slopes = jnp.stack(jnp.gradient(flow, axis=(0, 1)))
    border = jnp.sum(jnp.square(slopes), axis=(0, -1)) > 0.01 * length + 0.002
    return jnp.float32(~(hidden | border | _leaves(flow)))


def _leaves(flow: Float[Array, "H W 2"]) -> jax.Array:
    """Whether each pixel was outside of the other frame."""
    height, width = flow.shape[:2]
    x, y = _places(flow)
    return (x < 0) | (x > width - 1) | (y < 0) | (y > height - 1)


@jax.jit
def still(
    frame: Float[ArrayLike, "H W 3"], other: Float[ArrayLike, "H W 3"]
) -> Float[Array, "H W"]:
    """Returns 1 where two frames show the same, and else 0.

    A pixel is the same if no channel differs by more than `SAME` within two pixels around it.
    """
    far = jnp.max(jnp.abs(jnp.asarray(frame) - jnp.asarray(other)), axis=-1)
    farthest = jax.lax.reduce_window(far, 0.0, jax.lax.max, (5, 5), (1, 1), "SAME")
    return jnp.float32(farthest <= SAME)


@jax.jit
def follow(
    first: Float[ArrayLike, "H W 2"], second: Float[ArrayLike, "H W 2"]
) -> Float[Array, "H W 2"]:
    """Returns the flow along two flows: `first` to a frame, and `second` from there to another."""
    return jnp.asarray(first) + warp(second, first)


def resize_flow(
    flow: Float[ArrayLike, "h w 2"], height: int, width: int
) -> Float[Array, "height width 2"]:
    """Resizes a flow with its frames. The lengths of its vectors change with the sides."""
    flow = jnp.asarray(flow, jnp.float32)
    if flow.shape[:2] == (height, width):
        return flow
    scale = jnp.asarray([width / flow.shape[1], height / flow.shape[0]], jnp.float32)
    # Linear, because a flow jumps: cubic filters overshoot there.
    return scale[None, None] * image_lib.resample(flow, height, width)


def dis(frame: Float[ArrayLike, "H W 3"], other: Float[ArrayLike, "H W 3"]) -> np.ndarray:
    """Returns the flow from `frame` to `other` by OpenCV's DIS. It needs the extra `video`.

    Till Kroeger, Radu Timofte, Dengxin Dai, Luc Van Gool: "Fast Optical Flow using Dense Inverse
    Search", ECCV 2016, https://arxiv.org/abs/1603.03590

    Args:
      frame, other: sRGB in [0, 1], of one shape. Each side is at least 12 pixels.

    Raises:
      ImportError: OpenCV is not installed.
      ValueError: the frames are too small.
    """
    try:
        import cv2
    except ImportError:
        raise ImportError(
            "the flow needs OpenCV: give flows, or pip install opencv-python-headless"
        ) from None
    grey = [
        np.rint(255 * np.clip(np.asarray(each), 0, 1) @ np.array([0.299, 0.587, 0.114]))
        for each in (frame, other)
    ]
    if min(grey[0].shape) < 12:
        raise ValueError(
            f"frames must have at least 12 pixels a side for a flow, got {list(grey[0].shape)}"
        )
    method = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    first, second = (each.astype(np.uint8) for each in grey)
    return np.asarray(method.calc(first, second, np.zeros((*first.shape, 2), np.float32)))


def histogram_intersection(
    frame: Float[ArrayLike, "h w 3"], other: Float[ArrayLike, "H W 3"], *, bins: int = 8
) -> float:
    """Returns the share of pixels whose colours both pictures have, from 0 to 1.

    Michael J. Swain, Dana H. Ballard: "Color Indexing", International Journal of Computer Vision
    7(1), 1991: the sum over bins of the smaller share.

    Args:
      frame, other: sRGB in [0, 1].
      bins: along each channel.
    """

    def shares(picture: ArrayLike) -> np.ndarray:
        levels = np.clip(np.asarray(picture) * bins, 0, bins - 1).astype(int)
        numbers = (levels * np.array([bins * bins, bins, 1])).sum(-1)
        return np.bincount(numbers.ravel(), minlength=bins**3) / numbers.size

    return float(np.minimum(shares(frame), shares(other)).sum())
