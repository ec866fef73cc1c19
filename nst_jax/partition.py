"""The sums that terms take of a picture, evaluated on the whole picture or part by part.

Sums over positions add up, so a picture can be evaluated in parts. A partition says how:

- `Together`: all parts are in memory at once. A part takes the rows that it needs from its
  neighbours. A whole picture is one part.
- `Windows`: one part after the other is in memory. Windows overlap, and the overlap is computed
  twice.

`Windows(loop="scan")` cuts the network at its poolings into segments. Each segment runs over
vertical windows, in a loop inside the program. A window has as many extra columns at each side as
the segment's convolutions see. The program keeps only the input of each segment for the gradient
and computes the rest again, after Tianqi Chen et al.: "Training Deep Nets with Sublinear Memory
Cost", 2016, https://arxiv.org/abs/1604.06174. The windows divide the width, because a mesh divides
the height. They need a loop: outside a loop, XLA on a CPU merges equal computations even across
the barriers of `jax.checkpoint`, and keeps the result in memory.

`Windows(loop="host")` runs one program for each window, see `nst_jax.windows`. Windows overlap by
the receptive field of the deepest layer, so each sees all that it needs. `Grid` places them:

- Windows start at multiples of the deepest layer's stride, so pooling combines the same pixels as
  in the whole picture.
- Windows lie inside the picture, and the last one ends with it. A layer's padding at any other
  side of a window changes only positions that another window owns.
- One window owns each position of each layer, and only this window counts it.
- All windows have one shape, so they share one compiled program.

Sums never include padding: positions outside a part have weight 0.
"""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol, TypeGuard, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from nst_jax import packed, sharding, vgg
from nst_jax.extractor import Geometry, Network, is_circular
from nst_jax.settings import checked_count
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

COLUMNS = 64  # the most columns of a window of "scan", in each segment, where `tile` is None

TPU_STRIPS = 8  # a TPU's vector unit has 8 rows of 128 lanes

Tree = Any
OnWindow = Callable[[int, int], None]
"""`on_window(done, total)`, called with the number of windows that are done and of all windows."""

Loop = Literal["host", "scan"]
LOOPS: tuple[Loop, ...] = get_args(Loop)


@dataclasses.dataclass(frozen=True)
class Together:
    """All parts of a picture are in memory at once.

    With `strips` above 1, the network sees the picture as horizontal strips in the batch
    dimension, `[strips, h, W, C]`. Each convolution takes one row from each neighbour. Loss and
    gradient are those of the whole picture, up to rounding. A TPU fills its vector unit with 8
    strips of one picture. The height of a strip is a multiple of the deepest layer's stride. If
    there are more strips than such multiples in the picture, the last strips are empty.

    On a mesh, choose strips as a multiple of the devices along `space`, and the height as a
    multiple of strips times stride. Devices then exchange only sums, and one row at each side of a
    convolution. This also holds for outputs that are divided along `style` under `jax.vmap`. With
    other heights, devices also exchange larger parts of the picture and of the targets.

    Attributes:
      strips: how many strips; 1 is the whole picture.
      packed: whether the network is evaluated as a TPU likes it, see `nst_jax.packed`.

    Raises:
      ValueError: strips below 1 or not whole.
    """

    strips: int = 1
    packed: bool = False

    def __post_init__(self):
        object.__setattr__(self, "strips", checked_count("strips", self.strips))
        if not isinstance(self.packed, bool | np.bool_):
            raise TypeError(f"packed must be True or False, got {self.packed!r}")
        object.__setattr__(self, "packed", bool(self.packed))

    @property
    def in_strips(self) -> bool:
        """Whether the network sees `[S, h, W, C]`."""
        return self.strips > 1 or self.packed


