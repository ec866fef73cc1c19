"""The objective of a picture of any size, window by window, in memory that depends on the window.

The first pass over the windows adds up the sums of the terms whose loss is not linear in them. The
derivative of the loss by all sums is then known. The second pass takes each window's
vector-Jacobian product with this derivative. Sums and gradient are those of the whole picture, up
to rounding. `nst_jax.partition` says where the windows lie.

With direct convolutions, the gradient differs from the whole picture's by a millionth of its norm.
On a CPU, `stylize` convolves by Winograd's algorithm. Its rounding depends on where its own tiles
lie, and the gradient then differs by up to two hundred-thousandths of its norm.

Pictures, gradients and targets are NumPy arrays in host memory. Only windows go to the device.
Images are float32 sRGB, RGB order, range [0, 1], `[H, W, 3]`.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from nst_jax import partition
from nst_jax.config import Config
from nst_jax.objective import (
    Combine,
    Objective,
    Targets,
    assembled,
    check_made,
    checked_pictures,
    one_output,
    with_contents,
)
from nst_jax.partition import Grid, Partition, Place, Span, Sums, Together
from nst_jax.terms import IMAGE, At, Field, Term, Tree, map_fields, without_fields

ByTerm = dict[str, dict[str, Tree]]
"""`{term: {layer: tree}}`."""


@functools.partial(jax.jit, static_argnames=("shape", "layers", "keep", "within"))
def _window_sums(
    params: Mapping,
    window: jax.Array,
    fields: ByTerm,
    picture: jax.Array | None,
    masks: Mapping[str, Field] | None,
    place: Place,
    key: jax.Array | None,
    config: Config,
    *,
    shape: tuple[int, int],
    layers: tuple[str, ...],
    keep: tuple[str, ...],
    within: Partition,
) -> Sums:
    """What the positions that a window owns add to the sums of the terms named in `keep`.

    Args:
      params: of the network.
      window: the window of the picture, `[h, w, 3]`.
      fields: the targets for sums, cut to the window.
      picture: the window of a content that a jitter has moved, from which to find the content's
        targets; None takes them from `fields`.
      masks: regions, cut to the window.
      place: where the window lies.
      key: of the run and step.
      config: terms and network.
      shape: `(H, W)` of the whole picture.
      layers: the only layers to look at.
      keep: the names of the terms to measure.
      within: how the window is divided.
    """
    objective = _kept(config, keep, within)
    at, own = _at_window(objective, params, window, place, shape, key)
    if picture is not None:
        fields = objective.moved_fields(params, fields, picture, at)
    return objective.measure(params, window, fields, at, masks=masks, own=own, layers=layers)


@functools.partial(jax.jit, static_argnames=("shape", "layers", "within"))
def _window_gradient(
    params: Mapping,
    window: jax.Array,
    fields: ByTerm,
    picture: jax.Array | None,
    masks: Mapping[str, Field] | None,
    place: Place,
    key: jax.Array | None,
    slope: Sums,
    config: Config,
    *,
    shape: tuple[int, int],
    layers: tuple[str, ...],
    within: Partition,
) -> tuple[Sums, jax.Array]:
    """The linear terms' sums over the positions that a window owns, and a gradient.

    Args:
      slope: the derivative of the loss by all sums.
      params, window, fields, picture, masks, place, key, config, shape, layers, within: as in
        `_window_sums`.

    Returns:
      The sums of the linear terms, and what the window adds to the gradient, `[h, w, 3]`.
    """
    objective = Objective.of(config, partition=within)
    at, own = _at_window(objective, params, window, place, shape, key)
    if picture is not None:
        fields = objective.moved_fields(params, fields, picture, at)

    def value(window: jax.Array) -> tuple[jax.Array, Sums]:
        found = objective.measure(params, window, fields, at, masks=masks, own=own, layers=layers)
        # `slope` also has layers that another pass looks at.
        here = {name: {layer: slope[name][layer] for layer in own} for name, own in found.items()}
        product = sum(map(jnp.vdot, jax.tree.leaves(here), jax.tree.leaves(found)), jnp.zeros(()))
        linear = {term.name: found[term.name] for term in objective.terms if term.linear}
        return product, linear

    (_, linear), gradient = jax.value_and_grad(value, has_aux=True)(window)
    return linear, gradient


def _kept(config: Config, keep: Sequence[str], within: Partition) -> Objective:
    """The objective with only the terms named in `keep`."""
    return Objective.of(config, partition=within).of_terms(lambda term: term.name in keep)


def _at_window(
    objective: Objective,
    params: Mapping,
    window: jax.Array,
    place: Place,
    shape: tuple[int, int],
    key: jax.Array | None,
) -> tuple[At, dict[str, jax.Array]]:
    """The `At` of a window, and the positions that the window owns, see `partition.in_window`."""
    at = objective.at(params, shape, key)
    strides = partition.strides_of(objective.terms, objective.extractor, params, shape)
    height, width, _ = window.shape
    return partition.in_window(at, place, (height, width), strides)


@functools.partial(jax.jit, static_argnames="shape")
def _slope(
    params: Mapping,
    sums: Sums,
    targets: Targets,
    key: jax.Array | None,
    config: Config,
    *,
    shape: tuple[int, int],
) -> Sums:
    """The derivative of the loss by the sums of a picture of `shape` `(H, W)`."""
    objective = Objective.of(config)
    at = objective.at(params, shape, key)
    return jax.grad(lambda sums: objective.total(objective.parts(sums, targets, at))[0])(sums)


@functools.partial(jax.jit, static_argnames="shape")
def _total_and_parts(
    params: Mapping,
    sums: Sums,
    targets: Targets,
    key: jax.Array | None,
    config: Config,
    *,
    shape: tuple[int, int],
) -> tuple[tuple[jax.Array, dict[str, jax.Array]], dict[str, dict[str, jax.Array]]]:
    """The results of `Objective.total` and of `Objective.weighted`, from the sums of a picture."""
    objective = Objective.of(config)
    parts = objective.parts(sums, targets, objective.at(params, shape, key))
    return objective.total(parts), objective.weighted(parts)


def _cut(tree: Tree, windows: Grid, window: tuple[Span, Span], strides: Mapping[str, int]) -> Tree:
    """The tree with each `Field` cut to a window."""
    return map_fields(
        lambda field: dataclasses.replace(
            field, values=windows.cut(np.asarray(field.values), window, stride=strides[field.layer])
        ),
        tree,
    )


def _without_fields(targets: Targets) -> Targets:
    """The part of the targets that a loss reads when the sums are known."""
    return dataclasses.replace(
        targets, terms=without_fields(targets.terms), masks=None, picture=None
    )


def _add(sums: Tree, here: Tree) -> Tree:
    return here if sums is None else jax.tree.map(jnp.add, sums, here)


def _join(sums: Sums, others: Sums) -> None:
    """Puts the sums of other layers into `sums`."""
    for name, own in others.items():
        sums[name] |= own


class _Windows:
    """A picture and its objective, window by window.

    Attributes:
      objective, params, config, key: what to evaluate.
      shape: `(H, W)` of the picture.
      grid: where the windows lie.
      strides: of each layer that terms look at.
      network, image: the network's layers, and `(IMAGE,)`. They take a pass each, because a jitter
        moves only what the network sees.
      on_window: called with `done` and `total`, the number of windows that are done and of all.
    """

    def __init__(
        self,
        objective: Objective,
        params: Mapping,
        config: Config,
        shape: Sequence[int],
        tile: int,
        *,
        key: jax.Array | None = None,
        on_window: partition.OnWindow | None = None,
    ):
        height, width = shape[:2]
        self.objective = objective
        self.params, self.config, self.key = params, config, key
        self.shape = (height, width)
        self.grid = objective.grid(params, self.shape, tile)
        self.strides = partition.strides_of(
            objective.terms, objective.extractor, params, self.shape
        )
        self.network, self.image = tuple(x for x in self.strides if x != IMAGE), (IMAGE,)
        self.on_window, self.done, self.total = on_window, 0, 0

    def passes(self, terms: Sequence[Term]) -> list[tuple[str, ...]]:
        """The groups of layers that the terms look at; each takes a pass."""
        asked = {layer for term in terms for layer in term.layers}
        return [layers for layers in (self.network, self.image) if asked.intersection(layers)]

    def report(self, result: Any) -> None:
        """Counts a window. It waits for the result only if there is an `on_window`."""
        self.done += 1
        if self.on_window is not None:
            jax.block_until_ready(result)
            self.on_window(self.done, self.total)

    def __iter__(self) -> Iterator[tuple[Span, Span]]:
        return iter(self.grid)

    def cut(self, tree: Tree, window: tuple[Span, Span]) -> Tree:
        """The tree with each `Field` cut to a window."""
        return _cut(tree, self.grid, window, self.strides)

    def seen(self, image: np.ndarray, moved: np.ndarray, layers: tuple[str, ...]) -> np.ndarray:
        """What a group of layers sees: the picture, or the one that a jitter has moved."""
        return image if layers is self.image else moved

    def cut_picture(
        self, picture: Field | None, window: tuple[Span, Span], layers: tuple[str, ...]
    ) -> np.ndarray | None:
        """The window of a moved content for the network's layers; None for `IMAGE`."""
        if picture is None or layers is self.image:
            return None
        return self.cut(picture, window).values

    def sums(
        self,
        image: np.ndarray,
        moved: np.ndarray,
        fields: ByTerm,
        picture: Field | None,
        masks: Mapping[str, Field] | None,
        terms: Sequence[Term],
    ) -> Sums:
        """The sums of these terms over the whole picture.

        Args:
          image: the picture.
          moved: the picture as a jitter has moved it.
          fields: the targets for sums.
          picture: the content as a jitter has moved it; None if there is no jitter.
          masks: regions.
          terms: which to measure.
        """
        found = {term.name: {} for term in terms}
        for layers in self.passes(terms):
            sums: Tree = None
            seen = self.seen(image, moved, layers)
            look = self._look(seen, fields, picture, masks, terms, layers)
            for window in self:
                sums = _add(sums, look(_window_sums, window))
                self.report(sums)
            _join(found, sums)
        return found

    def empty_sums(
        self,
        image: np.ndarray,
        fields: ByTerm,
        picture: Field | None,
        masks: Mapping[str, Field] | None,
        terms: Sequence[Term],
    ) -> Sums:
        """Zeros with the shapes of `sums`."""
        found, window = {term.name: {} for term in terms}, next(iter(self))
        for layers in self.passes(terms):
            look = self._look(image, fields, picture, masks, terms, layers)
            _join(found, look(_window_sums.eval_shape, window))
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), found)

    def _look(
        self,
        seen: np.ndarray,
        fields: ByTerm,
        picture: Field | None,
        masks: Mapping[str, Field] | None,
        terms: Sequence[Term],
        layers: tuple[str, ...],
    ) -> Callable[[Callable, tuple[Span, Span]], Any]:
        """`look(program, window)`, which calls a program with the arguments of `_window_sums`."""
        keep = tuple(term.name for term in terms)
        fields = {name: tree for name, tree in fields.items() if name in keep}

        def look(program: Callable, window: tuple[Span, Span]) -> Any:
            return program(
                self.params,
                self.grid.cut(seen, window),
                self.cut(fields, window),
                self.cut_picture(picture, window, layers),
                self.cut(masks, window),
                Place.of(window),
                self.key,
                self.config,
                shape=self.shape,
                layers=layers,
                keep=keep,
                within=self.objective.partition,
            )

        return look


