"""Exact value and gradient of the objective for a picture of any size, window by window.

What the style losses know of a picture are sums over positions, and the content loss and the total
variation are sums themselves. So a first pass over windows of the picture adds up the statistics
of its style layers, and a second one takes each window's vector-Jacobian product with the
derivative of the loss by those sums, by then known. Both sums and gradient are those of the whole
picture, up to rounding, in memory that depends on the window alone:

- windows overlap by at least the receptive field of the deepest layer, and start at multiples of
  its stride, so that pooling meets the same pixels;
- they lie inside the picture and end with it, so that a layer's padding is met only where the
  picture ends; elsewhere it spoils nothing but positions that another window owns;
- each position of each layer is owned by one window, which alone counts it;
- all are of one shape, so that they share one compiled program.

With the same direct convolutions the gradient of windows and that of the whole picture differ by a
millionth of its norm. The rounding of Winograd's algorithm, by which `stylize` convolves on a CPU,
depends on where its own tiles lie: there it is up to two hundred-thousandths.

Pictures, gradients and targets are NumPy arrays in host memory; only windows go to the device.
Images are float32 sRGB, RGB order, range [0, 1], `[H, W, 3]`.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nst_jax import losses, objective, vgg
from nst_jax.config import Config

OnWindow = Callable[[int, int], None]


def on_host() -> contextlib.AbstractContextManager:
    """Makes the host's processor the device that JAX takes by default, if JAX may use it."""
    try:
        return jax.default_device(jax.local_devices(backend="cpu")[0])
    except RuntimeError:  # JAX_PLATFORMS names none but an accelerator
        return contextlib.nullcontext()


def on_device() -> contextlib.AbstractContextManager:
    """Makes the accelerator, where there is one, the device again that JAX takes by default."""
    return jax.default_device(jax.local_devices()[0])


class Span(NamedTuple):
    """A window's place along one side of the picture.

    Attributes:
      start: the picture's pixel at which it starts.
      first, stop: the pixels that it owns, from `first` up to `stop`, counted from `start`.
    """

    start: int
    first: int
    stop: int