@dataclasses.dataclass(frozen=True)
class Windows:
    """One part of a picture after the other is in memory, so that large pictures fit.

    - `Windows(tile=512)` is tiling: the host runs one program for each window, in two passes. A
      window has at most 512 pixels a side. See `nst_jax.windows`.
    - `Windows(loop="scan")` is rematerialisation: one program loops over windows of at most `tile`
      columns, between one pooling and the next. If the extractor has no `cuts`, the program runs
      on the whole picture, and `jax.checkpoint` computes its activations again.

    Attributes:
      tile: the longest side of a window, in pixels. With "scan", the most columns of a window, in
        positions of the layer that its segment starts from; None is 64.
      loop: what runs the windows, the "host" or a "scan" inside the program.

    Raises:
      ValueError: an unknown loop; a tile below 1 or not whole; no tile for the loop "host".
    """

    tile: int | None = None
    loop: Loop = "host"

    def __post_init__(self):
        if self.loop not in LOOPS:
            raise ValueError(f"loop must be one of {', '.join(LOOPS)}, got {self.loop!r}")
        if self.tile is not None or self.loop == "host":
            object.__setattr__(self, "tile", checked_count("tile", self.tile))


Partition = Together | Windows
"""How a picture is evaluated."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Placement:
    """Where the pictures of a run are evaluated, and in which parts.

    A placement changes each step by rounding only. Rounding grows over many steps: the picture is
    as good, but its details differ.

    Attributes:
      tile: the longest side, in pixels, of the windows in which larger pictures are evaluated; None
        is no windows. Device memory then depends on the tile. Pictures and the optimiser's state
        are in host memory. See `Windows`.
      remat: rematerialisation: keep little of the network for the gradient and compute the rest
        again. It takes a fifth to a third of the memory. See `Windows(loop="scan")`.
      strips: the number of horizontal strips in which a picture, or each window of it, is
        evaluated. See `Together`. None is 1, but on a TPU 8 for each device of a picture, or fewer
        of a low one. A TPU evaluates any number of strips packed, see `nst_jax.packed`.
      mesh: devices to divide the work among, from `nst_jax.sharding.make_mesh`; None is one device.
      steps_per_dispatch: how many steps one call of the compiled program takes. Records, callbacks
        and signals wait for its end. None suits the backend, see `nst_jax.optimize.run`.

    Raises:
      TypeError: remat or mesh of another type.
      ValueError: tile, strips or steps_per_dispatch below 1 or not whole; tile with mesh, or remat
        with strips.
    """

    tile: int | None = None
    remat: bool = False
    strips: int | None = None
    mesh: jax.sharding.Mesh | None = None
    steps_per_dispatch: int | None = None

    def __post_init__(self):
        for name in ("tile", "strips", "steps_per_dispatch"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, checked_count(name, value))
        if not isinstance(self.remat, bool | np.bool_):
            raise TypeError(f"remat must be True or False, got {self.remat!r}")
        object.__setattr__(self, "remat", bool(self.remat))
        if not isinstance(self.mesh, jax.sharding.Mesh | None):
            raise TypeError(
                f"mesh must be one of nst_jax.sharding.make_mesh, or None, got {self.mesh!r}"
            )
        if self.tile is not None and self.mesh is not None:
            raise ValueError("tile and mesh exclude each other: windows run one after the other")
        if self.remat and (self.strips or 1) > 1:
            raise ValueError("remat and strips exclude each other: both say how a picture is cut")

    def replace(self, **changes: Any) -> "Placement":
        """A copy with `changes`."""
        return dataclasses.replace(self, **changes)

    @property
    def platform(self) -> str:
        """The platform of the devices, such as "cpu" or "tpu"."""
        return sharding.platform_of(self.mesh)

    def partition_of(self, network: Network, *, height: int | None = None) -> Partition:
        """How a window is divided, or a picture that is no larger than the tile.

        Here a backend gets the way of evaluation that suits it.

        Args:
          network: the network that evaluates it.
          height: of the picture, if the devices along `space` share it. None is one device.
        """
        if self.remat:
            return Windows(loop="scan")
        packs = self.platform == "tpu" and getattr(network, "packs", False)
        if self.strips is not None:
            return Together(self.strips, packed=packs)
        if not packs:
            return Together()
        space = 1 if self.mesh is None or height is None else self.mesh.shape["space"]
        # A strip has at least 16 rows, one of block 5. Fewer strips waste no rows.
        each = TPU_STRIPS if space == 1 else -(-(height or 0) // (16 * space))
        return Together(space * min(TPU_STRIPS, max(1, each)), packed=True)


class _StripsNetwork(Network, Protocol):
    """A network that runs on a picture in strips, see `nst_jax.extractor.Network`."""

    def in_strips(
        self,
        params: Tree,
        x: jax.Array,
        layers: Sequence[str],
        *,
        height: int,
        pack: bool = False,
    ) -> Mapping[str, jax.Array]: ...


class _CutNetwork(Network, Protocol):
    """A network that runs between its poolings, see `nst_jax.extractor.Network`."""

    def cuts(
        self, params: Tree, layers: Sequence[str]
    ) -> Sequence[tuple[str | None, tuple[str, ...]]]: ...

    def halo(self, params: Tree, below: str | None) -> int: ...

    def scale(self, params: Tree, layer: str) -> int: ...

    def segment(
        self,
        params: Tree,
        x: jax.Array,
        below: str | None,
        layers: Sequence[str],
        *,
        raw: Sequence[str] = (),
        columns: tuple[jax.Array, int] | None = None,
    ) -> tuple[Mapping[str, jax.Array], Mapping[str, jax.Array]]: ...


def _has_strips(extractor: Network) -> TypeGuard[_StripsNetwork]:
    return hasattr(extractor, "in_strips")


def _has_cuts(extractor: Network) -> TypeGuard[_CutNetwork]:
    return hasattr(extractor, "cuts")


def check_partition(partition: Partition, extractor: Network) -> None:
    """Refuses a partition that `measure` cannot evaluate with this extractor.

    Raises:
      TypeError: no partition.
      ValueError: windows of the host, or strips for a network without `in_strips`.
    """
    if not isinstance(partition, Partition):
        raise TypeError(f"partition must be a Together or a Windows, got {partition!r}")
    if isinstance(partition, Windows) and partition.loop == "host":
        raise ValueError(
            f"{partition} needs passes by the host: nst_jax.windows.value_and_grad makes them"
        )
    if _is_in_strips(partition) and not _has_strips(extractor):
        raise ValueError(
            f"{partition} needs a network with in_strips, and {type(extractor).__name__} has none"
        )
    if is_circular(extractor) and partition != Together():
        raise ValueError(
            f"{partition} cuts the picture, and circular padding needs whole ones: leave out "
            "strips and remat"
        )
    if is_packed(partition) and not getattr(extractor, "packs", False):
        raise ValueError(
            f"{partition} needs a network that packs, and {type(extractor).__name__} does not"
        )


def is_packed(partition: Partition) -> bool:
    """Whether one picture fills a device, as a TPU likes it, see `Together`."""
    return isinstance(partition, Together) and partition.packed


def _is_in_strips(partition: Partition) -> bool:
    return isinstance(partition, Together) and partition.in_strips


class Measured(NamedTuple):
    """What a term measures at a layer.

    Attributes:
      sums: the term's sums; with regions, they have a leading axis of regions.
      share: the sum of the weights of each region, `[regions]`; None without regions.
    """

    sums: Tree
    share: Float[Array, " regions"] | None


Sums = dict[str, dict[str, Measured]]
"""`{term: {layer: Measured}}`."""


def network_layers(terms: Sequence[Term]) -> tuple[str, ...]:
    """The network's layers that terms look at, each once."""
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
    height, width = shape[:2]
    sides, channels = {IMAGE: (height, width)}, {IMAGE: 3}
    for layer in network_layers(terms):
        found = extractor.geometry(params, layer, (height, width))
        sides[layer] = (found.shape[0], found.shape[1])
        channels[layer] = found.channels
    # NumPy arrays, so that a compiled program holds them as constants.
    origin: dict[str, Any] = {layer: np.zeros(2, np.int32) for layer in sides}
    return At((height, width), sides, channels, origin, key, is_circular(extractor))


