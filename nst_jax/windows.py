"""The objective of a picture of any size, window by window, in memory that depends on the window.

A first pass over windows adds up the sums of terms whose loss is not linear in them. The derivative
of the loss by all sums is then known, and a second pass takes each window's vector-Jacobian product
with it. Sums and gradient are those of the whole picture, up to rounding; `nst_jax.partition` says
where the windows lie.

With the same direct convolutions the gradient differs from the whole picture's by a millionth of
its norm. The rounding of Winograd's algorithm, by which `stylize` convolves on a CPU, depends on
where its own tiles lie: there it is up to two hundred-thousandths.

Pictures, gradients and targets are NumPy arrays in host memory; only windows go to the device.
Images are float32 sRGB, RGB order, range [0, 1], `[H, W, 3]`.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from nst_jax import partition
from nst_jax.config import Config
from nst_jax.objective import (
    Combine,
    Objective,
    Targets,
    assembled,
    check_made,
    checked_pictures,
    moved_fields,
    one_output,
)
from nst_jax.partition import Partition, Together
from nst_jax.terms import IMAGE, Field, Tree, map_fields, without_fields


@functools.partial(jax.jit, static_argnames=("shape", "layers", "keep", "within"))
def _window_sums(
    params, window, fields, picture, masks, place, key, config, *, shape, layers, keep, within
):
    """What the positions that a window owns add to the sums of the terms to `keep`. With a
    `picture`, the window of the content that a jitter has moved, the content's targets are its."""
    objective = _kept(config, keep, within)
    at, own = _at_window(objective, params, window, place, shape, key)
    if picture is not None:
        fields = moved_fields(fields, objective.content_targets(params, picture, at))
    return objective.measure(params, window, fields, at, masks=masks, own=own, layers=layers)


@functools.partial(jax.jit, static_argnames=("shape", "layers", "within"))
def _window_gradient(
    params, window, fields, picture, masks, place, key, slope, config, *, shape, layers, within
):
    """The sums of linear terms over the positions that a window owns, and what it adds to the
    gradient, `[h, w, 3]`, given the derivative of the loss by all sums."""
    objective = Objective.of(config, partition=within)
    at, own = _at_window(objective, params, window, place, shape, key)
    if picture is not None:
        fields = moved_fields(fields, objective.content_targets(params, picture, at))

    def value(window):
        found = objective.measure(params, window, fields, at, masks=masks, own=own, layers=layers)
        # None for the layers that another pass looks at.
        here = {name: {layer: slope[name][layer] for layer in own} for name, own in found.items()}
        product = sum(map(jnp.vdot, jax.tree.leaves(here), jax.tree.leaves(found)), jnp.zeros(()))
        linear = {term.name: found[term.name] for term in objective.terms if term.linear}
        return product, linear

    (_, linear), gradient = jax.value_and_grad(value, has_aux=True)(window)
    return linear, gradient


def _kept(config, keep, within):
    return Objective.of(config, partition=within).of_terms(lambda term: term.name in keep)


def _at_window(objective, params, window, place, shape, key):
    at = objective.at(params, shape, key)
    strides = partition.strides_of(objective.terms, objective.extractor, params, shape)
    return partition.in_window(at, place, window.shape[:2], strides)


@functools.partial(jax.jit, static_argnames="shape")
def _slope(params, sums, targets, key, config, *, shape):
    """The derivative of the loss by the sums."""
    objective = Objective.of(config)
    at = objective.at(params, shape, key)
    return jax.grad(lambda sums: objective.total(objective.parts(sums, targets, at))[0])(sums)


@functools.partial(jax.jit, static_argnames="shape")
def _total_and_parts(params, sums, targets, key, config, *, shape):
    objective = Objective.of(config)
    parts = objective.parts(sums, targets, objective.at(params, shape, key))
    return objective.total(parts), objective.weighted(parts)


def _cut(tree, windows, window, strides):
    """Each `Field` of a tree cut to a window."""
    return map_fields(
        lambda field: dataclasses.replace(
            field, values=windows.cut(field.values, window, stride=strides[field.layer])
        ),
        tree,
    )


def _without_fields(targets):
    """What a loss looks at of targets, once the sums are known."""
    return dataclasses.replace(
        targets, terms=without_fields(targets.terms), masks=None, picture=None
    )


def _add(sums, here):
    return here if sums is None else jax.tree.map(jnp.add, sums, here)


