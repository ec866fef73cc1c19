"""The sums that terms take of a picture, found of the picture as a whole or part by part.

Sums over positions add up, so a picture may be looked at in parts. What differs is what a part
sees beyond its border, and when. Two values say it:

- `Together`: all parts are in memory at once, and a part takes the rows that it needs from its
  neighbours. A whole picture is one part.
- `Windows`: one part after the other is in memory. Windows overlap, and what overlaps is computed
  again.

`Windows(loop="scan")` cuts the network at its poolings. Each segment runs over vertical windows, in
a loop inside the program, with as many columns at their sides as its convolutions see. The gradient
keeps only what goes into a segment and computes the rest again, after Tianqi Chen
et al.: "Training Deep Nets with Sublinear Memory Cost", 2016, https://arxiv.org/abs/1604.06174.
These windows divide the width, since a mesh divides the height. They run in a loop because a
compiler computes equal expressions once and keeps the result. XLA on a CPU does so even across the
barriers of `jax.checkpoint`, but not across two loops.

`Windows(loop="host")` runs one program window after window, see `nst_jax.windows`. Windows overlap
by the receptive field of the deepest layer, so each sees what it needs. `Grid` says where they lie:

- they start at multiples of the deepest layer's stride, so that pooling meets the same pixels;
- they lie inside the picture and end with it, so that a layer's padding is met only where the
  picture ends; elsewhere it spoils nothing but positions that another window owns;
- each position of each layer is owned by one window, which alone counts it;
- all are of one shape, so that they share one compiled program.

No part measures padding: positions that are not its own have a weight of 0.
"""

import contextlib
import dataclasses
import functools
import math
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nst_jax import vgg
from nst_jax.extractor import Network
from nst_jax.terms import (
    IMAGE,
    At,
    Field,
    Term,
    fields_of,
    is_field,
    with_fields,
    without_fields,
)

COLUMNS = 64  # the most columns of a scanned window, in each segment, unless a partition says

Tree = Any
OnWindow = Callable[[int, int], None]


@dataclasses.dataclass(frozen=True)
class Together:
    """All parts of a picture are in memory.

    With `strips` above 1 the network sees the picture as so many horizontal strips in the batch
    dimension, `[strips, h, W, C]`, and each convolution takes one row from each neighbour. Value
    and gradient are those of the whole picture, up to rounding. A TPU fills its vector unit with 8
    strips of one picture. The height of a strip is a multiple of the deepest layer's stride, so
    more strips than the picture has such multiples only add empty ones.

    On a mesh, take a multiple of the devices along `space`, and a height that is a multiple of
    strips times stride. Devices then exchange a row at each side of a convolution, and sums, also
    with outputs under `jax.vmap` divided along `style`. With other heights they exchange larger
    parts of the picture and of the targets as well.

    Attributes:
      strips: how many; 1 is the whole picture.

    Raises:
      ValueError: no whole number of strips, or less than one.
    """

    strips: int = 1

    def __post_init__(self):
        object.__setattr__(self, "strips", _checked_count("strips", self.strips))


LOOPS = ("host", "scan")


@dataclasses.dataclass(frozen=True)
class Windows:
    """One part of a picture after the other is in memory, so that large pictures fit.

    - `Windows(tile=512)` is tiling: the host runs a program window by window, each of at most 512
      pixels a side, in two passes. `nst_jax.windows` does it.
    - `Windows(loop="scan")` is rematerialisation: one program loops over windows of at most `tile`
      columns, between one pooling and the next. An extractor without `cuts` is not divided;
      `jax.checkpoint` then computes its activations again.

    Attributes:
      tile: the longest side of a window, in pixels. With "scan" the most columns of one, in
        positions of the layer that it starts from; None is 64 there.
      loop: who runs it, the "host" or a "scan" inside the program.

    Raises:
      ValueError: another loop, a tile that is no whole number above 0, or none for the host.
    """

    tile: int | None = None
    loop: Literal["host", "scan"] = "host"

    def __post_init__(self):
        if self.loop not in LOOPS:
            raise ValueError(f"loop must be one of {', '.join(LOOPS)}, got {self.loop!r}")
        if self.tile is not None or self.loop == "host":
            object.__setattr__(self, "tile", _checked_count("tile", self.tile))