def measure(
    terms: Sequence[Term],
    extractor: Network,
    params: Tree,
    image: Float[ArrayLike, "h w 3"],
    fields: Mapping[str, Mapping[str, Tree]],
    at: At,
    *,
    masks: Mapping[str, Field] | None = None,
    own: Mapping[str, Float[Array, "_ _"]] | None = None,
    moved: Float[ArrayLike, "h w 3"] | None = None,
    layers: Sequence[str] | None = None,
    partition: Partition = Together(),
) -> Sums:
    """The terms' sums over a picture, or over a window of it.

    Args:
      terms: whose sums to take.
      extractor, params: the network.
      image: the picture or the window, `[h, w, 3]` in [0, 1].
      fields: the targets that `Term.sums` takes, `{term: {layer: tree}}`, with each `Field` cut to
        the window.
      at: of the whole picture.
      masks: regions, `{layer: Field [h, w, regions]}`.
      own: `{layer: [h, w]}`, the weight of each position: 1 where it counts and 0 elsewhere. None
        counts all positions.
      moved: what the network sees in place of `image`.
      layers: the only layers to look at, which may include `IMAGE`; None is all.
      partition: how the picture is divided.

    Returns:
      `{term: {layer: Measured}}`.

    Raises:
      TypeError, ValueError: as `check_partition`.
    """
    check_partition(partition, extractor)
    image = jnp.asarray(image)
    asked = [
        (term, layer)
        for term in terms
        for layer in term.layers
        if layers is None or layer in layers
    ]
    seen = image if moved is None else jnp.asarray(moved)
    found: Sums = {term.name: {} for term in terms}
    features = {IMAGE: image}
    scanned = isinstance(partition, Windows)
    divided = _has_cuts(extractor) if scanned else _is_in_strips(partition)
    parts = [pair for pair in asked if divided and _adds_up(*pair, fields)]
    whole = [pair for pair in asked if pair not in parts]
    if isinstance(partition, Windows) and _has_cuts(extractor):
        for segment, kept in _by_segment(
            parts,
            _network_layers_of(whole),
            extractor,
            params,
            seen,
            fields,
            at,
            masks,
            own,
            partition.tile or COLUMNS,
        ):
            features |= kept
            for (name, layer), measured in segment.items():
                found[name][layer] = measured
    elif isinstance(partition, Together) and partition.in_strips:
        asked_layers = _network_layers_of(asked)
        geometries, in_strips = _in_strips(extractor, params, seen, asked_layers, partition)
        for term, layer in parts:
            found[term.name][layer] = _measured_in_strips(
                term,
                layer,
                in_strips[layer],
                geometries[layer],
                fields.get(term.name, {}).get(layer),
                masks,
                own,
                at,
            )
        for layer in _network_layers_of(whole):
            features[layer] = _joined_strips(in_strips[layer], geometries[layer])
    else:
        look = functools.partial(extractor, layers=_network_layers_of(asked))
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