def _join(sums, others):
    """Takes up, into `sums`, what other layers have given."""
    for name, own in others.items():
        sums[name] |= own


class _Windows:
    """A picture and its targets, window by window."""

    def __init__(self, objective, params, config, shape, tile, *, key=None, on_window=None):
        self.objective = objective
        self.params, self.config, self.key = params, config, key
        self.shape = tuple(shape[:2])
        self.grid = objective.grid(params, self.shape, tile)
        self.strides = partition.strides_of(
            objective.terms, objective.extractor, params, self.shape
        )
        layers = tuple(self.strides)
        # What moves with the jitter, and what doesn't, are looked at one after the other.
        self.network, self.image = tuple(x for x in layers if x != IMAGE), (IMAGE,)
        self.on_window, self.done, self.total = on_window, 0, 0

    def passes(self, terms):
        """The groups of layers that the terms look at."""
        asked = {layer for term in terms for layer in term.layers}
        return [layers for layers in (self.network, self.image) if asked.intersection(layers)]

    def report(self, result):
        """Counts a window; it waits for it only if somebody looks."""
        self.done += 1
        if self.on_window is not None:
            jax.block_until_ready(result)
            self.on_window(self.done, self.total)

    def __iter__(self):
        return iter(self.grid)

    def cut(self, tree, window):
        return _cut(tree, self.grid, window, self.strides)

    def seen(self, image, moved, layers):
        """What these layers are of: the picture, or the network's moved one."""
        return image if layers is self.image else moved

    def cut_picture(self, picture, window, layers):
        """The window of a moved content, where the network looks at it."""
        if picture is None or layers is self.image:
            return None
        return self.cut(picture, window).values

    def sums(self, image, moved, fields, picture, masks, terms):
        """The sums of these terms, `{term: {layer: Measured}}`."""
        found = {term.name: {} for term in terms}
        for layers in self.passes(terms):
            seen, sums = self.seen(image, moved, layers), None
            look = self._look(seen, fields, picture, masks, terms, layers)
            for window in self:
                sums = _add(sums, look(_window_sums, window))
                self.report(sums)
            _join(found, sums)
        return found

    def empty_sums(self, image, fields, picture, masks, terms):
        """Zeros of the shapes that `sums` have."""
        found, window = {term.name: {} for term in terms}, next(iter(self))
        for layers in self.passes(terms):
            look = self._look(image, fields, picture, masks, terms, layers)
            _join(found, look(_window_sums.eval_shape, window))
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), found)

    def _look(self, seen, fields, picture, masks, terms, layers):
        """`look(program, window)` calls a program of `_window_sums`' arguments."""
        keep = tuple(term.name for term in terms)
        fields = {name: tree for name, tree in fields.items() if name in keep}

        def look(program, window):
            return program(
                self.params,
                self.grid.cut(seen, window),
                self.cut(fields, window),
                self.cut_picture(picture, window, layers),
                self.cut(masks, window),
                partition.Place.of(window),
                self.key,
                self.config,
                shape=self.shape,
                layers=layers,
                keep=keep,
                within=self.objective.partition,
            )

        return look