def spans(side: int, tile: int, *, stride: int, radius: int) -> tuple[int, list[Span]]:
    """Windows of one length along a side of the picture.

    Args:
      side: the picture's, in pixels.
      tile: the longest that a window may be.
      stride, radius: of the deepest layer, `vgg.receptive_field`.

    Returns:
      The length of a window, and the windows. Starts and owned pixels are multiples of the
      stride, but for the last pixel. A side not above `tile` is one window.

    Raises:
      ValueError: a tile too small to own anything between its halos.
    """
    if side <= tile:
        return side, [Span(0, 0, side)]
    halo = -(-radius // stride) * stride
    # The last window ends with the picture and starts at a multiple of the stride.
    longest = tile - (tile - side) % stride

    def owned(length):
        """What a window inside the picture owns, up to the receptive field at its end."""
        return (length - radius) // stride * stride - halo

    if owned(longest) < stride:
        smallest = halo + radius + 2 * stride - 1
        raise ValueError(f"tile must be at least {smallest} for these layers, got {tile}")

    def windows_of(length):
        """How many of them: the first owns its start as well, the last its end."""
        return 2 + max(0, -(-(side - length - owned(length)) // owned(length)))

    count = windows_of(longest)
    length = next(
        length
        for length in range(longest % stride, longest + 1, stride)
        if owned(length) >= stride and windows_of(length) == count
    )
    found = [Span(0, 0, owned(length) + halo)]
    while len(found) < count:
        cut = found[-1].start + found[-1].stop
        start = min(cut - halo, side - length)
        last = start == side - length
        found.append(Span(start, cut - start, length if last else owned(length) + halo))
    return length, found


class Grid(NamedTuple):
    """Windows over a picture.

    Attributes:
      shape: `(H, W)` of the picture.
      window: `(h, w)` of every window.
      rows, columns: the windows along each side.
    """

    shape: tuple[int, int]
    window: tuple[int, int]
    rows: list[Span]
    columns: list[Span]

    def __len__(self):
        return len(self.rows) * len(self.columns)

    def __iter__(self) -> Iterator[tuple[Span, Span]]:
        return ((row, column) for row in self.rows for column in self.columns)

    def cut(self, array: np.ndarray, window: tuple[Span, Span], *, stride: int = 1) -> np.ndarray:
        """The window's part `[h, w, ...]` of a picture, or of a layer of that stride."""
        place = tuple(
            slice(span.start // stride, span.start // stride + length // stride)
            for span, length in zip(window, self.window, strict=True)
        )
        return array[place]

    @staticmethod
    def owned(window: tuple[Span, Span]) -> np.ndarray:
        """`[[first row, stop row], [first column, stop column]]`, from the window's start."""
        return np.array([span[1:] for span in window], np.int32)


def grid(shape: Sequence[int], tile: int, layers: Sequence[str], *, model: str) -> Grid:
    """Windows over a picture of `shape` `(H, W, ...)`, none longer than `tile` pixels a side, for
    the activations at `layers` of `model` ("vgg16" or "vgg19").

    Raises:
      ValueError: a tile too small for the layers, or an unknown layer.
    """
    fields = [vgg.receptive_field(model, layer) for layer in layers]
    stride = max((stride for stride, _ in fields), default=1)
    radius = max([1, *(radius for _, radius in fields)])  # total variation looks one pixel far
    height, width = shape[:2]
    (window_height, rows), (window_width, columns) = (
        spans(side, tile, stride=stride, radius=radius) for side in (height, width)
    )
    return Grid((height, width), (window_height, window_width), rows, columns)


def _owned(own: jax.Array, shape: tuple[int, int], layers: Sequence[str]) -> dict[str, jax.Array]:
    """1 at the positions of each layer that the window owns and 0 elsewhere, `{layer: [h, w]}`."""
    return {layer: _owned_at(own, shape, vgg.smallest_side(layer)) for layer in layers}


def _owned_at(own, shape, stride):
    """`own` is `[[first row, stop row], [first column, stop column]]`, in pixels."""
    sides = []
    for (first, stop), length in zip(own // stride, shape, strict=True):
        index = jnp.arange(length // stride)
        sides.append((index >= first) & (index < stop))
    return (sides[0][:, None] & sides[1][None, :]).astype(jnp.float32)


_activations = jax.jit(objective.content_targets)


@jax.jit
def _window_statistics(params, window, masks, own, config):
    """What the positions that the window owns add to the statistics of the style layers."""
    owned = _owned(own, window.shape[:2], config.style_layers)
    sums, _ = objective.compare(
        params, window, None, config, shape=window.shape, masks=masks, owned=owned
    )
    return sums


@functools.partial(jax.jit, static_argnames="shape")
def _style_slope(sums, targets, config, shape):
    """The style loss, and its derivative by the statistics."""
    return jax.value_and_grad(objective.style_value)(sums, targets, config, shape=shape)


@functools.partial(jax.jit, static_argnames="shape")
def _window_gradient(params, window, content, masks, own, slope, config, shape):
    """The content loss of the positions that the window owns, and what they add to the gradient
    of content and style, `[h, w, 3]`."""
    owned = _owned(own, window.shape[:2], objective.all_layers(config))
    if not isinstance(content, dict):
        content = objective.content_targets(params, content, config)

    def value(window):
        sums, near = objective.compare(
            params, window, content, config, shape=shape, masks=masks, owned=owned
        )
        style = sum(map(jnp.vdot, jax.tree.leaves(slope), jax.tree.leaves(sums)))
        return near + style, near

    (_, near), gradient = jax.value_and_grad(value, has_aux=True)(window)
    return near, gradient


@functools.partial(jax.jit, static_argnames="shape")
def _window_variation(window, own, config, shape):
    """The total variation of the pixels that the window owns, and its gradient."""
    weights = _owned_at(own, window.shape[:2], 1)
    value = functools.partial(objective.variation_value, weights=weights, shape=shape)
    return jax.value_and_grad(value)(window, config)


def _masks_of(masks, windows, window):
    """The window's part of masks `{layer: [regions, h, w]}`."""
    if masks is None:
        return None
    return {
        layer: np.stack(
            [windows.cut(region, window, stride=vgg.smallest_side(layer)) for region in mask]
        )
        for layer, mask in masks.items()
    }


def _content_of(content, windows, window):
    """The window's part of the content's activations, or of the content picture."""
    if not isinstance(content, Mapping):
        return windows.cut(content, window)
    return {
        layer: windows.cut(value, window, stride=vgg.smallest_side(layer))
        for layer, value in content.items()
    }


def _style_alone(targets):
    """The targets that `objective.style_value` looks at: of masks, whether there are any."""
    regions = None if targets.masks is None else {}
    return objective.Targets(content={}, style=targets.style, masks=regions)


def _counter(on_window, total):
    """A function to call with what a window gave; it waits for it only if somebody looks."""
    done = 0

    def report(result):
        nonlocal done
        done += 1
        if on_window is not None:
            jax.block_until_ready(result)
            on_window(done, total)

    return report


def _statistics(params, image, masks, config, windows, *, report=lambda _: None):
    """`objective.style_statistics` of the whole picture."""
    sums = None
    for window in windows:
        here = _window_statistics(
            params,
            windows.cut(image, window),
            _masks_of(masks, windows, window),
            windows.owned(window),
            config,
        )
        sums = here if sums is None else jax.tree.map(jnp.add, sums, here)
        report(sums)
    return sums


def value_and_grad(
    image: np.ndarray,
    params: Mapping,
    targets: objective.Targets,
    config: Config,
    *,
    tile: int,
    shift: jax.Array | None = None,
    on_window: OnWindow | None = None,
) -> tuple[tuple[np.ndarray, dict[str, np.ndarray]], np.ndarray]:
    """`jax.value_and_grad(objective_value, has_aux=True)` of a picture of any size.

    Not to be jitted: it runs a compiled program once for each window, and again.

    Args:
      image: `[H, W, 3]` in [0, 1], NumPy, or what NumPy can look at.
      params: parameter tree of VGG16 or VGG19.
      targets: one output's, from `compute_targets` of this module or of `objective`.
      config: layers, normalisations and weights.
      tile: the longest side of a window, in pixels.
      shift: as in `objective_value`.
      on_window: called with the number of windows dealt with and of all, each pass counted.

    Returns:
      `(total, terms)` as of `objective_value`, and the gradient `[H, W, 3]`, NumPy.

    Raises:
      ValueError: a tile too small for the layers.
    """
    targets = jax.tree.map(np.asarray, objective.one_output(targets))
    image = np.asarray(image)
    layers = objective.all_layers(config)
    windows = grid(image.shape, tile, layers, model=vgg.network_name(params))
    varies = bool(np.any(config.tv_weight))
    passes = bool(config.style_layers) + bool(layers) + varies
    report = _counter(on_window, passes * len(windows))
    moved, content = image, targets.content
    if shift is not None:
        shift = np.asarray(shift)
        moved, content = (np.roll(x, shift, axis=(0, 1)) for x in (image, targets.picture))
    style, slope = np.float32(0), {}
    near, gradient = np.float32(0), np.zeros_like(image)
    variation = np.float32(0)
    with on_device():
        if config.style_layers:
            sums = _statistics(params, moved, targets.masks, config, windows, report=report)
            style, slope = _style_slope(sums, _style_alone(targets), config, windows.shape)
        if layers:
            for window in windows:
                near_here, gradient_here = _window_gradient(
                    params,
                    windows.cut(moved, window),
                    _content_of(content, windows, window),
                    _masks_of(targets.masks, windows, window),
                    windows.owned(window),
                    slope,
                    config,
                    windows.shape,
                )
                near = near + near_here
                windows.cut(gradient, window)[:] += np.asarray(gradient_here)
                report(gradient)
        if shift is not None:
            gradient = np.roll(gradient, -shift, axis=(0, 1))
        if varies:
            for window in windows:
                here, gradient_here = _window_variation(
                    windows.cut(image, window), windows.owned(window), config, windows.shape
                )
                variation = variation + here
                windows.cut(gradient, window)[:] += np.asarray(gradient_here)
                report(gradient)
    terms = {"content": near, "style": style, "total_variation": variation}
    terms = {name: np.asarray(value) for name, value in terms.items()}
    total = terms["content"] + terms["style"] + terms["total_variation"]
    return (total, {"total": total, **terms}), gradient


@functools.partial(jax.jit, static_argnames="shape")
def _style_losses(sums, targets, config, shape):
    return objective.style_losses(sums, targets, config, shape=shape)


@functools.partial(jax.jit, static_argnames="shape")
def _window_content_losses(params, window, content, own, config, shape):
    """What the positions that the window owns add to the content loss of each layer."""
    if not isinstance(content, dict):
        content = objective.content_targets(params, content, config)
    features = objective.activations(params, window, config.content_layers, config)
    owned = _owned(own, window.shape[:2], config.content_layers)
    return objective.content_losses(features, content, config, shape=shape, owned=owned)


def layer_losses(
    image: np.ndarray, params: Mapping, targets: objective.Targets, config: Config, *, tile: int
) -> dict[str, dict[str, jax.Array]]:
    """`objective.layer_losses` of a picture of any size; the arguments are as of
    `value_and_grad`."""
    targets = jax.tree.map(np.asarray, objective.one_output(targets))
    image = np.asarray(image)
    windows = grid(image.shape, tile, objective.all_layers(config), model=vgg.network_name(params))
    found = {"content": {}, "style": {}}
    with on_device():
        if config.style_layers:
            sums = _statistics(params, image, targets.masks, config, windows)
            found["style"] = _style_losses(sums, _style_alone(targets), config, windows.shape)
        for window in windows if config.content_layers else ():
            here = _window_content_losses(
                params,
                windows.cut(image, window),
                _content_of(targets.content or targets.picture, windows, window),
                windows.owned(window),
                config,
                windows.shape,
            )
            before = found["content"] or dict.fromkeys(here, 0.0)
            found["content"] = jax.tree.map(jnp.add, before, here)
    return found


def compute_targets(
    params: Mapping,
    content: jax.Array,
    styles: Sequence[jax.Array],
    config: Config,
    *,
    tile: int,
    mixing: jax.Array | None = None,
    masks: jax.Array | None = None,
    style_masks: Sequence[jax.Array | None] | None = None,
) -> list[objective.Targets]:
    """`objective.compute_targets` of pictures of any size, as NumPy arrays in host memory.

    Args:
      tile: the longest side of a window, in pixels.
      params, content, styles, config, mixing, masks, style_masks: as of
        `objective.compute_targets`.

    Returns:
      Targets of each output. Those that are the same for all share their memory.

    Raises:
      ValueError: as `objective.compute_targets`, or a tile too small for the layers.
    """

    def measure(params, style, config, *, mask):
        return _style_targets(params, style, config, tile=tile, mask=mask)

    # The content's activations are found below, window by window.
    bare = config.replace(content_layers=(), content_layer_weights=None)
    targets = objective.compute_targets(
        params,
        content,
        styles,
        bare,
        mixing=mixing,
        masks=masks,
        style_masks=style_masks,
        measure=measure,
    )
    targets = jax.tree.map(np.asarray, targets)
    activations = {}
    if config.content_layers and not config.jitter:
        with on_device():
            activations = _content_targets(params, content, config, tile=tile)
    outputs = len(styles) if mixing is None else len(mixing)
    if masks is not None:
        outputs = 1 if np.ndim(masks) == 3 else len(masks)
    return [
        jax.tree.map(lambda leaf, n=n: leaf[n], targets)._replace(content=activations)
        for n in range(outputs)
    ]


def _style_targets(params, style, config, *, tile, mask):
    """`objective.style_targets`, window by window."""
    style = np.asarray(style)
    windows = grid(style.shape, tile, config.style_layers, model=vgg.network_name(params))
    masks = None
    if mask is not None:  # one region
        masks = {layer: objective.at_layer(mask, layer)[None] for layer in config.style_layers}
        masks = jax.tree.map(np.asarray, masks)
    with on_device():
        sums = _statistics(params, style, masks, config, windows)
    if masks is not None:
        sums = jax.tree.map(lambda leaf: leaf[0], sums)
    return {layer: losses.per_position(value) for layer, value in sums.items()}


def _content_targets(params, content, config, *, tile):
    """`objective.content_targets`, window by window, in host memory."""
    content = np.asarray(content)
    windows = grid(content.shape, tile, config.content_layers, model=vgg.network_name(params))
    found = {}
    for window in windows:
        here = _activations(params, windows.cut(content, window), config)
        for layer, value in here.items():
            stride = vgg.smallest_side(layer)
            if layer not in found:
                shape = [side // stride for side in windows.shape]
                found[layer] = np.empty((*shape, value.shape[-1]), value.dtype)
            rows, columns = (slice(first, stop) for first, stop in windows.owned(window) // stride)
            target = windows.cut(found[layer], window, stride=stride)
            target[rows, columns] = np.asarray(value)[rows, columns]
    return found
