"""The loss that a style transfer minimises, for one picture: a weighted sum of terms.

    total = sum over terms of weight * sum over parts of the term's loss

A part is usually a layer. With a content and a style term, the sum is equation 7 of Leon A. Gatys,
Alexander S. Ecker, Matthias Bethge: "Image Style Transfer Using Convolutional Neural Networks",
CVPR 2016.

This module works with any term and any network. `nst_jax.terms` defines the terms and
`nst_jax.extractor` the networks. `nst_jax.partition` evaluates a picture as a whole or in parts.

Images are float32 sRGB, RGB order, range [0, 1], `[H, W, 3]`.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from nst_jax import compiler, partition, sharding
from nst_jax import image as image_lib
from nst_jax.config import Config
from nst_jax.extractor import Network
from nst_jax.partition import Grid, Partition, Sums, Together, check_partition, is_packed
from nst_jax.settings import register_for_export
from nst_jax.terms import (
    IMAGE,
    KINDS,
    At,
    Field,
    Term,
    Tree,
    check_terms,
    fields_of,
    is_field,
    without_fields,
)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Combine:
    """How styles and contents make outputs. `Combine()` paints each content in each style.

    Attributes:
      mixing: `[rows, styles]`, the weights of blends. Each row is divided by its sum, and makes one
        output of each content. Its target is the sum of the styles' targets with these weights.
      masks: `[styles, H, W]` in [0, 1], over the content. They make one output, in which each style
        applies where its mask is 1. With `[rows, styles, H, W]` each row makes one output. A
        region's style loss counts by the region's share of the picture. After Gatys et al.:
        "Controlling Perceptual Factors in Neural Style Transfer", CVPR 2017,
        https://arxiv.org/abs/1611.07865, section 4.
      style_masks: for each style a mask `[h, w]` in [0, 1] of the part to learn from, or None for
        the whole style.
      paired: paint content n in style n only. It needs as many contents as styles.
    """

    mixing: ArrayLike | None = None
    masks: ArrayLike | None = None
    style_masks: Sequence[ArrayLike | None] | None = None
    paired: bool = False

    def replace(self, **changes: Any) -> "Combine":
        """A copy with `changes`."""
        return dataclasses.replace(self, **changes)


def checked_combination(
    combine: Combine,
    terms: Sequence[Term],
    styles: int,
    *,
    jitter: int,
    contents: int = 1,
) -> Combine:
    """Checks `combine` for these terms and numbers of pictures, and converts its arrays.

    Args:
      combine: what to check.
      terms: of the objective.
      styles, contents: how many pictures there are.
      jitter: of the objective, in pixels.

    Returns:
      `combine` with float32 NumPy arrays; its masks are `[outputs, styles, H, W]`.

    Raises:
      ValueError: as `nst_jax.compute_targets`. The sizes of masks are not checked here.
    """
    mixing, masks, style_masks = combine.mixing, combine.masks, combine.style_masks
    if not styles:
        raise ValueError("styles must hold at least one picture, got none")
    if combine.paired:
        if not (mixing is None and masks is None):
            raise ValueError("paired goes without mixing and masks")
        if contents != styles:
            raise ValueError(
                f"paired needs as many contents as styles, got {contents} and {styles}"
            )
    if style_masks is not None and len(style_masks) != styles:
        raise ValueError(
            f"style_masks must hold one mask for each of {styles} styles, got {len(style_masks)}"
        )
    style_terms = [term for term in terms if term.refers_to("style")]
    if masks is not None:
        if mixing is not None:
            raise ValueError("give masks or mixing, not both")
        if jitter:
            raise ValueError("masks and jitter exclude each other: jitter moves the picture")
        for term in style_terms:
            if not term.regions:
                raise ValueError(
                    f"masks must go with terms that have regions; {term.name!r} has none: "
                    f"{term.name}_weight=0 leaves it out"
                )
    if style_masks is not None:
        style_masks = [
            mask if mask is None else check_mask(f"style_masks[{index}]", mask)
            for index, mask in enumerate(style_masks)
        ]
        for term in style_terms:
            if not term.additive and any(mask is not None for mask in style_masks):
                raise ValueError(
                    f"style_masks must go with terms that add up; {term.name!r} does not"
                )
    if masks is not None:
        masks = check_masks(masks, styles)
    if mixing is not None:
        mixing = check_mixing(mixing, styles)
        for term in style_terms:
            term.check_mixing(mixing)
    return combine.replace(mixing=mixing, masks=masks, style_masks=style_masks)


def rows_of(combine: Combine, styles: int) -> int:
    """How many outputs each content has. `combine` is checked, for this number of styles."""
    if combine.masks is not None:
        return np.shape(combine.masks)[0]
    if combine.mixing is not None:
        return np.shape(combine.mixing)[0]
    return 1 if combine.paired else styles


def checked_pictures(
    objective: "Objective",
    content: Float[ArrayLike, "H W 3"],
    styles: Sequence[Float[ArrayLike, "_ _ 3"]],
    combine: Combine,
    inputs: Mapping[str, Tree] | None,
) -> tuple[Combine, dict[str, Tree]]:
    """Checks the pictures, the combination and the inputs of a run against each other.

    Returns:
      The combination from `checked_combination`, and the inputs as a dict.

    Raises:
      TypeError, ValueError: as `compute_targets`.
    """
    image_lib.check_image("content", content, single=True)
    combine = checked_combination(combine, objective.terms, len(styles), jitter=objective.jitter)
    for index, style in enumerate(styles):
        image_lib.check_image(f"styles[{index}]", style, single=True)
    size = np.shape(content)[:2]
    if combine.masks is not None and np.shape(combine.masks)[2:] != size:
        height, width = size
        raise ValueError(
            f"masks must be [{len(styles)} styles, {height}, {width}], the content's size, or have "
            f"a leading axis of outputs, got {np.shape(combine.masks)}"
        )
    for index, (mask, style) in enumerate(zip(combine.style_masks or (), styles, strict=False)):
        if mask is not None and np.shape(mask) != np.shape(style)[:2]:
            raise ValueError(
                f"style_masks[{index}] must have the size of its style, {np.shape(style)[:2]}, "
                f"got {np.shape(mask)}"
            )
    return combine, check_inputs(objective, inputs, np.shape(content))


def check_mixing(mixing: ArrayLike, styles: int) -> Float[np.ndarray, "outputs styles"]:
    """`mixing` as a float32 array whose rows sum to 1: each is divided by its sum.

    Raises:
      ValueError: it is not `[outputs, styles]`, or the sum of a row is not finite and above 0.
    """
    rows = np.asarray(mixing, np.float32)
    if rows.ndim != 2 or rows.shape[1] != styles or not rows.shape[0]:
        raise ValueError(f"mixing must be [outputs, {styles} styles], got {rows.shape}")
    sums = np.sum(rows, axis=1)
    if not (np.isfinite(sums) & (sums > 0)).all():
        raise ValueError(f"each row of mixing must have a sum above 0, got sums {sums.tolist()}")
    # Rows that sum to 1 up to rounding stay as they are.
    near = np.isclose(sums, 1.0, rtol=0.0, atol=1e-4)
    return rows / np.where(near, np.float32(1), sums)[:, None]


def check_mask(name: str, mask: ArrayLike) -> Float[np.ndarray, "..."]:
    """`mask` as a float32 array.

    Raises:
      ValueError: it holds no numbers, leaves [0, 1], or is 0 everywhere. The message calls it
        `name`.
    """
    try:
        values = np.asarray(mask, np.float32)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be an array of numbers, got {type(mask).__name__}") from None
    if not np.all((values >= 0) & (values <= 1)):  # also refuses NaN
        raise ValueError(
            f"{name} must be in [0, 1], got values from {np.min(values):g} to {np.max(values):g}"
        )
    if values.size and not values.any():
        raise ValueError(f"{name} must be above 0 somewhere, got 0 everywhere")
    return values


def check_masks(masks: Any, styles: int) -> Float[np.ndarray, "outputs styles H W"]:
    """`masks` as a float32 array with an axis of outputs.

    Args:
      masks: `[styles, H, W]` or `[outputs, styles, H, W]`, an array or a sequence of arrays.
      styles: how many there are.

    Raises:
      ValueError: another shape, or a mask that `check_mask` refuses.
    """
    # With one output, each style must apply somewhere. With several outputs, an output may leave
    # out styles, but some style must apply.
    each = [check_mask(f"masks[{index}]", mask) for index, mask in enumerate(masks)]
    shapes = {mask.shape for mask in each}
    if len(shapes) > 1:
        raise ValueError(f"masks must all have the same size, got {sorted(shapes)}")
    values = np.array(each)
    found = values.shape
    if values.ndim == 3:
        values = values[None]
    if values.ndim != 4 or not values.size or values.shape[1] != styles:
        raise ValueError(
            f"masks must be [{styles} styles, H, W], the content's size, or have a leading axis of "
            f"outputs, got {found}"
        )
    return values


class Made(NamedTuple):
    """What targets were made with. An objective with anything else refuses the targets.

    Attributes:
      network: the extractor.
      layers: `((term, its layers), ...)`, of the terms that have targets.
      size: `(H, W)` of the content.
      moves: whether a jitter moves the content.
    """

    network: Network
    layers: tuple[tuple[str, tuple[str, ...]], ...]
    size: tuple[int, int]
    moves: bool


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["terms", "masks", "rows", "picture", "output"],
    meta_fields=["made"],
)
@dataclasses.dataclass(frozen=True)
class Targets:
    """What pictures are compared with.

    `compute_targets` gives every leaf a leading axis of outputs. `objective_value` takes the
    targets of one output.

    Attributes:
      terms: `{term: {layer: tree}}`, the target of each term. A `Field` holds each array that has
        one value a position.
      masks: `{layer: Field [h, w, regions]}`, the share of each position that is in each region.
        None is one region, the whole picture.
      rows: `[styles]`, the weights of a blend, for terms that blend losses; or None.
      picture: the content picture if a jitter will move it, else None.
      output: the output's number in its call of `compute_targets`.
      made: what the targets were made with.
    """

    terms: dict[str, dict[str, Tree]]
    masks: dict[str, Field] | None
    rows: Float[Array, "*outputs styles"] | None
    picture: Field | None
    output: Int[Array, "*outputs"]
    made: Made


register_for_export(Targets)


@dataclasses.dataclass(frozen=True)
class Objective:
    """Terms on a network.

    Attributes:
      terms: each with a name of its own.
      extractor: the network.
      jitter: the most pixels by which the picture moves before the network sees it.
      partition: how a picture is divided, see `nst_jax.partition`.

    Raises:
      TypeError: a term or a partition of another type.
      ValueError: two terms with one name, a partition that needs the host, or one that the
        extractor does not support.
    """

    terms: tuple[Term, ...]
    extractor: Network
    jitter: int = 0
    partition: Partition = Together()

    def __post_init__(self):
        check_terms(self.terms)
        check_partition(self.partition, self.extractor)

    @classmethod
    def of(cls, config: Config, *, partition: Partition = Together()) -> "Objective":
        """The objective that `config` describes."""
        return cls(config.terms, config.network, config.jitter, partition)

    def layers(self, refers_to: Literal["style", "content"] | None = None) -> tuple[str, ...]:
        """The network's layers that terms look at, each once.

        Args:
          refers_to: take only the terms that refer to it, see `Term.refers`; None takes all terms.
        """
        terms = [term for term in self.terms if not refers_to or term.refers_to(refers_to)]
        return partition.network_layers(terms)

    def made(self, size: Sequence[int]) -> Made:
        """`Targets.made` for a content of `size` `(H, W, ...)`."""
        layers = tuple(
            (term.name, tuple(term.layers)) for term in self.terms if term.refers is not None
        )
        height, width = size[:2]
        return Made(self.extractor, layers, (height, width), self.jitter > 0)

    def at(self, params: Tree, shape: Sequence[int], key: jax.Array | None = None) -> At:
        """The `At` of a whole picture of `shape` `(H, W, ...)`. `key` is of the run and step."""
        if not all(term.fixed for term in self.terms):
            key = jax.random.key(0) if key is None else jax.random.fold_in(key, 1)
        return partition.make_at(self.extractor, params, self.terms, shape, key=key)

    def grid(self, params: Tree, shape: Sequence[int], tile: int) -> Grid:
        """The windows of at most `tile` pixels a side, see `partition.grid`.

        Raises:
          ValueError: as `partition.grid`, or a term that doesn't add up over parts.
        """
        for term in self.terms:
            if not term.additive:
                raise ValueError(
                    f"the term {term.name!r} doesn't add up over parts: leave out tile"
                )
        return partition.grid(shape, tile, self.terms, self.extractor, params)

    def of_terms(self, keep: Callable[[Term], bool]) -> "Objective":
        """The objective with only the terms for which `keep(term)` is true."""
        return dataclasses.replace(self, terms=tuple(filter(keep, self.terms)))

    # Targets.

    def style_targets(
        self,
        params: Tree,
        style: Float[ArrayLike, "h w 3"],
        *,
        mask: Float[ArrayLike, "h w"] | None = None,
    ) -> dict[str, dict[str, Tree]]:
        """The style terms' targets of one style, `{term: {layer: tree}}`, at the style's own size.

        Args:
          params: of the network.
          style: the picture, in [0, 1].
          mask: the part to learn from, in [0, 1]; None is all.
        """
        own = self.of_terms(lambda term: term.refers_to("style"))
        own = dataclasses.replace(own, extractor=getattr(own.extractor, "of_styles", own.extractor))
        at = own.at(params, np.shape(style))
        weights = None if mask is None else own.masks(params, mask, np.shape(style))
        return own.style_targets_of(own.measure(params, style, {}, at, own=weights), at)

    def style_targets_of(self, sums: Sums, at: At) -> dict[str, dict[str, Tree]]:
        """The style terms' targets, from a style's sums.

        Terms that refer to both have `{"style": target, "content": None}`, see `with_contents`.
        """

        def of(term: Term, layer: str, measured: partition.Measured) -> Tree:
            target = term.target(layer, measured.sums, at)
            return {"style": target, "content": None} if term.refers == "both" else target

        return {
            term.name: {
                layer: of(term, layer, measured) for layer, measured in sums[term.name].items()
            }
            for term in self.terms
            if term.refers_to("style")
        }

    def content_targets(
        self, params: Tree, content: Float[ArrayLike, "h w 3"], at: At | None = None
    ) -> dict[str, dict[str, Tree]]:
        """The content terms' targets of one content, `{term: {layer: tree}}`.

        Args:
          params: of the network.
          content: the picture, in [0, 1], or a window of it.
          at: of the whole picture; None if `content` is the whole picture.
        """
        content = jnp.asarray(content)
        own = self.of_terms(lambda term: term.refers_to("content"))
        at = own.at(params, content.shape) if at is None else at
        layers = own.layers()
        features = partition.activations(
            own.extractor, params, content, layers, partition=own.partition
        )
        features = {**features, IMAGE: content}
        return {
            term.name: {
                layer: term.target(layer, Field(features[layer], layer), at)
                for layer in term.layers
            }
            for term in own.terms
        }

    def moved_fields(
        self,
        params: Tree,
        fields: Mapping[str, Mapping[str, Tree]],
        content: Float[ArrayLike, "h w 3"],
        at: At,
    ) -> dict[str, dict[str, Tree]]:
        """The targets for sums, with those of a moved content in place of the content's.

        The targets at the layer `IMAGE` stay: a jitter moves only what the network sees.

        Args:
          params: of the network.
          fields: as from `targets_for_sums`.
          content: the content as a jitter has moved it, or a window of it.
          at: of the whole picture.
        """
        found = self.content_targets(params, content, at)
        seen = {
            name: {layer: tree for layer, tree in layers.items() if layer != IMAGE}
            for name, layers in found.items()
        }
        return with_contents(self.terms, fields, seen)

    def masks(
        self, params: Tree, mask: Float[ArrayLike, "*N H W"], shape: Sequence[int]
    ) -> dict[str, Float[Array, "*N _ _"]]:
        """Shrinks a mask to each layer that terms look at, `{layer: [..., h, w]}`.

        Args:
          params: of the network.
          mask: over the whole picture, in [0, 1].
          shape: `(H, W, ...)` of the picture.
        """
        strides = partition.strides_of(self.terms, self.extractor, params, shape)
        looked_at = {layer for term in self.terms for layer in term.layers}
        return {layer: shrink(mask, strides[layer]) for layer in strides if layer in looked_at}

    # The loss.

    def targets_for_sums(self, targets: Targets) -> dict[str, dict[str, Tree]]:
        """The part of a whole picture's targets that `Term.sums` takes."""
        style_terms = {term.name for term in self.terms if term.refers_to("style")}
        return {
            name: fields_of(tree) if name in style_terms else tree
            for name, tree in targets.terms.items()
        }

    def measure(
        self,
        params: Tree,
        image: Float[ArrayLike, "h w 3"],
        fields: Mapping[str, Mapping[str, Tree]],
        at: At,
        *,
        masks: Mapping[str, Field] | None = None,
        own: Mapping[str, jax.Array] | None = None,
        moved: Float[Array, "h w 3"] | None = None,
        layers: Sequence[str] | None = None,
    ) -> Sums:
        """The terms' sums over a picture, or over a window of it, see `partition.measure`."""
        return partition.measure(
            *(self.terms, self.extractor, params, image, fields, at),
            masks=masks,
            own=own,
            moved=moved,
            layers=layers,
            partition=self.partition,
        )

    def parts(
        self, sums: Sums, targets: Targets, at: At
    ) -> dict[str, Mapping[str, Float[Array, ""]]]:
        """The loss of each term by part, `{term: {part: scalar}}`, from a picture's sums.

        With regions, each region's loss counts by the region's share of the picture.
        """
        return {term.name: self._parts_of(term, sums, targets, at) for term in self.terms}

    def _parts_of(
        self, term: Term, sums: Sums, targets: Targets, at: At
    ) -> Mapping[str, Float[Array, ""]]:
        found = sums[term.name]
        target = without_fields(targets.terms.get(term.name, {}))

        def loss(own: Mapping[str, Tree], target: Mapping[str, Tree]) -> Mapping[str, jax.Array]:
            if term.refers_to("style") and term.mix == "losses" and targets.rows is not None:
                each = jax.vmap(lambda target: term.loss(own, target, at))(target)
                return {part: jnp.vdot(targets.rows, values) for part, values in each.items()}
            return _checked_parts(term, term.loss(own, target, at))

        own = {layer: found[layer].sums for layer in term.layers}  # in the term's own order
        shares = {layer: measured.share for layer, measured in found.items()}
        if all(share is None for share in shares.values()):
            return loss(own, target)
        # A style term has a target for each region. Other terms have one target for all regions.
        by_region = jax.vmap(loss, in_axes=(0, 0 if term.refers_to("style") else None))(own, target)
        return {
            part: jnp.sum(_share_of(part, shares) / at.positions[part] * values)
            for part, values in by_region.items()
        }

    def total(
        self, parts: Mapping[str, Mapping[str, Float[Array, ""]]]
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """The loss, and `{"total": loss, term: weighted loss, ...}`, from what `parts` returns."""
        terms = {
            term.name: term.weight * sum(parts[term.name].values(), jnp.zeros(()))
            for term in self.terms
        }
        total = sum(terms.values(), jnp.zeros(()))
        return total, {"total": total, **terms}

    def weighted(
        self, parts: Mapping[str, Mapping[str, Float[Array, ""]]]
    ) -> dict[str, dict[str, Float[Array, ""]]]:
        """What each part adds to the loss, `{term: {part: scalar}}`."""
        return {
            term.name: {part: term.weight * value for part, value in parts[term.name].items()}
            for term in self.terms
        }

    def shift(self, key: jax.Array | None) -> Int[Array, "2"] | None:
        """The rows and columns by which the jitter moves the picture, or None.

        None stands for no key or no jitter.
        """
        if key is None or not self.jitter:
            return None
        return jax.random.randint(key, (2,), -self.jitter, self.jitter + 1)


def _checked_parts(term: Term, parts: Any) -> Mapping[str, jax.Array]:
    if not isinstance(parts, Mapping) or any(np.shape(value) for value in parts.values()):
        raise TypeError(
            f"the loss of the term {term.name!r} must be {{part: scalar}}, got {parts!r}"
        )
    return parts


def _share_of(part: str, shares: Mapping[str, Any]) -> jax.Array:
    if part not in shares:
        raise ValueError(f"a loss under masks must have layers as its parts, got the part {part!r}")
    return shares[part]


def shrink(mask: Float[ArrayLike, "*N H W"], stride: int) -> Float[Array, "*N h w"]:
    """Shrinks a picture's mask to a layer of this stride, as pooling shrinks features.

    Raises:
      ValueError: a stride that is not a power of 2.
    """
    if stride & (stride - 1):
        raise ValueError(f"masks need layers with a stride that is a power of 2, got {stride}")
    return image_lib.shrink_mask(mask, times=stride.bit_length() - 1)


@sharding.undisturbed()
def prepare(
    params: Mapping,
    config: Config | None = None,
    *,
    partition: Partition = Together(),
    mesh: jax.sharding.Mesh | None = None,
) -> Mapping:
    """The parameters in the form in which many steps are fastest on this backend.

    `stylize` does it by itself. A loop of your own should do it once, before the first step. On a
    CPU, a step then takes about half the time. A network without a method `prepare` gets `params`
    as they are, and prepared parameters stay as they are.

    Prepared kernels are constants. A gradient by them is refused with a TypeError.

    Args:
      params: of `config.network`.
      config: its terms and its network. The layers of the terms decide what is prepared. None is
        the preset `default`.
      partition: how pictures will be divided.
      mesh: devices among which the work will be divided.
    """
    config = Config() if config is None else config
    network: Any = config.network
    if not hasattr(network, "prepare"):
        return params
    layers = Objective.of(config).layers()
    if is_packed(partition):
        return network.prepare(params, layers, pack=True)
    # Not on a mesh: Winograd's tiles do not divide evenly where the picture's height does.
    return network.prepare(params, layers) if mesh is None else params


# These compile once for each shape of picture. Another number in the config compiles nothing.
@functools.partial(jax.jit, static_argnames="partition")
def content_targets(
    params: Mapping,
    content: Float[ArrayLike, "H W 3"],
    config: Config,
    *,
    partition: Partition = Together(),
) -> dict[str, dict[str, Tree]]:
    """The content terms' targets of one content, `{term: {layer: tree}}`."""
    return Objective.of(config, partition=partition).content_targets(params, content)


@functools.partial(jax.jit, static_argnames="partition")
def style_targets(
    params: Mapping,
    style: Float[ArrayLike, "h w 3"],
    config: Config,
    *,
    mask: Float[ArrayLike, "h w"] | None = None,
    partition: Partition = Together(),
) -> dict[str, dict[str, Tree]]:
    """The style terms' targets of one style, `{term: {layer: tree}}`, at the style's own size.

    They are taken from the part of the style that `mask` covers; None is all of it.
    """
    return Objective.of(config, partition=partition).style_targets(params, style, mask=mask)


def targets_program(function: Callable) -> Callable:
    """`content_targets` or `style_targets`, as a program that compiles fast where it can."""
    return compiler.run_once(function, static_argnames="partition")


@sharding.undisturbed()
def compute_targets(
    params: Mapping,
    content: Float[ArrayLike, "*M H W 3"] | Sequence[Float[ArrayLike, "H W 3"]],
    styles: Sequence[Float[ArrayLike, "_ _ 3"]],
    config: Config,
    *,
    combine: Combine = Combine(),
    inputs: Mapping[str, Tree] | None = None,
    partition: Partition = Together(),
) -> Targets:
    """The targets of every output, from contents and styles.

    Args:
      params: of `config.network`; for VGG16 and VGG19 the tree of `load_params`.
      content: `[H, W, 3]` in [0, 1], or several of one shape, as a sequence or `[M, H, W, 3]`. The
        outputs are then those of the first content, of the second, and so on, as in `stylize`.
      styles: pictures `[h, w, 3]` in [0, 1], each of its own size.
      config: terms and network.
      combine: how the styles are combined. The default makes one output for each style.
      inputs: data of the run, `{term: tree}`, for each term that refers to it, with a single
        content. A `Field` holds each array with one value a position; it has the content's size. If
        such an array has a leading axis of outputs, set `Field.per_output`.
      partition: how each picture is divided, as in `objective_value`. It changes the targets by
        rounding only.

    Returns:
      `Targets` with a leading axis of outputs on every leaf, ready for `jax.vmap`.

    Raises:
      TypeError: a picture that is not a floating-point array.
      ValueError: pictures: a wrong shape, no style, or a picture too small for the deepest layer.
        Layers: a layer that the network doesn't have, or that has no positions.
        Combinations: rows of `mixing` without a sum above 0; a mask of another size than its
        picture, outside [0, 1] or 0 everywhere; masks together with mixing or jitter.
        Inputs: inputs for other terms, of another size, or with several contents.
    """
    objective = Objective.of(config, partition=partition)
    pictures: Any = content
    if isinstance(content, list | tuple) or np.ndim(pictures) == 4:
        contents = list(pictures)
        if inputs:
            raise ValueError(f"inputs must go with one content, got {len(contents)}")
        combine = checked_combination(
            combine,
            objective.terms,
            len(styles),
            jitter=objective.jitter,
            contents=len(contents),
        )
        if not contents:
            raise ValueError("content must hold at least one picture, got none")
        jobs = []
        for number, one in enumerate(contents):
            here = slice(number, number + 1) if combine.paired else slice(None)
            masks = combine.style_masks and list(combine.style_masks)[here]
            own = combine.replace(paired=False, style_masks=masks)
            own, nothing = checked_pictures(objective, one, list(styles)[here], own, None)
            jobs.append((here, one, {"combine": own, "inputs": nothing}))
        # The same for all contents.
        each = all_style_targets(params, contents[0], styles, config, combine, partition)
        parts = [
            find_targets(
                *(params, one, list(styles)[here], config),
                **options,
                partition=partition,
                each=each[here],
            )
            for here, one, options in jobs
        ]
        return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)
    combine, inputs = checked_pictures(objective, pictures, styles, combine, inputs)
    return find_targets(
        *(params, pictures, styles, config), combine=combine, inputs=inputs, partition=partition
    )