def _adds_up(term: Term, layer: str, fields: Mapping[str, Mapping[str, Tree]]) -> bool:
    """Whether a part of the network's layer holds all that the term's sums over this part read."""
    beside = jax.tree.leaves(fields.get(term.name, {}).get(layer), is_leaf=is_field)
    own = all(field.layer == layer for field in beside if is_field(field))
    return term.additive and not (term.placed or term.reach) and layer != IMAGE and own


def _network_layers_of(pairs: Sequence[tuple[Term, str]]) -> tuple[str, ...]:
    """The layers of pairs of a term and a layer, each once, without `IMAGE`."""
    return tuple(dict.fromkeys(layer for _, layer in pairs if layer != IMAGE))


def _measured(
    term: Term,
    layer: str,
    x: jax.Array,
    target: Tree,
    masks: Mapping[str, Field] | None,
    own: Mapping[str, jax.Array] | None,
    at: At,
) -> Measured:
    """A term's sums over one layer `x` `[h, w, C]` of a picture or of a part of it."""
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
    image: Float[ArrayLike, "H W 3"],
    layers: Sequence[str],
    *,
    partition: Partition = Together(),
) -> Mapping[str, Float[Array, "_ _ _"]]:
    """The activations of a whole picture, `{layer: [h, w, C]}`, computed as `partition` says.

    Raises:
      TypeError, ValueError: as `check_partition`.
    """
    check_partition(partition, extractor)
    image = jnp.asarray(image)
    if isinstance(partition, Together) and partition.in_strips:
        geometries, in_strips = _in_strips(extractor, params, image, layers, partition)
        return {layer: _joined_strips(own, geometries[layer]) for layer, own in in_strips.items()}
    if not (isinstance(partition, Windows) and _has_cuts(extractor)):
        return extractor(params, image, layers)
    found = {}
    for _, kept in _by_segment(
        (), layers, extractor, params, image, {}, None, None, None, partition.tile or COLUMNS
    ):
        found |= kept
    return found


# Together, in strips.