Partition = Together | Windows
"""How a picture is evaluated."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Placement:
    """Where the pictures of a run are looked at, and in which parts. It changes each step by
    rounding alone. Over many steps rounding grows: the picture is as good, with other details.

    Attributes:
      tile: the longest side, in pixels, of the windows in which larger pictures are looked at, in
        device memory that depends on the tile. Pictures and the optimiser's state are then in host
        memory. See `Windows`.
      remat: rematerialisation: keep little of the network for the gradient and compute the rest
        again, in a fifth to a third of the memory. See `Windows(loop="scan")`.
      strips: how many horizontal strips a picture, or each window of it, is looked at in, see
        `Together`.
      mesh: devices to divide the work among, from `nst_jax.sharding.make_mesh`; None is one.

    Raises:
      TypeError, ValueError: values of another kind; tile with mesh, or remat with strips.
    """

    tile: int | None = None
    remat: bool = False
    strips: int = 1
    mesh: jax.sharding.Mesh | None = None

    def __post_init__(self):
        if self.tile is not None:
            object.__setattr__(self, "tile", _checked_count("tile", self.tile))
        object.__setattr__(self, "strips", _checked_count("strips", self.strips))
        if not isinstance(self.remat, bool | np.bool_):
            raise TypeError(f"remat must be True or False, got {self.remat!r}")
        object.__setattr__(self, "remat", bool(self.remat))
        if not isinstance(self.mesh, jax.sharding.Mesh | None):
            raise TypeError(
                f"mesh must be one of nst_jax.sharding.make_mesh, or None, got {self.mesh!r}"
            )
        if self.tile is not None and self.mesh is not None:
            raise ValueError("tile and mesh exclude each other: windows are looked at one by one")
        if self.remat and self.strips > 1:
            raise ValueError("remat and strips exclude each other: both say how a picture is cut")

    def replace(self, **changes) -> "Placement":
        """A copy with `changes`."""
        return dataclasses.replace(self, **changes)

    @property
    def partition(self) -> Partition:
        """How a picture that is no larger than the tile, or a window, is divided."""
        return Windows(loop="scan") if self.remat else Together(self.strips)


def _checked_count(name, value) -> int:
    try:
        count = 0 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        count = 0
    if count < 1:
        raise ValueError(f"{name} must be a whole number, at least 1, got {value!r}")
    return count


def check_partition(partition: Partition, extractor: Network) -> None:
    """Refuses what `measure` cannot do with this extractor.

    Raises:
      TypeError: no partition.
      ValueError: windows of the host, or strips of a network that has no `in_strips`.
    """
    if not isinstance(partition, Partition):
        raise TypeError(f"partition must be a Together or a Windows, got {partition!r}")
    if isinstance(partition, Windows) and partition.loop == "host":
        raise ValueError(
            f"{partition} needs passes by the host: nst_jax.windows.value_and_grad makes them"
        )
    if _strips_of(partition) > 1 and not hasattr(extractor, "in_strips"):
        raise ValueError(
            f"{partition} needs a network with in_strips, and {type(extractor).__name__} has none"
        )


def _strips_of(partition):
    return partition.strips if isinstance(partition, Together) else 1


def _scans(partition, extractor):
    """Whether the network runs window by window between its poolings."""
    return isinstance(partition, Windows) and hasattr(extractor, "cuts")


class Measured(NamedTuple):
    """What a term knows of a layer.

    Attributes:
      sums: the term's; with regions, a leading axis of them.
      share: sums of the weights of each region, `[regions]`; None without regions.
    """

    sums: Tree
    share: jax.Array | None


Sums = dict[str, dict[str, Measured]]


def network_layers(terms: Sequence[Term]) -> tuple[str, ...]:
    """The layers of the network that terms look at, each once."""
    return _network_layers_of([(term, layer) for term in terms for layer in term.layers])


def make_at(
    extractor: Network,
    params: Tree,
    terms: Sequence[Term],
    shape: Sequence[int],
    *,
    key: jax.Array | None = None,
) -> At:
    """The `At` of a whole picture of `shape` `(H, W, ...)`.

    Raises:
      ValueError: a layer that the network doesn't have, or a picture too small for it.
    """
    shape = tuple(shape[:2])
    positions, channels = {IMAGE: shape[0] * shape[1]}, {IMAGE: 3}
    for layer in network_layers(terms):
        found = extractor.geometry(params, layer, shape)
        positions[layer] = found.shape[0] * found.shape[1]
        channels[layer] = found.channels
    origin = dict.fromkeys(positions, np.zeros(2, np.int32))
    return At(shape, positions, channels, origin, key)


def measure(
    terms: Sequence[Term],
    extractor: Network,
    params: Tree,
    image: jax.Array,
    fields: Mapping[str, Mapping[str, Tree]],
    at: At,
    *,
    masks: Mapping[str, Field] | None = None,
    own: Mapping[str, jax.Array] | None = None,
    moved: jax.Array | None = None,
    layers: Sequence[str] | None = None,
    partition: Partition = Together(),
) -> Sums:
    """What terms know of a picture `[H, W, 3]`, or of a window of it.

    Args:
      terms: those to ask.
      extractor, params: the network.
      image: the picture or the window.
      fields: what terms look at of their targets, `{term: {layer: tree}}`, its `Field`s cut to the
        window.
      at: the whole picture.
      masks: of regions, `{layer: Field [h, w, regions]}`.
      own: `{layer: [h, w]}`, 1 at the positions that count and 0 elsewhere; None is all.
      moved: what the network sees in place of `image`.
      layers: to look at alone, `IMAGE` among them or not; None is all.
      partition: how the picture is divided.

    Returns:
      `{term: {layer: Measured}}`.

    Raises:
      TypeError, ValueError: as of `check_partition`.
    """
    check_partition(partition, extractor)
    asked = [
        (term, layer)
        for term in terms
        for layer in term.layers
        if layers is None or layer in layers
    ]
    seen = image if moved is None else moved
    found: Sums = {term.name: {} for term in terms}
    features = {IMAGE: image}
    divided = _strips_of(partition) > 1 or _scans(partition, extractor)
    parts = [pair for pair in asked if divided and _adds_up(*pair, fields)]
    whole = [pair for pair in asked if pair not in parts]
    if _scans(partition, extractor):
        for segment, kept in _by_segment(
            *(parts, _network_layers_of(whole), extractor, params, seen, fields, at, masks, own),
            partition.tile or COLUMNS,
        ):
            features |= kept
            for (name, layer), measured in segment.items():
                found[name][layer] = measured
    elif divided:
        layers = _network_layers_of(asked)
        rows, in_strips = _in_strips(extractor, params, seen, layers, partition.strips)
        for term, layer in parts:
            found[term.name][layer] = _measured_in_strips(
                *(term, layer, in_strips[layer], rows[layer]),
                *(fields.get(term.name, {}).get(layer), masks, own, at),
            )
        for layer in _network_layers_of(whole):
            features[layer] = vgg.join_rows(in_strips[layer], rows[layer])
    else:
        look = functools.partial(extractor, layers=_network_layers_of(asked))
        scanned = isinstance(partition, Windows)
        features |= (jax.checkpoint(look) if scanned else look)(params, seen)
    for term, layer in whole:
        found[term.name][layer] = _measured(
            term, layer, features[layer], fields.get(term.name, {}).get(layer), masks, own, at
        )
    return {
        term.name: {
            layer: found[term.name][layer] for layer in term.layers if layer in found[term.name]
        }
        for term in terms
    }


def _adds_up(term: Term, layer: str, fields: Mapping) -> bool:
    """Whether a part of a layer of the network holds all that the term's sums over it read."""
    beside = jax.tree.leaves(fields.get(term.name, {}).get(layer), is_leaf=is_field)
    own = all(field.layer == layer for field in beside if is_field(field))
    return term.additive and not term.reach and layer != IMAGE and own