def find_targets(
    params: Mapping,
    content: Float[ArrayLike, "H W 3"],
    styles: Sequence[Float[ArrayLike, "_ _ 3"]],
    config: Config,
    *,
    combine: Combine,
    inputs: Mapping[str, Tree],
    partition: Partition = Together(),
    each: Sequence[dict[str, dict[str, Tree]]] | None = None,
) -> Targets:
    """`compute_targets` for arguments that have been checked.

    `each` is what `all_style_targets` returns, if it is known.
    """
    if each is None:
        each = all_style_targets(params, content, styles, config, combine, partition)
    return assembled(
        params,
        content,
        config,
        combine=combine,
        inputs=inputs,
        each=each,
        of_content=lambda content: targets_program(content_targets)(
            params, content, config, partition=partition
        ),
    )


def all_style_targets(
    params: Mapping,
    content: Float[ArrayLike, "H W 3"],
    styles: Sequence[Float[ArrayLike, "_ _ 3"]],
    config: Config,
    combine: Combine,
    partition: Partition,
) -> list[dict[str, dict[str, Tree]]]:
    """`style_targets` of each style with its mask.

    Args:
      content: refused if it is too small for a layer; else only its shape matters.
      params, styles, config, combine, partition: as in `compute_targets`, checked.
    """
    Objective.of(config).at(params, np.shape(content))  # refuses unknown layers and small pictures
    masks = combine.style_masks or [None] * len(styles)
    return [
        targets_program(style_targets)(
            params, jnp.asarray(style), config, mask=mask, partition=partition
        )
        for style, mask in zip(styles, masks, strict=True)
    ]