def _in_strips(
    extractor: Network, params: Tree, image: jax.Array, layers: Sequence[str], partition: Together
) -> tuple[dict[str, Geometry], Mapping[str, jax.Array]]:
    """The activations of a picture in strips.

    Returns:
      The geometry of each layer in the whole picture, and its activations, `{layer: [S, h, w, C]}`
      or packed.
    """
    if not layers:
        return {}, {}
    assert _has_strips(extractor)  # `check_partition` refuses others
    height, width = image.shape[:2]
    geometry = {layer: extractor.geometry(params, layer, (height, width)) for layer in layers}
    # Pooling has to combine the same rows in each strip.
    stride = math.lcm(*(own.stride for own in geometry.values()))
    rows = -(-height // (partition.strips * stride)) * stride
    x = vgg.divide_rows(image, partition.strips, rows, repeat=True)
    options: dict[str, Any] = {"pack": True} if partition.packed else {}
    found = extractor.in_strips(params, x, layers, height=height, **options)
    return geometry, found


def _joined_strips(x: jax.Array, layer: Geometry) -> jax.Array:
    """The layer `[h, w, C]` of strips `[S, h, w, C]` or packed ones."""
    return vgg.join_rows(_unpacked(x, layer), layer.shape[0])


def _unpacked(x: jax.Array, layer: Geometry) -> jax.Array:
    """The strips `[S, h, w, C]` of strips or packed ones."""
    packs = x.shape[3] > layer.channels
    return packed.unpack_columns(x, layer.shape[1]) if packs else x


def _measured_in_strips(
    term: Term,
    layer: str,
    x: jax.Array,
    geometry: Geometry,
    target: Tree,
    masks: Mapping[str, Field] | None,
    own: Mapping[str, jax.Array] | None,
    at: At,
) -> Measured:
    """A term's sums over one layer `x`, `[S, h, w, C]` or packed."""
    (height, width), (count, rows) = geometry.shape, x.shape[:2]
    regions = masks[layer] if masks is not None and term.regions else None
    weights = None if own is None else own[layer]
    if weights is None and regions is None:
        if term.unordered and not jax.tree.leaves(fields_of(target)):
            return _measured_in_any_order(term, layer, x, geometry, target, at)
        if count * rows > height:
            weights = jnp.ones((height, width))
    others = without_fields(target)
    beside = (fields_of(target), regions, weights)
    x = _unpacked(x, geometry)
    beside = jax.tree.map(lambda leaf: vgg.divide_rows(leaf, count, rows), beside)

    def one_strip(x: jax.Array, beside: Tree, first: jax.Array) -> Measured:
        fields, regions, weights = beside
        origin = at.origin[layer] + jnp.stack([first, jnp.int32(0)])
        return _measured(
            term,
            layer,
            x,
            with_fields(fields, others),
            None if regions is None else {layer: regions},
            None if weights is None else {layer: weights},
            dataclasses.replace(at, origin={**at.origin, layer: origin}),
        )

    each = jax.vmap(one_strip)(x, beside, rows * jnp.arange(count, dtype=jnp.int32))
    return jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), each)


def _measured_in_any_order(
    term: Term, layer: str, x: jax.Array, geometry: Geometry, target: Tree, at: At
) -> Measured:
    """`_measured_in_strips` of all strips at once, for a term that treats all positions alike."""
    sums = term.sums(layer, x, None, target, at)
    # Positions beyond the picture are zeros. Sums add up, so theirs are taken away again.
    beyond = x.size // geometry.channels - math.prod(geometry.shape)
    if beyond:
        zeros = jnp.zeros((1, 1, geometry.channels), x.dtype)
        one = term.sums(layer, zeros, None, target, at)
        sums = jax.tree.map(lambda leaf, none: leaf - beyond * none, sums, one)
    return Measured(sums, None)


# Windows in a scan.