def value_and_grad(
    image: np.ndarray,
    params: Mapping,
    targets: Targets,
    config: Config,
    *,
    tile: int,
    within: Partition = Together(),
    key: jax.Array | None = None,
    on_window: partition.OnWindow | None = None,
) -> tuple[tuple[np.ndarray, dict[str, np.ndarray]], np.ndarray]:
    """`jax.value_and_grad(objective_value, has_aux=True)` of a picture of any size.

    Not to be jitted: it runs a compiled program once for each window, and again.

    Args:
      image: `[H, W, 3]` in [0, 1], NumPy, or what NumPy can look at.
      params: of `config.network`; for VGG16 and VGG19 the tree of `load_params`.
      targets: one output's, from `compute_targets` of this module or of `objective`.
      config: terms and network.
      tile: the longest side of a window, in pixels.
      within: how each window is looked at.
      key: as of `objective.objective_value`.
      on_window: called with the number of windows dealt with and of all, each pass counted.

    Returns:
      `(total, terms)` as of `objective.objective_value`, and the gradient `[H, W, 3]`, NumPy.

    Raises:
      ValueError: a tile too small for the layers, or a term that doesn't add up.
    """
    targets = jax.tree.map(np.asarray, one_output(targets))
    image = np.asarray(image)
    objective = Objective.of(config, partition=within)
    windows = _Windows(objective, params, config, image.shape, tile, key=key, on_window=on_window)
    check_made(targets, objective, image.shape)
    masked = targets.masks is not None
    # Under masks a loss is no longer linear: each region counts by its share.
    bent = [term for term in objective.terms if not term.linear or (masked and term.regions)]
    linear = [term for term in objective.terms if term.linear and not (masked and term.regions)]
    passes = windows.passes(objective.terms)
    windows.total = (len(windows.passes(bent)) + len(passes)) * len(windows.grid)
    fields, shift = objective.beside(targets), objective.shift(key)
    moved, picture = image, None
    if config.jitter:
        shift = np.zeros(2, np.int32) if shift is None else np.asarray(shift)
        moved = np.roll(image, shift, axis=(0, 1))
        picture = dataclasses.replace(
            targets.picture, values=np.roll(targets.picture.values, shift, axis=(0, 1))
        )
    bare = _without_fields(targets)
    gradient = np.zeros_like(image)
    with partition.on_device():
        looked = (fields, picture, targets.masks)
        known = windows.sums(image, moved, *looked, bent)
        known |= windows.empty_sums(image, *looked, linear)
        slope = _slope(params, known, bare, key, config, shape=windows.shape)
        for layers in passes:
            network, total = layers is windows.network, None
            for window in windows:
                here, slope_here = _window_gradient(
                    params,
                    windows.grid.cut(windows.seen(image, moved, layers), window),
                    windows.cut(fields, window),
                    windows.cut_picture(picture, window, layers),
                    windows.cut(targets.masks, window),
                    partition.Place.of(window),
                    key,
                    slope,
                    config,
                    shape=windows.shape,
                    layers=layers,
                    within=within,
                )
                total = _add(total, here)
                windows.grid.cut(gradient, window)[:] += np.asarray(slope_here)
                windows.report(gradient)
            _join(known, total)  # in place of the zeros
            if network and shift is not None:
                gradient = np.roll(gradient, -shift, axis=(0, 1))
        total, _ = _total_and_parts(params, known, bare, key, config, shape=windows.shape)
    return jax.tree.map(np.asarray, total), gradient


def layer_losses(
    image: np.ndarray,
    params: Mapping,
    targets: Targets,
    config: Config,
    *,
    tile: int,
    within: Partition = Together(),
) -> dict[str, dict[str, jax.Array]]:
    """`objective.layer_losses` of a picture of any size; arguments as of `value_and_grad`."""
    targets = jax.tree.map(np.asarray, one_output(targets))
    image = np.asarray(image)
    windows = _Windows(Objective.of(config, partition=within), params, config, image.shape, tile)
    check_made(targets, windows.objective, image.shape)
    fields, picture = windows.objective.beside(targets), targets.picture
    bare = _without_fields(targets)
    terms = windows.objective.terms
    with partition.on_device():
        sums = windows.sums(image, image, fields, picture, targets.masks, terms)
        return _total_and_parts(params, sums, bare, None, config, shape=windows.shape)[1]


def compute_targets(
    params: Mapping,
    content: jax.Array,
    styles: Sequence[jax.Array],
    config: Config,
    *,
    tile: int,
    within: Partition = Together(),
    combine: Combine = Combine(),
    inputs: Mapping[str, Tree] | None = None,
) -> list[Targets]:
    """`objective.compute_targets` of pictures of any size, as NumPy arrays in host memory.

    Args:
      tile: the longest side of a window, in pixels.
      within: how each window is looked at.
      params, content, styles, config, combine, inputs: as of `objective.compute_targets`.

    Returns:
      Targets of each output. Those that are the same for all share their memory.

    Raises:
      ValueError: as `objective.compute_targets`, or a tile too small for the layers.
    """
    objective = Objective.of(config, partition=within)
    combine, inputs = checked_pictures(objective, content, styles, combine, inputs)
    return find_targets(
        *(params, content, styles, config),
        tile=tile,
        within=within,
        combine=combine,
        inputs=inputs,
    )