def assembled(
    params: Mapping,
    content: Float[ArrayLike, "H W 3"],
    config: Config,
    *,
    combine: Combine,
    inputs: Mapping[str, Tree],
    each: Sequence[dict[str, dict[str, Tree]]],
    of_content: Callable[[jax.Array], dict[str, dict[str, Tree]]],
) -> Targets:
    """Assembles the targets of every output from each style's and the content's.

    Args:
      params, content, config, combine, inputs: as in `compute_targets`, checked.
      each: `{term: {layer: tree}}` of each style.
      of_content: gives `{term: {layer: tree}}` of a content.
    """
    content = jnp.asarray(content)
    return compiler.run_once(_each_output, static_argnames="shape")(
        params,
        each,
        of_content(content),
        Field(content, IMAGE, "picture") if config.jitter else None,
        combine.mixing,
        combine.masks,
        inputs,
        config,
        shape=content.shape[:2],
    )


def check_inputs(
    objective: Objective, inputs: Mapping[str, Tree] | None, shape: Sequence[int]
) -> dict[str, Tree]:
    """Checks the data of a run for a picture of `shape` `(H, W, ...)`.

    Returns:
      `inputs` as a dict; None is an empty one.

    Raises:
      ValueError: a term without its data, data for another term, no arrays, a `Field` of an unknown
        kind or with a shape or values that its kind doesn't have, or one of another size.
    """
    inputs = dict(inputs or {})
    wanted = [term.name for term in objective.terms if term.refers == "run"]
    if sorted(inputs) != sorted(wanted):
        raise ValueError(
            f"inputs must be of the terms {', '.join(wanted) or 'none'}, got "
            f"{', '.join(inputs) or 'none'}"
        )
    for name, tree in inputs.items():
        if not jax.tree.leaves(tree):
            raise ValueError(f"inputs[{name!r}] must hold arrays, got none")
        for field in filter(is_field, jax.tree.leaves(tree, is_leaf=is_field)):
            whole = np.shape(field.values)
            found, wanted = whole[field.per_output :][:2], tuple(shape[:2])
            if field.kind not in KINDS:
                raise ValueError(
                    f"inputs[{name!r}] must be of a kind of {', '.join(KINDS)}, got {field.kind!r}"
                )
            if field.kind == "picture" and (len(whole) < 3 + field.per_output or whole[-1] != 3):
                raise ValueError(f"inputs[{name!r}] must be a picture [H, W, ..., 3], got {whole}")
            if field.kind != "features" and not isinstance(field.values, Tracer):
                values = np.asarray(field.values)
                if not np.all((values >= 0) & (values <= 1)):  # also refuses NaN
                    raise ValueError(
                        f"inputs[{name!r}] must be in [0, 1], got values from {np.min(values):g} "
                        f"to {np.max(values):g}"
                    )
            if field.layer == IMAGE and found != wanted:
                raise ValueError(
                    f"inputs[{name!r}] must be of the content's size {wanted}, got {found}"
                )
    return inputs