def _by_segment(
    parts: Sequence[tuple[Term, str]],
    keep: Sequence[str],
    extractor: _CutNetwork,
    params: Tree,
    x: jax.Array,
    fields: Mapping[str, Mapping[str, Tree]],
    at: At | None,
    masks: Mapping[str, Field] | None,
    own: Mapping[str, jax.Array] | None,
    tile: int,
) -> Iterator[tuple[dict[tuple[str, str], Measured], dict[str, jax.Array]]]:
    """Evaluates the network segment by segment, from the picture upwards.

    Args:
      parts: pairs of a term and a layer, to measure window by window.
      keep: layers to return whole.
      extractor, params: the network.
      x: the whole picture.
      fields, masks, own: as in `measure`, of the whole picture.
      at: of the whole picture; None without `parts`.
      tile: the most columns of a window.

    Yields:
      For each segment, `{(term, layer): Measured}` of its `parts`, and its layers to `keep`.
    """
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
        # The layer that the next segment starts from.
        above = segments[number + 1][0] if number + 1 < len(segments) else None
        segment = _Segment(
            extractor=extractor,
            below=below,
            pairs=here,
            others=others,
            keep=tuple(name for name in keep if name in names),
            above=() if above is None else (above,),
            at=at,
        )
        sums, found, raw = _over_windows(segment, params, x, beside, tile)
        yield sums, found
        if above is not None:
            x = raw[above]


_Results = tuple[dict[tuple[str, str], Measured], dict[str, jax.Array], dict[str, jax.Array]]


@dataclasses.dataclass(frozen=True)
class _Segment:
    """A part of the network between two cuts, and what to find in it.

    Attributes:
      extractor: the network.
      below: the layer that the segment starts from; None is the picture.
      pairs: pairs of a term and a layer, to measure.
      others: the targets of these pairs without their `Field`s, `{(term, layer): tree}`.
      keep: layers to return whole.
      above: the layer that the next segment starts from, if there is one.
      at: of the whole picture; None without `pairs`.
    """

    extractor: _CutNetwork
    below: str | None
    pairs: Sequence[tuple[Term, str]]
    others: Mapping[tuple[str, str], Tree]
    keep: tuple[str, ...]
    above: tuple[str, ...]
    at: At | None

    def evaluate(
        self,
        params: Tree,
        x: jax.Array,
        beside: Mapping[str, Mapping[str, Tree]],
        *,
        start: Any = 0,
        columns: tuple[jax.Array, int] | None = None,
        halo: int = 0,
        inside: int | None = None,
    ) -> _Results:
        """What a window adds to the sums, and its part of the layers to keep and to go on from.

        Args:
          params: of the network.
          x: `[H, W, C]`, the window with `halo` extra columns at each side.
          beside: what belongs to each layer, cut to the window: `{layer: {"fields": {term: tree},
            "masks": Field, "own": weights}}`.
          start: the first column of the window in the whole, an integer or a scalar array.
          columns: as in the extractor's `segment`.
          halo: how many columns at each side belong to other windows.
          inside: the width of the whole if the window may reach beyond it, else None.

        Returns:
          `{(term, layer): Measured}`, `{layer: activations}` of `keep`, and the same of `above` as
          the network has them.
        """
        layers = tuple(dict.fromkeys([*(layer for _, layer in self.pairs), *self.keep]))
        found, raw = self.extractor.segment(
            params, x, self.below, layers, raw=self.above, columns=columns
        )

        def middle(layer: str, value: jax.Array) -> jax.Array:
            beyond = halo // self.scale(params, layer)
            return value[:, beyond : value.shape[1] - beyond]

        found = {layer: middle(layer, value) for layer, value in found.items()}
        raw = {layer: middle(layer, value) for layer, value in raw.items()}
        sums = {}
        for term, layer in self.pairs:
            assert self.at is not None
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
                None if masks is None else {layer: masks},
                None if own is None else {layer: own},
                at,
            )
        return sums, {layer: found[layer] for layer in self.keep}, raw

    def scale(self, params: Tree, layer: str) -> int:
        """How many columns of the segment's input make one column of the layer."""
        return self.extractor.scale(params, layer)