def value_and_grad(
    image: Float[ArrayLike, "H W 3"],
    params: Mapping,
    targets: Targets,
    config: Config,
    *,
    tile: int,
    within: Partition = Together(),
    key: jax.Array | None = None,
    on_window: partition.OnWindow | None = None,
) -> tuple[
    tuple[Float[np.ndarray, ""], dict[str, Float[np.ndarray, ""]]], Float[np.ndarray, "H W 3"]
]:
    """`jax.value_and_grad(objective_value, has_aux=True)` for a picture of any size.

    Do not jit it: for each window it runs a compiled program once or twice.

    Args:
      image: `[H, W, 3]` in [0, 1].
      params: of `config.network`; for VGG16 and VGG19 the tree of `load_params`.
      targets: one output's, from `compute_targets` of this module or of `objective`.
      config: terms and network.
      tile: the longest side of a window, in pixels.
      within: how each window is divided.
      key: as in `objective.objective_value`.
      on_window: called with the number of windows that are done and of all. Each pass counts every
        window.

    Returns:
      `(total, terms)` as from `objective.objective_value`, and the gradient `[H, W, 3]`. All are
      NumPy arrays.

    Raises:
      ValueError: as `objective.objective_value`; a tile too small for the layers; a term that
        doesn't add up over parts.
    """
    targets = jax.tree.map(np.asarray, one_output(targets))
    image = np.asarray(image)
    objective = Objective.of(config, partition=within)
    windows = _Windows(objective, params, config, image.shape, tile, key=key, on_window=on_window)
    check_made(targets, objective, image.shape, finds_content=config.jitter > 0)
    masked = targets.masks is not None
    # Under masks no loss is linear: each region counts by its share.
    bent = [term for term in objective.terms if not term.linear or (masked and term.regions)]
    linear = [term for term in objective.terms if term.linear and not (masked and term.regions)]
    passes = windows.passes(objective.terms)
    windows.total = (len(windows.passes(bent)) + len(passes)) * len(windows.grid)
    fields, shift = objective.targets_for_sums(targets), objective.shift(key)
    moved, picture = image, None
    if config.jitter:
        assert targets.picture is not None  # `check_made` refuses targets without jitter
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
            total: Tree = None
            for window in windows:
                here, slope_here = _window_gradient(
                    params,
                    windows.grid.cut(windows.seen(image, moved, layers), window),
                    windows.cut(fields, window),
                    windows.cut_picture(picture, window, layers),
                    windows.cut(targets.masks, window),
                    Place.of(window),
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
            _join(known, total)  # replaces the zeros
            if layers is windows.network and shift is not None:
                gradient = np.roll(gradient, -shift, axis=(0, 1))
        total, _ = _total_and_parts(params, known, bare, key, config, shape=windows.shape)
    return jax.tree.map(np.asarray, total), gradient


def layer_losses(
    image: Float[ArrayLike, "H W 3"],
    params: Mapping,
    targets: Targets,
    config: Config,
    *,
    tile: int,
    within: Partition = Together(),
) -> dict[str, dict[str, Float[Array, ""]]]:
    """`objective.layer_losses` for a picture of any size.

    Args:
      image, params, targets, config, tile, within: as in `value_and_grad`.

    Returns:
      `{term: {part: scalar}}`, weighted.

    Raises:
      ValueError: as `value_and_grad`.
    """
    targets = jax.tree.map(np.asarray, one_output(targets))
    image = np.asarray(image)
    windows = _Windows(Objective.of(config, partition=within), params, config, image.shape, tile)
    picture = targets.picture
    check_made(targets, windows.objective, image.shape, finds_content=picture is not None)
    fields = windows.objective.targets_for_sums(targets)
    bare = _without_fields(targets)
    terms = windows.objective.terms
    with partition.on_device():
        sums = windows.sums(image, image, fields, picture, targets.masks, terms)
        return _total_and_parts(params, sums, bare, None, config, shape=windows.shape)[1]


def compute_targets(
    params: Mapping,
    content: Float[ArrayLike, "H W 3"],
    styles: Sequence[Float[ArrayLike, "_ _ 3"]],
    config: Config,
    *,
    tile: int,
    within: Partition = Together(),
    combine: Combine = Combine(),
    inputs: Mapping[str, Tree] | None = None,
) -> list[Targets]:
    """`objective.compute_targets` for pictures of any size, as NumPy arrays in host memory.

    Args:
      params, content, styles, config, combine, inputs: as in `objective.compute_targets`.
      tile: the longest side of a window, in pixels.
      within: how each window is divided.

    Returns:
      The targets of each output. Targets that are the same for all outputs share their memory.

    Raises:
      TypeError, ValueError: as `objective.compute_targets`, or a tile too small for the layers.
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
    content: Float[ArrayLike, "H W 3"],
    styles: Sequence[Float[ArrayLike, "_ _ 3"]],
    config: Config,
    *,
    tile: int,
    within: Partition = Together(),
    combine: Combine,
    inputs: Mapping[str, Tree],
) -> list[Targets]:
    """`compute_targets` for arguments that have been checked."""
    objective, content = Objective.of(config, partition=within), np.asarray(content)
    objective.at(params, content.shape)  # refuses unknown layers and small pictures
    masks = combine.style_masks or [None] * len(styles)
    found = assembled(
        params,
        content,
        config,
        combine=combine,
        inputs=inputs,
        each=[
            _tiled_style(params, style, config, tile=tile, within=within, mask=mask)
            for style, mask in zip(styles, masks, strict=True)
        ],
        of_content=lambda _: {},  # found below, once for all outputs
    )
    found = jax.tree.map(np.asarray, found)
    if config.jitter:  # each step finds the targets of what moves
        contents = _content_itself(objective, params, content)
    else:
        contents = _tiled_content(params, content, config, tile=tile, within=within)
    return [
        dataclasses.replace(own, terms=with_contents(objective.terms, own.terms, contents))
        for own in (
            jax.tree.map(lambda leaf, n=n: leaf[n], found) for n in range(len(found.output))
        )
    ]


def _content_itself(objective: Objective, params: Mapping, content: np.ndarray) -> ByTerm:
    """The content terms' targets at the layer `IMAGE` alone."""
    at = objective.at(params, content.shape)
    return {
        term.name: {IMAGE: term.target(IMAGE, Field(content, IMAGE), at)}
        for term in objective.terms
        if term.refers_to("content") and IMAGE in term.layers
    }


def _tiled_style(
    params: Mapping,
    style: ArrayLike,
    config: Config,
    *,
    tile: int,
    within: Partition,
    mask: ArrayLike | None,
) -> ByTerm:
    """The style terms' targets of one style, found window by window."""
    objective = Objective.of(config, partition=within).of_terms(
        lambda term: term.refers_to("style")
    )
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
                Place.of(window),
                config,
                shape=windows.shape,
                keep=keep,
                within=within,
            )
            sums = _add(sums, here)
        return _style_targets_of(params, sums, config, shape=windows.shape)