# Jitted, because each of its many small operations would otherwise be compiled alone.
@functools.partial(jax.jit, static_argnames="shape")
def _each_output(
    params: Mapping,
    styles: Sequence[dict[str, dict[str, Tree]]],
    contents: dict[str, dict[str, Tree]],
    picture: Field | None,
    mixing: jax.Array | None,
    masks: jax.Array | None,
    inputs: Mapping[str, Tree],
    config: Config,
    *,
    shape: tuple[int, int],
) -> Targets:
    """Makes the targets of every output; each leaf gets a leading axis of outputs.

    Args:
      params: of the network.
      styles: `{term: {layer: tree}}` of each style.
      contents: `{term: {layer: tree}}` of the content.
      picture: the content, if a jitter will move it.
      mixing, masks: of the checked `Combine`.
      inputs: data of the run.
      config: terms and network.
      shape: `(H, W)` of the content.
    """
    objective = Objective.of(config)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *styles)
    outputs, regions, rows = len(styles), None, None
    if masks is not None:
        outputs = len(masks)
        regional = objective.of_terms(lambda term: term.regions)
        regions = {
            layer: Field(jnp.moveaxis(values, 1, -1), layer, "mask")
            for layer, values in regional.masks(params, masks, shape).items()
        }
        stacked = _repeated(stacked, outputs)
    elif mixing is not None:
        outputs = len(mixing)
        by_losses = {t.name for t in objective.terms if t.refers_to("style") and t.mix == "losses"}
        rows = mixing if by_losses else None

        def mixed(leaf: jax.Array) -> jax.Array:
            return jnp.tensordot(mixing, leaf, axes=1, precision="highest")

        stacked = {
            name: _repeated(tree, outputs) if name in by_losses else jax.tree.map(mixed, tree)
            for name, tree in stacked.items()
        }
    return Targets(
        terms=with_contents(objective.terms, stacked, _repeated(contents, outputs))
        | _run_targets(objective, params, inputs, outputs, shape),
        masks=regions,
        rows=rows,
        picture=_repeated(picture, outputs),
        output=jnp.arange(outputs),
        made=objective.made(shape),
    )


