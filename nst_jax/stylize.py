"""The whole style transfer: arrays in, arrays out.

Leon A. Gatys, Alexander S. Ecker, Matthias Bethge: "Image Style Transfer Using Convolutional
Neural Networks", CVPR 2016.

Images are float32 sRGB, RGB order, range [0, 1], `[H, W, 3]` for one and `[N, H, W, 3]` for many.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nst_jax import image as image_lib
from nst_jax import objective, optimize
from nst_jax.config import Config


class Result(NamedTuple):
    """What `stylize` returns.

    Attributes:
      images: `[N, H, W, 3]`, one picture an output.
      history: `{"total", "content", "style", "total_variation"}`, NumPy `[steps, N]`, weighted,
        each before its step.
      diverged: `[N]` of bool, NumPy: outputs that met a value that is not finite; their picture
        is the last one before it.
    """

    images: jax.Array
    history: dict[str, np.ndarray]
    diverged: np.ndarray


def stylize(
    params: Mapping,
    content: jax.Array,
    styles: Sequence[jax.Array],
    config: Config,
    *,
    key: jax.Array | None = None,
    mixing: jax.Array | None = None,
    callback: Callable[[optimize.Progress], None] | None = None,
) -> Result:
    """Paints one content picture in many styles, all in one compiled program.

    Args:
      params: parameter tree of VGG16 or VGG19.
      content: `[H, W, 3]`, brought to `config.size`.
      styles: pictures `[h, w, 3]`, each brought to `config.size` in its own shape.
      config: what to do.
      key: random key (`jax.random.key`) of an image that starts from noise; None is key 0. Every
        output starts from the same noise.
      mixing: `[outputs, styles]`, rows sum to 1: blends of styles; None is one output a style.
      callback: called with a `Progress` after each dispatch of the compiled program.

    Returns:
      A `Result`.

    Raises:
      ValueError: pictures of another shape, type or range, too small for the deepest layer, an
        unknown layer, a bad mixing, or a number of another length than the outputs.
    """
    content = prepare("content", content, config.size)
    styles = [prepare(f"styles[{i}]", style, config.size) for i, style in enumerate(styles)]
    targets = objective.compute_targets(params, content, styles, config, mixing=mixing)
    start = content
    if config.init == "noise":
        key = jax.random.key(0) if key is None else key
        start = image_lib.noise(key, *content.shape[:2])
    outputs = len(jax.tree.leaves(targets.style)[0]) if targets.style else len(styles)
    states, history = optimize.run(
        objective.objective_value,
        jnp.broadcast_to(start, (outputs, *start.shape)),
        config,
        shared=(params,),
        each=(targets, optimize.batch_numbers(config, outputs)),
        callback=callback,
    )
    return Result(states.image, history, np.asarray(states.diverged))


def prepare(name: str, image: jax.Array, size: int | None) -> jax.Array:
    """Holds a picture against the contract and brings its longer side to `size`."""
    objective.check_image(name, image)
    image = jnp.asarray(image, jnp.float32)
    if not jnp.all(jnp.isfinite(image)):
        raise ValueError(f"{name} must be in [0, 1], got values that are not finite")
    low, high = float(jnp.min(image)), float(jnp.max(image))
    if low < 0.0 or high > 1.0:
        raise ValueError(f"{name} must be in [0, 1], got values from {low:g} to {high:g}")
    if size is None:
        return image
    return image_lib.resize(image, *image_lib.fit_size(*image.shape[:2], size))