@functools.partial(jax.jit, static_argnames=("shape", "keep", "within"))
def _style_window(
    params: Mapping,
    window: jax.Array,
    weights: Mapping[str, Field] | None,
    place: Place,
    config: Config,
    *,
    shape: tuple[int, int],
    keep: tuple[str, ...],
    within: Partition,
) -> Sums:
    """What the positions that a style's window owns add to the sums, counted by `weights`."""
    objective = _kept(config, keep, within)
    at, own = _at_window(objective, params, window, place, shape, None)
    if weights is not None:
        own = {layer: jnp.asarray(mask.values) * own[layer] for layer, mask in weights.items()}
    return objective.measure(params, window, {}, at, own=own)


@functools.partial(jax.jit, static_argnames="shape")
def _style_targets_of(
    params: Mapping, sums: Sums, config: Config, *, shape: tuple[int, int]
) -> ByTerm:
    """The style terms' targets, from the sums of a style of `shape` `(h, w)`."""
    objective = Objective.of(config)
    return objective.style_targets_of(sums, objective.at(params, shape))


@functools.partial(jax.jit, static_argnames=("shape", "within"))
def _window_content(
    params: Mapping,
    window: jax.Array,
    place: Place,
    config: Config,
    *,
    shape: tuple[int, int],
    within: Partition,
) -> ByTerm:
    """The content terms' targets of one window of the content."""
    objective = Objective.of(config, partition=within)
    at, _ = _at_window(objective, params, window, place, shape, None)
    return objective.content_targets(params, window, at)