def _over_windows(
    segment: _Segment,
    params: Tree,
    x: jax.Array,
    beside: Mapping[str, Mapping[str, Tree]],
    tile: int,
) -> _Results:
    """`segment.evaluate` of `x` `[H, W, C]` in windows of at most `tile` columns.

    It adds up the sums, and joins the layers.
    """
    width = x.shape[1]
    if width <= tile:
        return jax.checkpoint(segment.evaluate)(params, x, beside)
    count = -(-width // tile)
    own = -(-width // count)
    own += own % 2  # pooling starts anew in each window
    halo = segment.extractor.halo(params, segment.below)
    # A picture is extended by its border. Other layers are extended by zeros, as the network does.
    mode: Mapping[str, Any] = {"mode": "edge"} if segment.below is None else {}
    x = jnp.pad(x, ((0, 0), (halo, count * own - width + halo), (0, 0)), **mode)

    def scale(layer: str) -> int:
        return segment.scale(params, layer)

    beside = {layer: _widened(tree, count * own // scale(layer)) for layer, tree in beside.items()}
    inside = width if count * own > width else None

    # In a loop XLA merges no computations, so barriers against it would only slow it down.
    @functools.partial(jax.checkpoint, prevent_cse=False)
    def one_window(index: jax.Array) -> _Results:
        start = own * index
        here = {
            layer: _columns(tree, start // scale(layer), own // scale(layer))
            for layer, tree in beside.items()
        }
        window = jax.lax.dynamic_slice_in_dim(x, start, own + 2 * halo, axis=1)
        return segment.evaluate(
            params,
            window,
            here,
            start=start,
            columns=(start - halo, width),
            halo=halo,
            inside=inside,
        )

    def add(sums: Tree, index: jax.Array) -> tuple[Tree, list[dict[str, jax.Array]]]:
        here, *found = one_window(index)
        return jax.tree.map(jnp.add, sums, here), found

    none, *_ = jax.eval_shape(one_window, 0)
    none = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), none)
    sums, found = jax.lax.scan(add, none, jnp.arange(count))
    kept, raw = (
        {layer: _joined(value, width // scale(layer)) for layer, value in tree.items()}
        for tree in found
    )
    return sums, kept, raw


def _joined(windows: jax.Array, width: int) -> jax.Array:
    """Joins windows `[n, h, w, C]` side by side to `[h, width, C]`."""
    count, height, own, channels = windows.shape
    return windows.swapaxes(0, 1).reshape(height, count * own, channels)[:, :width]


def _widened(tree: Tree, width: int) -> Tree:
    """Extends arrays `[h, w, ...]` with zeros to `width`."""

    def pad(leaf: jax.Array) -> jax.Array:
        beyond = [(0, 0)] * leaf.ndim
        beyond[1] = (0, width - leaf.shape[1])
        return jnp.pad(leaf, beyond)

    return jax.tree.map(pad, tree)


def _columns(tree: Tree, start: jax.Array, width: int) -> Tree:
    """Cuts `width` columns from `start` out of arrays `[h, w, ...]`."""
    return jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, start, width, axis=1), tree)


# Windows by the host.


def on_host() -> contextlib.AbstractContextManager:
    """Makes the host's processor JAX's default device, if JAX may use it."""
    try:
        return jax.default_device(jax.local_devices(backend="cpu")[0])
    except RuntimeError:  # JAX_PLATFORMS names only an accelerator
        return contextlib.nullcontext()


def on_device() -> contextlib.AbstractContextManager:
    """Makes JAX's first device the default again: the accelerator, if there is one."""
    return jax.default_device(jax.local_devices()[0])


class Span(NamedTuple):
    """A window's place along one side of the picture.

    Attributes:
      start: the pixel of the picture at which the window starts.
      first, stop: the window owns the pixels from `first` up to `stop`, counted from `start`.
    """

    start: int
    first: int
    stop: int


def spans(side: int, tile: int, *, stride: int, radius: int) -> tuple[int, list[Span]]:
    """Places windows of one length along a side of the picture.

    Args:
      side: the picture's, in pixels.
      tile: the most pixels of a window.
      stride, radius: of the deepest layer, see `vgg.receptive_field`.

    Returns:
      The length of a window, and the windows. Starts and owned pixels are multiples of the stride,
      except for the last owned pixel. A side of at most `tile` is one window.

    Raises:
      ValueError: the tile is too small to own anything between its halos.
    """
    if side <= tile:
        return side, [Span(0, 0, side)]
    halo = -(-radius // stride) * stride
    # The last window ends with the picture and starts at a multiple of the stride.
    longest = tile - (tile - side) % stride

    def owned(length: int) -> int:
        """How many pixels a window inside the picture owns, between the halos at its ends."""
        return (length - radius) // stride * stride - halo

    if owned(longest) < stride:
        smallest = halo + radius + 2 * stride - 1
        raise ValueError(f"tile must be at least {smallest} for these layers, got {tile}")

    def windows_of(length: int) -> int:
        """How many windows there are. The first also owns its start, and the last its end."""
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
    """The windows over a picture. Iterate over it for pairs of a row's and a column's `Span`.

    Attributes:
      shape: `(H, W)` of the picture.
      window: `(h, w)` of every window.
      rows, columns: the windows along each side.
    """

    shape: tuple[int, int]
    window: tuple[int, int]
    rows: list[Span]
    columns: list[Span]

    def __len__(self) -> int:
        return len(self.rows) * len(self.columns)

    def __iter__(self) -> Iterator[tuple[Span, Span]]:
        return ((row, column) for row in self.rows for column in self.columns)

    def cut(self, array: np.ndarray, window: tuple[Span, Span], *, stride: int = 1) -> np.ndarray:
        """The window's part `[h, w, ...]` of a picture, or of a layer with this stride; a view."""
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
    """Places windows of at most `tile` pixels a side, for the layers that terms look at.

    Args:
      shape: `(H, W, ...)` of the picture.
      tile: the longest side of a window, in pixels.
      terms: which layers, and how far beyond a position their sums read.
      extractor, params: the network.

    Raises:
      ValueError: a tile too small for the layers, an unknown layer, or a network that needs whole
        pictures.
    """
    if is_circular(extractor):
        raise ValueError("circular padding needs whole pictures: leave out tile")
    height, width = shape[:2]
    stride, radius = 1, 1
    strides = strides_of(terms, extractor, params, shape)
    for term in terms:
        for layer in term.layers:
            sees = (
                0 if layer == IMAGE else extractor.geometry(params, layer, (height, width)).radius
            )
            # In every layer, a window must start where a position starts.
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
      owned: `[[first row, stop row], [first column, stop column]]`, in pixels from `start`.
    """

    start: jax.Array | np.ndarray
    owned: jax.Array | np.ndarray

    @classmethod
    def of(cls, window: tuple[Span, Span]) -> "Place":
        """The place of a pair of a row's and a column's `Span`."""
        start = np.array([span.start for span in window], np.int32)
        return cls(start, np.array([span[1:] for span in window], np.int32))


def strides_of(
    terms: Sequence[Term], extractor: Network, params: Tree, shape: Sequence[int]
) -> dict[str, int]:
    """The stride of each layer that terms look at, in a picture of `shape` `(H, W, ...)`.

    Raises:
      ValueError: a layer whose size is not that of the picture divided by its stride.
    """
    height, width = shape[:2]
    found = {IMAGE: 1}
    for layer in network_layers(terms):
        geometry = extractor.geometry(params, layer, (height, width))
        stride = found[layer] = geometry.stride
        wanted = (height // stride, width // stride)
        if geometry.shape != wanted:
            raise ValueError(
                f"for masks and tiles, the layer {layer} must have the size {wanted}, that of the "
                f"picture divided by the stride {stride}, got {geometry.shape}"
            )
    return found


def in_window(
    at: At, place: Place, window: tuple[int, int], strides: Mapping[str, int]
) -> tuple[At, dict[str, Float[Array, "_ _"]]]:
    """`at` for a window of the picture, and 1 at the positions that the window owns.

    Args:
      at: of the whole picture.
      place: where the window lies.
      window: `(h, w)` of the window, in pixels.
      strides: of each layer.

    Returns:
      `at`, and `{layer: [h, w]}`, which is 0 at the other positions.
    """
    origin = {layer: place.start // stride for layer, stride in strides.items()}
    own = {layer: _owned_at(place.owned, window, stride) for layer, stride in strides.items()}
    return dataclasses.replace(at, origin=origin), own


def _owned_at(owned: jax.Array | np.ndarray, window: tuple[int, int], stride: int) -> jax.Array:
    """1 at the positions of a layer that a window owns, and 0 elsewhere, `[h, w]`."""
    sides = []
    for (first, stop), length in zip(owned // stride, window, strict=True):
        index = jnp.arange(length // stride)
        sides.append((index >= first) & (index < stop))
    return (sides[0][:, None] & sides[1][None, :]).astype(jnp.float32)
