"""Extractors: the networks whose activations a loss compares.

An extractor is a frozen value. It computes activations and knows the geometry of its layers.
`VGGExtractor` is VGG16 or VGG19. `Extractor` makes an extractor of your own function.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, get_args, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from nst_jax import packed, vgg
from nst_jax.settings import option, settings


class Geometry(NamedTuple):
    """Where the positions of a layer lie in the picture.

    Along each side, position i sees the pixels from `stride * i - radius` to
    `stride * (i + 1) - 1 + radius`.

    Attributes:
      stride: the distance between two positions in pixels.
      radius: how many pixels beyond its own `stride` pixels a position sees, on each side.
      shape: `(h, w)`, the positions in the picture.
      channels: the number of channels.
    """

    stride: int
    radius: int
    shape: tuple[int, int]
    channels: int


@runtime_checkable
class Network(Protocol):
    """What every extractor has.

    It must be hashable. Some methods are optional, and `VGGExtractor` has all of them:

    - `in_strips` lets the network run on a picture in strips. `packs = True` says that it and
      `prepare` take `pack`, and evaluate the network as a TPU likes it.
    - `wraps = True` says that the network sees one side of a picture beyond the other. It then
      needs whole pictures. `of_styles` is the network for styles, which are no tiles.
    - `cuts`, `segment`, `halo` and `scale` let it run window by window between its poolings.
    - `prepare` converts parameters to a form that is faster in many steps.
    """

    def __call__(
        self, params: Any, image: jax.Array, layers: Sequence[str]
    ) -> Mapping[str, jax.Array]:
        """Computes the activations of a picture.

        Args:
          params: the parameters of the network.
          image: `[H, W, 3]`, in [0, 1].
          layers: the layers to return.

        Returns:
          `{layer: [h, w, C]}`.
        """
        ...

    def geometry(self, params: Any, layer: str, shape: tuple[int, int]) -> Geometry:
        """Returns the geometry of a layer.

        Args:
          params: the parameters of the network.
          layer: the name of the layer.
          shape: `(H, W)` of the picture.

        Raises:
          ValueError: there is no such layer, or the picture is too small for it.
        """
        ...


def is_circular(network: Any) -> bool:
    """Whether a network sees one side of a picture beyond the other, see `Network`."""
    return bool(getattr(network, "wraps", False))


@dataclasses.dataclass(frozen=True)
class Extractor:
    """Makes an extractor of a function.

    Attributes:
      function: a pure function `(params, image, layers) -> {layer: [h, w, C]}`. The image is
        `[H, W, 3]` in [0, 1]; `layers` is a tuple of names.
      layers: `{name: (stride, radius)}` for each layer that the function can return, see
        `Geometry`. It is kept as a tuple of pairs, which is hashable.
    """

    function: Callable[[Any, jax.Array, tuple[str, ...]], Mapping[str, jax.Array]]
    layers: Any

    def __post_init__(self):
        layers = tuple((name, tuple(each)) for name, each in dict(self.layers).items())
        object.__setattr__(self, "layers", layers)

    def __call__(
        self, params: Any, image: jax.Array, layers: Sequence[str]
    ) -> Mapping[str, jax.Array]:
        """Computes the activations of a picture, see `Network`."""
        return self.function(params, image, tuple(layers)) if layers else {}

    def geometry(self, params: Any, layer: str, shape: tuple[int, int]) -> Geometry:
        """Returns the geometry of a layer, see `Network`."""
        known: dict[str, tuple[int, int]] = dict(self.layers)
        if layer not in known:
            raise ValueError(f"unknown layer {layer!r}; the layers are {', '.join(known)}")
        image = jax.ShapeDtypeStruct((*shape, 3), jnp.float32)
        height, width, channels = _shape(self, params, image, layer)
        if 0 in (height, width, channels):
            raise ValueError(f"layer {layer} has no position in a picture of {shape}")
        stride, radius = known[layer]
        return Geometry(stride, radius, (height, width), channels)


def _shape(
    extractor: Network, params: Any, image: jax.ShapeDtypeStruct, layer: str
) -> tuple[int, ...]:
    found = jax.eval_shape(lambda params, x: extractor(params, x, (layer,)), params, image)
    return found[layer].shape


@settings
class VGGExtractor:
    """VGG16 or VGG19. The parameters decide which one it is.

    Attributes:
      pooling: how the network pools: "max", "average" or "l2".
      pooling_correction: scale average and l2 pooling to the magnitude of max pooling.
      padding: what lies beyond the border. "zeros" is what the network was trained with.
        "replicate" repeats the border at the first convolution, which reduces artefacts there.
        "circular" continues each layer by its other side, exactly if the sides are multiples of 16.
        Styles are then padded by "replicate".
      dtype: the type of kernels and activations. "bfloat16" keeps the range of float32 and rounds
        to 8 bits. Statistics, losses, picture and optimiser stay float32. It is for accelerators
        that support it; on a CPU a step takes about twice as long. "float64" is for checks of
        gradients, with 64-bit numbers enabled in JAX: statistics and losses are then float64, too.
        None is "float32".
      precision: the precision of products, by JAX's names. "highest" is full float32. Otherwise a
        TPU multiplies float32 in bfloat16. None is "default" for bfloat16 and "highest" for the
        other types. If dtype and precision are None, `stylize` takes the fastest of an accelerator
        whose pictures look the same, see `nst_jax.vgg.FASTEST`.
      normalize_features: divide the activations of each layer by their usual size, see
        `usual_sizes`.
    """

    pooling: vgg.Pooling = option("max", choices=tuple(vgg.POOLINGS), help="how the network pools")
    pooling_correction: bool = option(
        True, help="scale average and l2 pooling to the magnitude of max pooling"
    )
    padding: vgg.Padding = option(
        "zeros", choices=get_args(vgg.Padding), help="what lies beyond the border of the picture"
    )
    dtype: vgg.DType | None = option(
        None,
        choices=tuple(vgg.DTYPES),
        none=True,
        help="type of kernels and activations (if not given, float32; bfloat16 on a TPU)",
    )
    precision: vgg.Precision | None = option(
        None,
        choices=get_args(vgg.Precision),
        none=True,
        help="precision of products (if not given, highest for float32 and default for bfloat16; "
        "a GPU takes default without --dtype)",
    )
    normalize_features: bool = option(
        False, help="divide each layer's activations by their usual size in the network"
    )

    @property
    def wraps(self) -> bool:
        """Whether the network sees one side of a picture beyond the other."""
        return self.padding == "circular"

    @property
    def packs(self) -> bool:
        """Whether `in_strips` and `prepare` take `pack`.

        A class that changes the activations need not agree with `nst_jax.packed`.
        """
        return type(self) is VGGExtractor and not self.wraps

    @property
    def of_styles(self) -> "VGGExtractor":
        """The network for styles, which do not continue by their other side."""
        return dataclasses.replace(self, padding="replicate") if self.wraps else self

    def resolved(self, platform: str | None = None) -> "VGGExtractor":
        """Returns the same extractor, with the values of dtype and precision that None means.

        Args:
          platform: as in `nst_jax.vgg.resolved_precision`.
        """
        dtype, precision = vgg.resolved_precision(self.dtype, self.precision, platform=platform)
        return dataclasses.replace(self, dtype=dtype, precision=precision)

    def _options(self) -> dict[str, Any]:
        return {
            "pooling": self.pooling,
            "pooling_correction": self.pooling_correction,
            "padding": self.padding,
            "dtype": self.dtype,
            "precision": self.precision,
        }

    def __call__(
        self, params: vgg.Params, image: jax.Array, layers: Sequence[str]
    ) -> dict[str, jax.Array]:
        """Computes the activations of a picture, see `Network`.

        Layers have the names of `nst_jax.vgg`.
        """
        if not layers:
            return {}
        return self._scaled(params, vgg.features(params, image, layers=layers, **self._options()))

    def _scaled(
        self, params: vgg.Params, features: Mapping[str, jax.Array]
    ) -> dict[str, jax.Array]:
        return normalized(params, features) if self.normalize_features else dict(features)

    def _activations(
        self, params: vgg.Params, x: jax.Array, names: Mapping[str, str], **options: Any
    ) -> dict[str, jax.Array]:
        """Runs a part of the network and returns the layers that `names` resolve to."""
        found = vgg.network(params, **self._options()).apply(
            {"params": params}, x, layers=tuple(dict.fromkeys(names.values())), **options
        )
        assert isinstance(found, dict)
        return found

    def geometry(self, params: vgg.Params, layer: str, shape: tuple[int, int]) -> Geometry:
        """Returns the geometry of a layer, see `Network`."""
        image = jax.ShapeDtypeStruct((*shape, 3), jnp.float32)
        (layer,) = vgg.check_layers(params, image, [layer], head=False).values()
        stride, radius = vgg.receptive_field(vgg.network_name(params), layer)
        step = vgg.smallest_side(layer)
        return Geometry(stride, radius, (shape[0] // step, shape[1] // step), vgg.channels(layer))

    def prepare(
        self, params: vgg.Params, layers: Sequence[str], *, pack: bool = False
    ) -> vgg.Params:
        """Converts parameters to the form that is fastest for many steps on this backend.

        On a CPU in full float32 this is `nst_jax.vgg.prepare`. Otherwise `params` are returned,
        because an accelerator's library chooses an algorithm for each convolution by itself.

        Args:
          params: the parameters of the network.
          layers: the layers that the steps will need.
          pack: whether the steps call `in_strips` with `pack`: then this is
            `nst_jax.packed.prepare`.
        """
        if pack:
            names = [self.resolve(params, layer).removesuffix(vgg.PRE_RELU) for layer in layers]
            sizes = usual_sizes(vgg.network_name(params)) if self.normalize_features else None
            dtype, _ = vgg.resolved_precision(self.dtype, self.precision)
            return packed.prepare(params, names, sizes=sizes, dtype=vgg.DTYPES[dtype])
        full = vgg.suits_winograd(*vgg.resolved_precision(self.dtype, self.precision))
        if not full or jax.default_backend() != "cpu":
            return params
        return vgg.prepare(params, layers=layers)

    def in_strips(
        self,
        params: vgg.Params,
        x: Float[Array, "S h W 3"],
        layers: Sequence[str],
        *,
        height: int,
        pack: bool = False,
    ) -> dict[str, jax.Array]:
        """Computes the activations of a picture in horizontal strips.

        Args:
          params: the parameters of the network.
          x: `[S, h, W, 3]`, from `nst_jax.vgg.divide_rows`. `h` is a multiple of each layer's
            stride.
          layers: the layers to return.
          height: the height of the picture. Rows of the strips beyond it come back as zeros.
          pack: whether to evaluate them as a TPU likes it, by `nst_jax.packed`.

        Returns:
          `{layer: [S, h, w, C]}`. With `pack`, layers of block 1 have two columns side by side in
          the channels, see `nst_jax.packed.features`.
        """
        names = {name: self.resolve(params, name) for name in layers}
        before = [name for name, layer in names.items() if layer.endswith(vgg.PRE_RELU)]
        if pack and before:
            raise ValueError(
                f"layer {before[0]} has no form for the strips of a TPU, where ReLU comes after "
                "the pooling: evaluate it with remat"
            )
        if pack:
            return self._packed(params, x, names, height)
        found = self._activations(params, x, names, part=vgg.Strips(height))
        return self._scaled(params, {name: found[own] for name, own in names.items()})

    def _packed(
        self, params: vgg.Params, x: jax.Array, names: Mapping[str, str], height: int
    ) -> dict[str, jax.Array]:
        """The layers that `names` resolve to, by `nst_jax.packed`."""
        wanted = tuple(dict.fromkeys(names.values()))
        dtype, precision = vgg.resolved_precision(self.dtype, self.precision)
        found = packed.features(
            self.prepare(params, wanted, pack=True),
            x,
            wanted,
            height=height,
            **{**self._options(), "dtype": dtype, "precision": precision},
        )
        if self.normalize_features:
            # The activations are divided by the size of the convolution below each pooling.
            sizes = usual_sizes(vgg.network_name(params))
            for layer in wanted:
                below = vgg.convolutions(vgg.network_name(params), [layer])[-1]
                if layer != below:
                    found[layer] = found[layer] * (sizes[below] / sizes[layer])
        return {name: found[layer] for name, layer in names.items()}

    # The network cut at its poolings, for windows. A segment is the part between two cuts.

    def cuts(
        self, params: vgg.Params, layers: Sequence[str]
    ) -> list[tuple[str | None, tuple[str, ...]]]:
        """Returns the segments of the network, one for each block up to the deepest.

        Args:
          params: the parameters of the network.
          layers: the layers to compute.

        Returns:
          For each segment, the layer that it starts from and the `layers` in it. The first segment
          starts from None, the picture.
        """
        resolved = vgg.resolve_layers(vgg.network_name(params), layers)
        blocks = {name: vgg.block_of(layer) for name, layer in resolved.items()}
        return [
            (
                f"block{block - 1}_pool" if block > 1 else None,
                tuple(name for name, own in blocks.items() if own == block),
            )
            for block in range(1, 1 + max(blocks.values(), default=0))
        ]

    def halo(self, params: vgg.Params, below: str | None) -> int:
        """Returns how many columns beyond its own a window must see in a segment; even.

        Args:
          params: the parameters of the network.
          below: the layer that the segment starts from; None is the picture.
        """
        block = 1 if below is None else vgg.block_of(below) + 1
        depth = vgg.CONVOLUTIONS[vgg.network_name(params)][block - 1]
        return depth + depth % 2

    def scale(self, params: vgg.Params, layer: str) -> int:
        """Returns how many columns of its segment make one column of the layer."""
        return 2 if self.resolve(params, layer).endswith("_pool") else 1

    def resolve(self, params: vgg.Params, layer: str) -> str:
        """Returns the layer that a name stands for, see `nst_jax.vgg.resolve_layer`."""
        return vgg.resolve_layer(vgg.network_name(params), layer)

    def segment(
        self,
        params: vgg.Params,
        x: Float[Array, "h w C"],
        below: str | None,
        layers: Sequence[str],
        *,
        raw: Sequence[str] = (),
        columns: tuple[jax.Array, int] | None = None,
    ) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
        """Computes the activations of one segment.

        Args:
          params: the parameters of the network.
          x: the picture, or the activations of `below` without normalisation.
          below: the layer that the segment starts from; None is the picture.
          layers: the layers to return as `__call__` does.
          raw: the layers to return without normalisation, for the next segment.
          columns: where the window lies in the whole, see `nst_jax.vgg.Columns`. None is the whole.

        Returns:
          `{layer: [h, w, C]}` for `layers`, and the same for `raw`.
        """
        names = {name: self.resolve(params, name) for name in (*layers, *raw)}
        part = None if columns is None else vgg.Columns(*columns)
        found = self._activations(params, x, names, after=below, part=part)
        scaled = self._scaled(params, {name: found[names[name]] for name in layers})
        return scaled, {name: found[names[name]] for name in raw}


# The usual size of activations, as their root mean square. The Oxford networks take images of
# 0-255, and their activations are between 5 and 2000. Many published weights were tuned for
# networks whose activations are near one at every layer. The values were measured with the bundled
# weights and max pooling on six pictures of 256x256 pixels: Tuebingen's Neckarfront, The Starry
# Night, The Scream, and the three built-in ones. The built-in pictures alone give values that are a
# fifth larger, at every layer of both networks.
_USUAL: dict[vgg.Model, tuple[float, ...]] = {
    "vgg16": (
        *(64.2, 312.5, 367.3),
        *(433.4, 693.8, 965.0),
        *(866.1, 851.5, 770.6, 1094.4),
        *(553.3, 314.9, 116.0, 174.2),
        *(83.8, 37.8, 8.0, 11.4),
    ),
    "vgg19": (
        *(60.0, 265.7, 311.7),
        *(305.3, 414.6, 585.4),
        *(459.0, 478.8, 790.3, 1428.8, 1859.3),
        *(1391.9, 1065.7, 601.8, 239.7, 372.2),
        *(178.3, 80.7, 32.4, 7.3, 10.4),
    ),
}


def usual_sizes(model: vgg.Model) -> dict[str, float]:
    """Returns the usual root mean square of each layer's activations.

    Args:
      model: "vgg16" or "vgg19".
    """
    return dict(zip(vgg.layer_names(model), _USUAL[model], strict=True))


def normalized(
    params: vgg.Params, features: Mapping[str, Float[Array, "*N h w C"]]
) -> dict[str, Float[Array, "*N h w C"]]:
    """Divides activations by the usual sizes of their layers.

    Args:
      params: the parameters of the network.
      features: `{layer: [..., h, w, C]}`.
    """
    model = vgg.network_name(params)
    usual = usual_sizes(model)
    return {
        name: value / usual[vgg.resolve_layer(model, name).removesuffix(vgg.PRE_RELU)]
        for name, value in features.items()
    }