def find_targets(
    params: Mapping,
    content: jax.Array,
    styles: Sequence[jax.Array],
    config: Config,
    *,
    tile: int,
    within: Partition = Together(),
    combine: Combine,
    inputs: Mapping[str, Tree],
) -> list[Targets]:
    """`compute_targets` of what is checked."""
    objective, content = Objective.of(config, partition=within), np.asarray(content)
    found = assembled(
        params,
        content,
        styles,
        config,
        combine=combine,
        inputs=inputs,
        of_style=lambda style, mask: _tiled_style(
            params, style, config, tile=tile, within=within, mask=mask
        ),
        of_content=lambda _: {},  # found below, once for all outputs
    )
    found = jax.tree.map(np.asarray, found)
    if config.jitter:  # what moves is found at each step
        contents = _content_itself(objective, params, content)
    else:
        contents = _tiled_content(params, content, config, tile=tile, within=within)
    return [
        dataclasses.replace(own, terms=own.terms | contents)
        for own in (
            jax.tree.map(lambda leaf, n=n: leaf[n], found) for n in range(len(found.output))
        )
    ]


def _content_itself(objective, params, content):
    """What terms keep of the content as a picture."""
    at = objective.at(params, content.shape)
    return {
        term.name: {IMAGE: term.target(IMAGE, Field(content, IMAGE), at)}
        for term in objective.terms
        if term.refers == "content" and IMAGE in term.layers
    }


def _tiled_style(params, style, config, *, tile, within, mask):
    """What terms keep of a style, found window by window."""
    objective = Objective.of(config, partition=within).of_terms(lambda term: term.refers == "style")
    style = np.asarray(style)
    windows = _Windows(objective, params, config, style.shape, tile)
    weights = None
    if mask is not None:
        weights = {
            layer: Field(np.asarray(values), layer, "mask")
            for layer, values in objective.masks(params, mask, style.shape).items()
        }
    sums, keep = None, tuple(term.name for term in objective.terms)
    with partition.on_device():
        for window in windows:
            here = _style_window(
                params,
                windows.grid.cut(style, window),
                windows.cut(weights, window),
                partition.Place.of(window),
                config,
                shape=windows.shape,
                keep=keep,
                within=within,
            )
            sums = _add(sums, here)
        return _style_targets_of(params, sums, config, shape=windows.shape)


@functools.partial(jax.jit, static_argnames=("shape", "keep", "within"))
def _style_window(params, window, weights, place, config, *, shape, keep, within):
    objective = _kept(config, keep, within)
    at, own = _at_window(objective, params, window, place, shape, None)
    if weights is not None:
        own = {layer: mask.values * own[layer] for layer, mask in weights.items()}
    return objective.measure(params, window, {}, at, own=own)


@functools.partial(jax.jit, static_argnames="shape")
def _style_targets_of(params, sums, config, *, shape):
    objective = Objective.of(config)
    return objective.kept_of_style(sums, objective.at(params, shape))


@functools.partial(jax.jit, static_argnames=("shape", "within"))
def _window_content(params, window, place, config, *, shape, within):
    objective = Objective.of(config, partition=within)
    at, _ = _at_window(objective, params, window, place, shape, None)
    return objective.content_targets(params, window, at)


def _tiled_content(params, content, config, *, tile, within):
    """What terms keep of a content, found window by window, in host memory."""
    windows = _Windows(Objective.of(config, partition=within), params, config, content.shape, tile)
    found = None
    if not any(term.refers == "content" for term in windows.objective.terms):
        return {}
    with partition.on_device():
        for window in windows:
            place = partition.Place.of(window)
            here = _window_content(
                params,
                windows.grid.cut(content, window),
                place,
                config,
                shape=windows.shape,
                within=within,
            )
            if found is None:
                found = map_fields(functools.partial(_empty, windows), here)
            jax.tree.map(
                functools.partial(_write, windows, window, place),
                found,
                here,
                is_leaf=lambda leaf: isinstance(leaf, Field),
            )
    return found


def _empty(windows, field):
    """A `Field` of the whole picture, of which `field` is a window's part."""
    stride = windows.strides[field.layer]
    shape = [side // stride for side in windows.shape]
    values = np.empty((*shape, *field.values.shape[2:]), field.values.dtype)
    return dataclasses.replace(field, values=values)


def _write(windows, window, place, whole, part):
    """Writes what a window owns into the whole."""
    stride = windows.strides[whole.layer]
    rows, columns = (slice(first, stop) for first, stop in place.owned // stride)
    target = windows.grid.cut(whole.values, window, stride=stride)
    target[rows, columns] = np.asarray(part.values)[rows, columns]
