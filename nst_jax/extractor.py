"""What a loss knows of a network: a frozen value that gives activations, with their geometry.

`VGGExtractor` is VGG16's and VGG19's. `Extractor` makes one of a function of one's own.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from nst_jax import vgg
from nst_jax.settings import option, settings

Tree = Mapping


class Geometry(NamedTuple):
    """Where a layer's positions lie.

    Attributes:
      stride, radius: position i sees the pixels from `stride * i - radius` to
        `stride * (i + 1) - 1 + radius`, along each side.
      shape: `(h, w)`, its positions in the picture.
      channels: how many.
    """

    stride: int
    radius: int
    shape: tuple[int, int]
    channels: int


class Network(Protocol):
    """What an extractor has.

    With `in_strips`, as of `VGGExtractor`, it runs on a picture in strips too. With `cuts`,
    `segment`, `halo` and `scale` it runs window by window between its poolings. With `prepare` it
    is asked for the form of its parameters that suits many steps.
    """

    def __call__(
        self, params: Tree, image: jax.Array, layers: Sequence[str]
    ) -> dict[str, jax.Array]:
        """`{layer: [h, w, C]}` of one picture `[H, W, 3]` in [0, 1]."""

    def geometry(self, params: Tree, layer: str, shape: tuple[int, int]) -> Geometry:
        """Of a layer in a picture of `shape` `(H, W)`.

        Raises:
          ValueError: no such layer, or a picture too small for it.
        """


@dataclasses.dataclass(frozen=True)
class Extractor:
    """A function as an extractor.

    Attributes:
      function: `function(params, image, layers) -> {layer: [h, w, C]}`, pure.
      layers: `{name: (stride, radius)}`, see `Geometry`.
    """

    function: Callable
    layers: Any

    def __post_init__(self):
        # As a value that can be hashed.
        layers = tuple((name, tuple(each)) for name, each in dict(self.layers).items())
        object.__setattr__(self, "layers", layers)

    def __call__(self, params, image, layers):
        return self.function(params, image, tuple(layers)) if layers else {}

    def geometry(self, params, layer, shape):
        known = dict(self.layers)
        if layer not in known:
            raise ValueError(f"unknown layer {layer!r}; the layers are {', '.join(known)}")
        image = jax.ShapeDtypeStruct((*shape, 3), jnp.float32)
        found = _shape(self, params, image, layer)
        if 0 in found:
            raise ValueError(f"layer {layer} has no position in a picture of {shape}")
        return Geometry(*known[layer], found[:2], found[2])


def _shape(extractor, params, image, layer):
    found = jax.eval_shape(lambda params, x: extractor(params, x, (layer,)), params, image)
    return found[layer].shape


@settings
class VGGExtractor:
    """VGG16 or VGG19, whichever the parameters are of.

    Attributes:
      pooling: "max", "average" or "l2".
      pooling_correction: scale average and l2 pooling to the magnitude of max pooling.
      padding: of the first convolution: "zeros" as trained, or "replicate", which lessens
        artefacts along the border.
      dtype: in which kernels and activations are kept. "bfloat16" rounds them to 8 bits and keeps
        their range; statistics, losses, picture and optimiser stay float32. It is for accelerators
        with units for it; on a CPU a step takes about twice as long. None is float32.
      precision: of products, by JAX's names. "highest" is all of float32, also on a TPU, which
        would else multiply in bfloat16. None is "highest" for float32, "default" for bfloat16.
      normalize_features: divide each layer's activations by their usual size, see
        `usual_sizes`.
    """

    pooling: str = option("max", choices=tuple(vgg.POOLINGS), help="pooling of the network")
    pooling_correction: bool = option(
        True, help="scale average and l2 pooling to the magnitude of max pooling"
    )
    padding: str = option("zeros", choices=vgg.PADDINGS, help="of the first convolution")
    dtype: str | None = option(
        None,
        choices=tuple(vgg.DTYPES),
        none=True,
        help="of kernels and activations; left out, float32",
    )
    precision: str | None = option(
        None,
        choices=vgg.PRECISIONS,
        none=True,
        help="of products; left out, highest for float32 and default for bfloat16",
    )
    normalize_features: bool = option(
        False, help="divide each layer's activations by their usual size in the network"
    )

    def resolved(self) -> "VGGExtractor":
        """The same, with what None stands for."""
        dtype, precision = vgg.resolved_precision(self.dtype, self.precision)
        return dataclasses.replace(self, dtype=dtype, precision=precision)

    def _options(self):
        return {
            "pooling": self.pooling,
            "pooling_correction": self.pooling_correction,
            "padding": self.padding,
            "dtype": self.dtype,
            "precision": self.precision,
        }

    def __call__(self, params, image, layers):
        if not layers:
            return {}
        return self._scaled(params, vgg.features(params, image, layers=layers, **self._options()))

    def _scaled(self, params, features):
        return normalized(params, features) if self.normalize_features else features

    def geometry(self, params, layer, shape):
        image = jax.ShapeDtypeStruct((*shape, 3), jnp.float32)
        (layer,) = vgg.check_layers(params, image, [layer], head=False).values()
        return Geometry(
            *vgg.receptive_field(vgg.network_name(params), layer),
            tuple(side // vgg.smallest_side(layer) for side in shape),
            vgg.channels(layer),
        )

    def prepare(self, params: Tree, layers: Sequence[str]) -> Tree:
        """`params` as suits many steps on this backend: in full float32 on a CPU those of
        `nst_jax.vgg.prepare`.

        Accelerators' own libraries choose an algorithm for each convolution.
        """
        full = vgg.suits_winograd(*vgg.resolved_precision(self.dtype, self.precision))
        if not full or jax.default_backend() != "cpu":
            return params
        return vgg.prepare(params, layers=layers)

    def in_strips(
        self, params: Tree, x: jax.Array, layers: Sequence[str], *, height: int
    ) -> dict[str, jax.Array]:
        """`{layer: [S, h, w, C]}` of a picture in strips.

        Args:
          x: `[S, h, W, 3]`, from `nst_jax.vgg.divide_rows`. `h` is a multiple of the stride of each
            layer.
          layers: to return.
          height: of the picture. Rows of the strips beyond it come back as zeros.
        """
        names = {name: self.resolve(params, name) for name in layers}
        found = vgg.network(params, **self._options()).apply(
            {"params": params},
            x,
            layers=tuple(dict.fromkeys(names.values())),
            part=vgg.Strips(height),
        )
        return self._scaled(params, {name: found[own] for name, own in names.items()})

    # The network cut at its poolings, for windows.

    def cuts(self, params: Tree, layers: Sequence[str]) -> list[tuple[str | None, tuple[str, ...]]]:
        """From the picture upwards, the layer that a segment starts from and the `layers` in it.

        None is the picture. There is a segment for each block up to the deepest.
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

    def halo(self, params: Tree, below: str | None) -> int:
        """Columns beyond its own that a segment of a window has to see; even."""
        block = 1 if below is None else vgg.block_of(below) + 1
        depth = vgg.CONVOLUTIONS[vgg.network_name(params)][block - 1]
        return depth + depth % 2

    def scale(self, params: Tree, layer: str) -> int:
        """How many of its segment's columns make one of the layer's."""
        return 2 if self.resolve(params, layer).endswith("_pool") else 1

    def resolve(self, params: Tree, layer: str) -> str:
        return vgg.resolve_layer(vgg.network_name(params), layer)

    def segment(
        self,
        params: Tree,
        x: jax.Array,
        below: str | None,
        layers: Sequence[str],
        *,
        raw: Sequence[str] = (),
        columns: tuple[jax.Array, int] | None = None,
    ) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
        """Activations in one segment, of `layers` and of `raw`.

        Args:
          x: the picture, or activations of `below` as the network has them.
          layers: to return as `__call__` does.
          raw: to return as the network has them, to go on from.
          columns: the window's place in the whole, `nst_jax.vgg.Columns`.
        """
        names = {name: self.resolve(params, name) for name in (*layers, *raw)}
        found = vgg.network(params, **self._options()).apply(
            {"params": params},
            x,
            layers=tuple(dict.fromkeys(names.values())),
            after=below,
            part=None if columns is None else vgg.Columns(*columns),
        )
        scaled = self._scaled(params, {name: found[names[name]] for name in layers})
        return scaled, {name: found[names[name]] for name in raw}


# How large activations usually are. Those of the Oxford networks, whose images are of 0-255, are
# from 5 to 2000, where those of the networks that many published weights were tuned for are near
# one at every layer. Root mean square of the activations, with the bundled weights and max
# pooling, over six pictures at 256x256: Tuebingen's Neckarfront, The Starry Night, The Scream, and
# the three built-in ones. It is a fifth larger for the built-in ones alone, at every layer of
# either network.
_USUAL = {
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


def usual_sizes(model: str) -> dict[str, float]:
    """The usual root mean square of each layer of `model` ("vgg16" or "vgg19")."""
    return dict(zip(vgg.layer_names(model), _USUAL[model], strict=True))


def normalized(params: Mapping, features: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """`features` `{layer: [..., h, w, C]}` of the network of `params`, divided by what is usual."""
    model = vgg.network_name(params)
    usual = usual_sizes(model)
    return {name: value / usual[vgg.resolve_layer(model, name)] for name, value in features.items()}