def _network_layers_of(pairs: Sequence[tuple[Term, str]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(layer for _, layer in pairs if layer != IMAGE))


def _measured(term, layer, x, target, masks, own, at) -> Measured:
    """A term's sums over one layer of a picture or of a part of it."""
    weights = None if own is None else own[layer]
    if masks is None or not term.regions:
        return Measured(term.sums(layer, x, weights, target, at), None)
    regions = jnp.moveaxis(masks[layer].values, -1, 0)
    if weights is not None:
        regions = regions * weights[None]
    sums = jax.vmap(lambda region: term.sums(layer, x, region, target, at))(regions)
    return Measured(sums, jnp.sum(regions, axis=(1, 2), dtype=jnp.float32))


def activations(
    extractor: Network,
    params: Tree,
    image: jax.Array,
    layers: Sequence[str],
    *,
    partition: Partition = Together(),
) -> dict[str, jax.Array]:
    """`{layer: [h, w, C]}` of a picture, which is divided as `partition` says.

    Raises:
      TypeError, ValueError: as of `check_partition`.
    """
    check_partition(partition, extractor)
    if _strips_of(partition) > 1:
        rows, found = _in_strips(extractor, params, image, layers, partition.strips)
        return {layer: vgg.join_rows(own, rows[layer]) for layer, own in found.items()}
    if not _scans(partition, extractor):
        return extractor(params, image, layers)
    found = {}
    for _, kept in _by_segment(
        (), layers, extractor, params, image, {}, None, None, None, partition.tile or COLUMNS
    ):
        found |= kept
    return found


# Together, in strips.


def _in_strips(extractor, params, image, layers, count):
    """The rows of each layer in the whole picture, and `{layer: [count, h, w, C]}`."""
    if not layers:
        return {}, {}
    height, width = image.shape[:2]
    geometry = {layer: extractor.geometry(params, layer, (height, width)) for layer in layers}
    # Pooling has to meet the same rows in each strip.
    stride = math.lcm(*(own.stride for own in geometry.values()))
    rows = -(-height // (count * stride)) * stride
    x = vgg.divide_rows(image, count, rows, repeat=True)
    found = extractor.in_strips(params, x, layers, height=height)
    return {layer: own.shape[0] for layer, own in geometry.items()}, found


def _measured_in_strips(term, layer, x, height, target, masks, own, at) -> Measured:
    """A term's sums over one layer `[S, h, w, C]` of a picture that has `height` rows there."""
    count, rows = x.shape[:2]
    regional = masks is not None and term.regions
    weights = None if own is None else own[layer]
    if weights is None and not regional and count * rows > height:
        weights = jnp.ones((height, x.shape[2]))
    others = without_fields(target)
    beside = (fields_of(target), masks[layer] if regional else None, weights)
    beside = jax.tree.map(lambda leaf: vgg.divide_rows(leaf, count, rows), beside)

    def one(x, beside, first):
        target, mask, weights = beside
        origin = at.origin[layer] + jnp.stack([first, jnp.int32(0)])
        return _measured(
            *(term, layer, x, with_fields(target, others)),
            {layer: mask} if regional else None,
            None if weights is None else {layer: weights},
            dataclasses.replace(at, origin={**at.origin, layer: origin}),
        )

    each = jax.vmap(one)(x, beside, rows * jnp.arange(count, dtype=jnp.int32))
    return jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), each)