def with_contents(
    terms: Sequence[Term],
    targets: Mapping[str, Mapping[str, Tree]],
    contents: Mapping[str, Mapping[str, Tree]],
) -> dict[str, dict[str, Tree]]:
    """Targets `{term: {layer: tree}}`, with `contents` in place of what they keep of the content.

    Args:
      terms: of the loss.
      targets: those to change.
      contents: as from `Objective.content_targets`; layers that it lacks stay as they are.
    """
    found = {name: dict(layers) for name, layers in targets.items()}
    for term in terms:
        own = found.get(term.name, {})
        for layer, tree in contents.get(term.name, {}).items():
            own[layer] = {**own[layer], "content": tree} if term.refers == "both" else tree
            found[term.name] = own
    return found


def _run_targets(
    objective: Objective,
    params: Mapping,
    inputs: Mapping[str, Tree],
    outputs: int,
    shape: tuple[int, int],
) -> dict[str, dict[str, Tree]]:
    """The targets of terms that refer to data of the run, with a leading axis of outputs."""
    at = objective.at(params, shape)

    def per_output(leaf: Any) -> Any:
        if not is_field(leaf):
            return _repeated(leaf, outputs)
        values = leaf.values if leaf.per_output else _repeated(leaf.values, outputs)
        return dataclasses.replace(leaf, values=values, per_output=False)

    found = {}
    for term in objective.terms:
        if term.refers == "run":
            own = jax.tree.map(per_output, inputs[term.name], is_leaf=is_field)
            found[term.name] = {
                layer: jax.vmap(lambda data, term=term, layer=layer: term.target(layer, data, at))(
                    own
                )
                for layer in term.layers
            }
    return found