def _tiled_content(
    params: Mapping, content: np.ndarray, config: Config, *, tile: int, within: Partition
) -> ByTerm:
    """The content terms' targets, found window by window, in host memory."""
    windows = _Windows(Objective.of(config, partition=within), params, config, content.shape, tile)
    found = {}
    if not any(term.refers_to("content") for term in windows.objective.terms):
        return found
    with partition.on_device():
        for window in windows:
            place = Place.of(window)
            here = _window_content(
                params,
                windows.grid.cut(content, window),
                place,
                config,
                shape=windows.shape,
                within=within,
            )
            if not found:
                found = map_fields(functools.partial(_empty, windows), here)
            jax.tree.map(
                functools.partial(_write, windows, window, place),
                found,
                here,
                is_leaf=lambda leaf: isinstance(leaf, Field),
            )
    return found


def _empty(windows: _Windows, field: Field) -> Field:
    """A `Field` of the whole picture for values like those of a window's `field`."""
    stride = windows.strides[field.layer]
    shape = [side // stride for side in windows.shape]
    values = np.empty((*shape, *field.values.shape[2:]), field.values.dtype)
    return dataclasses.replace(field, values=values)


def _write(
    windows: _Windows, window: tuple[Span, Span], place: Place, whole: Field, part: Field
) -> None:
    """Copies what a window owns of `part` into `whole`."""
    stride = windows.strides[whole.layer]
    rows, columns = (slice(first, stop) for first, stop in place.owned // stride)
    target = windows.grid.cut(np.asarray(whole.values), window, stride=stride)
    target[rows, columns] = np.asarray(part.values)[rows, columns]