# Windows in a scan.


def _by_segment(parts, keep, extractor, params, x, fields, at, masks, own, tile):
    """For each segment of the network, from the picture upwards: `{(term, layer): Measured}` of
    `parts`, pairs of a term and a layer; and the layers to `keep` that are in it, whole."""
    layers = tuple(dict.fromkeys([*_network_layers_of(parts), *keep]))
    segments = extractor.cuts(params, layers)
    for number, (below, names) in enumerate(segments):
        here = [(term, layer) for term, layer in parts if layer in names]
        beside, others = {}, {}
        for term, layer in here:
            target = fields.get(term.name, {}).get(layer)
            beside.setdefault(layer, {"fields": {}})["fields"][term.name] = fields_of(target)
            others[term.name, layer] = without_fields(target)
            for name, tree in (("masks", masks), ("own", own)):
                if tree is not None and layer in tree:
                    beside[layer][name] = tree[layer]
        last = number == len(segments) - 1
        above = () if last else (segments[number + 1][0],)
        segment = _Segment(
            *(extractor, below, here, others),
            *(tuple(name for name in keep if name in names), above, at),
        )
        sums, found, raw = _over_windows(segment, params, x, beside, tile)
        yield sums, found
        x = None if last else raw[above[0]]


@dataclasses.dataclass(frozen=True)
class _Segment:
    """A part of the network between two cuts, and what is to be found in it.

    Attributes:
      below: the layer that it starts from; None is the picture.
      pairs: of a term and a layer, to measure.
      others: what these look at of their targets, but for `Field`s, `{(term, layer): tree}`.
      keep: layers to return whole.
      above: layers to go on from.
    """

    extractor: Network
    below: str | None
    pairs: Sequence[tuple[Term, str]]
    others: Mapping[tuple[str, str], Tree]
    keep: tuple[str, ...]
    above: tuple[str, ...]
    at: At

    def look(self, params, x, beside, *, start=0, columns=None, halo=0, inside=None):
        """What a window adds to the sums, and its part of the layers to return.

        Args:
          x: `[H, W, C]`, of which `halo` columns at each side are other windows'.
          beside: what belongs to the layers, cut to the window.
          start: the first column of the window in the whole.
          columns: as of the extractor.
          inside: the width of the whole, where the window may reach beyond.
        """
        layers = tuple(dict.fromkeys([*(layer for _, layer in self.pairs), *self.keep]))
        found, raw = self.extractor.segment(
            params, x, self.below, layers, raw=self.above, columns=columns
        )

        def middle(layer, value):
            beyond = halo // self.scale(params, layer)
            return value[:, beyond : value.shape[1] - beyond]

        found = {layer: middle(layer, value) for layer, value in found.items()}
        raw = {layer: middle(layer, value) for layer, value in raw.items()}
        sums = {}
        for term, layer in self.pairs:
            own, masks = (beside[layer].get(name) for name in ("own", "masks"))
            scale = self.scale(params, layer)
            first = start // scale
            if inside is not None and own is None and (masks is None or not term.regions):
                index = first + jnp.arange(found[layer].shape[1])
                own = jnp.broadcast_to(
                    (index < inside // scale).astype(jnp.float32), found[layer].shape[:2]
                )
            origin = self.at.origin[layer] + jnp.stack([jnp.int32(0), jnp.int32(first)])
            at = dataclasses.replace(self.at, origin={**self.at.origin, layer: origin})
            sums[term.name, layer] = _measured(
                term,
                layer,
                found[layer],
                with_fields(beside[layer]["fields"][term.name], self.others[term.name, layer]),
                masks if masks is None else {layer: masks},
                own if own is None else {layer: own},
                at,
            )
        return sums, {layer: found[layer] for layer in self.keep}, raw

    def scale(self, params, layer):
        return self.extractor.scale(params, layer)


def _over_windows(segment: _Segment, params, x, beside, tile):
    """`segment.look` at windows of `tile` columns of `x` `[H, W, C]`: sums added, and layers put
    together."""
    width = x.shape[1]
    if width <= tile:
        return jax.checkpoint(segment.look)(params, x, beside)
    count = -(-width // tile)
    own = -(-width // count)
    own += own % 2  # pooling starts anew in each window
    halo = segment.extractor.halo(params, segment.below)
    # The border repeated is for a picture; beyond other layers' border the network puts zeros.
    mode = {"mode": "edge"} if segment.below is None else {}
    x = jnp.pad(x, ((0, 0), (halo, count * own - width + halo), (0, 0)), **mode)

    def scale(layer):
        return segment.scale(params, layer)

    beside = {layer: _widened(tree, count * own // scale(layer)) for layer, tree in beside.items()}
    inside = width if count * own > width else None

    # Inside a loop nothing is merged, and barriers would only be in the way.
    @functools.partial(jax.checkpoint, prevent_cse=False)
    def look(index):
        start = own * index
        here = {
            layer: _columns(tree, start // scale(layer), own // scale(layer))
            for layer, tree in beside.items()
        }
        window = jax.lax.dynamic_slice_in_dim(x, start, own + 2 * halo, axis=1)
        return segment.look(
            params,
            window,
            here,
            start=start,
            columns=(start - halo, width),
            halo=halo,
            inside=inside,
        )

    def add(sums, index):
        here, *found = look(index)
        return jax.tree.map(jnp.add, sums, here), found

    none, *_ = jax.eval_shape(look, 0)
    none = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), none)
    sums, found = jax.lax.scan(add, none, jnp.arange(count))
    kept, raw = (
        {layer: _joined(value, width // scale(layer)) for layer, value in tree.items()}
        for tree in found
    )
    return sums, kept, raw


def _joined(windows, width):
    """Windows `[n, h, w, C]` side by side, `[h, width, C]`."""
    count, height, own, channels = windows.shape
    return windows.swapaxes(0, 1).reshape(height, count * own, channels)[:, :width]


def _widened(tree, width):
    """Arrays `[h, w, ...]` with zeros up to `width`."""

    def pad(leaf):
        beyond = [(0, 0)] * leaf.ndim
        beyond[1] = (0, width - leaf.shape[1])
        return jnp.pad(leaf, beyond)

    return jax.tree.map(pad, tree)


def _columns(tree, start, width):
    """Columns of arrays `[h, w, ...]`."""
    return jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, start, width, axis=1), tree)


# Windows by the host.


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


def grid(
    shape: Sequence[int],
    tile: int,
    terms: Sequence[Term],
    extractor: Network,
    params: Tree,
) -> Grid:
    """Windows over a picture of `shape` `(H, W, ...)`, none longer than `tile` pixels a side, for
    what the terms look at.

    Raises:
      ValueError: a tile too small for the layers, or an unknown layer.
    """
    height, width = shape[:2]
    stride, radius = 1, 1
    strides = strides_of(terms, extractor, params, shape)
    for term in terms:
        for layer in term.layers:
            sees = (
                0 if layer == IMAGE else extractor.geometry(params, layer, (height, width)).radius
            )
            # A window starts where every layer has a position of its own.
            stride = math.lcm(stride, strides[layer])
            radius = max(radius, sees + strides[layer] * term.reach)
    (window_height, rows), (window_width, columns) = (
        spans(side, tile, stride=stride, radius=radius) for side in (height, width)
    )
    return Grid((height, width), (window_height, window_width), rows, columns)


class Place(NamedTuple):
    """Where a window lies, as arrays that a compiled program takes.

    Attributes:
      start: `[2]`, its first row and column, in pixels.
      owned: `[[first row, stop row], [first column, stop column]]`, from its start.
    """

    start: np.ndarray
    owned: np.ndarray

    @classmethod
    def of(cls, window: tuple[Span, Span]) -> "Place":
        start = np.array([span.start for span in window], np.int32)
        return cls(start, np.array([span[1:] for span in window], np.int32))


def strides_of(
    terms: Sequence[Term], extractor: Network, params: Tree, shape: Sequence[int]
) -> dict[str, int]:
    """The stride of each layer that terms look at, in a picture of `shape`.

    Raises:
      ValueError: a layer whose positions are not as many as whole strides fit into the picture.
    """
    shape = tuple(shape[:2])
    found = {IMAGE: 1}
    for layer in network_layers(terms):
        geometry = extractor.geometry(params, layer, shape)
        found[layer] = geometry.stride
        if geometry.shape != tuple(side // geometry.stride for side in shape):
            raise ValueError(
                f"masks and tiles need a layer of as many positions as its stride of "
                f"{geometry.stride} fits into the picture {shape}; {layer} has {geometry.shape}"
            )
    return found


def in_window(
    at: At, place: Place, window: tuple[int, int], strides: Mapping[str, int]
) -> tuple[At, dict[str, jax.Array]]:
    """`at` as of a window of the picture, and the positions that it owns, `{layer: [h, w]}`."""
    origin = {layer: place.start // stride for layer, stride in strides.items()}
    own = {layer: _owned_at(place.owned, window, stride) for layer, stride in strides.items()}
    return dataclasses.replace(at, origin=origin), own


def _owned_at(own, shape, stride):
    """1 at the positions of a layer that a window owns and 0 elsewhere."""
    sides = []
    for (first, stop), length in zip(own // stride, shape, strict=True):
        index = jnp.arange(length // stride)
        sides.append((index >= first) & (index < stop))
    return (sides[0][:, None] & sides[1][None, :]).astype(jnp.float32)