def _repeated(tree: Tree, outputs: int) -> Tree:
    """The tree with each leaf repeated along a new leading axis of outputs."""
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (outputs, *leaf.shape)), tree)


def objective_value(
    image: Float[ArrayLike, "H W 3"],
    params: Mapping,
    targets: Targets,
    config: Config,
    *,
    key: jax.Array | None = None,
    partition: Partition = Together(),
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """The loss of one picture. It is pure: use it with `jax.grad`, `jax.jit` and `jax.vmap`.

    For a batch, use `jax.vmap(objective_value, in_axes=(0, None, 0, None))`.

    `config` is a pytree whose leaves are its numbers. A jitted call compiles again only when the
    structure of the config changes. To map over numbers of the config, pass a tree of axes to
    `jax.vmap`, made by `jax.tree.map(axis_of, config)`.

    Args:
      image: `[H, W, 3]` in [0, 1], of the content's shape.
      params: of `config.network`; for VGG16 and VGG19 the tree of `load_params`.
      targets: one output's, from `compute_targets`. A leading axis of length 1 is accepted.
      config: terms and network; the same as the targets were made with.
      key: random key of the run and step. With `config.jitter`, it decides how image and content
        move before the network sees them; None moves nothing. Terms that draw use key 0 for None.
      partition: how the picture is divided, `partition.Together` or `partition.Windows` with
        `loop="scan"`. It is static under `jax.jit`. It changes results by rounding only, and takes
        targets that were made with any partition.

    Returns:
      The loss, and `{"total": loss, term: weighted loss, ...}`. All are scalars. The terms'
      weighted losses sum to the loss.

    Raises:
      ValueError: an image that is not `[H, W, 3]`; targets of several outputs, of another size, of
        another network, or without a layer of the config; a partition that only the host can run,
        or that the network does not support.
    """
    objective = Objective.of(config, partition=partition)
    return objective.total(_parts(objective, image, params, targets, key))


@functools.cache
def value_by(partition: Partition) -> Callable:
    """`objective_value` with this partition.

    Each call with an equal partition returns the same function, so that JAX finds the program that
    it has compiled.
    """
    if partition == Together():
        return objective_value
    return functools.partial(objective_value, partition=partition)


def layer_losses(
    image: Float[ArrayLike, "H W 3"],
    params: Mapping,
    targets: Targets,
    config: Config,
    *,
    partition: Partition = Together(),
) -> dict[str, dict[str, Float[Array, ""]]]:
    """What each part of each term adds to the loss of one picture.

    Args:
      image, params, targets, config, partition: as in `objective_value`.

    Returns:
      `{term: {part: scalar}}`, weighted; a part is usually a layer. The parts of a term sum to the
      term's value from `objective_value`.

    Raises:
      ValueError: as `objective_value`.
    """
    objective = Objective.of(config, partition=partition)
    return objective.weighted(_parts(objective, image, params, targets, None))


def _parts(
    objective: Objective,
    image: ArrayLike,
    params: Mapping,
    targets: Targets,
    key: jax.Array | None,
) -> dict[str, Mapping[str, jax.Array]]:
    """The unweighted loss of each term by part, `{term: {part: scalar}}`."""
    image = jnp.asarray(image)
    if image.ndim != 3:
        raise ValueError(
            f"image must be one picture [H, W, 3], got {image.shape}; for several use "
            "jax.vmap(objective_value, in_axes=(0, None, 0, None))"
        )
    targets = one_output(targets)
    moves = key is not None and objective.jitter > 0
    check_made(targets, objective, image.shape, finds_content=moves)
    at = objective.at(params, image.shape, key)
    shift, moved, fields = objective.shift(key), None, objective.targets_for_sums(targets)
    if shift is not None:
        assert targets.picture is not None  # `check_made` refuses targets without jitter
        moved = jnp.roll(image, shift, axis=(0, 1))
        content = jnp.roll(targets.picture.values, shift, axis=(0, 1))
        fields = objective.moved_fields(params, fields, jax.lax.stop_gradient(content), at)
    sums = objective.measure(params, image, fields, at, masks=targets.masks, moved=moved)
    return objective.parts(sums, targets, at)


def check_made(
    targets: Targets, objective: Objective, shape: Sequence[int], *, finds_content: bool
) -> None:
    """Checks that the targets were made for this objective and have all its layers.

    Args:
      targets: one output's.
      objective: the one to evaluate.
      shape: `(H, W, ...)` of the picture.
      finds_content: whether the caller finds the content's layers again, from `targets.picture`;
        targets may then leave out these layers.

    Raises:
      ValueError: another size, network, term or layer, or no jitter where the objective has one.
    """
    # A program from `jax.export` returns a plain tuple here.
    made, wanted = Made(*targets.made), objective.made(shape)
    if made.size != wanted.size:
        raise ValueError(
            f"image and content must be of one size, got {wanted.size} against {made.size}"
        )
    if made.network != wanted.network:
        raise ValueError(
            f"targets must be made with the config's network {wanted.network}, got {made.network}"
        )
    if made.moves < wanted.moves:
        raise ValueError(
            "targets must be made with a jitter, because the config has "
            f"jitter={objective.jitter}, got targets without jitter"
        )
    layers, made_layers = dict(wanted.layers), dict(made.layers)
    for name in made_layers:
        if name not in layers:
            raise ValueError(
                f"targets must have no term {name!r}, as the config has none, got one with the "
                f"layers {_listed(made_layers[name])}"
            )
    for term in objective.terms:
        if term.name in layers:
            _check_layers(term.name, layers[term.name], made_layers.get(term.name, ()))
            found = targets.terms.get(term.name, {})
            given = tuple(
                layer
                for layer in layers[term.name]
                if layer in found
                or (finds_content and term.refers_to("content") and layer != IMAGE)
            )
            _check_layers(term.name, layers[term.name], given)
    if made.layers != wanted.layers:
        raise ValueError(
            f"targets must have the terms {_listed(layers)} in this order, got "
            f"{_listed(made_layers)}"
        )


def _check_layers(term: str, wanted: tuple[str, ...], got: tuple[str, ...]) -> None:
    if got != wanted:
        raise ValueError(
            f"targets of the term {term!r} must have the layers {_listed(wanted)}, got "
            f"{_listed(got)}"
        )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"


def target_shapes(
    params: Mapping,
    shape: Sequence[int],
    config: Config,
    *,
    regions: int = 0,
    inputs: Mapping[str, Tree] | None = None,
) -> Targets:
    """The shapes of one output's targets, without computing the targets.

    Args:
      params: of the network, arrays or `jax.ShapeDtypeStruct`s.
      shape: `(H, W)` of the picture.
      config: terms and network.
      regions: how many regions the masks have; 0 is no masks.
      inputs: data of the run, of this size, arrays or `jax.ShapeDtypeStruct`s.

    Returns:
      `Targets` with `jax.ShapeDtypeStruct`s as leaves.
    """

    def targets(params: Mapping, content: jax.Array, inputs: Mapping[str, Tree]) -> Targets:
        style = Objective.of(config).style_targets(params, content)
        contents = Objective.of(config).content_targets(params, content)
        masks = jnp.zeros((1, regions, *shape)) if regions else None
        picture = Field(content, IMAGE, "picture") if config.jitter else None
        styles = [style] * max(regions, 1)
        found = _each_output(
            params, styles, contents, picture, None, masks, inputs, config, shape=shape
        )
        return jax.tree.map(lambda leaf: leaf[0], found)

    image = jax.ShapeDtypeStruct((*shape, 3), jnp.float32)
    return jax.eval_shape(targets, params, image, dict(inputs or {}))


def one_output(targets: Targets) -> Targets:
    """Drops the leading axis of `compute_targets` if its length is 1.

    Raises:
      ValueError: targets of several outputs.
    """
    if not targets.output.shape:
        return targets
    if targets.output.shape == (1,):
        return jax.tree.map(lambda leaf: leaf[0], targets)
    raise ValueError(
        f"targets must be of one output, got {targets.output.shape[0]}; use "
        "jax.vmap(objective_value, in_axes=(0, None, 0, None)) for several"
    )
